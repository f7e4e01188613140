/** How many directions a set of features really uses. */
import { symmetricEigen } from '../prelabel/index.ts';

/**
 * RankMe (Garrido et al. 2023): exp of the entropy of the singular values of the feature matrix, each as a share of
 * their sum. Not centred, as in the paper. It compares checkpoints of one run on one sample, nothing else: it grows with
 * the number of rows and says little about dense features by itself.
 * @param rows [n, dim]
 * @returns 1 (one direction) to min(n, dim) (all alike); 0 without rows or when all are zero
 */
export function effectiveRank(rows: Float32Array, dim: number): number {
  const n = rows.length / dim;
  if (n === 0) return 0;
  // Squares of the singular values are the eigenvalues of either Gram matrix; the smaller is taken.
  const gram = n < dim ? innerProducts(rows, n, dim) : scatter(rows, n, dim);
  const { values } = symmetricEigen(gram, Math.min(n, dim));
  const singular = values.map((value) => Math.sqrt(Math.max(0, value)));
  const sum = singular.reduce((a, b) => a + b, 0);
  if (sum === 0) return 0;
  let entropy = 0;
  for (const value of singular) if (value > 0) entropy -= (value / sum) * Math.log(value / sum);
  return Math.exp(entropy);
}

/** Z Z^T, [n, n] */
function innerProducts(rows: Float32Array, n: number, dim: number): Float64Array {
  const gram = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j <= i; j++) {
      let dot = 0;
      for (let k = 0; k < dim; k++) dot += rows[i * dim + k] * rows[j * dim + k];
      gram[i * n + j] = gram[j * n + i] = dot;
    }
  }
  return gram;
}

/** Z^T Z, [dim, dim] */
function scatter(rows: Float32Array, n: number, dim: number): Float64Array {
  const gram = new Float64Array(dim * dim);
  for (let i = 0; i < n; i++) {
    const row = rows.subarray(i * dim, (i + 1) * dim);
    for (let k = 0; k < dim; k++) for (let j = 0, at = k * dim; j <= k; j++) gram[at + j] += row[k] * row[j];
  }
  for (let k = 0; k < dim; k++) for (let j = 0; j < k; j++) gram[j * dim + k] = gram[k * dim + j];
  return gram;
}
