/** A run whose engine dies or runs out of memory in mid-step keeps its last checkpoint, says how to go on, and goes on. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AppError } from '../../core/contract/index.ts';
import { listCheckpoints } from '../../core/dinov2/checkpoint.ts';
import { createExecutor, type Executor } from '../../core/nn/index.ts';
import { createWebgpuExecutor } from '../../core/nn/webgpu/index.ts';
import { noAdapter } from '../nn/webgpu-device.ts';
import { collect, folder, goOn, metricsLines, run } from './runs.ts';
import { tinyRun } from './tiny-run.ts';

/** Does `harm` between the forward and the backward pass of a step, counted from 1: when KoLeo is first asked for. */
function harmAt(x: Executor, step: number, harm: () => void): Executor {
  const koleo = x.koleo.bind(x);
  let calls = 0;
  x.koleo = (rows) => {
    if (++calls === 2 * step - 1) harm();
    return koleo(rows);
  };
  return x;
}

/** The error that ends a run. */
async function ends(events: AsyncIterable<unknown>): Promise<AppError> {
  try {
    for await (const _ of events);
  } catch (error) {
    assert.ok(error instanceof AppError, String(error));
    return error;
  }
  return assert.fail('the run went on');
}

test('out of memory on the CPU: resumed to the same numbers', async (t) => {
  const config = tinyRun();
  const [whole, broken] = [await folder(t), await folder(t)];
  const x = await createExecutor({ engine: 'cpu', threads: 1 });
  await collect(run(x, whole, config));
  const before = x.memoryBytes();
  const small = harmAt(await createExecutor({ engine: 'cpu', threads: 1 }), 4, () => {
    throw new AppError('engine-out-of-memory', '5 GiB are needed.', 'Take a smaller batch.');
  });
  const error = await ends(run(small, broken, config));
  assert.deepEqual(
    [error.code, error.message, error.action],
    ['engine-out-of-memory', '5 GiB are needed. Resuming the run goes on from step 2.', 'Resume the run. Take a smaller batch.'],
  );
  // The executor is as usable as before: the run's tensors went with it.
  assert.equal(small.memoryBytes(), before);
  await small.dispose();
  await collect(goOn(x, broken));
  assert.deepEqual(await metricsLines(broken), await metricsLines(whole));
  assert.deepEqual(await listCheckpoints(broken), await listCheckpoints(whole));
  await x.dispose();
});

test('a GPU lost in mid-step: resumed to the same numbers, or on the CPU', { skip: noAdapter }, async (t) => {
  const config = tinyRun({ steps: 4 });
  const [whole, broken, early] = [await folder(t), await folder(t), await folder(t)];
  const x = await createWebgpuExecutor();
  await collect(run(x, whole, config));
  const lost = await createWebgpuExecutor();
  const { gpu } = lost.engine.runtime.device;
  const error = await ends(
    run(
      harmAt(lost, 3, () => gpu.destroy()),
      broken,
      config,
    ),
  );
  assert.equal(error.code, 'engine-died');
  assert.match(error.message, /^The GPU \(.+\) (stopped working|refused a command): .* Resuming the run goes on from step 2\.$/);
  assert.match(error.action, /^Resume the run\. If it happens again, resume it on the CPU: patchwise resume DIR --engine cpu\. /);
  await lost.dispose();
  assert.deepEqual(await listCheckpoints(broken), [0, 2]);
  await collect(goOn(x, broken));
  assert.deepEqual(await metricsLines(broken), await metricsLines(whole));
  await x.dispose();

  // Lost before the first checkpoint was whole, and gone on without a GPU.
  const gone = await createWebgpuExecutor();
  const { readParameters } = gone;
  gone.readParameters = (set) => {
    gone.engine.runtime.device.gpu.destroy();
    return readParameters.call(gone, set);
  };
  const first = await ends(run(gone, early, config));
  assert.deepEqual(await listCheckpoints(early), []);
  assert.match(first.message, /from step 0\.$/);
  const cpu = await createExecutor({ engine: 'cpu', threads: 1 });
  const events = await collect(goOn(cpu, early));
  assert.ok(events.some((event) => event.type === 'log' && /started on webgpu and goes on with cpu/.test(event.text)));
  assert.equal((await metricsLines(early)).length, 4);
  await cpu.dispose();
});
