/**
 * Eight lanes out of WebAssembly's four. V8 can make one AVX2 instruction of two neighbouring SIMD instructions (an
 * experimental flag, x64 only); kernels-wide.wasm has tiles that suit it. The same multiply-adds in the same order, so the
 * same bits: which kernels run may be decided anew at each start, by their speed.
 */
import { setFlagsFromString } from 'node:v8';
import { control } from './memory.ts';

/** Every function compiled at once by the optimizing compiler, so that the flags reach no other module. */
const flags = [
  { on: '--experimental-wasm-revectorize', off: '--no-experimental-wasm-revectorize' },
  { on: '--no-liftoff', off: '--liftoff' },
  { on: '--no-wasm-lazy-compilation', off: '--wasm-lazy-compilation' },
];

/** About 30 ms. */
export function compileWide(binary: Uint8Array<ArrayBuffer>): WebAssembly.Module {
  for (const { on } of flags) setFlagsFromString(on);
  try {
    return new WebAssembly.Module(binary);
  } finally {
    for (const { off } of flags) setFlagsFromString(off);
  }
}

/** Sizes of the trial product: its blocks fit the first two caches. */
const [m, n, k] = [48, 64, 256];
const page = 65536;

/** Shortest time of a product of 48 x 64 x 256 on this thread, ms. `columns` of a panel: 8 or 16. */
function productMs(module: WebAssembly.Module, columns: number): number {
  const memory = new WebAssembly.Memory({ initial: 6, maximum: 6, shared: true });
  const table = new WebAssembly.Table({ element: 'anyfunc', initial: 128 });
  const { kProduct } = new WebAssembly.Instance(module, { env: { memory, table } }).exports as unknown as {
    kProduct: (args: number, chunk: number) => void;
  };
  const [a, b, c] = [page, 3 * page, 5 * page];
  const args = [m, n, k, a, k * 4, 4, b, columns * 4, k * columns * 4, c, n * 4, 0, m, n, 0, 0, 0];
  new Float64Array(memory.buffer, control.arguments, args.length).set(args);
  let shortest = Infinity;
  for (let i = 0; i < 12; ++i) {
    const start = performance.now();
    kProduct(control.arguments, 0);
    shortest = Math.min(shortest, performance.now() - start);
  }
  return shortest;
}

/** Whether V8 did make eight lanes of four here: it needs AVX2, and a program cannot ask for it. */
export function isWideFaster(wide: WebAssembly.Module, narrow: WebAssembly.Module): boolean {
  return process.arch === 'x64' && productMs(wide, 16) < 0.9 * productMs(narrow, 8);
}
