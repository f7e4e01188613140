/**
 * How well a proposal will fit, learned from decisions: masks from class prototypes and regions found without labels are
 * scored on one scale, so that they can be ranked together. What makes a region an object differs from set to set, and no
 * fixed rule carries over; a few finished images tell. Ridge regression on cues and their products, pulled towards fixed
 * weights (a Gaussian prior), so a single decision moves it little and a finished image moves it where it says.
 *
 * Measured by test/bench/decisions.ts on demos' projects (network trained for 200 steps), best overlap of 20 proposals an image
 * in percent on images nobody had finished, before any decision and after 1, 4 and 12 finished ones: drawn conveyor 54, 55, 63,
 * 64; coffee leaves 31, 27, 36, 40: one finished leaf without a spot says that spots are nothing. Nuclei, by the demo, 33 and
 * 34 after 12, where 20 proposals an image cannot reach over 35. Fixed weights fitted on two of the sets scored 1 to 3 less on
 * the third than those in propose.ts.
 */
import type { PatchCues, PixelCues } from './cues.ts';

export interface ProposalCues {
  /** From class prototypes, else a region found without labels. */
  readonly prototype: boolean;
  /** Found by plain appearance. */
  readonly plain: boolean;
  /** Its own score, 0..1. */
  readonly score: number;
  /** Mean probability of the likeliest class over its patches, 0..1. */
  readonly purity: number;
  /** Mean probability of the background over its patches, 0..1. */
  readonly background: number;
  /** |ln(area / median area of accepted masks of its class)|; 0 when unknown. */
  readonly size: number;
  /** Share of the image, 0..1. */
  readonly area: number;
  readonly patch: PatchCues;
  readonly pixel: PixelCues;
}

export interface JudgedProposal {
  readonly cues: ProposalCues;
  /** IoU with the best accepted mask, 0..1; 0 where it was rejected. */
  readonly overlap: number;
}

/**
 * Weight of the prior, in judged proposals: less the more images they are from, since those of one image say much the same.
 * From 3 to 30 made little difference from four images on; with one image 30 is the safer.
 */
const priorWeight = (images: number): number => Math.max(3, 30 / images);

/** Cues on scales of about 0 to 1. */
function scaled({ prototype, plain, score, purity, background, size, area, patch, pixel }: ProposalCues): number[] {
  return [
    score,
    purity,
    background,
    Math.min(2, size) / 2,
    Number(prototype),
    Number(plain),
    Math.min(1.2, patch.contrast),
    Math.min(1, patch.weakest),
    patch.separation,
    Math.sqrt(patch.border),
    patch.fill,
    patch.object,
    Math.sqrt(Math.max(0, patch.stability)),
    patch.homogeneity,
    Math.sqrt(pixel.edge),
    pixel.agreement,
    pixel.roundness,
    pixel.colour,
    1 + Math.log(area + 1e-5) / 5,
  ];
}

/** 1, the cues, and all their products: what an object looks like is rarely a straight line in any of them. */
function products(cues: ProposalCues): Float64Array {
  const own = scaled(cues);
  const n = own.length;
  const row = new Float64Array(1 + n + (n * (n + 1)) / 2);
  row[0] = 1;
  row.set(own, 1);
  let at = 1 + n;
  for (let i = 0; i < n; i++) for (let j = i; j < n; j++) row[at++] = own[i] * own[j];
  return row;
}

/** Before any decision: a proposal is as good as it says, less where it looks like background or has an unusual size. */
function expected({ prototype, score, purity, background, size }: ProposalCues): number {
  return (prototype ? 0.7 : 0.75) * score + 0.1 * purity - 0.2 * background - (prototype ? 0.05 * Math.min(2, size) : 0);
}

/** What decisions say of cues, as data: it is sent to threads. null: nothing was decided yet. */
export type OverlapModel = Float64Array | null;

/**
 * @param images number of images that the judged proposals are from
 */
export function fitOverlap(judged: readonly JudgedProposal[], images: number): OverlapModel {
  if (judged.length === 0) return null;
  const rows = judged.map(({ cues }) => products(cues));
  const n = rows[0].length;
  // (X^T X + prior weight I) w = X^T (y - expected), lower triangle, right side last
  const matrix = Array.from({ length: n + 1 }, () => new Float64Array(n));
  for (let i = 0; i < n; i++) matrix[i][i] = priorWeight(images);
  judged.forEach(({ cues, overlap }, r) => {
    const x = rows[r];
    const error = overlap - expected(cues);
    for (let i = 0; i < n; i++) {
      const row = matrix[i];
      const value = x[i];
      for (let j = 0; j <= i; j++) row[j] += value * x[j];
      matrix[n][i] += value * error;
    }
  });
  return solvePositive(matrix, n);
}

/** Predicted IoU of a proposal, 0.001..1. */
export function predictOverlap(model: OverlapModel, cues: ProposalCues): number {
  const value = model === null ? expected(cues) : products(cues).reduce((sum, product, i) => sum + product * model[i], expected(cues));
  return Math.min(1, Math.max(0.001, value));
}

/**
 * Solution of A w = b for a positive definite A, by Cholesky's decomposition.
 * @param matrix lower triangle of A in rows 0..n-1, changed; b in row n
 */
function solvePositive(matrix: readonly Float64Array[], n: number): Float64Array {
  for (let i = 0; i < n; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = matrix[i][j];
      for (let k = 0; k < j; k++) sum -= matrix[i][k] * matrix[j][k];
      matrix[i][j] = i === j ? Math.sqrt(sum) : sum / matrix[j][j];
    }
  }
  const w = matrix[n].slice();
  for (let i = 0; i < n; i++) {
    for (let k = 0; k < i; k++) w[i] -= matrix[i][k] * w[k];
    w[i] /= matrix[i][i];
  }
  for (let i = n - 1; i >= 0; i--) {
    for (let k = i + 1; k < n; k++) w[i] -= matrix[k][i] * w[k];
    w[i] /= matrix[i][i];
  }
  return w;
}
