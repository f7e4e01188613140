/** What a device reaches: products of matrices, and streaming through arrays, by this room's own kernels. For people, and for shares of it. */
import type { Engine } from './engine.ts';
import { movingAverage } from './kernels/update.ts';
import { multiply } from './products.ts';

export interface GpuSpeed {
  /** Arithmetic a second of f32 products, in 1e12. */
  readonly f32: number;
  /** Of products of f16 with sums in f32, where the device has f16. */
  readonly f16: number | null;
  /** Bytes a second that a moving average of two arrays reads and writes, in 1e9. */
  readonly streamed: number;
}

/** Square products grow to this side, arrays to this many floats, unless the device is slow. */
const mostSide = 4096;
const mostFloats = 2 ** 26;
/** A measurement shorter than this says more about the clock and the queue than about the kernel. */
const leastMs = 40;
/** Cards clock up in the first of them. */
const repeats = 4;

/** Takes a second or two on a GPU; on a program that acts as one the sizes stay small. */
export async function measureSpeed(engine: Engine): Promise<GpuSpeed> {
  const f32 = await productSpeed(engine, 'f32');
  const f16 = engine.caps.f16 ? await productSpeed(engine, 'f16') : null;
  return { f32: f32 / 1e12, f16: f16 === null ? null : f16 / 1e12, streamed: (await streamSpeed(engine)) / 1e9 };
}

/** Operations a second of n x n x n products. */
async function productSpeed(engine: Engine, element: 'f32' | 'f16'): Promise<number> {
  for (let n = 256; ; n *= 2) {
    const rate = await engine.scope(async () => {
      const [a, b, c] = [engine.make([n, n], element), engine.make([n, n], element), engine.make([n, n], element)];
      return fastest(engine, 2 * n ** 3, n === mostSide, () => multiply(engine, 'nt', { m: n, n, k: n }, a, b, c));
    });
    if (rate !== null) return rate;
  }
}

/** Bytes a second of y = 0.9 y + 0.1 x: of each pair of values 12 bytes are moved. */
async function streamSpeed(engine: Engine): Promise<number> {
  for (let count = 2 ** 18; ; count *= 4) {
    const rate = await engine.scope(async () => {
      const [x, y] = [engine.make([count]), engine.make([count])];
      return fastest(engine, 12 * count, count * 4 > mostFloats, () =>
        engine.run(movingAverage(engine.caps, { x, y, half: null, guard: null }, count, { momentum: 0.9, guards: 0 })),
      );
    });
    if (rate !== null) return rate;
  }
}

/** The best of several, `work` over seconds; null when it is over too soon to be measured and something larger is left. */
async function fastest(engine: Engine, work: number, largest: boolean, once: () => void): Promise<number | null> {
  const timed = async (count: number): Promise<number> => {
    const start = performance.now();
    for (let i = 0; i < count; i++) once();
    await engine.runtime.settle();
    return performance.now() - start;
  };
  await timed(1); // compiles
  const single = await timed(1);
  if (single < leastMs && !largest) return null;
  const count = Math.max(1, Math.ceil(leastMs / single));
  let best = Infinity;
  for (let i = 0; i < repeats; i++) best = Math.min(best, (await timed(count)) / count);
  return (1000 * work) / best;
}
