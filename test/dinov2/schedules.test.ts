import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parameterGroups } from '../../core/dinov2/optimizer.ts';
import { stepValues, type StepValues } from '../../core/dinov2/schedules.ts';
import { tinyRun } from './tiny-run.ts';

/** Reference points of the official configurations (spec 6). */
const short = {
  ...tinyRun(),
  steps: 125_000,
  optimizer: {
    ...tinyRun().optimizer,
    learningRate: 4e-3 * Math.sqrt(2048 / 1024),
    warmupSteps: 12_500,
    weightDecay: [0.04, 0.4] as const,
    freezeLastLayerSteps: 1250,
  },
  teacher: { ...tinyRun().teacher, momentum: [0.992, 1] as const, temperatureWarmupSteps: 37_500 },
};
const long = {
  ...short,
  steps: 625_000,
  optimizer: { ...short.optimizer, learningRate: 2e-4 * Math.sqrt(3072 / 1024), warmupSteps: 100_000, weightDecay: [0.04, 0.2] as const },
  teacher: { ...short.teacher, momentum: [0.994, 1] as const },
};

function near(actual: number, expected: number, what: string): void {
  assert.ok(
    Math.abs(actual - expected) <= 5e-8 * Math.max(1, Math.abs(expected)) &&
      Math.abs(actual - expected) <= 2e-7 * Math.abs(expected) + 1e-12,
    `${what}: ${actual}, not ${expected}`,
  );
}

test('schedules pass through the official points', () => {
  const first = stepValues(short, 0);
  assert.equal(first.learningRate, 0);
  near(first.weightDecay, 0.04, 'first decay');
  near(first.teacherMomentum, 0.992, 'first momentum');
  assert.equal(first.teacherTemperature, 0.04);

  const v1249 = stepValues(short, 1249);
  near(v1249.learningRate, 5.652781e-4, 'rate at 1249');
  near(v1249.weightDecay, 0.040088677, 'decay at 1249');
  near(v1249.teacherMomentum, 0.99200197, 'momentum at 1249');
  near(v1249.teacherTemperature, 0.040999227, 'temperature at 1249');
  assert.equal(v1249.lastLayerLearningRate, 0);
  assert.equal(stepValues(short, 1250).lastLayerLearningRate, stepValues(short, 1250).learningRate);

  near(stepValues(short, 12_500).learningRate, 5.6568542e-3, 'rate at 12500');
  const middle = stepValues(short, 62_500);
  near(middle.learningRate, 3.3199915e-3, 'rate at 62500');
  near(middle.weightDecay, 0.22, 'decay at 62500');
  near(middle.teacherMomentum, 0.996, 'momentum at 62500');
  assert.equal(middle.teacherTemperature, 0.07);
  const end = stepValues(short, 124_999);
  near(end.learningRate, 1.0000011e-6, 'last rate');
  near(end.weightDecay, 0.4, 'last decay');
  near(end.teacherMomentum, 1, 'last momentum');

  near(stepValues(long, 99_999).learningRate, 3.4641016e-4, 'long rate at 99999');
  near(stepValues(long, 100_000).learningRate, 3.4641016e-4, 'long rate at 100000');
  const half = stepValues(long, 312_500);
  near(half.learningRate, 2.246108e-4, 'long rate at 312500');
  near(half.weightDecay, 0.12, 'long decay at 312500');
  near(half.teacherMomentum, 0.997, 'long momentum at 312500');
});

/** The official schedules as they are made: whole tables, warm-up by linspace with both ends, then half a cosine (spec 6). */
function table(base: number, final: number, steps: number, warmup = 0, start = 0): (step: number) => number {
  const values = Array.from({ length: warmup }, (_, i) => start + (i * (base - start)) / Math.max(1, warmup - 1));
  const rest = steps - warmup;
  for (let i = 0; i < rest; i++) values.push(final + ((base - final) * (1 + Math.cos((i / rest) * Math.PI))) / 2);
  return (step) => values[step] ?? final;
}

test('every step of the official runs has the values of their tables, and the final ones after the last', () => {
  for (const run of [short, long]) {
    const { steps, optimizer, teacher } = run;
    const rate = table(optimizer.learningRate, optimizer.finalLearningRate, steps, optimizer.warmupSteps);
    const warmup = teacher.temperatureWarmupSteps;
    const tables = {
      learningRate: rate,
      backboneLearningRate: rate,
      lastLayerLearningRate: (step) => (step < optimizer.freezeLastLayerSteps ? 0 : rate(step)),
      weightDecay: table(optimizer.weightDecay[0], optimizer.weightDecay[1], steps),
      teacherMomentum: table(teacher.momentum[0], teacher.momentum[1], steps),
      teacherTemperature: table(teacher.temperature[1], teacher.temperature[1], warmup, warmup, teacher.temperature[0]),
    } satisfies Record<keyof StepValues, (step: number) => number>;
    for (let step = 0; step < steps + 3; step++) {
      const values = stepValues(run, step);
      for (const [name, expected] of Object.entries(tables)) {
        const difference = Math.abs(values[name as keyof StepValues] - expected(step));
        if (!(difference < 1e-14)) assert.fail(`${name} at ${step}: off by ${difference}`);
      }
    }
  }
});

test('rates fall from block to block as published', () => {
  const names = (depth: number): string[] => [
    'backbone.pos_embed',
    'backbone.patch_embed.proj.weight',
    'backbone.blocks.0.norm1.weight',
    `backbone.blocks.${depth - 1}.mlp.fc2.weight`,
    'backbone.norm.weight',
    'dino_head.mlp.0.weight',
  ];
  for (const [depth, published] of [
    [24, [0.0718, 0.01436, 0.0798, 0.9, 1, 1]],
    [12, [0.2542, 0.0508, 0.2824, 0.9, 1, 1]],
  ] as const) {
    const run = {
      ...short,
      model: { ...short.model, depth },
      optimizer: { ...short.optimizer, layerDecay: 0.9, patchEmbedMultiplier: 0.2 },
    };
    const specs = names(depth).map((name) => ({ name, shape: [1], offset: 0, size: 1 }));
    const { rateMultipliers } = parameterGroups(run, { specs });
    for (const [i, expected] of published.entries()) {
      assert.ok(Math.abs(rateMultipliers[i]! - expected) < 5.1e-5, `${specs[i]!.name} of ${depth}: ${rateMultipliers[i]}, not ${expected}`);
    }
  }
});
