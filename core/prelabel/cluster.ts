/**
 * Clusters of regions over the whole set: spherical k-means++ on region descriptors, then average linkage of the centres.
 * Knows vectors and weights only.
 */
import { Random } from '../random.ts';
import { cutTree, linkage } from './tree.ts';

export interface ClusterOptions {
  /** Starting number of clusters; default clip(sqrt(regions / 2), 8, 512). */
  readonly start?: number;
  readonly restarts?: number;
  /** Centres whose calibrated cosine is at least this are one cluster. */
  readonly mergeAt?: number;
  /** Most clusters after merging: the least alike stay apart. */
  readonly most?: number;
  readonly seed?: number;
}

export interface Clustering {
  /** Cluster of each row, 0..count-1; larger clusters first. */
  readonly labels: Int32Array;
  readonly count: number;
  /** [count, dim], length 1. */
  readonly centres: Float32Array;
  /** Mean calibrated cosine of the members to their centre, 0..1. */
  readonly compactness: Float32Array;
  /** Calibrated cosine of each row to its centre. */
  readonly typicality: Float32Array;
  /** Calibrated cosine to the own centre minus that to the next best centre, 0..1; 1 with a single cluster. */
  readonly margin: Float32Array;
}

/** Rows used to find centres; the rest are assigned. */
const sampleSize = 20_000;

/**
 * @param rows [n, dim], length 1 each
 * @param weights [n], for instance sqrt(area)
 * @param c0 zero of the calibrated cosine
 */
export function clusterRegions(
  rows: Float32Array,
  weights: Float32Array,
  dim: number,
  c0: number,
  options: ClusterOptions = {},
): Clustering {
  const n = weights.length;
  if (n === 0) {
    const none = new Float32Array(0);
    return { labels: new Int32Array(0), count: 0, centres: none, compactness: none, typicality: none, margin: none };
  }
  const k = Math.min(n, options.start ?? Math.min(512, Math.max(8, Math.round(Math.sqrt(n / 2)))));
  const random = new Random(options.seed ?? 5, n, k);
  const picked = n <= sampleSize ? null : random.permutation(n).subarray(0, sampleSize);
  const sample = picked === null ? rows : gather(rows, picked, dim);
  const sampleWeights = picked === null ? weights : Float32Array.from(picked, (i) => weights[i]);
  let best: { centres: Float32Array; inertia: number } | null = null;
  for (let restart = 0; restart < (options.restarts ?? 5); restart++) {
    const tried = sphericalKMeans(sample, sampleWeights, dim, k, random);
    if (best === null || tried.inertia < best.inertia) best = tried;
  }
  return mergeAndAssign(rows, weights, dim, c0, best!.centres, options);
}

function gather(rows: Float32Array, picked: Int32Array, dim: number): Float32Array {
  const out = new Float32Array(picked.length * dim);
  picked.forEach((from, to) => out.set(rows.subarray(from * dim, (from + 1) * dim), to * dim));
  return out;
}

/**
 * k-means on the sphere with k-means++ starts. Inertia is the weighted sum of 1 - cosine to the nearest centre.
 * @returns centres [k, dim], length 1
 */
export function sphericalKMeans(
  rows: Float32Array,
  weights: Float32Array,
  dim: number,
  k: number,
  random: Random,
  iterations = 25,
): { centres: Float32Array; inertia: number } {
  const n = weights.length;
  const centres = new Float32Array(k * dim);
  const distance = new Float64Array(n).fill(2);
  let pick = weightedPick(weights, random);
  for (let c = 0; c < k; c++) {
    centres.set(rows.subarray(pick * dim, (pick + 1) * dim), c * dim);
    const chance = new Float64Array(n);
    for (let i = 0; i < n; i++) {
      distance[i] = Math.min(distance[i], Math.max(0, 1 - dotAt(rows, i, centres, c, dim)));
      chance[i] = weights[i] * distance[i];
    }
    pick = weightedPick(chance, random);
  }
  const labels = new Int32Array(n).fill(-1);
  let inertia = 0;
  for (let iteration = 0; iteration < iterations; iteration++) {
    let moved = 0;
    inertia = 0;
    const sums = new Float64Array(k * dim);
    const worst = { row: 0, far: -1 };
    const members = new Int32Array(k);
    for (let i = 0; i < n; i++) {
      let label = 0;
      let most = -2;
      for (let c = 0; c < k; c++) {
        const cosine = dotAt(rows, i, centres, c, dim);
        if (cosine > most) {
          most = cosine;
          label = c;
        }
      }
      if (label !== labels[i]) moved++;
      labels[i] = label;
      members[label]++;
      const far = weights[i] * (1 - most);
      inertia += far;
      if (far > worst.far) {
        worst.far = far;
        worst.row = i;
      }
      for (let j = 0; j < dim; j++) sums[label * dim + j] += weights[i] * rows[i * dim + j];
    }
    for (let c = 0; c < k; c++) {
      // An empty cluster starts again at the row that fits worst.
      const from = members[c] === 0 ? rows.subarray(worst.row * dim, (worst.row + 1) * dim) : sums.subarray(c * dim, (c + 1) * dim);
      let norm = 0;
      for (let j = 0; j < dim; j++) norm += from[j] ** 2;
      if (norm > 0) for (let j = 0; j < dim; j++) centres[c * dim + j] = from[j] / Math.sqrt(norm);
    }
    if (moved === 0) break;
  }
  return { centres, inertia };
}

function dotAt(a: Float32Array, i: number, b: Float32Array, j: number, dim: number): number {
  let sum = 0;
  for (let k = 0, p = i * dim, q = j * dim; k < dim; k++) sum += a[p + k] * b[q + k];
  return sum;
}

/** An index drawn with probability proportional to its weight; uniform when all are 0. */
function weightedPick(weights: Float32Array | Float64Array, random: Random): number {
  let total = 0;
  for (const w of weights) total += w;
  if (total <= 0) return random.int(weights.length);
  let target = random.uniform() * total;
  for (let i = 0; i < weights.length; i++) {
    target -= weights[i];
    if (target < 0) return i;
  }
  return weights.length - 1;
}

function mergeAndAssign(
  rows: Float32Array,
  weights: Float32Array,
  dim: number,
  c0: number,
  start: Float32Array,
  options: ClusterOptions,
): Clustering {
  const n = weights.length;
  const k = start.length / dim;
  const everyone = Array.from({ length: k }, (_, i) => i);
  const tree = linkage(
    start,
    new Int32Array(k).fill(1),
    dim,
    everyone.map((i) => everyone.filter((j) => j !== i)),
  );
  const most = options.most ?? 64;
  let level = c0 + (options.mergeAt ?? 0.7) * (1 - c0);
  let cut = cutTree(tree, level);
  if (cut.count > most) {
    // Levels fall towards the root: the merge that leaves `most` clusters.
    level = tree.level[k - most - 1];
    cut = cutTree(tree, level);
  }

  // Centres of merged clusters are means of their members, so assign, average, assign.
  let centres = new Float32Array(cut.count * dim);
  for (let c = 0; c < k; c++) for (let j = 0; j < dim; j++) centres[cut.labels[c] * dim + j] += start[c * dim + j];
  let count = cut.count;
  let labels = new Int32Array(n);
  for (let pass = 0; pass < 2; pass++) {
    normalizeRows(centres, dim);
    for (let i = 0; i < n; i++) labels[i] = nearestTwo(rows, i, centres, count, dim).first;
    const sums = new Float32Array(count * dim);
    for (let i = 0; i < n; i++) for (let j = 0; j < dim; j++) sums[labels[i] * dim + j] += weights[i] * rows[i * dim + j];
    centres = sums;
  }
  const members = new Int32Array(count);
  for (let i = 0; i < n; i++) members[labels[i]]++;
  const order = everyone
    .slice(0, count)
    .filter((c) => members[c] > 0)
    .sort((a, b) => members[b] - members[a]);
  const ordered = new Float32Array(order.length * dim);
  order.forEach((from, to) => ordered.set(centres.subarray(from * dim, (from + 1) * dim), to * dim));
  normalizeRows(ordered, dim);
  count = order.length;

  const calibrate = (cosine: number): number => Math.min(1, Math.max(0, (cosine - c0) / Math.max(1e-9, 1 - c0)));
  labels = new Int32Array(n);
  const typicality = new Float32Array(n);
  const margin = new Float32Array(n);
  const compactness = new Float32Array(count);
  const size = new Int32Array(count);
  for (let i = 0; i < n; i++) {
    const two = nearestTwo(rows, i, ordered, count, dim);
    labels[i] = two.first;
    typicality[i] = calibrate(two.cosine);
    margin[i] = count === 1 ? 1 : typicality[i] - calibrate(two.second);
    compactness[two.first] += typicality[i];
    size[two.first]++;
  }
  for (let c = 0; c < count; c++) compactness[c] /= Math.max(1, size[c]);
  return { labels, count, centres: ordered, compactness, typicality, margin };
}

function normalizeRows(rows: Float32Array, dim: number): void {
  for (let at = 0; at < rows.length; at += dim) {
    let norm = 0;
    for (let j = 0; j < dim; j++) norm += rows[at + j] ** 2;
    if (norm > 0) for (let j = 0; j < dim; j++) rows[at + j] /= Math.sqrt(norm);
  }
}

function nearestTwo(
  rows: Float32Array,
  i: number,
  centres: Float32Array,
  count: number,
  dim: number,
): { first: number; cosine: number; second: number } {
  let first = 0;
  let cosine = -2;
  let second = -2;
  for (let c = 0; c < count; c++) {
    const value = dotAt(rows, i, centres, c, dim);
    if (value > cosine) {
      second = cosine;
      cosine = value;
      first = c;
    } else if (value > second) second = value;
  }
  return { first, cosine, second };
}
