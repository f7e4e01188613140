/**
 * The CPU executor's face: every operation of ops.ts checks whose tensors it was given and hands over to the file that
 * does the work. No arithmetic here.
 */
import { hasRelaxedSimd, loadKernels, type SimdKind } from './pool.ts';
import { availableParallelism } from 'node:os';
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
import { Engine, own, type PrototypeLimits } from './engine.ts';
import * as layers from './layers.ts';
import * as losses from './losses.ts';
import { prototypeLogits } from './prototypes.ts';
import * as targets from './targets.ts';
import { CpuAdamState, CpuParameterSet, type CpuTensor } from './tensor.ts';
import * as tokens from './tokens.ts';
import * as updates from './updates.ts';
import { sizeOf } from '../shapes.ts';

export interface CpuOptions {
  /** This thread included; default: as many as the machine runs at once. */
  readonly threads?: number;
  /** `auto`: the fastest here. */
  readonly simd?: 'auto' | SimdKind;
  /** For tests of the tiled way: how many logits may exist. */
  readonly limits?: PrototypeLimits;
}

/**
 * Starts the CPU executor: WebAssembly SIMD kernels on this thread and on worker threads over one shared memory.
 * Results are the same bit for bit from run to run and for any number of threads; with `plain` SIMD
 * products round twice, so its results differ in the last bits.
 * @throws Error when the kernels are not built (`node build/wasm.mjs`), or SIMD is asked for that the runtime lacks
 */
export async function createCpuExecutor(options: CpuOptions = {}): Promise<CpuExecutor> {
  const threads = options.threads ?? Math.min(availableParallelism(), 64);
  if (!Number.isInteger(threads) || threads < 1 || threads > 64)
    throw new Error(`createCpuExecutor: threads must be 1 to 64, not ${threads}.`);
  const wanted = options.simd ?? 'auto';
  if ((wanted === 'relaxed' || wanted === 'wide') && !hasRelaxedSimd())
    throw new Error('createCpuExecutor: this runtime has no relaxed SIMD.');
  return new CpuExecutor(await Engine.start(threads, await loadKernels(wanted), options.limits));
}

const simdNames: Record<SimdKind, string> = { wide: 'SIMD of eight lanes', relaxed: 'relaxed SIMD', plain: 'SIMD' };

export class CpuExecutor implements Executor {
  readonly name = 'cpu';
  readonly description: string;
  readonly precision = 'f32';
  readonly stepsAhead = 0;
  /** For benchmarks and tests inside this room. */
  readonly engine: Engine;
  #ended = false;

  constructor(engine: Engine) {
    this.engine = engine;
    const { threads, simd } = engine.pool;
    this.description = `${threads} ${threads === 1 ? 'thread' : 'threads'}, WebAssembly with ${simdNames[simd]}`;
  }

  // --- memory ---

  tensor(values: Float32Array, shape: readonly number[]): Tensor {
    if (values.length !== sizeOf(shape)) throw new Error(`tensor: ${values.length} values for the shape [${shape.join(',')}].`);
    const tensor = this.engine.make(shape);
    this.engine.heap.f32.set(values, tensor.address / 4);
    return tensor;
  }

  read(tensor: Tensor): Promise<Float32Array> {
    return settled(() => {
      const { address, size } = own('read', tensor);
      return this.#copyOut(address, size);
    });
  }

  #copyOut(address: number, size: number): Float32Array {
    // Out of shared memory: what is read must not change later.
    const values = new Float32Array(size);
    values.set(this.engine.heap.f32.subarray(address / 4, address / 4 + size));
    return values;
  }

  scope<T>(body: () => T | Promise<T>): Promise<T> {
    return this.engine.scope(body);
  }

  within<T>(body: () => T): T {
    return this.engine.within(body);
  }

  memoryBytes(): number {
    return this.engine.held;
  }

  async dispose(): Promise<void> {
    if (this.#ended) return;
    this.#ended = true;
    await this.engine.dispose();
  }

  // --- parameters ---

  createParameters(specs: readonly ParameterSpec[]): ParameterSet {
    return this.engine.createParameters(specs);
  }

  readParameters(set: ParameterSet): Promise<Float32Array> {
    return settled(() => this.#copyOut(ownSet('readParameters', set).values, set.size));
  }

  writeParameters(set: ParameterSet, values: Float32Array): void {
    if (values.length !== set.size) throw new Error(`writeParameters: ${values.length} values for ${set.size}.`);
    this.engine.heap.f32.set(values, ownSet('writeParameters', set).values / 4);
  }

  readGradients(set: ParameterSet): Promise<Float32Array> {
    return settled(() => {
      const mine = ownSet('readGradients', set);
      this.engine.settle(mine);
      return this.#copyOut(mine.gradients, mine.size);
    });
  }

  zeroGradients(set: ParameterSet): void {
    // Nothing is written: the next contribution overwrites (see CpuParameterSet.fresh).
    ownSet('zeroGradients', set).fresh.fill(1);
  }

  createAdamState(set: ParameterSet): AdamState {
    return this.engine.createAdamState(set.size);
  }

  readAdamState(state: AdamState): Promise<{ m: Float32Array; v: Float32Array }> {
    return settled(() => {
      const { m, v, size } = ownState('readAdamState', state);
      return { m: this.#copyOut(m, size), v: this.#copyOut(v, size) };
    });
  }

  writeAdamState(state: AdamState, m: Float32Array, v: Float32Array): void {
    const mine = ownState('writeAdamState', state);
    if (m.length !== mine.size || v.length !== mine.size)
      throw new Error(`writeAdamState: ${m.length} and ${v.length} values for ${mine.size}.`);
    this.engine.heap.f32.set(m, mine.m / 4);
    this.engine.heap.f32.set(v, mine.v / 4);
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
    return this.addResidual(x, this.linear(input, weight, bias), gamma, subset);
  }

  gatherSamples(x: Tensor, subset: readonly GroupSubset[]): Tensor {
    return tokens.gatherSamples(this.engine, own('gatherSamples', x), subset);
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
    if (options.guard && !this.#finite('adamW', options.guard)) return;
    updates.adamW(this.engine, ownSet('adamW', set), ownState('adamW', state), options);
  }

  emaUpdate(teacher: ParameterSet, student: ParameterSet, momentum: number, guard?: Tensor): void {
    if (guard && !this.#finite('emaUpdate', guard)) return;
    updates.emaUpdate(this.engine, ownSet('emaUpdate', teacher), ownSet('emaUpdate', student), momentum);
  }

  #finite(operation: string, tensor: Tensor): boolean {
    const { address, size } = own(operation, tensor);
    return this.engine.heap.f32.subarray(address / 4, address / 4 + size).every(Number.isFinite);
  }
}

function all(operation: string, ...tensors: readonly Tensor[]): CpuTensor[] {
  return tensors.map((tensor) => own(operation, tensor));
}

function ownTargets(operation: string, made: PrototypeTargets): targets.CpuTargets {
  if (!(made instanceof targets.CpuTargets)) throw new Error(`${operation}: the targets are not of this executor.`);
  for (const tensor of made.tensors) own(operation, tensor);
  return made;
}

function ownSet(operation: string, set: ParameterSet): CpuParameterSet {
  if (!(set instanceof CpuParameterSet)) throw new Error(`${operation}: the parameters are not of this executor.`);
  return set;
}

function ownState(operation: string, state: AdamState): CpuAdamState {
  if (!(state instanceof CpuAdamState)) throw new Error(`${operation}: the state is not of this executor.`);
  return state;
}

/** The result as a promise; what is thrown becomes its rejection. */
async function settled<T>(work: () => T): Promise<T> {
  return work();
}
