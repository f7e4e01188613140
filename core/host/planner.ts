/** What training and proposing would run with on this machine. The numbers are dinov2's and nn's; this asks them. */
import { availableParallelism, totalmem } from 'node:os';
import type { TrainPresets } from '../contract/index.ts';
import type { PhaseOverrides, RunConfig } from '../dinov2/index.ts';
import type { EngineWish } from '../nn/index.ts';

export interface Planner {
  /** In words, the executor's name first: "cpu, 2 threads (...)". */
  engine(): Promise<string>;
  /** @throws AppError bad-input, weights-unreadable */
  presets(images: number, sources?: Sources): Promise<TrainPresets>;
  /** presetId null: the recommended one. @throws AppError bad-input, weights-unreadable */
  config(presetId: string | null, images: number, overrides: PhaseOverrides, engine?: EngineWish, sources?: Sources): Promise<RunConfig>;
}

/** Weights to start from: a file that the project keeps, and what they are in words. */
export interface StartFrom {
  readonly file: string;
  readonly name: string;
}

/** What a run follows; nothing of it: random weights, and the student's own average teaches. */
export interface Sources {
  readonly start?: StartFrom | null;
  readonly teacher?: StartFrom | null;
}

/** Asks the rooms, with this machine's facts; both are loaded when first asked. */
export function machinePlanner(): Planner {
  const facts = async (images: number, wish?: EngineWish) => {
    const { engine, gpu, details } = (await import('../nn/index.ts')).describeEngines(wish);
    return { images, cores: availableParallelism(), memoryBytes: totalmem(), engine: `${engine}, ${details}`, gpu };
  };
  return {
    engine: async () => (await facts(0)).engine,
    presets: async (images, { start, teacher } = {}) => {
      const { describeStart, DISTILL, HIGH_RESOLUTION, phasePresets, trainPresets } = await import('../dinov2/index.ts');
      const known = await facts(images);
      if (teacher) return phasePresets(DISTILL, await describeStart(teacher.file, teacher.name), known);
      if (start) return phasePresets(HIGH_RESOLUTION, await describeStart(start.file, start.name), known);
      return trainPresets(known);
    },
    config: async (presetId, images, overrides, wish, { start, teacher } = {}) => {
      const { describeStart, distillConfig, highResolutionConfig, resolveConfig, trainPresets } = await import('../dinov2/index.ts');
      const known = await facts(images, wish);
      if (teacher) return distillConfig(await describeStart(teacher.file, teacher.name), known, overrides);
      if (start) return highResolutionConfig(await describeStart(start.file, start.name), known, overrides);
      return resolveConfig(presetId ?? trainPresets(known).recommendedId, known, overrides);
    },
  };
}
