/**
 * Buffers on the device, used again and again: a freed buffer waits in its size class for the next of its size. All work
 * runs in the order it was given, so a buffer may be handed out while commands that read its old contents still wait.
 */
import { alignedBytes, alignment, type Region } from './program.ts';

/** Values of GPUBufferUsage and GPUMapMode, which Node has no globals for. */
export const usage = { mapRead: 1, mapWrite: 2, copySource: 4, copyTarget: 8, uniform: 64, storage: 128, queryResolve: 512 } as const;

/** 32 classes to a power of two: at most a 32nd of a large buffer is unused. */
export function classBytes(bytes: number): number {
  const wanted = alignedBytes(bytes);
  if (wanted <= 32 * alignment) return wanted;
  const step = 2 ** (Math.floor(Math.log2(wanted - 1)) - 5);
  return Math.ceil(wanted / step) * step;
}

/** How much larger than asked for a waiting buffer may be: one more buffer for each size costs more than its unused rest. */
const slack = 2;
/** A buffer that waits and is a little too small is given back for a new one: most often it was made for the same array. */
const outgrown = { part: 0.75, bytes: 2 ** 20 } as const;

export class BufferPool {
  readonly #device: GPUDevice;
  readonly #free = new Map<number, GPUBuffer[]>();
  readonly #limit: number;
  readonly #largest: number;
  /** Bytes of all buffers, waiting ones included. */
  reserved = 0;

  /**
   * @param limit bytes of all buffers beyond which waiting ones are given back for a new one: what runs then wants others
   * @param largest bytes of a buffer that the device takes
   */
  constructor(device: GPUDevice, limit = Infinity, largest = Infinity) {
    this.#device = device;
    this.#limit = limit;
    this.#largest = Math.floor(largest / alignment) * alignment;
  }

  /**
   * Contents are undefined.
   * @param submit called before buffers are given back to the device: commands that wait must not lose theirs
   */
  take(bytes: number, submit: () => void): Region {
    const size = Math.max(alignedBytes(bytes), Math.min(classBytes(bytes), this.#largest));
    return { buffer: this.#waiting(size) ?? this.#make(size, submit), offset: 0, bytes: alignedBytes(bytes) };
  }

  /** A buffer of the class, or of the next ones up to `slack` its size, whose rest is then unused. */
  #waiting(size: number): GPUBuffer | undefined {
    for (let wanted = size; wanted <= slack * size; wanted = classBytes(wanted + 1)) {
      const buffer = this.#free.get(wanted)?.pop();
      if (buffer) return buffer;
    }
    return undefined;
  }

  #make(size: number, submit: () => void): GPUBuffer {
    const smaller = this.#outgrownBy(size);
    if (smaller) {
      submit();
      this.#destroyOne(smaller);
    }
    if (this.reserved + size > this.#limit) {
      submit();
      this.#giveBack(this.reserved + size - this.#limit);
    }
    this.reserved += size;
    return this.#device.createBuffer({ size, usage: usage.storage | usage.copySource | usage.copyTarget });
  }

  /** The class of a waiting buffer that one of this size stands in for, or null. */
  #outgrownBy(size: number): number | null {
    if (size < outgrown.bytes) return null;
    let most = 0;
    for (const [own, waiting] of this.#free)
      if (waiting.length > 0 && own < size && own >= outgrown.part * size) most = Math.max(most, own);
    return most || null;
  }

  #destroyOne(size: number): void {
    this.#free.get(size)!.pop()!.destroy();
    this.reserved -= size;
  }

  /** At least so many bytes, the largest buffers first; all that wait where they are fewer. */
  #giveBack(bytes: number): void {
    const sizes = [...this.#free.keys()].sort((a, b) => b - a);
    for (const size of sizes) {
      const waiting = this.#free.get(size)!;
      for (; bytes > 0 && waiting.length > 0; bytes -= size) this.#destroyOne(size);
    }
  }

  /** Takes a region of `take` back. */
  give({ buffer }: Region): void {
    const waiting = this.#free.get(buffer.size);
    if (waiting) waiting.push(buffer);
    else this.#free.set(buffer.size, [buffer]);
  }
}

/** One buffer that small uploads share, and its contents before they are written. */
interface Block {
  readonly region: Region;
  readonly shadow: Uint8Array;
  /** Bytes given out, and how many of them are written. */
  filled: number;
  written: number;
  /** Regions in use. */
  live: number;
}

const blockBytes = 2 ** 20;

/**
 * Small arrays on their way to the device (index lists, masks, tables): they share buffers and are written together, one
 * write a submit. A write reaches the device before the commands that wait for the submit, so no place is written twice
 * between two submits.
 */
export class Uploads {
  readonly #pool: BufferPool;
  readonly #submit: () => void;
  readonly #blocks = new Map<GPUBuffer, Block>();
  #current: Block | null = null;

  /** @param submit as BufferPool.take has it */
  constructor(pool: BufferPool, submit: () => void) {
    this.#pool = pool;
    this.#submit = submit;
  }

  /** @param data at most 1 MiB */
  take(data: ArrayBufferView): Region {
    const bytes = alignedBytes(data.byteLength);
    if (!this.#current || this.#current.filled + bytes > blockBytes) this.#current = this.#open();
    const block = this.#current;
    block.shadow.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), block.filled);
    const region = { buffer: block.region.buffer, offset: block.filled, bytes };
    block.filled += bytes;
    block.live++;
    return region;
  }

  #open(): Block {
    const region = this.#pool.take(blockBytes, this.#submit);
    const block = { region, shadow: new Uint8Array(blockBytes), filled: 0, written: 0, live: 0 };
    this.#blocks.set(region.buffer, block);
    return block;
  }

  /** Takes a region back. @returns false when it is not one of `take` */
  give({ buffer }: Region): boolean {
    const block = this.#blocks.get(buffer);
    if (block) block.live--;
    return block !== undefined;
  }

  /** Writes what is not written yet: before a submit. */
  write(queue: GPUQueue): void {
    for (const block of this.#blocks.values()) {
      if (block.filled === block.written) continue;
      queue.writeBuffer(block.region.buffer, block.written, block.shadow, block.written, block.filled - block.written);
      block.written = block.filled;
    }
  }

  /** Makes room where nothing is in use any more: after a submit. */
  settle(): void {
    for (const [buffer, block] of this.#blocks) {
      if (block.live > 0) continue;
      block.filled = block.written = 0;
      if (block === this.#current) continue;
      this.#blocks.delete(buffer);
      this.#pool.give(block.region);
    }
  }
}
