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

/**
 * Asks the rooms, with this machine's facts; both are loaded when first asked.
 * @param gpuChecks file that remembers what GPU drivers are known to fail
 */
export function machinePlanner(gpuChecks?: string): Planner {
  const facts = async (images: number, wish?: EngineWish) => {
    const { engine, gpu, details, memory, precision } = await (
      await import('../nn/index.ts')
    ).describeEngines(wish, { ...(gpuChecks && { gpuChecks }) });
    return {
      images,
      cores: availableParallelism(),
      memoryBytes: totalmem(),
      engine: `${engine}, ${details}`,
      gpu,
      ...(memory && { gpuMemory: memory }),
      ...(precision && { precision }),
    };
  };
  return {
    engine: async () => (await facts(0)).engine,
    presets: async (images, { start, teacher } = {}) => {
      const { describeStart, DISTILL, HIGH_RESOLUTION, phasePresets, trainPresets } = await import('../dinov2/index.ts');
      const known = await facts(images);
      if (teacher) return phasePresets(DISTILL, await describeStart(teacher.file, teacher.name), known);
      if (!start) return trainPresets(known);
      const from = await describeStart(start.file, start.name);
      const continued = trainPresets(known, from);
      // A phase at larger crops carries on a run; imported weights have none.
      return from.run
        ? { ...continued, presets: [...continued.presets, ...phasePresets(HIGH_RESOLUTION, from, known).presets] }
        : continued;
    },
    config: async (presetId, images, overrides, wish, { start, teacher } = {}) => {
      const dinov2 = await import('../dinov2/index.ts');
      const known = await facts(images, wish);
      if (teacher) return dinov2.distillConfig(await dinov2.describeStart(teacher.file, teacher.name), known, overrides);
      const from = start ? await dinov2.describeStart(start.file, start.name) : null;
      if (from && presetId === dinov2.HIGH_RESOLUTION) return dinov2.highResolutionConfig(from, known, overrides);
      return dinov2.resolveConfig(presetId ?? dinov2.trainPresets(known, from).recommendedId, known, overrides, from);
    },
  };
}
