/** How well proposals cover ground-truth objects: best overlap and recall, at most N proposals an image. */
import { AppError } from '../contract/index.ts';
import type { Rle } from '../contract/index.ts';
import { decodeRle } from '../labels/index.ts';
import type { Mask } from '../labels/index.ts';
import type { ImageObjects } from './objects.ts';

export interface ProposalScore {
  /** Mean over all objects of the largest intersection over union with any proposal of their image, 0..1; 0 without objects. */
  readonly bestOverlap: number;
  /** Share of objects whose best overlap is at least 0.5. */
  readonly recall50: number;
  /** Objects scored. */
  readonly objects: number;
  /** Mean number of proposals an image that were counted. */
  readonly proposalsPerImage: number;
}

/**
 * Largest IoU of each object of one image with the first `maxProposals` proposals. Ignored pixels count nowhere.
 * @throws AppError masks-mismatch when a proposal has another size than the image
 */
export function bestOverlaps(objects: ImageObjects, proposals: readonly (Mask | Rle)[], maxProposals: number): Float64Array {
  const { width, height, labels, areas } = objects;
  const best = new Float64Array(areas.length);
  const inside = new Int32Array(areas.length + 1);
  for (const proposal of proposals.slice(0, maxProposals)) {
    const mask = 'counts' in proposal ? decodeRle(proposal) : proposal;
    if (mask.width !== width || mask.height !== height) {
      throw new AppError(
        'masks-mismatch',
        `A proposal of ${mask.width} x ${mask.height} pixels cannot be compared with a mask of ${width} x ${height}.`,
        'Check that masks and images have the same sizes.',
      );
    }
    inside.fill(0);
    let area = 0;
    const bits = mask.data;
    for (let i = 0; i < bits.length; i++) {
      if (bits[i] === 0) continue;
      const label = labels[i];
      if (label < 0) continue;
      area++;
      inside[label]++;
    }
    for (let k = 0; k < areas.length; k++) {
      const both = inside[k + 1];
      if (both === 0) continue;
      const overlap = both / (area + areas[k] - both);
      if (overlap > best[k]) best[k] = overlap;
    }
  }
  return best;
}

/**
 * Scores of a set of images. Every object counts alike, whatever its image; images without objects count only in proposalsPerImage.
 * @param objects one entry an image
 * @param proposals one list an image, best first
 * @param maxPerImage proposals past this number are not looked at; the same for every method compared
 */
export function scoreProposals(
  objects: readonly ImageObjects[],
  proposals: readonly (readonly (Mask | Rle)[])[],
  maxPerImage: number,
): ProposalScore {
  if (objects.length !== proposals.length) {
    throw new AppError(
      'masks-mismatch',
      `${objects.length} images with masks, but proposals for ${proposals.length}.`,
      'Propose masks for the same images that have ground truth.',
    );
  }
  let sum = 0;
  let found = 0;
  let count = 0;
  let used = 0;
  for (let i = 0; i < objects.length; i++) {
    const best = bestOverlaps(objects[i], proposals[i], maxPerImage);
    used += Math.min(maxPerImage, proposals[i].length);
    for (const overlap of best) {
      sum += overlap;
      if (overlap >= 0.5) found++;
    }
    count += best.length;
  }
  return {
    bestOverlap: count === 0 ? 0 : sum / count,
    recall50: count === 0 ? 0 : found / count,
    objects: count,
    proposalsPerImage: objects.length === 0 ? 0 : used / objects.length,
  };
}

/** A plain text table of scores in percent, one method a row. */
export function scoreTable(rows: readonly { readonly method: string; readonly score: ProposalScore }[]): string {
  const wide = Math.max(6, ...rows.map((r) => r.method.length));
  const lines = [`${'method'.padEnd(wide)}  best overlap  recall@0.5  proposals/image  objects`];
  for (const { method, score } of rows) {
    lines.push(
      `${method.padEnd(wide)}  ${(100 * score.bestOverlap).toFixed(1).padStart(12)}  ${(100 * score.recall50).toFixed(1).padStart(10)}  ` +
        `${score.proposalsPerImage.toFixed(1).padStart(15)}  ${String(score.objects).padStart(7)}`,
    );
  }
  return lines.join('\n');
}
