/** Front door of nn: the operations of a training step, and the engines that run them. */
import { availableParallelism } from 'node:os';
import { AppError } from '../contract/index.ts';
import { createCpuExecutor } from './cpu/index.ts';
import type { Executor, Precision } from './ops.ts';
import { createTensorflowExecutor, cudaNeeds, cudaState, type CudaState } from './tensorflow/index.ts';
import {
  assumedMemory,
  checkApart,
  checkDriver,
  failedBefore,
  faultError,
  rememberFailure,
  createWebgpuExecutor,
  prototypeLimitsOn,
  webgpuState,
  type Fault,
  type GpuMemory,
  type WebgpuExecutor,
  type WebgpuOptions,
  type WebgpuState,
} from './webgpu/index.ts';

export type * from './crops.ts';
export type * from './ops.ts';
export { BOX_LENGTH, mapOffsets, type GuideGrid, type PatchMaps, type UpsampleGuide } from './upsampling.ts';
/** For whoever makes crops outside an executor. */
export { applyCrop } from './pixels.ts';
/** The matrix of a resized position table, for whoever resizes one outside an executor. */
export { resizeWeights } from './positions.ts';
export { cudaFolder, cudaNeeds, cudaState } from './tensorflow/index.ts';
export type { GpuMemory } from './webgpu/index.ts';
export { rememberFailure, surveyGpus, type Survey } from './webgpu/index.ts';
export { rehearse, type ParameterShape, type Rehearsal } from './webgpu/index.ts';

export const engineNames = ['cpu', 'tensorflow', 'webgpu'] as const;
export type EngineName = (typeof engineNames)[number];
/** `auto` takes the fastest engine of this machine. */
export type EngineWish = 'auto' | EngineName;

export interface ExecutorOptions {
  readonly engine?: EngineWish;
  /** Of activations; f16 is for WebGPU. Default: the fastest that the GPU can do, f32 without one. */
  readonly precision?: Precision;
  /** Threads of the CPU engine; default: as many as the machine runs at once. */
  readonly threads?: number;
  /** Told in words when an engine that `auto` would take could not be started and the next one is tried. */
  readonly onFallback?: (reason: string) => void;
  /** File that remembers which GPU drivers have passed the check of their results; absent: checked at every start. */
  readonly gpuChecks?: string;
}

export interface EngineChoice {
  /** The engine that is taken. */
  readonly engine: EngineName;
  /** True when it runs on a GPU. */
  readonly gpu: boolean;
  /** To read after its name and a comma: what it runs on, why this one, and what is missing for a faster one. */
  readonly details: string;
  /** Of the GPU, for the webgpu engine, whose use of it can be told beforehand. */
  readonly memory?: GpuMemory;
  /** What that engine computes in by default. */
  readonly precision?: Precision;
}

/** What GPU engines could run on. */
export interface GpuFacts {
  readonly cuda: CudaState;
  readonly webgpu: WebgpuState;
}

/** What an engine is chosen from, and how the GPU's is started. */
export interface Machine {
  facts(): Promise<GpuFacts>;
  webgpu(options: WebgpuOptions): Promise<WebgpuExecutor>;
  /** What is wrong with the GPU's driver when it computes so; null when nothing is. */
  check(way: WebgpuWay): Promise<Fault | null>;
}

/** How the GPU computes; absent: as fast as it can. */
type WebgpuWay = Pick<WebgpuOptions, 'precision' | 'matrixUnits'>;

const thisMachine: Machine = {
  facts: async () => ({ cuda: cudaState(), webgpu: await webgpuState() }),
  webgpu: createWebgpuExecutor,
  check: checkApart,
};

/**
 * Which engine a wish leads to on this machine, and why. Loads none of the engines: WebGPU's adapter is looked for in a
 * process of its own, CUDA by its files. Whether a GPU can really be used shows when the engine starts.
 * @param facts for tests: what is there
 */
export async function describeEngines(
  wish: EngineWish = 'auto',
  { gpuChecks, facts }: Pick<ExecutorOptions, 'gpuChecks'> & { readonly facts?: GpuFacts } = {},
): Promise<EngineChoice> {
  const { cuda, webgpu } = facts ?? (await thisMachine.facts());
  const { adapter } = webgpu;
  const gpu = adapter !== null && !adapter.software;
  const failure = failureOf(webgpu, gpuChecks);
  const problem = failure ? `the GPU is not used: ${failure}` : webgpu.problem;
  if (wish === 'webgpu' || (wish === 'auto' && gpu && !failure)) {
    const details = adapter ? `${adapter.description}${gpu ? '' : ', a program that acts as a GPU: slow'}` : `without a GPU (${problem})`;
    return {
      engine: 'webgpu',
      gpu,
      details,
      ...(gpu && { memory: webgpu.memory ?? assumedMemory, precision: adapter.f16 ? 'f16' : 'f32' }),
    };
  }
  const ready = cuda.gpu && cuda.installed;
  if (wish === 'tensorflow' || (wish === 'auto' && ready)) {
    return { engine: 'tensorflow', gpu: ready, details: ready ? 'CUDA on an NVIDIA GPU' : `without a GPU (${missing(cuda)})` };
  }
  const cores = availableParallelism();
  const lacks = [problem || 'no GPU was found', ...(cuda.gpu || cuda.installed ? [missing(cuda)] : [])].join('; ');
  const reason = (gpu && !failure) || ready ? 'asked for' : lacks;
  return { engine: 'cpu', gpu: false, details: `${cores} ${cores === 1 ? 'thread' : 'threads'} (${reason})` };
}

/** What CUDA lacks. */
function missing({ gpu, installed }: CudaState): string {
  if (!gpu) return installed ? 'TensorFlow.js for CUDA is installed, but there is no NVIDIA driver' : 'no NVIDIA GPU was found';
  return `for the NVIDIA GPU: npm run setup:cuda; needs ${cudaNeeds}`;
}

/**
 * Starts an engine; TensorFlow.js and Dawn are loaded only for their own. `auto` goes down the list: WebGPU on a GPU,
 * TensorFlow.js on CUDA, the CPU.
 * @param machine for tests: what is there
 * @throws Error when it is not built or there is nothing it can run on; AppError engine-unavailable when the GPU's driver
 * computes wrongly, engine-out-of-memory from its operations when memory ends
 */
export async function createExecutor(options: ExecutorOptions = {}, machine: Machine = thisMachine): Promise<Executor> {
  const { engine = 'auto', precision, threads, onFallback } = options;
  if (engine !== 'auto' && !engineNames.includes(engine))
    throw new Error(`There is no engine ${String(engine)}: ${engineNames.join(', ')} or auto.`);
  if (engine === 'webgpu') return startWebgpu(options, machine);
  const refuse16 = (): void => {
    if (precision === 'f16') throw new Error('f16 is for the webgpu engine on a GPU that has it; the others compute in f32.');
  };
  if (engine !== 'auto') refuse16();
  if (engine === 'tensorflow') return createTensorflowExecutor();
  if (engine === 'auto') {
    const { cuda, webgpu } = await machine.facts();
    const known = failureOf(webgpu, options.gpuChecks);
    if (known !== null) onFallback?.(`WebGPU does not use the GPU: ${known}.`);
    else if (webgpu.adapter && !webgpu.adapter.software) {
      try {
        return await startWebgpu(options, machine);
      } catch (error) {
        const advice = error instanceof AppError ? ` ${error.action}` : '';
        onFallback?.(`WebGPU could not use the GPU (${(error as Error).message}); the next engine is tried.${advice}`);
      }
    }
    if (cuda.gpu && cuda.installed && precision !== 'f16') {
      try {
        return await createTensorflowExecutor({ backend: 'cuda' });
      } catch (error) {
        onFallback?.(`TensorFlow.js could not use the GPU (${(error as Error).message}); training goes on the CPU.`);
      }
    }
  }
  refuse16();
  return createCpuExecutor(threads === undefined ? {} : { threads });
}

/** What is known to be wrong with the driver of the machine's adapter, in words, or null. */
function failureOf({ adapter }: WebgpuState, gpuChecks: string | undefined): string | null {
  const wrong = adapter && gpuChecks !== undefined ? failedBefore(gpuChecks, adapter) : null;
  return wrong && `its driver ${wrong} (checked before; patchwise doctor checks again)`;
}

/** Part of a GPU's memory that the engine may hold buffers for that it does not use at the moment. */
const kept = 0.9;

/**
 * Starts on the GPU in the fastest way that its driver does rightly. A program that acts as a GPU is not checked: it takes a
 * minute or more for that, and is never taken by itself.
 * @throws AppError engine-unavailable when the driver computes wrongly in every way that is allowed
 */
async function startWebgpu({ gpuChecks, precision, onFallback }: ExecutorOptions, machine: Machine): Promise<Executor> {
  const { webgpu } = await machine.facts();
  const memory = webgpu.memory?.bytes;
  let way: WebgpuWay = precision ? { precision } : {};
  for (;;) {
    const executor = await machine.webgpu({ ...way, ...(memory && { memoryLimit: kept * memory }), limits: prototypeLimitsOn(memory) });
    if (executor.engine.runtime.device.software) return executor;
    const tried = { ...way, precision: executor.precision };
    const fault = await checkDriver(executor, { file: gpuChecks ?? null, check: () => machine.check(tried) });
    if (!fault) return executor;
    await executor.dispose();
    const { device } = executor.engine.runtime;
    const error = faultError(device, fault);
    const next = simplerWay(executor, precision);
    if (!next) {
      if (fault.certain && !precision && gpuChecks !== undefined) rememberFailure(gpuChecks, device, fault.wrong);
      throw error;
    }
    onFallback?.(`${error.message} ${next.words}`);
    ({ way } = next);
  }
}

/**
 * What to try where the driver computes wrongly: without matrix units, then in f32, if f16 was not asked for.
 * @returns null when there is nothing simpler
 */
function simplerWay({ precision, engine }: WebgpuExecutor, asked: Precision | undefined): { way: WebgpuWay; words: string } | null {
  if (precision === 'f32') return null;
  if (engine.caps.matrices.length > 0) return { way: { precision, matrixUnits: false }, words: 'Its matrix units are left unused.' };
  if (asked) return null;
  return { way: { precision: 'f32', matrixUnits: false }, words: 'It computes in f32 instead, which takes more time and memory.' };
}
