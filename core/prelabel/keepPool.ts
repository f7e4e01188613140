/** Features made ready and written on threads, so that the one that holds an engine can give it the next. */
import { availableParallelism } from 'node:os';
import { AppError } from '../contract/index.ts';
import { ThreadPool } from '../threads.ts';
import type { PatchFeatures } from './featureFile.ts';
import type { KeepItem, KeepReply } from './keepThread.ts';

const mostThreads = 8;
/** Fewer images than this for each thread do not repay its start. */
const imagesPerThread = 16;

export interface KeepThreads {
  /**
   * As `keepFeatures`; takes the passes over.
   * @throws AppError not-finite, engine-died, and for what writing throws
   */
  keep(file: string, passes: readonly PatchFeatures[]): Promise<void>;
  end(): Promise<void>;
}

/** Threads that start when the first features come. @param images that may come */
export function keepThreads(images: number): KeepThreads {
  const entry = new URL(import.meta.url.endsWith('.ts') ? './keepThread.ts' : './keepThread.js', import.meta.url);
  const threads = Math.min(mostThreads, availableParallelism(), Math.ceil(images / imagesPerThread));
  let pool: ThreadPool<KeepItem, KeepReply> | null = null;
  return {
    async keep(file, passes) {
      const memory = passes.flatMap(({ patches, cls }) => [patches.buffer, cls.buffer] as ArrayBuffer[]);
      pool ??= new ThreadPool({ entry, name: 'patchwise-keep', settings: null, threads, does: 'keeps features' });
      const error = await pool.ask({ file, passes }, false, memory);
      if (error) throw new AppError(error.code, error.message, error.action);
    },
    end: async () => pool?.end(),
  };
}
