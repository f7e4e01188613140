/**
 * Patch features as colours: the three main directions of variance of a few pictures together, kept stable from checkpoint
 * to checkpoint so that colours do not flip while the network learns. Source: DINOv2 (Oquab et al. 2023), DINOv3's notebook.
 */
import type { RgbImage } from '../images/index.ts';
import type { PatchFeatures } from './featureFile.ts';
import { symmetricEigen } from './linalg.ts';

export interface PcaBasis {
  readonly dim: number;
  /** [dim] */
  readonly mean: Float64Array;
  /** [3, dim] directions, rotated to agree with the basis before; a patch's colour coordinates are axes (x - mean). */
  readonly axes: Float64Array;
  /** [patches, 3] coordinates of all patches, in the order given: what the next fit is aligned with. */
  readonly coordinates: Float64Array;
}

export interface PcaPictures {
  /** One pixel a patch, one picture for each features. */
  readonly pictures: RgbImage[];
  readonly basis: PcaBasis;
  /** Share of the variance that the three directions hold together, 0..1. */
  readonly explained: number;
  /** Share of the first alone; above 0.6 hints at collapse. */
  readonly explainedFirst: number;
}

/**
 * @param features at least one picture; all of one network
 * @param previous the basis of the same pictures at an earlier checkpoint, or null; ignored when the patches differ in number
 */
export function pcaPictures(features: readonly PatchFeatures[], previous: PcaBasis | null): PcaPictures {
  const dim = features[0].dim;
  const counts = features.map((f) => f.gridHeight * f.gridWidth);
  const n = counts.reduce((a, b) => a + b, 0);
  const mean = new Float64Array(dim);
  for (const { patches } of features) for (let i = 0; i < patches.length; i++) mean[i % dim] += patches[i] / n;
  const covariance = new Float64Array(dim * dim);
  const centred = new Float64Array(dim);
  for (const { patches } of features) {
    for (let at = 0; at < patches.length; at += dim) {
      for (let k = 0; k < dim; k++) centred[k] = patches[at + k] - mean[k];
      for (let k = 0; k < dim; k++) {
        const value = centred[k] / n;
        for (let j = 0; j <= k; j++) covariance[k * dim + j] += value * centred[j];
      }
    }
  }
  let variance = 0;
  for (let k = 0; k < dim; k++) {
    variance += covariance[k * dim + k];
    for (let j = 0; j < k; j++) covariance[j * dim + k] = covariance[k * dim + j];
  }
  const { values, vectors } = symmetricEigen(covariance, dim);
  // Rounding of equal features is no variance.
  const least = Math.max(1e-10 * variance, 1e-12 * mean.reduce((sum, v) => sum + v * v, 0));
  const axes = new Float64Array(3 * dim);
  for (let c = 0; c < Math.min(3, dim); c++) {
    const direction = vectors.subarray(c * dim, (c + 1) * dim);
    // Sign: the entry of largest magnitude is positive.
    let largest = 0;
    for (let k = 1; k < dim; k++) if (Math.abs(direction[k]) > Math.abs(direction[largest])) largest = k;
    // Whitened: unit variance. A direction without variance stays at zero instead of blowing up noise.
    const scale = values[c] > least ? Math.sign(direction[largest]) / Math.sqrt(values[c]) : 0;
    for (let k = 0; k < dim; k++) axes[c * dim + k] = direction[k] * scale;
  }
  let coordinates = project(features, mean, axes, dim, n);
  if (previous !== null && previous.coordinates.length === coordinates.length) {
    const rotation = procrustes(coordinates, previous.coordinates);
    const turned = new Float64Array(3 * dim);
    for (let c = 0; c < 3; c++)
      for (let b = 0; b < 3; b++) for (let k = 0; k < dim; k++) turned[c * dim + k] += rotation[b * 3 + c] * axes[b * dim + k];
    axes.set(turned);
    coordinates = project(features, mean, axes, dim, n);
  }
  let at = 0;
  const pictures = features.map(({ gridWidth, gridHeight }) => {
    const data = new Uint8Array(gridWidth * gridHeight * 3);
    for (let i = 0; i < data.length; i++, at++) data[i] = Math.round(255 / (1 + Math.exp(-2 * coordinates[at])));
    return { width: gridWidth, height: gridHeight, data };
  });
  const share = (count: number): number => {
    let sum = 0;
    for (let c = 0; c < Math.min(count, dim); c++) sum += Math.max(0, values[c]);
    return variance > least ? Math.min(1, sum / variance) : 1;
  };
  return { pictures, basis: { dim, mean, axes, coordinates }, explained: share(3), explainedFirst: share(1) };
}

function project(features: readonly PatchFeatures[], mean: Float64Array, axes: Float64Array, dim: number, n: number): Float64Array {
  const out = new Float64Array(n * 3);
  let to = 0;
  for (const { patches } of features) {
    for (let at = 0; at < patches.length; at += dim) {
      for (let c = 0; c < 3; c++, to++) {
        let dot = 0;
        for (let k = 0; k < dim; k++) dot += (patches[at + k] - mean[k]) * axes[c * dim + k];
        out[to] = dot;
      }
    }
  }
  return out;
}

/** The orthogonal 3x3 matrix R, row-major, that brings rows of `from` R closest to `to` (Schönemann 1966). @param from [n, 3] */
export function procrustes(from: Float64Array, to: Float64Array): Float64Array {
  const m = new Float64Array(9); // from^T to = U S V^T, R = U V^T
  for (let i = 0; i < from.length; i += 3) for (let a = 0; a < 3; a++) for (let b = 0; b < 3; b++) m[a * 3 + b] += from[i + a] * to[i + b];
  const gram = new Float64Array(9);
  for (let a = 0; a < 3; a++) for (let b = 0; b < 3; b++) for (let k = 0; k < 3; k++) gram[a * 3 + b] += m[k * 3 + a] * m[k * 3 + b];
  const { values, vectors } = symmetricEigen(gram, 3); // rows: right singular vectors
  const left = new Float64Array(9); // rows: left singular vectors
  for (let k = 0; k < 3; k++) {
    const row = left.subarray(k * 3, k * 3 + 3);
    for (let a = 0; a < 3; a++) for (let b = 0; b < 3; b++) row[a] += m[a * 3 + b] * vectors[k * 3 + b];
    if (values[k] <= 1e-18 * values[0]) row.fill(0);
    // Where the data say nothing, any direction at right angles to the others will do.
    for (let candidate = -1; candidate < 3; candidate++) {
      if (candidate >= 0) row.set([0, 0, 0].map((_, a) => (a === candidate ? 1 : 0)));
      for (let j = 0; j < k; j++) {
        let dot = 0;
        for (let a = 0; a < 3; a++) dot += row[a] * left[j * 3 + a];
        for (let a = 0; a < 3; a++) row[a] -= dot * left[j * 3 + a];
      }
      const norm = Math.hypot(row[0], row[1], row[2]);
      if (norm > (candidate < 0 ? 0 : 0.1)) {
        for (let a = 0; a < 3; a++) row[a] /= norm;
        break;
      }
    }
  }
  const rotation = new Float64Array(9);
  for (let k = 0; k < 3; k++)
    for (let a = 0; a < 3; a++) for (let b = 0; b < 3; b++) rotation[a * 3 + b] += left[k * 3 + a] * vectors[k * 3 + b];
  return rotation;
}
