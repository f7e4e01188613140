/**
 * Probes: how well features tell the classes of given masks apart, without touching the network. A linear one (ridge
 * regression of a patch's class shares, closed form) and a k-NN one (weighted vote of the nearest training patches, as in
 * Balazevic et al. 2023). The protocol of a comparison: fit on the training images, score the test images at the
 * resolution of their masks, the same for every network and for plain colours.
 */
import type { ProbeScore } from '../contract/index.ts';
import { Random } from '../random.ts';
import { Confusion, patchLabels } from './segmentation.ts';
import { predictLinear, RidgeFit, type LinearModel } from './ridge.ts';
import type { LabelMap } from './objects.ts';

/** Training patches that may vote: every test patch is compared with each of them. */
const MEMORY = 8192;
/** Nearest patches that vote, and the temperature of their cosines (the values k-NN classification of DINO uses: 20, 0.07). */
const NEIGHBOURS = 20;
const TEMPERATURE = 0.07;
/** Queries compared at once: bounds the memory of their products. */
const QUERIES = 2048;

/** Rows a [n, dim] times rows b [m, dim], transposed: [n, m]. An executor's matrix product, or plain loops. */
export type Products = (a: Float32Array, b: Float32Array, dim: number) => Promise<Float32Array>;

/** One image's patches. */
export interface ProbePatches {
  /** [gridHeight * gridWidth, dim] */
  readonly patches: Float32Array;
  readonly gridWidth: number;
  readonly gridHeight: number;
}

/** Use: `learn` each training image, then `score` each test image, then `result`. */
export class FeatureProbe {
  readonly #dim: number;
  readonly #values: readonly number[];
  readonly #products: Products;
  readonly #fit: RidgeFit;
  readonly #perImage: number;
  readonly #random: Random;
  readonly #memory: { rows: Float32Array[]; shares: Float32Array[] } = { rows: [], shares: [] };
  readonly #linear: Confusion;
  readonly #nearest: Confusion;
  #fitted: { model: LinearModel; scale: ReturnType<RidgeFit['scale']>; memory: Float32Array; shares: Float32Array } | null = null;

  /**
   * @param values class numbers of the masks that are scored, in the order of the result
   * @param trainImages how many images will be learned: each gives as many patches to the k-NN memory
   */
  constructor(dim: number, values: readonly number[], trainImages: number, products: Products, seed = 0) {
    this.#dim = dim;
    this.#values = values;
    this.#products = products;
    this.#fit = new RidgeFit(dim, values.length);
    this.#perImage = Math.max(1, Math.floor(MEMORY / trainImages));
    this.#random = new Random(seed, 0x960b);
    this.#linear = new Confusion(values);
    this.#nearest = new Confusion(values);
  }

  learn({ patches, gridWidth, gridHeight }: ProbePatches, labels: LabelMap): void {
    const { shares, weights } = patchLabels(labels, gridWidth, gridHeight, this.#values);
    this.#fit.add(patches, shares, weights);
    const labelled = Array.from(weights.keys()).filter((patch) => weights[patch] > 0);
    this.#random.shuffle(labelled);
    for (const patch of labelled.slice(0, this.#perImage)) {
      this.#memory.rows.push(patches.slice(patch * this.#dim, (patch + 1) * this.#dim));
      this.#memory.shares.push(shares.slice(patch * this.#values.length, (patch + 1) * this.#values.length));
    }
  }

  /** @throws Error before anything was learned */
  async score({ patches, gridWidth, gridHeight }: ProbePatches, labels: LabelMap): Promise<void> {
    const { model } = (this.#fitted ??= this.#finish());
    this.#linear.add(predictLinear(model, patches), gridWidth, gridHeight, labels);
    this.#nearest.add(await this.#vote(patches), gridWidth, gridHeight, labels);
  }

  result(): ProbeScore {
    return { linear: this.#linear.iou(), nearest: this.#nearest.iou() };
  }

  #finish() {
    const model = this.#fit.solve();
    const scale = this.#fit.scale();
    const memory = standardUnit(Float32Array.from(this.#memory.rows.flatMap((row) => [...row])), this.#dim, scale);
    return { model, scale, memory, shares: Float32Array.from(this.#memory.shares.flatMap((row) => [...row])) };
  }

  /** [patches, classes] */
  async #vote(patches: Float32Array): Promise<Float32Array> {
    const { memory, scale, shares } = this.#fitted!;
    const dim = this.#dim;
    const classes = this.#values.length;
    const kept = memory.length / dim;
    const queries = standardUnit(patches, dim, scale);
    const n = queries.length / dim;
    const votes = new Float32Array(n * classes);
    for (let from = 0; from < n; from += QUERIES) {
      const count = Math.min(QUERIES, n - from);
      const cosines = await this.#products(queries.subarray(from * dim, (from + count) * dim), memory, dim); // [count, kept]
      for (let i = 0; i < count; i++) {
        const row = cosines.subarray(i * kept, (i + 1) * kept);
        for (const neighbour of largest(row, NEIGHBOURS)) {
          const weight = Math.exp((row[neighbour] - 1) / TEMPERATURE);
          for (let c = 0; c < classes; c++) votes[(from + i) * classes + c] += weight * shares[neighbour * classes + c];
        }
        // Shares, so that patches with near and with far neighbours weigh alike when they are enlarged to pixels.
        let sum = 0;
        for (let c = 0; c < classes; c++) sum += votes[(from + i) * classes + c];
        if (sum > 0) for (let c = 0; c < classes; c++) votes[(from + i) * classes + c] /= sum;
      }
    }
    return votes;
  }
}

/** Each feature to mean 0 and deviation 1 over the training patches, then each row to length 1. */
function standardUnit(rows: Float32Array, dim: number, { mean, deviation }: ReturnType<RidgeFit['scale']>): Float32Array {
  const out = new Float32Array(rows.length);
  for (let at = 0; at < rows.length; at += dim) {
    let square = 0;
    for (let k = 0; k < dim; k++) {
      out[at + k] = (rows[at + k] - mean[k]) / deviation[k];
      square += out[at + k] ** 2;
    }
    const length = square > 0 ? 1 / Math.sqrt(square) : 0;
    for (let k = 0; k < dim; k++) out[at + k] *= length;
  }
  return out;
}

/** Positions of the `count` largest values, in no order: one pass, the smallest kept so far stands last. */
function largest(values: Float32Array, count: number): number[] {
  const kept: number[] = [];
  let least = -Infinity;
  for (let i = 0; i < values.length; i++) {
    if (kept.length === count && values[i] <= least) continue;
    if (kept.length === count) kept.pop();
    let at = kept.length;
    while (at > 0 && values[kept[at - 1]] < values[i]) at--;
    kept.splice(at, 0, i);
    least = values[kept[kept.length - 1]];
  }
  return kept;
}
