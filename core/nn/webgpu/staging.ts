/**
 * The way of large arrays to a GPU with memory of its own: buffers that this process can write, used in turns. The queue's own
 * `writeBuffer` took 30 ms for 34 MB on an H100, which a copy in memory does not; this way has not been timed on one.
 */
import { usage } from './memory.ts';
import { alignedBytes } from './program.ts';

/** Bytes of a buffer, and the largest array that goes through one. */
export const stagedBytes = 2 ** 24;

interface Open {
  readonly buffer: GPUBuffer;
  readonly bytes: Uint8Array;
  filled: number;
}

export class Staging {
  readonly #device: GPUDevice;
  /** Mapped, and read by no command that waits. */
  readonly #ready: GPUBuffer[] = [];
  /** Filled for the commands that are not submitted yet. */
  #filled: GPUBuffer[] = [];
  #open: Open | null = null;

  constructor(device: GPUDevice) {
    this.#device = device;
  }

  /**
   * Copies the data to where a command can copy it from, `count` bytes, a multiple of four; those past the data are undefined.
   * @param data at most `stagedBytes`
   */
  put(data: Uint8Array): { buffer: GPUBuffer; offset: number; count: number } {
    if (this.#open && this.#open.filled + data.length > stagedBytes) this.#close();
    const open = (this.#open ??= this.#begin());
    const offset = open.filled;
    open.bytes.set(data, offset);
    open.filled += alignedBytes(data.length);
    return { buffer: open.buffer, offset, count: Math.ceil(data.length / 4) * 4 };
  }

  #begin(): Open {
    const mapped = { size: stagedBytes, usage: usage.mapWrite | usage.copySource, mappedAtCreation: true };
    const buffer = this.#ready.pop() ?? this.#device.createBuffer(mapped);
    return { buffer, bytes: new Uint8Array(buffer.getMappedRange()), filled: 0 };
  }

  #close(): void {
    if (!this.#open) return;
    this.#open.buffer.unmap();
    this.#filled.push(this.#open.buffer);
    this.#open = null;
  }

  /** Before the commands that copy are submitted. */
  beforeSubmit(): void {
    this.#close();
  }

  /** After that: the buffers come back when the device has read them. */
  afterSubmit(): void {
    for (const buffer of this.#filled) {
      const mapped = buffer.mapAsync(2).then(() => void this.#ready.push(buffer));
      // A lost device tells so by itself.
      mapped.catch(() => undefined);
    }
    this.#filled = [];
  }
}
