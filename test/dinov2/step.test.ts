/** Three whole training steps of the official code, repeated: losses, first gradients, final weights of both networks. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { modelConfig, OFFICIAL_CROPS, type RunConfig } from '../../core/dinov2/config.ts';
import { parameterGroups } from '../../core/dinov2/optimizer.ts';
import { applyUpdate, clipGradients, computeGradients, updateCenters, type Batch, type TrainState } from '../../core/dinov2/step.ts';
import { executors } from './executors.ts';
import { golden, goldenJson, noGolden, relativeError, weightsOf, type RecordedSteps } from './golden.ts';
import { tinyRun } from './tiny-run.ts';

const model = { embedDim: 64, depth: 2, heads: 1, positionGrid: 8 };
const CASES = {
  'train-sinkhorn': { model: { ...modelConfig('nano'), ...model }, tied: false },
  'train-centering': { model: { ...modelConfig('nano'), ...model }, tied: false },
  'train-tied-registers-swiglu': { model: { ...modelConfig('nano', { registers: 4, ffn: 'swiglu' }), ...model }, tied: true },
};

function configOf(name: keyof typeof CASES, facts: RecordedSteps): RunConfig {
  const { model, tied } = CASES[name];
  const base = tinyRun();
  return {
    ...base,
    model,
    heads: { dino: { hidden: 128, bottleneck: 64, prototypes: 256 }, ibot: tied ? null : { hidden: 128, bottleneck: 48, prototypes: 192 } },
    batch: facts.batch,
    crops: { ...OFFICIAL_CROPS, globalSize: 112, localSize: 42, localCount: facts.locals },
    optimizer: {
      ...base.optimizer,
      clipNorm: facts.clip,
      layerDecay: facts.layerwise_decay,
      patchEmbedMultiplier: facts.patch_embed_lr_mult,
    },
    teacher: { ...base.teacher, centering: facts.centering === 'centering' ? 'softmax' : 'sinkhorn', centerMomentum: 0.9 },
    studentTemperature: facts.student_temp,
    lossWeights: { dino: 1, ibot: 1, koleo: facts.koleo_weight },
  };
}

/** Exact gradient 0, which Adam turns into whole steps of rounding noise: the key rows of every attn.qkv.bias. */
function withoutKeyBias(name: string, values: ArrayLike<number>): number[] {
  const all = Array.from(values);
  if (!name.endsWith('attn.qkv.bias')) return all;
  const D = all.length / 3;
  return [...all.slice(0, D), ...all.slice(2 * D)];
}

for (const [engine, create] of executors) {
  for (const name of Object.keys(CASES) as (keyof typeof CASES)[]) {
    test(`${name} repeats official steps on ${engine}`, { skip: noGolden }, async (t) => {
      const x = await create();
      const file = await golden(name);
      const facts = await goldenJson<RecordedSteps>(name);
      const config = configOf(name, facts);
      const student = x.createParameters(weightsOf(file, 'student0.'));
      const teacher = x.createParameters(weightsOf(file, 'teacher0.'));
      const K = { dino: config.heads.dino.prototypes, ibot: (config.heads.ibot ?? config.heads.dino).prototypes };
      const state: TrainState = {
        student,
        teacher,
        adam: x.createAdamState(student),
        centers: { dino: new Float32Array(K.dino), ibot: new Float32Array(K.ibot) },
      };
      const groups = parameterGroups(config, student);
      for (const [i, { name: parameter }] of student.specs.entries()) {
        const expected = facts.param_groups[parameter];
        assert.ok(Math.abs(groups.rateMultipliers[i]! - expected.lr) < 1e-12, `rate multiplier of ${parameter}`);
        assert.equal(groups.decayMultipliers[i], expected.wd, `decay multiplier of ${parameter}`);
        assert.equal(groups.lastLayer[i] === 1, expected.last, `last layer: ${parameter}`);
      }

      let worstLoss = 0;
      let worstGradient = 0;
      // The slow twin takes a second a step: its first is enough to know every operation and gradient.
      const steps = engine === 'reference' ? facts.steps.slice(0, 1) : facts.steps;
      for (const [i, expected] of steps.entries()) {
        await x.scope(async () => {
          const array = <T extends Float32Array | Uint8Array>(key: string): T => file.tensors.get(`step${i}.${key}`)!.values as T;
          const batch: Batch = {
            images: facts.batch,
            globalCrops: array('global_crops'),
            localCrops: array('local_crops'),
            masks: array('masks'),
            globalDropPath: null,
            localDropPath: null,
          };
          const values = {
            learningRate: expected.lr,
            lastLayerLearningRate: expected.last_layer_lr,
            weightDecay: expected.wd,
            teacherMomentum: expected.momentum,
            teacherTemperature: expected.teacher_temp,
          };
          const { terms, targets } = computeGradients(x, config, state, batch, values);
          assert.equal(targets.maskedPositions.length, expected.n_masked);
          const targetError = relativeError(await x.read(targets.ibot!), array('teacher_ibot_targets'));
          assert.ok(targetError < 1e-3, `step ${i} iBOT targets: ${targetError}`);
          for (const [key, term] of [
            ['total', terms.total],
            ['dino_global', terms.dinoGlobal],
            ['dino_local', terms.dinoLocal!],
            ['ibot', terms.ibot!],
            ['koleo', terms.koleo],
          ] as const) {
            const error = relativeError(await x.read(term), [expected[key]]);
            worstLoss = Math.max(worstLoss, error);
            assert.ok(error < 1e-5, `step ${i} ${key}: relative error ${error}`);
          }
          if (i === 0) {
            const gradients = await x.readGradients(student);
            for (const { name: parameter, offset, size } of student.specs) {
              const error = relativeError(
                withoutKeyBias(parameter, gradients.subarray(offset, offset + size)),
                withoutKeyBias(parameter, file.tensors.get(`grad0.${parameter}`)!.values),
              );
              worstGradient = Math.max(worstGradient, error);
              assert.ok(error < 1e-4, `gradient of ${parameter}: relative error ${error}`);
            }
          }
          const norms = await x.read(clipGradients(x, config, state, groups));
          applyUpdate(x, config, state, groups, values, i);
          for (const [p, part] of groups.partNames.entries()) {
            assert.ok(relativeError([norms[p]!], [expected.grad_norm[part]]) < 1e-4, `step ${i} gradient norm of ${part}`);
          }
          await updateCenters(x, config, state, targets);
        });
      }

      for (const network of steps.length === facts.steps.length ? (['student', 'teacher'] as const) : []) {
        const set = state[network];
        const values = await x.readParameters(set);
        let wrong = 0;
        let moved = 0;
        for (const { name: parameter, offset, size } of set.specs) {
          const ours = withoutKeyBias(parameter, values.subarray(offset, offset + size));
          const start = withoutKeyBias(parameter, file.tensors.get(`${network}0.${parameter}`)!.values);
          const theirs = withoutKeyBias(parameter, file.tensors.get(`${network}3.${parameter}`)!.values);
          const square = (a: number[], b: number[]): number => a.reduce((sum, value, j) => sum + (value - b[j]!) ** 2, 0);
          const [difference, distance] = [square(ours, theirs), square(theirs, start)];
          assert.ok(Math.sqrt(difference / distance) < 5e-3, `${network} ${parameter}: ${Math.sqrt(difference / distance)}`);
          wrong += difference;
          moved += distance;
        }
        assert.ok(Math.sqrt(wrong / moved) < 1e-3, `${network} pooled: ${Math.sqrt(wrong / moved)}`);
        t.diagnostic(`${network}: pooled ${Math.sqrt(wrong / moved).toExponential(2)}`);
      }
      t.diagnostic(`losses ${worstLoss.toExponential(2)}, first gradients ${worstGradient.toExponential(2)}`);
      await x.dispose();
    });
  }
}
