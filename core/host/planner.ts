/** What training and proposing would run with on this machine. The numbers are dinov2's and nn's; this asks them. */
import { availableParallelism, totalmem } from 'node:os';
import type { TrainPresets } from '../contract/index.ts';
import type { RunConfig } from '../dinov2/index.ts';
import type { EngineWish } from '../nn/index.ts';

export interface Planner {
  /** In words, the executor's name first: "cpu, 2 threads (...)". */
  engine(): Promise<string>;
  presets(images: number): Promise<TrainPresets>;
  /** presetId null: the recommended one. @throws AppError bad-input */
  config(presetId: string | null, images: number, overrides: Overrides, engine?: EngineWish): Promise<RunConfig>;
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
    presets: async (images) => (await import('../dinov2/index.ts')).trainPresets(await facts(images)),
    config: async (presetId, images, overrides, wish) => {
      const { resolveConfig, trainPresets } = await import('../dinov2/index.ts');
      const known = await facts(images, wish);
      return resolveConfig(presetId ?? trainPresets(known).recommendedId, known, overrides);
    },
  };
}
