/** What a step needs of a GPU: the count without a GPU against a run on one, and the batch that follows from it. */
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { modelConfig, type RunConfig } from '../../core/dinov2/config.ts';
import { fits, splitFor, stepBytes } from '../../core/dinov2/memory.ts';
import { distillConfig } from '../../core/dinov2/phases.ts';
import { resolveConfig, trainPresets, type TrainFacts } from '../../core/dinov2/presets.ts';
import { openDevice } from '../../core/nn/webgpu/device.ts';
import { Engine } from '../../core/nn/webgpu/engine.ts';
import { WebgpuExecutor } from '../../core/nn/webgpu/executor.ts';
import { Runtime } from '../../core/nn/webgpu/runtime.ts';
import { noAdapter } from '../nn/webgpu-device.ts';
import { collect, folder, run } from './runs.ts';
import { tinyRun } from './tiny-run.ts';

const tiny = tinyRun({ steps: 1, checkpointEvery: 1 });
const CONFIGS: Record<string, RunConfig> = {
  'softmax centring, tied heads': tiny,
  'Sinkhorn, own iBOT head, drop path, two batches a step': {
    ...tiny,
    model: { ...tiny.model, dropPath: 0.3 },
    heads: { dino: { hidden: 48, bottleneck: 24, prototypes: 700 }, ibot: { hidden: 12, bottleneck: 6, prototypes: 300 } },
    teacher: { ...tiny.teacher, centering: 'sinkhorn' },
    accumulate: 2,
    batch: 3,
  },
  'a wider network on larger crops': {
    ...tiny,
    model: { ...modelConfig('nano', { positionGrid: 4, layerScale: 0.1 }), depth: 3 },
    heads: { dino: { hidden: 512, bottleneck: 128, prototypes: 1024 }, ibot: null },
    crops: { ...tiny.crops, globalSize: 56, localSize: 28, localCount: 3 },
  },
};

/** One for all: it keeps what it has compiled, which on a software adapter takes longer than all else. */
let device: ReturnType<typeof openDevice> | null = null;
after(async () => (await device)?.gpu.destroy());

for (const [name, config] of Object.entries(CONFIGS)) {
  test(`the count of a step is what a run holds at most (${name})`, { skip: noAdapter }, async (t) => {
    device ??= openDevice();
    const x = new WebgpuExecutor(new Engine(new Runtime(await device), 'f32'));
    await collect(run(x, await folder(t), config));
    const { peak, pool } = x.engine.runtime;
    const counted = stepBytes(config)!;
    t.diagnostic(`held ${peak} bytes, counted ${counted.held}; reserved ${pool.reserved}, counted ${counted.reserved}`);
    assert.ok(Math.abs(counted.held / peak - 1) < 0.15, `${counted.held} counted, ${peak} held`);
    // Small uploads share blocks of 1 MiB, which such a network notices.
    const off = Math.abs(counted.reserved - pool.reserved);
    assert.ok(off < Math.max(0.15 * pool.reserved, 2 ** 20), `${counted.reserved} counted, ${pool.reserved} reserved`);
  });
}

const GiB = 2 ** 30;
const facts = (images: number, gib: number): TrainFacts => ({
  images,
  cores: 8,
  memoryBytes: 32 * GiB,
  engine: 'webgpu, a card',
  gpu: true,
  gpuMemory: { bytes: gib * GiB, source: 'its driver' },
});

test('the count grows with what it should', () => {
  const { held } = stepBytes(tiny)!;
  // Values, gradients, two moments and the teacher; a block of a 16-wide network has 3,360 parameters.
  const parameters = 5 * 4 * 3360;
  const deeper = stepBytes({ ...tiny, model: { ...tiny.model, depth: 3 } })!.held;
  assert.ok(deeper - held > parameters, `${deeper} after ${held}`);
  const double = stepBytes({ ...tiny, batch: 8 })!.held;
  assert.ok(double > 1.3 * held && double < 2 * held, `${double} after ${held}`);
  assert.equal(stepBytes({ ...tiny, accumulate: 4 })!.held, held);
  // Four million prototypes are no single array.
  assert.equal(stepBytes({ ...tiny, heads: { dino: { ...tiny.heads.dino, bottleneck: 256, prototypes: 2 ** 22 }, ibot: null } }), null);
});

test('a batch without room is halved until it has, the images of a step stay', () => {
  const roomy = resolveConfig('standard', facts(5000, 512));
  assert.deepEqual([roomy.batch, roomy.accumulate], [64, undefined]);
  const narrow = resolveConfig('standard', facts(5000, 12));
  assert.ok(narrow.batch < 64 && narrow.batch * narrow.accumulate! === 64);
  assert.ok(fits(narrow, facts(0, 12).gpuMemory!));
  assert.ok(!fits({ ...narrow, batch: narrow.batch * 2 }, facts(0, 12).gpuMemory!));
  assert.equal(narrow.optimizer.learningRate, roomy.optimizer.learningRate);
  assert.deepEqual([roomy.teacher.centering, narrow.teacher.centering], ['sinkhorn', 'softmax']);
  assert.equal(narrow.recompute, undefined);
  const { batch, ...others } = narrow;
  assert.deepEqual({ ...others, batch: 64, accumulate: undefined, teacher: roomy.teacher }, { ...roomy, accumulate: undefined });
  assert.ok(batch >= 2);

  // What a person chose stays, with activations recomputed where that gives room, and so does a batch on an engine whose
  // memory is not known.
  const chosen = (gib: number): unknown[] => {
    const { batch: images, accumulate, recompute } = resolveConfig('standard', facts(5000, gib), { batch: 64 });
    return [images, accumulate, recompute];
  };
  assert.deepEqual([1, 12, 512].map(chosen), [
    [64, undefined, undefined],
    [64, undefined, true],
    [64, undefined, undefined],
  ]);
  const { gpuMemory: _, ...unknown } = facts(5000, 12);
  assert.equal(resolveConfig('standard', unknown).batch, 64);
  assert.equal(splitFor(tiny, { bytes: GiB, source: '' }), null);
  assert.deepEqual(splitFor({ ...tiny, batch: 7 }, { bytes: 1, source: '' }), { batch: 3, accumulate: 2, recompute: true });
});

test('activations are recomputed where 16 images have no room with them, from the whole batch on', () => {
  // A network whose activations outweigh its parameters.
  const sizes = { globalSize: 224, localSize: 98, localCount: 8 };
  const heads = { dino: { hidden: 64, bottleneck: 16, prototypes: 64 }, ibot: null };
  const model = modelConfig('small', { positionGrid: 16, layerScale: 0.1 });
  const config: RunConfig = { ...tiny, model, heads, crops: { ...tiny.crops, ...sizes }, batch: 64 };
  const held = (batch: number, recompute: boolean): number => stepBytes({ ...config, batch, recompute })!.reserved;
  assert.ok(held(64, true) < held(64, false) / 2, `${held(64, true)} bytes, ${held(64, false)} with everything kept`);
  const card = (bytes: number): ReturnType<typeof splitFor> => splitFor(config, { bytes: bytes / 0.85 + 1, source: '' });
  assert.equal(card(held(64, false)), null);
  assert.deepEqual(card(held(16, false)), { batch: 16, accumulate: 4, recompute: false });
  const less = card(held(16, false) - 2 ** 20)!;
  assert.ok(less.recompute && less.batch > 8, JSON.stringify(less));
  assert.ok(held(less.batch, true) < held(16, false));
  assert.ok(less.batch === 64 || held(2 * less.batch, true) >= held(16, false));
  // Asked for, it stays however large the card is.
  assert.equal(splitFor({ ...config, recompute: true }, { bytes: 2 ** 40, source: '' }), null);
  assert.equal(resolveConfig('standard', facts(5000, 512), { recompute: true }).recompute, true);
});

test('the room of a distillation is that of its student beside the teacher', () => {
  const head = { hidden: 2048, bottleneck: 256, prototypes: 1024 };
  const teacher = { model: modelConfig('base'), heads: { dino: head, ibot: null }, run: null, name: 'run 1, step 9' };
  // The preset would have a base network for so many images, which has no room here with 32.
  const config = distillConfig(teacher, facts(500_000, 16));
  const { gpuMemory } = facts(0, 16);
  assert.deepEqual([config.model.name, config.batch, config.recompute], ['small', 32, undefined]);
  assert.ok(fits(config, gpuMemory!) && !fits({ ...config, batch: 64 }, gpuMemory!));
});

test('the presets tell what a batch takes of the GPU', () => {
  const row = (gib: number): { value: string; reason: string } => {
    const { presets } = trainPresets(facts(5000, gib));
    return presets.find(({ id }) => id === 'standard')!.numbers.find(({ name }) => name === 'Batch')!;
  };
  assert.equal(row(512).value, '64 images');
  assert.match(row(512).reason, /^64 at a time take [\d.]+ GiB of the GPU's 512\.0 GiB \(its driver\)\.$/);
  assert.match(row(12).value, /^64 images, \d+ at a time$/);
  assert.match(row(12).reason, /of the GPU's 12\.0 GiB \(its driver\); all at once would have no room\. Gradients are averaged/);
  assert.match(row(4).reason, /of the GPU's 4\.0 GiB .*\. Activations are computed again in the backward pass: a third more work/);
  assert.match(row(0.5).reason, /: too much\. Choose a smaller network\.$/);
});
