/**
 * A small golden set from a seed, by plain float64 loops: what golden checks run on where nothing recorded lies beside the
 * project. Outputs, targets, losses and updates come from `plain-step.ts` and `plain-update.ts`; gradients from the
 * tape of the float64 reference executor, which `slopes.test.ts` proves against differences of the same plain forward.
 * Covers what the official set does not: drop path above 0, 16 px patches, other batches and crop counts, mixed heads.
 */
import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { modelConfig, type HeadConfig, type ModelConfig, type RunConfig } from '../../core/dinov2/config.ts';
import { headParameters } from '../../core/dinov2/heads.ts';
import { studentLoss, uploadCrops, type Batch, type StudentTargets } from '../../core/dinov2/step.ts';
import { drawDropPath, vitParameters, type DropPath } from '../../core/dinov2/vit.ts';
import type { Executor, ParameterSpec, Tensor } from '../../core/nn/index.ts';
import { Random } from '../../core/random.ts';
import { tinyRun } from '../dinov2/tiny-run.ts';
import { writeTypedTensors, type TypedTensor } from '../fixtures/safetensors.ts';
import * as plain from '../nn/plain.ts';
import { ReferenceExecutor } from '../nn/reference-executor.ts';
import { drawPictures } from './plain-pixels.ts';
import { plainClass, plainLosses, plainPatches, plainTargets, plainTokens, type PlainBatch, type PlainNetwork } from './plain-step.ts';
import { plainMultipliers, plainUpdate } from './plain-update.ts';
import type { RecordedSteps } from './train.ts';

/** One network to draw; sides of crops in patches. */
interface Sizes {
  readonly patchSize: number;
  readonly positionGrid: number;
  readonly embedDim: number;
  readonly depth: number;
  /** Attention heads; 64 wide each in recorded files. */
  readonly heads: number;
  readonly registers: number;
  readonly ffn: 'mlp' | 'swiglu';
}

export interface Training extends Sizes {
  readonly dino: HeadConfig;
  readonly ibot: HeadConfig | null;
  readonly dropPath: number;
  readonly globalSide: number;
  readonly localSide: number;
  readonly facts: Omit<RecordedSteps, 'steps' | 'param_groups' | 'tied_heads' | 'drop_path'>;
}

const sizes = { patchSize: 14, positionGrid: 4, embedDim: 64, depth: 2, heads: 1, registers: 0, ffn: 'mlp' } as const;
const facts: Omit<Training['facts'], 'batch' | 'locals' | 'centering'> = {
  layerwise_decay: 0.9,
  patch_embed_lr_mult: 0.2,
  clip: 3,
  betas: [0.9, 0.999],
  student_temp: 0.1,
  koleo_weight: 0.1,
};

const BACKBONES: Readonly<Record<string, Sizes & { readonly images: readonly (readonly [height: number, width: number])[] }>> = {
  'vit-patch16': {
    ...sizes,
    patchSize: 16,
    positionGrid: 3,
    images: [
      [48, 48],
      [64, 32],
    ],
  },
  'vit-registers-swiglu': {
    ...sizes,
    embedDim: 128,
    heads: 2,
    registers: 3,
    ffn: 'swiglu',
    images: [
      [56, 56],
      [28, 70],
    ],
  },
};

export const TRAININGS: Readonly<Record<string, Training>> = {
  'train-centering-separate': {
    ...sizes,
    dino: { hidden: 96, bottleneck: 48, prototypes: 80 },
    ibot: { hidden: 64, bottleneck: 32, prototypes: 72 },
    dropPath: 0,
    globalSide: 4,
    localSide: 2,
    facts: { ...facts, batch: 3, locals: 2, centering: 'centering', clip: 0.5 },
  },
  'train-sinkhorn-separate-patch16-droppath': {
    ...sizes,
    patchSize: 16,
    dino: { hidden: 80, bottleneck: 32, prototypes: 96 },
    ibot: { hidden: 96, bottleneck: 48, prototypes: 64 },
    dropPath: 0.3,
    globalSide: 3,
    localSide: 1,
    facts: { ...facts, batch: 4, locals: 3, centering: 'sinkhorn_knopp', layerwise_decay: 1, betas: [0.9, 0.99] },
  },
  'train-centering-tied-registers-swiglu-droppath': {
    ...sizes,
    registers: 4,
    ffn: 'swiglu',
    dino: { hidden: 96, bottleneck: 48, prototypes: 96 },
    ibot: null,
    dropPath: 0.4,
    globalSide: 3,
    localSide: 2,
    facts: { ...facts, batch: 2, locals: 4, centering: 'centering', layerwise_decay: 0.8, patch_embed_lr_mult: 0.5 },
  },
  'train-sinkhorn-tied-registers-wide-patch16': {
    ...sizes,
    patchSize: 16,
    embedDim: 128,
    heads: 2,
    registers: 2,
    dino: { hidden: 96, bottleneck: 48, prototypes: 80 },
    ibot: null,
    dropPath: 0,
    globalSide: 3,
    localSide: 2,
    facts: { ...facts, batch: 3, locals: 0, centering: 'sinkhorn_knopp', student_temp: 0.2, koleo_weight: 0.2 },
  },
};

/**
 * What changes from step to step; the last layer is frozen in the first. That one has the rate of a warm-up: Adam's first
 * update is the gradient's sign, which is anybody's where an element is as small as float32's rounding.
 */
const STEPS = [
  { lr: 2e-5, last_layer_lr: 0, wd: 0.04, momentum: 0.99, teacher_temp: 0.04 },
  { lr: 8e-4, last_layer_lr: 8e-4, wd: 0.1, momentum: 0.994, teacher_temp: 0.05 },
  { lr: 5e-4, last_layer_lr: 5e-4, wd: 0.2, momentum: 0.998, teacher_temp: 0.07 },
] as const;

/** Writes the set into a folder, which is made when it is not there. */
export async function makeGolden(folder: string, seed: number): Promise<void> {
  await mkdir(folder, { recursive: true });
  let stream = 0;
  for (const [name, { images, ...backbone }] of Object.entries(BACKBONES)) {
    await write(folder, name, vitTensors(backbone, images, new Random(seed, stream++)));
  }
  for (const [name, training] of Object.entries(TRAININGS)) {
    const { tensors, steps } = await trainTensors(training, new Random(seed, stream++));
    await write(folder, name, tensors);
    await writeJson(folder, name, steps);
  }
  const { tensors, crops } = drawPictures(new Random(seed, stream));
  await write(folder, 'augment', tensors);
  await writeJson(folder, 'augment', crops);
}

async function writeJson(folder: string, name: string, facts: unknown): Promise<void> {
  await writeFile(path.join(folder, `${name}.json`), JSON.stringify(facts, null, 1));
}

/** Wider types first, so that all data lie aligned. */
async function write(folder: string, name: string, tensors: readonly TypedTensor[]): Promise<void> {
  const sorted = tensors.toSorted((a, b) => b.values.BYTES_PER_ELEMENT - a.values.BYTES_PER_ELEMENT);
  await writeTypedTensors(path.join(folder, `${name}.safetensors`), sorted);
}

function modelOf(drawn: Sizes, dropPath: number): ModelConfig {
  const { patchSize, positionGrid, embedDim, depth, heads, registers, ffn } = drawn;
  return { ...modelConfig('nano', { patchSize, positionGrid, registers, ffn, dropPath }), embedDim, depth, heads };
}

/** Values far from the symmetric start, at which much of the arithmetic would cancel. */
function redraw(specs: readonly ParameterSpec[], random: Random): ParameterSpec[] {
  return specs.map(({ name, shape }) => {
    const size = plain.count(shape);
    const input = size / shape[0]!;
    const value = (): number => {
      if (/norm\d?\.weight$/.test(name) || name.endsWith('weight_g')) return 1 + 0.2 * random.normal();
      if (name.endsWith('gamma')) return 0.5 + 0.1 * random.normal();
      if (name.endsWith('.bias')) return 0.1 * random.normal();
      if (name.endsWith('cls_token')) return 2 * random.normal(); // class tokens alike, as when training: KoLeo is well above 0
      return (name.endsWith('.weight') ? 1 / Math.sqrt(input) : 0.5) * random.normal();
    };
    return { name, shape, values: Float32Array.from({ length: size }, value) };
  });
}

const networkOf = (specs: readonly ParameterSpec[], heads: number): PlainNetwork => ({
  weights: new Map(specs.map(({ name, shape, values }) => [name, plain.value(shape, values)])),
  heads,
});

const f32 = (name: string, { shape, data }: plain.Value): TypedTensor => ({ name, shape, values: Float32Array.from(data) });

function normals(random: Random, shape: readonly number[]): plain.Value {
  return plain.value(
    shape,
    Float32Array.from({ length: plain.count(shape) }, () => random.normal()),
  );
}

function vitTensors(drawn: Sizes, images: readonly (readonly [number, number])[], random: Random): TypedTensor[] {
  const specs = redraw(vitParameters(modelOf(drawn, 0), random), random);
  const network = networkOf(specs, drawn.heads);
  const tensors = specs.map(({ name, shape, values }): TypedTensor => ({ name: `weights.${name}`, shape, values }));
  for (const [H, W] of images) {
    const image = normals(random, [2, 3, H, W]);
    const P = (H / drawn.patchSize) * (W / drawn.patchSize);
    const mask = Uint8Array.from({ length: 2 * P }, () => Number(random.chance(0.4)));
    const add = (prefix: string, tokens: plain.Value): void => {
      tensors.push(f32(`${H}x${W}.${prefix}cls`, plainClass(tokens)), f32(`${H}x${W}.${prefix}patch`, plainPatches(tokens, P)));
    };
    const whole = plainTokens(network, '', image);
    add('', whole);
    add('masked.', plainTokens(network, '', image, { mask }));
    add('intermediate0.', plainTokens(network, '', image, { blocks: drawn.depth - 1 }));
    if (drawn.registers > 0) tensors.push(f32(`${H}x${W}.reg`, plain.sliceTokens(whole, 1, drawn.registers)));
    tensors.push(f32(`${H}x${W}.image`, image), { name: `${H}x${W}.mask`, shape: [2, P], values: mask });
  }
  return tensors;
}

/** The run as core knows it, for the reference executor's gradients. */
export function runOf(training: Training): RunConfig {
  const base = tinyRun();
  const { dino, ibot, patchSize, globalSide, localSide, facts } = training;
  return {
    ...base,
    model: modelOf(training, training.dropPath),
    heads: { dino, ibot },
    crops: { ...base.crops, globalSize: globalSide * patchSize, localSize: localSide * patchSize, localCount: facts.locals },
    studentTemperature: facts.student_temp,
    lossWeights: { dino: 1, ibot: 1, koleo: facts.koleo_weight },
  };
}

export function specsOf({ model, heads }: RunConfig, random: Random): ParameterSpec[] {
  const specs = [...vitParameters(model, random, 'backbone.'), ...headParameters(heads.dino, model.embedDim, random, 'dino_head')];
  if (heads.ibot) specs.push(...headParameters(heads.ibot, model.embedDim, random, 'ibot_head'));
  return redraw(specs, random);
}

/** Crops, masks and kept samples of one step, for both ways to compute it. */
export function drawBatch(training: Training, random: Random): { batch: Batch; plainBatch: PlainBatch } {
  const { patchSize: p, globalSide: G, localSide: l, facts } = training;
  const { batch: B, locals: L } = facts;
  const model = modelOf(training, training.dropPath);
  const globalCrops = normals(random, [2 * B, 3, G * p, G * p]);
  const localCrops = L > 0 ? normals(random, [L * B, 3, l * p, l * p]) : null;
  const masks = new Uint8Array(2 * B * G * G);
  for (const crop of random.permutation(2 * B).subarray(0, B)) {
    for (let i = 0; i < G * G; i++) masks[crop * G * G + i] = Number(i === 0 || random.chance(0.4));
  }
  const globalDropPath = drawDropPath(random, model, 2 * B);
  const localDropPath = L > 0 ? drawDropPath(random, model, L * B) : null;
  const common = { images: B, masks, globalDropPath, localDropPath };
  return {
    plainBatch: { ...common, globalCrops, localCrops },
    batch: {
      ...common,
      globalCrops: Float32Array.from(globalCrops.data),
      localCrops: Float32Array.from(localCrops?.data ?? []),
    },
  };
}

/** Targets as a tape wants them. */
export function targetsOf(x: Executor, { dino, ibot }: Record<'dino' | 'ibot', plain.Value>, masks: Uint8Array): StudentTargets {
  const tensor = ({ shape, data }: plain.Value): Tensor => x.tensor(Float32Array.from(data), shape);
  const maskedPositions = Int32Array.from([...masks.keys()].filter((i) => masks[i]));
  return { dino: tensor(dino), ibot: tensor(ibot), maskedPositions };
}

async function trainTensors(training: Training, random: Random): Promise<{ tensors: TypedTensor[]; steps: RecordedSteps }> {
  const { facts } = training;
  const { batch: B } = facts;
  const config = runOf(training);
  const specs = { student: specsOf(config, random), teacher: specsOf(config, random) };
  const tensors: TypedTensor[] = [];
  const record = (when: number): void => {
    for (const network of ['student', 'teacher'] as const)
      for (const { name, shape, values } of specs[network])
        tensors.push({ name: `${network}${when}.${name}`, shape, values: values.slice() });
  };
  record(0);

  const x = new ReferenceExecutor();
  const set = x.createParameters(specs.student);
  const moments = specs.student.map(({ values: { length } }) => ({ m: new Float64Array(length), v: new Float64Array(length) }));
  const K = { dino: training.dino.prototypes, ibot: (training.ibot ?? training.dino).prototypes };
  const centers = facts.centering === 'centering' ? { dino: new Float64Array(K.dino), ibot: new Float64Array(K.ibot) } : null;
  const multipliers = (name: string): ReturnType<typeof plainMultipliers> =>
    plainMultipliers(name, training.depth, { layerDecay: facts.layerwise_decay, patchEmbedMultiplier: facts.patch_embed_lr_mult });

  const steps: RecordedSteps['steps'] = [];
  for (const [i, values] of STEPS.entries()) {
    const { batch, plainBatch } = drawBatch(training, random);
    const targets = plainTargets(networkOf(specs.teacher, training.heads), plainBatch, centers, values.teacher_temp);
    const weights = { temperature: facts.student_temp, koleoWeight: facts.koleo_weight };
    const losses = plainLosses(networkOf(specs.student, training.heads), plainBatch, targets, weights);

    x.writeParameters(set, Float32Array.from(specs.student.flatMap(({ values: list }) => [...list])));
    x.zeroGradients(set);
    const tapeTargets = targetsOf(x, targets, batch.masks);
    x.gradients(set, () => studentLoss(x, config, set, uploadCrops(x, config, batch), batch, tapeTargets).total);
    const gradients = await x.readGradients(set);

    const parameters = specs.student.map(({ name, values: student }, p) => ({
      name,
      student: Float64Array.from(student),
      teacher: Float64Array.from(specs.teacher[p]!.values),
      gradient: Float64Array.from(gradients.subarray(set.specs[p]!.offset, set.specs[p]!.offset + set.specs[p]!.size)),
      ...moments[p]!,
    }));
    if (i === 0)
      for (const [p, { name, gradient }] of parameters.entries())
        tensors.push(f32(`grad0.${name}`, { shape: set.specs[p]!.shape, data: gradient }));
    const { lr, last_layer_lr: lastLayerLr, wd, momentum } = values;
    const { clip, betas } = facts;
    const norms = plainUpdate(parameters, { lr, lastLayerLr, wd, momentum, clip, betas, multipliers, number: i + 1 });
    // weights are kept in float32 between steps, as every engine keeps them
    for (const [p, { student, teacher }] of parameters.entries()) {
      specs.student[p]!.values.set(student);
      specs.teacher[p]!.values.set(teacher);
    }
    if (centers)
      for (const head of ['dino', 'ibot'] as const)
        centers[head].forEach((c, k) => (centers[head][k] = 0.9 * c + 0.1 * targets.means[head][k]!));

    tensors.push(f32(`step${i}.global_crops`, plainBatch.globalCrops));
    if (plainBatch.localCrops) tensors.push(f32(`step${i}.local_crops`, plainBatch.localCrops));
    tensors.push({ name: `step${i}.masks`, shape: [2 * B, batch.masks.length / (2 * B)], values: batch.masks });
    // sorted by the student's crop: block g holds what the teacher says of crop 1 - g
    const half = B * K.dino;
    const swapped = [...targets.dino.data.subarray(half), ...targets.dino.data.subarray(0, half)];
    tensors.push(f32(`step${i}.teacher_dino_targets`, plain.value([2, B, K.dino], swapped)));
    tensors.push(f32(`step${i}.teacher_ibot_targets`, targets.ibot));
    tensors.push(...keptSamples(`step${i}.drop_path.global`, batch.globalDropPath));
    tensors.push(...keptSamples(`step${i}.drop_path.local`, batch.localDropPath));
    steps.push({ ...values, ...losses, grad_norm: norms, n_masked: tapeTargets.maskedPositions.length });
  }
  record(STEPS.length);
  const param_groups = Object.fromEntries(specs.student.map(({ name }) => [name, multipliers(name)]));
  return { tensors, steps: { ...facts, tied_heads: training.ibot === null, drop_path: training.dropPath, steps, param_groups } };
}

function keptSamples(prefix: string, dropPath: DropPath | null): TypedTensor[] {
  return (dropPath ?? []).flatMap((block, i) =>
    (['attention', 'ffn'] as const).map((branch): TypedTensor => {
      const { rows } = block[branch];
      return { name: `${prefix}.${i}.${branch}`, shape: [rows.length], values: rows };
    }),
  );
}
