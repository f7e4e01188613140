/** The teacher's targets from its logits [rows, K]: Sinkhorn-Knopp and the centred softmax. */
import { spread, type Capabilities, type Dispatch } from '../program.ts';
import { kernel, lowest, reduction, type Operand } from './kernel.ts';

const width = 256;
const highest = reduction('highest', width, 'f32', 'max($a, $b)');
const total = reduction('total', width);

const expText = kernel({
  name: 'sinkhornExp',
  reads: ['logits'],
  writes: ['y', 'maxima'],
  uniforms: { rows: 'u32', n: 'u32', inverse: 'f32' },
  width,
  outside: highest,
  body: `  if (group >= u.rows) { return; }
  let base = group * u.n;
  var top = ${lowest};
  for (var i = lane; i < u.n; i += ${width}u) { top = max(top, logits_at(base + i)); }
  top = highest(top, lane);
  for (var i = lane; i < u.n; i += ${width}u) { y_put(base + i, exp((logits_at(base + i) - top) * u.inverse)); }
  if (lane == 0u) { maxima_put(group, top); }`,
});

const startText = kernel({
  name: 'sinkhornStart',
  writes: ['factors'],
  uniforms: { rows: 'u32', inverse: 'f32' },
  width,
  outside: highest,
  body: `  var top = ${lowest};
  for (var r = lane; r < u.rows; r += ${width}u) { top = max(top, factors_at(r)); }
  top = highest(top, lane);
  for (var r = lane; r < u.rows; r += ${width}u) { factors_put(r, exp((factors_at(r) - top) * u.inverse)); }`,
});

/** Columns and slices of rows of a workgroup. */
const tile = 16;

const prototypesText = kernel({
  name: 'sinkhornPrototypes',
  reads: ['y', 'factors'],
  writes: ['scales'],
  uniforms: { rows: 'u32', n: 'u32' },
  width,
  outside: `var<workgroup> sums: array<f32, ${tile * tile}>;`,
  body: `  let slice = lane / ${tile}u;
  let k = group * ${tile}u + lane % ${tile}u;
  var sum = 0.0;
  if (k < u.n) {
    for (var r = slice; r < u.rows; r += ${tile}u) { sum += y_at(r * u.n + k) * factors_at(r); }
  }
  sums[lane] = sum;
  workgroupBarrier();
  for (var step = ${tile / 2}u; step > 0u; step >>= 1u) {
    if (slice < step) { sums[lane] += sums[lane + step * ${tile}u]; }
    workgroupBarrier();
  }
  if (slice == 0u && k < u.n) {
    // Written so that a sum that is not a number goes on as one.
    scales_put(k, select(1.0 / (f32(u.n) * sums[lane]), 0.0, sums[lane] == 0.0));
  }`,
});

const samplesText = kernel({
  name: 'sinkhornSamples',
  reads: ['scales'],
  writes: ['y', 'factors'],
  uniforms: { rows: 'u32', n: 'u32', last: 'u32' },
  width,
  outside: total,
  body: `  if (group >= u.rows) { return; }
  let base = group * u.n;
  var sum = 0.0;
  for (var i = lane; i < u.n; i += ${width}u) { sum += y_at(base + i) * scales_at(i); }
  sum = total(sum, lane);
  if (u.last != 0u) {
    for (var i = lane; i < u.n; i += ${width}u) { y_put(base + i, y_at(base + i) * scales_at(i) / sum); }
  }
  if (lane == 0u) { factors_put(group, 1.0 / (f32(u.rows) * sum)); }`,
});

/**
 * y = targets of the logits [rows, K], each row sums to 1. Q = diag(factors) E diag(scales): only the factors change from
 * pass to pass. factors [rows] and scales [K] are scratch.
 */
export function sinkhornKnopp(
  caps: Capabilities,
  arrays: { logits: Operand; y: Operand; factors: Operand; scales: Operand },
  { rows, K, temperature, iterations }: { rows: number; K: number; temperature: number; iterations: number },
): Dispatch[] {
  const { logits, y, factors, scales } = arrays;
  const inverse = 1 / temperature;
  const byRow = spread(rows, caps);
  const byColumn = spread(Math.ceil(K / tile), caps);
  const bytes = rows * K * 4;
  const dispatches = [
    expText({ logits, y, maxima: factors }, { rows, n: K, inverse }, byRow, { bytes: bytes * 2 }),
    startText({ factors }, { rows, inverse }, [1, 1, 1]),
  ];
  for (let pass = 1; pass <= iterations; ++pass) {
    dispatches.push(prototypesText({ y, factors, scales }, { rows, n: K }, byColumn, { bytes }));
    dispatches.push(samplesText({ scales, y, factors }, { rows, n: K, last: Number(pass === iterations) }, byRow, { bytes }));
  }
  return dispatches;
}

const softmaxText = kernel({
  name: 'centeredSoftmax',
  reads: ['logits', 'center'],
  writes: ['y'],
  uniforms: { rows: 'u32', n: 'u32', inverse: 'f32' },
  width,
  outside: `${highest}\n${total}`,
  body: `  if (group >= u.rows) { return; }
  let base = group * u.n;
  var top = ${lowest};
  for (var i = lane; i < u.n; i += ${width}u) { top = max(top, (logits_at(base + i) - center_at(i)) * u.inverse); }
  top = highest(top, lane);
  var sum = 0.0;
  for (var i = lane; i < u.n; i += ${width}u) { sum += exp((logits_at(base + i) - center_at(i)) * u.inverse - top); }
  sum = total(sum, lane);
  for (var i = lane; i < u.n; i += ${width}u) {
    y_put(base + i, exp((logits_at(base + i) - center_at(i)) * u.inverse - top) / sum);
  }`,
});

/** y = softmax((logits - center) / temperature) by row; center [K]. */
export function centeredSoftmax(
  caps: Capabilities,
  arrays: { logits: Operand; center: Operand; y: Operand },
  { rows, K, temperature }: { rows: number; K: number; temperature: number },
): Dispatch[] {
  return [softmaxText({ ...arrays }, { rows, n: K, inverse: 1 / temperature }, spread(rows, caps), { bytes: rows * K * 8 })];
}
