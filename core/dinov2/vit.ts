/**
 * The Vision Transformer of DINOv2, forward only, against `Executor` (spec 1). Parameters carry the official names
 * behind a prefix, `backbone.` in training checkpoints. No loss, no head, no image reading.
 *
 * N images (or crops), P patches, R registers, T = 1 + R + P tokens, D width.
 */
import type { Random } from '../random.ts';
import type { BatchSubset, Executor, GroupSubset, ParameterSet, ParameterSpec, SampleGroup, Tensor } from '../nn/index.ts';
import { ffnHidden, type ModelConfig } from './config.ts';

/** LayerNorm's epsilon everywhere in DINOv2 (spec 1.4). */
const EPSILON = 1e-6;

type Branch = 'attention' | 'ffn';

/** Batch subsets of one crop group: `[block].attention` and `.ffn` (spec 1.6). */
export type DropPath = readonly Readonly<Record<Branch, BatchSubset>>[];

export interface TokenGrid {
  /** [N,T,D] after the final norm: class token, registers, patches in row-major order. Of several groups the rows of all, [R,D]. */
  readonly tokens: Tensor;
  /** The same before the final norm. */
  readonly beforeNorm: Tensor;
  /** Where among the rows this group begins. */
  readonly firstRow: number;
  readonly samples: number;
  readonly tokensPerSample: number;
  /** Index of the first patch among the tokens. */
  readonly firstPatch: number;
  readonly gridHeight: number;
  readonly gridWidth: number;
}

/** Names, shapes and start values (spec 1.5), in the order of official checkpoints. */
export function vitParameters(config: ModelConfig, random: Random, prefix = ''): ParameterSpec[] {
  return parameterList(config, random).map(({ name, shape, start }) => {
    const values = new Float32Array(shape.reduce((a, b) => a * b, 1));
    for (let i = 0; i < values.length; i++) values[i] = start();
    return { name: prefix + name, shape, values };
  });
}

/** Names and shapes alone. */
export function vitShapes(config: ModelConfig): { readonly name: string; readonly shape: readonly number[] }[] {
  return parameterList(config, null).map(({ name, shape }) => ({ name, shape }));
}

interface Parameter {
  readonly name: string;
  readonly shape: readonly number[];
  /** The next value; draws from the random numbers that the list was made with. */
  readonly start: () => number;
}

/** @param random null: the start values are not asked for */
function parameterList(config: ModelConfig, random: Random | null): Parameter[] {
  const { embedDim: D, depth, patchSize: p, registers: R, positionGrid: M } = config;
  const H = ffnHidden(config);
  const list: Parameter[] = [];
  const add = (name: string, shape: readonly number[], start: () => number): void => void list.push({ name, shape, start });
  const zero = (): number => 0;
  const one = (): number => 1;
  const normal = (std: number) => () => std * random!.normal();
  const linear = (name: string, out: number, input: number): void => {
    add(`${name}.weight`, [out, input], normal(0.02));
    add(`${name}.bias`, [out], zero);
  };
  const norm = (name: string): void => {
    add(`${name}.weight`, [D], one);
    add(`${name}.bias`, [D], zero);
  };

  add('cls_token', [1, 1, D], normal(1e-6));
  add('pos_embed', [1, 1 + M * M, D], normal(0.02));
  if (R > 0) add('register_tokens', [1, R, D], normal(1e-6));
  add('mask_token', [1, D], zero);
  const bound = 1 / Math.sqrt(3 * p * p); // PyTorch's default for a convolution
  add('patch_embed.proj.weight', [D, 3, p, p], () => random!.uniform(-bound, bound));
  add('patch_embed.proj.bias', [D], () => random!.uniform(-bound, bound));
  for (let i = 0; i < depth; i++) {
    const block = `blocks.${i}`;
    norm(`${block}.norm1`);
    linear(`${block}.attn.qkv`, 3 * D, D);
    linear(`${block}.attn.proj`, D, D);
    add(`${block}.ls1.gamma`, [D], () => config.layerScale);
    norm(`${block}.norm2`);
    if (config.ffn === 'mlp') {
      linear(`${block}.mlp.fc1`, H, D);
      linear(`${block}.mlp.fc2`, D, H);
    } else {
      linear(`${block}.mlp.w12`, 2 * H, D);
      linear(`${block}.mlp.w3`, D, H);
    }
    add(`${block}.ls2.gamma`, [D], () => config.layerScale);
  }
  norm('norm');
  return list;
}

export interface ForwardOptions {
  readonly prefix?: string;
  /** alpha / r of the low-rank updates, where the parameters hold some (lora.ts). */
  readonly loraScale?: number | null;
  /** Stop after this many blocks; the final norm is applied to what is there. All blocks by default. */
  readonly blocks?: number;
  /** What a block makes besides its result is freed; a gradient through it computes it again (`Executor.recompute`). */
  readonly recompute?: boolean;
}

/** Images (or crops) of one size. */
export interface ImageGroup {
  /** [N,3,H,W], normalised; H and W multiples of the patch size. */
  readonly images: Tensor;
  /** N*P bytes; 1 puts the mask token in the patch's place. */
  readonly mask?: Uint8Array | null;
  readonly dropPath?: DropPath | null;
}

/** The parameters of a network by their official names, and what its layers need besides. */
interface Network {
  readonly config: ModelConfig;
  readonly p: (name: string) => Tensor;
  readonly has: (name: string) => boolean;
  readonly loraScale: number | null;
}

/**
 * Tokens of images after the final norm.
 * @param images [N,3,H,W], normalised; H and W multiples of the patch size
 * @throws Error naming the size when it is not a multiple
 */
export function vitForward(
  x: Executor,
  parameters: ParameterSet,
  config: ModelConfig,
  images: Tensor,
  options: ForwardOptions & Omit<ImageGroup, 'images'> = {},
): TokenGrid {
  const { mask = null, dropPath = null } = options;
  return vitForwardGroups(x, parameters, config, [{ images, mask, dropPath }], options)[0]!;
}

/**
 * The same of several groups at once, e.g. global and local crops: their tokens lie one after the other, and only attention
 * knows where samples end (sequence packing, DINOv2 section 5).
 * @throws as vitForward
 */
export function vitForwardGroups(
  x: Executor,
  parameters: ParameterSet,
  config: ModelConfig,
  groups: readonly ImageGroup[],
  options: ForwardOptions = {},
): TokenGrid[] {
  const { prefix = '', loraScale = null, blocks = config.depth, recompute = false } = options;
  const network: Network = {
    config,
    p: (name) => parameters.get(prefix + name),
    has: (name) => parameters.has(prefix + name),
    loraScale,
  };
  const embedded = groups.map((group) => embed(x, network, group));
  const sizes = embedded.map(({ samples, tokensPerSample }) => ({ samples, tokens: tokensPerSample }));
  const dropped = groups.some(({ dropPath }) => dropPath);
  let tokens = groups.length > 1 ? x.concatRows(embedded.map((group) => group.tokens)) : embedded[0]!.tokens; // [R,D], or [N,T,D]
  for (let i = 0; i < blocks; i++) {
    const input = tokens;
    const subsets = (branch: Branch): GroupSubset[] =>
      sizes.map((size, g) => ({ ...size, ...(groups[g]!.dropPath?.[i]![branch] ?? wholeOf(size)) }));
    const seen = dropped ? { attention: subsets('attention'), ffn: subsets('ffn') } : null;
    const body = (): Tensor => block(x, network, i, input, sizes, seen);
    tokens = recompute ? x.recompute([input], body) : body();
  }
  const beforeNorm = tokens;
  tokens = x.layerNorm(tokens, network.p('norm.weight'), network.p('norm.bias'), EPSILON);

  let firstRow = 0;
  return embedded.map((group) => {
    const grid = { ...group, tokens, beforeNorm, firstRow, firstPatch: 1 + config.registers };
    firstRow += group.samples * group.tokensPerSample;
    return grid;
  });
}

/** What goes into the first block, [N,T,D]. */
function embed(
  x: Executor,
  { config, p }: Network,
  { images, mask }: ImageGroup,
): Pick<TokenGrid, 'tokens' | 'samples' | 'tokensPerSample' | 'gridHeight' | 'gridWidth'> {
  const [samples, , H, W] = images.shape as [number, number, number, number];
  if (H % config.patchSize !== 0 || W % config.patchSize !== 0) {
    throw new Error(`vitForward: ${H} x ${W} pixels are not multiples of the patch size ${config.patchSize}`);
  }
  const gridHeight = H / config.patchSize;
  const gridWidth = W / config.patchSize;
  let patches = x.patchEmbed(images, p('patch_embed.proj.weight'), p('patch_embed.proj.bias')); // [N,P,D]
  if (mask) patches = x.maskPatches(patches, mask, p('mask_token')); // before positions are added
  const resize = { gridHeight, gridWidth, offset: config.positionOffset, antialias: config.positionAntialias };
  const positions = x.resizePositions(p('pos_embed'), resize); // [1+P,D]
  const registers = config.registers > 0 ? p('register_tokens') : null;
  const tokens = x.assembleTokens(patches, p('cls_token'), positions, registers); // [N,T,D]
  return { tokens, samples, tokensPerSample: tokens.shape[1]!, gridHeight, gridWidth };
}

/** All samples of a group, as a subset. */
function wholeOf({ samples }: SampleGroup): BatchSubset {
  return { rows: Int32Array.from({ length: samples }, (_, i) => i), scale: 1 };
}

/**
 * x + gamma1 * Attention(LN1(x)), then x + gamma2 * FFN(LN2(x)).
 * @param subsets what each branch sees with drop path; null: everything
 */
function block(
  x: Executor,
  network: Network,
  index: number,
  tokens: Tensor,
  groups: readonly SampleGroup[],
  subsets: Readonly<Record<Branch, readonly GroupSubset[]>> | null,
): Tensor {
  const { config, p } = network;
  const name = `blocks.${index}`;

  let input = subsets ? x.gatherSamples(tokens, subsets.attention) : tokens;
  let branch = x.layerNorm(input, p(`${name}.norm1.weight`), p(`${name}.norm1.bias`), EPSILON);
  branch = linear(x, network, `${name}.attn.qkv`, branch); // [N,T,3D]
  const attending = subsets ? subsets.attention.map(({ rows, tokens: length }) => ({ samples: rows.length, tokens: length })) : groups;
  branch = x.attention(branch, config.heads, groups.length > 1 ? attending : undefined); // [N,T,D]
  tokens = residual(x, network, tokens, branch, `${name}.attn.proj`, `${name}.ls1`, subsets?.attention);

  input = subsets ? x.gatherSamples(tokens, subsets.ffn) : tokens;
  branch = x.layerNorm(input, p(`${name}.norm2.weight`), p(`${name}.norm2.bias`), EPSILON);
  if (config.ffn === 'mlp') {
    branch = x.linear(branch, p(`${name}.mlp.fc1.weight`), p(`${name}.mlp.fc1.bias`), 'gelu'); // [N,T,4D]
    return residual(x, network, tokens, branch, `${name}.mlp.fc2`, `${name}.ls2`, subsets?.ffn);
  }
  branch = x.swiglu(x.linear(branch, p(`${name}.mlp.w12.weight`), p(`${name}.mlp.w12.bias`))); // [N,T,H]
  return residual(x, network, tokens, branch, `${name}.mlp.w3`, `${name}.ls2`, subsets?.ffn);
}

/** tokens plus gamma times the last layer of a branch. */
function residual(
  x: Executor,
  network: Network,
  tokens: Tensor,
  branch: Tensor,
  layer: string,
  scale: string,
  subset: readonly GroupSubset[] | undefined,
): Tensor {
  const { p, has } = network;
  const gamma = p(`${scale}.gamma`);
  if (!has(`${layer}.lora_a`)) return x.linearResidual(tokens, branch, p(`${layer}.weight`), p(`${layer}.bias`), gamma, subset);
  return x.addResidual(tokens, linear(x, network, layer, branch), gamma, subset);
}

/** A linear layer with the low-rank update that it may have. */
function linear(x: Executor, network: Network, layer: string, input: Tensor): Tensor {
  const { p, has } = network;
  const output = x.linear(input, p(`${layer}.weight`), p(`${layer}.bias`));
  return has(`${layer}.lora_a`) ? withLora(x, network, layer, input, output) : output;
}

/** The layer's output [N,T,O] plus scale B A x: a residual whose gammas are all the scale. */
function withLora(x: Executor, { p, loraScale: scale }: Network, layer: string, input: Tensor, output: Tensor): Tensor {
  if (scale === null) throw new Error(`vitForward: ${layer} has a low-rank update, and its scale was not given`);
  const update = x.linear(x.linear(input, p(`${layer}.lora_a`), null), p(`${layer}.lora_b`), null); // [N,T,r], [N,T,O]
  const width = output.shape.at(-1)!;
  return x.addResidual(output, update, x.tensor(new Float32Array(width).fill(scale), [width]));
}

/** Class tokens of all samples, [N,D]. */
export function classTokens(x: Executor, grid: TokenGrid): Tensor {
  return x.gatherRows(
    grid.tokens,
    Int32Array.from({ length: grid.samples }, (_, n) => grid.firstRow + n * grid.tokensPerSample),
  );
}

/** The patch tokens named by flat positions in [N*P], [rows,D]. */
export function patchTokens(x: Executor, grid: TokenGrid, positions: Int32Array): Tensor {
  const P = grid.gridHeight * grid.gridWidth;
  return x.gatherRows(
    grid.tokens,
    positions.map((position) => grid.firstRow + Math.floor(position / P) * grid.tokensPerSample + grid.firstPatch + (position % P)),
  );
}

/**
 * Draws the subsets of one crop group: for each block and branch a fresh permutation of the samples, its first
 * max(floor(b (1 - d)), 1) kept (spec 1.6).
 * @returns null when the rate is 0
 */
export function drawDropPath(random: Random, config: ModelConfig, samples: number): DropPath | null {
  if (config.dropPath === 0) return null;
  const kept = Math.max(Math.floor(samples * (1 - config.dropPath)), 1);
  const subset = (): BatchSubset => ({ rows: random.permutation(samples).slice(0, kept), scale: samples / kept });
  return Array.from({ length: config.depth }, () => ({ attention: subset(), ffn: subset() }));
}
