/** Cross-entropy over prototypes, tile by tile of the prototypes, and the weight norm of their layer. One workgroup a row. */
import { spread, type Capabilities, type Dispatch, type Region } from '../program.ts';
import { byWidth, kernel, logarithm, lowest, reduction, type Operand, type Target } from './kernel.ts';

const scalesText = byWidth((width) =>
  kernel({
    name: `prototypeScales by ${width}`,
    reads: ['v', 'g'],
    writes: ['scales'],
    uniforms: { rows: 'u32', n: 'u32', temperature: 'f32' },
    width,
    outside: reduction('total', width),
    body: `  if (group >= u.rows) { return; }
  var sum = 0.0;
  for (var i = lane; i < u.n; i += ${width}u) { let x = v_at(group * u.n + i); sum += x * x; }
  let norm = sqrt(total(sum, lane));
  if (lane == 0u) { scales_put(group, g_at(group) / (norm * u.temperature)); }`,
  }),
);

/** scales[k] = g_k / (||v_k|| temperature); v [K, n]. */
export function prototypeScales(
  caps: Capabilities,
  v: Operand,
  g: Operand,
  scales: Operand,
  K: number,
  n: number,
  temperature: number,
): Dispatch[] {
  return [scalesText(n)({ v, g, scales }, { rows: K, n, temperature }, spread(K, caps), { bytes: K * n * 4 })];
}

export interface CrossEntropyTile {
  readonly rows: number;
  /** Prototypes of the tile, the first of them, and all. */
  readonly count: number;
  readonly k0: number;
  readonly K: number;
  /** Target rows of a row. */
  readonly m: number;
}

const tileUniforms = { rows: 'u32', count: 'u32', k0: 'u32', k_all: 'u32', m: 'u32' } as const;

/** The sum of row `group`'s targets for prototype k0 + i. */
const targetSum = `    var q = 0.0;
    for (var t = 0u; t < u.m; t++) { q += targets_at(target_rows[group * u.m + t] * u.k_all + u.k0 + i); }`;

const lossWidth = 256;

const crossEntropyText = kernel({
  name: 'crossEntropy',
  reads: ['logits', 'targets'],
  writes: ['state'],
  lists: ['target_rows'],
  uniforms: { ...tileUniforms, add_state: 'u32' },
  width: lossWidth,
  outside: `${reduction('highest', lossWidth, 'f32', 'max($a, $b)')}
${reduction('total', lossWidth, 'vec4f')}`,
  body: `  if (group >= u.rows) { return; }
  let base = group * u.count;
  // highest logit, sum of e^(l - highest), sum of q l, sum of q: over the tiles before this one
  var before = vec4f(${lowest}, 0.0, 0.0, 0.0);
  if (u.add_state != 0u) {
    before = vec4f(state_at(4u * group), state_at(4u * group + 1u), state_at(4u * group + 2u), state_at(4u * group + 3u));
  }
  var top = before.x;
  for (var i = lane; i < u.count; i += ${lossWidth}u) { top = max(top, logits_at(base + i)); }
  top = highest(top, lane);
  var sums = vec4f(0.0);
  for (var i = lane; i < u.count; i += ${lossWidth}u) {
    let l = logits_at(base + i);
${targetSum}
    sums += vec4f(0.0, exp(l - top), q * l, q);
  }
  sums = total(sums, lane);
  if (lane == 0u) {
    state_put(4u * group, top);
    state_put(4u * group + 1u, before.y * exp(before.x - top) + sums.y);
    state_put(4u * group + 2u, before.z + sums.z);
    state_put(4u * group + 3u, before.w + sums.w);
  }`,
});

/** One tile of logits [rows, count] (over the temperature) enters the state [rows, 4]; the first one starts it. */
export function crossEntropy(
  caps: Capabilities,
  arrays: { logits: Operand; targets: Operand; targetRows: Region; state: Operand },
  { rows, count, k0, K, m }: CrossEntropyTile,
): Dispatch[] {
  const { logits, targets, targetRows, state } = arrays;
  const uniforms = { rows, count, k0, k_all: K, m, add_state: Number(k0 > 0) };
  const bytes = rows * count * 4 * (1 + m);
  return [crossEntropyText({ logits, targets, state, target_rows: targetRows }, uniforms, spread(rows, caps), { bytes })];
}

const sumText = kernel({
  name: 'crossEntropySum',
  reads: ['state', 'weights'],
  writes: ['loss'],
  uniforms: { rows: 'u32' },
  width: lossWidth,
  outside: `${logarithm}\n${reduction('total', lossWidth)}`,
  body: `  var sum = 0.0;
  for (var r = lane; r < u.rows; r += ${lossWidth}u) {
    let lse = state_at(4u * r) + logarithm(state_at(4u * r + 1u));
    sum += weights_at(r) * (lse * state_at(4u * r + 3u) - state_at(4u * r + 2u));
  }
  sum = total(sum, lane);
  if (lane == 0u) { loss_put(0u, sum); }`,
});

/** loss = sum over rows of weight * (log-sum-exp * sum q - sum q l). */
export function crossEntropySum(state: Operand, weights: Operand, loss: Operand, rows: number): Dispatch[] {
  return [sumText({ state, weights, loss }, { rows }, [1, 1, 1])];
}

const backwardText = kernel({
  name: 'crossEntropyBackward',
  reads: ['targets', 'state', 'weights', 'dy', 'scales'],
  writes: ['logits'],
  lists: ['target_rows'],
  uniforms: tileUniforms,
  width: lossWidth,
  body: `  if (group >= u.rows) { return; }
  let base = group * u.count;
  let top = state_at(4u * group);
  let share = state_at(4u * group + 3u) / state_at(4u * group + 1u);
  let weight = dy_at(0u) * weights_at(group);
  for (var i = lane; i < u.count; i += ${lossWidth}u) {
${targetSum}
    let d = exp(logits_at(base + i) - top) * share - q;
    logits_put(base + i, d * weight * scales_at(i));
  }`,
});

/** In place of a tile of logits: dy weight_r (softmax * sum q - q) scales[k], the gradient by row . v_k. `scales` of the tile. */
export function crossEntropyBackward(
  caps: Capabilities,
  arrays: { logits: Operand; targets: Operand; targetRows: Region; state: Operand; weights: Operand; dy: Operand; scales: Operand },
  { rows, count, k0, K, m }: CrossEntropyTile,
): Dispatch[] {
  const { targetRows, ...rest } = arrays;
  const bytes = rows * count * 4 * (2 + m);
  return [backwardText({ ...rest, target_rows: targetRows }, { rows, count, k0, k_all: K, m }, spread(rows, caps), { bytes })];
}

/** @param dv whether the gradient of v is wanted */
function weightText(width: number, dv: boolean, dg: boolean): ReturnType<typeof kernel> {
  return kernel({
    name: `prototypeBackward${dv ? ' of v' : ''}${dg ? ' of g' : ''} by ${width}`,
    reads: ['h', 'v', 'g'],
    writes: [...(dv ? ['dv'] : []), ...(dg ? ['dg'] : [])],
    uniforms: { rows: 'u32', n: 'u32', add_dv: 'u32', add_dg: 'u32' },
    width,
    outside: reduction('total', width, 'vec2f'),
    body: `  if (group >= u.rows) { return; }
  let base = group * u.n;
  var sums = vec2f(0.0);
  for (var i = lane; i < u.n; i += ${width}u) { let x = v_at(base + i); sums += x * vec2f(h_at(base + i), x); }
  let dots = total(sums, lane);
  let back = dots.x / dots.y;
  ${dv ? `for (var i = lane; i < u.n; i += ${width}u) { dv_add(base + i, h_at(base + i) - back * v_at(base + i)); }` : ''}
  ${dg ? 'if (lane == 0u) { let length = g_at(group); dg_add(group, select(dots.x / length, 0.0, length == 0.0)); }' : ''}`,
  });
}
const vText = byWidth((width) => weightText(width, true, false));
const gText = byWidth((width) => weightText(width, false, true));
const bothText = byWidth((width) => weightText(width, true, true));

/**
 * From h_k = sum over rows of (gradient by row . v_k) row: dv_k (+)= h_k - u (u . h_k) with u = v_k / ||v_k||, and
 * dg_k (+)= (v_k . h_k) / g_k; either may be null. h, v [K, n].
 */
export function prototypeBackward(
  caps: Capabilities,
  arrays: { h: Operand; v: Operand; g: Operand; dv: Target | null; dg: Target | null },
  K: number,
  n: number,
): Dispatch[] {
  const { h, v, g, dv, dg } = arrays;
  const uniforms = { rows: K, n, add_dv: Number(dv?.accumulate ?? false), add_dg: Number(dg?.accumulate ?? false) };
  const cost = { bytes: K * n * 12 };
  if (dv && dg) return [bothText(n)({ h, v, g, dv, dg }, uniforms, spread(K, caps), cost)];
  if (dv) return [vText(n)({ h, v, g, dv }, uniforms, spread(K, caps), cost)];
  return dg ? [gText(n)({ h, v, g, dg }, uniforms, spread(K, caps), cost)] : [];
}
