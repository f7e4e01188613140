/**
 * The TensorFlow.js executor on its native library, CUDA's or the CPU's, where a person has installed one. A process of
 * its own: TensorFlow.js has one backend at a time.
 */
import { test } from 'node:test';
import { createTensorflowExecutor } from '../../core/nn/tensorflow/index.ts';
import { operationSuite } from './suite.ts';

const reasons: string[] = [];
for (const backend of ['cuda', 'native'] as const) {
  try {
    await (await createTensorflowExecutor({ backend })).dispose();
  } catch (error) {
    reasons.push((error as Error).message);
    continue;
  }
  operationSuite(`TensorFlow.js, ${backend}`, () => createTensorflowExecutor({ backend }));
  break;
}
if (reasons.length === 2) test('TensorFlow.js on its native library', { skip: reasons.join('; ') }, () => {});
