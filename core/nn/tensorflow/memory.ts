/**
 * What happens when memory ends, in words for a person. TensorFlow.js on WebAssembly does not look at what malloc gives:
 * past 4 GiB it would go on at address 0, over its own memory. The native library throws with a text of its own.
 */
import { AppError } from '../../contract/index.ts';

const guarded = new WeakSet<object>();

function ended(what: string, cause?: unknown): AppError {
  return new AppError(
    'engine-out-of-memory',
    `TensorFlow.js ran out of memory: ${what}.`,
    'Take a smaller batch, smaller crops or a smaller network, or the cpu engine, which holds less.',
    { cause },
  );
}

/** @param backend TensorFlow.js's WebAssembly backend, after its first allocation */
export function guardWasm(backend: unknown): void {
  const { wasm } = backend as { wasm: { _malloc(bytes: number): number } };
  if (guarded.has(wasm)) return;
  guarded.add(wasm);
  const malloc = wasm._malloc.bind(wasm);
  wasm._malloc = (bytes) => {
    // Its malloc takes signed numbers.
    const address = bytes < 2 ** 31 ? malloc(bytes) : 0;
    if (address !== 0 || bytes === 0) return address;
    throw ended(`no room for ${(bytes / 2 ** 20).toFixed(1)} MiB more in WebAssembly's 4 GiB`);
  };
}

type Run = (...args: unknown[]) => unknown;

/** @param backend TensorFlow.js's native backend: every kernel goes through one of its two methods */
export function guardNative(backend: unknown): void {
  const methods = backend as { executeSingleOutput: Run; executeMultipleOutputs: Run };
  if (guarded.has(methods)) return;
  guarded.add(methods);
  for (const name of ['executeSingleOutput', 'executeMultipleOutputs'] as const) {
    const run = methods[name].bind(methods);
    methods[name] = (...args) => {
      try {
        return run(...args);
      } catch (error) {
        const text = /OOM when allocating tensor with shape\[[\d,]*\]/.exec((error as Error).message)?.[0];
        throw text ? ended(text, error) : error;
      }
    };
  }
}
