/**
 * The TensorFlow.js executor on its native library, CUDA's or the CPU's, where a person has installed one. A process of
 * its own: TensorFlow.js has one backend at a time.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AppError } from '../../core/contract/index.ts';
import { createTensorflowExecutor } from '../../core/nn/tensorflow/index.ts';
import { operationSuite } from './suite.ts';
import { TinyStep } from './tiny-step.ts';

const reasons: string[] = [];
for (const backend of ['cuda', 'native'] as const) {
  try {
    await (await createTensorflowExecutor({ backend })).dispose();
  } catch (error) {
    reasons.push((error as Error).message);
    continue;
  }
  operationSuite(`TensorFlow.js, ${backend}`, () => createTensorflowExecutor({ backend }));
  test(`${backend}: the same tensors and bytes after 500 steps as after 10`, async () => {
    const e = await createTensorflowExecutor({ backend });
    const step = new TinyStep(e);
    const held = (): number[] => [e.engine.tf.memory().numTensors, e.memoryBytes()];
    for (let i = 0; i < 10; ++i) await step.run();
    const start = held();
    for (let i = 10; i < 500; ++i) assert.ok(Number.isFinite(await step.run()), `step ${i}`);
    assert.deepEqual(held(), start);
    await e.dispose();
  });
  test(`${backend}: says that memory ended`, async () => {
    const e = await createTensorflowExecutor({ backend });
    const column = (): ReturnType<typeof e.tensor> => e.tensor(new Float32Array(1e6), [1e6, 1]);
    await assert.rejects(
      e.scope(() => e.linear(column(), column(), null)), // 4 TB
      (error) => error instanceof AppError && error.code === 'engine-out-of-memory' && /1000000,1000000/.test(error.message),
    );
    await e.dispose();
  });
  break;
}
if (reasons.length === 2) test('TensorFlow.js on its native library', { skip: reasons.join('; ') }, () => {});
