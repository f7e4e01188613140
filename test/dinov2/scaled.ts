/** Executors for tests of the loss scale: one that is taken for f16, gradients that overflow when told to. */
import type { Executor } from '../../core/nn/ops.ts';

/** Says of itself that it computes in f16 and ahead, and computes as before: what is built on that can be tested anywhere. */
export function takenForF16(x: Executor, stepsAhead: 0 | 1): Executor {
  Object.defineProperties(x, { precision: { value: 'f16' }, stepsAhead: { value: stepsAhead } });
  return x;
}

/**
 * Makes the gradients of single steps overflow, on top of what they are scaled by.
 * @returns the scales that steps were given, in order; `from(step)` says where a run begins or goes on
 */
export function overflowing(x: Executor, steps: readonly number[]): { scales: number[]; from(step: number): void } {
  const scales: number[] = [];
  let step = 0;
  const gradients = x.gradients.bind(x);
  x.gradients = (set, forward, scale = 1) => {
    scales.push(scale);
    return gradients(set, forward, steps.includes(++step) ? 1e38 : scale);
  };
  return {
    scales,
    from(first) {
      step = first;
      scales.length = 0;
    },
  };
}
