/**
 * The one linear memory that all threads share: a first-fit heap for what stays (parameters, moments, scratch) and an
 * arena for what a step makes, released by marks. It knows bytes and addresses only, no tensors.
 */
import { AppError } from '../../contract/index.ts';

/** Control block of kernels/pool.ts, byte addresses. */
export const control = {
  ticket: 64,
  done: 128,
  quit: 200,
  failed: 204,
  scratch: 208,
  scratchBytes: 212,
  kernel: 256,
  count: 260,
  arguments: 320,
} as const;

const page = 65536;
const maximumPages = 65536;
/** Cache line; also the slack behind each block, because products may read up to seven floats past an operand's end. */
const line = 64;
const smallestSegment = 16 * 1024 * 1024;

export function roundUp(value: number, multiple: number): number {
  return Math.ceil(value / multiple) * multiple;
}

/** What the heap's own memory is made of; addresses ascend. */
interface Block {
  readonly start: number;
  readonly bytes: number;
}

interface Views {
  readonly f32: Float32Array;
  readonly i32: Int32Array;
  readonly u8: Uint8Array;
}

export class Heap {
  readonly memory: WebAssembly.Memory;
  /** Bytes handed out now. */
  used = 0;
  #free: Block[] = [];
  #taken = new Map<number, number>();
  #end: number;
  #views: Views;

  constructor() {
    this.memory = new WebAssembly.Memory({ initial: 64, maximum: maximumPages, shared: true });
    // The first page holds the control block and the compiler's constants.
    this.#end = page;
    this.#views = this.#makeViews();
  }

  #makeViews(): Views {
    const buffer = this.memory.buffer;
    return { f32: new Float32Array(buffer), i32: new Int32Array(buffer), u8: new Uint8Array(buffer) };
  }

  get f32(): Float32Array {
    return this.#views.f32;
  }
  get i32(): Int32Array {
    return this.#views.i32;
  }
  get u8(): Uint8Array {
    return this.#views.u8;
  }
  /** Bytes of the linear memory, used or not. */
  get reserved(): number {
    return this.memory.buffer.byteLength;
  }

  /**
   * @returns byte address, a multiple of 64
   * @throws AppError engine-out-of-memory past 4 GiB or past what the system gives
   */
  allocate(bytes: number): number {
    const size = roundUp(bytes + line, line);
    const fit = this.#free.findIndex((block) => block.bytes >= size);
    let start: number;
    if (fit >= 0) {
      const block = this.#free[fit]!;
      start = block.start;
      if (block.bytes === size) this.#free.splice(fit, 1);
      else this.#free[fit] = { start: start + size, bytes: block.bytes - size };
    } else {
      // A free block at the end is grown rather than left behind.
      const last = this.#free.at(-1);
      start = last && last.start + last.bytes === this.#end ? last.start : this.#end;
      this.#reach(start + size);
      if (start !== this.#end) this.#free.pop();
      this.#end = start + size;
    }
    this.#taken.set(start, size);
    this.used += size;
    return start;
  }

  free(start: number): void {
    const bytes = this.#taken.get(start);
    if (bytes === undefined) throw new Error(`Heap.free: nothing was allocated at ${start}.`);
    this.#taken.delete(start);
    this.used -= bytes;
    const after = this.#free.findIndex((block) => block.start > start);
    const at = after < 0 ? this.#free.length : after;
    this.#free.splice(at, 0, { start, bytes });
    this.#merge(at);
    if (at > 0) this.#merge(at - 1);
  }

  /** Joins free block i with its follower when they touch. */
  #merge(i: number): void {
    const a = this.#free[i];
    const b = this.#free[i + 1];
    if (!a || !b || a.start + a.bytes !== b.start) return;
    this.#free.splice(i, 2, { start: a.start, bytes: a.bytes + b.bytes });
  }

  /** Grows the linear memory so that addresses below `end` exist. */
  #reach(end: number): void {
    const missing = Math.ceil(end / page) - this.memory.buffer.byteLength / page;
    if (missing <= 0) return;
    try {
      this.memory.grow(missing);
    } catch (cause) {
      const gib = (bytes: number): string => (bytes / 2 ** 30).toFixed(2);
      throw new AppError(
        'engine-out-of-memory',
        `The CPU engine needs ${gib(end)} GiB; it can hold at most ${gib(maximumPages * page)} GiB, and this machine gave ${gib(this.reserved)} GiB.`,
        'Choose a smaller batch, with several of them accumulated, smaller crops, a smaller model or fewer prototypes; from the command line, --recompute.',
        { cause },
      );
    }
    this.#views = this.#makeViews();
  }
}

/** A place in the arena; everything allocated after it can be released at once. */
export interface Mark {
  readonly segment: number;
  readonly offset: number;
  readonly used: number;
}

/** Bump allocation in segments of the heap, kept from step to step, so that equal steps reserve nothing new. */
export class Arena {
  /** Bytes allocated since the start. */
  used = 0;
  readonly #heap: Heap;
  #segments: Block[] = [];
  #segment = 0;
  #offset = 0;
  /** Recycled blocks by size; see recycle. */
  #recycled = new Map<number, number[]>();

  constructor(heap: Heap) {
    this.#heap = heap;
  }

  /** Bytes of all segments. */
  get reserved(): number {
    return this.#segments.reduce((sum, segment) => sum + segment.bytes, 0);
  }

  /** The same as the heap counts them. */
  get reservedHeapBytes(): number {
    return this.#segments.reduce((sum, segment) => sum + roundUp(segment.bytes + line, line), 0);
  }

  allocate(bytes: number): number {
    const size = roundUp(bytes + line, line);
    const again = this.#recycled.get(size)?.pop();
    if (again !== undefined) return again;
    while (this.#segment < this.#segments.length) {
      const segment = this.#segments[this.#segment]!;
      if (this.#offset + size <= segment.bytes) {
        const start = segment.start + this.#offset;
        this.#offset += size;
        this.used += size;
        return start;
      }
      this.#segment++;
      this.#offset = 0;
    }
    // Half as much again as there is: few segments, little left over.
    const wanted = Math.max(size, smallestSegment, roundUp(this.reserved / 2, line));
    const segmentBytes = this.#reserve(wanted, size);
    this.#offset = size;
    this.used += size;
    return segmentBytes;
  }

  #reserve(wanted: number, least: number): number {
    let bytes = wanted;
    let start: number;
    try {
      start = this.#heap.allocate(bytes);
    } catch (error) {
      if (least >= wanted) throw error;
      bytes = least;
      start = this.#heap.allocate(bytes);
    }
    this.#segments.push({ start, bytes });
    return start;
  }

  /** Gives a block of `bytes` back before its scope ends: the next request of the same size gets it. */
  recycle(start: number, bytes: number): void {
    const size = roundUp(bytes + line, line);
    const list = this.#recycled.get(size);
    if (list) list.push(start);
    else this.#recycled.set(size, [start]);
  }

  mark(): Mark {
    // What was recycled before must not be handed out after: it would not be released with its mark.
    this.#recycled.clear();
    return { segment: this.#segment, offset: this.#offset, used: this.used };
  }

  /** Whether the address lies where `mark` leaves room. */
  follows(mark: Mark, address: number): boolean {
    const segment = this.#segmentOf(address);
    return segment > mark.segment || (segment === mark.segment && address >= this.#segments[segment]!.start + mark.offset);
  }

  #segmentOf(address: number): number {
    return this.#segments.findIndex(({ start, bytes }) => address >= start && address < start + bytes);
  }

  release(mark: Mark): void {
    this.#recycled.clear();
    this.#segment = mark.segment;
    this.#offset = mark.offset;
    this.used = mark.used;
  }

  /**
   * Releases to `mark` but keeps some blocks: they move down to where it stood.
   * @returns their new addresses
   */
  compact(mark: Mark, blocks: readonly { readonly address: number; readonly bytes: number }[]): number[] {
    // In the order of allocation a block's new place never lies behind its old one, so none overwrites a later one.
    const order = blocks.map(({ address, bytes }, i) => ({ i, address, bytes, segment: this.#segmentOf(address) }));
    order.sort((a, b) => a.segment - b.segment || a.address - b.address);
    this.release(mark);
    const moved: number[] = [];
    for (const { i, address, bytes } of order) {
      const to = this.allocate(bytes);
      this.#heap.u8.copyWithin(to, address, address + bytes);
      moved[i] = to;
    }
    return moved;
  }

  /** Returns all segments to the heap. */
  dispose(): void {
    for (const segment of this.#segments) this.#heap.free(segment.start);
    this.#segments = [];
    this.release({ segment: 0, offset: 0, used: 0 });
  }
}
