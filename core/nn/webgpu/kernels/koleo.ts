/** The spreading term on normalised rows, and sums of scalars. */
import { spread, type Capabilities, type Dispatch } from '../program.ts';
import { kernel, logarithm, reduction, type Operand } from './kernel.ts';

const width = 128;

const nearestText = kernel({
  name: 'koleo',
  reads: ['x'],
  writes: ['nearest', 'terms', 'slopes'],
  uniforms: { rows: 'u32', n: 'u32' },
  width,
  // Of equally near rows the first: the order of lanes does not decide.
  outside: `struct Near { cosine: f32, row: u32 }
var<workgroup> best: array<Near, ${width}>;
fn nearer(a: Near, b: Near) -> Near {
  if (b.cosine > a.cosine || (b.cosine == a.cosine && b.row < a.row)) { return b; }
  return a;
}
${logarithm}
${reduction('total', width)}`,
  body: `  if (group >= u.rows) { return; }
  let base = group * u.n;
  // A row that is not a number is nobody's nearest; some other row is named in any case.
  var mine = Near(-2.0, select(0u, 1u, group == 0u));
  for (var j = lane; j < u.rows; j += ${width}u) {
    if (j == group) { continue; }
    var cosine = 0.0;
    for (var e = 0u; e < u.n; e++) { cosine += x_at(base + e) * x_at(j * u.n + e); }
    mine = nearer(mine, Near(cosine, j));
  }
  best[lane] = mine;
  workgroupBarrier();
  for (var step = ${width / 2}u; step > 0u; step >>= 1u) {
    if (lane < step) { best[lane] = nearer(best[lane], best[lane + step]); }
    workgroupBarrier();
  }
  let other = best[0].row;
  var squares = 0.0;
  for (var e = lane; e < u.n; e += ${width}u) {
    let difference = x_at(base + e) - x_at(other * u.n + e) + 1e-8;
    squares += difference * difference;
  }
  let d = sqrt(total(squares, lane));
  let slope = select(-1.0 / ((d + 1e-8) * d), 0.0, d == 0.0);
  for (var e = lane; e < u.n; e += ${width}u) {
    slopes_put(base + e, (x_at(base + e) - x_at(other * u.n + e) + 1e-8) * slope);
  }
  if (lane == 0u) {
    nearest_put(group, f32(other));
    terms_put(group, -logarithm(d + 1e-8));
  }`,
});

/**
 * For each row of x [rows, n], normalised: its nearest other row by cosine (as a float), -log(d + 1e-8) with d its distance,
 * and d term / d difference in slopes [rows, n].
 */
export function koleo(
  caps: Capabilities,
  arrays: { x: Operand; nearest: Operand; terms: Operand; slopes: Operand },
  rows: number,
  n: number,
): Dispatch[] {
  return [nearestText({ ...arrays }, { rows, n }, spread(rows, caps), { flops: 2 * rows * rows * n })];
}

const backwardText = kernel({
  name: 'koleoBackward',
  reads: ['nearest', 'slopes', 'dy'],
  writes: ['dx'],
  uniforms: { rows: 'u32', n: 'u32', factor: 'f32' },
  width,
  body: `  if (group >= u.rows) { return; }
  let factor = u.factor * dy_at(0u);
  for (var e = lane; e < u.n; e += ${width}u) {
    var sum = slopes_at(group * u.n + e);
    for (var j = 0u; j < u.rows; j++) {
      if (u32(nearest_at(j)) == group) { sum -= slopes_at(j * u.n + e); }
    }
    dx_put(group * u.n + e, factor * sum);
  }`,
});

/** dx = factor dy (own slopes minus those of the rows whose nearest this row is). */
export function koleoBackward(
  caps: Capabilities,
  arrays: { nearest: Operand; slopes: Operand; dy: Operand; dx: Operand },
  rows: number,
  n: number,
  factor: number,
): Dispatch[] {
  return [backwardText({ ...arrays }, { rows, n, factor }, spread(rows, caps))];
}

const sumText = kernel({
  name: 'sumAll',
  reads: ['x'],
  writes: ['y'],
  uniforms: { count: 'u32', factor: 'f32' },
  width,
  outside: reduction('total', width),
  body: `  var sum = 0.0;
  for (var i = lane; i < u.count; i += ${width}u) { sum += x_at(i); }
  sum = total(sum, lane);
  if (lane == 0u) { y_put(0u, u.factor * sum); }`,
});

/** y [1] = factor times the sum of x. For small arrays: one workgroup. */
export function sumAll(x: Operand, y: Operand, count: number, factor: number): Dispatch[] {
  return [sumText({ x, y }, { count, factor }, [1, 1, 1])];
}
