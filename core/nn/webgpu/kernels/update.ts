/**
 * Updates over whole sets of parameters at once. Parameters lie in one flat array, each padded with zeros to whole blocks of
 * 64; `segments` names the parameter of each block, small tables say what holds for each parameter.
 */
import { spread, type Capabilities, type Dispatch, type Region } from '../program.ts';
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
  body: `${element}
  g_put(i, g_at(i) * factors_at(parts[segment]));`,
});

export interface FlatLayout {
  /** Elements, padding included. */
  readonly count: number;
  /** u32: parameter of each block. */
  readonly segments: Region;
}

/** Elements of the scratch that `clipGradients` needs. */
export function clipScratch(count: number, parts: number): { squares: number; partials: number } {
  return { squares: count / blockSize, partials: parts * slices };
}

/**
 * norms [parts] of the gradients g times `factor`; then g is multiplied by factor and, where its part's norm is above
 * `maxNorm` (0: never), by maxNorm / norm. parts: u32, the part of each parameter. squares, partials, factors [parts]: scratch.
 */
export function clipGradients(
  caps: Capabilities,
  { count, segments }: FlatLayout,
  arrays: { g: Operand; parts: Region; norms: Operand; factors: Operand; squares: Operand; partials: Operand },
  { partCount, factor, maxNorm }: { partCount: number; factor: number; maxNorm: number },
): Dispatch[] {
  const { g, parts, norms, factors, squares, partials } = arrays;
  const blocks = count / blockSize;
  const dispatches = [
    squaresText({ g, squares }, { blocks }, spread(Math.ceil(blocks / blocksEach), caps), { flops: 2 * count, bytes: 4 * count }),
    partsText({ squares, partials, segments, parts }, { blocks, per: Math.ceil(blocks / slices) }, [slices, partCount, 1]),
    normsText({ partials, norms, factors }, { factor, most: maxNorm }, [partCount, 1, 1]),
  ];
  if (maxNorm > 0 || factor !== 1)
    dispatches.push(clipText({ factors, g, segments, parts }, { count }, workgroups(caps, count), { bytes: 8 * count }));
  return dispatches;
}

const adamText = kernel({
  name: 'adamW',
  reads: ['g', 'keeps', 'steps'],
  writes: ['p', 'm', 'v'],
  lists: ['segments'],
  uniforms: { count: 'u32', b1: 'f32', a1: 'f32', b2: 'f32', a2: 'f32', root: 'f32', epsilon: 'f32' },
  width: elementWidth,
  body: `${element}
  let g = g_at(i);
  let m = u.b1 * m_at(i) + u.a1 * g;
  let v = u.b2 * v_at(i) + u.a2 * g * g;
  m_put(i, m);
  v_put(i, v);
  p_put(i, p_at(i) * keeps_at(segment) + steps_at(segment) * (m / (sqrt(v) * u.root + u.epsilon)));`,
});

export interface AdamNumbers {
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
  /** 1 / sqrt(1 - beta2^t). */
  readonly root: number;
}

/**
 * m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2; p = p keep + step m / (sqrt(v) root + epsilon). For each parameter keeps has
 * 1 - lr wd, and steps -lr / (1 - beta1^t).
 */
export function adamW(
  caps: Capabilities,
  { count, segments }: FlatLayout,
  arrays: { p: Operand; g: Operand; m: Operand; v: Operand; keeps: Operand; steps: Operand },
  { beta1, beta2, epsilon, root }: AdamNumbers,
): Dispatch[] {
  const uniforms = { count, b1: beta1, a1: 1 - beta1, b2: beta2, a2: 1 - beta2, root, epsilon };
  return [adamText({ ...arrays, segments }, uniforms, workgroups(caps, count), { bytes: 28 * count })];
}

const averageText = kernel({
  name: 'movingAverage',
  reads: ['x'],
  writes: ['y'],
  uniforms: { count: 'u32', share: 'f32' },
  width: elementWidth,
  // A step towards x: where both are equal it is 0 and nothing is rounded.
  body: `  let i = group * ${elementWidth}u + lane;
  if (i < u.count) { let mean = y_at(i); y_put(i, mean + u.share * (x_at(i) - mean)); }`,
});

/** y = momentum y + (1 - momentum) x. */
export function movingAverage(caps: Capabilities, x: Operand, y: Operand, count: number, momentum: number): Dispatch[] {
  return [averageText({ x, y }, { count, share: 1 - momentum }, workgroups(caps, count), { bytes: 12 * count })];
}
