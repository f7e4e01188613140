/**
 * Which TensorFlow.js runs underneath: CUDA (`@tensorflow/tfjs-node-gpu`), the native library on the CPU
 * (`@tensorflow/tfjs-node`), or the WebAssembly backend, which is always there. The native packages fetch a library when
 * they are installed, so they are never dependencies: they are found when a person has installed them.
 */
import { existsSync, readdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import util from 'node:util';

export type Tf = typeof import('@tensorflow/tfjs-core');

export type BackendName = 'cuda' | 'native' | 'wasm';

export interface Backend {
  readonly tf: Tf;
  readonly name: BackendName;
  readonly description: string;
}

const packages = { cuda: '@tensorflow/tfjs-node-gpu', native: '@tensorflow/tfjs-node' } as const;

/** tfjs-node-gpu 4.22 fetches libtensorflow 2.9.1, which was built and tested with these (TensorFlow's table of builds). */
export const cudaNeeds = 'an NVIDIA GPU on Linux or Windows with CUDA 11.2 and cuDNN 8.1';

/** What of CUDA is there, found by looking only: whether the library can use the card shows when it starts. */
export interface CudaState {
  /** The driver of an NVIDIA GPU is loaded. */
  readonly gpu: boolean;
  /** The package is installed and has fetched its library. */
  readonly installed: boolean;
}

/** @param root for tests: where the system's files are */
export function cudaState(root = '/'): CudaState {
  return { gpu: hasNvidiaDriver(root), installed: hasLibrary(packages.cuda) };
}

function hasNvidiaDriver(root: string): boolean {
  if (process.platform === 'win32') return existsSync(path.join(process.env['SystemRoot'] ?? 'C:\\Windows', 'System32', 'nvcuda.dll'));
  try {
    return readdirSync(path.join(root, 'proc/driver/nvidia/gpus')).length > 0;
  } catch {
    return false;
  }
}

/** True when the package is installed and its binary has been fetched. */
function hasLibrary(name: string): boolean {
  try {
    const folder = path.dirname(createRequire(import.meta.url).resolve(`${name}/package.json`));
    return readdirSync(path.join(folder, 'lib')).some((napi) => existsSync(path.join(folder, 'lib', napi, 'tfjs_binding.node')));
  } catch {
    return false;
  }
}

/**
 * Starts the first backend that can be: CUDA, native, WebAssembly; or the one that is named.
 * @throws Error when a named one cannot be started, with the reason
 */
export async function startBackend(wanted: BackendName | 'auto'): Promise<Backend> {
  if (wanted !== 'auto') return wanted === 'wasm' ? startWasm([]) : startNative(wanted);
  const missing: string[] = [];
  for (const name of ['cuda', 'native'] as const) {
    try {
      return await startNative(name);
    } catch (error) {
      missing.push(`${packages[name]}: ${firstLine(error)}`);
    }
  }
  return startWasm(missing);
}

interface NativeBackend {
  readonly isUsingGpuDevice: boolean;
}

async function startNative(name: 'cuda' | 'native'): Promise<Backend> {
  if (!hasLibrary(packages[name])) throw new Error('not installed');
  repairUtil();
  // The library's greeting lines; warnings and errors still show.
  process.env['TF_CPP_MIN_LOG_LEVEL'] ??= '1';
  const module = (await import(packages[name])) as Tf & { default?: Tf };
  const tf = module.default ?? module;
  await tf.setBackend('tensorflow');
  await tf.ready();
  const gpu = (tf.backend() as unknown as NativeBackend).isUsingGpuDevice;
  const version = tf.version_core;
  if (name === 'cuda' && gpu) return { tf, name, description: `TensorFlow.js ${version} on CUDA` };
  const why =
    name === 'cuda' ? ` (it found no GPU it can use; it needs ${cudaNeeds})` : ` (for a GPU: ${cudaNeeds}, then npm run setup:cuda)`;
  return { tf, name: 'native', description: `TensorFlow.js ${version} with the native library on the CPU${why}` };
}

async function startWasm(missing: readonly string[]): Promise<Backend> {
  const { default: module, ...named } = (await import('@tensorflow/tfjs-core')) as Tf & { default?: Tf };
  const tf = module ?? (named as Tf);
  await import('@tensorflow/tfjs-backend-wasm');
  await tf.setBackend('wasm');
  await tf.ready();
  const why = missing.length > 0 ? ` (${missing.join('; ')}; for a GPU: ${cudaNeeds}, then npm run setup:cuda)` : '';
  return { tf, name: 'wasm', description: `TensorFlow.js ${tf.version_core} on WebAssembly, 1 thread${why}` };
}

/** tfjs-node 4.22 calls util.isNullOrUndefined, which Node 23 removed (tensorflow/tfjs#8609). */
function repairUtil(): void {
  const old = util as { isNullOrUndefined?: (value: unknown) => boolean };
  old.isNullOrUndefined ??= (value) => value === null || value === undefined;
}

function firstLine(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).split('\n', 1)[0]!;
}
