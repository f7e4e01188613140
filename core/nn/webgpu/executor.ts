/**
 * The WebGPU executor's face: every operation of ops.ts checks whose tensors it was given and hands over to the file that
 * does the work. No arithmetic here.
 */
import type {
  Activation,
  AdamState,
  AdamWOptions,
  BatchSubset,
  Executor,
  Gradients,
  ParameterSet,
  ParameterSpec,
  PositionResize,
  PrototypeLossInputs,
  Tensor,
} from '../ops.ts';
import type { CropGroup, PixelImage } from '../crops.ts';
import { makeCrops } from './augment.ts';
import { Engine, own } from './engine.ts';
import * as layers from './layers.ts';
import * as losses from './losses.ts';
import { Runtime, type RuntimeOptions } from './runtime.ts';
import { GpuAdamState, GpuParameterSet, type GpuTensor, sizeOf } from './tensor.ts';
import * as tokens from './tokens.ts';
import * as updates from './updates.ts';

/**
 * Starts the WebGPU executor on the fastest adapter of the machine, be it a program that acts as one. Results repeat bit
 * for bit on one adapter and driver; others differ in rounding. Its operations throw AppError engine-out-of-memory and
 * engine-died when the device says so, which may be some calls later.
 * @throws Error when there is no adapter, with the reason
 */
export async function createWebgpuExecutor(options: RuntimeOptions = {}): Promise<WebgpuExecutor> {
  return new WebgpuExecutor(new Engine(await Runtime.open(options)));
}

export class WebgpuExecutor implements Executor {
  readonly name = 'webgpu';
  readonly description: string;
  /** For benchmarks and tests inside this room. */
  readonly engine: Engine;
  #ended = false;

  constructor(engine: Engine) {
    this.engine = engine;
    const { description, software } = engine.runtime.device;
    this.description = `${description}${software ? ' (a program that acts as a GPU)' : ''}`;
  }

  // --- memory ---

  tensor(values: Float32Array, shape: readonly number[]): Tensor {
    if (values.length !== sizeOf(shape)) throw new Error(`tensor: ${values.length} values for the shape [${shape.join(',')}].`);
    return this.engine.tensor(values, shape);
  }

  async read(tensor: Tensor): Promise<Float32Array> {
    const { region, size } = own('read', tensor);
    return new Float32Array(await this.engine.runtime.read(region, size * 4));
  }

  scope<T>(body: () => T | Promise<T>): Promise<T> {
    return this.engine.scope(body);
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
    if (normalised.length !== 768) throw new Error(`augment: ${normalised.length} normalised values, [3,256] are wanted.`);
    const made = groups.map(({ size, crops }) => this.engine.make([crops.length, 3, size, size]));
    makeCrops(this.engine.runtime, pictures, groups, normalised, made);
    return made;
  }

  // --- parameters ---

  createParameters(specs: readonly ParameterSpec[]): ParameterSet {
    return new GpuParameterSet(this.engine.runtime, specs);
  }

  async readParameters(set: ParameterSet): Promise<Float32Array> {
    return ownSet('readParameters', set).values.read();
  }

  writeParameters(set: ParameterSet, values: Float32Array): void {
    if (values.length !== set.size) throw new Error(`writeParameters: ${values.length} values for ${set.size}.`);
    ownSet('writeParameters', set).values.write(values);
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

  attention(qkv: Tensor, heads: number): Tensor {
    return layers.attention(this.engine, own('attention', qkv), heads);
  }

  swiglu(x: Tensor): Tensor {
    return layers.swiglu(this.engine, own('swiglu', x));
  }

  addResidual(x: Tensor, branch: Tensor, gamma: Tensor, subset?: BatchSubset): Tensor {
    const [a, b, g] = all('addResidual', x, branch, gamma);
    return layers.addResidual(this.engine, a!, b!, g!, subset);
  }

  gatherSamples(x: Tensor, rows: Int32Array): Tensor {
    return tokens.gatherSamples(this.engine, own('gatherSamples', x), rows);
  }

  sliceTokens(x: Tensor, start: number, count: number): Tensor {
    return tokens.sliceTokens(this.engine, own('sliceTokens', x), start, count);
  }

  gatherRows(x: Tensor, rows: Int32Array): Tensor {
    return tokens.gatherRows(this.engine, own('gatherRows', x), rows);
  }

  concatRows(parts: readonly Tensor[]): Tensor {
    return tokens.concatRows(this.engine, all('concatRows', ...parts));
  }

  l2Normalize(x: Tensor, epsilon: number): Tensor {
    return losses.l2Normalize(this.engine, own('l2Normalize', x), epsilon);
  }

  prototypeLoss(inputs: PrototypeLossInputs): Tensor {
    const [rows, weightV, weightG, targets] = all('prototypeLoss', inputs.rows, inputs.weightV, inputs.weightG, inputs.targets);
    return losses.prototypeLoss(this.engine, { rows: rows!, weightV: weightV!, weightG: weightG!, targets: targets! }, inputs);
  }

  koleo(x: Tensor): Tensor {
    return losses.koleo(this.engine, own('koleo', x));
  }

  weightedSum(terms: readonly Tensor[], weights: readonly number[]): Tensor {
    return losses.weightedSum(this.engine, all('weightedSum', ...terms), weights);
  }

  // --- operations without gradient ---

  prototypeLogits(rows: Tensor, weightV: Tensor, weightG: Tensor): Tensor {
    const [x, v, g] = all('prototypeLogits', rows, weightV, weightG);
    return losses.prototypeLogits(this.engine, x!, v!, g!);
  }

  sinkhornKnopp(logits: Tensor, temperature: number, iterations: number): Tensor {
    return losses.sinkhornKnopp(this.engine, own('sinkhornKnopp', logits), temperature, iterations);
  }

  centeredSoftmax(logits: Tensor, center: Tensor, temperature: number): Tensor {
    return losses.centeredSoftmax(this.engine, own('centeredSoftmax', logits), own('centeredSoftmax', center), temperature);
  }

  meanRows(x: Tensor): Tensor {
    return losses.meanRows(this.engine, own('meanRows', x));
  }

  // --- updates ---

  clipGradients(set: ParameterSet, parts: Int32Array, maxNorm: number, gradientScale = 1): Tensor {
    return updates.clipGradients(this.engine, ownSet('clipGradients', set), parts, maxNorm, gradientScale);
  }

  adamW(set: ParameterSet, state: AdamState, options: AdamWOptions): void {
    updates.adamW(this.engine, ownSet('adamW', set), ownState('adamW', state), options);
  }

  emaUpdate(teacher: ParameterSet, student: ParameterSet, momentum: number): void {
    updates.emaUpdate(this.engine, ownSet('emaUpdate', teacher), ownSet('emaUpdate', student), momentum);
  }
}

function all(operation: string, ...tensors: readonly Tensor[]): GpuTensor[] {
  return tensors.map((tensor) => own(operation, tensor));
}

function ownSet(operation: string, set: ParameterSet): GpuParameterSet {
  if (!(set instanceof GpuParameterSet)) throw new Error(`${operation}: the parameters are not of this executor.`);
  return set;
}

function ownState(operation: string, state: AdamState): GpuAdamState {
  if (!(state instanceof GpuAdamState)) throw new Error(`${operation}: the state is not of this executor.`);
  return state;
}
