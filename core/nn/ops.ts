/**
 * The operations a DINOv2 training step is made of. The model, heads, losses and the step are written once against
 * `Executor`, forward only; each executor (cpu, tensorflow, webgpu) brings the operations and their gradients.
 *
 * Layouts are PyTorch's: row-major, Linear weights [out, in], images [N, 3, H, W]. All tensors hold float32 for the
 * caller; index lists and masks are plain typed arrays because they are drawn on the CPU.
 *
 * This file is the door only: no executor code, no model code.
 */
import type { CropGroup, PixelImage } from './crops.ts';
import type { PatchMaps, UpsampleGuide } from './upsampling.ts';

/** A value inside an executor. Immutable; lives until the enclosing `scope` ends, unless it belongs to a ParameterSet. */
export interface Tensor {
  readonly shape: readonly number[];
}

/** One learnable array as it is named in official checkpoints, e.g. `blocks.0.attn.qkv.weight`. */
export interface ParameterSpec {
  readonly name: string;
  readonly shape: readonly number[];
  /** Row-major start values; length = product of shape. */
  readonly values: Float32Array;
  /** Its gradient is not wanted and stays 0: what leads to no other parameter need not be computed. Absent: false. */
  readonly frozen?: boolean;
}

/** Parameters of one network in one flat buffer, in the order given: student and teacher built alike align by position. */
export interface ParameterSet {
  readonly specs: readonly { readonly name: string; readonly shape: readonly number[]; readonly offset: number; readonly size: number }[];
  /** Total number of float32 values. */
  readonly size: number;
  /** @throws Error naming the parameter when it does not exist */
  get(name: string): Tensor;
  has(name: string): boolean;
  dispose(): void;
}

/** First and second Adam moments of a ParameterSet, and the number of updates made. */
export interface AdamState {
  readonly size: number;
  dispose(): void;
}

/** Per-parameter multipliers of one update; index = position in ParameterSet.specs. */
export interface AdamWOptions {
  /** Learning rate of each parameter (base rate times layer decay, zero for a frozen last layer). */
  readonly learningRates: Float32Array;
  /** Weight decay of each parameter (decoupled: p <- p (1 - lr wd)). */
  readonly weightDecays: Float32Array;
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
  /** 1 for the first update: bias corrections are 1 - beta^updateNumber. */
  readonly updateNumber: number;
  /** Numbers, such as gradient norms: nothing changes when one of them is not finite. Decided where the update runs. */
  readonly guard?: Tensor;
}

/** What activations are stored in. */
export type Precision = 'f32' | 'f16';

export type Activation = 'none' | 'gelu';

/** How position tables are resized: `offset` 0.1 without antialias (plain models), 0 with antialias (register models). */
export interface PositionResize {
  readonly gridHeight: number;
  readonly gridWidth: number;
  readonly offset: number;
  readonly antialias: boolean;
}

/** A batch subset that takes part in a residual branch (drop path, DINOv2 `drop_add_residual_stochastic_depth`). */
export interface BatchSubset {
  /** Distinct sample numbers, any order. */
  readonly rows: Int32Array;
  /** b / rows.length: keeps the expected size of the branch. */
  readonly scale: number;
}

/** Samples of one length. Groups lie one after the other in the same rows: global and local crops. */
export interface SampleGroup {
  readonly samples: number;
  /** Of each sample. */
  readonly tokens: number;
}

/** A group and those of its samples that take part. */
export interface GroupSubset extends SampleGroup, BatchSubset {}

/** How a teacher's logits become targets; temperature: the teacher's. */
export type TargetKind =
  /** Sinkhorn-Knopp over all rows (spec 5.2); three iterations in DINOv2. */
  | { readonly kind: 'sinkhorn'; readonly temperature: number; readonly iterations: number }
  /** softmax((logits - center) / temperature) by row (spec 5.3); center [K], null for none. */
  | { readonly kind: 'softmax'; readonly temperature: number; readonly center: Tensor | null };

/**
 * Targets [rows, prototypes] that need not exist as an array: K + Q numbers and the teacher's rows are enough to make any
 * part of them, see `prototypeTargets`. Lives until the scope that made it ends, and is not kept by returning it.
 */
export interface PrototypeTargets {
  /** Q. */
  readonly rows: number;
  /** K. */
  readonly prototypes: number;
}

/** Cross-entropy of student rows against teacher targets over weight-normed prototypes. */
export interface PrototypeLossInputs {
  /** [R, bottleneck], already L2-normalised. */
  readonly rows: Tensor;
  /** [K, bottleneck]: directions v of the weight-normed last layer. */
  readonly weightV: Tensor;
  /** [K, 1]: lengths g of the weight-normed last layer. */
  readonly weightG: Tensor;
  /** [Q, K]: teacher targets, each row sums to 1; no gradient. */
  readonly targets: Tensor | PrototypeTargets;
  /** R * m target rows: student row r is compared with targets targetRows[r*m .. r*m+m-1], the terms are added. */
  readonly targetRows: Int32Array;
  /** R weights of the rows in the loss. */
  readonly rowWeights: Float32Array;
  /** Student temperature, 0.1 in DINOv2. */
  readonly temperature: number;
}

export interface Gradients {
  /** [] the value that was differentiated. */
  readonly loss: Tensor;
}

/**
 * One way to run the operations. Differentiable operations are recorded only inside `gradients`; everywhere else they
 * are plain forward computations. Methods throw `Error` with the operation's name and the shapes when shapes disagree.
 */
export interface Executor {
  /** `cpu`, `tensorflow`, `webgpu` or `reference`. */
  readonly name: string;
  /** What runs underneath, for the log: threads, SIMD kind, adapter. */
  readonly description: string;
  /**
   * Of activations and of their gradients, which `gradients` has to scale for f16 (`lossScale`). Parameters, moments,
   * statistics, targets and losses are f32 in any case.
   */
  readonly precision: Precision;
  /** 1: work goes on beside this thread, and nothing should be awaited before the next step is given; 0: calls compute at once. */
  readonly stepsAhead: 0 | 1;

  // --- memory -------------------------------------------------------------------------------------------------------
  /** Copies values in. Lives until the enclosing scope ends. */
  tensor(values: Float32Array, shape: readonly number[]): Tensor;
  /** Copies values out, as they are when it is called: the tensor may be freed before they arrive. The only way back. */
  read(tensor: Tensor): Promise<Float32Array>;
  /**
   * Runs `body`; every tensor made inside is freed afterwards, except those it returns (alone, in an array or in a plain
   * object): they live on in the enclosing scope. Scopes nest, one at a time.
   */
  scope<T>(body: () => T | Promise<T>): Promise<T>;
  /** A scope whose body does not wait; not inside `gradients`, which needs what it made until it is done. */
  within<T>(body: () => T): T;
  /** Bytes now held by tensors, parameters and state. */
  memoryBytes(): number;
  dispose(): Promise<void>;

  // --- images -------------------------------------------------------------------------------------------------------
  /**
   * Crops made where the executor computes: only the pictures' bytes go there, once for all groups. Bytes are those of
   * `applyCrop` (core/nn/pixels.ts) but for the blur, whose sums are rounded in float32. Absent: the caller makes them.
   * @param normalised [3,256]: the value that each byte of each channel becomes
   * @returns [crops,3,size,size] of each group
   */
  augment?(pictures: readonly PixelImage[], groups: readonly CropGroup[], normalised: Float32Array): Tensor[];
  /**
   * Whole pictures of one size as the network takes them, made where the executor computes: only bytes go there. Absent:
   * the caller makes them (`shiftInput` in core/prelabel/features.ts).
   * @param shifts right and down, pixels: each picture is seen once for each, moved left and up, its border repeated
   * @param normalised as in `augment`
   * @returns [pictures * shifts,3,H,W], the shifts of a picture beside each other
   */
  normalisePictures?(pictures: readonly PixelImage[], shifts: readonly (readonly [number, number])[], normalised: Float32Array): Tensor;

  /**
   * Joint bilateral upsampling (core/prelabel/refine.ts) of many maps of one picture; like `read` it waits only in the
   * promise. Absent: the caller does it.
   * @returns a value a pixel, map by map where `mapOffsets` says; what lies between maps is undefined
   */
  upsample?(guide: UpsampleGuide, maps: PatchMaps): Promise<Float32Array>;
  /** The same as bits, the lowest of a word first: 1 where the value is above 0.5, 0 between maps. */
  upsampleMasks?(guide: UpsampleGuide, maps: PatchMaps): Promise<Uint32Array>;

  // --- parameters ---------------------------------------------------------------------------------------------------
  createParameters(specs: readonly ParameterSpec[]): ParameterSet;
  /** All values, in the order of specs. */
  readParameters(set: ParameterSet): Promise<Float32Array>;
  /** @param values length set.size */
  writeParameters(set: ParameterSet, values: Float32Array): void;
  /** Gradients of the last `gradients` call (sums over calls since `zeroGradients`), in the order of specs. */
  readGradients(set: ParameterSet): Promise<Float32Array>;
  zeroGradients(set: ParameterSet): void;
  createAdamState(set: ParameterSet): AdamState;
  /** Moments m then v, each set.size long. */
  readAdamState(state: AdamState): Promise<{ m: Float32Array; v: Float32Array }>;
  writeAdamState(state: AdamState, m: Float32Array, v: Float32Array): void;

  // --- differentiation ----------------------------------------------------------------------------------------------
  /**
   * Runs `forward`, then adds d loss / d parameter into the gradient buffer of `set`.
   * @param forward returns the loss, shape []; called once
   * @param lossScale the loss is multiplied by this before differentiation (mixed precision); gradients come out scaled
   */
  gradients(set: ParameterSet, forward: () => Tensor, lossScale?: number): Gradients;

  /**
   * Gradient checkpointing (Chen et al. 2016, https://arxiv.org/abs/1604.06174): nothing that `body` makes is kept but its
   * result; the backward pass computes it again. Values and gradients are the same, bit for bit (on a GPU as far as
   * its driver rounds GELU alike with and without its slope). Outside `gradients` it frees what the body made. tensorflow only
   * runs the body.
   * @param inputs all tensors that the body takes and did not make, besides parameters
   * @param body gives the same each time; must not read or draw
   */
  recompute(inputs: readonly Tensor[], body: () => Tensor): Tensor;

  // --- differentiable operations ------------------------------------------------------------------------------------
  /** images [N,3,H,W] cut into p x p patches times weight [D,3,p,p] plus bias [D] -> [N, (H/p)(W/p), D], y major. */
  patchEmbed(images: Tensor, weight: Tensor, bias: Tensor): Tensor;
  /** x [N,P,D] with maskToken [1,D] in place of the patches where mask (N*P bytes) is 1. */
  maskPatches(x: Tensor, mask: Uint8Array, maskToken: Tensor): Tensor;
  /** table [1,1+M*M,D] -> [1+gridHeight*gridWidth, D]; row 0 (class token) is copied, the rest resized bicubically (spec 1.3). */
  resizePositions(table: Tensor, resize: PositionResize): Tensor;
  /** patches [N,P,D], cls [1,1,D], positions [1+P,D], registers [1,R,D] or null -> [N,1+R+P,D]; registers get no position. */
  assembleTokens(patches: Tensor, cls: Tensor, positions: Tensor, registers: Tensor | null): Tensor;
  /** Over the last axis, biased variance: (x - mean) / sqrt(var + epsilon) * weight + bias. */
  layerNorm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: number): Tensor;
  /** x [..., I] times weight [O, I] transposed, plus bias [O] or null, then the activation (exact erf GELU). */
  linear(x: Tensor, weight: Tensor, bias: Tensor | null, activation?: Activation): Tensor;
  /**
   * qkv [N,T,3D] (q, k, v each as heads x 64 or D/heads) -> softmax(q k^T / sqrt(D/heads)) v, [N,T,D].
   * @param groups samples of several lengths: qkv is [R,3D] then, R the tokens of all, and the result [R,D]
   */
  attention(qkv: Tensor, heads: number, groups?: readonly SampleGroup[]): Tensor;
  /** x [..., 2H] -> silu(first half) * second half, [..., H]. */
  swiglu(x: Tensor): Tensor;
  /**
   * x [..., D] plus branch times gamma [D]: the LayerScale residual.
   * @param subset the branch has their tokens only, as `gatherSamples` gives them, and is added times each group's scale; x is
   *   [N,T,D] of one group or [R,D] of several
   */
  addResidual(x: Tensor, branch: Tensor, gamma: Tensor, subset?: readonly GroupSubset[]): Tensor;
  /**
   * x [..., D] plus gamma [D] times linear(input [..., I], weight [D, I], bias [D]): what a block's branches end with.
   * @param subset as in `addResidual`
   */
  linearResidual(x: Tensor, input: Tensor, weight: Tensor, bias: Tensor, gamma: Tensor, subset?: readonly GroupSubset[]): Tensor;
  /** The samples that take part, in the order of rows: of x [N,T,D] one group's [rows.length,T,D], of x [R,D] all groups' [R',D]. */
  gatherSamples(x: Tensor, subset: readonly GroupSubset[]): Tensor;
  /** Tokens start .. start+count-1 of each sample of x [N,T,D] -> [N,count,D]. */
  sliceTokens(x: Tensor, start: number, count: number): Tensor;
  /** Rows of x seen as [product of leading axes, D] -> [rows.length, D]. A row may be named more than once. */
  gatherRows(x: Tensor, rows: Int32Array): Tensor;
  /** [R1,D], [R2,D], ... -> [R1+R2+..., D]; leading axes of a part count as one. */
  concatRows(parts: readonly Tensor[]): Tensor;
  /** x / max(||x||, epsilon) over the last axis. */
  l2Normalize(x: Tensor, epsilon: number): Tensor;
  /**
   * sum_r rowWeights[r] * sum_j H(targets[targetRows[r,j]], softmax(rows_r W^T / temperature)) with
   * W_k = g_k v_k / ||v_k||; H(q,s) = -sum_k q_k log s_k. Shape []. May be tiled so that the logits never exist whole.
   */
  prototypeLoss(inputs: PrototypeLossInputs): Tensor;
  /**
   * Kozachenko-Leonenko spreading term of x [B,D] (spec 5.5): x^ = x / max(||x||,1e-8), nearest other row by cosine
   * (no gradient through the choice), -mean log(||x^_i - x^_nn + 1e-8|| + 1e-8). Shape []. B at least 2.
   */
  koleo(x: Tensor): Tensor;
  /** sum_i weights[i] * terms[i] of scalars. Shape []. */
  weightedSum(terms: readonly Tensor[], weights: readonly number[]): Tensor;

  // --- operations without gradient ----------------------------------------------------------------------------------
  /**
   * The teacher's targets for rows [Q,bottleneck], already L2-normalised, over its weight-normed prototypes.
   * With logits l, either kind is exp(l / temperature - byPrototype[k] - bySample[q]): Sinkhorn-Knopp's factors in
   * logarithms, or byPrototype = center / temperature and bySample = log of the row's sum. So an executor may keep the
   * Q K targets while they are few, and else these K + Q numbers: the logits are then made again, a tile of prototypes at
   * a time, in every iteration and wherever the targets are read. The rows and parameters must not change until then.
   */
  prototypeTargets(rows: Tensor, weightV: Tensor, weightG: Tensor, how: TargetKind): PrototypeTargets;
  /** Rows of targets as an array: [rows.length,K]. A row may be named more than once. */
  gatherTargets(targets: PrototypeTargets, rows: Int32Array): Tensor;
  /** rows [R,bottleneck] times the weight-normed prototypes -> [R,K]. */
  prototypeLogits(rows: Tensor, weightV: Tensor, weightG: Tensor): Tensor;
  /** Mean over the rows of x [n,D] -> [1,D]. Logits of a mean row are the mean of the logits (feeds the centre's average). */
  meanRows(x: Tensor): Tensor;

  // --- updates ------------------------------------------------------------------------------------------------------
  /**
   * Scales the gradients of each part to an L2 norm of at most maxNorm (spec 0.6: backbone and heads apart), after
   * multiplying by gradientScale (1 / loss scale).
   * @param parts part number of each parameter, by position in set.specs
   * @param maxNorm 0 disables clipping
   * @returns [parts] norms before clipping
   */
  clipGradients(set: ParameterSet, parts: Int32Array, maxNorm: number, gradientScale?: number): Tensor;
  /** AdamW (Loshchilov & Hutter) with the gradients of the set. */
  adamW(set: ParameterSet, state: AdamState, options: AdamWOptions): void;
  /**
   * teacher <- momentum teacher + (1 - momentum) student, every parameter; equal values stay, bit for bit. Sets must have equal specs.
   * @param guard as in AdamWOptions
   */
  emaUpdate(teacher: ParameterSet, student: ParameterSet, momentum: number, guard?: Tensor): void;
}
