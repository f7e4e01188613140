/**
 * Recorded training steps, repeated: multipliers of every parameter, targets, losses, first gradients, gradient norms,
 * and where student and teacher are in the end.
 *
 * With a `drop_path` above 0 a file also holds the samples that each branch kept, int32 [kept], in the order in which
 * they were drawn: `stepI.drop_path.global.BLOCK.attention`, `.ffn`, and the same for `local`.
 */
import * as z from 'zod';
import type { RunConfig } from '../../core/dinov2/config.ts';
import { FIRST_SCALE } from '../../core/dinov2/lossScale.ts';
import { parameterGroups } from '../../core/dinov2/optimizer.ts';
import type { SafeTensorFile } from '../../core/dinov2/safetensors.ts';
import {
  applyUpdate,
  clipGradients,
  computeGradients,
  readMeans,
  updateCenters,
  type Batch,
  type TrainState,
} from '../../core/dinov2/step.ts';
import type { DropPath } from '../../core/dinov2/vit.ts';
import type { BatchSubset, Executor } from '../../core/nn/index.ts';
import { wholeTargets } from '../nn/targets.ts';
import { relativeError, weightsOf } from '../dinov2/golden.ts';
import { tinyRun } from '../dinov2/tiny-run.ts';
import { headOf, modelOf } from './network.ts';
import { tensorOf, TOLERANCE, valuesOf, type Precision, type Row } from './rows.ts';

/** The json beside the tensors. Losses are the weighted terms that add up to `total`; norms are those before clipping. */
export const recordedSteps = z.object({
  batch: z.int().min(2),
  locals: z.int().min(0),
  centering: z.enum(['centering', 'sinkhorn_knopp']),
  layerwise_decay: z.number(),
  tied_heads: z.boolean(),
  patch_embed_lr_mult: z.number(),
  clip: z.number(),
  betas: z.tuple([z.number(), z.number()]),
  student_temp: z.number(),
  koleo_weight: z.number(),
  drop_path: z.number(),
  steps: z
    .array(
      z.object({
        lr: z.number(),
        last_layer_lr: z.number(),
        wd: z.number(),
        momentum: z.number(),
        teacher_temp: z.number(),
        dino_local: z.number().default(0), // without local crops
        dino_global: z.number(),
        koleo: z.number(),
        ibot: z.number().default(0), // when nothing is masked
        total: z.number(),
        grad_norm: z.record(z.string(), z.number()),
        n_masked: z.int(),
      }),
    )
    .min(1),
  param_groups: z.record(z.string(), z.object({ lr: z.number(), wd: z.number(), last: z.boolean() })),
});

export type RecordedSteps = z.infer<typeof recordedSteps>;

export interface TrainOptions {
  readonly precision?: Precision;
  /** At most so many steps; final weights are compared after all of them only. */
  readonly steps?: number;
}

/** The run that the recorded steps belong to. */
function configOf(recorded: SafeTensorFile, facts: RecordedSteps): RunConfig {
  const base = tinyRun();
  const side = (name: string): number => tensorOf(recorded, `step0.${name}`).shape[2]!;
  const ibot = facts.tied_heads ? null : headOf(recorded, 'student0.ibot_head.');
  return {
    ...base,
    model: modelOf(recorded, 'student0.backbone.', facts.drop_path),
    heads: { dino: headOf(recorded, 'student0.dino_head.'), ibot },
    batch: facts.batch,
    crops: {
      ...base.crops,
      globalSize: side('global_crops'),
      localSize: facts.locals > 0 ? side('local_crops') : 0,
      localCount: facts.locals,
    },
    optimizer: {
      ...base.optimizer,
      beta1: facts.betas[0],
      beta2: facts.betas[1],
      clipNorm: facts.clip,
      layerDecay: facts.layerwise_decay,
      patchEmbedMultiplier: facts.patch_embed_lr_mult,
    },
    teacher: { ...base.teacher, centering: facts.centering === 'centering' ? 'softmax' : 'sinkhorn' },
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

/** The two halves of the rows of [2B,K] the other way round: recorded targets are sorted by the student's crop. */
function swapped(values: Float32Array): number[] {
  const half = values.length / 2;
  return [...values.subarray(half), ...values.subarray(0, half)];
}

function batchOf(recorded: SafeTensorFile, config: RunConfig, step: number): Batch {
  const { batch: images, model, crops } = config;
  const values = <T extends Float32Array | Uint8Array>(name: string): T => valuesOf<T>(recorded, `step${step}.${name}`);
  const dropPath = (group: 'global' | 'local', samples: number): DropPath | null => {
    if (model.dropPath === 0 || samples === 0) return null;
    const subset = (block: number, branch: string): BatchSubset => {
      const rows = valuesOf<Int32Array>(recorded, `step${step}.drop_path.${group}.${block}.${branch}`);
      return { rows, scale: samples / rows.length };
    };
    return Array.from({ length: model.depth }, (_, block) => ({ attention: subset(block, 'attention'), ffn: subset(block, 'ffn') }));
  };
  return {
    images,
    globalCrops: values('global_crops'),
    localCrops: crops.localCount > 0 ? values('local_crops') : new Float32Array(0),
    masks: values('masks'),
    globalDropPath: dropPath('global', 2 * images),
    localDropPath: dropPath('local', crops.localCount * images),
  };
}

/** @throws Error naming what the file lacks */
export async function checkTraining(
  x: Executor,
  file: string,
  recorded: SafeTensorFile,
  facts: RecordedSteps,
  options: TrainOptions = {},
): Promise<Row[]> {
  const precision = options.precision ?? 'f32';
  const tolerance = TOLERANCE[precision];
  const steps = facts.steps.slice(0, options.steps);
  const rows: Row[] = [];
  const add = (what: string, which: string | null, error: number, most: number): void => {
    rows.push({ file, what, which, error, tolerance: most });
  };

  const config = configOf(recorded, facts);
  const lossScale = x.precision === 'f16' ? FIRST_SCALE : 1;
  const start = weightsOf(recorded, 'student0.');
  // in the student's order: the moving average aligns them by position
  const follower = start.map(({ name, shape }) => ({ name, shape, values: valuesOf<Float32Array>(recorded, `teacher0.${name}`) }));
  const student = x.createParameters(start);
  const teacher = x.createParameters(follower);
  const adam = x.createAdamState(student);
  try {
    const centers = {
      dino: new Float32Array(config.heads.dino.prototypes),
      ibot: new Float32Array((config.heads.ibot ?? config.heads.dino).prototypes),
    };
    const state: TrainState = { student, teacher, adam, centers };

    const groups = parameterGroups(config, student);
    for (const name of Object.keys(facts.param_groups)) if (!student.has(name)) throw new Error(`it has multipliers of ${name}, no values`);
    for (const [i, { name }] of student.specs.entries()) {
      const expected = facts.param_groups[name];
      if (!expected) throw new Error(`it has no multipliers of ${name}`);
      add('multiplier of the rate', name, Math.abs(groups.rateMultipliers[i]! - expected.lr), 1e-12);
      add('multiplier of the decay', name, Math.abs(groups.decayMultipliers[i]! - expected.wd), 1e-12);
      add('belongs to the last layer', name, Math.abs(groups.lastLayer[i]! - Number(expected.last)), 0);
    }

    for (const [i, expected] of steps.entries()) {
      await x.scope(async () => {
        const values = {
          learningRate: expected.lr,
          backboneLearningRate: expected.lr,
          lastLayerLearningRate: expected.last_layer_lr,
          weightDecay: expected.wd,
          teacherMomentum: expected.momentum,
          teacherTemperature: expected.teacher_temp,
        };
        const { terms, targets } = computeGradients(x, config, state, batchOf(recorded, config, i), values, 0, lossScale);
        const when = `step ${i}`;
        add(`${when}: masked patches`, null, Math.abs(targets.maskedPositions.length - expected.n_masked), 0);
        const compareTargets = (name: string, actual: ArrayLike<number>): void =>
          add(`${when}: targets`, name, relativeError(actual, valuesOf(recorded, `step${i}.teacher_${name}_targets`)), tolerance.targets);
        compareTargets('dino', swapped(await x.read(wholeTargets(x, targets.dino))));
        if (targets.ibot) compareTargets('ibot', await x.read(wholeTargets(x, targets.ibot)));
        for (const [name, term] of [
          ['dino_global', terms.dinoGlobal],
          ['dino_local', terms.dinoLocal],
          ['ibot', terms.ibot],
          ['koleo', terms.koleo],
          ['total', terms.total],
        ] as const) {
          add(`${when}: losses`, name, relativeError(term ? await x.read(term) : [0], [expected[name]]), tolerance.losses);
        }
        if (i === 0) {
          const gradients = (await x.readGradients(student)).map((value) => value / lossScale);
          const pooled = new Map<string, [ours: number[], theirs: number[]]>();
          for (const { name, offset, size } of student.specs) {
            const ours = withoutKeyBias(name, gradients.subarray(offset, offset + size));
            const theirs = withoutKeyBias(name, tensorOf(recorded, `grad0.${name}`).values);
            if (precision === 'f32') add(`${when}: gradients`, name, relativeError(ours, theirs), tolerance.gradients);
            const part = name.slice(0, name.indexOf('.'));
            const [left, right] = pooled.get(part) ?? [[], []];
            pooled.set(part, [left.concat(ours), right.concat(theirs)]);
          }
          for (const [part, [ours, theirs]] of pooled) {
            add(`${when}: gradients, pooled`, part, relativeError(ours, theirs), tolerance.gradients);
          }
        }
        const norms = await x.read(clipGradients(x, config, state, groups, lossScale));
        applyUpdate(x, config, state, groups, values, i);
        for (const [p, part] of groups.partNames.entries()) {
          const norm = expected.grad_norm[part];
          if (norm === undefined) throw new Error(`its step ${i} has no gradient norm of ${part}`);
          add(`${when}: gradient norm`, part, relativeError([norms[p]!], [norm]), tolerance.norms);
        }
        updateCenters(config, state, [await readMeans(x, targets)]);
      });
    }

    if (tolerance.weights !== null && steps.length === facts.steps.length) {
      for (const network of ['student', 'teacher'] as const) {
        const values = await x.readParameters(state[network]);
        let wrong = 0;
        let moved = 0;
        const share = (difference: number, distance: number): number => (difference === 0 ? 0 : Math.sqrt(difference / distance));
        for (const { name, offset, size } of state[network].specs) {
          const ours = withoutKeyBias(name, values.subarray(offset, offset + size));
          const before = withoutKeyBias(name, tensorOf(recorded, `${network}0.${name}`).values);
          const theirs = withoutKeyBias(name, tensorOf(recorded, `${network}${steps.length}.${name}`).values);
          const square = (a: number[], b: number[]): number => a.reduce((sum, value, j) => sum + (value - b[j]!) ** 2, 0);
          const [difference, distance] = [square(ours, theirs), square(theirs, before)];
          add(`final ${network}`, name, share(difference, distance), tolerance.weights);
          wrong += difference;
          moved += distance;
        }
        add(`final ${network}, pooled`, null, share(wrong, moved), tolerance.pooledWeights);
      }
    }
    return rows;
  } finally {
    adam.dispose();
    teacher.dispose();
    student.dispose();
  }
}
