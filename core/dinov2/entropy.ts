/**
 * How the teacher spreads its class tokens over the prototypes: the two numbers that tell the two ways a run collapses
 * (Caron et al. 2021). Read from a step's own targets, nothing is computed twice.
 */
import type { Executor } from '../nn/index.ts';
import type { RunConfig } from './config.ts';
import type { Targets } from './step.ts';

export interface TeacherEntropy {
  /** Mean entropy of a class token's target, as a share of log K: 1, the teacher says nothing; 0, one prototype each. */
  readonly sampleEntropy: number;
  /** Entropy of the mean over the batch, as a share of log K: 0, all images go to one prototype. */
  readonly marginalEntropy: number;
}

/** Most target values that are read back for the sample entropy: 4 MB, some rows of the largest heads. */
const MOST_VALUES = 2 ** 20;

/**
 * Sinkhorn-Knopp spreads the targets over all prototypes whatever the teacher says, so under it the mean is taken of the
 * teacher's own softmax, before that. Call inside the step's scope.
 * @param temperature of the teacher in this step
 */
export async function teacherEntropy(
  x: Executor,
  config: RunConfig,
  { dino, dinoLogits }: Pick<Targets, 'dino' | 'dinoLogits'>,
  temperature: number,
): Promise<TeacherEntropy> {
  const [rows, K] = dino.shape as [number, number];
  const taken = Math.max(1, Math.min(rows, Math.floor(MOST_VALUES / K)));
  const spread = Int32Array.from({ length: taken }, (_, i) => Math.floor((i * rows) / taken));
  const chosen = x.gatherRows(dino, spread); // [taken,K]
  const own =
    config.teacher.centering === 'sinkhorn' ? x.centeredSoftmax(dinoLogits, x.tensor(new Float32Array(K), [K]), temperature) : dino; // [2B,K]
  // Nothing is awaited before all is given: the scope may end meanwhile.
  const [samples, mean] = await Promise.all([x.read(chosen), x.read(x.meanRows(own))]); // mean: [K]
  return { sampleEntropy: entropy(samples) / (taken * Math.log(K)), marginalEntropy: entropy(mean) / Math.log(K) };
}

/** -sum p log p over all values, in nats. */
function entropy(shares: Float32Array): number {
  let sum = 0;
  for (const share of shares) if (share !== 0) sum -= share * Math.log(share);
  return sum;
}
