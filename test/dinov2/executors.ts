/** The executors that every test of this room runs on: the slow twin always, the cpu executor where it is built. */
import type { Executor } from '../../core/nn/ops.ts';
import { createExecutor } from '../../core/nn/index.ts';
import { ReferenceExecutor } from '../nn/reference-executor.ts';

export const executors: readonly (readonly [string, () => Promise<Executor>])[] = [
  ['reference', async () => new ReferenceExecutor()],
  ['cpu', () => createExecutor({ engine: 'cpu', threads: 2 })],
];
