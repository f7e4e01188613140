/** One row for each image, comparable by cosine: made from looks or from a network's tokens, in relation to the set. */

/** Standard deviations below this are rounding. */
const leastDeviation = 1e-6;

/**
 * Plain appearance as descriptors: each number by its mean and deviation over the set, then length 1. An image that is the
 * mean in everything is a row of zeros, like none.
 * @param rows [n, dim] @returns [n, dim]
 */
export function standardised(rows: Float32Array, dim: number): Float32Array {
  const n = rows.length / dim;
  const mean = new Float64Array(dim);
  const square = new Float64Array(dim);
  for (let i = 0; i < rows.length; i++) mean[i % dim] += rows[i] / n;
  for (let i = 0; i < rows.length; i++) square[i % dim] += (rows[i] - mean[i % dim]) ** 2 / n;
  const out = rows.map((v, i) => {
    const deviation = Math.sqrt(square[i % dim]);
    return deviation < leastDeviation ? 0 : (v - mean[i % dim]) / deviation;
  });
  return unit(out, dim);
}

/**
 * Class token and mean patch of a network, each centred on its mean over the set and made length 1, side by side.
 * Centred because the tokens of a set point much the same way: the zero of the cosine is then that of two images by chance.
 * @param cls [n, dim] @param means [n, dim] @returns [n, 2 dim], length 1
 */
export function tokenDescriptors(cls: Float32Array, means: Float32Array, dim: number): Float32Array {
  const n = cls.length / dim;
  const out = new Float32Array(2 * n * dim);
  [cls, means].forEach((rows, half) => {
    const centred = unit(minusMean(rows, dim), dim);
    for (let i = 0; i < n; i++) out.set(centred.subarray(i * dim, (i + 1) * dim), (2 * i + half) * dim);
  });
  return unit(out, 2 * dim);
}

function minusMean(rows: Float32Array, dim: number): Float32Array {
  const mean = new Float64Array(dim);
  for (let i = 0; i < rows.length; i++) mean[i % dim] += (rows[i] * dim) / rows.length;
  return rows.map((v, i) => v - mean[i % dim]);
}

/** In place. */
function unit(rows: Float32Array, dim: number): Float32Array {
  for (let at = 0; at < rows.length; at += dim) {
    let norm = 0;
    for (let k = 0; k < dim; k++) norm += rows[at + k] ** 2;
    if (norm > 0) for (let k = 0; k < dim; k++) rows[at + k] /= Math.sqrt(norm);
  }
  return rows;
}
