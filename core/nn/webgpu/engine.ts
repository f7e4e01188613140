/**
 * Memory, commands and tape in one: what every operation of the WebGPU executor works with. An operation makes its output,
 * runs kernels, and inside `gradients` records how its gradient flows back. No operation is defined here.
 */
import { copyRows, fill } from './kernels/elementwise.ts';
import { stored, type Operand, type Target } from './kernels/kernel.ts';
import type { Precision } from '../ops.ts';
import type { Capabilities, Dispatch, Element, Region } from './program.ts';
import type { Runtime } from './runtime.ts';
import { bytesOf, GpuTensor, type GpuParameterSet } from './tensor.ts';
import { sizeOf, survivors } from '../shapes.ts';
import { Tape, type Backward } from '../tape.ts';

interface Scope {
  readonly tensors: Set<GpuTensor>;
  /** Memory that goes with the scope, apart from the tensors'. */
  readonly rooms: Set<Region>;
}

/** How many logits or targets of prototypes may exist at once. */
export interface PrototypeLimits {
  /** Most that are kept, from forward to backward or as targets. Beyond, they are made again where they are read. */
  readonly kept: number;
  /** Those of one tile. */
  readonly tile: number;
}

/** 256 MiB in f32, and tiles of 128 MiB: enough to fill any device. */
export const prototypeLimits: PrototypeLimits = { kept: 64 * 2 ** 20, tile: 32 * 2 ** 20 };

/**
 * The same on a GPU with so many bytes: more is kept where an array of it takes a sixteenth of them. Made again, the
 * teacher's logits cost six products and as many ways through memory.
 */
export function prototypeLimitsOn(bytes: number | undefined): PrototypeLimits {
  return { ...prototypeLimits, kept: Math.max(prototypeLimits.kept, Math.floor((bytes ?? 0) / 16 / 4)) };
}

/** Whatever there is, is too much to be kept. */
const fewest: PrototypeLimits = { kept: 0, tile: 8192 };

export class Engine {
  readonly runtime: Runtime;
  readonly caps: Capabilities;
  /** Element of activations: tokens begin as it, and results have the element of what they are made from. */
  readonly precision: Precision;
  /** For the driver's check: arrays of any size are dealt with as large ones. */
  asLarge = false;
  readonly #limits: PrototypeLimits;
  readonly #tape = new Tape<GpuTensor, Operand>({
    giveBack: (gradient) => this.giveBack(gradient),
    forwards: (body) => this.#within(body),
    backwards: (inputs, body) => this.#within(() => this.#keepingGradients(inputs, body)),
  });
  #scopes: Scope[] = [{ tensors: new Set(), rooms: new Set() }];

  constructor(runtime: Runtime, precision: Precision, limits: PrototypeLimits = prototypeLimits) {
    this.runtime = runtime;
    this.#limits = limits;
    this.precision = precision;
    this.caps = runtime.capabilities;
  }

  get limits(): PrototypeLimits {
    return this.asLarge ? fewest : this.#limits;
  }

  run(...lists: readonly (readonly Dispatch[])[]): void {
    for (const dispatches of lists) this.runtime.run(dispatches);
  }

  // --- memory ---

  /** A new tensor with undefined contents. */
  make(shape: readonly number[], element: Element = 'f32'): GpuTensor {
    return this.#own(new GpuTensor(shape, element, this.runtime.take(sizeOf(shape) * bytesOf(element))));
  }

  /** A tensor for the tape alone, which has a gradient and no values. */
  withoutValues(shape: readonly number[], element: Element): GpuTensor {
    return new GpuTensor(shape, element, null);
  }

  /** A new tensor with these values. */
  tensor(values: Float32Array, shape: readonly number[]): GpuTensor {
    return this.#own(new GpuTensor(shape, 'f32', this.runtime.upload(values)));
  }

  /** The matrix as a product with operands of `element` takes it; of parameters there is a copy. */
  factor(matrix: GpuTensor, element: Element): Operand {
    if (matrix.element === element) return matrix;
    if (element === 'f16' && matrix.set) return matrix.set.halfOf(matrix.index);
    const copy = this.room(matrix.size, element);
    this.run(copyRows(this.caps, matrix, stored(copy), { rows: 1, n: matrix.size }));
    return copy;
  }

  #own(tensor: GpuTensor): GpuTensor {
    this.#scopes.at(-1)!.tensors.add(tensor);
    return tensor;
  }

  /** Room for `count` elements until the enclosing scope ends. */
  room(count: number, element: Element = 'f32'): Operand {
    return { region: this.#keep(this.runtime.take(count * bytesOf(element))), element };
  }

  /** A list for kernels, until the enclosing scope ends: u32, or the bytes of a mask. */
  list(values: Int32Array | Uint32Array | Uint8Array): Region {
    return this.#keep(this.runtime.upload(values));
  }

  floats(values: Float32Array): Operand {
    return { region: this.#keep(this.runtime.upload(values)), element: 'f32' };
  }

  #keep(region: Region): Region {
    this.#scopes.at(-1)!.rooms.add(region);
    return region;
  }

  /** Gives the memory of `room` back early. */
  giveBack({ region }: Operand): void {
    for (let i = this.#scopes.length - 1; i >= 0; --i) {
      if (!this.#scopes[i]!.rooms.delete(region)) continue;
      this.runtime.give(region);
      return;
    }
  }

  /** @see Executor.scope */
  async scope<T>(body: () => T | Promise<T>): Promise<T> {
    const scope: Scope = { tensors: new Set(), rooms: new Set() };
    this.#scopes.push(scope);
    let kept: GpuTensor[] = [];
    try {
      const result = await body();
      kept = survivors(result, isTensor).filter((tensor) => scope.tensors.has(tensor));
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
    const scope: Scope = { tensors: new Set(), rooms: new Set() };
    this.#scopes.push(scope);
    let kept: GpuTensor[] = [];
    try {
      const result = body();
      kept = survivors(result, isTensor).filter((tensor) => scope.tensors.has(tensor));
      return result;
    } finally {
      this.#endScope(scope, kept);
    }
  }

  #endScope({ tensors, rooms }: Scope, kept: readonly GpuTensor[]): void {
    if (this.#scopes.at(-1)?.tensors !== tensors)
      throw new Error('scope: scopes must end in the order they began in; await each before the next begins.');
    this.#scopes.pop();
    for (const tensor of kept) {
      tensors.delete(tensor);
      this.#own(tensor);
    }
    for (const { region } of tensors) this.runtime.give(region);
    for (const tensor of tensors) tensor.end();
    for (const region of rooms) this.runtime.give(region);
  }

  // --- tape ---

  /** @see Tape.wants */
  wants(tensor: GpuTensor | null): boolean {
    return this.#tape.wants(tensor);
  }

  /** @see Tape.record */
  record(output: GpuTensor, inputs: readonly (GpuTensor | null)[], backward: Backward<Operand>): void {
    this.#tape.record(output, inputs, backward);
  }

  /** Where the gradient of `tensor` goes, or null when none is wanted. Each call is answered by exactly one contribution. */
  gradient(tensor: GpuTensor | null): Target | null {
    if (!tensor || !this.wants(tensor)) return null;
    const { set, index } = tensor;
    if (set) {
      const accumulate = !set.fresh[index];
      set.fresh[index] = 0;
      set.zero[index] = 0;
      return { ...set.gradientOf(index), accumulate };
    }
    if (tensor.gradient) return { ...tensor.gradient, accumulate: true };
    tensor.gradient = this.room(tensor.size, tensor.element);
    return { ...tensor.gradient, accumulate: false };
  }

  /** Makes dy the gradient of `tensor` if none has arrived, else adds it. Returns true when taken over. */
  passOn(tensor: GpuTensor, dy: Operand): boolean {
    if (!this.wants(tensor)) return false;
    if (!tensor.set && !tensor.gradient && tensor.element === dy.element) {
      tensor.gradient = dy;
      return true;
    }
    this.run(copyRows(this.caps, dy, this.gradient(tensor)!, { rows: 1, n: tensor.size }));
    return false;
  }

  /** @see Executor.gradients */
  differentiate(set: GpuParameterSet, forward: () => GpuTensor, seed: number): GpuTensor {
    const loss = this.#tape.differentiate(set, forward, () => {
      const start = this.room(1);
      this.run(fill(this.caps, start, seed, 1));
      return start;
    });
    this.settle(set);
    return loss;
  }

  /** @see Executor.recompute */
  recompute(inputs: readonly GpuTensor[], body: () => GpuTensor): GpuTensor {
    return this.#tape.recompute(inputs, body);
  }

  /** Gradients of these tensors that lie in the innermost scope go over to the next. */
  #keepingGradients(inputs: readonly GpuTensor[], body: () => void): void {
    body();
    const [inner, outer] = [this.#scopes.at(-1)!, this.#scopes.at(-2)!];
    for (const { gradient } of inputs) if (gradient && inner.rooms.delete(gradient.region)) outer.rooms.add(gradient.region);
  }

  /** Writes the zeros that `fresh` stands for. */
  settle(set: GpuParameterSet): void {
    set.specs.forEach(({ size }, i) => {
      if (!set.fresh[i]) return;
      if (!set.zero[i]) this.run(fill(this.caps, set.gradientOf(i), 0, size));
      set.fresh[i] = 0;
      set.zero[i] = 1;
    });
  }
}

const isTensor = (value: unknown): value is GpuTensor => value instanceof GpuTensor;

/** The tensors as the executor's own, alive. @throws Error naming the operation */
export function own(operation: string, tensor: unknown): GpuTensor {
  if (!(tensor instanceof GpuTensor)) throw new Error(`${operation}: the tensor is not one of this executor.`);
  if (!tensor.alive) throw new Error(`${operation}: the tensor [${tensor.shape.join(',')}] was freed when its scope ended.`);
  return tensor;
}
