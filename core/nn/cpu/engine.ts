/**
 * Memory, threads and tape in one: what every operation of the CPU executor works with. An operation allocates its
 * output, runs kernels, and inside `gradients` records how its gradient flows back. No operation is defined here.
 */
import { Arena, Heap, type Mark } from './memory.ts';
import { Pool, type Kernels } from './pool.ts';
import { CpuAdamState, CpuParameterSet, CpuTensor } from './tensor.ts';
import { sizeOf, survivors } from '../shapes.ts';
import { Tape, type Backward } from '../tape.ts';

/** Where a gradient goes: stored there, or added to what is there. */
export interface GradientTarget {
  readonly address: number;
  readonly accumulate: number;
}

/** How much of logits [rows, prototypes] may exist at once, in floats. */
export interface PrototypeLimits {
  /** Most of them that are kept, a student's from forward to backward, a teacher's targets for the step. */
  readonly kept: number;
  /** Beyond, they are made again tile by tile. */
  readonly tile: number;
}

/** 256 MiB and 32 MiB. */
export const prototypeLimits: PrototypeLimits = { kept: 64 * 2 ** 20, tile: 8 * 2 ** 20 };

interface Scope {
  readonly mark: Mark;
  readonly tensors: CpuTensor[];
}

export class Engine {
  readonly heap: Heap;
  readonly arena: Arena;
  readonly pool: Pool;
  readonly limits: PrototypeLimits;
  readonly #persistent = new Set<CpuParameterSet | CpuAdamState>();
  #scopes: Scope[];
  /** Gradients by address. */
  readonly #tape = new Tape<CpuTensor, number>({
    giveBack: (address, { size }) => this.giveBack(address, size),
    forwards: (body) => this.#within(body),
    backwards: (inputs, body) => this.#withinBackwards(inputs, body),
  });

  private constructor(heap: Heap, pool: Pool, limits: PrototypeLimits) {
    this.heap = heap;
    this.pool = pool;
    this.limits = limits;
    this.arena = new Arena(heap);
    this.#scopes = [{ mark: this.arena.mark(), tensors: [] }];
  }

  static async start(threads: number, kernels: Kernels, limits: PrototypeLimits = prototypeLimits): Promise<Engine> {
    const heap = new Heap();
    return new Engine(heap, await Pool.start(heap, threads, kernels), limits);
  }

  // --- memory ---

  /** A new tensor with undefined contents. */
  make(shape: readonly number[]): CpuTensor {
    const tensor = new CpuTensor(shape, this.arena.allocate(sizeOf(shape) * 4));
    this.#scopes.at(-1)!.tensors.push(tensor);
    return tensor;
  }

  /** Room for `count` floats (or i32) until the enclosing scope ends. */
  room(count: number): number {
    return this.arena.allocate(count * 4);
  }

  /** Gives `room(count)` back early. */
  giveBack(address: number, count: number): void {
    this.arena.recycle(address, count * 4);
  }

  ints(values: ArrayLike<number>): number {
    const address = this.arena.allocate(values.length * 4);
    this.heap.i32.set(values, address / 4);
    return address;
  }

  floats(values: ArrayLike<number>): number {
    const address = this.arena.allocate(values.length * 4);
    this.heap.f32.set(values, address / 4);
    return address;
  }

  bytes(values: Uint8Array): number {
    const address = this.arena.allocate(values.length);
    this.heap.u8.set(values, address);
    return address;
  }

  /** @see Executor.scope */
  async scope<T>(body: () => T | Promise<T>): Promise<T> {
    const scope: Scope = { mark: this.arena.mark(), tensors: [] };
    this.#scopes.push(scope);
    let kept: CpuTensor[] = [];
    try {
      const result = await body();
      kept = survivors(result, isTensor).filter((tensor) => scope.tensors.includes(tensor));
      return result;
    } finally {
      this.#endScope(scope, kept);
    }
  }

  /** @see Executor.within */
  within<T>(body: () => T): T {
    if (this.#tape.recording) throw new Error('within: not inside gradients.');
    return this.#within(body);
  }

  #within<T>(body: () => T): T {
    const scope: Scope = { mark: this.arena.mark(), tensors: [] };
    this.#scopes.push(scope);
    let kept: CpuTensor[] = [];
    try {
      const result = body();
      kept = survivors(result, isTensor).filter((tensor) => scope.tensors.includes(tensor));
      return result;
    } finally {
      this.#endScope(scope, kept);
    }
  }

  #endScope(scope: Scope, kept: readonly CpuTensor[]): void {
    if (this.#scopes.at(-1) !== scope)
      throw new Error('scope: scopes must end in the order they began in; await each before the next begins.');
    this.#scopes.pop();
    const moved = this.arena.compact(scope.mark, kept);
    for (const tensor of scope.tensors) tensor.address = 0;
    kept.forEach((tensor, i) => (tensor.address = moved[i]!));
    this.#scopes.at(-1)!.tensors.push(...kept);
  }

  createParameters(specs: ConstructorParameters<typeof CpuParameterSet>[1]): CpuParameterSet {
    const set = new CpuParameterSet(this.heap, specs);
    this.#persistent.add(set);
    return set;
  }

  createAdamState(size: number): CpuAdamState {
    const state = new CpuAdamState(this.heap, size);
    this.#persistent.add(state);
    return state;
  }

  /** Bytes held by tensors, parameters and state; scratch and reserve apart. */
  get held(): number {
    return this.heap.used - this.arena.reservedHeapBytes - this.pool.scratchHeld + this.arena.used;
  }

  // --- tape ---

  /** @see Tape.wants */
  wants(tensor: CpuTensor | null): boolean {
    return this.#tape.wants(tensor);
  }

  /** @see Tape.record */
  record(output: CpuTensor, inputs: readonly (CpuTensor | null)[], backward: Backward<number>): void {
    this.#tape.record(output, inputs, backward);
  }

  /** Where the gradient of `tensor` goes, or null when none is wanted. Each call is answered by exactly one contribution. */
  gradient(tensor: CpuTensor | null): GradientTarget | null {
    if (!tensor || !this.wants(tensor)) return null;
    const set = tensor.set;
    if (set) {
      const accumulate = set.fresh[tensor.index] ? 0 : 1;
      set.fresh[tensor.index] = 0;
      return { address: set.gradients + set.specs[tensor.index]!.offset * 4, accumulate };
    }
    if (tensor.gradient !== null) return { address: tensor.gradient, accumulate: 1 };
    tensor.gradient = this.room(tensor.size);
    return { address: tensor.gradient, accumulate: 0 };
  }

  /** Makes the memory at dy the gradient of `tensor` if none has arrived, else adds it. Returns true when taken over. */
  passOn(tensor: CpuTensor, dy: number): boolean {
    if (!this.wants(tensor)) return false;
    if (!tensor.set && tensor.gradient === null) {
      tensor.gradient = dy;
      return true;
    }
    const target = this.gradient(tensor)!;
    this.copy(target.address, dy, tensor.size, target.accumulate);
    return false;
  }

  /** @see Executor.gradients */
  differentiate(set: CpuParameterSet, forward: () => CpuTensor, seed: number): CpuTensor {
    const loss = this.#tape.differentiate(set, forward, () => this.floats([seed]));
    this.settle(set);
    return loss;
  }

  /** @see Executor.recompute */
  recompute(inputs: readonly CpuTensor[], body: () => CpuTensor): CpuTensor {
    return this.#tape.recompute(inputs, body);
  }

  #withinBackwards(inputs: readonly CpuTensor[], body: () => void): void {
    const scope: Scope = { mark: this.arena.mark(), tensors: [] };
    this.#scopes.push(scope);
    try {
      body();
    } finally {
      this.#scopes.pop();
      const inside = (address: number | null): address is number => address !== null && this.arena.follows(scope.mark, address);
      const kept = inputs.filter(({ gradient }) => inside(gradient));
      const moved = this.arena.compact(
        scope.mark,
        kept.map(({ gradient, bytes }) => ({ address: gradient!, bytes })),
      );
      for (const tensor of scope.tensors) tensor.address = 0;
      kept.forEach((tensor, i) => (tensor.gradient = moved[i]!));
    }
  }

  /** Writes the zeros that `fresh` stands for. */
  settle(set: CpuParameterSet): void {
    set.specs.forEach(({ offset, size }, i) => {
      if (!set.fresh[i]) return;
      this.fill(set.gradients + offset * 4, 0, size);
      set.fresh[i] = 0;
    });
  }

  // --- kernels that many operations use ---

  fill(address: number, value: number, count: number): void {
    this.pool.run('kFill', Math.ceil(count / chunkFloats), [address, value, count, chunkFloats]);
  }

  copy(to: number, from: number, count: number, accumulate = 0): void {
    this.pool.run('kCopy', Math.ceil(count / chunkFloats), [to, from, count, chunkFloats, accumulate]);
  }

  /** Sums rows of `columns` floats, `stride` bytes apart: to (+)= scale * sum. */
  sumRows(to: number, from: number, stride: number, rows: number, columns: number, accumulate: number, scale = 1): void {
    // Whole cache lines; few columns stay together.
    const per = Math.max(16, Math.ceil(chunkFloats / Math.max(rows, 1) / 16) * 16);
    this.pool.run('kSumRows', Math.ceil(columns / per), [to, from, stride, rows, columns, accumulate, scale, per]);
  }

  async dispose(): Promise<void> {
    await this.pool.dispose();
    for (const item of this.#persistent) item.dispose();
    this.arena.dispose();
  }
}

/** Floats that one chunk of element-wise work covers. Fixed: sums by chunk must not depend on the number of threads. */
export const chunkFloats = 16384;

/** Rows of n floats to a chunk. */
export function rowsPerChunk(n: number): number {
  return Math.max(1, Math.floor(chunkFloats / Math.max(n, 1)));
}

const isTensor = (value: unknown): value is CpuTensor => value instanceof CpuTensor;

/** The tensors as the executor's own, alive. @throws Error naming the operation */
export function own(operation: string, tensor: unknown): CpuTensor {
  if (!(tensor instanceof CpuTensor)) throw new Error(`${operation}: the tensor is not one of this executor.`);
  if (!tensor.address) throw new Error(`${operation}: the tensor [${tensor.shape.join(',')}] was freed when its scope ended.`);
  return tensor;
}
