/**
 * How well a proposal will fit, learned from decisions: masks from class prototypes and regions found without labels are
 * scored on one scale, so that they can be ranked together. Ridge regression pulled towards fixed weights (a Gaussian
 * prior), so a single decision moves it little and fifty move it where they say.
 */

export interface ProposalCues {
  /** From class prototypes, else a region found without labels. */
  readonly prototype: boolean;
  /** Its own score, 0..1. */
  readonly score: number;
  /** Mean probability of the likeliest class over its patches, 0..1. */
  readonly purity: number;
  /** Mean probability of the background over its patches, 0..1. */
  readonly background: number;
  /** |ln(area / median area of accepted masks of its class)|; 0 when unknown. */
  readonly size: number;
}

export interface JudgedProposal {
  readonly cues: ProposalCues;
  /** IoU with the best accepted mask, 0..1; 0 where it was rejected. */
  readonly overlap: number;
}

/** Weights before any decision: a proposal is as good as it says, less where it looks like background. */
const prior = [0, 0.75, 0.1, -0.2, 0, 0.7, 0.1, -0.2, -0.05];
/** Decisions that weigh as much as the prior, per weight. */
const strength = 3;

function row({ prototype, score, purity, background, size }: ProposalCues): number[] {
  const own = [1, score, purity, background];
  const none = [0, 0, 0, 0];
  return [...(prototype ? none : own), ...(prototype ? own : none), Math.min(2, size)];
}

/** Predicted IoU of a proposal, 0.001..1. */
export function fitOverlap(judged: readonly JudgedProposal[]): (cues: ProposalCues) => number {
  const n = prior.length;
  // (X^T X + strength I) (w - prior) = X^T (y - X prior)
  const matrix = Array.from({ length: n }, (_, i) => Float64Array.from({ length: n + 1 }, (_, j) => (i === j ? strength : 0)));
  for (const { cues, overlap } of judged) {
    const x = row(cues);
    const error = overlap - product(x, prior);
    for (let i = 0; i < n; i++) {
      for (let j = 0; j < n; j++) matrix[i][j] += x[i] * x[j];
      matrix[i][n] += x[i] * error;
    }
  }
  const shift = solve(matrix, n);
  const weights = prior.map((w, i) => w + shift[i]);
  return (cues) => Math.min(1, Math.max(0.001, product(row(cues), weights)));
}

function product(a: readonly number[], b: readonly number[]): number {
  return a.reduce((sum, v, i) => sum + v * b[i], 0);
}

/** Gauss elimination; the ridge keeps every pivot positive. @param matrix n rows of n + 1, changed */
function solve(matrix: Float64Array[], n: number): Float64Array {
  for (let i = 0; i < n; i++) {
    for (let r = i + 1; r < n; r++) {
      const factor = matrix[r][i] / matrix[i][i];
      for (let c = i; c <= n; c++) matrix[r][c] -= factor * matrix[i][c];
    }
  }
  const out = new Float64Array(n);
  for (let i = n - 1; i >= 0; i--) {
    let sum = matrix[i][n];
    for (let c = i + 1; c < n; c++) sum -= matrix[i][c] * out[c];
    out[i] = sum / matrix[i][i];
  }
  return out;
}
