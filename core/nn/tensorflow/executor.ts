/**
 * The TensorFlow.js executor's face: every operation of ops.ts checks whose tensors it was given and hands over to the
 * file that does the work. No arithmetic here.
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
  PrototypeLossInputs,
  PrototypeTargets,
  SampleGroup,
  TargetKind,
  Tensor,
} from '../ops.ts';
import { startBackend, type BackendName } from './backend.ts';
import { Engine, type PrototypeLimits, type TfTensor } from './engine.ts';
import { attention } from './attention.ts';
import * as layers from './layers.ts';
import * as losses from './losses.ts';
import { prototypeLogits } from './prototypes.ts';
import { readAll, TfAdamState, TfParameterSet } from './parameters.ts';
import * as targets from './targets.ts';
import * as tokens from './tokens.ts';
import * as updates from './updates.ts';
import { sizeOf } from '../shapes.ts';

export interface TensorflowOptions {
  /** `auto`: CUDA where it is installed, else the native library on the CPU, else WebAssembly. */
  readonly backend?: 'auto' | BackendName;
  /** For tests of the tiled way: how many logits may exist. */
  readonly limits?: PrototypeLimits;
}

/**
 * Starts the TensorFlow.js executor. TensorFlow.js has one state a process: several executors in one process share its
 * backend, and `memoryBytes` counts what all of them hold.
 * @throws Error when the backend that is named cannot be started
 */
export async function createTensorflowExecutor({ backend = 'auto', limits }: TensorflowOptions = {}): Promise<TensorflowExecutor> {
  return new TensorflowExecutor(new Engine(await startBackend(backend), limits));
}

export class TensorflowExecutor implements Executor {
  readonly name = 'tensorflow';
  readonly description: string;
  readonly precision = 'f32';
  readonly stepsAhead = 0;
  /** For tests inside this room. */
  readonly engine: Engine;

  constructor(engine: Engine) {
    this.engine = engine;
    this.description = engine.backend.description;
  }

  /** Which TensorFlow.js runs underneath. */
  get backend(): BackendName {
    return this.engine.backend.name;
  }

  // --- memory ---

  tensor(values: Float32Array, shape: readonly number[]): Tensor {
    if (values.length !== sizeOf(shape)) throw new Error(`tensor: ${values.length} values for the shape [${shape.join(',')}].`);
    // The native library reads the array when it needs it: it gets one of its own.
    return this.engine.make(() => this.engine.tf.tensor(values.slice(), [...shape], 'float32'));
  }

  async read(tensor: Tensor): Promise<Float32Array> {
    const own = this.engine.own('read', tensor);
    return readAll([own], [own.size]);
  }

  scope<T>(body: () => T | Promise<T>): Promise<T> {
    return this.engine.scope(body);
  }

  within<T>(body: () => T): T {
    return this.engine.within(body);
  }

  memoryBytes(): number {
    return this.engine.tf.memory().numBytes;
  }

  dispose(): Promise<void> {
    this.engine.dispose();
    return Promise.resolve();
  }

  // --- parameters ---

  createParameters(specs: readonly ParameterSpec[]): ParameterSet {
    return this.engine.adopt(new TfParameterSet(this.engine.tf, specs));
  }

  readParameters(set: ParameterSet): Promise<Float32Array> {
    const mine = ownSet('readParameters', set);
    return readAll(mine.variables, sizes(mine));
  }

  writeParameters(set: ParameterSet, values: Float32Array): void {
    if (values.length !== set.size) throw new Error(`writeParameters: ${values.length} values for ${set.size}.`);
    ownSet('writeParameters', set).write(values);
  }

  readGradients(set: ParameterSet): Promise<Float32Array> {
    const mine = ownSet('readGradients', set);
    return readAll(mine.gradients, sizes(mine));
  }

  zeroGradients(set: ParameterSet): void {
    ownSet('zeroGradients', set).zeroGradients();
  }

  createAdamState(set: ParameterSet): AdamState {
    return this.engine.adopt(new TfAdamState(this.engine.tf, ownSet('createAdamState', set)));
  }

  async readAdamState(state: AdamState): Promise<{ m: Float32Array; v: Float32Array }> {
    const mine = ownState('readAdamState', state);
    const each = mine.m.map(({ size }) => size);
    const [m, v] = await Promise.all([readAll(mine.m, each), readAll(mine.v, each)]);
    return { m, v };
  }

  writeAdamState(state: AdamState, m: Float32Array, v: Float32Array): void {
    const mine = ownState('writeAdamState', state);
    if (m.length !== mine.size || v.length !== mine.size)
      throw new Error(`writeAdamState: ${m.length} and ${v.length} values for ${mine.size}.`);
    mine.write(m, v);
  }

  // --- differentiation ---

  gradients(set: ParameterSet, forward: () => Tensor, lossScale = 1): Gradients {
    const loss = this.engine.differentiate(ownSet('gradients', set), () => this.engine.own('gradients', forward()), lossScale);
    return { loss };
  }

  recompute(_inputs: readonly Tensor[], body: () => Tensor): Tensor {
    return body();
  }

  // --- differentiable operations ---

  patchEmbed(images: Tensor, weight: Tensor, bias: Tensor): Tensor {
    const [x, w, b] = this.#all('patchEmbed', images, weight, bias);
    return tokens.patchEmbed(this.engine, x!, w!, b!);
  }

  maskPatches(x: Tensor, mask: Uint8Array, maskToken: Tensor): Tensor {
    return tokens.maskPatches(this.engine, this.engine.own('maskPatches', x), mask, this.engine.own('maskPatches', maskToken));
  }

  resizePositions(table: Tensor, resize: PositionResize): Tensor {
    return tokens.resizePositions(this.engine, this.engine.own('resizePositions', table), resize);
  }

  assembleTokens(patches: Tensor, cls: Tensor, positions: Tensor, registers: Tensor | null): Tensor {
    const [a, b, c] = this.#all('assembleTokens', patches, cls, positions);
    return tokens.assembleTokens(this.engine, a!, b!, c!, registers && this.engine.own('assembleTokens', registers));
  }

  layerNorm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: number): Tensor {
    const [a, w, b] = this.#all('layerNorm', x, weight, bias);
    return layers.layerNorm(this.engine, a!, w!, b!, epsilon);
  }

  linear(x: Tensor, weight: Tensor, bias: Tensor | null, activation: Activation = 'none'): Tensor {
    return layers.linear(
      this.engine,
      this.engine.own('linear', x),
      this.engine.own('linear', weight),
      bias && this.engine.own('linear', bias),
      activation,
    );
  }

  attention(qkv: Tensor, heads: number, groups?: readonly SampleGroup[]): Tensor {
    return attention(this.engine, this.engine.own('attention', qkv), heads, groups);
  }

  swiglu(x: Tensor): Tensor {
    return layers.swiglu(this.engine, this.engine.own('swiglu', x));
  }

  addResidual(x: Tensor, branch: Tensor, gamma: Tensor, subset?: readonly GroupSubset[]): Tensor {
    const [a, b, g] = this.#all('addResidual', x, branch, gamma);
    return layers.addResidual(this.engine, a!, b!, g!, subset);
  }

  linearResidual(x: Tensor, input: Tensor, weight: Tensor, bias: Tensor, gamma: Tensor, subset?: readonly GroupSubset[]): Tensor {
    return this.addResidual(x, this.linear(input, weight, bias), gamma, subset);
  }

  gatherSamples(x: Tensor, subset: readonly GroupSubset[]): Tensor {
    return tokens.gatherSamples(this.engine, this.engine.own('gatherSamples', x), subset);
  }

  sliceTokens(x: Tensor, start: number, count: number): Tensor {
    return tokens.sliceTokens(this.engine, this.engine.own('sliceTokens', x), start, count);
  }

  gatherRows(x: Tensor, rows: Int32Array): Tensor {
    return tokens.gatherRows(this.engine, this.engine.own('gatherRows', x), rows);
  }

  concatRows(parts: readonly Tensor[]): Tensor {
    return tokens.concatRows(this.engine, this.#all('concatRows', ...parts));
  }

  l2Normalize(x: Tensor, epsilon: number): Tensor {
    return losses.l2Normalize(this.engine, this.engine.own('l2Normalize', x), epsilon);
  }

  prototypeLoss(inputs: PrototypeLossInputs): Tensor {
    const [rows, weightV, weightG] = this.#all('prototypeLoss', inputs.rows, inputs.weightV, inputs.weightG);
    const made =
      'shape' in inputs.targets ? this.engine.own('prototypeLoss', inputs.targets) : this.#ownTargets('prototypeLoss', inputs.targets);
    return losses.prototypeLoss(this.engine, { rows: rows!, weightV: weightV!, weightG: weightG!, targets: made }, inputs);
  }

  koleo(x: Tensor): Tensor {
    return losses.koleo(this.engine, this.engine.own('koleo', x));
  }

  weightedSum(terms: readonly Tensor[], weights: readonly number[]): Tensor {
    return losses.weightedSum(this.engine, this.#all('weightedSum', ...terms), weights);
  }

  // --- operations without gradient ---

  prototypeTargets(rows: Tensor, weightV: Tensor, weightG: Tensor, how: TargetKind): PrototypeTargets {
    const [x, v, g] = this.#all('prototypeTargets', rows, weightV, weightG);
    const center = how.kind === 'softmax' && how.center ? this.engine.own('prototypeTargets', how.center) : null;
    return targets.prototypeTargets(this.engine, x!, v!, g!, how, center);
  }

  gatherTargets(from: PrototypeTargets, rows: Int32Array): Tensor {
    return targets.gatherTargets(this.engine, this.#ownTargets('gatherTargets', from), rows);
  }

  prototypeLogits(rows: Tensor, weightV: Tensor, weightG: Tensor): Tensor {
    const [x, v, g] = this.#all('prototypeLogits', rows, weightV, weightG);
    return prototypeLogits(this.engine, x!, v!, g!);
  }

  meanRows(x: Tensor): Tensor {
    return targets.meanRows(this.engine, this.engine.own('meanRows', x));
  }

  // --- updates ---

  clipGradients(set: ParameterSet, parts: Int32Array, maxNorm: number, gradientScale = 1): Tensor {
    return updates.clipGradients(this.engine, ownSet('clipGradients', set), parts, maxNorm, gradientScale);
  }

  adamW(set: ParameterSet, state: AdamState, options: AdamWOptions): void {
    if (options.guard && !this.#finite('adamW', options.guard)) return;
    updates.adamW(this.engine, ownSet('adamW', set), ownState('adamW', state), options);
  }

  emaUpdate(teacher: ParameterSet, student: ParameterSet, momentum: number, guard?: Tensor): void {
    if (guard && !this.#finite('emaUpdate', guard)) return;
    updates.emaUpdate(this.engine, ownSet('emaUpdate', teacher), ownSet('emaUpdate', student), momentum);
  }

  #ownTargets(operation: string, made: PrototypeTargets): targets.TfTargets {
    if (!(made instanceof targets.TfTargets)) throw new Error(`${operation}: the targets are not of this executor.`);
    for (const tensor of made.tensors) this.engine.own(operation, tensor);
    return made;
  }

  #finite(operation: string, tensor: Tensor): boolean {
    return this.engine.own(operation, tensor).dataSync().every(Number.isFinite);
  }

  #all(operation: string, ...tensors: readonly Tensor[]): TfTensor[] {
    return tensors.map((tensor) => this.engine.own(operation, tensor));
  }
}

function sizes(set: TfParameterSet): number[] {
  return set.specs.map(({ size }) => size);
}

function ownSet(operation: string, set: ParameterSet): TfParameterSet {
  if (!(set instanceof TfParameterSet)) throw new Error(`${operation}: the parameters are not of this executor.`);
  return set;
}

function ownState(operation: string, state: AdamState): TfAdamState {
  if (!(state instanceof TfAdamState)) throw new Error(`${operation}: the state is not of this executor.`);
  return state;
}
