/** Values that change with the step. All are one family: a linear warm-up, then half a cosine to the end (spec 6). */
import type { RunConfig } from './config.ts';

export interface Schedule {
  readonly warmupStart: number;
  /** Value at the end of the warm-up. */
  readonly base: number;
  /** Value that the cosine approaches, and keeps after the last step. */
  readonly final: number;
  readonly warmupSteps: number;
  readonly steps: number;
}

/**
 * Value at a step counted from 0. The warm-up includes both its ends, as numpy's linspace; the cosine starts at `base`
 * on step warmupSteps.
 */
export function scheduleAt({ warmupStart, base, final, warmupSteps, steps }: Schedule, step: number): number {
  if (step < warmupSteps) {
    return warmupSteps === 1 ? warmupStart : warmupStart + ((base - warmupStart) * step) / (warmupSteps - 1);
  }
  if (step >= steps) return final;
  return final + 0.5 * (base - final) * (1 + Math.cos((Math.PI * (step - warmupSteps)) / (steps - warmupSteps)));
}

/** What the schedules say about one step. */
export interface StepValues {
  readonly learningRate: number;
  /** Rate of the backbone before its own share of it: 0 while the heads learn alone. */
  readonly backboneLearningRate: number;
  /** Rate of the prototypes: 0 while they are frozen. */
  readonly lastLayerLearningRate: number;
  readonly weightDecay: number;
  readonly teacherMomentum: number;
  readonly teacherTemperature: number;
}

/** Schedules of a run at a step counted from 0. */
export function stepValues(config: Pick<RunConfig, 'steps' | 'optimizer' | 'teacher' | 'continuation'>, step: number): StepValues {
  const { steps, optimizer, teacher, continuation } = config;
  const flat = { warmupStart: 0, warmupSteps: 0, steps };
  const learningRate = scheduleAt(
    { warmupStart: 0, base: optimizer.learningRate, final: optimizer.finalLearningRate, warmupSteps: optimizer.warmupSteps, steps },
    step,
  );
  const [coldest, warmest] = teacher.temperature;
  const warmup = teacher.temperatureWarmupSteps;
  return {
    learningRate,
    backboneLearningRate: step < (continuation?.headsOnlySteps ?? 0) ? 0 : learningRate,
    lastLayerLearningRate: step < optimizer.freezeLastLayerSteps ? 0 : learningRate,
    weightDecay: scheduleAt({ ...flat, base: optimizer.weightDecay[0], final: optimizer.weightDecay[1] }, step),
    teacherMomentum: scheduleAt({ ...flat, base: teacher.momentum[0], final: teacher.momentum[1] }, step),
    teacherTemperature: scheduleAt({ warmupStart: coldest, base: warmest, final: warmest, warmupSteps: warmup, steps: warmup }, step),
  };
}
