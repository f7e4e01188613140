/**
 * Looks of a set as clusters of its descriptors, and how many images of each cluster a training list takes: cluster-based
 * sampling with a cap (DINOv2, section 3 and appendix A: k-means, at most 10,000 images a cluster).
 */
import { sphericalKMeans } from '../prelabel/index.ts';
import { Random } from '../random.ts';

export interface ImageClusters {
  /** Cluster of each row; larger clusters first. */
  readonly labels: Int32Array;
  readonly count: number;
  /** Cosine of each row to its centre. */
  readonly typicality: Float32Array;
}

/** Rows that the centres are found on; the rest are assigned. */
const sampleSize = 20_000;
const restarts = 3;

/** Clusters for n images: sqrt(n / 2), between 4 and 256, no more than images. */
export function clusterCount(n: number): number {
  return Math.min(n, 256, Math.max(4, Math.round(Math.sqrt(n / 2))));
}

/**
 * Spherical k-means, k-means++ starts, the best of three by inertia.
 * @param rows [n, dim], length 1 each
 */
export function clusterImages(rows: Float32Array, dim: number, k: number, seed = 1): ImageClusters {
  const n = rows.length / dim;
  if (n === 0) return { labels: new Int32Array(0), count: 0, typicality: new Float32Array(0) };
  const random = new Random(seed, n, k);
  let sample = rows;
  if (n > sampleSize) {
    sample = new Float32Array(sampleSize * dim);
    random
      .permutation(n)
      .subarray(0, sampleSize)
      .forEach((from, to) => sample.set(rows.subarray(from * dim, (from + 1) * dim), to * dim));
  }
  const weights = new Float32Array(sample.length / dim).fill(1);
  let best = sphericalKMeans(sample, weights, dim, k, random);
  for (let restart = 1; restart < restarts; restart++) {
    const tried = sphericalKMeans(sample, weights, dim, k, random);
    if (tried.inertia < best.inertia) best = tried;
  }
  const nearest = new Int32Array(n);
  const typicality = new Float32Array(n);
  const members = new Int32Array(k);
  for (let i = 0; i < n; i++) {
    let most = -2;
    for (let c = 0; c < k; c++) {
      let cosine = 0;
      for (let d = 0; d < dim; d++) cosine += rows[i * dim + d] * best.centres[c * dim + d];
      if (cosine <= most) continue;
      most = cosine;
      nearest[i] = c;
    }
    typicality[i] = most;
    members[nearest[i]]++;
  }
  const order = Array.from({ length: k }, (_, c) => c)
    .filter((c) => members[c] > 0)
    .sort((a, b) => members[b] - members[a] || a - b);
  const place = new Int32Array(k);
  order.forEach((c, to) => (place[c] = to));
  return { labels: nearest.map((c) => place[c]), count: order.length, typicality };
}

/**
 * Images that each cluster may give: the same cap for all, so clusters up to the cap give all they have.
 * @param sizes images of each cluster
 * @param keep images wanted in all; null: the cap is twice the median size, so an even set loses nothing
 * @returns for each cluster a number up to its size; with `keep` their sum is keep (or all there are), what the cap leaves
 *   over going to the largest clusters, one each
 */
export function shares(sizes: readonly number[], keep: number | null): number[] {
  const rising = sizes.filter((size) => size > 0).sort((a, b) => a - b);
  if (rising.length === 0) return sizes.map(() => 0);
  if (keep === null) {
    const half = rising.length >> 1;
    const median = rising.length % 2 === 1 ? rising[half] : (rising[half - 1] + rising[half]) / 2;
    return sizes.map((size) => Math.min(size, Math.ceil(2 * median)));
  }
  // Filling up from below: a cluster under the level gives all, the rest share evenly what is left.
  let left = keep;
  let cap = Infinity;
  for (let i = 0; i < rising.length; i++) {
    const even = Math.floor(left / (rising.length - i));
    if (rising[i] > even) {
      cap = even;
      left -= even * (rising.length - i);
      break;
    }
    left -= rising[i];
  }
  const given = sizes.map((size) => Math.min(size, cap));
  if (cap === Infinity) return given;
  const largest = sizes.map((_, c) => c).filter((c) => sizes[c] > cap);
  largest.sort((a, b) => sizes[b] - sizes[a] || a - b);
  for (const c of largest.slice(0, left)) given[c]++;
  return given;
}
