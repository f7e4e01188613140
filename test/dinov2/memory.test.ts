/** What training holds does not grow: not the tensors, not the WebAssembly memory under them. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import type { RunConfig } from '../../core/dinov2/config.ts';
import { readSafetensors } from '../../core/dinov2/safetensors.ts';
import { pretrain } from '../../core/dinov2/train.ts';
import { createCpuExecutor } from '../../core/nn/cpu/index.ts';
import { pictures, scanned } from './pictures.ts';
import { collect, folder, never, run } from './runs.ts';
import { tinyRun } from './tiny-run.ts';

const crops = { ...tinyRun().crops, globalSize: 28, localSize: 14 };

const VARIANTS: Record<string, Partial<RunConfig>> = {
  'softmax centring': {},
  'Sinkhorn, own iBOT head, drop path, two batches a step': {
    model: { ...tinyRun().model, dropPath: 0.3 },
    heads: { dino: { hidden: 16, bottleneck: 8, prototypes: 24 }, ibot: { hidden: 12, bottleneck: 6, prototypes: 20 } },
    teacher: { ...tinyRun().teacher, centering: 'sinkhorn' },
    accumulate: 2,
    batch: 2,
  },
};

for (const [variant, changes] of Object.entries(VARIANTS)) {
  test(`500 steps hold what 20 hold (${variant})`, async (t) => {
    const x = await createCpuExecutor({ threads: 2 });
    const before = x.memoryBytes();
    const config = tinyRun({ steps: 500, logEvery: 10, checkpointEvery: 500, crops, ...changes });
    const held = new Map<number, readonly [tensors: number, memory: number]>();
    const events = pretrain({
      runDir: await folder(t),
      imageRoot: '/nowhere',
      images: scanned,
      config,
      executor: x,
      signal: never,
      ...pictures(),
    });
    for await (const event of events) if (event.type === 'metrics') held.set(event.metrics.step, [x.memoryBytes(), x.engine.heap.reserved]);
    assert.deepEqual(held.get(500), held.get(20));
    t.diagnostic(`${held.get(20)!.join(' bytes of tensors in ')} bytes of memory`);
    assert.equal(x.memoryBytes(), before);
    await x.dispose();
  });
}

for (const [variant, changes] of Object.entries(VARIANTS)) {
  test(`a run that computes activations again ends with the bytes of one that keeps them (${variant})`, async (t) => {
    const hashes = [];
    for (const recompute of [false, true]) {
      const x = await createCpuExecutor({ threads: 2 });
      const runDir = await folder(t);
      await collect(run(x, runDir, tinyRun({ steps: 4, checkpointEvery: 2, recompute, ...changes })));
      const { metadata } = await readSafetensors(join(runDir, 'checkpoints', '4', 'training.safetensors'));
      hashes.push(metadata['sha256']);
      await x.dispose();
    }
    assert.match(hashes[0]!, /^[0-9a-f]{64}$/);
    assert.equal(hashes[1], hashes[0]);
  });
}
