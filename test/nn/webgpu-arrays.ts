/** Arrays on a device for kernel tests: from the middle of larger buffers, so that offsets count, and guarded by sentinels. */
import assert from 'node:assert/strict';
import type { Region } from '../../core/nn/webgpu/program.ts';
import { part } from '../../core/nn/webgpu/program.ts';
import type { Runtime } from '../../core/nn/webgpu/runtime.ts';
import type { Random } from './draw.ts';

export type Stored = 'f32' | 'f16';

/** Bytes before and behind the array: the alignment of regions. */
const margin = 256;
/** What the memory around an array holds; as f16 and f32 no value that a kernel would write. */
const sentinel = 0xa5;

const arrayOf = (element: Stored, buffer: ArrayBuffer): Float32Array | Float16Array =>
  element === 'f16' ? new Float16Array(buffer) : new Float32Array(buffer);

export const bytesOf = (element: Stored): number => (element === 'f16' ? 2 : 4);

/** Normal values as the element holds them. */
export function draw(random: Random, element: Stored, count: number, scale = 1): Float64Array {
  return Float64Array.from({ length: count }, () => {
    const value = random.normal() * scale;
    return element === 'f16' ? Math.f16round(value) : Math.fround(value);
  });
}

/** Arrays of one test; a device without f16 holds f16 as f32, for programs written out in f32 (webgpu-emulate.ts). */
export class Arrays {
  readonly #runtime: Runtime;
  readonly #widened: boolean;
  readonly #taken: { region: Region; whole: Region; bytes: number }[] = [];

  constructor(runtime: Runtime, widened = false) {
    this.#runtime = runtime;
    this.#widened = widened;
  }

  put(element: Stored, values: ArrayLike<number>): Region {
    const held = this.#widened ? 'f32' : element;
    const bytes = values.length * bytesOf(held);
    const padded = Math.ceil(bytes / margin) * margin;
    const whole = this.#runtime.take(padded + 2 * margin);
    const image = new Uint8Array(padded + 2 * margin).fill(sentinel);
    const data = held === 'f16' ? Float16Array.from(values) : Float32Array.from(values);
    image.set(new Uint8Array(data.buffer), margin);
    this.#runtime.write(whole, image);
    const region = part(whole, margin, padded);
    this.#taken.push({ region, whole, bytes });
    return region;
  }

  async get(element: Stored, region: Region, count: number): Promise<Float64Array> {
    const held = this.#widened ? 'f32' : element;
    const buffer = await this.#runtime.read(region, count * bytesOf(held));
    return Float64Array.from(arrayOf(held, buffer));
  }

  /** Nothing around the arrays was written; gives them back. */
  async end(): Promise<void> {
    for (const { whole, bytes } of this.#taken) {
      const image = new Uint8Array(await this.#runtime.read(whole));
      const around = [
        ...image.subarray(0, margin),
        ...image.subarray(margin + bytes, margin + Math.ceil(bytes / margin) * margin + margin),
      ];
      assert(
        around.every((byte) => byte === sentinel),
        'memory beside an array was written',
      );
      this.#runtime.give(whole);
    }
    this.#taken.length = 0;
  }
}

/** @param tolerance relative to the largest wanted value @param perValue relative to each value besides */
export function assertNear(actual: ArrayLike<number>, wanted: ArrayLike<number>, tolerance: number, perValue: number, what: string): void {
  assert.equal(actual.length, wanted.length, `${what}: length`);
  let largest = 0;
  for (let i = 0; i < wanted.length; ++i) largest = Math.max(largest, Math.abs(wanted[i]!));
  let worst = 0;
  let place = 0;
  for (let i = 0; i < wanted.length; ++i) {
    const allowed = tolerance * largest + perValue * Math.abs(wanted[i]!) + 1e-30;
    const share = Math.abs(actual[i]! - wanted[i]!) / allowed;
    if (!(share <= worst)) [worst, place] = [share, i];
  }
  assert(worst <= 1, `${what}: [${place}] is ${actual[place]}, wanted ${wanted[place]}: ${worst.toFixed(1)} times the allowed error`);
}
