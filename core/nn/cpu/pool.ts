/**
 * The threads that run kernels: this one and worker threads, each with an instance of the same WebAssembly module over
 * one shared memory. Starts, feeds and ends them; which kernel does what is none of its business.
 */
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { AppError } from '../../contract/index.ts';
import { control, roundUp, type Heap } from './memory.ts';
import { compileWide, isWideFaster } from './wide.ts';

/** Four lanes with fused multiply-add or without; eight (`wide.ts`). */
export type SimdKind = 'wide' | 'relaxed' | 'plain';

export interface Kernels {
  readonly simd: SimdKind;
  readonly module: WebAssembly.Module;
}

/** (module (func (drop (f32x4.relaxed_madd ...)))): valid only where relaxed SIMD is. */
const relaxedProbe = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 19, 1, 17, 0, 65, 0, 253, 17, 65, 0, 253, 17, 65, 0, 253, 17, 253,
  133, 2, 11,
]);

/** Whether this runtime has relaxed SIMD (V8 from Node 21 on). */
export function hasRelaxedSimd(): boolean {
  return WebAssembly.validate(relaxedProbe);
}

/**
 * `auto`: the fastest that this runtime and processor have.
 * @throws Error when the kernels are not built
 */
export async function loadKernels(wanted: 'auto' | SimdKind): Promise<Kernels> {
  const load = async (simd: SimdKind): Promise<Kernels> => {
    const binary = await readKernels(simd);
    return { simd, module: simd === 'wide' ? compileWide(binary) : await WebAssembly.compile(binary) };
  };
  if (wanted !== 'auto') return load(wanted);
  const relaxed = await load(hasRelaxedSimd() ? 'relaxed' : 'plain');
  if (relaxed.simd !== 'relaxed' || process.arch !== 'x64') return relaxed;
  const wide = await load('wide');
  return isWideFaster(wide.module, relaxed.module) ? wide : relaxed;
}

/** From dist/wasm, seen from the sources or from compiled files in dist/core/nn/cpu. */
async function readKernels(simd: SimdKind): Promise<Uint8Array<ArrayBuffer>> {
  const name = `kernels-${simd}.wasm`;
  const places = ['../../../dist/wasm/', '../../../wasm/'].map((folder) => fileURLToPath(new URL(folder + name, import.meta.url)));
  const file = places.find((place) => existsSync(place));
  if (!file) throw new Error(`The CPU kernels are not built: ${places[0]} is missing. Run \`node build/wasm.mjs\`.`);
  return new Uint8Array(await readFile(file));
}

interface Exports {
  readonly [kernel: string]: CallableFunction;
}

/**
 * One instance of the module, its kernels numbered in the order of the module's exports. Also the source of the worker
 * threads (as text, so that it needs no file of its own beside whatever this code is bundled into).
 */
function instantiate(module: WebAssembly.Module, memory: WebAssembly.Memory, thread: number): Exports {
  const kernels = WebAssembly.Module.exports(module).filter(({ name }) => /^k[A-Z]/.test(name));
  const table = new WebAssembly.Table({ element: 'anyfunc', initial: kernels.length + 64 });
  const exports = new WebAssembly.Instance(module, { env: { memory, table } }).exports as unknown as Exports;
  kernels.forEach(({ name }, i) => table.set(64 + i, exports[name]!));
  exports['setThread']!(thread);
  return exports;
}

const workerSource = `
const { parentPort, workerData } = require('node:worker_threads');
const { module, memory, thread, control } = workerData;
${instantiate.toString()}
const exports_ = instantiate(module, memory, thread);
parentPort.postMessage('ready');
try {
  exports_.workerLoop();
} catch (error) {
  const words = new Int32Array(memory.buffer);
  Atomics.store(words, control.failed / 4, 1);
  Atomics.notify(words, control.done / 4);
  throw error;
}`;

/** Time and work of one kernel, summed; for benchmarks. */
export interface KernelTime {
  calls: number;
  ms: number;
  flops: number;
}

export class Pool {
  readonly threads: number;
  readonly simd: SimdKind;
  /** Columns of a panel of a product's right side: COLUMNS of kernels/gemm.ts. */
  readonly columns: 8 | 16;
  /** Set to a map to have every kernel timed. */
  profile: Map<string, KernelTime> | null = null;
  /** What the profile is measured with, ms. */
  clock: () => number = () => performance.now();
  readonly #heap: Heap;
  readonly #exports: Exports;
  readonly #workers: Worker[];
  readonly #kernels = new Map<string, number>();
  readonly #words: Int32Array;
  readonly #arguments: Float64Array;
  #scratch = 0;
  #scratchBytes = 0;
  #died: Error | null = null;

  private constructor(heap: Heap, simd: SimdKind, exports: Exports, workers: Worker[], kernels: string[]) {
    this.#heap = heap;
    this.simd = simd;
    this.threads = workers.length + 1;
    this.#exports = exports;
    this.#workers = workers;
    kernels.forEach((name, i) => this.#kernels.set(name, 64 + i));
    // Low addresses only, so these views stay right when the memory grows.
    this.#words = new Int32Array(heap.memory.buffer, 0, 256);
    this.#arguments = new Float64Array(heap.memory.buffer, control.arguments, 24);
    for (const worker of workers) worker.on('error', (error) => (this.#died ??= error as Error));
    this.columns = simd === 'wide' ? 16 : 8;
    this.scratch(64 * 1024);
  }

  /** @param threads at least 1, this thread included */
  static async start(heap: Heap, threads: number, { simd, module }: Kernels): Promise<Pool> {
    const exports = instantiate(module, heap.memory, 0);
    const workers: Worker[] = [];
    const ready: Promise<void>[] = [];
    for (let thread = 1; thread < threads; ++thread) {
      const worker = new Worker(workerSource, {
        eval: true,
        name: `patchwise-cpu-${thread}`,
        workerData: { module, memory: heap.memory, thread, control },
        // The kernels need no heap; what a worker inherits otherwise (type stripping, inspectors) it does not need either.
        execArgv: [],
        resourceLimits: { maxOldGenerationSizeMb: 64 },
      });
      workers.push(worker);
      ready.push(
        new Promise((resolve, reject) => {
          worker.once('message', () => resolve());
          worker.once('error', reject);
          worker.once('exit', (code) => reject(new Error(`A CPU worker thread ended with code ${code} before it was ready.`)));
        }),
      );
    }
    try {
      await Promise.all(ready);
    } catch (error) {
      await Promise.all(workers.map((worker) => worker.terminate()));
      throw error;
    }
    // Sleeping workers keep no process alive.
    for (const worker of workers) worker.unref();
    const kernels = WebAssembly.Module.exports(module)
      .map(({ name }) => name)
      .filter((name) => /^k[A-Z]/.test(name));
    return new Pool(heap, simd, exports, workers, kernels);
  }

  /** Makes each thread's scratch memory at least `bytes` long. Contents are lost. */
  scratch(bytes: number): void {
    if (bytes <= this.#scratchBytes) return;
    // An odd number of cache lines apart, so that threads do not fight for the same cache sets.
    const each = Math.ceil(bytes / 64) * 64 + 64;
    if (this.#scratch) this.#heap.free(this.#scratch);
    this.#scratch = this.#heap.allocate(each * this.threads);
    this.#scratchBytes = bytes;
    this.#words[control.scratch / 4] = this.#scratch;
    this.#words[control.scratchBytes / 4] = each;
  }

  /** Bytes of the heap that scratch takes. */
  get scratchHeld(): number {
    return roundUp(this.#words[control.scratchBytes / 4]! * this.threads + 64, 64);
  }

  /**
   * Runs `chunks` chunks of a kernel and returns when all are done.
   * @param flops arithmetic operations, for the profile only
   * @throws AppError engine-died when a worker thread has died
   */
  run(kernel: string, chunks: number, args: readonly number[], flops = 0): void {
    if (chunks <= 0) return;
    const index = this.#kernels.get(kernel);
    if (index === undefined) throw new Error(`There is no kernel ${kernel}.`);
    const started = this.profile ? this.clock() : 0;
    this.#arguments.set(args);
    this.#words[control.kernel / 4] = index;
    this.#words[control.count / 4] = chunks;
    if (this.threads === 1 || chunks === 1) this.#exports['runAlone']!();
    else if (this.#exports['forkJoin']!() !== 0) this.#fail();
    if (this.profile) {
      const time = this.profile.get(kernel) ?? { calls: 0, ms: 0, flops: 0 };
      time.calls++;
      time.ms += this.clock() - started;
      time.flops += flops;
      this.profile.set(kernel, time);
    }
  }

  #fail(): never {
    const options = this.#died ? { cause: this.#died } : {};
    throw new AppError(
      'engine-died',
      'A worker thread of the CPU engine has died.',
      'Start the job again; training goes on from its last checkpoint.',
      options,
    );
  }

  /** Ends the workers. Nothing can run afterwards. */
  async dispose(): Promise<void> {
    Atomics.store(this.#words, control.quit / 4, 1);
    // A new generation, with no job in it, wakes them.
    Atomics.store(this.#words, control.count / 4, 0);
    Atomics.add(this.#words, control.ticket / 4 + 1, 1);
    Atomics.notify(this.#words, control.ticket / 4 + 1);
    await Promise.all(this.#workers.map((worker) => worker.terminate()));
  }
}
