/** What a person reads when the engine ends a run: what is kept of it, and how to go on. */
import { AppError } from '../contract/index.ts';
import type { Executor } from '../nn/index.ts';

/**
 * An engine's error with the way on from it; every other error as it is.
 * @param written step of the newest whole checkpoint, 0 before the first: resuming then begins anew
 */
export function withWayOn(error: unknown, { name }: Pick<Executor, 'name'>, written: number): unknown {
  if (!(error instanceof AppError) || (error.code !== 'engine-died' && error.code !== 'engine-out-of-memory')) return error;
  const otherwise = name === 'cpu' ? '' : ' If it happens again, resume it on the CPU: patchwise resume DIR --engine cpu.';
  return new AppError(
    error.code,
    `${error.message} Resuming the run goes on from step ${written}.`,
    `Resume the run.${otherwise} ${error.action}`,
    { cause: error },
  );
}
