/**
 * Low-rank updates of the attention in blocks that stand still (LoRA, Hu et al. 2021): of a weight W [O,I] only
 * (alpha / r) B A is learned, A [r,I] and B [O,r]. Who uses or exports a network gets the sum under the official name.
 */
import type { ParameterSpec } from '../nn/index.ts';
import type { Random } from '../random.ts';
import type { RunConfig } from './config.ts';

/** Layers of a block that get an update, and their outputs as multiples of the width. */
const LAYERS = [
  ['attn.qkv', 3],
  ['attn.proj', 1],
] as const;

/** alpha / r of a run; null without LoRA. */
export function loraScale({ continuation }: Pick<RunConfig, 'continuation'>): number | null {
  const lora = continuation?.lora;
  return lora ? lora.alpha / lora.rank : null;
}

/**
 * The updates of every block that stands still: `blocks.i.attn.qkv.lora_a` [r,D], `.lora_b` [3D,r], the same of `attn.proj`.
 * A is drawn and B is 0, so that the network starts as it was (section 4.1 of the paper; A x has the variance of x).
 */
export function loraParameters(
  { model, continuation }: Pick<RunConfig, 'model' | 'continuation'>,
  random: Random,
  prefix = '',
): ParameterSpec[] {
  if (!continuation?.lora || continuation.trainableBlocks === null) return [];
  const { rank } = continuation.lora;
  const D = model.embedDim;
  const specs: ParameterSpec[] = [];
  for (let block = 0; block < model.depth - continuation.trainableBlocks; block++) {
    for (const [layer, outputs] of LAYERS) {
      const name = `${prefix}blocks.${block}.${layer}`;
      specs.push(
        { name: `${name}.lora_a`, shape: [rank, D], values: Float32Array.from({ length: rank * D }, () => random.normal() / Math.sqrt(D)) },
        { name: `${name}.lora_b`, shape: [outputs * D, rank], values: new Float32Array(outputs * D * rank) },
      );
    }
  }
  return specs;
}

/** W + scale B A. @param weight [O,I] @param a [r,I] @param b [O,r] @returns [O,I] */
export function mergedWeight(weight: Float32Array, a: Float32Array, b: Float32Array, rank: number, scale: number): Float32Array {
  const I = a.length / rank;
  const O = weight.length / I;
  if (b.length !== O * rank) throw new Error(`mergedWeight: ${b.length} values of B do not fit ${O} rows of rank ${rank}`);
  const merged = new Float32Array(weight.length);
  const row = new Float64Array(I);
  for (let o = 0; o < O; o++) {
    row.set(weight.subarray(o * I, (o + 1) * I));
    for (let r = 0; r < rank; r++) {
      const factor = scale * b[o * rank + r]!;
      if (factor !== 0) for (let i = 0; i < I; i++) row[i]! += factor * a[r * I + i]!;
    }
    merged.set(row, o * I);
  }
  return merged;
}

/** The layer that a parameter is the low-rank update of: `blocks.0.attn.qkv` of its lora_a or lora_b; null for every other. */
export function loraLayer(name: string): string | null {
  return /^(.*)\.lora_[ab]$/.exec(name)?.[1] ?? null;
}
