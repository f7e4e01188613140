/** What the CPU executor hands out: tensors, parameter sets, Adam moments. Places in memory, no arithmetic. */
import type { AdamState, ParameterSet, ParameterSpec, Tensor } from '../ops.ts';
import type { Heap } from './memory.ts';
import { sizeOf } from '../shapes.ts';

export class CpuTensor implements Tensor {
  readonly shape: readonly number[];
  readonly size: number;
  /** Byte address; 0 once the scope that made it has ended. */
  address: number;
  /** The parameters it belongs to, and its place among them; null for other values. */
  readonly set: CpuParameterSet | null;
  readonly index: number;
  /** True when recorded: something it was made from wants a gradient. */
  tracked = false;
  /** Address of its gradient during the backward pass, null when none has arrived. */
  gradient: number | null = null;

  constructor(shape: readonly number[], address: number, set: CpuParameterSet | null = null, index = 0) {
    this.shape = shape;
    this.size = sizeOf(shape);
    this.address = address;
    this.set = set;
    this.index = index;
  }

  get bytes(): number {
    return this.size * 4;
  }
}

/** Floats of one parameter that one chunk of an update covers. */
const updateChunk = 32768;

export class CpuParameterSet implements ParameterSet {
  readonly specs: ParameterSet['specs'];
  readonly size: number;
  /** Address of the values, flat, in the order of specs. */
  readonly values: number;
  /** Gradients that count as zero but are not written yet: the first contribution is stored, not added. */
  readonly fresh: Uint8Array;
  /** 1 where the gradient is not wanted. */
  readonly frozen: Uint8Array;
  /** Table of the update kernels: [offset, length, parameter] i32. */
  readonly table: number;
  readonly chunks: number;
  readonly #heap: Heap;
  readonly #tensors: CpuTensor[];
  readonly #byName = new Map<string, CpuTensor>();
  #gradients = 0;
  #disposed = false;

  constructor(heap: Heap, specs: readonly ParameterSpec[]) {
    this.#heap = heap;
    let offset = 0;
    this.specs = specs.map(({ name, shape, values }) => {
      const size = sizeOf(shape);
      if (values.length !== size)
        throw new Error(`createParameters: ${name} has ${values.length} values, its shape [${shape.join(',')}] wants ${size}.`);
      const spec = { name, shape: [...shape], offset, size };
      offset += size;
      return spec;
    });
    this.size = offset;
    this.values = heap.allocate(offset * 4);
    this.fresh = new Uint8Array(specs.length).fill(1);
    this.frozen = Uint8Array.from(specs, ({ frozen = false }) => Number(frozen));
    const rows: number[] = [];
    this.#tensors = this.specs.map((spec, i) => {
      const tensor = new CpuTensor(spec.shape, this.values + spec.offset * 4, this, i);
      if (this.#byName.has(spec.name)) throw new Error(`createParameters: the name ${spec.name} is given twice.`);
      this.#byName.set(spec.name, tensor);
      heap.f32.set(specs[i]!.values, tensor.address / 4);
      for (let from = 0; from < spec.size; from += updateChunk) rows.push(spec.offset + from, Math.min(updateChunk, spec.size - from), i);
      return tensor;
    });
    this.table = heap.allocate(rows.length * 4);
    heap.i32.set(rows, this.table / 4);
    this.chunks = rows.length / 3;
  }

  /** Address of the gradients, flat, in the order of specs. Made when first asked for: a teacher has none. */
  get gradients(): number {
    this.#gradients ||= this.#heap.allocate(this.size * 4);
    return this.#gradients;
  }

  get(name: string): CpuTensor {
    const tensor = this.#byName.get(name);
    if (!tensor) throw new Error(`There is no parameter ${name}.`);
    if (this.#disposed) throw new Error(`The parameters with ${name} are disposed.`);
    return tensor;
  }

  has(name: string): boolean {
    return this.#byName.has(name);
  }

  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    for (const tensor of this.#tensors) tensor.address = 0;
    for (const address of [this.values, this.#gradients, this.table]) if (address) this.#heap.free(address);
  }
}

export class CpuAdamState implements AdamState {
  readonly size: number;
  /** Addresses of the first and second moments, flat. */
  readonly m: number;
  readonly v: number;
  readonly #heap: Heap;
  #disposed = false;

  constructor(heap: Heap, size: number) {
    this.#heap = heap;
    this.size = size;
    this.m = heap.allocate(size * 4);
    this.v = heap.allocate(size * 4);
    for (const address of [this.m, this.v]) heap.f32.fill(0, address / 4, address / 4 + size);
  }

  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#heap.free(this.m);
    this.#heap.free(this.v);
  }
}
