/**
 * Which numbers to train with: by number of images and by machine, each with its reason. What was measured says so, and
 * on what.
 */
import { AppError, type TrainPreset, type TrainPresets } from '../contract/index.ts';
import type { GpuMemory, Precision } from '../nn/index.ts';
import {
  FEWEST_IMAGES,
  batchesOfStep,
  modelConfig,
  OFFICIAL_CROPS,
  type CropConfig,
  type HeadConfig,
  type ModelConfig,
  type ModelName,
  type RunConfig,
} from './config.ts';

import { estimatedSeconds } from './estimate.ts';
import { continuationOf, continuedModel, continuePlan, continueWarning, explainContinued } from './continuation.ts';
import { fits, roomInWords, splitFor } from './memory.ts';
import type { StartFacts } from './start.ts';

export interface TrainFacts {
  /** Images that can be read. */
  readonly images: number;
  readonly cores: number;
  readonly memoryBytes: number;
  /** In words, the executor's name first: "cpu, 2 threads". */
  readonly engine: string;
  /** The engine runs on a GPU. */
  readonly gpu: boolean;
  /** Its memory, where a run's use of it can be told beforehand. */
  readonly gpuMemory?: GpuMemory;
  /** What the engine computes in, where it has a choice. */
  readonly precision?: Precision;
}

export interface ConfigOverrides {
  readonly steps?: number | null;
  readonly batch?: number | null;
  /** Batches whose gradients make up one update. */
  readonly accumulate?: number | null | undefined;
  /** Activations are computed again in the backward pass; absent: where they have no room. */
  readonly recompute?: boolean | undefined;
  readonly seed?: number | null;
}

/** From random weights; "continue" is the one from others. */
const PRESET_IDS = ['quick', 'standard', 'thorough'] as const;
const CONTINUE = 'continue';
type PresetId = (typeof PRESET_IDS)[number];

/** What a preset decides; everything else follows from it. */
interface Recipe {
  readonly title: string;
  readonly summary: string;
  readonly model: Exclude<ModelName, 'giant'>;
  readonly steps: number;
  readonly batch: number;
  readonly prototypes: number;
  readonly separateHeads: boolean;
  readonly crops: Pick<CropConfig, 'globalSize' | 'localSize' | 'localCount'>;
  /** A network so small, on so few images a step, that some numbers differ from the table's: see `Departures`. */
  readonly small: boolean;
}

/**
 * Measured with the nano network on leaf photographs by a linear probe on patches (IoU of the rarest class, 50 images to
 * fit, 50 to test; one seed, noise about 2). At 8 images a batch: with LayerScale 0.1, layer decay 0.9 and 0.2 times the
 * rate in the patch embedding, 50 steps left the untrained network's 42; without the last two it was 50, falling again
 * after; with LayerScale 1 as well 53 after 50 steps and 55 after 100, from 47 untrained. At 16 a batch: 55 after 60 steps,
 * 57 after 120. The losses hardly leave their plateau in that time: judge such runs by features, not by loss.
 *
 * It does not last: of 600 steps at 16 a batch, all images but the test's, the features were best at 120 (dense correspondence
 * 57 %, symptom 56 from 44 untrained), and at 449 every target was nearly uniform (41 %, 49). Sinkhorn-Knopp on 32 class tokens
 * gives each image a share of 1/32 of all prototypes, whatever the teacher says. With the table's rate and softmax centring, as
 * the table has it for such batches, 300 steps rose to their end (56 to 58 %, 39 to 47 with fewer masks to learn from); of 2,000
 * steps dense correspondence was best at 600 (54 % untrained, 59), and under the untrained network's from 900 on, where the
 * targets had become uniform here too.
 *
 * A schedule of 500 steps with those numbers rises and stays (dense correspondence 57 to 60 %; symptom at 280 px 36 untrained,
 * 46 at 200, 45 at the end). A quarter of the rate with a teacher momentum of 0.99 reached 57 %, a teacher temperature of 0.025
 * 58 %, 32 images a batch what 16 had reached by then. The standard preset of 600 steps, symptom at 518 px, all 50 test images:
 * 44.0 by colours, 43.8 untrained, 46.8 at 60, 50.4 at 360, 49.4 at the end.
 */
interface Departures {
  /** Rate at 1,024 images a batch; scales with the square root. */
  readonly baseRate: number;
  readonly layerScale: number;
  readonly layerDecay: number;
  readonly patchEmbedMultiplier: number;
  readonly centering: 'softmax' | 'sinkhorn';
}

const FEW_STEPS: Departures = { baseRate: 1.1e-2, layerScale: 1, layerDecay: 1, patchEmbedMultiplier: 1, centering: 'sinkhorn' };
const MORE_STEPS: Departures = { ...FEW_STEPS, baseRate: 4e-3, centering: 'softmax' };
/** Runs of a small network up to so many steps take the high rate: they end before it does harm. */
const FEW = 300;

function departures({ small }: Recipe, steps: number): Departures | null {
  if (!small) return null;
  return steps <= FEW ? FEW_STEPS : MORE_STEPS;
}

const FULL_CROPS = { globalSize: 224, localSize: 98, localCount: 8 };
const CPU_CROPS = { globalSize: 112, localSize: 42, localCount: 4 };

const onCpu = ({ gpu }: TrainFacts): boolean => !gpu;

/** From 64 images a batch on, Sinkhorn-Knopp has enough samples to balance; below, softmax centring is steadier. */
const SINKHORN_BATCH = 64;
/** Runs longer than this can afford LayerScale's slow start of 1e-5. */
const LONG_RUN = 50_000;
/** Shorter runs than this make ten checkpoints, not twenty, and have no time for a slow teacher or a temperature that warms up. */
const SHORT_RUN = 1000;

// --- recipes ----------------------------------------------------------------------------------------------------------

function recipe(id: PresetId, facts: TrainFacts): Recipe {
  return onCpu(facts) ? cpuRecipe(id, facts) : gpuRecipe(id, facts);
}

function cpuRecipe(id: PresetId, { images }: TrainFacts): Recipe {
  const prototypes = images < 1000 ? 1024 : 2048;
  const common = { prototypes, separateHeads: false, crops: CPU_CROPS, small: true };
  if (id === 'quick') {
    return {
      ...common,
      title: 'Quick look',
      summary: 'A minute or some: enough to see whether your images teach it something.',
      model: 'nano',
      // Features stopped improving after about 120 in the measurements at Departures.
      steps: 200,
      batch: 16,
      prototypes: 512,
    };
  }
  if (id === 'standard') {
    return {
      ...common,
      title: 'Standard',
      summary: 'The usual choice without a GPU: a small network, trained while you name classes.',
      model: 'nano',
      // Of 2,000 steps the features were best at 600, see Departures.
      steps: 600,
      batch: 16,
    };
  }
  return {
    ...common,
    title: 'Thorough',
    summary: 'A larger network over an hour or so; for folders that will be annotated for days.',
    model: 'tiny',
    steps: 1200,
    batch: 32,
  };
}

function gpuRecipe(id: PresetId, { images }: TrainFacts): Recipe {
  const common = { separateHeads: false, crops: FULL_CROPS, small: false };
  if (id === 'quick') {
    return {
      ...common,
      title: 'Quick look',
      summary: 'Minutes: enough to see whether your images teach it something.',
      model: 'small',
      steps: 500,
      batch: 32,
      prototypes: 1024,
    };
  }
  const standard =
    images < 1000
      ? { model: 'small' as const, steps: 2000, batch: 64, prototypes: 1024 }
      : images < 20_000
        ? { model: 'small' as const, steps: 10_000, batch: 64, prototypes: 2048 }
        : images < 200_000
          ? { model: 'small' as const, steps: 50_000, batch: 128, prototypes: 8192 }
          : { model: 'base' as const, steps: 125_000, batch: 128, prototypes: 65_536 };
  if (id === 'standard')
    return {
      ...common,
      ...standard,
      separateHeads: images >= 200_000,
      title: 'Standard',
      summary: 'The usual choice for this many images.',
    };
  const larger = { small: 'base', base: 'large' } as const;
  const thorough =
    images < 20_000 ? { steps: standard.steps * 2 } : { model: larger[standard.model], prototypes: Math.max(16_384, standard.prototypes) };
  return {
    ...common,
    ...standard,
    ...thorough,
    separateHeads: images >= 200_000,
    title: 'Thorough',
    summary: 'Twice the time or more, for the best features from scratch.',
  };
}

// --- resolved numbers -------------------------------------------------------------------------------------------------

/**
 * A configuration whose step has room in the GPU's memory: made again with a smaller batch, and more of them a step, where
 * it has not, or with activations recomputed (`splitFor`). A batch that the person chose stays; its activations are
 * recomputed where it has room only so.
 */
export function withRoom<T extends ConfigOverrides>(
  make: (overrides: T) => RunConfig,
  overrides: T,
  { gpuMemory, precision }: TrainFacts,
): RunConfig {
  const made = make(overrides);
  const config = overrides.recompute ? { ...made, recompute: true } : made;
  if (!gpuMemory) return config;
  if (overrides.batch || overrides.accumulate) {
    const again = { ...config, recompute: true };
    return !fits(config, gpuMemory, precision) && fits(again, gpuMemory, precision) ? again : config;
  }
  const split = splitFor(config, gpuMemory, precision);
  if (!split) return config;
  const { recompute, ...batches } = split;
  const narrow = make({ ...overrides, ...batches });
  return recompute ? { ...narrow, recompute } : narrow;
}

/**
 * Every number of a run.
 * @param overrides what the person chose instead; rate and warm-ups follow batch and steps
 * @param start the weights to start from, with the preset "continue"; null: random ones, with every other
 * @throws AppError bad-input for an unknown preset or numbers that cannot work
 */
export function resolveConfig(
  presetId: string,
  facts: TrainFacts,
  overrides: ConfigOverrides = {},
  start: StartFacts | null = null,
): RunConfig {
  return withRoom((wanted) => configOf(presetId, facts, wanted, start), overrides, facts);
}

function configOf(presetId: string, facts: TrainFacts, overrides: ConfigOverrides, start: StartFacts | null): RunConfig {
  const known = start ? [CONTINUE] : PRESET_IDS;
  if (!(known as readonly string[]).includes(presetId)) {
    const where = start ? `There is no preset ${presetId} for a run that starts from weights.` : `There is no preset ${presetId}.`;
    throw new AppError('bad-input', where, start ? `Choose ${CONTINUE}.` : `Choose one of ${PRESET_IDS.join(', ')}.`);
  }
  const plan = start && continuePlan(facts, start);
  const scratch = plan ? null : recipe(presetId as PresetId, facts);
  const chosen = (plan ?? scratch)!;
  const steps = overrides.steps ?? chosen.steps;
  const batch = overrides.batch ?? Math.max(2, Math.min(chosen.batch, facts.images));
  const accumulate = overrides.accumulate ?? 1;
  const seed = overrides.seed ?? 1;
  if (!Number.isInteger(steps) || steps < 1)
    throw new AppError('bad-input', `${steps} is not a number of steps.`, 'Choose a whole number from 1 on.');
  if (!Number.isInteger(batch) || batch < 2)
    throw new AppError(
      'bad-input',
      `A batch of ${batch} images is too small.`,
      'Choose at least 2: KoLeo compares images with each other.',
    );
  if (!Number.isInteger(accumulate) || accumulate < 1)
    throw new AppError('bad-input', `${accumulate} is not a number of batches to accumulate.`, 'Choose a whole number from 1 on.');
  if (!Number.isInteger(seed)) throw new AppError('bad-input', `${seed} is not a seed.`, 'Choose a whole number.');

  const departed = scratch && departures(scratch, steps);
  const learningRate = (departed?.baseRate ?? 4e-3) * Math.sqrt((batch * accumulate) / 1024); // by all images of a step
  const model = plan ? continuedModel(plan, start) : scratchModel(scratch!, steps);
  const head = headConfig(model, chosen.prototypes);
  const short = steps < SHORT_RUN;
  return {
    version: 1,
    presetId,
    presetTitle: chosen.title,
    seed,
    model,
    heads: start?.heads ?? { dino: head, ibot: chosen.separateHeads ? head : null },
    ...(plan && {
      start: 'weights' as const,
      startedFrom: start.name,
      continuation: continuationOf(plan, start, steps, learningRate, short),
    }),
    steps,
    batch,
    ...(accumulate > 1 && { accumulate }),
    crops: { ...OFFICIAL_CROPS, ...chosen.crops },
    masking: { probability: 0.5, ratio: [0.1, 0.5] },
    optimizer: {
      learningRate,
      finalLearningRate: 1e-6,
      warmupSteps: Math.round(0.08 * steps),
      weightDecay: [0.04, 0.2],
      beta1: 0.9,
      beta2: 0.999,
      epsilon: 1e-8,
      clipNorm: 3,
      layerDecay: plan?.layerDecay ?? departed?.layerDecay ?? 0.9,
      patchEmbedMultiplier: departed?.patchEmbedMultiplier ?? 0.2,
      freezeLastLayerSteps: plan ? 0 : Math.round(0.01 * steps), // while heads learn alone nothing is spoilt by their prototypes
    },
    teacher: {
      momentum: [short ? 0.98 : facts.images < 20_000 ? 0.99 : facts.images < 200_000 ? 0.992 : 0.994, 1],
      temperature: [0.04, short ? 0.04 : (start?.heads?.dino ?? head).prototypes <= 2048 ? 0.06 : 0.07],
      temperatureWarmupSteps: Math.round(0.3 * steps),
      centering: departed?.centering ?? (batch >= SINKHORN_BATCH ? 'sinkhorn' : 'softmax'),
      sinkhornIterations: 3,
      centerMomentum: 0.9,
    },
    studentTemperature: 0.1,
    lossWeights: { dino: 1, ibot: 1, koleo: 0.1 },
    logEvery: Math.max(1, Math.min(10, Math.floor(steps / 100))),
    checkpointEvery: Math.max(1, Math.round(steps / (short ? 10 : 20))),
    maxImageSide: Math.ceil(2.3 * chosen.crops.globalSize),
    imageCacheBytes: Math.round(Math.min(4e9, facts.memoryBytes / 4)),
  };
}

function scratchModel(chosen: Recipe, steps: number): ModelConfig {
  const { model, crops } = chosen;
  const patchSize = 14;
  const long = steps > LONG_RUN;
  return modelConfig(model, {
    patchSize,
    registers: long ? 0 : 4,
    positionGrid: crops.globalSize / patchSize,
    layerScale: departures(chosen, steps)?.layerScale ?? (long ? 1e-5 : 0.1),
    dropPath: model === 'base' || model === 'large' ? 0.1 : 0,
  });
}

/** Published heads have 2048 hidden and 256 bottleneck units for networks 384 and wider; narrower ones shrink with the network. */
export function headConfig({ embedDim }: ModelConfig, prototypes: number): HeadConfig {
  return embedDim >= 384 ? { hidden: 2048, bottleneck: 256, prototypes } : { hidden: 4 * embedDim, bottleneck: embedDim, prototypes };
}

// --- presets in words -------------------------------------------------------------------------------------------------

/** The choices for these images on this machine, the one to take, and why. @param start as in `resolveConfig` */
export function trainPresets(facts: TrainFacts, start: StartFacts | null = null): TrainPresets {
  const cpu = onCpu(facts);
  const few = facts.images < 1000 && !start ? '; with so few, expect modest results' : '';
  return {
    presets: (start ? [CONTINUE] : PRESET_IDS).map((id) => preset(id, facts, start)),
    fewestImages: FEWEST_IMAGES,
    recommendedId: start ? CONTINUE : 'standard',
    warning: start && continueWarning(facts),
    reason: `${facts.images.toLocaleString('en-US')} images and ${cpu ? 'no GPU' : 'a GPU'}${few}`,
    engine: facts.engine,
  };
}

function preset(id: string, facts: TrainFacts, start: StartFacts | null): TrainPreset {
  const { title, summary } = start ? continuePlan(facts, start) : recipe(id as PresetId, facts);
  const config = resolveConfig(id, facts, {}, start);
  const { steps, batch } = config;
  const model = config.model.name;
  const passes = (steps * batch * batchesOfStep(config)) / Math.max(1, facts.images);
  const numbers = [
    {
      name: 'Steps',
      value: steps.toLocaleString('en-US'),
      reason: `${passes < 10 ? passes.toFixed(1) : Math.round(passes)} passes over your images.`,
    },
    ...explain(config, facts),
  ];
  const explained = start ? explainContinued(numbers, config, facts, start) : numbers;
  return {
    id,
    title,
    summary,
    model,
    numbers: explained,
    steps,
    batch,
    accumulate: batchesOfStep(config),
    estimatedSeconds: estimatedSeconds(config, facts),
  };
}

/** The numbers of a run with their reasons. */
export function explain(config: RunConfig, facts: TrainFacts): { name: string; value: string; reason: string }[] {
  const cpu = onCpu(facts);
  const { model, crops, optimizer, teacher, heads } = config;
  const percent = (n: number): string => `${Math.round((100 * n) / config.steps)} %`;
  return [
    {
      name: 'Network',
      value: `ViT ${model.name}, ${model.embedDim} wide, ${model.depth} blocks, patches of ${model.patchSize} px`,
      reason: cpu
        ? 'The largest that learns something in the time given without a GPU.'
        : 'As large as this many images can teach from scratch.',
    },
    {
      name: 'Registers',
      value: String(model.registers),
      reason: model.registers > 0 ? 'Spare tokens keep the patch features of short runs clean.' : 'None, as in the published long runs.',
    },
    {
      name: 'LayerScale',
      value: String(model.layerScale),
      reason:
        model.layerScale >= 0.1 ? 'The published 1e-5 would hold back a short run for most of its steps.' : 'As published for long runs.',
    },
    {
      name: 'Batch',
      value:
        batchesOfStep(config) === 1
          ? `${config.batch} images`
          : `${config.batch * batchesOfStep(config)} images, ${config.batch} at a time`,
      reason: cpu
        ? 'Enough different images for KoLeo and the centre, few enough for steps of well under a second.'
        : roomInWords(config, facts.gpuMemory, facts.precision),
    },
    {
      name: 'Batches a step',
      value: String(batchesOfStep(config)),
      reason: 'More are averaged into one update: the images of a large batch in the memory of a small one, in as many times the time.',
    },
    {
      name: 'Crops',
      value: `2 of ${crops.globalSize} px and ${crops.localCount} of ${crops.localSize} px`,
      reason: cpu ? 'A quarter of the published area: most of the cost of a step, little of what it learns.' : 'As published.',
    },
    {
      name: 'Prototypes',
      value: heads.dino.prototypes.toLocaleString('en-US'),
      reason: 'Grows with the number of images; more than they can fill only costs time.',
    },
    {
      name: 'Heads',
      value: heads.ibot ? 'separate' : 'shared',
      reason: heads.ibot ? 'Worth half a point with very many images.' : 'Separate heads gain nothing at this size.',
    },
    {
      name: 'Learning rate',
      value: optimizer.learningRate.toExponential(1),
      reason: `${config.steps <= FEW && cpu ? 'Above the published rule, which few steps of a small network can bear' : 'The published rule, 4e-3 x sqrt(batch / 1024)'}; reached after ${percent(optimizer.warmupSteps)} of the steps, then down a cosine.`,
    },
    {
      name: 'Layer decay',
      value: `${optimizer.layerDecay}, patch embedding ${optimizer.patchEmbedMultiplier}`,
      reason:
        optimizer.layerDecay === 1
          ? 'None: in few steps the first layers must learn as fast as the last.'
          : 'Slows the first layers down, as published.',
    },
    {
      name: 'Weight decay',
      value: optimizer.weightDecay.join(' to '),
      reason: 'Rises along a cosine, which keeps late features from overfitting few images.',
    },
    {
      name: 'Teacher momentum',
      value: teacher.momentum.join(' to '),
      reason: 'Lower with few images, so that the teacher follows within a short run.',
    },
    {
      name: 'Teacher temperature',
      value: teacher.temperature.join(' to '),
      reason:
        teacher.temperature[0] === teacher.temperature[1]
          ? 'Cold throughout: a short run needs clear targets from its first step.'
          : `Warms up over ${percent(teacher.temperatureWarmupSteps)} of the steps; small heads want it a little colder than the published 0.07.`,
    },
    {
      name: 'Centring',
      value: teacher.centering === 'sinkhorn' ? 'Sinkhorn-Knopp' : 'softmax',
      reason:
        teacher.centering === 'sinkhorn' && config.batch < SINKHORN_BATCH
          ? 'What the measured short runs used: every prototype is in use from the first step. Longer runs collapse under it.'
          : `Sinkhorn-Knopp balances well from ${SINKHORN_BATCH} images a batch on; softmax centring is steadier below.`,
    },
    {
      name: 'KoLeo',
      value: String(config.lossWeights.koleo),
      reason: 'Spreads images apart, which retrieval and clustering need; as published.',
    },
    {
      name: 'Drop path',
      value: String(model.dropPath),
      reason: model.dropPath > 0 ? 'Keeps a larger network from overfitting.' : 'Small networks need none.',
    },
    {
      name: 'Blur',
      value: crops.blurProbability.join(' / '),
      reason: 'Global crop 1, global crop 2, local crops: as the published weights were really trained.',
    },
    {
      name: 'Checkpoint',
      value: `every ${config.checkpointEvery} steps`,
      reason: 'Kept all along: the best features often come before the end.',
    },
  ];
}
