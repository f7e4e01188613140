/** What people have decided, as patches that teach: which of an image's patches belong to a class, and how surely. */
import type { Rle } from '../contract/index.ts';
import { decodeRle, rleArea } from '../labels/index.ts';
import type { PatchFeatures } from './featureFile.ts';
import type { LabelledPatches } from './prototypes.ts';

/** What a decision is worth per patch: rejected masks are hard negatives; the surroundings of an accepted mask are likely background. */
const worth = { accepted: 1, rejected: 3, reviewed: 1, around: 0.5 };

/** Share of each patch that a mask covers. @returns [gridHeight * gridWidth], 0..1 */
function patchCoverage(rle: Rle, gridWidth: number, gridHeight: number): Float32Array {
  const mask = decodeRle(rle);
  const { width, height, data } = mask;
  const inside = new Float32Array(gridWidth * gridHeight);
  const all = new Float32Array(gridWidth * gridHeight);
  const columns = Int32Array.from({ length: width }, (_, x) => Math.floor(((x + 0.5) * gridWidth) / width));
  for (let y = 0; y < height; y++) {
    const row = Math.floor(((y + 0.5) * gridHeight) / height) * gridWidth;
    for (let x = 0; x < width; x++) {
      const q = row + columns[x];
      all[q]++;
      inside[q] += data[y * width + x];
    }
  }
  for (let q = 0; q < all.length; q++) {
    if (all[q] > 0) inside[q] /= all[q];
    else {
      // A patch finer than a pixel takes the pixel at its centre.
      const x = Math.min(width - 1, Math.floor((((q % gridWidth) + 0.5) * width) / gridWidth));
      const y = Math.min(height - 1, Math.floor(((((q / gridWidth) | 0) + 0.5) * height) / gridHeight));
      inside[q] = data[y * width + x];
    }
  }
  return inside;
}

/** Patches of one image that teach something, by class. */
export function labelledPatches(
  features: PatchFeatures,
  accepted: readonly { readonly classId: number; readonly rle: Rle }[],
  rejected: readonly { readonly rle: Rle }[],
  reviewed: boolean,
): LabelledPatches[] {
  const { gridWidth, gridHeight, dim, patches } = features;
  const n = gridWidth * gridHeight;
  const shares = new Map<number, Float32Array>();
  const covered = new Float32Array(n);
  for (const { classId, rle } of accepted) {
    const share = patchCoverage(rle, gridWidth, gridHeight);
    const sum = shares.get(classId) ?? new Float32Array(n);
    shares.set(classId, sum);
    let most = 0;
    for (let q = 0; q < n; q++) most = Math.max(most, share[q]);
    for (let q = 0; q < n; q++) {
      covered[q] = Math.min(1, covered[q] + share[q]);
      // Patches mostly outside say little about the class; objects smaller than a patch have no better ones.
      if (share[q] >= Math.min(0.5, 0.8 * most)) sum[q] = Math.max(sum[q], share[q]);
    }
  }
  const background = new Float32Array(n);
  for (const { rle } of rejected) {
    const share = patchCoverage(rle, gridWidth, gridHeight);
    for (let q = 0; q < n; q++) if (share[q] > 0.5 && covered[q] < 0.1) background[q] = worth.rejected * share[q];
  }
  for (let q = 0; q < n; q++) {
    if (covered[q] > 0 || background[q] > 0) continue;
    if (reviewed) background[q] = worth.reviewed;
    else if (accepted.length > 0 && nearCovered(covered, q, gridWidth, gridHeight, 2)) background[q] = worth.around;
  }
  const pick = (classId: number | null, weights: Float32Array, scale: number): LabelledPatches | null => {
    const cells: number[] = [];
    for (let q = 0; q < n; q++) if (weights[q] > 0) cells.push(q);
    if (cells.length === 0) return null;
    const rows = new Float32Array(cells.length * dim);
    cells.forEach((q, i) => rows.set(patches.subarray(q * dim, (q + 1) * dim), i * dim));
    return { classId, rows, weights: Float32Array.from(cells, (q) => weights[q] * scale) };
  };
  return [...shares]
    .map(([classId, share]) => pick(classId, share, worth.accepted))
    .concat(pick(null, background, 1))
    .filter((l) => l !== null);
}

function nearCovered(covered: Float32Array, q: number, gridWidth: number, gridHeight: number, reach: number): boolean {
  const x = q % gridWidth;
  const y = (q / gridWidth) | 0;
  for (let ny = Math.max(0, y - reach); ny <= Math.min(gridHeight - 1, y + reach); ny++) {
    for (let nx = Math.max(0, x - reach); nx <= Math.min(gridWidth - 1, x + reach); nx++)
      if (covered[ny * gridWidth + nx] > 0.5) return true;
  }
  return false;
}

/** Median pixels of the accepted masks of each class. */
export function medianAreas(accepted: readonly { readonly classId: number; readonly rle: Rle }[]): Map<number, number> {
  const out = new Map<number, number>();
  for (const [classId, own] of Map.groupBy(accepted, (a) => a.classId)) {
    const areas = own.map((a) => rleArea(a.rle)).sort((a, b) => a - b);
    out.set(classId, areas[areas.length >> 1]);
  }
  return out;
}
