/**
 * Updates over whole sets of parameters at once. Parameters lie in one flat array, each padded with zeros to whole blocks of
 * 64; `segments` names the parameter of each block, small tables say what holds for each parameter.
 */
import { part, spread, type Capabilities, type Dispatch, type Region } from '../program.ts';
import { elementWidth, kernel, reduction, type Operand } from './kernel.ts';

/** Elements of a block; a power of two whose bytes are a multiple of what bound offsets must be. */
export const blockSize = 64;

const element = `  let i = group * ${elementWidth}u + lane;
  if (i >= u.count) { return; }
  let segment = segments[i / ${blockSize}u];`;

function workgroups(caps: Capabilities, count: number): [number, number, number] {
  return spread(Math.ceil(count / elementWidth), caps);
}

/** Blocks of a workgroup: 16 lanes of four elements each. */
const blocksEach = 16;

const squaresText = kernel({
  name: 'squares',
  reads: ['g'],
  writes: ['squares'],
  uniforms: { blocks: 'u32' },
  width: 256,
  outside: 'var<workgroup> sums: array<f32, 256>;',
  body: `  let block = group * ${blocksEach}u + lane / 16u;
  var sum = 0.0;
  if (block < u.blocks) {
    for (var e = lane % 16u; e < ${blockSize}u; e += 16u) { let v = g_at(block * ${blockSize}u + e); sum += v * v; }
  }
  sums[lane] = sum;
  workgroupBarrier();
  for (var step = 8u; step > 0u; step >>= 1u) {
    if (lane % 16u < step) { sums[lane] += sums[lane + step]; }
    workgroupBarrier();
  }
  if (lane % 16u == 0u && block < u.blocks) { squares_put(block, sums[lane]); }`,
});

/** Workgroups that add up the blocks of one part. */
const slices = 64;

const partsText = kernel({
  name: 'squares by part',
  reads: ['squares'],
  writes: ['partials'],
  lists: ['segments', 'parts'],
  uniforms: { blocks: 'u32', per: 'u32' },
  width: 256,
  outside: reduction('total', 256),
  body: `  let last = min(u.blocks, (group_id.x + 1u) * u.per);
  var sum = 0.0;
  for (var b = group_id.x * u.per + lane; b < last; b += 256u) {
    if (parts[segments[b]] == group_id.y) { sum += squares_at(b); }
  }
  sum = total(sum, lane);
  if (lane == 0u) { partials_put(group_id.y * ${slices}u + group_id.x, sum); }`,
});

const normsText = kernel({
  name: 'norms',
  reads: ['partials'],
  writes: ['norms', 'factors'],
  uniforms: { factor: 'f32', most: 'f32' },
  width: slices,
  outside: reduction('total', slices),
  body: `  let sum = total(partials_at(group * ${slices}u + lane), lane);
  if (lane > 0u) { return; }
  let norm = sqrt(sum) * u.factor;
  // As torch.nn.utils.clip_grad_norm_: the denominator is kept away from 0.
  var clip = 1.0;
  if (u.most > 0.0) { clip = u.most / (norm + 1e-6); }
  norms_put(group, norm);
  // Written so that a norm that is not a number leaves a factor that is not one: it must show, not pass.
  factors_put(group, select(u.factor * clip, u.factor, clip >= 1.0));`,
});

const clipText = kernel({
  name: 'clip',
  reads: ['factors'],
  writes: ['g'],
  lists: ['segments', 'parts'],
  uniforms: { count: 'u32' },
  width: elementWidth,
  // 0 stays 0 whatever the factor: nobody writes the padding again, and it is part of the next norms.
  body: `${element}
  let g = g_at(i);
  if (g != 0.0) { g_put(i, g * factors_at(parts[segment])); }`,
});

export interface FlatLayout {
  /** Elements, padding included. */
  readonly count: number;
  /** u32: parameter of each block. */
  readonly segments: Region;
}

/** Elements of the scratch that `clipGradients` needs; count: of all pieces. */
export function clipScratch(count: number, parts: number): { squares: number; partials: number } {
  return { squares: count / blockSize, partials: parts * slices };
}

/**
 * norms [parts] of the gradients times `factor`; then they are multiplied by factor and, where their part's norm is above
 * `maxNorm` (0: never), by maxNorm / norm. Gradients g come in pieces, one after the other in blocks; all but the last have a
 * multiple of 64 blocks. parts: u32, the part of each parameter. squares, partials, factors [parts]: scratch.
 */
export function clipGradients(
  caps: Capabilities,
  pieces: readonly (FlatLayout & { readonly g: Operand })[],
  arrays: { segments: Region; parts: Region; norms: Operand; factors: Operand; squares: Operand; partials: Operand },
  { partCount, factor, maxNorm }: { partCount: number; factor: number; maxNorm: number },
): Dispatch[] {
  const { segments, parts, norms, factors, squares, partials } = arrays;
  let blocks = 0;
  const dispatches = pieces.map(({ g, count }) => {
    const own = count / blockSize;
    const place = { ...squares, region: part(squares.region, blocks * 4, own * 4) };
    blocks += own;
    const cost = { flops: 2 * count, bytes: 4 * count };
    return squaresText({ g, squares: place }, { blocks: own }, spread(Math.ceil(own / blocksEach), caps), cost);
  });
  dispatches.push(
    partsText({ squares, partials, segments, parts }, { blocks, per: Math.ceil(blocks / slices) }, [slices, partCount, 1]),
    normsText({ partials, norms, factors }, { factor, most: maxNorm }, [partCount, 1, 1]),
  );
  if (maxNorm > 0 || factor !== 1)
    for (const { g, count, segments: own } of pieces)
      dispatches.push(clipText({ factors, g, segments: own, parts }, { count }, workgroups(caps, count), { bytes: 8 * count }));
  return dispatches;
}

/** Ends where a number of the guard is not finite: by its bits, as compilers may take it that all floats are. */
const guarded = `  for (var n = 0u; n < u.guards; n++) {
    if ((guard[n] & 0x7f800000u) == 0x7f800000u) { return; }
  }`;

/** @param rounded whether the f16 copy of p is written along */
const adamText = (rounded: boolean) =>
  kernel({
    name: rounded ? 'adamW, rounded' : 'adamW',
    reads: ['g', 'rates'],
    writes: ['p', 'm', 'v', ...(rounded ? ['half'] : [])],
    lists: ['guard', 'segments'],
    uniforms: { count: 'u32', guards: 'u32', b1: 'f32', a1: 'f32', b2: 'f32', a2: 'f32', root: 'f32', epsilon: 'f32' },
    width: elementWidth,
    body: `${element}
${guarded}
  let g = g_at(i);
  let m = u.b1 * m_at(i) + u.a1 * g;
  let v = u.b2 * v_at(i) + u.a2 * g * g;
  m_put(i, m);
  v_put(i, v);
  let p = p_at(i) * rates_at(2u * segment) + rates_at(2u * segment + 1u) * (m / (sqrt(v) * u.root + u.epsilon));
  p_put(i, p);
  ${rounded ? 'half_put(i, p);' : ''}`,
  });
const plainAdam = adamText(false);
const roundedAdam = adamText(true);

export interface AdamNumbers {
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
  /** 1 / sqrt(1 - beta2^t). */
  readonly root: number;
  /** Numbers of the guard. */
  readonly guards: number;
}

/**
 * m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2; p = p keep + step m / (sqrt(v) root + epsilon); half, where there is one, is p
 * rounded. For each parameter rates has keep = 1 - lr wd and step = -lr / (1 - beta1^t). Nothing is done when a number of
 * the guard is not finite.
 */
export function adamW(
  caps: Capabilities,
  { count, segments }: FlatLayout,
  arrays: { p: Operand; half: Operand | null; g: Operand; m: Operand; v: Operand; rates: Operand; guard: Operand | null },
  { beta1, beta2, epsilon, root, guards }: AdamNumbers,
): Dispatch[] {
  const { half, ...rest } = arrays;
  const uniforms = { count, guards, b1: beta1, a1: 1 - beta1, b2: beta2, a2: 1 - beta2, root, epsilon };
  // Something is bound in any case; without a guard it is not read.
  const bound = { ...rest, guard: (arrays.guard ?? arrays.rates).region, segments };
  if (half) return [roundedAdam({ ...bound, half }, uniforms, workgroups(caps, count), { bytes: 30 * count })];
  return [plainAdam(bound, uniforms, workgroups(caps, count), { bytes: 28 * count })];
}

/** @param rounded whether the f16 copy of y is written along */
const averageText = (rounded: boolean) =>
  kernel({
    name: rounded ? 'movingAverage, rounded' : 'movingAverage',
    reads: ['x'],
    writes: ['y', ...(rounded ? ['half'] : [])],
    lists: ['guard'],
    uniforms: { count: 'u32', guards: 'u32', share: 'f32' },
    width: elementWidth,
    // A step towards x: where both are equal it is 0 and nothing is rounded.
    body: `  let i = group * ${elementWidth}u + lane;
  if (i >= u.count) { return; }
${guarded}
  let before = y_at(i);
  let mean = before + u.share * (x_at(i) - before);
  y_put(i, mean);
  ${rounded ? 'half_put(i, mean);' : ''}`,
  });
const plainAverage = averageText(false);
const roundedAverage = averageText(true);

/** y = momentum y + (1 - momentum) x; half and guard as in `adamW`. */
export function movingAverage(
  caps: Capabilities,
  arrays: { x: Operand; y: Operand; half: Operand | null; guard: Operand | null },
  count: number,
  { momentum, guards }: { momentum: number; guards: number },
): Dispatch[] {
  const { x, y, half } = arrays;
  const uniforms = { count, guards, share: 1 - momentum };
  const guard = (arrays.guard ?? x).region;
  if (half) return [roundedAverage({ x, y, half, guard }, uniforms, workgroups(caps, count), { bytes: 14 * count })];
  return [plainAverage({ x, y, guard }, uniforms, workgroups(caps, count), { bytes: 12 * count })];
}
