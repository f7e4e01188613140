/** What the WebGPU executor hands out: tensors, parameter sets, Adam moments. Places on the device, no arithmetic. */
import type { AdamState, ParameterSet, ParameterSpec, Precision, Tensor } from '../ops.ts';
import { copyRows } from './kernels/elementwise.ts';
import { stored, type Operand } from './kernels/kernel.ts';
import { blockSize, type FlatLayout } from './kernels/update.ts';
import { alignment, part, type Element, type Region } from './program.ts';
import type { Runtime } from './runtime.ts';
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

/** Consecutive elements of a flat array that lie in one buffer and are bound together. */
interface Piece {
  readonly start: number;
  readonly count: number;
}

/** Pieces begin at multiples of this, so that tables by block can be cut there too. */
const pieceUnit = blockSize * (alignment / 4);

/**
 * Arrays of one value a parameter element, each parameter padded with zeros to whole blocks: every one begins aligned, and
 * lies in one of the pieces, which are as large as the device binds.
 */
class Padding {
  readonly count: number;
  /** Where each parameter begins. */
  readonly starts: readonly number[];
  readonly pieces: readonly Piece[];
  readonly #specs: ParameterSet['specs'];

  /**
   * @param smallest element of an array that is laid out so
   * @param most elements of a piece
   */
  constructor(specs: ParameterSet['specs'], smallest: Precision, most: number) {
    const unit = Math.max(blockSize, alignment / bytesOf(smallest));
    const pieces: Piece[] = [];
    let start = 0;
    let count = 0;
    this.starts = specs.map(({ size }) => {
      const padded = Math.ceil(size / unit) * unit;
      if (count > 0 && count - start + padded > most) {
        count = Math.ceil(count / pieceUnit) * pieceUnit;
        pieces.push({ start, count: count - start });
        start = count;
      }
      count += padded;
      return count - padded;
    });
    this.pieces = [...pieces, { start, count: count - start }];
    this.count = count;
    this.#specs = specs;
  }

  pieceOf(index: number): number {
    return this.pieces.findLastIndex(({ start }) => start <= this.starts[index]!);
  }

  spread(values: Float32Array, { start, count }: Piece): Float32Array {
    const padded = new Float32Array(count);
    this.#specs.forEach(({ offset, size }, i) => {
      const at = this.starts[i]! - start;
      if (at >= 0 && at < count) padded.set(values.subarray(offset, offset + size), at);
    });
    return padded;
  }

  compact(padded: Float32Array, { start, count }: Piece, values: Float32Array): void {
    this.#specs.forEach(({ offset, size }, i) => {
      const at = this.starts[i]! - start;
      if (at >= 0 && at < count) values.set(padded.subarray(at, at + size), offset);
    });
  }

  segments(): Uint32Array {
    const segments = new Uint32Array(this.count / blockSize);
    this.starts.forEach((start, i) => segments.fill(i, start / blockSize));
    return segments;
  }
}

/** One value for each element of a set's parameters, on the device, piece by piece. */
export class FlatArray {
  readonly pieces: readonly Operand[];
  readonly #runtime: Runtime;
  readonly #padding: Padding;
  readonly #size: number;

  /** Undefined contents. */
  constructor(runtime: Runtime, padding: Padding, size: number, element: Precision = 'f32') {
    this.#runtime = runtime;
    this.#padding = padding;
    this.#size = size;
    this.pieces = padding.pieces.map(({ count }) => ({ region: runtime.take(count * bytesOf(element)), element }));
  }

  clear(): this {
    for (const { region } of this.pieces) this.#runtime.clear(region);
    return this;
  }

  /** Of f32. */
  write(values: Float32Array): void {
    this.pieces.forEach(({ region }, i) => this.#runtime.write(region, this.#padding.spread(values, this.#padding.pieces[i]!)));
  }

  /** Of f32. */
  async read(): Promise<Float32Array> {
    // All are asked for now: later commands may change them.
    const read = this.pieces.map(({ region }, i) => this.#runtime.read(region, this.#padding.pieces[i]!.count * 4));
    const values = new Float32Array(this.#size);
    for (const [i, padded] of (await Promise.all(read)).entries())
      this.#padding.compact(new Float32Array(padded), this.#padding.pieces[i]!, values);
    return values;
  }

  /** The place of one parameter. */
  of(index: number, size: number): Operand {
    const piece = this.#padding.pieceOf(index);
    const { region, element } = this.pieces[piece]!;
    const start = this.#padding.starts[index]! - this.#padding.pieces[piece]!.start;
    return { region: part(region, start * bytesOf(element), Math.max(size, 1) * bytesOf(element)), element };
  }

  give(): void {
    for (const { region } of this.pieces) this.#runtime.give(region);
  }
}

/** A parameter, or its place alone: values null, then all must be. */
export type SpecOrPlace = Omit<ParameterSpec, 'values'> & { readonly values: Float32Array | null };

export class GpuParameterSet implements ParameterSet {
  readonly specs: ParameterSet['specs'];
  readonly size: number;
  readonly values: FlatArray;
  /** The values rounded, which products take; whoever changes values changes them too. null where activations are f32. */
  readonly halves: FlatArray | null;
  /** Gradients that count as zero but are not written yet: the first contribution is stored, not added. */
  readonly fresh: Uint8Array;
  /** 1 where the gradient on the device is known to be zero already. */
  readonly zero: Uint8Array;
  /** 1 where the gradient is not wanted. */
  readonly frozen: Uint8Array;
  /** For the kernels of updates, piece by piece. */
  readonly layout: readonly FlatLayout[];
  /** u32: the parameter of each block of all pieces. */
  readonly segments: Region;
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
    const most = Math.floor(runtime.capabilities.bindingBytes / 4 / pieceUnit) * pieceUnit;
    this.#padding = new Padding(this.specs, precision, most);
    this.values = new FlatArray(runtime, this.#padding, offset);
    this.halves = precision === 'f16' ? new FlatArray(runtime, this.#padding, offset, 'f16') : null;
    const all = allValues(specs, offset);
    if (all) this.write(all);
    this.fresh = new Uint8Array(specs.length).fill(1);
    this.zero = new Uint8Array(specs.length).fill(1);
    this.frozen = Uint8Array.from(specs, ({ frozen = false }) => Number(frozen));
    const segments = this.#padding.segments();
    this.segments = runtime.take(segments.byteLength);
    runtime.write(this.segments, segments);
    this.layout = this.#padding.pieces.map(({ start, count }) => ({
      count,
      segments: part(this.segments, (start / blockSize) * 4, (count / blockSize) * 4),
    }));
    this.#tensors = this.specs.map(({ shape, name, size }, i) => {
      const tensor = new GpuTensor(shape, 'f32', this.values.of(i, size).region, this, i);
      this.#byName.set(name, tensor);
      return tensor;
    });
  }

  /** Replaces all values. @param values in the order of specs */
  write(values: Float32Array): void {
    this.values.write(values);
    const { capabilities } = this.#runtime;
    this.halves?.pieces.forEach((half, i) => {
      const n = this.#padding.pieces[i]!.count;
      this.#runtime.run(copyRows(capabilities, this.values.pieces[i]!, stored(half), { rows: 1, n }));
    });
  }

  /** One parameter rounded to f16. @throws Error where there is no such copy */
  halfOf(index: number): Operand {
    if (!this.halves) throw new Error(`There is no f16 copy of ${this.specs[index]!.name}.`);
    return this.halves.of(index, this.specs[index]!.size);
  }

  /** Gradients, flat. Made when first asked for: a teacher has none. */
  get gradients(): FlatArray {
    this.#gradients ??= this.flat();
    return this.#gradients;
  }

  /** The gradient of one parameter. */
  gradientOf(index: number): Operand {
    return this.gradients.of(index, this.specs[index]!.size);
  }

  /** A flat array of zeros beside the parameters. */
  flat(): FlatArray {
    return new FlatArray(this.#runtime, this.#padding, this.size).clear();
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
    this.halves?.give();
    this.#gradients?.give();
    this.#runtime.give(this.segments);
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
