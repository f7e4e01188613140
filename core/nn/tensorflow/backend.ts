/**
 * Which TensorFlow.js runs underneath: CUDA (`@tensorflow/tfjs-node-gpu`), the native library on the CPU
 * (`@tensorflow/tfjs-node`), or the WebAssembly backend, which is always there. The native packages fetch a library when
 * they are installed, so they are never dependencies: they are found when a person has installed them.
 */
import { existsSync, readdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import util from 'node:util';
import { guardNative, guardWasm } from './memory.ts';

export type Tf = typeof import('@tensorflow/tfjs-core');

export type BackendName = 'cuda' | 'native' | 'wasm';

export interface Backend {
  readonly tf: Tf;
  readonly name: BackendName;
  readonly description: string;
}

const packages = { cuda: '@tensorflow/tfjs-node-gpu', native: '@tensorflow/tfjs-node' } as const;

/** Where `npm run setup:cuda` puts its package: out of reach of `npm ci`, which would remove it. */
export const cudaFolder = path.resolve(import.meta.dirname, '../../../.cache/cuda');

/** tfjs-node-gpu 4.22 fetches libtensorflow 2.9.1, which TensorFlow's table of tested builds lists with these two. */
export const cudaNeeds = 'CUDA 11.2 and cuDNN 8.1, on Linux or Windows (x64)';

/** What of CUDA is there, found by looking only: whether the library can use the card shows when it starts. */
export interface CudaState {
  /** The driver of an NVIDIA GPU is loaded. */
  readonly gpu: boolean;
  /** The package is installed and has fetched its library. */
  readonly installed: boolean;
}

export function cudaState(): CudaState {
  return { gpu: hasNvidiaDriver(), installed: nativeProgram(packages.cuda) !== null };
}

function hasNvidiaDriver(): boolean {
  if (process.platform === 'win32') return existsSync(path.join(process.env['SystemRoot'] ?? 'C:\\Windows', 'System32', 'nvcuda.dll'));
  try {
    return readdirSync('/proc/driver/nvidia/gpus').length > 0;
  } catch {
    return false;
  }
}

/** The program of an installed package, or null when it is not there or has not fetched its library. */
function nativeProgram(name: string): string | null {
  for (const from of [path.join(cudaFolder, 'package.json'), import.meta.url]) {
    try {
      const require = createRequire(from);
      const lib = path.join(path.dirname(require.resolve(`${name}/package.json`)), 'lib');
      if (readdirSync(lib).some((version) => existsSync(path.join(lib, version, 'tfjs_binding.node')))) return require.resolve(name);
    } catch {
      // not there
    }
  }
  return null;
}

/**
 * Starts the first backend that can be: CUDA, native, WebAssembly; or the one that is named.
 * @throws Error when the one that is named cannot be started, with the reason
 */
export async function startBackend(wanted: BackendName | 'auto'): Promise<Backend> {
  if (wanted === 'wasm') return startWasm([]);
  if (wanted !== 'auto') {
    const backend = await startNative(wanted);
    if (wanted === 'cuda' && backend.name !== 'cuda') throw new Error(`it found no GPU that it can use; it needs ${cudaNeeds}`);
    return backend;
  }
  const broken: string[] = [];
  for (const name of ['cuda', 'native'] as const) {
    if (!nativeProgram(packages[name])) continue;
    try {
      return await startNative(name);
    } catch (error) {
      broken.push(`${packages[name]} is installed but cannot be loaded: ${(error as Error).message}`);
    }
  }
  return startWasm(broken);
}

async function startNative(name: 'cuda' | 'native'): Promise<Backend> {
  const program = nativeProgram(packages[name]);
  if (!program) throw new Error(`${packages[name]} is not installed`);
  repairUtil();
  // The library greets at level 0; its warnings and errors still show.
  process.env['TF_CPP_MIN_LOG_LEVEL'] ??= '1';
  const module = (await import(pathToFileURL(program).href)) as { default: Tf };
  const tf = module.default;
  await tf.setBackend('tensorflow');
  await tf.ready();
  guardNative(tf.backend());
  const onGpu = (tf.backend() as unknown as { isUsingGpuDevice: boolean }).isUsingGpuDevice;
  const version = `TensorFlow.js ${tf.version_core}`;
  return onGpu
    ? { tf, name: 'cuda', description: `${version} with the native library on CUDA` }
    : { tf, name: 'native', description: `${version} with the native library on the CPU; a GPU needs ${cudaNeeds}` };
}

/** @param broken why native libraries that are installed are not used */
async function startWasm(broken: readonly string[]): Promise<Backend> {
  const { default: tf } = (await import('@tensorflow/tfjs-core')) as unknown as { default: Tf };
  await import('@tensorflow/tfjs-backend-wasm');
  await tf.setBackend('wasm');
  await tf.ready();
  tf.scalar(0).dispose(); // the first allocation sets up its malloc
  guardWasm(tf.backend());
  const why = broken.length > 0 ? broken : [`a GPU needs npm run setup:cuda, ${cudaNeeds}`];
  return { tf, name: 'wasm', description: [`TensorFlow.js ${tf.version_core} on WebAssembly, 1 thread`, ...why].join('; ') };
}

/** tfjs-node 4.22 calls util.isNullOrUndefined, which Node 23 removed (tensorflow/tfjs#8609), and util.isArray, of which Node warns. */
function repairUtil(): void {
  const old = util as { isNullOrUndefined?: (value: unknown) => boolean; isArray: (value: unknown) => boolean };
  old.isNullOrUndefined ??= (value) => value === null || value === undefined;
  old.isArray = Array.isArray;
}
