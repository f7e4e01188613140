/**
 * One training step: teacher targets, student losses, update (spec 5). Crops come in as numbers that the
 * run has drawn, or as recorded arrays; masks as arrays. Draws nothing and reads nothing back but the softmax centres.
 *
 * A step may be made of several batches (gradient accumulation): their gradients are averaged. What compares images with
 * each other (Sinkhorn-Knopp, KoLeo) sees one batch, as it sees one GPU's in the official code (KoLeo).
 *
 * B images a batch, L local crops an image, N patches of a global crop, M masked patches, K prototypes. Crops lie
 * crop-major: all images' crop 0, then all images' crop 1.
 */
import type { AdamState, Executor, ParameterSet, PrototypeTargets, TargetKind, Tensor } from '../nn/index.ts';
import { makeCrops, type DrawnCrops } from './augment.ts';
import { headForward, ibotHeadName, prototypesOf } from './heads.ts';
import { loraScale } from './lora.ts';
import { rates, type ParameterGroups } from './optimizer.ts';
import type { StepValues } from './schedules.ts';
import { classTokens, patchTokens, vitForward, vitForwardGroups, type DropPath, type ImageGroup, type TokenGrid } from './vit.ts';
import { batchesOfStep, type ModelConfig, type RunConfig } from './config.ts';

/** What a batch is besides its crops. */
interface BatchNumbers {
  readonly images: number;
  /** [2B,N]: 1 where the student's patch is masked. */
  readonly masks: Uint8Array;
  readonly globalDropPath: DropPath | null;
  readonly localDropPath: DropPath | null;
}

/** A batch whose crops are made already. */
export interface Batch extends BatchNumbers {
  /** [2B,3,H,W], normalised. */
  readonly globalCrops: Float32Array;
  /** [L*B,3,h,w], normalised; empty when L is 0. */
  readonly localCrops: Float32Array;
}

/** A batch whose crops are numbers, made into pixels by the step. */
export interface DrawnBatch extends BatchNumbers {
  readonly drawn: DrawnCrops;
}

/** All that a step reads and changes. */
export interface TrainState {
  readonly student: ParameterSet;
  /** The student's moving average: who teaches it, and what a run is for. */
  readonly teacher: ParameterSet;
  /** Who teaches instead in a distillation, never changed; its network is config.distillation.model. */
  readonly frozenTeacher?: ParameterSet | null;
  readonly adam: AdamState;
  /** Moving means of the teacher's logits, subtracted under softmax centring; `ibot` also when the heads are tied. */
  readonly centers: { readonly dino: Float32Array; readonly ibot: Float32Array };
}

/** Rows [R,bottleneck] and the prototypes of their head: what logits are made of. */
export interface HeadRows {
  readonly rows: Tensor;
  readonly weightV: Tensor;
  readonly weightG: Tensor;
}

export interface Targets {
  /** [2B,K] of the teacher's class tokens. */
  readonly dino: PrototypeTargets;
  /** [M,K'] of the teacher's patch tokens where the student's are masked; null when nothing is masked. */
  readonly ibot: PrototypeTargets | null;
  /** The 2B rows that `dino` was made of. */
  readonly dinoRows: HeadRows;
  /** Flat positions in [2B*N] of the masked patches. */
  readonly maskedPositions: Int32Array;
  /** Of the teacher's logits: [1,K] and [1,K'], for the centres. null under Sinkhorn. */
  readonly means: { readonly dino: Tensor; readonly ibot: Tensor | null } | null;
}

/** What the student's loss needs of them, made or given as arrays. */
export interface StudentTargets {
  readonly dino: PrototypeTargets | Tensor;
  readonly ibot: PrototypeTargets | Tensor | null;
  readonly maskedPositions: Int32Array;
}

/** The weighted terms of the loss; each has shape []. They add up to `total`. */
export interface LossTerms {
  readonly total: Tensor;
  readonly dinoGlobal: Tensor;
  /** null without local crops. */
  readonly dinoLocal: Tensor | null;
  /** null when nothing is masked. */
  readonly ibot: Tensor | null;
  readonly koleo: Tensor;
}

/** Crops as tensors inside the executor. */
interface Crops {
  readonly global: Tensor;
  readonly local: Tensor | null;
}

export function uploadCrops(x: Executor, config: RunConfig, batch: Batch | DrawnBatch): Crops {
  if ('drawn' in batch) return makeCrops(x, batch.drawn);
  const { globalSize: G, localSize: l, localCount } = config.crops;
  return {
    global: x.tensor(batch.globalCrops, [2 * batch.images, 3, G, G]),
    local: localCount > 0 ? x.tensor(batch.localCrops, [localCount * batch.images, 3, l, l]) : null,
  };
}

/** Who makes the targets: the student's moving average, or the frozen network of a distillation. */
function whoTeaches(
  config: RunConfig,
  { teacher, frozenTeacher }: Pick<TrainState, 'teacher' | 'frozenTeacher'>,
): { parameters: ParameterSet; model: ModelConfig } {
  if (!config.distillation) return { parameters: teacher, model: config.model };
  if (!frozenTeacher) throw new Error('teacherTargets: a distillation needs its frozen teacher');
  return { parameters: frozenTeacher, model: config.distillation.model };
}

/** What the teacher, who sees the global crops without masks, wants the student to say. */
export function teacherTargets(
  x: Executor,
  config: RunConfig,
  state: Pick<TrainState, 'teacher' | 'frozenTeacher' | 'centers'>,
  crops: Crops,
  masks: Uint8Array,
  temperature: number,
): Targets {
  const { centers } = state;
  const { parameters: teacher, model } = whoTeaches(config, state);
  const maskedPositions = positionsOf(masks);
  const ibotHead = ibotHeadName(config);
  // Nothing goes backwards here: what the layers made is freed block by block.
  const heads = x.within(() => {
    const forward = { prefix: 'backbone.', loraScale: loraScale(config), recompute: true };
    const grid = vitForward(x, teacher, model, crops.global, forward);
    const masked = maskedPositions.length > 0 ? patchTokens(x, grid, maskedPositions) : null; // [M,D]
    return { dino: headForward(x, teacher, 'dino_head', classTokens(x, grid)), ibot: masked && headForward(x, teacher, ibotHead, masked) };
  });
  const dinoRows: HeadRows = { rows: heads.dino, ...prototypesOf(teacher, 'dino_head') }; // [2B,bottleneck]
  const ibotRows: HeadRows | null = heads.ibot && { rows: heads.ibot, ...prototypesOf(teacher, ibotHead) }; // [M,bottleneck']

  const { centering, sinkhornIterations: iterations } = config.teacher;
  const targetsOf = ({ rows, weightV, weightG }: HeadRows, center: Float32Array): PrototypeTargets => {
    const how: TargetKind =
      centering === 'sinkhorn'
        ? { kind: 'sinkhorn', temperature, iterations }
        : { kind: 'softmax', temperature, center: x.tensor(center, [center.length]) };
    return x.prototypeTargets(rows, weightV, weightG, how);
  };
  const meanOf = ({ rows, weightV, weightG }: HeadRows): Tensor => x.prototypeLogits(x.meanRows(rows), weightV, weightG);
  return {
    dino: targetsOf(dinoRows, centers.dino),
    ibot: ibotRows && targetsOf(ibotRows, centers.ibot),
    dinoRows,
    maskedPositions,
    means: centering === 'sinkhorn' ? null : { dino: meanOf(dinoRows), ibot: ibotRows && meanOf(ibotRows) },
  };
}

/** The student's loss; call inside `gradients`. */
export function studentLoss(
  x: Executor,
  config: RunConfig,
  student: ParameterSet,
  crops: Crops,
  batch: BatchNumbers,
  targets: StudentTargets,
): LossTerms {
  const B = batch.images;
  const L = config.crops.localCount;
  const { dino: dinoWeight, ibot: ibotWeight, koleo: koleoWeight } = config.lossWeights;
  const common = { temperature: config.studentTemperature };

  const backbone = { prefix: 'backbone.', loraScale: loraScale(config), recompute: config.recompute ?? false };
  // The global crops with masks (also for the class token, spec 0.2), the local crops as they are. In a distillation the
  // student sees what its teacher sees; the masks then only choose the patches of the iBOT term (spec 7.2).
  const groups: ImageGroup[] = [
    { images: crops.global, mask: config.distillation ? null : batch.masks, dropPath: batch.globalDropPath },
    ...(crops.local ? [{ images: crops.local, dropPath: batch.localDropPath }] : []),
  ];
  const [globalGrid, localGrid = null] = vitForwardGroups(x, student, config.model, groups, backbone) as [TokenGrid, TokenGrid?];
  const globalClass = classTokens(x, globalGrid); // [2B,D]

  // One pass through each head; tied heads take class tokens and masked patches together.
  const M = targets.maskedPositions.length;
  const ibotHead = ibotHeadName(config);
  const tied = ibotHead === 'dino_head';
  const maskedRows = M > 0 ? patchTokens(x, globalGrid, targets.maskedPositions) : null; // [M,D]
  const inputs = [globalClass];
  if (localGrid) inputs.push(classTokens(x, localGrid)); // [L*B,D]
  if (maskedRows && tied) inputs.push(maskedRows);
  const projected = headForward(x, student, 'dino_head', inputs.length > 1 ? x.concatRows(inputs) : globalClass); // [2B+L*B(+M),bottleneck]
  const dinoPrototypes = prototypesOf(student, 'dino_head');

  // DINO: every student crop against every other global crop of the teacher; the mean over all those pairs.
  const pairs = 2 + Math.max(2 * L, 1);
  const dinoTerm = (start: number, count: number, targetRows: Int32Array): Tensor =>
    x.prototypeLoss({
      ...common,
      ...dinoPrototypes,
      rows: x.gatherRows(projected, range(start, count)),
      targets: targets.dino,
      targetRows,
      rowWeights: new Float32Array(count).fill(dinoWeight / (pairs * B)),
    });
  const swapped = Int32Array.from({ length: 2 * B }, (_, r) => (r + B) % (2 * B)); // crop g is compared with the teacher's 1 - g
  const both = Int32Array.from({ length: 2 * L * B }, (_, i) => ((i >> 1) % B) + (i & 1) * B); // a local crop with both
  const dinoGlobal = dinoTerm(0, 2 * B, swapped);
  const dinoLocal = localGrid ? dinoTerm(2 * B, L * B, both) : null;

  // iBOT: each masked patch against the teacher's patch in the same place; mean per crop, over all 2B crops (spec 0.8).
  const ibot = maskedRows
    ? x.prototypeLoss({
        ...common,
        ...prototypesOf(student, ibotHead),
        rows: tied ? x.gatherRows(projected, range((2 + L) * B, M)) : headForward(x, student, ibotHead, maskedRows),
        targets: targets.ibot!,
        targetRows: range(0, M),
        rowWeights: maskedRowWeights(batch.masks, 2 * B, targets.maskedPositions).map((weight) => (ibotWeight * weight) / (2 * B)),
      })
    : null;

  // KoLeo spreads the class tokens of each set of global crops, before the head (spec 0.7).
  const spread = [0, 1].map((g) => x.koleo(x.gatherRows(globalClass, range(g * B, B))));
  const koleo = x.weightedSum(spread, [koleoWeight, koleoWeight]);

  const terms = [dinoGlobal, dinoLocal, ibot, koleo].filter((term) => term !== null);
  return { total: x.weightedSum(terms, new Array<number>(terms.length).fill(1)), dinoGlobal, dinoLocal, ibot, koleo };
}

/**
 * Targets, losses and gradients of one batch. Gradients lie in the student's buffer, before clipping.
 * @param part of the batches that make up a step, counted from 0: the first empties the buffer, the others add to it
 * @param lossScale what the gradients come out multiplied by
 */
export function computeGradients(
  x: Executor,
  config: RunConfig,
  state: TrainState,
  batch: Batch | DrawnBatch,
  values: StepValues,
  part = 0,
  lossScale = 1,
): { terms: LossTerms; targets: Targets } {
  const crops = uploadCrops(x, config, batch);
  const targets = teacherTargets(x, config, state, crops, batch.masks, values.teacherTemperature);
  let terms: LossTerms | null = null;
  if (part === 0) x.zeroGradients(state.student);
  x.gradients(
    state.student,
    () => {
      terms = studentLoss(x, config, state.student, crops, batch, targets);
      return terms.total;
    },
    lossScale,
  );
  return { terms: terms!, targets };
}

/**
 * Turns the sum over a step's batches into their mean, without the loss scale, then clips each part.
 * @returns [parts] norms of the mean, before clipping
 */
export function clipGradients(
  x: Executor,
  config: RunConfig,
  { student }: Pick<TrainState, 'student'>,
  groups: ParameterGroups,
  lossScale = 1,
): Tensor {
  return x.clipGradients(student, groups.parts, config.optimizer.clipNorm, 1 / (batchesOfStep(config) * lossScale));
}

/**
 * Updates the student with its clipped gradients, moves the teacher after it.
 * @param updates made before this one
 * @param norms as `clipGradients` has them; when one is not finite, nothing changes
 */
export function applyUpdate(
  x: Executor,
  config: RunConfig,
  state: TrainState,
  groups: ParameterGroups,
  values: StepValues,
  updates: number,
  norms?: Tensor,
): void {
  const { beta1, beta2, epsilon } = config.optimizer;
  const guard = norms && { guard: norms };
  x.adamW(state.student, state.adam, { ...rates(groups, values), beta1, beta2, epsilon, updateNumber: updates + 1, ...guard });
  x.emaUpdate(state.teacher, state.student, values.teacherMomentum, norms);
}

/** Means of the teacher's logits over a batch, read back: [K] and [K']. */
export interface LogitMeans {
  readonly dino: Float32Array;
  readonly ibot: Float32Array | null;
}

/** What the centres are moved by; null under Sinkhorn, which has none. */
export async function readMeans(x: Executor, { means }: Pick<Targets, 'means'>): Promise<LogitMeans | null> {
  if (!means) return null;
  // Asked for together: the scope may end meanwhile.
  const [dino, ibot] = await Promise.all([x.read(means.dino), means.ibot && x.read(means.ibot)]);
  return { dino, ibot };
}

/**
 * c <- momentum c + (1 - momentum) mean. The centre of a step lacks that step's own images, so this comes last, and once:
 * the centre follows a teacher that moves once a step, and its memory of 1 / (1 - momentum) is counted in steps. The mean
 * over several batches is that of their means, as the official code takes it over GPUs.
 * @param batches of the step
 */
export function updateCenters(config: RunConfig, { centers }: Pick<TrainState, 'centers'>, batches: readonly (LogitMeans | null)[]): void {
  const momentum = config.teacher.centerMomentum;
  for (const head of ['dino', 'ibot'] as const) {
    const means = batches.map((batch) => batch?.[head] ?? null).filter((mean) => mean !== null);
    if (means.length === 0) continue;
    const center = centers[head];
    for (let k = 0; k < center.length; k++) {
      const mean = means.reduce((sum, values) => sum + values[k]!, 0) / means.length;
      center[k] = momentum * center[k]! + (1 - momentum) * mean;
    }
  }
}

/** Flat positions where the mask is 1, ascending. */
function positionsOf(masks: Uint8Array): Int32Array {
  const positions: number[] = [];
  for (let i = 0; i < masks.length; i++) if (masks[i]) positions.push(i);
  return Int32Array.from(positions);
}

/** 1 / masked patches of its crop, for each masked patch. */
function maskedRowWeights(masks: Uint8Array, crops: number, positions: Int32Array): Float32Array {
  const patches = masks.length / crops;
  const counts = new Int32Array(crops);
  for (const position of positions) counts[Math.floor(position / patches)]!++;
  return Float32Array.from(positions, (position) => 1 / counts[Math.floor(position / patches)]!);
}

function range(start: number, count: number): Int32Array {
  return Int32Array.from({ length: count }, (_, i) => start + i);
}
