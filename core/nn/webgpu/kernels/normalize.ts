/** Row-wise normalisations and their gradients: LayerNorm and L2. One workgroup a row. */
import { spread, type Capabilities, type Dispatch } from '../program.ts';
import { byWidth, kernel, reduction, type Operand, type Target } from './kernel.ts';

const layerNormText = byWidth((width) =>
  kernel({
    name: `layerNorm by ${width}`,
    reads: ['x', 'weight', 'bias'],
    writes: ['y', 'stats'],
    uniforms: { rows: 'u32', n: 'u32', epsilon: 'f32' },
    width,
    outside: reduction('total', width),
    body: `  if (group >= u.rows) { return; }
  let base = group * u.n;
  var sum = 0.0;
  for (var i = lane; i < u.n; i += ${width}u) { sum += x_at(base + i); }
  let mean = total(sum, lane) / f32(u.n);
  var squares = 0.0;
  for (var i = lane; i < u.n; i += ${width}u) { let c = x_at(base + i) - mean; squares += c * c; }
  let rstd = 1.0 / sqrt(total(squares, lane) / f32(u.n) + u.epsilon);
  for (var i = lane; i < u.n; i += ${width}u) {
    y_put(base + i, (x_at(base + i) - mean) * rstd * weight_at(i) + bias_at(i));
  }
  if (lane == 0u) {
    stats_put(2u * group, mean);
    stats_put(2u * group + 1u, rstd);
  }`,
  }),
);

/** y = (x - mean) / sqrt(variance + epsilon) * weight + bias over rows of n; stats [rows, 2]: mean, 1 / deviation. */
export function layerNorm(
  caps: Capabilities,
  arrays: { x: Operand; weight: Operand; bias: Operand; y: Operand; stats: Operand },
  rows: number,
  n: number,
  epsilon: number,
): Dispatch[] {
  return [layerNormText(n)({ ...arrays }, { rows, n, epsilon }, spread(rows, caps), { bytes: rows * n * 8 })];
}

const layerNormBackwardText = byWidth((width) =>
  kernel({
    name: `layerNormBackward by ${width}`,
    reads: ['x', 'dy', 'stats', 'weight'],
    writes: ['dx'],
    uniforms: { rows: 'u32', n: 'u32', add_dx: 'u32' },
    width,
    outside: reduction('total', width, 'vec2f'),
    body: `  if (group >= u.rows) { return; }
  let base = group * u.n;
  let mean = stats_at(2u * group);
  let rstd = stats_at(2u * group + 1u);
  var sums = vec2f(0.0);
  for (var i = lane; i < u.n; i += ${width}u) {
    let g = dy_at(base + i) * weight_at(i);
    sums += vec2f(g, g * (x_at(base + i) - mean) * rstd);
  }
  let means = total(sums, lane) / f32(u.n);
  for (var i = lane; i < u.n; i += ${width}u) {
    let hat = (x_at(base + i) - mean) * rstd;
    dx_add(base + i, (dy_at(base + i) * weight_at(i) - means.x - hat * means.y) * rstd);
  }`,
  }),
);

/** dx (+)= rstd (g - mean(g) - xhat mean(g xhat)) with g = dy * weight. */
export function layerNormBackward(
  caps: Capabilities,
  arrays: { x: Operand; dy: Operand; stats: Operand; weight: Operand; dx: Target },
  rows: number,
  n: number,
): Dispatch[] {
  const uniforms = { rows, n, add_dx: Number(arrays.dx.accumulate) };
  return [layerNormBackwardText(n)({ ...arrays }, uniforms, spread(rows, caps), { bytes: rows * n * 12 })];
}

const l2Text = byWidth((width) =>
  kernel({
    name: `l2Normalize by ${width}`,
    reads: ['x'],
    writes: ['y', 'inverses'],
    uniforms: { rows: 'u32', n: 'u32', epsilon: 'f32' },
    width,
    outside: reduction('total', width),
    body: `  if (group >= u.rows) { return; }
  let base = group * u.n;
  var sum = 0.0;
  for (var i = lane; i < u.n; i += ${width}u) { let v = x_at(base + i); sum += v * v; }
  let norm = sqrt(total(sum, lane));
  // Written so that a norm that is not a number goes on as one.
  let small = norm <= u.epsilon;
  let inverse = 1.0 / select(norm, u.epsilon, small);
  for (var i = lane; i < u.n; i += ${width}u) { y_put(base + i, x_at(base + i) * inverse); }
  if (lane == 0u) { inverses_put(group, select(inverse, -inverse, small)); }`,
  }),
);

/** y = x / max(||x||, epsilon) over rows of n; inverses [rows] of the divisors: negative where epsilon ruled. */
export function l2Normalize(
  caps: Capabilities,
  x: Operand,
  y: Operand,
  inverses: Operand,
  rows: number,
  n: number,
  epsilon: number,
): Dispatch[] {
  return [l2Text(n)({ x, y, inverses }, { rows, n, epsilon }, spread(rows, caps), { bytes: rows * n * 8 })];
}

const l2BackwardText = byWidth((width) =>
  kernel({
    name: `l2NormalizeBackward by ${width}`,
    reads: ['y', 'dy', 'inverses'],
    writes: ['dx'],
    uniforms: { rows: 'u32', n: 'u32', add_dx: 'u32' },
    width,
    outside: reduction('total', width),
    body: `  if (group >= u.rows) { return; }
  let base = group * u.n;
  var sum = 0.0;
  for (var i = lane; i < u.n; i += ${width}u) { sum += y_at(base + i) * dy_at(base + i); }
  let dot = total(sum, lane);
  let inverse = inverses_at(group);
  let along = select(dot, 0.0, inverse < 0.0);
  for (var i = lane; i < u.n; i += ${width}u) {
    dx_add(base + i, (dy_at(base + i) - y_at(base + i) * along) * abs(inverse));
  }`,
  }),
);

/** dx (+)= (dy - y (y . dy)) / ||x||, or dy / epsilon. */
export function l2NormalizeBackward(
  caps: Capabilities,
  arrays: { y: Operand; dy: Operand; inverses: Operand; dx: Target },
  rows: number,
  n: number,
): Dispatch[] {
  const uniforms = { rows, n, add_dx: Number(arrays.dx.accumulate) };
  return [l2BackwardText(n)({ ...arrays }, uniforms, spread(rows, caps), { bytes: rows * n * 12 })];
}
