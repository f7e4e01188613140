/** Which learning rate, weight decay and clipping part each parameter gets (spec 6, 0.5, 0.6). The update itself is the executor's. */
import type { ParameterSet } from '../nn/index.ts';
import type { RunConfig } from './config.ts';
import { loraLayer } from './lora.ts';
import type { StepValues } from './schedules.ts';

/** Gradient norms are clipped part by part, never jointly. */
export const PARTS = ['backbone', 'dino_head', 'ibot_head'] as const;

export interface ParameterGroups {
  /** By position in ParameterSet.specs. */
  readonly rateMultipliers: Float64Array;
  readonly decayMultipliers: Float64Array;
  /** 1 where the parameter belongs to the prototypes, which are frozen at first. */
  readonly lastLayer: Uint8Array;
  /** 1 where it belongs to the backbone, which stands still while the heads learn alone. */
  readonly backbone: Uint8Array;
  /** Index into partNames. */
  readonly parts: Int32Array;
  readonly partNames: readonly string[];
}

/**
 * Multipliers by name: layer decay ^ (depth + 1 - id) in the backbone, where embeddings have id 0 and block j has
 * j + 1; the patch embedding another 0.2; no weight decay for biases, norms and LayerScale. Final norm and heads: 1.
 * In a continued run the backbone has its share of that, 0 where it stands still: a rate of 0 leaves a parameter as it is, bit
 * for bit. Low-rank updates are new values, so layer decay, which protects trained ones, and weight decay leave them alone.
 */
export function parameterGroups(
  config: Pick<RunConfig, 'model' | 'optimizer' | 'continuation'>,
  set: Pick<ParameterSet, 'specs'>,
): ParameterGroups {
  const { layerDecay, patchEmbedMultiplier } = config.optimizer;
  const depth = config.model.depth;
  const count = set.specs.length;
  const groups = {
    rateMultipliers: new Float64Array(count).fill(1),
    decayMultipliers: new Float64Array(count).fill(1),
    lastLayer: new Uint8Array(count),
    parts: new Int32Array(count),
    backbone: Uint8Array.from(set.specs, ({ name }) => Number(name.startsWith('backbone.'))),
    partNames: PARTS.filter((part) => set.specs.some(({ name }) => name.startsWith(`${part}.`))),
  };
  for (const [i, { name }] of set.specs.entries()) {
    const block = /^backbone\.blocks\.(\d+)\./.exec(name);
    const isEmbedding = /^backbone\.(cls_token|pos_embed|register_tokens|mask_token|patch_embed)/.test(name);
    if (block) groups.rateMultipliers[i] = layerDecay ** (depth - Number(block[1]));
    else if (isEmbedding) groups.rateMultipliers[i] = layerDecay ** (depth + 1);
    if (name.includes('patch_embed')) groups.rateMultipliers[i]! *= patchEmbedMultiplier;
    if (name.endsWith('.bias') || name.includes('norm') || name.includes('gamma')) groups.decayMultipliers[i] = 0;
    if (name.includes('last_layer')) groups.lastLayer[i] = 1;
    if (loraLayer(name) !== null) {
      groups.rateMultipliers[i] = 1;
      groups.decayMultipliers[i] = 0;
    }
    if (groups.backbone[i]) groups.rateMultipliers[i]! *= standsStill(config, name) ? 0 : (config.continuation?.backboneRate ?? 1);
    groups.parts[i] = groups.partNames.findIndex((part) => name.startsWith(`${part}.`));
  }
  return groups;
}

/** In a continued run all of the backbone but its last blocks, the final norm and the low-rank updates. */
export function standsStill({ model, continuation }: Pick<RunConfig, 'model' | 'continuation'>, name: string): boolean {
  const blocks = continuation?.trainableBlocks ?? null;
  if (blocks === null || !name.startsWith('backbone.') || name.startsWith('backbone.norm.') || loraLayer(name) !== null) return false;
  const block = /^backbone\.blocks\.(\d+)\./.exec(name);
  return block === null || Number(block[1]) < model.depth - blocks;
}

/** Rates and decays of one step, by parameter. */
export function rates(groups: ParameterGroups, values: StepValues): { learningRates: Float32Array; weightDecays: Float32Array } {
  return {
    learningRates: Float32Array.from(groups.rateMultipliers, (multiplier, i) => {
      if (groups.backbone[i]) return multiplier * values.backboneLearningRate;
      return multiplier * (groups.lastLayer[i] ? values.lastLayerLearningRate : values.learningRate);
    }),
    weightDecays: Float32Array.from(groups.decayMultipliers, (multiplier) => multiplier * values.weightDecay),
  };
}
