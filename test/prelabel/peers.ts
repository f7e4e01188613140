/** Plain, slow computations that the room's fast ones are compared with, and random data for them. */
import { Random } from '../../core/random.ts';

/** All eigenpairs of a symmetric matrix by Jacobi rotations, values descending, vectors in rows. */
export function jacobi(matrix: Float64Array, n: number): { values: number[]; vectors: number[][] } {
  const a = Array.from({ length: n }, (_, i) => Array.from(matrix.subarray(i * n, (i + 1) * n)));
  const v = Array.from({ length: n }, (_, i) => Array.from({ length: n }, (_, j): number => (i === j ? 1 : 0)));
  for (let sweep = 0; sweep < 60; sweep++) {
    let off = 0;
    for (let p = 0; p < n; p++) for (let q = p + 1; q < n; q++) off += a[p][q] ** 2;
    if (off < 1e-26) break;
    for (let p = 0; p < n; p++) {
      for (let q = p + 1; q < n; q++) {
        if (Math.abs(a[p][q]) < 1e-300) continue;
        const theta = (a[q][q] - a[p][p]) / (2 * a[p][q]);
        const t = (theta >= 0 ? 1 : -1) / (Math.abs(theta) + Math.sqrt(theta * theta + 1));
        const c = 1 / Math.sqrt(t * t + 1);
        const s = t * c;
        for (let k = 0; k < n; k++) {
          const x = a[k][p];
          const y = a[k][q];
          a[k][p] = c * x - s * y;
          a[k][q] = s * x + c * y;
        }
        for (let k = 0; k < n; k++) {
          const x = a[p][k];
          const y = a[q][k];
          a[p][k] = c * x - s * y;
          a[q][k] = s * x + c * y;
        }
        for (let k = 0; k < n; k++) {
          const x = v[k][p];
          const y = v[k][q];
          v[k][p] = c * x - s * y;
          v[k][q] = s * x + c * y;
        }
      }
    }
  }
  const order = Array.from({ length: n }, (_, i) => i).sort((i, j) => a[j][j] - a[i][i]);
  return { values: order.map((i) => a[i][i]), vectors: order.map((i) => v.map((row) => row[i])) };
}

/** Rows of length 1 around `groups` random directions, noise as given. */
export function unitField(seed: number, labels: ArrayLike<number>, dim: number, noise: number): Float32Array {
  const random = new Random(seed);
  const groups = Math.max(...Array.from(labels)) + 1;
  const centres = Array.from({ length: groups }, () => Array.from({ length: dim }, () => random.normal()));
  const out = new Float32Array(labels.length * dim);
  for (let i = 0; i < labels.length; i++) {
    const row = centres[labels[i]].map((v) => v + noise * random.normal());
    const norm = Math.hypot(...row);
    for (let k = 0; k < dim; k++) out[i * dim + k] = row[k] / norm;
  }
  return out;
}

export function randomSymmetric(seed: number, n: number): Float64Array {
  const random = new Random(seed, n);
  const out = new Float64Array(n * n);
  for (let i = 0; i < n; i++) for (let j = 0; j <= i; j++) out[i * n + j] = out[j * n + i] = random.normal();
  return out;
}
