/**
 * The teacher's targets from its logits: Sinkhorn-Knopp and the centred softmax in place; or their factors in logarithms, from
 * logits that come a tile of prototypes at a time.
 */
import { spread, type Capabilities, type Dispatch } from '../program.ts';
import { elementWidth, kernel, logarithm, lowest, reduction, type Operand } from './kernel.ts';

const width = 256;
const highest = reduction('highest', width, 'f32', 'max($a, $b)');
const total = reduction('total', width);

const expText = kernel({
  name: 'sinkhornExp',
  writes: ['y', 'maxima'],
  uniforms: { rows: 'u32', n: 'u32', inverse: 'f32' },
  width,
  outside: highest,
  body: `  if (group >= u.rows) { return; }
  let base = group * u.n;
  var top = ${lowest};
  for (var i = lane; i < u.n; i += ${width}u) { top = max(top, y_at(base + i)); }
  top = highest(top, lane);
  for (var i = lane; i < u.n; i += ${width}u) { y_put(base + i, exp((y_at(base + i) - top) * u.inverse)); }
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
 * The logits y [rows, K] become targets, each row sums to 1. Q = diag(factors) E diag(scales): only the factors change from
 * pass to pass. factors [rows] and scales [K] are scratch.
 */
export function sinkhornKnopp(
  caps: Capabilities,
  arrays: { y: Operand; factors: Operand; scales: Operand },
  { rows, K, temperature, iterations }: { rows: number; K: number; temperature: number; iterations: number },
): Dispatch[] {
  const { y, factors, scales } = arrays;
  const inverse = 1 / temperature;
  const byRow = spread(rows, caps);
  const byColumn = spread(Math.ceil(K / tile), caps);
  const bytes = rows * K * 4;
  const dispatches = [
    expText({ y, maxima: factors }, { rows, n: K, inverse }, byRow, { bytes: bytes * 2 }),
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
  reads: ['center'],
  writes: ['y'],
  uniforms: { rows: 'u32', n: 'u32', inverse: 'f32' },
  width,
  outside: `${highest}\n${total}`,
  body: `  if (group >= u.rows) { return; }
  let base = group * u.n;
  var top = ${lowest};
  for (var i = lane; i < u.n; i += ${width}u) { top = max(top, (y_at(base + i) - center_at(i)) * u.inverse); }
  top = highest(top, lane);
  var sum = 0.0;
  for (var i = lane; i < u.n; i += ${width}u) { sum += exp((y_at(base + i) - center_at(i)) * u.inverse - top); }
  sum = total(sum, lane);
  for (var i = lane; i < u.n; i += ${width}u) {
    y_put(base + i, exp((y_at(base + i) - center_at(i)) * u.inverse - top) / sum);
  }`,
});

/** The logits y [rows, K] become softmax((y - center) / temperature) by row; center [K]. */
export function centeredSoftmax(
  caps: Capabilities,
  arrays: { center: Operand; y: Operand },
  { rows, K, temperature }: { rows: number; K: number; temperature: number },
): Dispatch[] {
  return [softmaxText({ ...arrays }, { rows, n: K, inverse: 1 / temperature }, spread(rows, caps), { bytes: rows * K * 8 })];
}

// --- a tile of prototypes at a time: exp(l - byPrototype[k] - bySample[q]), l over the temperature ----------------------

const prototypeLogsText = kernel({
  name: 'targetPrototypeLogs',
  reads: ['logits', 'bySample'],
  writes: ['byPrototype'],
  uniforms: { rows: 'u32', n: 'u32' },
  width,
  outside: `${logarithm}\nvar<workgroup> tops: array<f32, ${tile * tile}>;\nvar<workgroup> sums: array<f32, ${tile * tile}>;`,
  body: `  let slice = lane / ${tile}u;
  let k = group * ${tile}u + lane % ${tile}u;
  var top = ${lowest};
  if (k < u.n) {
    for (var r = slice; r < u.rows; r += ${tile}u) { top = max(top, logits_at(r * u.n + k) - bySample_at(r)); }
  }
  tops[lane] = top;
  workgroupBarrier();
  for (var step = ${tile / 2}u; step > 0u; step >>= 1u) {
    if (slice < step) { tops[lane] = max(tops[lane], tops[lane + step * ${tile}u]); }
    workgroupBarrier();
  }
  top = tops[lane % ${tile}u];
  var sum = 0.0;
  if (k < u.n) {
    for (var r = slice; r < u.rows; r += ${tile}u) { sum += exp(logits_at(r * u.n + k) - bySample_at(r) - top); }
  }
  sums[lane] = sum;
  workgroupBarrier();
  for (var step = ${tile / 2}u; step > 0u; step >>= 1u) {
    if (slice < step) { sums[lane] += sums[lane + step * ${tile}u]; }
    workgroupBarrier();
  }
  if (slice == 0u && k < u.n) { byPrototype_put(k, top + logarithm(sums[lane])); }`,
});

/** byPrototype [count] = log of the sum over rows of exp(logits - bySample); logits [rows, count]. */
export function prototypeLogs(
  caps: Capabilities,
  arrays: { logits: Operand; bySample: Operand; byPrototype: Operand },
  rows: number,
  count: number,
): Dispatch[] {
  return [prototypeLogsText({ ...arrays }, { rows, n: count }, spread(Math.ceil(count / tile), caps), { bytes: rows * count * 4 })];
}

const sampleLogsText = kernel({
  name: 'targetSampleLogs',
  reads: ['logits', 'byPrototype'],
  writes: ['state', 'bySample'],
  uniforms: { rows: 'u32', n: 'u32', first: 'u32', last: 'u32' },
  width,
  outside: `${logarithm}\n${highest}\n${total}`,
  body: `  if (group >= u.rows) { return; }
  let base = group * u.n;
  var top = ${lowest};
  for (var i = lane; i < u.n; i += ${width}u) { top = max(top, logits_at(base + i) - byPrototype_at(i)); }
  top = highest(top, lane);
  var before = vec2f(${lowest}, 0.0);
  if (u.first == 0u) { before = vec2f(state_at(2u * group), state_at(2u * group + 1u)); }
  top = max(top, before.x);
  var sum = 0.0;
  for (var i = lane; i < u.n; i += ${width}u) { sum += exp(logits_at(base + i) - byPrototype_at(i) - top); }
  sum = total(sum, lane) + before.y * exp(before.x - top);
  if (lane > 0u) { return; }
  state_put(2u * group, top);
  state_put(2u * group + 1u, sum);
  if (u.last != 0u) { bySample_put(group, top + logarithm(sum)); }`,
});

/**
 * Adds a tile of prototypes to the log of each row's sum of exp(logits - byPrototype); `last` writes it to bySample [rows].
 * logits [rows, count]; state [rows, 2]: highest exponent and sum so far.
 */
export function sampleLogs(
  caps: Capabilities,
  arrays: { logits: Operand; byPrototype: Operand; state: Operand; bySample: Operand },
  { rows, count, first, last }: { rows: number; count: number; first: boolean; last: boolean },
): Dispatch[] {
  const uniforms = { rows, n: count, first: Number(first), last: Number(last) };
  return [sampleLogsText({ ...arrays }, uniforms, spread(rows, caps), { bytes: rows * count * 8 })];
}

const targetsText = kernel({
  name: 'targets',
  reads: ['byPrototype', 'bySample'],
  writes: ['y'],
  uniforms: { count: 'u32', n: 'u32' },
  width: elementWidth,
  body: `  let i = group * ${elementWidth}u + lane;
  if (i >= u.count) { return; }
  let row = i / u.n;
  y_put(i, exp(y_at(i) - byPrototype_at(i - row * u.n) - bySample_at(row)));`,
});

/** The logits y [rows, count], over the temperature, become targets. */
export function targetsOfLogits(
  caps: Capabilities,
  arrays: { byPrototype: Operand; bySample: Operand; y: Operand },
  rows: number,
  count: number,
): Dispatch[] {
  const all = rows * count;
  return [targetsText({ ...arrays }, { count: all, n: count }, spread(Math.ceil(all / elementWidth), caps), { bytes: all * 8 })];
}
