/**
 * One training step written a second time, from the specification, as plain loops in float64: forward, targets and losses.
 * Shares no code with core/dinov2 and none with an executor. Weights are Float64Arrays, so that their slopes can be
 * taken by differences.
 *
 * B images, L local crops an image, N patches of a global crop, M masked patches, D width, K prototypes.
 */
import type { BatchSubset } from '../../core/nn/index.ts';
import * as plain from '../nn/plain.ts';
import type { Value } from '../nn/plain.ts';

/** Arrays of one network by their official names. */
export interface PlainNetwork {
  readonly weights: ReadonlyMap<string, Value>;
  /** Heads of attention. */
  readonly heads: number;
}

export interface PlainForward {
  /** [N*P] */
  readonly mask?: Uint8Array;
  /** By block: the samples that take part in each branch. */
  readonly dropPath?: readonly { readonly attention: BatchSubset; readonly ffn: BatchSubset }[] | null;
  readonly blocks?: number;
}

/** Tokens after the final norm, [N, 1+R+P, D] (spec 1.2 to 1.6); registers decide how positions are resized. */
export function plainTokens({ weights, heads }: PlainNetwork, prefix: string, images: Value, options: PlainForward = {}): Value {
  const w = (name: string): Value => weights.get(prefix + name)!;
  const has = (name: string): boolean => weights.has(prefix + name);
  const [, , H, W] = images.shape as [number, number, number, number];
  const p = w('patch_embed.proj.weight').shape[2]!;
  let patches = plain.patchEmbed(images, w('patch_embed.proj.weight'), w('patch_embed.proj.bias'));
  if (options.mask) patches = plain.maskPatches(patches, options.mask, w('mask_token'));
  const registers = has('register_tokens') ? w('register_tokens') : null;
  const positions = plain.resizePositions(w('pos_embed'), H / p, W / p, registers ? 0 : 0.1, registers !== null);
  let x = plain.assembleTokens(patches, w('cls_token'), positions, registers);

  const [N, T] = x.shape as [number, number, number];
  for (let i = 0; i < (options.blocks ?? Infinity) && has(`blocks.${i}.norm1.weight`); i++) {
    const b = (name: string): Value => w(`blocks.${i}.${name}`);
    const branch = (norm: string, gamma: string, subset: BatchSubset | undefined, inner: (y: Value) => Value): void => {
      const group = subset ? [{ samples: N, tokens: T, ...subset }] : null;
      const input = group ? plain.gatherSamples(x, group) : x;
      const y = inner(plain.layerNorm(input, b(`${norm}.weight`), b(`${norm}.bias`), 1e-6));
      x = plain.addResidual(x, y, b(gamma), group);
    };
    const linear = (y: Value, name: string, activation: 'none' | 'gelu' = 'none'): Value =>
      plain.linear(y, b(`${name}.weight`), b(`${name}.bias`), activation);
    const kept = options.dropPath?.[i];
    branch('norm1', 'ls1.gamma', kept?.attention, (y) => linear(plain.attention(linear(y, 'attn.qkv'), heads), 'attn.proj'));
    branch('norm2', 'ls2.gamma', kept?.ffn, (y) =>
      has(`blocks.${i}.mlp.w12.weight`)
        ? linear(plain.swiglu(linear(y, 'mlp.w12')), 'mlp.w3')
        : linear(linear(y, 'mlp.fc1', 'gelu'), 'mlp.fc2'),
    );
  }
  return plain.layerNorm(x, w('norm.weight'), w('norm.bias'), 1e-6);
}

/** Class tokens [N,D] of tokens [N,T,D]. */
export function plainClass(tokens: Value): Value {
  const [N, , D] = tokens.shape as [number, number, number];
  return plain.value([N, D], plain.sliceTokens(tokens, 0, 1).data);
}

/** Patches [N,P,D] of tokens [N,T,D]. */
export function plainPatches(tokens: Value, P: number): Value {
  return plain.sliceTokens(tokens, tokens.shape[1]! - P, P);
}

/** Logits [R,K] of rows [R,D] through a head (spec 4). */
function headLogits({ weights }: PlainNetwork, head: string, rows: Value): Value {
  const w = (name: string): Value => weights.get(`${head}.${name}`)!;
  let y = plain.linear(rows, w('mlp.0.weight'), w('mlp.0.bias'), 'gelu');
  y = plain.linear(y, w('mlp.2.weight'), w('mlp.2.bias'), 'gelu');
  y = plain.linear(y, w('mlp.4.weight'), w('mlp.4.bias'));
  return plain.prototypeLogits(plain.l2Normalize(y, 1e-12), w('last_layer.weight_v'), w('last_layer.weight_g'));
}

const ibotHead = ({ weights }: PlainNetwork): string => (weights.has('ibot_head.mlp.0.weight') ? 'ibot_head' : 'dino_head');

export interface PlainBatch {
  readonly images: number;
  /** [2B,3,G,G] and [L*B,3,l,l], crop-major; null without local crops. */
  readonly globalCrops: Value;
  readonly localCrops: Value | null;
  /** [2B*N] */
  readonly masks: Uint8Array;
  readonly globalDropPath: PlainForward['dropPath'];
  readonly localDropPath: PlainForward['dropPath'];
}

/** Rows [M,D] of the masked patches, in the order of the mask. */
function maskedRows(tokens: Value, masks: Uint8Array): Value {
  const [N, , D] = tokens.shape as [number, number, number];
  const positions = Int32Array.from([...masks.keys()].filter((i) => masks[i]));
  return plain.gather(plainPatches(tokens, masks.length / N), positions, D, [positions.length, D]);
}

export interface PlainTargets {
  /** [2B,K], in the order of the teacher's crops, and [M,K']. */
  readonly dino: Value;
  readonly ibot: Value;
  /** Means of the teacher's logits over their rows. */
  readonly means: { readonly dino: Float64Array; readonly ibot: Float64Array };
}

/** Centres of softmax centring, or null for Sinkhorn-Knopp (spec 5.2, 5.3). */
export type PlainCenters = { readonly dino: Float64Array; readonly ibot: Float64Array } | null;

export function plainTargets(teacher: PlainNetwork, batch: PlainBatch, centers: PlainCenters, temperature: number): PlainTargets {
  const tokens = plainTokens(teacher, 'backbone.', batch.globalCrops);
  const dino = headLogits(teacher, 'dino_head', plainClass(tokens));
  const ibot = headLogits(teacher, ibotHead(teacher), maskedRows(tokens, batch.masks));
  const targets = (logits: Value, center: Float64Array | undefined): Value => {
    if (!center) return plain.sinkhornKnopp(logits, temperature, 3);
    const K = center.length;
    const rows = Array.from({ length: logits.data.length / K }, (_, r) =>
      plain.softmax(logits.data.subarray(r * K, (r + 1) * K).map((value, k) => (value - center[k]!) / temperature)),
    );
    return plain.value(logits.shape, rows.flat());
  };
  const mean = ({ data, shape: [rows, K] }: Value): Float64Array => {
    const sums = new Float64Array(K!);
    for (const [i, value] of data.entries()) sums[i % K!]! += value / rows!;
    return sums;
  };
  return { dino: targets(dino, centers?.dino), ibot: targets(ibot, centers?.ibot), means: { dino: mean(dino), ibot: mean(ibot) } };
}

/** H(q,s) of target row i and student row j: cross-entropy at the student's temperature. */
function crossEntropy(targets: Value, i: number, logits: Value, j: number, temperature: number): number {
  const K = logits.shape[1]!;
  const scaled = logits.data.subarray(j * K, (j + 1) * K).map((value) => value / temperature);
  const highest = scaled.reduce((a, b) => Math.max(a, b), -Infinity);
  const logSum = highest + Math.log(scaled.reduce((sum, value) => sum + Math.exp(value - highest), 0));
  let sum = 0;
  for (let k = 0; k < K; k++) sum -= targets.data[i * K + k]! * (scaled[k]! - logSum);
  return sum;
}

/** The weighted terms as they are recorded; they add up to `total` (spec 5.1, 5.4 to 5.6). */
export type PlainLosses = Record<'dino_local' | 'dino_global' | 'koleo' | 'ibot' | 'total', number>;

export function plainLosses(
  student: PlainNetwork,
  batch: PlainBatch,
  targets: PlainTargets,
  {
    temperature,
    koleoWeight,
    distilled = false,
  }: {
    readonly temperature: number;
    readonly koleoWeight: number;
    /** The student sees its global crops whole; the masks choose patches only (spec 7.2). */
    readonly distilled?: boolean;
  },
): PlainLosses {
  const { images: B, masks } = batch;
  const seen = distilled ? {} : { mask: masks };
  const tokens = plainTokens(student, 'backbone.', batch.globalCrops, { ...seen, dropPath: batch.globalDropPath ?? null });
  const classes = plainClass(tokens); // [2B,D]
  const globalLogits = headLogits(student, 'dino_head', classes);

  const L = batch.localCrops ? batch.localCrops.shape[0]! / B : 0;
  const pairs = 2 + Math.max(2 * L, 1);
  let dinoGlobal = 0;
  for (let g = 0; g < 2; g++)
    for (let b = 0; b < B; b++) dinoGlobal += crossEntropy(targets.dino, (1 - g) * B + b, globalLogits, g * B + b, temperature) / B;
  let dinoLocal = 0;
  if (batch.localCrops) {
    const local = plainTokens(student, 'backbone.', batch.localCrops, { dropPath: batch.localDropPath ?? null });
    const localLogits = headLogits(student, 'dino_head', plainClass(local));
    for (let l = 0; l < L; l++)
      for (let g = 0; g < 2; g++)
        for (let b = 0; b < B; b++) dinoLocal += crossEntropy(targets.dino, g * B + b, localLogits, l * B + b, temperature) / B;
  }

  const patchLogits = headLogits(student, ibotHead(student), maskedRows(tokens, masks));
  const N = masks.length / (2 * B);
  let ibot = 0;
  let row = 0;
  for (let crop = 0; crop < 2 * B; crop++) {
    const count = masks.subarray(crop * N, (crop + 1) * N).reduce((sum, bit) => sum + bit, 0);
    let sum = 0;
    for (let i = 0; i < count; i++, row++) sum += crossEntropy(targets.ibot, row, patchLogits, row, temperature);
    ibot += sum / Math.max(1, count) / (2 * B);
  }

  const D = classes.shape[1]!;
  let koleo = 0;
  for (let g = 0; g < 2; g++) {
    koleo += koleoWeight * plain.koleo(plain.value([B, D], classes.data.subarray(g * B * D, (g + 1) * B * D))).data[0]!;
  }
  const terms = { dino_local: dinoLocal / pairs, dino_global: dinoGlobal / pairs, koleo, ibot };
  return { ...terms, total: terms.dino_local + terms.dino_global + koleo + ibot };
}
