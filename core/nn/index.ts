/** Front door of nn: the operations of a training step, and the engines that run them. */
import { availableParallelism } from 'node:os';
import { createCpuExecutor } from './cpu/index.ts';
import type { Executor } from './ops.ts';

export type * from './ops.ts';
/** The matrix of a resized position table, for whoever resizes one outside an executor. */
export { resizeWeights } from './cpu/index.ts';

export type EngineName = 'cpu';

export interface ExecutorOptions {
  /** `auto` takes the fastest engine of this machine. */
  readonly engine?: 'auto' | EngineName;
  /** Threads of the CPU engine; default: as many as the machine runs at once. */
  readonly threads?: number;
}

export interface EngineChoice {
  /** The engine that `auto` takes. */
  readonly engine: EngineName;
  /** To read after its name and a comma: what it runs on, and why this one. */
  readonly details: string;
}

/** Which engine `auto` takes on this machine, and why. */
export function describeEngines(): EngineChoice {
  const cores = availableParallelism();
  return {
    engine: 'cpu',
    details: `${cores} ${cores === 1 ? 'thread' : 'threads'} (the only engine in this version)`,
  };
}

/**
 * Starts an engine.
 * @throws Error when it is not built; AppError engine-out-of-memory from its operations when memory ends
 */
export async function createExecutor(options: ExecutorOptions = {}): Promise<Executor> {
  const engine = options.engine === undefined || options.engine === 'auto' ? describeEngines().engine : options.engine;
  if (engine !== 'cpu') throw new Error(`There is no engine ${String(engine)}: cpu or auto.`);
  return createCpuExecutor(options.threads === undefined ? {} : { threads: options.threads });
}
