import assert from 'node:assert/strict';
import { test } from 'node:test';
import { batchIndices, epochOrder } from '../../core/images/index.ts';

test('every pass holds each image once, in an order of its own', () => {
  const seen = new Set<string>();
  for (let epoch = 0; epoch < 20; epoch++) {
    const order = epochOrder(7, epoch, 50);
    assert.deepEqual(
      [...order].toSorted((a, b) => a - b),
      Array.from({ length: 50 }, (_, i) => i),
    );
    seen.add(order.join());
  }
  assert.equal(seen.size, 20);
  assert.notDeepEqual(epochOrder(7, 0, 50), epochOrder(8, 0, 50));
});

test('batches are the passes laid end to end, over their seams, also when larger than the set', () => {
  for (const [count, batch] of [
    [10, 4],
    [10, 10],
    [3, 8],
    [1, 2],
    [257, 32],
  ] as const) {
    const steps = 40;
    const flat = Array.from({ length: Math.ceil((steps * batch) / count) }, (_, epoch) => [...epochOrder(3, epoch, count)]).flat();
    for (let step = 0; step < steps; step++)
      assert.deepEqual([...batchIndices(3, step, batch, count)], flat.slice(step * batch, (step + 1) * batch));
  }
});

test('a step computed alone, in any order, is the same', () => {
  const steps = [900, 3, 4, 12_345, 0, 900];
  const apart = steps.map((step) => batchIndices(42, step, 16, 1747).join());
  const run = new Map<number, string>();
  for (let step = 0; step <= 900; step++) run.set(step, batchIndices(42, step, 16, 1747).join());
  steps.forEach((step, i) => run.has(step) && assert.equal(apart[i], run.get(step)));
  assert.equal(apart[0], apart[5]);
});

test('recorded: the order may not change, or runs would not resume', () => {
  assert.deepEqual([...batchIndices(1, 0, 12, 100)], RECORDED_0);
  assert.deepEqual([...batchIndices(1, 12_345, 12, 100)], RECORDED_12345);
});

const RECORDED_0 = [64, 92, 73, 69, 12, 9, 99, 66, 40, 36, 5, 47];
const RECORDED_12345 = [28, 79, 69, 17, 37, 80, 63, 46, 19, 26, 36, 86];
