/**
 * What a network and a run are, as plain JSON: every number of a run is resolved before it starts and never changes
 * after. Nothing here chooses numbers; that is `presets.ts`.
 */
import type { Precision } from '../nn/index.ts';

/** A Vision Transformer as DINOv2 builds it (spec 1). */
export interface ModelConfig {
  /** `custom`: read from a file, of none of the named sizes. */
  readonly name: ModelName | 'custom';
  /** Width D of a token. */
  readonly embedDim: number;
  readonly depth: number;
  /** Heads of attention; D / heads is 64. */
  readonly heads: number;
  readonly mlpRatio: number;
  readonly ffn: 'mlp' | 'swiglu';
  /** Side of a patch in pixels. */
  readonly patchSize: number;
  /** Register tokens (Darcet et al. 2023): 0 or 4 in released weights. */
  readonly registers: number;
  /** The position table holds positionGrid x positionGrid patches and one class token. */
  readonly positionGrid: number;
  /** How the table is resized: 0.1 without antialias in models without registers, 0 with antialias in those with (spec 1.3). */
  readonly positionOffset: number;
  readonly positionAntialias: boolean;
  /** Start value of the LayerScale gammas. */
  readonly layerScale: number;
  /** Share of a batch that each residual branch leaves out while the student trains (spec 1.6). */
  readonly dropPath: number;
}

export type ModelName = 'nano' | 'tiny' | 'small' | 'base' | 'large' | 'giant';

/** Spec 1.1; nano and tiny (DeiT's Ti) are below what DINOv2 published, for machines without a GPU. */
const SIZES: Record<ModelName, { embedDim: number; depth: number; heads: number; ffn: 'mlp' | 'swiglu' }> = {
  nano: { embedDim: 128, depth: 6, heads: 2, ffn: 'mlp' },
  tiny: { embedDim: 192, depth: 12, heads: 3, ffn: 'mlp' },
  small: { embedDim: 384, depth: 12, heads: 6, ffn: 'mlp' },
  base: { embedDim: 768, depth: 12, heads: 12, ffn: 'mlp' },
  large: { embedDim: 1024, depth: 24, heads: 16, ffn: 'mlp' },
  giant: { embedDim: 1536, depth: 40, heads: 24, ffn: 'swiglu' },
};

/** The name of a network of that size, if it has one. */
export function modelName(size: { readonly embedDim: number; readonly depth: number }): ModelConfig['name'] {
  const named = Object.entries(SIZES).find(([, { embedDim, depth }]) => embedDim === size.embedDim && depth === size.depth);
  return named ? (named[0] as ModelName) : 'custom';
}

/**
 * The named model, with registers deciding how positions are resized, as in the released weights.
 * @param options.positionGrid side of the position table in patches; 16 for 224 px crops of 14 px patches
 */
export function modelConfig(
  name: ModelName,
  options: Partial<Pick<ModelConfig, 'patchSize' | 'registers' | 'positionGrid' | 'layerScale' | 'dropPath' | 'ffn'>> = {},
): ModelConfig {
  const registers = options.registers ?? 0;
  return {
    name,
    ...SIZES[name],
    mlpRatio: 4,
    patchSize: 14,
    positionGrid: 16,
    layerScale: 1e-5,
    dropPath: 0,
    ...options,
    registers,
    positionOffset: registers > 0 ? 0 : 0.1,
    positionAntialias: registers > 0,
  };
}

/** Width of the feed-forward layer: 4 D, or for SwiGLU two thirds of it rounded up to a multiple of 8 (spec 1.1). */
export function ffnHidden(config: ModelConfig): number {
  const hidden = config.embedDim * config.mlpRatio;
  return config.ffn === 'mlp' ? hidden : Math.floor((Math.floor((hidden * 2) / 3) + 7) / 8) * 8;
}

/** The side in pixels nearest to `side` that patches fill, at least two of them. */
export function wholePatches(side: number, patchSize: number): number {
  return Math.max(2, Math.round(side / patchSize)) * patchSize;
}

/** A projection head: three linear layers, then weight-normed prototypes (spec 4). */
export interface HeadConfig {
  readonly hidden: number;
  readonly bottleneck: number;
  readonly prototypes: number;
}

/** Everything that decides a run. Stored as runs/<id>/config.json; the same file and images give the same run. */
export interface RunConfig {
  readonly version: 1;
  /** Name of the executor it was started on, whose rounding is in its numbers; absent before the run and in older ones. */
  readonly engine?: string;
  /** What activations are stored in, likewise; absent: f32. */
  readonly precision?: Precision;
  readonly presetId: string;
  readonly presetTitle: string;
  readonly seed: number;
  readonly model: ModelConfig;
  readonly heads: {
    readonly dino: HeadConfig;
    /** null: the DINO head also projects the masked patches (tied heads). */
    readonly ibot: HeadConfig | null;
  };
  /** Random weights, or those of start.safetensors in the run's folder; with heads there, heads too. Absent: random. */
  readonly start?: 'random' | 'weights';
  /** In words, what those weights were: "imported dinov2_vits14_pretrain.pth", "run 3, step 400". */
  readonly startedFrom?: string;
  /** How gently weights from elsewhere are trained on; absent: all of the network learns. */
  readonly continuation?: ContinuationConfig;
  /** The student learns from a frozen, larger network in teacher.safetensors of the run's folder (spec 7.2); absent: from its own teacher. */
  readonly distillation?: { readonly model: ModelConfig; /** As startedFrom. */ readonly taughtBy?: string };
  /** Number of updates. */
  readonly steps: number;
  /** Images that pass through the networks together: what Sinkhorn-Knopp, the centre and KoLeo see. */
  readonly batch: number;
  /** Batches whose gradients are averaged for one update. Absent: 1. */
  readonly accumulate?: number;
  /** The student's blocks keep nothing for the backward pass and are computed again there: a third more work in much less memory. */
  readonly recompute?: boolean;
  readonly crops: CropConfig;
  readonly masking: {
    /** Share of the global crops that get a mask. */
    readonly probability: number;
    /** Masked share of such a crop, spread evenly over the range. */
    readonly ratio: readonly [number, number];
  };
  readonly optimizer: {
    /** Peak rate, already scaled to the batch. */
    readonly learningRate: number;
    readonly finalLearningRate: number;
    readonly warmupSteps: number;
    readonly weightDecay: readonly [start: number, end: number];
    readonly beta1: number;
    readonly beta2: number;
    readonly epsilon: number;
    /** Largest gradient norm of each part (backbone, heads). */
    readonly clipNorm: number;
    /** Rate multiplier per block counted from the output; 1 switches it off. */
    readonly layerDecay: number;
    readonly patchEmbedMultiplier: number;
    /** Steps in which the prototypes stand still. */
    readonly freezeLastLayerSteps: number;
  };
  readonly teacher: {
    readonly momentum: readonly [start: number, end: number];
    readonly temperature: readonly [start: number, end: number];
    readonly temperatureWarmupSteps: number;
    readonly centering: 'softmax' | 'sinkhorn';
    readonly sinkhornIterations: number;
    readonly centerMomentum: number;
  };
  readonly studentTemperature: number;
  readonly lossWeights: { readonly dino: number; readonly ibot: number; readonly koleo: number };
  /** Steps between metrics lines and between checkpoints. */
  readonly logEvery: number;
  readonly checkpointEvery: number;
  /** Longer side to which images are reduced once, when read. */
  readonly maxImageSide: number;
  /** Bytes of decoded images kept in memory. */
  readonly imageCacheBytes: number;
}

/** Batches whose gradients make up one update; 1 without accumulation. */
export function batchesOfStep(config: Pick<RunConfig, 'accumulate'>): number {
  return config.accumulate ?? 1;
}

/** Continued pretraining of weights from elsewhere (spec 11.4): what stands still, and when it ends early. */
export interface ContinuationConfig {
  /** Steps in which only the heads learn, so that random heads do not tear at a trained backbone. */
  readonly headsOnlySteps: number;
  /** Rate of the backbone as a share of the rate of the heads, which begin with random values and need far more. */
  readonly backboneRate: number;
  /** Last blocks that learn, with the final norm; the rest of the backbone stands still. null: all of it learns. */
  readonly trainableBlocks: number | null;
  /** Low-rank updates of the attention of blocks that stand still (Hu et al. 2021; ExPLoRA, Khanna et al. 2024). */
  readonly lora: { readonly rank: number; readonly alpha: number } | null;
  /** Checkpoints in a row without a better dense score after which the run ends; null: never. */
  readonly patience: number | null;
}

/** Multi-crop augmentation (spec 2). */
export interface CropConfig {
  readonly globalSize: number;
  readonly localSize: number;
  readonly localCount: number;
  /** Share of the image's area. */
  readonly globalScale: readonly [number, number];
  readonly localScale: readonly [number, number];
  /** Width over height, drawn log-uniformly. */
  readonly aspect: readonly [number, number];
  readonly flipProbability: number;
  readonly jitter: {
    readonly probability: number;
    readonly brightness: number;
    readonly contrast: number;
    readonly saturation: number;
    readonly hue: number;
  };
  readonly grayscaleProbability: number;
  /** Global crop 1, global crop 2, local crops. */
  readonly blurProbability: readonly [number, number, number];
  readonly blurSigma: readonly [number, number];
  /** Global crop 2 only. */
  readonly solarizeProbability: number;
}

/** The augmentation DINOv2's released weights were trained with; blur as it effectively was (spec 0.1, 2.3). */
export const OFFICIAL_CROPS: CropConfig = {
  globalSize: 224,
  localSize: 98,
  localCount: 8,
  globalScale: [0.32, 1],
  localScale: [0.05, 0.32],
  aspect: [3 / 4, 4 / 3],
  flipProbability: 0.5,
  jitter: { probability: 0.8, brightness: 0.4, contrast: 0.4, saturation: 0.2, hue: 0.1 },
  grayscaleProbability: 0.2,
  blurProbability: [0, 0.9, 0.5],
  blurSigma: [0.1, 2],
  solarizeProbability: 0.2,
};

/** ImageNet statistics of 0..1 values, the input normalisation of every DINOv2 model. */
export const IMAGE_MEAN: readonly number[] = [0.485, 0.456, 0.406];
export const IMAGE_STD: readonly number[] = [0.229, 0.224, 0.225];

/** Fewer cannot be trained on. */
export const FEWEST_IMAGES = 8;

/** Uses of random numbers; each is its own stream beside (seed, step, ...). */
export const STREAM = { weights: 1, crops: 2, masks: 3, dropPath: 4 } as const;
