/** How long the device takes for each program, by timestamp queries around every dispatch. For measurements only. */
import { usage } from './memory.ts';
import type { Dispatch } from './program.ts';

export interface ProgramTime {
  calls: number;
  ms: number;
  /** As the kernels state them; 0 where they do not. */
  flops: number;
  bytes: number;
}

export class Profile {
  readonly #device: GPUDevice;
  readonly #queries: GPUQuerySet;
  readonly #resolved: GPUBuffer;
  readonly #waiting: Promise<void>[] = [];
  #times = new Map<string, ProgramTime>();
  #dispatches: Dispatch[] = [];
  #readback: GPUBuffer | null = null;

  /** @param capacity most dispatches of a submit */
  constructor(device: GPUDevice, capacity: number) {
    this.#device = device;
    this.#queries = device.createQuerySet({ type: 'timestamp', count: capacity * 2 });
    this.#resolved = device.createBuffer({ size: capacity * 16, usage: usage.queryResolve | usage.copySource });
  }

  /** For the pass of this dispatch. */
  next(dispatch: Dispatch): GPUComputePassTimestampWrites {
    const first = this.#dispatches.push(dispatch) * 2 - 2;
    return { querySet: this.#queries, beginningOfPassWriteIndex: first, endOfPassWriteIndex: first + 1 };
  }

  /** Before the encoder is finished. */
  resolve(encoder: GPUCommandEncoder): void {
    const count = this.#dispatches.length * 2;
    if (count === 0) return;
    this.#readback = this.#device.createBuffer({ size: count * 8, usage: usage.mapRead | usage.copyTarget });
    encoder.resolveQuerySet(this.#queries, 0, count, this.#resolved, 0);
    encoder.copyBufferToBuffer(this.#resolved, 0, this.#readback, 0, count * 8);
  }

  /** After the encoder is submitted. */
  submitted(): void {
    if (!this.#readback) return;
    this.#waiting.push(this.#collect(this.#readback, this.#dispatches));
    this.#readback = null;
    this.#dispatches = [];
  }

  async #collect(readback: GPUBuffer, dispatches: readonly Dispatch[]): Promise<void> {
    await readback.mapAsync(1);
    const stamps = new BigUint64Array(readback.getMappedRange());
    dispatches.forEach(({ program, flops = 0, bytes = 0 }, i) => {
      const time = this.#times.get(program.name) ?? { calls: 0, ms: 0, flops: 0, bytes: 0 };
      time.calls++;
      time.ms += Number(stamps[i * 2 + 1]! - stamps[i * 2]!) / 1e6;
      time.flops += flops;
      time.bytes += bytes;
      this.#times.set(program.name, time);
    });
    readback.destroy();
  }

  /** What was measured since the last call. */
  async take(): Promise<Map<string, ProgramTime>> {
    await Promise.all(this.#waiting.splice(0));
    const times = this.#times;
    this.#times = new Map();
    return times;
  }
}
