/**
 * Objects of one image by repeated normalised cuts (TokenCut: Wang et al., CVPR 2022; MaskCut: Wang et al., CutLER, CVPR
 * 2023), with Lanczos instead of a dense eigen-solver. Patch masks only.
 */
import { connectedComponents } from '../labels/index.ts';
import { lanczos } from './linalg.ts';

export interface CutObject {
  /** 0 or 1 per patch. */
  readonly mask: Uint8Array;
  /** Normalised cut value, 0..1 (second smallest generalised eigenvalue); small means well separated. */
  readonly cut: number;
}

export interface CutOptions {
  /** Affinity is 1 above this similarity, else epsilon. */
  readonly threshold: number;
  readonly maxObjects: number;
  /** Objects whose normalised cut value is above this end the search. */
  readonly maxCut: number;
  /** Objects under this share of the grid are not kept. */
  readonly minShare: number;
}

const epsilon = 1e-5;

/**
 * Second generalised eigenvector of (D - A) x = lambda D x for A in {1, epsilon}.
 * @param similarity [n, n] symmetric
 * @returns x and lambda; null when the graph has fewer than two nodes
 */
export function secondEigenvector(
  similarity: Float32Array,
  n: number,
  threshold: number,
  active: Uint8Array,
): { vector: Float64Array; value: number } | null {
  if (n < 3) return null;
  // Lists of strong neighbours: most graphs are sparse or become so as objects are taken.
  const starts = new Int32Array(n + 1);
  const list: number[] = [];
  for (let i = 0; i < n; i++) {
    if (active[i] === 1) for (let j = 0; j < n; j++) if (active[j] === 1 && similarity[i * n + j] > threshold) list.push(j);
    starts[i + 1] = list.length;
  }
  const strong = Int32Array.from(list);
  const inverseRoot = new Float64Array(n);
  const trivial = new Float64Array(n);
  let norm = 0;
  for (let i = 0; i < n; i++) {
    const edges = starts[i + 1] - starts[i];
    const degree = edges + (n - edges) * epsilon;
    inverseRoot[i] = 1 / Math.sqrt(degree);
    trivial[i] = Math.sqrt(degree);
    norm += degree;
  }
  norm = Math.sqrt(norm);
  for (let i = 0; i < n; i++) trivial[i] /= norm;
  const scaled = new Float64Array(n);
  // D^-1/2 A D^-1/2 has largest eigenvalue 1 with vector D^1/2 1; the second gives lambda = 1 - value.
  const result = lanczos(
    n,
    (x, out) => {
      let total = 0;
      for (let i = 0; i < n; i++) {
        scaled[i] = x[i] * inverseRoot[i];
        total += scaled[i];
      }
      total *= epsilon;
      for (let i = 0; i < n; i++) {
        let sum = 0;
        const end = starts[i + 1];
        for (let e = starts[i]; e < end; e++) sum += scaled[strong[e]];
        out[i] = (sum * (1 - epsilon) + total) * inverseRoot[i];
      }
    },
    40,
    1,
    [trivial],
  );
  if (result.values.length === 0) return null;
  const vector = new Float64Array(n);
  for (let i = 0; i < n; i++) vector[i] = result.vectors[i] * inverseRoot[i];
  return { vector, value: 1 - result.values[0] };
}

/**
 * Up to `maxObjects` objects, best separated first in the order found.
 * Rules of MaskCut: bipartition at the mean; flipped when the strongest patch or at least three corners would be on the
 * wrong side; the component of the strongest patch; an object overlapping the one before by IoU above 0.5 is dropped.
 * @param similarity [n, n] of the grid's patches
 */
export function maskCut(similarity: Float32Array, gridWidth: number, gridHeight: number, options: CutOptions): CutObject[] {
  const n = gridWidth * gridHeight;
  const active = new Uint8Array(n).fill(1);
  const objects: CutObject[] = [];
  let before: Uint8Array | null = null;
  for (let round = 0; round < options.maxObjects; round++) {
    let left = 0;
    for (let i = 0; i < n; i++) left += active[i];
    if (left < Math.max(3, options.minShare * n)) break;
    const second = secondEigenvector(similarity, n, options.threshold, active);
    if (second === null || second.value > options.maxCut) break;
    const { vector, value } = second;
    let mean = 0;
    let seed = 0;
    for (let i = 0; i < n; i++) {
      mean += vector[i];
      if (active[i] === 1 && (active[seed] === 0 || Math.abs(vector[i]) > Math.abs(vector[seed]))) seed = i;
    }
    mean /= n;
    const side = new Uint8Array(n);
    for (let i = 0; i < n; i++) side[i] = vector[i] > mean ? 1 : 0;
    const corners = side[0] + side[gridWidth - 1] + side[n - gridWidth] + side[n - 1];
    if (side[seed] === 0 || corners >= 3) {
      for (let i = 0; i < n; i++) side[i] = side[i] === 1 ? 0 : 1;
      if (side[seed] === 0) {
        // Flipped for the corners: the strongest patch of the new side is the seed.
        let best = -1;
        for (let i = 0; i < n; i++) {
          if (side[i] === 1 && active[i] === 1 && (best < 0 || Math.abs(vector[i]) > Math.abs(vector[best]))) best = i;
        }
        if (best < 0) break;
        seed = best;
      }
    }
    for (let i = 0; i < n; i++) side[i] &= active[i];
    const { labels } = connectedComponents({ width: gridWidth, height: gridHeight, data: side }, 4);
    const mask = new Uint8Array(n);
    let area = 0;
    for (let i = 0; i < n; i++) {
      if (labels[i] === labels[seed]) {
        mask[i] = 1;
        area++;
      }
    }
    let both = 0;
    let previousArea = 0;
    if (before !== null) {
      for (let i = 0; i < n; i++) {
        both += mask[i] & before[i];
        previousArea += before[i];
      }
    }
    const repeats = before !== null && both / (area + previousArea - both) > 0.5;
    if (area >= options.minShare * n && area < n && !repeats) objects.push({ mask, cut: Math.max(0, value) });
    for (let i = 0; i < n; i++) if (mask[i] === 1) active[i] = 0;
    before = mask;
  }
  return objects;
}
