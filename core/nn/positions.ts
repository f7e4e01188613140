/** The weights of resized position tables: one matrix for each axis, as PyTorch's bicubic interpolation has them. */

/** Cubic convolution kernel (Keys 1981) at distance t. */
function cubic(t: number, a: number): number {
  const x = Math.abs(t);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a;
  return 0;
}

/**
 * Weights [to, from] of one axis. Without antialias: scale factor (to + offset) / from, four taps, index clamped at the
 * borders, a = -0.75. With antialias: as Pillow, a = -0.5, support widened when shrinking, weights sum to 1.
 */
export function resizeWeights(from: number, to: number, offset: number, antialias: boolean): Float32Array {
  const weights = new Float64Array(to * from);
  // The same size through the same rule is a copy, except that a plain model's offset shifts it: it is copied too (spec 1.3).
  for (let i = 0; i < to; ++i) {
    if (antialias) antialiasedRow(weights.subarray(i * from, (i + 1) * from), i, from / to);
    else plainRow(weights.subarray(i * from, (i + 1) * from), i, from / (to + offset));
  }
  return Float32Array.from(weights);
}

function plainRow(row: Float64Array, i: number, scale: number): void {
  const source = (i + 0.5) * scale - 0.5;
  const first = Math.floor(source) - 1;
  for (let tap = first; tap < first + 4; ++tap) {
    const clamped = Math.min(Math.max(tap, 0), row.length - 1);
    row[clamped] = row[clamped]! + cubic(source - tap, -0.75);
  }
}

function antialiasedRow(row: Float64Array, i: number, scale: number): void {
  const stretch = Math.max(scale, 1);
  const support = 2 * stretch;
  const center = scale * (i + 0.5);
  const low = Math.max(Math.trunc(center - support + 0.5), 0);
  const high = Math.min(Math.trunc(center + support + 0.5), row.length);
  let sum = 0;
  for (let j = low; j < high; ++j) {
    row[j] = cubic((j - center + 0.5) / stretch, -0.5);
    sum += row[j]!;
  }
  for (let j = low; j < high; ++j) row[j] = row[j]! / sum;
}

/** [rows, columns] -> [columns, rows]. */
export function transposed(matrix: Float32Array, rows: number, columns: number): Float32Array {
  const out = new Float32Array(matrix.length);
  for (let r = 0; r < rows; ++r) for (let c = 0; c < columns; ++c) out[c * rows + r] = matrix[r * columns + c]!;
  return out;
}
