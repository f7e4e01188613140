/** Runs that follow another network: what the presets make of it, and a whole high-resolution phase after a run. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { AppError } from '../../core/contract/index.ts';
import { modelConfig, type ModelConfig, type RunConfig } from '../../core/dinov2/config.ts';
import { describeStart, resizePositionTable, type StartFacts } from '../../core/dinov2/index.ts';
import { drawMasks, largestBlock } from '../../core/dinov2/masking.ts';
import { DISTILL, distillConfig, HIGH_RESOLUTION, highResolutionConfig, phasePresets } from '../../core/dinov2/phases.ts';
import { estimatedSeconds, gigaflopsPerImage } from '../../core/dinov2/estimate.ts';
import { resolveConfig, type TrainFacts } from '../../core/dinov2/presets.ts';
import { readSafetensors } from '../../core/dinov2/safetensors.ts';
import { pretrain } from '../../core/dinov2/train.ts';
import { Random } from '../../core/random.ts';
import { executors } from './executors.ts';
import { pictures, scanned } from './pictures.ts';
import { collect, folder, goOn, metricsLines, never, run } from './runs.ts';
import { tinyRun } from './tiny-run.ts';

const cpu: TrainFacts = { images: 1747, cores: 2, memoryBytes: 16e9, engine: 'cpu, 2 threads', gpu: false };
const gpu: TrainFacts = { ...cpu, engine: 'tensorflow, a card', gpu: true };

const startOf = (config: RunConfig): StartFacts => ({ model: config.model, heads: config.heads, run: config, name: 'run 1, step 9' });
const refused =
  (words: RegExp) =>
  (error: unknown): boolean =>
    error instanceof AppError && error.code === 'bad-input' && words.test(error.message);

test('a phase goes on with every number of its run but those of the resolution', () => {
  const source = resolveConfig('standard', { ...gpu, images: 50_000 });
  const config = highResolutionConfig(startOf(source), gpu);
  assert.deepEqual(JSON.parse(JSON.stringify(config)), config);
  assert.deepEqual([config.presetId, config.start, config.startedFrom], [HIGH_RESOLUTION, 'weights', 'run 1, step 9']);
  // 224 to 518 px, 98 to 224: both in patches of 14.
  assert.deepEqual([config.crops.globalSize, config.crops.localSize, config.model.positionGrid], [518, 224, 37]);
  assert.deepEqual({ ...config.crops, globalSize: 224, localSize: 98 }, source.crops);
  assert.deepEqual({ ...config.model, positionGrid: 16 }, source.model);
  assert.deepEqual([config.heads, config.masking, config.lossWeights], [source.heads, source.masking, source.lossWeights]);
  // 50,000 steps to 5,000, each schedule with them; a quarter of the rate for the same images a step.
  assert.equal(config.steps, 5000);
  assert.deepEqual([source.optimizer.warmupSteps, config.optimizer.warmupSteps], [4000, 400]);
  assert.deepEqual([source.optimizer.freezeLastLayerSteps, config.optimizer.freezeLastLayerSteps], [500, 50]);
  assert.deepEqual([source.teacher.temperatureWarmupSteps, config.teacher.temperatureWarmupSteps], [15_000, 1500]);
  assert.ok(Math.abs(config.optimizer.learningRate / source.optimizer.learningRate - 0.25) < 1e-12);
  assert.deepEqual({ ...config.teacher, temperatureWarmupSteps: 15_000 }, source.teacher);
  // About 5.3 times the patches: as many images a step in eight batches.
  assert.deepEqual([source.batch, config.batch, config.accumulate], [128, 16, 8]);

  const other = highResolutionConfig(startOf(source), gpu, { steps: 70, batch: 32, accumulate: 2, globalSize: 448, seed: 5 });
  assert.deepEqual([other.steps, other.batch, other.accumulate, other.seed, other.model.positionGrid], [70, 32, 2, 5, 32]);
  assert.ok(Math.abs(other.optimizer.learningRate / config.optimizer.learningRate - Math.sqrt(64 / 128)) < 1e-12);
  // The rate of a continued run is that of its heads: a quarter is taken of what its backbone had.
  const continuation = { headsOnlySteps: 10, trainableBlocks: 2, lora: null, backboneRate: 0.02, patience: null };
  const gentle = highResolutionConfig(startOf({ ...source, start: 'weights', continuation }), gpu);
  assert.ok(Math.abs(gentle.optimizer.learningRate / source.optimizer.learningRate - 0.25 * 0.02) < 1e-12);
  assert.equal(gentle.continuation, undefined);
  assert.equal(highResolutionConfig(startOf(resolveConfig('standard', { ...gpu, images: 500_000 })), gpu).steps, 10_000);
});

test('masks of a phase follow its grid: at 518 px no block is larger than 666 patches', () => {
  assert.equal(largestBlock(518, 14), 666);
  const config = highResolutionConfig(startOf(resolveConfig('standard', gpu)), gpu);
  const masks = drawMasks(new Random(3), config, 16);
  assert.equal(masks.length, 16 * 37 * 37);
  const counts = Array.from({ length: 16 }, (_, i) => masks.subarray(i * 1369, (i + 1) * 1369).reduce((sum, bit) => sum + bit, 0));
  const masked = counts.filter((count) => count > 0).sort((a, b) => a - b);
  assert.equal(masked.length, 8);
  masked.forEach((count, i) => {
    const [least, most] = [0.1 + 0.05 * i, 0.1 + 0.05 * (i + 1)];
    assert.ok(count <= 1369 * most && count > 1369 * least - 6, `${count} patches in slice ${i}`);
  });
});

test('without a GPU a phase doubles the side; patches of 16 px, limits and unfit numbers', () => {
  const quick = resolveConfig('quick', cpu);
  const config = highResolutionConfig(startOf(quick), cpu);
  assert.deepEqual([config.crops.globalSize, config.crops.localSize, config.model.positionGrid], [224, 84, 16]);
  assert.deepEqual([config.steps, config.batch, config.accumulate], [100, 8, 2]);
  const model = { ...modelConfig('small', { patchSize: 16, positionGrid: 14 }) };
  const wide = { ...quick, model, crops: { ...quick.crops, globalSize: 224, localSize: 96 } };
  assert.deepEqual(
    [highResolutionConfig(startOf(wide), gpu).crops.globalSize, highResolutionConfig(startOf(wide), gpu).crops.localSize],
    [512, 224],
  );

  const unfit = (overrides: Parameters<typeof highResolutionConfig>[2], words: RegExp): void =>
    assert.throws(() => highResolutionConfig(startOf(quick), cpu, overrides), refused(words));
  unfit({ globalSize: 225 }, /225 px are no larger multiple of the 14 px patches/);
  unfit({ globalSize: 112 }, /112 px/);
  unfit({ steps: 0 }, /0 is not a number of steps/);
  unfit({ batch: 1 }, /1 is not a batch/);
  unfit({ accumulate: 0 }, /0 is not a number of batches/);
  assert.throws(
    () => highResolutionConfig({ ...startOf(quick), run: null, name: 'imported a.pth' }, cpu),
    refused(/imported a\.pth is none/),
  );
});

test('a student follows its teacher in patches and prototypes, and is smaller', () => {
  const teacher = (model: ModelConfig, heads = resolveConfig('quick', cpu).heads): StartFacts => ({
    model,
    heads,
    run: null,
    name: 'imported t.pth',
  });
  const separate = { dino: { hidden: 2048, bottleneck: 384, prototypes: 4096 }, ibot: { hidden: 2048, bottleneck: 256, prototypes: 8192 } };
  const large = modelConfig('large', { patchSize: 16, positionGrid: 14 });
  const config = distillConfig(teacher(large, separate), gpu, { batch: 64, accumulate: 4 });
  assert.deepEqual(JSON.parse(JSON.stringify(config)), config);
  assert.deepEqual([config.model.name, config.model.patchSize, config.model.dropPath, config.model.positionGrid], ['small', 16, 0, 14]);
  assert.deepEqual([config.crops.globalSize, config.crops.localSize], [224, 96]);
  assert.deepEqual([config.heads.dino.prototypes, config.heads.ibot!.prototypes], [4096, 8192]);
  assert.deepEqual(config.distillation, { model: large, taughtBy: 'imported t.pth' });
  assert.ok(Math.abs(config.optimizer.learningRate - 4e-3 * Math.sqrt(256 / 1024)) < 1e-12);
  assert.equal(config.teacher.temperature[1], 0.07);

  assert.equal(distillConfig(teacher(modelConfig('small')), gpu).model.name, 'tiny');
  assert.equal(distillConfig(teacher(modelConfig('small')), cpu).model.name, 'nano');
  assert.equal(distillConfig(teacher(modelConfig('small')), cpu).heads.ibot, null);
  assert.throws(() => distillConfig(teacher(modelConfig('nano')), cpu), refused(/no smaller network/));
  assert.throws(() => distillConfig({ ...teacher(large), heads: null }, cpu), refused(/imported t\.pth has no heads/));

  // The large network's forward pass counts: published arithmetic is 162 GFLOP for a crop of ViT-L/14 at 224 px.
  const at14 = distillConfig(teacher(modelConfig('large')), cpu);
  const at224 = { ...at14, crops: { ...at14.crops, globalSize: 224 } };
  const { distillation: _, ...alone } = at224;
  assert.ok(Math.abs(gigaflopsPerImage(at224) - gigaflopsPerImage(alone) - 2 * 162) < 10);
  assert.equal(estimatedSeconds({ ...at14, accumulate: 3 }, cpu), Math.round((3 * at14.steps * at14.batch * gigaflopsPerImage(at14)) / 90));
});

test('what is offered says every number with its reason', () => {
  const quick = resolveConfig('quick', cpu);
  for (const facts of [cpu, gpu]) {
    for (const [id, source] of [
      [HIGH_RESOLUTION, startOf(quick)],
      [DISTILL, { ...startOf(quick), model: modelConfig('base') }],
    ] as const) {
      const { presets, recommendedId, reason } = phasePresets(id, source, facts);
      assert.deepEqual([presets.map((preset) => preset.id), recommendedId], [[id], id]);
      assert.match(reason, /run 1, step 9/);
      for (const { name, value, reason: why } of presets[0]!.numbers)
        assert.ok(value !== '' && /^[A-Z0-9].*\.$/.test(why), `${name}: ${value}, because ${why}`);
    }
  }
});

test('more images a step raise the rate, whether together or in several batches', () => {
  const rate = (overrides: { batch: number; accumulate?: number }): number =>
    resolveConfig('standard', cpu, overrides).optimizer.learningRate;
  assert.equal(rate({ batch: 16, accumulate: 4 }), rate({ batch: 64 }));
  assert.ok(Math.abs(rate({ batch: 16, accumulate: 4 }) / rate({ batch: 16 }) - 2) < 1e-12);
  assert.equal(resolveConfig('standard', cpu, { accumulate: 4 }).accumulate, 4);
  assert.ok(!('accumulate' in resolveConfig('standard', cpu, { accumulate: 1 })));
  assert.throws(() => resolveConfig('standard', cpu, { accumulate: 1.5 }), refused(/1\.5/));
});

for (const [engine, create] of executors.slice(0, 2)) {
  test(`a phase begins as the teacher of its checkpoint, its table resampled, and resumes bit for bit (${engine})`, async (t) => {
    const x = await create();
    const before = await folder(t);
    const model = { ...modelConfig('nano', { positionGrid: 3, layerScale: 0.1 }), embedDim: 64, depth: 1, heads: 1 };
    const optimizer = { ...tinyRun().optimizer, learningRate: 2e-2, warmupSteps: 0 };
    await collect(run(x, before, tinyRun({ model, steps: 2, optimizer })));
    const startFile = join(before, 'checkpoints', '2', 'teacher.safetensors');
    const facts: TrainFacts = { ...cpu, images: scanned.length };
    const start = await describeStart(startFile, 'run 1, step 2');
    const config = { ...highResolutionConfig(start, facts, { steps: 4, batch: 2, accumulate: 2 }), checkpointEvery: 2, logEvery: 1 };
    assert.deepEqual([config.crops.globalSize, config.crops.localSize, config.model.positionGrid], [84, 56, 6]);
    const begin = (runDir: string, signal: AbortSignal = never) =>
      pretrain({ runDir, imageRoot: '/nowhere', images: scanned, config, executor: x, signal, startFile, ...pictures() });

    const stopped = await folder(t);
    const controller = new AbortController();
    await collect(begin(stopped, controller.signal), { after: 1 }, controller);
    const source = (await readSafetensors(startFile)).tensors;
    for (const [file, prefix] of [
      ['teacher', 'teacher.'],
      ['training', 'student.'],
    ] as const) {
      const { tensors } = await readSafetensors(join(stopped, 'checkpoints', '0', `${file}.safetensors`));
      for (const [name, { shape, values }] of source) {
        const now = tensors.get(name.replace('teacher.', prefix))!;
        if (name !== 'teacher.backbone.pos_embed') assert.deepEqual(now.values, values, name);
        else {
          assert.deepEqual(
            [shape, now.shape],
            [
              [1, 10, 64],
              [1, 37, 64],
            ],
          );
          assert.deepEqual(now.values, resizePositionTable(values as Float32Array, model, 6));
        }
      }
    }
    const whole = await folder(t);
    await collect(begin(whole));
    await collect(goOn(x, stopped));
    assert.deepEqual(await metricsLines(stopped), await metricsLines(whole));
    const read = (dir: string): Promise<Buffer> => readFile(join(dir, 'checkpoints', '4', 'training.safetensors'));
    assert.ok((await read(stopped)).equals(await read(whole)));
    await x.dispose();
  });
}
