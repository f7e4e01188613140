import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AppError } from '../../core/contract/index.ts';
import { gigaflopsPerImage, resolveConfig, trainPresets, type TrainFacts } from '../../core/dinov2/presets.ts';

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
  const { presets } = trainPresets(cpu);
  const seconds = presets.find(({ id }) => id === 'quick')!.estimatedSeconds!;
  // Measured with this preset on two cores: 26 to 35 images a second.
  const imagesPerSecond = (quick.steps * quick.batch) / seconds;
  assert.ok(imagesPerSecond > 26 && imagesPerSecond < 35, `${seconds} s would be ${imagesPerSecond} images a second`);
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
});
