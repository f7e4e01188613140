/**
 * Ends a run at the step in which a number stops being finite, with the parameter that holds it named. A weight that is
 * not finite makes the gradients so, of every part: so looking at the gradient norms of each step is exact and costs a few
 * numbers read back (on a CPU under 0.01 ms, measured). The update is guarded by the same norms where it runs, so that the
 * parameters are as they were when the norms are looked at, be it a step later.
 */
import { AppError } from '../contract/index.ts';
import type { Executor, ParameterSet, Precision } from '../nn/index.ts';
import type { TrainState } from './step.ts';

const advice = (lastCheckpoint: number, precision: Precision = 'f32'): string => {
  const whole = `the checkpoint of step ${lastCheckpoint} is whole`;
  if (precision === 'f16') return `Go on in f32 (--precision f32): ${whole}.`;
  return `Start a new run with a lower learning rate or a larger batch; ${whole}.`;
};

/** The first value of a set that is not finite, and its parameter; null when all are. @param values in the order of specs */
export function firstNonFinite(values: Float32Array, set: Pick<ParameterSet, 'specs'>): { name: string; value: number } | null {
  const index = values.findIndex((value) => !Number.isFinite(value));
  if (index < 0) return null;
  const { name } = set.specs.find(({ offset, size }) => index >= offset && index < offset + size)!;
  return { name, value: values[index]! };
}

/** The numbers by which a step is judged. */
export interface StepNumbers {
  /** [parts] gradient norms. */
  readonly norms: Float32Array;
  /** The loss of each batch, where it was scaled; else empty. */
  readonly totals: readonly number[];
  readonly lossScale: number;
}

/**
 * To be called after a step that was guarded by its norms: the parameters are still those it began with.
 * @param step counted from 1
 * @returns whether the gradients overflowed because of the loss scale, which is no fault
 * @throws AppError not-finite naming the parameter, or the loss or part of the gradient when every parameter is finite
 */
export async function refuseNonFiniteGradients(
  x: Executor,
  { student, teacher }: Pick<TrainState, 'student' | 'teacher'>,
  { norms, totals, lossScale }: StepNumbers,
  partNames: readonly string[],
  step: number,
  lastCheckpoint: number,
): Promise<boolean> {
  const part = norms.findIndex((value) => !Number.isFinite(value));
  if (part < 0) return false;
  const total = totals.find((value) => !Number.isFinite(value));
  if (lossScale > 1 && total === undefined) return true;
  for (const [network, set] of [
    ['student', student],
    ['teacher', teacher],
  ] as const) {
    const found = firstNonFinite(await x.readParameters(set), set);
    if (!found) continue;
    const what = `At step ${step} the ${network}'s parameter ${found.name} holds ${found.value}.`;
    throw new AppError('not-finite', what, advice(lastCheckpoint));
  }
  // Where a device runs ahead, the gradients are by now those of the next step.
  const gradient = x.stepsAhead === 0 ? firstNonFinite(await x.readGradients(student), student) : null;
  const where = gradient ? `the gradient of ${gradient.name}` : `the gradient norm of ${partNames[part]}`;
  const [name, value] = total === undefined ? [where, gradient?.value ?? norms[part]] : ['the loss', total];
  const what = `At step ${step} ${name} became ${value}, with every parameter finite.`;
  throw new AppError('not-finite', what, advice(lastCheckpoint, x.precision));
}

/** @throws AppError not-finite naming the step and the loss */
export function refuseNonFiniteLosses(losses: Readonly<Record<string, number>>, step: number, lastCheckpoint: number): void {
  const bad = Object.entries(losses).find(([, value]) => !Number.isFinite(value));
  if (bad) throw new AppError('not-finite', `At step ${step} the loss ${bad[0]} became ${bad[1]}.`, advice(lastCheckpoint));
}
