/**
 * The presets of runs that follow another network: a high-resolution phase at the end of a run (spec 7.1), and distillation
 * from a larger network (spec 7.2). Their numbers come from that network and from `presets.ts`; here is what changes.
 */
import { AppError, type TrainPreset, type TrainPresets } from '../contract/index.ts';
import {
  batchesOfStep,
  FEWEST_IMAGES,
  modelConfig,
  wholePatches,
  type CropConfig,
  type ModelConfig,
  type ModelName,
  type RunConfig,
} from './config.ts';
import { estimatedSeconds } from './estimate.ts';
import { explain, headConfig, resolveConfig, withRoom, type ConfigOverrides, type TrainFacts } from './presets.ts';
import { recomputeInWords } from './memory.ts';
import type { StartFacts } from './start.ts';

export const HIGH_RESOLUTION = 'high-resolution';
export const DISTILL = 'distill';

export interface PhaseOverrides extends ConfigOverrides {
  /** Side of the global crops in pixels, for a high-resolution phase: a multiple of the patch. */
  readonly globalSize?: number | null | undefined;
}

// --- high resolution --------------------------------------------------------------------------------------------------

/** Side of the global crops that the published phase went up to, from 224. */
const PUBLISHED_SIDE = 518;
/** Without a GPU: four times the patches, so about four times the time of a step. */
const CPU_GROWTH = 2;
/**
 * Share of the run's rate. DINOv2 says "reduced" and no number; DINOv3's configuration for the same phase
 * (dinov3_vit7b16_high_res_adapt) has 1.25e-5 where its pretraining has 5e-5. Not measured here.
 */
const RATE_SHARE = 0.25;
/**
 * Share of the run's steps, at least and at most so many. The published phase has 10,000 after 625,000; that share of a short
 * run would not be one memory of its teacher's average (1 / (1 - 0.99) = 100 steps).
 */
const PHASE = { share: 0.1, fewest: 100, most: 10_000 } as const;
/** Where larger crops make fewer images fit, at least so many pass through together. */
const SMALLEST_BATCH = 8;

/**
 * A phase at larger crops after the run that `source` is a checkpoint of. The same procedure: every number of that run but
 * those said below, schedules compressed to the new number of steps. Local crops grow with the global ones, so that both still
 * show what they showed of each other: their share of the image is the same, and in DINOv3's phase the sides range from the
 * share of pretraining (112 of 256, as 336 of 768) down to half of it.
 * @throws AppError bad-input when there is no run behind the weights, or for numbers that cannot work
 */
export function highResolutionConfig(source: StartFacts, facts: TrainFacts, overrides: PhaseOverrides = {}): RunConfig {
  return withRoom((wanted) => phaseConfig(source, facts, wanted), overrides, facts);
}

function phaseConfig(source: StartFacts, facts: TrainFacts, overrides: PhaseOverrides): RunConfig {
  if (!source.run) {
    throw new AppError(
      'bad-input',
      `A high-resolution phase carries on a run, and ${source.name} is none.`,
      'Choose a checkpoint of a run of this project.',
    );
  }
  const { continuation, distillation: _taught, engine: _engine, ...run } = source.run;
  const crops = phaseCrops(run, facts, overrides.globalSize ?? null);
  const steps = overrides.steps ?? Math.min(PHASE.most, Math.max(PHASE.fewest, Math.round(PHASE.share * run.steps)));
  refuseNoNumber(steps, 'number of steps', 1);
  const before = run.batch * batchesOfStep(run);
  const wished = overrides.batch ?? Math.max(2, Math.min(before, facts.images));
  const growth = tokens(crops, run.model) / tokens(run.crops, run.model);
  const accumulate = overrides.accumulate ?? (overrides.batch ? 1 : batchesFor(wished, growth, run.batch));
  refuseNoNumber(accumulate, 'number of batches to accumulate', 1);
  const batch = overrides.batch ?? wished / accumulate;
  refuseNoNumber(batch, 'batch', 2);
  const images = batch * accumulate;
  const compressed = (count: number): number => Math.round((count * steps) / run.steps);
  const { optimizer, teacher } = run;
  return {
    ...run,
    presetId: HIGH_RESOLUTION,
    presetTitle: 'High resolution',
    seed: overrides.seed ?? run.seed,
    model: { ...run.model, positionGrid: crops.globalSize / run.model.patchSize },
    start: 'weights',
    startedFrom: source.name,
    steps,
    batch,
    accumulate,
    crops,
    optimizer: {
      ...optimizer,
      // In a continued run that is the rate of the heads; its backbone had a share of it.
      learningRate: RATE_SHARE * (continuation?.backboneRate ?? 1) * optimizer.learningRate * Math.sqrt(images / before),
      warmupSteps: compressed(optimizer.warmupSteps),
      freezeLastLayerSteps: compressed(optimizer.freezeLastLayerSteps),
    },
    teacher: { ...teacher, temperatureWarmupSteps: compressed(teacher.temperatureWarmupSteps) },
    logEvery: Math.max(1, Math.min(10, Math.floor(steps / 100))),
    checkpointEvery: Math.max(1, Math.round(steps / 10)),
    maxImageSide: Math.ceil(2.3 * crops.globalSize),
    imageCacheBytes: Math.round(Math.min(4e9, facts.memoryBytes / 4)),
  };
}

/** @param asked side of the global crops; null: as far as the published phase went, or what a CPU bears */
function phaseCrops({ crops, model }: RunConfig, { gpu }: TrainFacts, asked: number | null): CropConfig {
  const { patchSize } = model;
  const wished = gpu ? (crops.globalSize * PUBLISHED_SIDE) / 224 : crops.globalSize * CPU_GROWTH;
  const globalSize = asked ?? wholePatches(Math.min(PUBLISHED_SIDE, wished), patchSize);
  if (globalSize % patchSize !== 0 || globalSize <= crops.globalSize) {
    throw new AppError(
      'bad-input',
      `Global crops of ${globalSize} px are no larger multiple of the ${patchSize} px patches than the ${crops.globalSize} px that the run had.`,
      `Choose a multiple of ${patchSize} from ${crops.globalSize + patchSize} on.`,
    );
  }
  return { ...crops, globalSize, localSize: wholePatches((crops.localSize * globalSize) / crops.globalSize, patchSize) };
}

/** Patches of an image's crops, which most of a step's memory is for. */
function tokens({ globalSize, localSize, localCount }: CropConfig, { patchSize }: ModelConfig): number {
  return 2 * (globalSize / patchSize) ** 2 + localCount * (localSize / patchSize) ** 2;
}

/** Into how many batches a step's images go, so that one holds about as many tokens as before: a whole divisor. */
function batchesFor(images: number, growth: number, before: number): number {
  const fits = Math.max(Math.min(SMALLEST_BATCH, before), before / growth);
  for (let batches = 1; batches <= images / 2; batches++) if (images % batches === 0 && images / batches <= fits) return batches;
  return 1;
}

function refuseNoNumber(value: number, what: string, least: number): void {
  if (Number.isInteger(value) && value >= least) return;
  throw new AppError('bad-input', `${value} is not a ${what}.`, `Choose a whole number from ${least} on.`);
}

function highResolutionPreset(source: StartFacts, facts: TrainFacts): TrainPreset {
  const config = highResolutionConfig(source, facts);
  const { crops, optimizer } = config;
  const images = config.batch * batchesOfStep(config);
  const grid = config.model.positionGrid;
  return {
    id: HIGH_RESOLUTION,
    title: config.presetTitle,
    summary: 'A short phase at the end of a run, at larger crops: finer features for masks.',
    model: config.model.name,
    steps: config.steps,
    batch: config.batch,
    accumulate: batchesOfStep(config),
    estimatedSeconds: estimatedSeconds(config, facts),
    numbers: [
      { name: 'Start', value: source.name, reason: 'Its teacher, with the heads: both networks begin as that.' },
      {
        name: 'Steps',
        value: config.steps.toLocaleString('en-US'),
        reason: 'A tenth of the run, from 100 to the published 10,000; every schedule runs through in them.',
      },
      {
        name: 'Crops',
        value: `2 of ${crops.globalSize} px and ${crops.localCount} of ${crops.localSize} px`,
        reason: facts.gpu
          ? 'As published, 518 px after 224; local crops grow along, so that they show the same share of the image.'
          : 'Twice the side, which a CPU still bears; the published phase goes from 224 px to 518. Local crops grow along.',
      },
      {
        name: 'Position table',
        value: `${grid} x ${grid}`,
        reason: 'Resampled once, from the table that was trained; it goes on learning at the new grid.',
      },
      {
        name: 'Batch',
        value: `${images} images${config.accumulate === 1 ? '' : `, ${config.batch} at a time`}`,
        reason: `As in the run; at a time so many that memory holds about as many patches as before.${recomputeInWords(config)}`,
      },
      {
        name: 'Learning rate',
        value: optimizer.learningRate.toExponential(1),
        reason: 'A quarter of the rate of the run, as in DINOv3; DINOv2 says no more than reduced.',
      },
      { name: 'All else', value: 'as in the run', reason: 'The published phase keeps the procedure.' },
    ],
  };
}

// --- distillation -----------------------------------------------------------------------------------------------------

const BY_SIZE = ['nano', 'tiny', 'small', 'base', 'large'] as const satisfies readonly ModelName[];

/**
 * A smaller network that learns what a frozen, larger one says: its prototypes and its patches, everything else as the
 * preset "standard" has it. No drop path (paper, table 16).
 * @throws AppError bad-input when the teacher has no heads or is no larger than the smallest network, or as `resolveConfig`
 */
export function distillConfig(teacher: StartFacts, facts: TrainFacts, overrides: ConfigOverrides = {}): RunConfig {
  return withRoom((wanted) => studentConfig(teacher, facts, wanted), overrides, facts);
}

function studentConfig(teacher: StartFacts, facts: TrainFacts, overrides: ConfigOverrides): RunConfig {
  if (!teacher.heads) {
    throw new AppError(
      'bad-input',
      `${teacher.name} has no heads, whose prototypes a student would learn.`,
      'Choose a run of this project or an imported training checkpoint; published weights come without heads.',
    );
  }
  // Whether there is room is a question of the student.
  const { gpuMemory: _memory, ...machine } = facts;
  const base = resolveConfig('standard', machine, overrides);
  const { patchSize } = teacher.model;
  const crops = {
    ...base.crops,
    globalSize: wholePatches(base.crops.globalSize, patchSize),
    localSize: wholePatches(base.crops.localSize, patchSize),
  };
  const { registers, layerScale } = base.model;
  const sizes = { patchSize, registers, layerScale, positionGrid: crops.globalSize / patchSize, dropPath: 0 };
  const model = modelConfig(studentName(base.model, teacher), sizes);
  const { dino, ibot } = teacher.heads;
  const [coldest, warmest] = base.teacher.temperature;
  return {
    ...base,
    presetId: DISTILL,
    presetTitle: 'Distillation',
    model,
    heads: { dino: headConfig(model, dino.prototypes), ibot: ibot && headConfig(model, ibot.prototypes) },
    distillation: { model: teacher.model, taughtBy: teacher.name },
    crops,
    teacher: { ...base.teacher, temperature: [coldest, coldest === warmest ? coldest : dino.prototypes <= 2048 ? 0.06 : 0.07] },
  };
}

/** The network of the preset "standard", or the largest that is smaller than the teacher. */
function studentName(standard: ModelConfig, { model, name }: StartFacts): ModelName {
  const weight = ({ embedDim, depth }: ModelConfig): number => embedDim ** 2 * depth;
  const most = BY_SIZE.findIndex((size) => size === standard.name);
  const smaller = BY_SIZE.slice(0, most + 1).filter((size) => weight(modelConfig(size)) < weight(model));
  const student = smaller.at(-1);
  if (student) return student;
  throw new AppError(
    'bad-input',
    `The network of ${name} is ${model.embedDim} wide and ${model.depth} deep: there is no smaller network that it could teach.`,
    'Choose a larger one.',
  );
}

function distillPreset(teacher: StartFacts, facts: TrainFacts): TrainPreset {
  const config = distillConfig(teacher, facts);
  const { model } = config;
  const replaced: Readonly<Record<string, string>> = {
    Network: 'Smaller than its teacher, and no larger than a run from random weights would take.',
    Prototypes: 'Those of the teacher: its words for what it sees.',
    Heads: 'As the teacher has them.',
    'Drop path': 'None in a distillation.',
    'Teacher momentum': 'Of the average that is kept as the final network; it teaches nobody.',
  };
  return {
    id: DISTILL,
    title: config.presetTitle,
    summary: 'A smaller network that learns from a larger one: most of its features, in a fraction of the time to use them.',
    model: model.name,
    steps: config.steps,
    batch: config.batch,
    accumulate: batchesOfStep(config),
    estimatedSeconds: estimatedSeconds(config, facts),
    numbers: [
      {
        name: 'Teacher',
        value: `${teacher.name}, ${teacher.model.embedDim} wide, ${teacher.model.depth} blocks`,
        reason: 'Frozen, with its heads; it sees the global crops, as the student does.',
      },
      { name: 'Masks', value: 'none', reason: 'The student sees whole crops; the patches of the iBOT term are drawn as before.' },
      { name: 'Steps', value: config.steps.toLocaleString('en-US'), reason: 'As the preset Standard has them.' },
      ...explain(config, facts).map((row) => ({ ...row, reason: replaced[row.name] ?? row.reason })),
    ],
  };
}

// --- what is offered --------------------------------------------------------------------------------------------------

/** The preset for a run that starts from a checkpoint at a higher resolution, or that learns from a network, and its reason. */
export function phasePresets(id: typeof HIGH_RESOLUTION | typeof DISTILL, source: StartFacts, facts: TrainFacts): TrainPresets {
  const preset = id === DISTILL ? distillPreset(source, facts) : highResolutionPreset(source, facts);
  const reason = id === DISTILL ? `taught by ${source.name}` : `after ${source.name}`;
  return { presets: [preset], fewestImages: FEWEST_IMAGES, recommendedId: id, warning: null, reason, engine: facts.engine };
}
