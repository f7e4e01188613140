/**
 * The WebGPU executor's face: every operation of ops.ts checks whose tensors it was given and hands over to the file that
 * does the work. No arithmetic here.
 */
import type {
  Activation,
  AdamState,
  AdamWOptions,
  GroupSubset,
  Executor,
  Gradients,
  ParameterSet,
  ParameterSpec,
  PositionResize,
  Precision,
  PrototypeLossInputs,
  PrototypeTargets,
  SampleGroup,
  TargetKind,
  Tensor,
} from '../ops.ts';
import type { CropGroup, PixelImage } from '../crops.ts';
import type { PatchMaps, UpsampleGuide } from '../upsampling.ts';
import { makeCrops } from './augment.ts';
import { Engine, own, type PrototypeLimits } from './engine.ts';
import { attentionUnits } from './kernels/attentionMatrix.ts';
import { matrixShape } from './kernels/productMatrix.ts';
import * as layers from './layers.ts';
import * as losses from './losses.ts';
import { checkPictures, placePictures } from './pictures.ts';
import { prototypeLogits } from './prototypes.ts';
import { Runtime, type RuntimeOptions } from './runtime.ts';
import type { Capabilities } from './program.ts';
import { bytesOf, GpuAdamState, GpuParameterSet, type GpuTensor } from './tensor.ts';
import { gatherRows, gatherSamples } from './gather.ts';
import * as targets from './targets.ts';
import * as tokens from './tokens.ts';
import * as updates from './updates.ts';
import { upsampleMaps } from './upsample.ts';
import { sizeOf } from '../shapes.ts';

export interface WebgpuOptions extends RuntimeOptions {
  /** Default: f16 on a GPU that has it, else f32. */
  readonly precision?: Precision;
  /** How many logits may exist; absent: as many as on any GPU. */
  readonly limits?: PrototypeLimits;
}

/**
 * Starts the WebGPU executor on the fastest adapter of the machine, be it a program that acts as one. Results repeat bit
 * for bit on one adapter and driver; others differ in rounding. Its operations throw AppError engine-out-of-memory and
 * engine-died when the device says so, which may be some calls later.
 * @throws Error when there is no adapter, with the reason, or it cannot do the precision
 */
export async function createWebgpuExecutor({ precision, limits, ...options }: WebgpuOptions = {}): Promise<WebgpuExecutor> {
  const runtime = await Runtime.open(options);
  const { description, software } = runtime.device;
  const { f16 } = runtime.capabilities;
  if (precision === 'f16' && !f16) {
    runtime.dispose();
    throw new Error(`The GPU (${description}) cannot compute in f16.`);
  }
  return new WebgpuExecutor(new Engine(runtime, precision ?? (f16 && !software ? 'f16' : 'f32'), limits));
}

/** Which kernels do most of the work, for the log. */
function kernelsInWords(caps: Capabilities, precision: Precision): string[] {
  if (precision === 'f32') return [];
  const shape = matrixShape(caps);
  if (!shape) return ['without matrix units'];
  const inAttention = kernelsOfAttention.filter((kernel) => attentionUnits(kernel, { headDim: 64, element: precision }, caps, shape));
  const where = inAttention.length === kernelsOfAttention.length ? 'products and attention' : 'products';
  return [`matrix units of ${shape.M} x ${shape.N} x ${shape.K} for ${where}`];
}

const kernelsOfAttention = ['forward', 'queries', 'keys'] as const;

export class WebgpuExecutor implements Executor {
  readonly name = 'webgpu';
  readonly description: string;
  readonly precision: Precision;
  readonly stepsAhead = 1;
  /** For benchmarks and tests inside this room. */
  readonly engine: Engine;
  #ended = false;

  constructor(engine: Engine) {
    this.engine = engine;
    const { description, software } = engine.runtime.device;
    this.precision = engine.precision;
    const device = `${description}${software ? ' (a program that acts as a GPU)' : ''}`;
    this.description = [device, engine.precision, ...kernelsInWords(engine.caps, engine.precision)].join(', ');
  }

  // --- memory ---

  tensor(values: Float32Array, shape: readonly number[]): Tensor {
    if (values.length !== sizeOf(shape)) throw new Error(`tensor: ${values.length} values for the shape [${shape.join(',')}].`);
    return this.engine.tensor(values, shape);
  }

  async read(tensor: Tensor): Promise<Float32Array> {
    const { region, size, element } = own('read', tensor);
    const values = await this.engine.runtime.read(region, size * bytesOf(element));
    return element === 'f16' ? new Float32Array(new Float16Array(values)) : new Float32Array(values);
  }

  scope<T>(body: () => T | Promise<T>): Promise<T> {
    return this.engine.scope(body);
  }

  within<T>(body: () => T): T {
    return this.engine.within(body);
  }

  memoryBytes(): number {
    return this.engine.runtime.held;
  }

  async dispose(): Promise<void> {
    if (this.#ended) return;
    this.#ended = true;
    this.engine.runtime.dispose();
  }

  // --- images ---

  augment(pictures: readonly PixelImage[], groups: readonly CropGroup[], normalised: Float32Array): Tensor[] {
    checkNormalised('augment', normalised);
    const made = groups.map(({ size, crops }) => this.engine.make([crops.length, 3, size, size]));
    makeCrops(this.engine.runtime, pictures, groups, normalised, made);
    return made;
  }

  normalisePictures(pictures: readonly PixelImage[], shifts: readonly (readonly [number, number])[], normalised: Float32Array): Tensor {
    checkNormalised('normalisePictures', normalised);
    const { width, height } = checkPictures(pictures, shifts);
    const made = this.engine.make([pictures.length * shifts.length, 3, height, width]);
    placePictures(this.engine.runtime, pictures, shifts, normalised, made);
    return made;
  }

  async upsample(guide: UpsampleGuide, maps: PatchMaps): Promise<Float32Array> {
    return new Float32Array(await upsampleMaps(this.engine.runtime, guide, maps, 'values'));
  }

  async upsampleMasks(guide: UpsampleGuide, maps: PatchMaps): Promise<Uint32Array> {
    return new Uint32Array(await upsampleMaps(this.engine.runtime, guide, maps, 'bits'));
  }

  // --- parameters ---

  createParameters(specs: readonly ParameterSpec[]): ParameterSet {
    return new GpuParameterSet(this.engine.runtime, specs, this.precision);
  }

  async readParameters(set: ParameterSet): Promise<Float32Array> {
    return ownSet('readParameters', set).values.read();
  }

  writeParameters(set: ParameterSet, values: Float32Array): void {
    if (values.length !== set.size) throw new Error(`writeParameters: ${values.length} values for ${set.size}.`);
    ownSet('writeParameters', set).write(values);
  }

  async readGradients(set: ParameterSet): Promise<Float32Array> {
    const mine = ownSet('readGradients', set);
    this.engine.settle(mine);
    return mine.gradients.read();
  }

  zeroGradients(set: ParameterSet): void {
    // Nothing is written: the next contribution overwrites (see GpuParameterSet.fresh).
    ownSet('zeroGradients', set).fresh.fill(1);
  }

  createAdamState(set: ParameterSet): AdamState {
    return new GpuAdamState(ownSet('createAdamState', set));
  }

  async readAdamState(state: AdamState): Promise<{ m: Float32Array; v: Float32Array }> {
    const { m, v } = ownState('readAdamState', state);
    return { m: await m.read(), v: await v.read() };
  }

  writeAdamState(state: AdamState, m: Float32Array, v: Float32Array): void {
    const mine = ownState('writeAdamState', state);
    if (m.length !== mine.size || v.length !== mine.size)
      throw new Error(`writeAdamState: ${m.length} and ${v.length} values for ${mine.size}.`);
    mine.m.write(m);
    mine.v.write(v);
  }

  // --- differentiation ---

  gradients(set: ParameterSet, forward: () => Tensor, lossScale = 1): Gradients {
    return { loss: this.engine.differentiate(ownSet('gradients', set), () => own('gradients', forward()), lossScale) };
  }

  recompute(inputs: readonly Tensor[], body: () => Tensor): Tensor {
    return this.engine.recompute(all('recompute', ...inputs), () => own('recompute', body()));
  }

  // --- differentiable operations ---

  patchEmbed(images: Tensor, weight: Tensor, bias: Tensor): Tensor {
    const [x, w, b] = all('patchEmbed', images, weight, bias);
    return tokens.patchEmbed(this.engine, x!, w!, b!);
  }

  maskPatches(x: Tensor, mask: Uint8Array, maskToken: Tensor): Tensor {
    return tokens.maskPatches(this.engine, own('maskPatches', x), mask, own('maskPatches', maskToken));
  }

  resizePositions(table: Tensor, resize: PositionResize): Tensor {
    return tokens.resizePositions(this.engine, own('resizePositions', table), resize);
  }

  assembleTokens(patches: Tensor, cls: Tensor, positions: Tensor, registers: Tensor | null): Tensor {
    const [a, b, c] = all('assembleTokens', patches, cls, positions);
    return tokens.assembleTokens(this.engine, a!, b!, c!, registers && own('assembleTokens', registers));
  }

  layerNorm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: number): Tensor {
    const [a, w, b] = all('layerNorm', x, weight, bias);
    return layers.layerNorm(this.engine, a!, w!, b!, epsilon);
  }

  linear(x: Tensor, weight: Tensor, bias: Tensor | null, activation: Activation = 'none'): Tensor {
    return layers.linear(this.engine, own('linear', x), own('linear', weight), bias && own('linear', bias), activation);
  }

  attention(qkv: Tensor, heads: number, groups?: readonly SampleGroup[]): Tensor {
    return layers.attention(this.engine, own('attention', qkv), heads, groups);
  }

  swiglu(x: Tensor): Tensor {
    return layers.swiglu(this.engine, own('swiglu', x));
  }

  addResidual(x: Tensor, branch: Tensor, gamma: Tensor, subset?: readonly GroupSubset[]): Tensor {
    const [a, b, g] = all('addResidual', x, branch, gamma);
    return layers.addResidual(this.engine, a!, b!, g!, subset);
  }

  linearResidual(x: Tensor, input: Tensor, weight: Tensor, bias: Tensor, gamma: Tensor, subset?: readonly GroupSubset[]): Tensor {
    const [a, i, w, b, g] = all('linearResidual', x, input, weight, bias, gamma);
    return layers.linearResidual(this.engine, a!, i!, w!, b!, g!, subset);
  }

  gatherSamples(x: Tensor, subset: readonly GroupSubset[]): Tensor {
    return gatherSamples(this.engine, own('gatherSamples', x), subset);
  }

  sliceTokens(x: Tensor, start: number, count: number): Tensor {
    return tokens.sliceTokens(this.engine, own('sliceTokens', x), start, count);
  }

  gatherRows(x: Tensor, rows: Int32Array): Tensor {
    return gatherRows(this.engine, own('gatherRows', x), rows);
  }

  concatRows(parts: readonly Tensor[]): Tensor {
    return tokens.concatRows(this.engine, all('concatRows', ...parts));
  }

  l2Normalize(x: Tensor, epsilon: number): Tensor {
    return losses.l2Normalize(this.engine, own('l2Normalize', x), epsilon);
  }

  prototypeLoss(inputs: PrototypeLossInputs): Tensor {
    const [rows, weightV, weightG] = all('prototypeLoss', inputs.rows, inputs.weightV, inputs.weightG);
    const made = 'shape' in inputs.targets ? own('prototypeLoss', inputs.targets) : ownTargets('prototypeLoss', inputs.targets);
    return losses.prototypeLoss(this.engine, { rows: rows!, weightV: weightV!, weightG: weightG!, targets: made }, inputs);
  }

  koleo(x: Tensor): Tensor {
    return losses.koleo(this.engine, own('koleo', x));
  }

  weightedSum(terms: readonly Tensor[], weights: readonly number[]): Tensor {
    return losses.weightedSum(this.engine, all('weightedSum', ...terms), weights);
  }

  // --- operations without gradient ---

  prototypeTargets(rows: Tensor, weightV: Tensor, weightG: Tensor, how: TargetKind): PrototypeTargets {
    const [x, v, g] = all('prototypeTargets', rows, weightV, weightG);
    const center = how.kind === 'softmax' && how.center ? own('prototypeTargets', how.center) : null;
    return targets.prototypeTargets(this.engine, x!, v!, g!, how, center);
  }

  gatherTargets(from: PrototypeTargets, rows: Int32Array): Tensor {
    return targets.gatherTargets(this.engine, ownTargets('gatherTargets', from), rows);
  }

  prototypeLogits(rows: Tensor, weightV: Tensor, weightG: Tensor): Tensor {
    const [x, v, g] = all('prototypeLogits', rows, weightV, weightG);
    return prototypeLogits(this.engine, x!, v!, g!);
  }

  meanRows(x: Tensor): Tensor {
    return targets.meanRows(this.engine, own('meanRows', x));
  }

  // --- updates ---

  clipGradients(set: ParameterSet, parts: Int32Array, maxNorm: number, gradientScale = 1): Tensor {
    return updates.clipGradients(this.engine, ownSet('clipGradients', set), parts, maxNorm, gradientScale);
  }

  adamW(set: ParameterSet, state: AdamState, options: AdamWOptions): void {
    const guard = options.guard && own('adamW', options.guard);
    updates.adamW(this.engine, ownSet('adamW', set), ownState('adamW', state), options, guard ?? null);
  }

  emaUpdate(teacher: ParameterSet, student: ParameterSet, momentum: number, guard?: Tensor): void {
    const numbers = guard ? own('emaUpdate', guard) : null;
    updates.emaUpdate(this.engine, ownSet('emaUpdate', teacher), ownSet('emaUpdate', student), momentum, numbers);
  }
}

function checkNormalised(operation: string, values: Float32Array): void {
  if (values.length !== 768) throw new Error(`${operation}: ${values.length} normalised values, [3,256] are wanted.`);
}

function all(operation: string, ...tensors: readonly Tensor[]): GpuTensor[] {
  return tensors.map((tensor) => own(operation, tensor));
}

function ownTargets(operation: string, made: PrototypeTargets): targets.GpuTargets {
  if (!(made instanceof targets.GpuTargets)) throw new Error(`${operation}: the targets are not of this executor.`);
  for (const tensor of made.tensors) own(operation, tensor);
  return made;
}

function ownSet(operation: string, set: ParameterSet): GpuParameterSet {
  if (!(set instanceof GpuParameterSet)) throw new Error(`${operation}: the parameters are not of this executor.`);
  return set;
}

function ownState(operation: string, state: AdamState): GpuAdamState {
  if (!(state instanceof GpuAdamState)) throw new Error(`${operation}: the state is not of this executor.`);
  return state;
}
