/** What the WebGPU executor hands out: tensors, parameter sets, Adam moments. Places on the device, no arithmetic. */
import type { AdamState, ParameterSet, ParameterSpec, Precision, Tensor } from '../ops.ts';
import { copyRows } from './kernels/elementwise.ts';
import { stored, type Operand } from './kernels/kernel.ts';
import { blockSize, type FlatLayout } from './kernels/update.ts';
import type { Element, Region } from './program.ts';
import { alignment } from './memory.ts';
import { part, type Runtime } from './runtime.ts';
import { sizeOf } from '../shapes.ts';

export class GpuTensor implements Tensor, Operand {
  readonly shape: readonly number[];
  readonly size: number;
  readonly element: Element;
  /** The parameters it belongs to, and its place among them; null for other values. */
  readonly set: GpuParameterSet | null;
  readonly index: number;
  /** True when recorded: something it was made from wants a gradient. */
  tracked = false;
  /** Its gradient during the backward pass, null when none has arrived. */
  gradient: Operand | null = null;
  /** Set where it is the value of an activation: what went in, which may have no values, and the slope there. */
  activation: { readonly before: GpuTensor; readonly slope: Operand } | null = null;
  #region: Region | null;

  /** @param region null: a place on the tape without values, for its gradient */
  constructor(shape: readonly number[], element: Element, region: Region | null, set: GpuParameterSet | null = null, index = 0) {
    this.shape = shape;
    this.size = sizeOf(shape);
    this.element = element;
    this.#region = region;
    this.set = set;
    this.index = index;
  }

  get alive(): boolean {
    return this.#region !== null;
  }

  get region(): Region {
    if (!this.#region) throw new Error(`The tensor [${this.shape.join(',')}] was freed.`);
    return this.#region;
  }

  /** Its scope has ended, or its parameters are disposed. */
  end(): void {
    this.#region = null;
  }
}

/** Bytes of an element. */
export const bytesOf = (element: Element): number => (element === 'f16' ? 2 : 4);

/** Arrays of one value a parameter element, each parameter padded with zeros to whole blocks: every one begins aligned. */
class Padding {
  readonly count: number;
  /** Where each parameter begins. */
  readonly starts: readonly number[];
  readonly #specs: ParameterSet['specs'];

  /** @param smallest element of an array that is laid out so */
  constructor(specs: ParameterSet['specs'], smallest: Precision) {
    const unit = Math.max(blockSize, alignment / bytesOf(smallest));
    let count = 0;
    this.starts = specs.map(({ size }) => {
      const start = count;
      count += Math.ceil(size / unit) * unit;
      return start;
    });
    this.count = count;
    this.#specs = specs;
  }

  spread(values: Float32Array): Float32Array {
    const padded = new Float32Array(this.count);
    this.#specs.forEach(({ offset, size }, i) => padded.set(values.subarray(offset, offset + size), this.starts[i]!));
    return padded;
  }

  compact(padded: Float32Array, size: number): Float32Array {
    const values = new Float32Array(size);
    this.#specs.forEach(({ offset, size: length }, i) => values.set(padded.subarray(this.starts[i]!, this.starts[i]! + length), offset));
    return values;
  }

  segments(): Uint32Array {
    const segments = new Uint32Array(this.count / blockSize);
    this.starts.forEach((start, i) => segments.fill(i, start / blockSize));
    return segments;
  }
}

/** One value for each element of a set's parameters, on the device. */
export class FlatArray implements Operand {
  readonly element = 'f32';
  readonly region: Region;
  readonly #runtime: Runtime;
  readonly #padding: Padding;
  readonly #size: number;

  /** @param values absent: zeros */
  constructor(runtime: Runtime, padding: Padding, size: number, values: Float32Array | null) {
    this.#runtime = runtime;
    this.#padding = padding;
    this.#size = size;
    this.region = runtime.take(padding.count * 4);
    if (values) this.write(values);
    else runtime.clear(this.region);
  }

  write(values: Float32Array): void {
    this.#runtime.write(this.region, this.#padding.spread(values));
  }

  async read(): Promise<Float32Array> {
    const padded = await this.#runtime.read(this.region, this.#padding.count * 4);
    return this.#padding.compact(new Float32Array(padded), this.#size);
  }

  give(): void {
    this.#runtime.give(this.region);
  }
}

/** A parameter, or its place alone: values null, then all must be. */
export type SpecOrPlace = Omit<ParameterSpec, 'values'> & { readonly values: Float32Array | null };

export class GpuParameterSet implements ParameterSet {
  readonly specs: ParameterSet['specs'];
  readonly size: number;
  readonly values: FlatArray;
  /** The values rounded, which products take; whoever changes values changes them too. null where activations are f32. */
  readonly halves: Operand | null;
  /** Gradients that count as zero but are not written yet: the first contribution is stored, not added. */
  readonly fresh: Uint8Array;
  /** 1 where the gradient on the device is known to be zero already. */
  readonly zero: Uint8Array;
  /** 1 where the gradient is not wanted. */
  readonly frozen: Uint8Array;
  /** For the kernels of updates. */
  readonly layout: FlatLayout;
  readonly #runtime: Runtime;
  readonly #padding: Padding;
  readonly #tensors: GpuTensor[];
  readonly #byName = new Map<string, GpuTensor>();
  #gradients: FlatArray | null = null;
  #disposed = false;

  constructor(runtime: Runtime, specs: readonly SpecOrPlace[], precision: Precision) {
    this.#runtime = runtime;
    let offset = 0;
    this.specs = specs.map(({ name, shape, values }) => {
      const size = sizeOf(shape);
      if (values && values.length !== size)
        throw new Error(`createParameters: ${name} has ${values.length} values, its shape [${shape.join(',')}] wants ${size}.`);
      const spec = { name, shape: [...shape], offset, size };
      offset += size;
      return spec;
    });
    const seen = new Set<string>();
    for (const { name } of specs) {
      if (seen.has(name)) throw new Error(`createParameters: the name ${name} is given twice.`);
      seen.add(name);
    }
    this.size = offset;
    this.#padding = new Padding(this.specs, precision);
    this.values = new FlatArray(runtime, this.#padding, offset, null);
    this.halves = precision === 'f16' ? { region: runtime.take(this.#padding.count * 2), element: 'f16' } : null;
    const all = allValues(specs, offset);
    if (all) this.write(all);
    this.fresh = new Uint8Array(specs.length).fill(1);
    this.zero = new Uint8Array(specs.length).fill(1);
    this.frozen = Uint8Array.from(specs, ({ frozen = false }) => Number(frozen));
    const segments = this.#padding.segments();
    this.layout = { count: this.#padding.count, segments: runtime.take(segments.byteLength) };
    runtime.write(this.layout.segments, segments);
    this.#tensors = this.specs.map(({ shape, name }, i) => {
      const tensor = new GpuTensor(shape, 'f32', this.#place(this.values, i), this, i);
      this.#byName.set(name, tensor);
      return tensor;
    });
  }

  #place({ region, element }: Operand, index: number): Region {
    const bytes = bytesOf(element);
    return part(region, this.#padding.starts[index]! * bytes, Math.max(this.specs[index]!.size, 1) * bytes);
  }

  /** Replaces all values. @param values in the order of specs */
  write(values: Float32Array): void {
    this.values.write(values);
    const { capabilities } = this.#runtime;
    if (this.halves) this.#runtime.run(copyRows(capabilities, this.values, stored(this.halves), { rows: 1, n: this.#padding.count }));
  }

  /** One parameter rounded to f16. @throws Error where there is no such copy */
  halfOf(index: number): Operand {
    if (!this.halves) throw new Error(`There is no f16 copy of ${this.specs[index]!.name}.`);
    return { region: this.#place(this.halves, index), element: 'f16' };
  }

  /** Gradients, flat. Made when first asked for: a teacher has none. */
  get gradients(): FlatArray {
    this.#gradients ??= this.flat();
    return this.#gradients;
  }

  /** The gradient of one parameter. */
  gradientOf(index: number): Operand {
    return { region: this.#place(this.gradients, index), element: 'f32' };
  }

  /** A flat array of zeros beside the parameters. */
  flat(): FlatArray {
    return new FlatArray(this.#runtime, this.#padding, this.size, null);
  }

  get(name: string): GpuTensor {
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
    for (const tensor of this.#tensors) tensor.end();
    this.values.give();
    if (this.halves) this.#runtime.give(this.halves.region);
    this.#gradients?.give();
    this.#runtime.give(this.layout.segments);
  }
}

/** One after the other; null for places alone. */
function allValues(specs: readonly SpecOrPlace[], size: number): Float32Array | null {
  if (specs.some(({ values }) => values === null)) return null;
  const all = new Float32Array(size);
  let offset = 0;
  for (const { values } of specs) {
    all.set(values!, offset);
    offset += values!.length;
  }
  return all;
}

export class GpuAdamState implements AdamState {
  readonly size: number;
  /** First and second moments, laid out as the set's values. */
  readonly m: FlatArray;
  readonly v: FlatArray;
  #disposed = false;

  constructor(set: GpuParameterSet) {
    this.size = set.size;
    this.m = set.flat();
    this.v = set.flat();
  }

  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.m.give();
    this.v.give();
  }
}
