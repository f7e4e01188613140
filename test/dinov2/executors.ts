/** The executors that every test of this room runs on: the slow twin, the cpu executor, and TensorFlow.js on WebAssembly. */
import type { Executor } from '../../core/nn/ops.ts';
import { createExecutor } from '../../core/nn/index.ts';
import { createTensorflowExecutor } from '../../core/nn/tensorflow/index.ts';
import { ReferenceExecutor } from '../nn/reference-executor.ts';

export const executors: readonly (readonly [string, () => Promise<Executor>])[] = [
  ['reference', async () => new ReferenceExecutor()],
  ['cpu', () => createExecutor({ engine: 'cpu', threads: 2 })],
  ['tensorflow', () => createTensorflowExecutor({ backend: 'wasm' })],
];
