/** What training and proposing would run with on this machine. The numbers are dinov2's and nn's; this asks them. */
import { availableParallelism, totalmem } from 'node:os';
import type { TrainPresets } from '../contract/index.ts';
import type { RunConfig } from '../dinov2/index.ts';
import type { EngineWish } from '../nn/index.ts';

export interface Planner {
  /** In words, the executor's name first: "cpu, 2 threads (...)". */
  engine(): Promise<string>;
  /** start null: from random weights. @throws AppError weights-unreadable */
  presets(images: number, start: StartFrom | null): Promise<TrainPresets>;
  /** presetId null: the recommended one. @throws AppError bad-input, weights-unreadable */
  config(presetId: string | null, images: number, overrides: Overrides, engine?: EngineWish, start?: StartFrom | null): Promise<RunConfig>;
}

/** Weights to start from: a file that the project keeps, and what they are in words. */
export interface StartFrom {
  readonly file: string;
  readonly name: string;
}

export interface Overrides {
  readonly steps: number | null;
  readonly batch: number | null;
  readonly seed: number | null;
}

/** Asks the rooms, with this machine's facts; both are loaded when first asked. */
export function machinePlanner(): Planner {
  const facts = async (images: number, wish?: EngineWish) => {
    const { engine, gpu, details } = (await import('../nn/index.ts')).describeEngines(wish);
    return { images, cores: availableParallelism(), memoryBytes: totalmem(), engine: `${engine}, ${details}`, gpu };
  };
  return {
    engine: async () => (await facts(0)).engine,
    presets: async (images, start) => {
      const { describeStart, trainPresets } = await import('../dinov2/index.ts');
      return trainPresets(await facts(images), start && (await describeStart(start.file, start.name)));
    },
    config: async (presetId, images, overrides, wish, start = null) => {
      const { describeStart, resolveConfig, trainPresets } = await import('../dinov2/index.ts');
      const known = await facts(images, wish);
      const from = start && (await describeStart(start.file, start.name));
      return resolveConfig(presetId ?? trainPresets(known, from).recommendedId, known, overrides, from);
    },
  };
}
