/** Ridge regression in closed form, for probes: sums are gathered image by image, so features need not be kept. */

/** Pull towards zero, relative to features of unit variance: enough to bear features that repeat each other. */
const LAMBDA = 1e-3;

export interface LinearModel {
  readonly dim: number;
  readonly outputs: number;
  /** [dim, outputs] */
  readonly weights: Float64Array;
  /** [outputs] */
  readonly bias: Float64Array;
}

/** Weighted first and second moments of features x [dim] and targets q [outputs]. */
export class RidgeFit {
  readonly dim: number;
  readonly outputs: number;
  #total = 0;
  readonly #features: Float64Array; // sum w x
  readonly #targets: Float64Array; // sum w q
  readonly #squares: Float64Array; // sum w x x^T, lower triangle
  readonly #products: Float64Array; // sum w x q^T

  constructor(dim: number, outputs: number) {
    this.dim = dim;
    this.outputs = outputs;
    this.#features = new Float64Array(dim);
    this.#targets = new Float64Array(outputs);
    this.#squares = new Float64Array(dim * dim);
    this.#products = new Float64Array(dim * outputs);
  }

  /** @param rows [n, dim] @param targets [n, outputs] @param weights [n], not negative */
  add(rows: Float32Array, targets: Float32Array, weights: Float32Array): void {
    const { dim, outputs } = this;
    for (let i = 0; i < weights.length; i++) {
      const weight = weights[i];
      if (weight === 0) continue;
      this.#total += weight;
      const row = rows.subarray(i * dim, (i + 1) * dim);
      for (let c = 0; c < outputs; c++) this.#targets[c] += weight * targets[i * outputs + c];
      for (let k = 0; k < dim; k++) {
        const value = weight * row[k];
        this.#features[k] += value;
        for (let j = 0, at = k * dim; j <= k; j++) this.#squares[at + j] += value * row[j];
        for (let c = 0; c < outputs; c++) this.#products[k * outputs + c] += value * targets[i * outputs + c];
      }
    }
  }

  /** The sum of all weights so far. */
  get total(): number {
    return this.#total;
  }

  /** Adds what another fit of the same sizes has gathered, its weights times `factor`. */
  join(other: RidgeFit, factor: number): void {
    this.#total += factor * other.#total;
    for (const [own, more] of [
      [this.#features, other.#features],
      [this.#targets, other.#targets],
      [this.#squares, other.#squares],
      [this.#products, other.#products],
    ] as const) {
      for (let i = 0; i < own.length; i++) own[i] += factor * more[i];
    }
  }

  /** Mean and standard deviation of each feature; 1 where it does not vary. */
  scale(): { mean: Float64Array; deviation: Float64Array } {
    const { dim } = this;
    const mean = this.#features.map((sum) => sum / this.#total);
    const deviation = mean.map((m, k) => {
      const variance = this.#squares[k * dim + k] / this.#total - m * m;
      return variance > 1e-10 * (m * m + 1e-30) ? Math.sqrt(variance) : 1;
    });
    return { mean, deviation };
  }

  /**
   * Minimises mean w |W^T (x - mean) / deviation + b - q|^2 + LAMBDA |W|^2; b is not pulled. The result is for x as it is.
   * @throws Error without any weight
   */
  solve(): LinearModel {
    const { dim, outputs } = this;
    if (this.#total === 0) throw new Error('RidgeFit: nothing was added.');
    const { mean, deviation } = this.scale();
    const matrix = new Float64Array(dim * dim);
    const right = new Float64Array(dim * outputs);
    for (let k = 0; k < dim; k++) {
      for (let j = 0; j <= k; j++)
        matrix[k * dim + j] = (this.#squares[k * dim + j] / this.#total - mean[k] * mean[j]) / (deviation[k] * deviation[j]);
      matrix[k * dim + k] += LAMBDA;
      for (let c = 0; c < outputs; c++)
        right[k * outputs + c] =
          (this.#products[k * outputs + c] / this.#total - (mean[k] * this.#targets[c]) / this.#total) / deviation[k];
    }
    solvePositive(matrix, right, dim, outputs);
    const bias = this.#targets.map((sum) => sum / this.#total);
    for (let k = 0; k < dim; k++) {
      for (let c = 0; c < outputs; c++) {
        right[k * outputs + c] /= deviation[k];
        bias[c] -= right[k * outputs + c] * mean[k];
      }
    }
    return { dim, outputs, weights: right, bias };
  }
}

/** Solves A X = B in place by Cholesky; A [n, n] lower triangle, positive definite, destroyed; B [n, columns] becomes X. */
function solvePositive(a: Float64Array, b: Float64Array, n: number, columns: number): void {
  for (let i = 0; i < n; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = a[i * n + j];
      for (let k = 0; k < j; k++) sum -= a[i * n + k] * a[j * n + k];
      a[i * n + j] = i === j ? Math.sqrt(Math.max(sum, 1e-300)) : sum / a[j * n + j];
    }
  }
  for (let c = 0; c < columns; c++) {
    for (let i = 0; i < n; i++) {
      let sum = b[i * columns + c];
      for (let k = 0; k < i; k++) sum -= a[i * n + k] * b[k * columns + c];
      b[i * columns + c] = sum / a[i * n + i];
    }
    for (let i = n - 1; i >= 0; i--) {
      let sum = b[i * columns + c];
      for (let k = i + 1; k < n; k++) sum -= a[k * n + i] * b[k * columns + c];
      b[i * columns + c] = sum / a[i * n + i];
    }
  }
}

/** @param rows [n, dim] @returns [n, outputs] */
export function predictLinear({ dim, outputs, weights, bias }: LinearModel, rows: Float32Array): Float32Array {
  const n = rows.length / dim;
  const out = new Float32Array(n * outputs);
  const sums = new Float64Array(outputs);
  for (let i = 0; i < n; i++) {
    sums.set(bias);
    for (let k = 0; k < dim; k++) {
      const value = rows[i * dim + k];
      for (let c = 0; c < outputs; c++) sums[c] += value * weights[k * outputs + c];
    }
    out.set(sums, i * outputs);
  }
  return out;
}
