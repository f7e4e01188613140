/**
 * What the features of a set have in common: the zero of the calibrated cosine, the directions that only tell a patch's
 * place, mean and covariance. Computed from a sample, cached beside the features.
 */
import { createHash } from 'node:crypto';
import path from 'node:path';
import { Random } from '../random.ts';
import { readCache, writeCache } from './cachefile.ts';
import { unitRows } from './discover.ts';
import type { ImageFeatures, PatchFeatures } from './featureFile.ts';
import type { FeatureStore, PrelabelImage } from './features.ts';
import { symmetricEigen } from './linalg.ts';
import type { FeatureView } from './discover.ts';

export interface SetStatistics {
  readonly dim: number;
  /** Mean cosine between patches of different images: the zero of the calibrated cosine. Near 1: the network has collapsed. */
  readonly c0: number;
  /** [b, dim] orthonormal directions of place, removed when patches of different images are compared; b may be 0. */
  readonly position: Float32Array;
  /** [dim] mean of patches without those directions. */
  readonly mean: Float32Array;
  /** [k, dim] eigenvectors of their covariance, 99.9 % of its energy, at most 256. */
  readonly axes: Float32Array;
  /** [k] eigenvalues, descending. */
  readonly variances: Float32Array;
  /** Mean cosine between patches of different images in each view of `featureViews`. */
  readonly viewZeros: readonly number[];
}

const version = 2;
const sampledImages = 512;
const sampledPatches = 24_000;

/** Mean cosine between patches of different images, from each image's mean unit patch; within the image when there is one. */
export function meanCosine(unitMeans: readonly Float64Array[]): number {
  const count = unitMeans.length;
  if (count === 0) return 0;
  const dim = unitMeans[0].length;
  const sum = new Float64Array(dim);
  let own = 0;
  for (const mean of unitMeans) {
    for (let k = 0; k < dim; k++) {
      sum[k] += mean[k];
      own += mean[k] * mean[k];
    }
  }
  if (count === 1) return own;
  let total = 0;
  for (let k = 0; k < dim; k++) total += sum[k] * sum[k];
  return (total - own) / (count * (count - 1));
}

/** Mean over patches of x / |x|. */
export function unitMean(features: PatchFeatures): Float64Array {
  const { patches, dim } = features;
  const n = patches.length / dim;
  const mean = new Float64Array(dim);
  for (let i = 0; i < n; i++) {
    let norm = 0;
    for (let k = 0; k < dim; k++) norm += patches[i * dim + k] ** 2;
    const scale = norm > 0 ? 1 / (Math.sqrt(norm) * n) : 0;
    for (let k = 0; k < dim; k++) mean[k] += patches[i * dim + k] * scale;
  }
  return mean;
}

/**
 * Directions of place: what two independent halves of contentless pictures agree on, position by position. Leading
 * eigenvectors of the symmetric cross-covariance up to 90 % of its positive energy, at most dim / 16.
 * @param halves mean feature at each position over each half, minus its mean over positions, [n, dim]
 * @returns [b, dim]
 */
export function positionDirections(halves: readonly [Float64Array, Float64Array], dim: number): Float32Array {
  const [a, b] = halves;
  const n = a.length / dim;
  const cross = new Float64Array(dim * dim);
  for (let p = 0; p < n; p++) {
    for (let i = 0; i < dim; i++) {
      const ai = a[p * dim + i];
      const bi = b[p * dim + i];
      for (let j = 0; j <= i; j++) cross[i * dim + j] += (ai * b[p * dim + j] + bi * a[p * dim + j]) / (2 * n);
    }
  }
  for (let i = 0; i < dim; i++) for (let j = 0; j < i; j++) cross[j * dim + i] = cross[i * dim + j];
  const { values, vectors } = symmetricEigen(cross, dim);
  let energy = 0;
  for (const v of values) energy += Math.max(0, v);
  let kept = 0;
  let sum = 0;
  while (kept < Math.floor(dim / 16) && values[kept] > 0 && sum < 0.9 * energy) sum += values[kept++];
  return Float32Array.from(vectors.subarray(0, kept * dim));
}

/** Removes the directions of place. @param rows [n, dim] @param position [b, dim] orthonormal */
export function withoutPosition(rows: Float32Array, dim: number, position: Float32Array): Float32Array {
  const out = rows.slice();
  const directions = position.length / dim;
  for (let at = 0; at < out.length; at += dim) {
    for (let b = 0; b < directions; b++) {
      let dot = 0;
      for (let k = 0; k < dim; k++) dot += rows[at + k] * position[b * dim + k];
      for (let k = 0; k < dim; k++) out[at + k] -= dot * position[b * dim + k];
    }
  }
  return out;
}

/**
 * Pictures without content, in the network's normalised values: flat ones and noise of several grains. Flat and noise
 * pictures, not means over the set: in sets with a fixed camera the mean at a place is what stands there.
 * @returns [count][3 * height * width]
 */
export function contentlessInputs(height: number, width: number, count: number): Float32Array[] {
  return Array.from({ length: count }, (_, index) => {
    const random = new Random(11, index);
    const out = new Float32Array(3 * height * width);
    if (index < 4) return out.fill([0, -1.5, 1.5, 0.7][index]);
    const grain = 1 << (index % 4); // side of equal squares, pixels
    const across = Math.ceil(width / grain);
    const down = Math.ceil(height / grain);
    for (let c = 0; c < 3; c++) {
      const values = Float32Array.from({ length: across * down }, () => random.normal());
      for (let y = 0; y < height; y++) {
        for (let x = 0; x < width; x++) out[(c * height + y) * width + x] = values[Math.floor(y / grain) * across + Math.floor(x / grain)];
      }
    }
    return out;
  });
}

async function learnPosition(store: FeatureStore, size: { width: number; height: number }): Promise<Float32Array> {
  const inputs = contentlessInputs(size.height, size.width, 12);
  let halves: [Float64Array, Float64Array] | null = null;
  let dim = 0;
  for (let i = 0; i < inputs.length; i += 4) {
    const made = await store.forward(inputs.slice(i, i + 4), size.height, size.width);
    made.forEach(({ patches, dim: d }, j) => {
      dim = d;
      halves ??= [new Float64Array(patches.length), new Float64Array(patches.length)];
      // Even and odd pictures: both halves hold flat ones and every grain.
      const half = halves[j % 2];
      const n = patches.length / d;
      const mean = new Float64Array(d);
      for (let k = 0; k < patches.length; k++) mean[k % d] += patches[k] / n;
      for (let k = 0; k < patches.length; k++) half[k] += patches[k] - mean[k % d];
    });
  }
  return halves === null ? new Float32Array(0) : positionDirections(halves, dim);
}

/** Mean and eigen-decomposition of the covariance of sampled rows. @param rows [n, dim], position removed */
export function covarianceAxes(rows: Float32Array, dim: number, energyKept = 0.999): Pick<SetStatistics, 'mean' | 'axes' | 'variances'> {
  const n = rows.length / dim;
  const mean = new Float64Array(dim);
  for (let i = 0; i < n; i++) for (let k = 0; k < dim; k++) mean[k] += rows[i * dim + k] / n;
  const covariance = new Float64Array(dim * dim);
  const centred = new Float64Array(dim);
  for (let i = 0; i < n; i++) {
    for (let k = 0; k < dim; k++) centred[k] = rows[i * dim + k] - mean[k];
    for (let k = 0; k < dim; k++) {
      const value = centred[k] / n;
      const row = k * dim;
      for (let j = 0; j <= k; j++) covariance[row + j] += value * centred[j];
    }
  }
  for (let i = 0; i < dim; i++) for (let j = 0; j < i; j++) covariance[j * dim + i] = covariance[i * dim + j];
  const { values, vectors } = symmetricEigen(covariance, dim);
  let energy = 0;
  for (const v of values) energy += Math.max(0, v);
  let kept = 0;
  let sum = 0;
  while (kept < Math.min(dim, 256) && values[kept] > 0 && sum < energyKept * energy) sum += values[kept++];
  return {
    mean: Float32Array.from(mean),
    axes: Float32Array.from(vectors.subarray(0, kept * dim)),
    variances: Float32Array.from(values.subarray(0, kept)),
  };
}

/** Axes of the whitened view: the strongest few; weak ones are mostly noise in a small network. */
const viewAxes = 16;
const viewRidge = 0.1;

/**
 * Unit rows of the two ways in which patches of one image are compared: centred on the set's mean, and whitened along the
 * leading axes. The first keeps what the network finds important, the second gives faint differences a voice; together they
 * find more objects than either (nuclei with an untrained network, coffee leaves with a trained one).
 * @param rows [n, dim] as the network gave them
 */
export function featureViewRows(rows: Float32Array, statistics: SetStatistics): { unit: Float32Array; dim: number }[] {
  const { dim, mean, axes, variances } = statistics;
  const n = rows.length / dim;
  const k = Math.min(viewAxes, variances.length);
  let total = 0;
  for (const v of variances) total += v;
  const centred = unitRows(rows, dim, mean);
  const whitened = new Float32Array(n * k);
  for (let a = 0; a < k; a++) {
    const scale = 1 / Math.sqrt(variances[a] + (viewRidge * total) / dim + 1e-12);
    for (let i = 0; i < n; i++) {
      let dot = 0;
      for (let j = 0; j < dim; j++) dot += (rows[i * dim + j] - mean[j]) * axes[a * dim + j];
      whitened[i * k + a] = dot * scale;
    }
  }
  return k < 2
    ? [{ unit: centred, dim }]
    : [
        { unit: centred, dim },
        { unit: unitRows(whitened, k), dim: k },
      ];
}

/** The views of one image, ready for `candidates`. */
export function featureViews(features: ImageFeatures, statistics: SetStatistics): FeatureView[] {
  const { gridWidth, gridHeight, patches } = features;
  const shifted = features.shifted.map((rows) => featureViewRows(rows, statistics));
  return featureViewRows(patches, statistics).map(({ unit, dim }, v) => ({
    grid: { gridWidth, gridHeight, dim, unit },
    c0: statistics.viewZeros[v],
    shifted: shifted.map((views) => views[v].unit),
  }));
}

function meanRow(rows: Float32Array, dim: number): Float64Array {
  const mean = new Float64Array(dim);
  for (let i = 0; i < rows.length; i++) mean[i % dim] += (rows[i] * dim) / rows.length;
  return mean;
}

function statisticsFile(store: FeatureStore): string {
  return path.join(store.folder, `statistics-${store.options.shortSide}-${store.options.maxTokens}.bin`);
}

function digestOf(images: readonly PrelabelImage[]): string {
  const hash = createHash('sha256');
  for (const name of images.map((i) => `${i.hash}-${i.page}`).sort()) hash.update(name);
  return hash.digest('hex');
}

/** Cached statistics of this network and input size, of whatever set they were computed from; null when there are none. */
export async function cachedStatistics(store: FeatureStore, images?: readonly PrelabelImage[]): Promise<SetStatistics | null> {
  const content = await readCache(statisticsFile(store), 'statistics', version);
  if (content === null) return null;
  const { dim, c0, viewZeros, digest } = content.facts as { dim: number; c0: number; viewZeros: number[]; digest: string };
  if (images !== undefined && digest !== digestOf(images)) return null;
  if (store.backbone !== null && store.backbone.config.embedDim !== dim) return null;
  const { arrays } = content;
  const [position, mean, axes, variances] = ['position', 'mean', 'axes', 'variances'].map((name) => arrays.get(name));
  if (position === undefined || mean === undefined || axes === undefined || variances === undefined) return null;
  return { dim, c0, viewZeros, position, mean, axes, variances };
}

/**
 * Statistics of a set whose features are cached or can be computed; cached for next time.
 * @param images those whose features can be had; at least one
 */
export async function setStatistics(store: FeatureStore, images: readonly PrelabelImage[], signal?: AbortSignal): Promise<SetStatistics> {
  const cached = await cachedStatistics(store, images);
  if (cached !== null) return cached;
  const sizes = new Map<string, { count: number; size: { width: number; height: number } }>();
  for (const image of images) {
    const size = store.inputSize(image);
    const key = `${size.width}x${size.height}`;
    const entry = sizes.get(key) ?? { count: 0, size };
    entry.count++;
    sizes.set(key, entry);
  }
  const common = [...sizes.values()].sort((a, b) => b.count - a.count)[0].size;
  const position = store.backbone === null ? new Float32Array(0) : await learnPosition(store, common);

  const random = new Random(3, images.length);
  const sample =
    images.length <= sampledImages ? images : Array.from(random.permutation(images.length).subarray(0, sampledImages), (i) => images[i]);
  const perImage = Math.max(1, Math.floor(sampledPatches / sample.length));
  const means: Float64Array[] = [];
  const rows: Float32Array[] = [];
  const picks: Float32Array[] = [];
  let dim = 0;
  for (const image of sample) {
    signal?.throwIfAborted();
    const features = await store.get(image);
    dim = features.dim;
    means.push(unitMean(features));
    const n = features.patches.length / dim;
    const picked = random.permutation(n).subarray(0, perImage);
    const chosen = new Float32Array(picked.length * dim);
    picked.forEach((p, i) => chosen.set(features.patches.subarray(p * dim, (p + 1) * dim), i * dim));
    picks.push(chosen);
    rows.push(withoutPosition(chosen, dim, position));
  }
  const all = new Float32Array(rows.reduce((sum, r) => sum + r.length, 0));
  let at = 0;
  for (const part of rows) {
    all.set(part, at);
    at += part.length;
  }
  const partial: SetStatistics = { dim, c0: meanCosine(means), position, ...covarianceAxes(all, dim), viewZeros: [] };
  const viewMeans: Float64Array[][] = [[], []];
  for (const own of picks) featureViewRows(own, partial).forEach((view, v) => viewMeans[v].push(meanRow(view.unit, view.dim)));
  const result: SetStatistics = { ...partial, viewZeros: viewMeans.map(meanCosine) };
  await writeCache(
    statisticsFile(store),
    'statistics',
    version,
    { dim, c0: result.c0, viewZeros: result.viewZeros, digest: digestOf(images) },
    [
      { name: 'position', type: 'f32', values: result.position },
      { name: 'mean', type: 'f32', values: result.mean },
      { name: 'axes', type: 'f32', values: result.axes },
      { name: 'variances', type: 'f32', values: result.variances },
    ],
  );
  return result;
}
