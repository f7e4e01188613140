/**
 * Probes: how well features tell the classes of given masks apart, without touching the network. A linear one (ridge
 * regression, closed form) and a k-NN one (weighted vote of the nearest training patches, as in Balazevic et al. 2023).
 * The protocol, the same for every network and for plain colours: a training patch has the class of most of its pixels;
 * classes weigh alike however rare they are; the scores of a test image's patches are enlarged to its mask.
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
/**
 * In the vote a class weighs by this power of its frequency. Without (0) rare classes hardly ever win; with the full
 * inverse (-1) one of 20 neighbours outvotes the rest. Leaf spots, 1.3 % of the patches, after 120 steps of the nano
 * network: IoU 21 %, 38 %, and 47 % between the two.
 */
const VOTE_POWER = -0.5;
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

interface Fitted {
  readonly model: LinearModel;
  readonly scale: ReturnType<RidgeFit['scale']>;
  /** [kept, dim] standardised, length 1. */
  readonly memory: Float32Array;
  /** Class of each, as a position in the values. */
  readonly classes: readonly number[];
  /** Of each class in the vote. */
  readonly weights: readonly number[];
}

/** Use: `learn` each training image, then `score` each test image, then `result`. */
export class FeatureProbe {
  readonly #dim: number;
  readonly #values: readonly number[];
  readonly #products: Products;
  /** Of the patches of each class. */
  readonly #fits: readonly RidgeFit[];
  readonly #perImage: number;
  readonly #random: Random;
  readonly #memory: { rows: Float32Array[]; classes: number[] } = { rows: [], classes: [] };
  readonly #linear: Confusion;
  readonly #nearest: Confusion;
  #fitted: Fitted | null = null;

  /**
   * @param values class numbers of the masks that are scored, in the order of the result
   * @param trainImages how many images will be learned: each gives as many patches to the k-NN memory
   */
  constructor(dim: number, values: readonly number[], trainImages: number, products: Products, seed = 0) {
    this.#dim = dim;
    this.#values = values;
    this.#products = products;
    this.#fits = values.map(() => new RidgeFit(dim, values.length));
    this.#perImage = Math.max(1, Math.floor(MEMORY / trainImages));
    this.#random = new Random(seed, 0x960b);
    this.#linear = new Confusion(values);
    this.#nearest = new Confusion(values);
  }

  learn({ patches, gridWidth, gridHeight }: ProbePatches, labels: LabelMap): void {
    const { shares, weights } = patchLabels(labels, gridWidth, gridHeight, this.#values);
    const classes = this.#values.length;
    const majority = (patch: number): number => largest(shares.subarray(patch * classes, (patch + 1) * classes), 1)[0];
    const row = (patch: number): Float32Array => patches.subarray(patch * this.#dim, (patch + 1) * this.#dim);
    const labelled = Array.from(weights.keys()).filter((patch) => weights[patch] > 0);
    const target = new Float32Array(classes);
    for (const patch of labelled) {
      const most = majority(patch);
      target.fill(0)[most] = 1;
      this.#fits[most].add(row(patch), target, weights.subarray(patch, patch + 1));
    }
    this.#random.shuffle(labelled);
    for (const patch of labelled.slice(0, this.#perImage)) {
      this.#memory.rows.push(row(patch).slice());
      this.#memory.classes.push(majority(patch));
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

  #finish(): Fitted {
    const { rows, classes } = this.#memory;
    const balanced = new RidgeFit(this.#dim, this.#values.length);
    for (const fit of this.#fits) if (fit.total > 0) balanced.join(fit, 1 / fit.total);
    const scale = balanced.scale();
    const memory = new Float32Array(rows.length * this.#dim);
    rows.forEach((row, i) => memory.set(row, i * this.#dim));
    const count = this.#values.map((_, c) => classes.filter((other) => other === c).length);
    return {
      model: balanced.solve(),
      scale,
      memory: standardUnit(memory, this.#dim, scale),
      classes,
      weights: count.map((n) => (n > 0 ? n ** VOTE_POWER : 0)),
    };
  }

  /** [patches, classes] */
  async #vote(patches: Float32Array): Promise<Float32Array> {
    const { memory, scale, classes: classOf, weights } = this.#fitted!;
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
          const c = classOf[neighbour];
          votes[(from + i) * classes + c] += weights[c] * Math.exp((row[neighbour] - 1) / TEMPERATURE);
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
