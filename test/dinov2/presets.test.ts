import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AppError } from '../../core/contract/index.ts';
import { modelConfig } from '../../core/dinov2/config.ts';
import { gigaflopsPerImage } from '../../core/dinov2/estimate.ts';
import { resolveConfig, trainPresets, type TrainFacts } from '../../core/dinov2/presets.ts';
import type { StartFacts } from '../../core/dinov2/start.ts';

const cpu: TrainFacts = { images: 1747, cores: 2, memoryBytes: 16e9, engine: 'cpu, 2 threads', gpu: false };
const gpu: TrainFacts = { ...cpu, engine: 'webgpu, a card', gpu: true };

test('every preset can be resolved, survives JSON, and fits its own patches', () => {
  for (const facts of [cpu, gpu]) {
    for (const images of [3, 40, 900, 5000, 50_000, 500_000]) {
      const { presets, recommendedId } = trainPresets({ ...facts, images });
      assert.ok(presets.some(({ id }) => id === recommendedId));
      for (const { id, steps, batch, numbers, model, estimatedSeconds } of presets) {
        const config = resolveConfig(id, { ...facts, images });
        assert.deepEqual(JSON.parse(JSON.stringify(config)), config);
        assert.equal(config.steps, steps);
        assert.equal(config.batch, batch);
        assert.equal(config.model.name, model);
        assert.ok(batch >= 2 && batch <= Math.max(2, images));
        assert.equal(config.crops.globalSize % config.model.patchSize, 0);
        assert.equal(config.crops.localSize % config.model.patchSize, 0);
        assert.equal(config.model.positionGrid * config.model.patchSize, config.crops.globalSize);
        assert.equal(config.model.embedDim / config.model.heads, 64);
        assert.equal(estimatedSeconds === null, facts === gpu);
        for (const { name, value, reason } of numbers)
          assert.ok(value !== '' && /^[A-Z0-9].*\.$/.test(reason), `${name}: ${value}, because ${reason}`);
      }
    }
  }
});

test('the table decides by number of images', () => {
  const standard = (images: number) => resolveConfig('standard', { ...gpu, images });
  const seen = [500, 5000, 50_000, 500_000].map((images) => {
    const { model, heads, teacher } = standard(images);
    return [model.name, heads.dino.prototypes, heads.ibot !== null, teacher.momentum[0]];
  });
  assert.deepEqual(seen, [
    ['small', 1024, false, 0.99],
    ['small', 2048, false, 0.99],
    ['small', 8192, false, 0.992],
    ['base', 65_536, true, 0.994],
  ]);
  assert.equal(standard(500_000).model.dropPath, 0.1);
  assert.equal(standard(500).steps, 2000);
  assert.equal(standard(500_000).model.layerScale, 1e-5);
});

test('without a GPU the network is small and the numbers are those of measured short runs', () => {
  const quick = resolveConfig('quick', cpu);
  assert.deepEqual(
    [quick.model.name, quick.model.layerScale, quick.optimizer.layerDecay, quick.teacher.centering],
    ['nano', 1, 1, 'sinkhorn'],
  );
  assert.deepEqual(quick.teacher.temperature, [0.04, 0.04]);
  // What lifts a short run collapses a longer one: from 300 steps on the table's rate and centring.
  for (const [steps, rate, centering] of [
    [300, 1.1e-2, 'sinkhorn'],
    [301, 4e-3, 'softmax'],
  ] as const) {
    const run = resolveConfig('standard', cpu, { steps });
    assert.deepEqual([run.teacher.centering, run.model.layerScale], [centering, 1]);
    assert.ok(Math.abs(run.optimizer.learningRate - rate * Math.sqrt(run.batch / 1024)) < 1e-12);
  }
  const { presets } = trainPresets(cpu);
  const seconds = presets.find(({ id }) => id === 'quick')!.estimatedSeconds!;
  // Measured with this preset on two cores: 48 to 57 images a second.
  const imagesPerSecond = (quick.steps * quick.batch) / seconds;
  assert.ok(imagesPerSecond > 44 && imagesPerSecond < 57, `${seconds} s would be ${imagesPerSecond} images a second`);
});

test('overriding batch and steps moves what depends on them', () => {
  const base = resolveConfig('standard', cpu);
  const changed = resolveConfig('standard', cpu, { batch: base.batch * 4, steps: base.steps * 2, seed: 5 });
  assert.equal(changed.seed, 5);
  assert.ok(Math.abs(changed.optimizer.learningRate / base.optimizer.learningRate - 2) < 1e-12); // square root of 4
  assert.equal(changed.optimizer.warmupSteps, base.optimizer.warmupSteps * 2);
  assert.equal(changed.teacher.temperatureWarmupSteps, base.teacher.temperatureWarmupSteps * 2);
  assert.equal(resolveConfig('standard', cpu, { batch: null, steps: null, seed: null }).batch, base.batch);
});

test('numbers that cannot work are refused', () => {
  const refused = (error: unknown): boolean => error instanceof AppError && error.code === 'bad-input';
  assert.throws(() => resolveConfig('fastest', cpu), refused);
  assert.throws(() => resolveConfig('quick', cpu, { batch: 1 }), refused);
  assert.throws(() => resolveConfig('quick', cpu, { steps: 0 }), refused);
  assert.throws(() => resolveConfig('quick', cpu, { seed: 1.5 }), refused);
});

test('the cost model counts the published arithmetic', () => {
  // spec 11.2: ViT-S/14 with 224 + 8 x 98 crops is 150.6 GFLOP an image for the backbone, about 15 for a head of 65,536.
  const base = resolveConfig('standard', { ...gpu, images: 50_000 });
  const model = { ...base.model, registers: 0 };
  const config = { ...base, model, heads: { dino: { hidden: 2048, bottleneck: 256, prototypes: 65_536 }, ibot: null } };
  assert.ok(Math.abs(gigaflopsPerImage(config) - 166) < 10, String(gigaflopsPerImage(config)));
  // Recomputed, each crop passes once more: 257 tokens of 47.2 million operations, twice, and 50 of 43.4, eight times.
  const again = gigaflopsPerImage({ ...config, recompute: true }) - gigaflopsPerImage(config);
  assert.ok(Math.abs(again - (2 * 257 * 0.0472 + 8 * 50 * 0.0434)) < 1, String(again));
});

const vits: StartFacts = {
  model: modelConfig('small', { positionGrid: 37 }),
  heads: null,
  run: null,
  name: 'imported dinov2_vits14_pretrain.pth',
};
const continued = (facts: TrainFacts, start = vits, overrides = {}) => resolveConfig('continue', facts, overrides, start);

test('from weights only "continue" is offered, by the table of continued runs', () => {
  const rows = [500, 5000, 50_000, 500_000].map((images) => {
    const { heads, optimizer, continuation, steps, model } = continued({ ...gpu, images });
    const { headsOnlySteps, trainableBlocks, lora, backboneRate } = continuation!;
    const rate = Number((backboneRate * optimizer.learningRate).toPrecision(6));
    return [steps, heads.dino.prototypes, headsOnlySteps, trainableBlocks, lora?.rank ?? 0, rate, optimizer.layerDecay, model.positionGrid];
  });
  assert.deepEqual(rows, [
    [1000, 1024, 250, 2, 8, 1e-5, 0.9, 37],
    [5000, 2048, 500, 2, 8, 2e-5, 0.9, 37],
    [20_000, 8192, 1000, 2, 8, 5e-5, 0.9, 37],
    [50_000, 65_536, 1000, null, 0, 5e-5, 0.85, 16],
  ]);
  for (const images of [500, 5000, 500_000]) {
    for (const facts of [cpu, gpu]) {
      const { presets, recommendedId, warning } = trainPresets({ ...facts, images }, vits);
      assert.deepEqual([presets.map(({ id }) => id), recommendedId], [['continue'], 'continue']);
      assert.equal(warning !== null, images < 1000);
      for (const { name, value, reason } of presets[0]!.numbers)
        assert.ok(value !== '' && /^[A-Z0-9].*\.$/.test(reason), `${name}: ${value}, because ${reason}`);
      const names = presets[0]!.numbers.map(({ name }) => name);
      assert.equal(new Set(names).size, names.length);
    }
  }
  assert.equal(trainPresets({ ...cpu, images: 5 }).warning, null);
});

test('a continued run follows its weights: size, patches, registers, heads; numbers survive JSON', () => {
  const config = continued(gpu);
  assert.deepEqual(JSON.parse(JSON.stringify(config)), config);
  assert.deepEqual([config.start, config.startedFrom], ['weights', vits.name]);
  assert.deepEqual([config.model.registers, config.model.positionOffset, config.optimizer.freezeLastLayerSteps], [0, 0.1, 0]);
  const odd = modelConfig('base', { patchSize: 16, registers: 4, positionGrid: 32, ffn: 'swiglu' });
  const heads = { dino: { hidden: 2048, bottleneck: 384, prototypes: 131_072 }, ibot: { hidden: 2048, bottleneck: 256, prototypes: 4096 } };
  const other = continued(cpu, { model: odd, heads, run: null, name: 'run 3, step 5' });
  assert.deepEqual(other.heads, heads);
  assert.equal(other.continuation!.headsOnlySteps, 0);
  assert.deepEqual([other.crops.globalSize, other.crops.localSize], [112, 48]);
  assert.deepEqual({ ...other.model, dropPath: 0 }, odd);
  assert.equal(other.model.dropPath, 0.1);
  assert.equal(continued({ ...gpu, images: 500_000 }, { ...vits, model: odd }).model.positionGrid, 14);
  assert.equal(continued(cpu, { ...vits, model: { ...odd, depth: 1 } }).continuation!.trainableBlocks, 1);
});

test('without a GPU a continued run is short, the heads alone take a quarter of any shortened one, and the rate of the backbone stays', () => {
  const config = continued(cpu);
  assert.deepEqual([config.steps, config.batch, config.continuation!.headsOnlySteps, config.continuation!.patience], [500, 16, 125, 3]);
  const shorter = continued(gpu, vits, { steps: 100, batch: 16 });
  assert.equal(shorter.continuation!.headsOnlySteps, 25);
  assert.ok(Math.abs(shorter.continuation!.backboneRate * shorter.optimizer.learningRate - 2e-5) < 1e-15);
  const said = trainPresets(cpu, vits).presets[0]!.numbers;
  assert.match(said.find(({ name }) => name === 'Steps')!.reason, /With a GPU it would be 5,000 steps of 64 images\.$/);
  assert.match(said.find(({ name }) => name === 'Heads alone')!.reason, /With a GPU 500 steps\.$/);
});

test('presets from scratch want no weights, and "continue" wants some', () => {
  const refused = (words: RegExp) => (error: unknown) =>
    error instanceof AppError && error.code === 'bad-input' && words.test(error.message);
  assert.throws(() => resolveConfig('continue', cpu), refused(/There is no preset continue\.$/));
  assert.throws(() => continued(cpu, undefined, { steps: 0 }), refused(/0 is not a number of steps/));
  assert.throws(() => resolveConfig('quick', cpu, {}, vits), refused(/no preset quick for a run that starts from weights/));
});
