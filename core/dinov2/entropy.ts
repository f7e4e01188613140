/**
 * How the teacher spreads its class tokens over the prototypes: the two numbers that tell the two ways a run collapses
 * (Caron et al. 2021). Read from a step's own targets, some rows at a time: they need not exist whole.
 */
import type { Executor, PrototypeTargets } from '../nn/index.ts';
import type { RunConfig } from './config.ts';
import type { Targets } from './step.ts';

export interface TeacherEntropy {
  /** Mean entropy of a class token's target, as a share of log K: 1, the teacher says nothing; 0, one prototype each. */
  readonly sampleEntropy: number;
  /** Entropy of the mean over the batch, as a share of log K: 0, all images go to one prototype. */
  readonly marginalEntropy: number;
}

/** Most target values that exist at a time: 4 MB, some rows of the largest heads. */
const MOST_VALUES = 2 ** 20;

/**
 * Sinkhorn-Knopp spreads the targets over all prototypes whatever the teacher says, so under it the mean is taken of the
 * teacher's own softmax, before that. Call inside the step's scope.
 * @param temperature of the teacher in this step
 */
export async function teacherEntropy(
  x: Executor,
  config: RunConfig,
  { dino, dinoRows }: Pick<Targets, 'dino' | 'dinoRows'>,
  temperature: number,
): Promise<TeacherEntropy> {
  const { rows, prototypes: K } = dino;
  const taken = Math.max(1, Math.min(rows, Math.floor(MOST_VALUES / K)));
  const spread = Int32Array.from({ length: taken }, (_, i) => Math.floor((i * rows) / taken));
  // Nothing is awaited before all is given: the scope may end meanwhile.
  const chosen = x.read(x.gatherTargets(dino, spread)); // [taken,K]
  const { weightV, weightG } = dinoRows;
  const own =
    config.teacher.centering === 'sinkhorn'
      ? x.prototypeTargets(dinoRows.rows, weightV, weightG, { kind: 'softmax', temperature, center: null })
      : dino;
  const [samples, mean] = await Promise.all([chosen, meanOf(x, own, taken)]);
  return { sampleEntropy: entropy(samples) / (taken * Math.log(K)), marginalEntropy: entropy(mean) / Math.log(K) };
}

/** Mean over all rows, read back: [K]. */
async function meanOf(x: Executor, targets: PrototypeTargets, rowsAtATime: number): Promise<Float64Array> {
  const mean = new Float64Array(targets.prototypes);
  const parts: { readonly count: number; readonly values: Promise<Float32Array> }[] = [];
  for (let start = 0; start < targets.rows; start += rowsAtATime) {
    const count = Math.min(rowsAtATime, targets.rows - start);
    const rows = Int32Array.from({ length: count }, (_, i) => start + i);
    parts.push({ count, values: x.read(x.meanRows(x.gatherTargets(targets, rows))) });
  }
  const values = await Promise.all(parts.map((part) => part.values));
  values.forEach((part, i) => part.forEach((value, k) => (mean[k]! += (value * parts[i]!.count) / targets.rows)));
  return mean;
}

/** -sum p log p over all values, in nats. */
function entropy(shares: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < shares.length; i++) if (shares[i] !== 0) sum -= shares[i]! * Math.log(shares[i]!);
  return sum;
}
