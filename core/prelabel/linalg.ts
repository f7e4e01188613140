/**
 * Dense symmetric eigenproblems and Lanczos, in float64. Small matrices only (a few hundred rows): covariances, cluster
 * scatter, Procrustes; not a general linear algebra library.
 */
import { Random } from '../random.ts';

/** Eigenvalues descending; `vectors` holds eigenvector k in row k. */
export interface Eigen {
  readonly values: Float64Array;
  /** [n, n], row k = unit eigenvector of values[k]. */
  readonly vectors: Float64Array;
}

/** Square root of a^2 + b^2 without overflow. */
function hypot2(a: number, b: number): number {
  const x = Math.abs(a);
  const y = Math.abs(b);
  if (x === 0) return y;
  if (y === 0) return x;
  const r = x > y ? y / x : x / y;
  return (x > y ? x : y) * Math.sqrt(1 + r * r);
}

/**
 * QL with implicit shifts on a symmetric tridiagonal matrix (EISPACK tql2); updates the columns of `z` alike.
 * @param d [n] diagonal, replaced by the eigenvalues (any order)
 * @param e [n] off-diagonal in e[1..n-1] (e[0] unused), destroyed
 * @param z [n, n] rows rotated in place: row k ends as the eigenvector of d[k] in the basis that z's rows described
 */
function tridiagonalQl(d: Float64Array, e: Float64Array, z: Float64Array): void {
  const n = d.length;
  const width = n === 0 ? 0 : z.length / n;
  for (let i = 1; i < n; i++) e[i - 1] = e[i];
  if (n > 0) e[n - 1] = 0;
  for (let l = 0; l < n; l++) {
    for (let iteration = 0; ; iteration++) {
      let m = l;
      for (; m < n - 1; m++) {
        const scale = Math.abs(d[m]) + Math.abs(d[m + 1]);
        if (Math.abs(e[m]) <= Number.EPSILON * scale) break;
      }
      if (m === l) break;
      if (iteration === 60) throw new Error(`tridiagonalQl: eigenvalue ${l} of ${n} did not converge; are all entries finite?`);
      let g = (d[l + 1] - d[l]) / (2 * e[l]);
      let r = hypot2(g, 1);
      g = d[m] - d[l] + e[l] / (g + (g >= 0 ? r : -r));
      let s = 1;
      let c = 1;
      let p = 0;
      let i = m - 1;
      for (; i >= l; i--) {
        let f = s * e[i];
        const b = c * e[i];
        r = hypot2(f, g);
        e[i + 1] = r;
        if (r === 0) {
          d[i + 1] -= p;
          e[m] = 0;
          break;
        }
        s = f / r;
        c = g / r;
        g = d[i + 1] - p;
        r = (d[i] - g) * s + 2 * c * b;
        p = s * r;
        d[i + 1] = g + p;
        g = c * r - b;
        const upper = (i + 1) * width;
        const lower = i * width;
        for (let k = 0; k < width; k++) {
          f = z[upper + k];
          z[upper + k] = s * z[lower + k] + c * f;
          z[lower + k] = c * z[lower + k] - s * f;
        }
      }
      if (r === 0 && i >= l) continue;
      d[l] -= p;
      e[l] = g;
      e[m] = 0;
    }
  }
}

/** Orders eigenpairs by value, descending. */
function sorted(values: Float64Array, vectors: Float64Array): Eigen {
  const n = values.length;
  const width = n === 0 ? 0 : vectors.length / n;
  const order = Array.from({ length: n }, (_, i) => i).sort((a, b) => values[b] - values[a]);
  const outValues = new Float64Array(n);
  const outVectors = new Float64Array(vectors.length);
  order.forEach((from, to) => {
    outValues[to] = values[from];
    outVectors.set(vectors.subarray(from * width, (from + 1) * width), to * width);
  });
  return { values: outValues, vectors: outVectors };
}

/**
 * All eigenpairs of a symmetric matrix: Householder tridiagonalisation (Golub & Van Loan 8.3.1), then QL.
 * @param matrix [n, n] row-major, symmetric; not changed
 * @throws Error when entries are not finite
 */
export function symmetricEigen(matrix: Float64Array, n: number): Eigen {
  const a = Float64Array.from(matrix);
  const d = new Float64Array(n);
  const e = new Float64Array(n);
  const q = new Float64Array(n * n); // product of reflectors, Q^T in rows at the end
  for (let i = 0; i < n; i++) q[i * n + i] = 1;
  const v = new Float64Array(n);
  const p = new Float64Array(n);
  for (let k = 0; k < n - 2; k++) {
    let norm = 0;
    for (let i = k + 1; i < n; i++) norm = hypot2(norm, a[i * n + k]);
    if (norm === 0) continue;
    const alpha = a[(k + 1) * n + k] > 0 ? -norm : norm;
    let vv = 0;
    for (let i = k + 1; i < n; i++) {
      v[i] = a[i * n + k] - (i === k + 1 ? alpha : 0);
      vv += v[i] * v[i];
    }
    if (vv === 0) continue;
    const beta = 2 / vv;
    // p = beta A v, w = p - (beta p.v / 2) v, A <- A - v w^T - w v^T
    let pv = 0;
    for (let i = k + 1; i < n; i++) {
      let sum = 0;
      const row = i * n;
      for (let j = k + 1; j < n; j++) sum += a[row + j] * v[j];
      p[i] = beta * sum;
      pv += p[i] * v[i];
    }
    const half = (beta * pv) / 2;
    for (let i = k + 1; i < n; i++) p[i] -= half * v[i];
    for (let i = k + 1; i < n; i++) {
      const row = i * n;
      for (let j = k + 1; j < n; j++) a[row + j] -= v[i] * p[j] + p[i] * v[j];
    }
    a[(k + 1) * n + k] = alpha;
    a[k * n + k + 1] = alpha;
    for (let i = k + 2; i < n; i++) a[i * n + k] = a[k * n + i] = 0;
    // Rows of q become H q: q <- q - beta v (v^T q)
    p.fill(0);
    for (let i = k + 1; i < n; i++) {
      const row = i * n;
      const vi = v[i];
      for (let j = 0; j < n; j++) p[j] += vi * q[row + j];
    }
    for (let i = k + 1; i < n; i++) {
      const row = i * n;
      const scaled = beta * v[i];
      for (let j = 0; j < n; j++) q[row + j] -= scaled * p[j];
    }
  }
  for (let i = 0; i < n; i++) {
    d[i] = a[i * n + i];
    e[i] = i > 0 ? a[i * n + i - 1] : 0;
  }
  tridiagonalQl(d, e, q);
  return sorted(d, q);
}

/**
 * Largest eigenpairs of a symmetric operator by Lanczos with full reorthogonalisation (Golub & Van Loan 10.3).
 * @param multiply writes A x into the second argument; both of length n
 * @param steps dimension of the Krylov space; fewer are used when it closes earlier
 * @param deflate unit vectors (length n) that are known eigenvectors and stay out of the search
 */
export function lanczos(
  n: number,
  multiply: (x: Float64Array, out: Float64Array) => void,
  steps: number,
  count: number,
  deflate: readonly Float64Array[] = [],
): Eigen {
  const most = Math.min(steps, n - deflate.length);
  const random = new Random(7, n);
  const basis: Float64Array[] = [];
  const diagonal: number[] = [];
  const off: number[] = [];
  let q = new Float64Array(n);
  for (let i = 0; i < n; i++) q[i] = random.normal();
  const w = new Float64Array(n);
  const project = (x: Float64Array, against: readonly Float64Array[]): void => {
    for (const b of against) {
      let dot = 0;
      for (let i = 0; i < n; i++) dot += b[i] * x[i];
      for (let i = 0; i < n; i++) x[i] -= dot * b[i];
    }
  };
  const normalize = (x: Float64Array): number => {
    let norm = 0;
    for (let i = 0; i < n; i++) norm += x[i] * x[i];
    norm = Math.sqrt(norm);
    if (norm > 0) for (let i = 0; i < n; i++) x[i] /= norm;
    return norm;
  };
  project(q, deflate);
  if (normalize(q) === 0) return { values: new Float64Array(0), vectors: new Float64Array(0) };
  while (basis.length < most) {
    basis.push(q);
    multiply(q, w);
    let alpha = 0;
    for (let i = 0; i < n; i++) alpha += q[i] * w[i];
    diagonal.push(alpha);
    if (basis.length === most) break;
    const next = Float64Array.from(w);
    // Twice is enough (Parlett): once loses orthogonality near convergence.
    project(next, deflate);
    project(next, basis);
    project(next, deflate);
    project(next, basis);
    const beta = normalize(next);
    if (beta < 1e-12) break;
    off.push(beta);
    q = next;
  }
  const m = basis.length;
  const d = Float64Array.from(diagonal);
  const e = new Float64Array(m);
  for (let i = 1; i < m; i++) e[i] = off[i - 1];
  const z = new Float64Array(m * m);
  for (let i = 0; i < m; i++) z[i * m + i] = 1;
  tridiagonalQl(d, e, z);
  const small = sorted(d, z);
  const kept = Math.min(count, m);
  const vectors = new Float64Array(kept * n);
  for (let k = 0; k < kept; k++) {
    const row = vectors.subarray(k * n, (k + 1) * n);
    for (let j = 0; j < m; j++) {
      const weight = small.vectors[k * m + j];
      const b = basis[j];
      for (let i = 0; i < n; i++) row[i] += weight * b[i];
    }
  }
  return { values: small.values.slice(0, kept), vectors };
}
