/**
 * The numbers of the preset "continue": how gently weights from elsewhere are trained on, by number of images and machine,
 * each with its reason. Nothing of it was measured here; the figures are those of published recipes (spec 11.3, 11.4) and of
 * ExPLoRA (Khanna et al. 2024), cut down for machines without a GPU. Resolved with the rest in `presets.ts`.
 */
import { wholePatches, type ContinuationConfig, type CropConfig, type ModelConfig, type RunConfig } from './config.ts';
import type { StartFacts } from './start.ts';

interface Facts {
  readonly images: number;
  readonly gpu: boolean;
}

export interface ContinuePlan {
  readonly title: string;
  readonly summary: string;
  readonly steps: number;
  readonly batch: number;
  readonly prototypes: number;
  readonly separateHeads: boolean;
  readonly crops: Pick<CropConfig, 'globalSize' | 'localSize' | 'localCount'>;
  /** Steps of the heads alone in a run of usual length; at most a quarter of the run. */
  readonly headsOnlySteps: number;
  /** Peak rate of the backbone, whatever the batch. */
  readonly backboneRate: number;
  readonly layerDecay: number;
  readonly learnsAll: boolean;
}

/** Below this the published weights are best left as they are, as far as is known. */
const TOO_FEW = 1000;
const LAST_BLOCKS = 2;
const LORA = { rank: 8, alpha: 16 };
/** Checkpoints without a better dense score: a quarter of those of a usual run. */
const PATIENCE = 5;
/** The same of runs that make ten checkpoints. */
const SHORT_PATIENCE = 3;

export function continuePlan({ images, gpu }: Facts, { model }: StartFacts): ContinuePlan {
  const bySize =
    images < TOO_FEW
      ? { steps: 1000, batch: 64, prototypes: 1024, headsOnlySteps: 500, backboneRate: 1e-5 }
      : images < 20_000
        ? { steps: 5000, batch: 64, prototypes: 2048, headsOnlySteps: 500, backboneRate: 2e-5 }
        : images < 200_000
          ? { steps: 20_000, batch: 128, prototypes: 8192, headsOnlySteps: 1000, backboneRate: 5e-5 }
          : { steps: 50_000, batch: 128, prototypes: 65_536, headsOnlySteps: 1000, backboneRate: 5e-5 };
  const learnsAll = images >= 200_000 && gpu;
  const onCpu = { steps: images < TOO_FEW ? 400 : images < 20_000 ? 500 : 1000, batch: 16, prototypes: Math.min(2048, bySize.prototypes) };
  const whole = (pixels: number): number => wholePatches(pixels, model.patchSize);
  return {
    title: 'Continue',
    summary: 'Trains these weights on, gently, with your images. What does not become better than the start is not used.',
    ...bySize,
    ...(gpu ? {} : onCpu),
    separateHeads: learnsAll,
    crops: gpu
      ? { globalSize: whole(224), localSize: whole(98), localCount: 8 }
      : { globalSize: whole(112), localSize: whole(42), localCount: 4 },
    layerDecay: learnsAll ? 0.85 : 0.9,
    learnsAll,
  };
}

/**
 * The network as the file has it. Its position table is resized to the crops where it learns with them; where it stands still it
 * is kept, and the executor resizes it for each crop: a table cut down to small crops would blur every larger image after.
 */
export function continuedModel({ learnsAll, crops }: ContinuePlan, { model }: StartFacts): ModelConfig {
  return {
    ...model,
    positionGrid: learnsAll ? crops.globalSize / model.patchSize : model.positionGrid,
    dropPath: model.embedDim >= 768 ? 0.1 : 0,
  };
}

/** @param learningRate peak rate of the heads */
export function continuationOf(
  plan: ContinuePlan,
  start: StartFacts,
  steps: number,
  learningRate: number,
  short: boolean,
): ContinuationConfig {
  return {
    headsOnlySteps: start.heads ? 0 : headsAlone(plan, steps),
    backboneRate: plan.backboneRate / learningRate,
    trainableBlocks: plan.learnsAll ? null : Math.min(LAST_BLOCKS, start.model.depth),
    lora: plan.learnsAll ? null : LORA,
    patience: short ? SHORT_PATIENCE : PATIENCE,
  };
}

const headsAlone = (plan: ContinuePlan, steps: number): number => Math.min(plan.headsOnlySteps, Math.floor(steps / 4));

/** What to tell before such a run is started; null: nothing. */
export function continueWarning({ images }: Facts): string | null {
  if (images >= TOO_FEW) return null;
  return `With under ${TOO_FEW.toLocaleString('en-US')} images training rarely makes good weights better. Propose masks with them as they are first.`;
}

interface Explained {
  readonly name: string;
  readonly value: string;
  readonly reason: string;
}

/** The explained numbers of a run from scratch, as they are for a continued one. */
export function explainContinued(numbers: readonly Explained[], config: RunConfig, { images, gpu }: Facts, start: StartFacts): Explained[] {
  const { model, optimizer, crops } = config;
  const { headsOnlySteps, backboneRate, trainableBlocks, lora, patience } = config.continuation!;
  const came = 'Those that came with the weights.';
  const reasons: Readonly<Record<string, string | null>> = {
    Network: 'The one that the weights are of.',
    Registers: 'As many as the weights have.',
    LayerScale: null, // learned, not chosen
    ...(start.heads && { Prototypes: came, Heads: came }),
    'Learning rate': `Of the heads, by the published rule, 4e-3 x sqrt(batch / 1024); reached after ${optimizer.warmupSteps} steps, then down a cosine.`,
    ...(gpu ? {} : { Batch: 'Enough different images for KoLeo and the centre.' }),
    'Layer decay': 'Of what learns, the first layers move least: they hold what is general.',
  };
  const withGpu = continuePlan({ images, gpu: true }, start);
  const changed = numbers.flatMap((number) => {
    const reason = reasons[number.name];
    if (reason === null) return [];
    if (number.name === 'Steps' && !gpu) {
      const told = `${withGpu.steps.toLocaleString('en-US')} steps of ${withGpu.batch} images`;
      return [{ ...number, reason: `${number.reason} With a GPU it would be ${told}.` }];
    }
    return [{ ...number, reason: reason ?? number.reason }];
  });
  const still = model.depth - (trainableBlocks ?? model.depth);
  const grid = `${model.positionGrid} x ${model.positionGrid}`;
  const own: Explained[] = [
    { name: 'Start', value: start.name, reason: 'Student and teacher both begin as these weights.' },
    {
      name: 'Blocks that learn',
      value: trainableBlocks === null ? `all ${model.depth}` : `the last ${trainableBlocks} of ${model.depth}, and the final norm`,
      reason:
        trainableBlocks === null
          ? 'So many images can teach all of the network.'
          : 'Few images would wear down what the blocks before have learned.',
    },
    ...(lora && still > 0
      ? [
          {
            name: 'LoRA',
            value: `rank ${lora.rank}, scale ${lora.alpha / lora.rank}`,
            reason: `Lets the attention of the ${still} blocks that stand still adapt by a few values.`,
          },
        ]
      : []),
    {
      name: 'Backbone rate',
      value: (backboneRate * optimizer.learningRate).toExponential(1),
      reason: 'At the usual rate trained backbones were reported to lose most of what they knew within 10,000 images.',
    },
    {
      name: 'Heads alone',
      value: `${headsOnlySteps.toLocaleString('en-US')} steps`,
      reason: start.heads
        ? 'The heads came with the weights and need no time alone.'
        : `New heads are random and would tear at a trained backbone.${gpu ? '' : ` With a GPU ${headsAlone(withGpu, withGpu.steps)} steps.`}`,
    },
    {
      name: 'Position table',
      value: grid,
      reason:
        model.positionGrid * model.patchSize === crops.globalSize
          ? 'That of the crops it learns with.'
          : 'As in the file: it stands still, and is resized for each crop.',
    },
    ...(patience === null
      ? []
      : [
          {
            name: 'Ends early',
            value: `after ${patience} checkpoints without a better dense score`,
            reason: 'Good weights often get worse by training on; the start takes part in the choice.',
          },
        ]),
  ];
  const after = changed.findIndex(({ name }) => name === 'Registers') + 1;
  return [...changed.slice(0, after), ...own, ...changed.slice(after)];
}
