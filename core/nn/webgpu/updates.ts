/** What happens to parameters after the gradients: clipping, AdamW, the teacher's moving average. */
import type { AdamWOptions } from '../ops.ts';
import type { Engine } from './engine.ts';
import * as kernels from './kernels/update.ts';
import type { GpuAdamState, GpuParameterSet, GpuTensor } from './tensor.ts';

/** @returns [parts] norms before clipping */
export function clipGradients(engine: Engine, set: GpuParameterSet, parts: Int32Array, maxNorm: number, gradientScale: number): GpuTensor {
  if (parts.length !== set.specs.length) throw new Error(`clipGradients: ${parts.length} part numbers for ${set.specs.length} parameters.`);
  engine.settle(set);
  const partCount = parts.reduce((most, part) => Math.max(most, part + 1), 0);
  const norms = engine.make([partCount]);
  const scratch = kernels.clipScratch(set.layout.count, partCount);
  const [squares, partials, factors] = [engine.room(scratch.squares), engine.room(scratch.partials), engine.room(partCount)];
  const arrays = { g: set.gradients, parts: engine.list(parts), norms, factors, squares, partials };
  engine.run(kernels.clipGradients(engine.caps, set.layout, arrays, { partCount, factor: gradientScale, maxNorm }));
  for (const room of [squares, partials, factors]) engine.giveBack(room);
  return norms;
}

export function adamW(engine: Engine, set: GpuParameterSet, state: GpuAdamState, options: AdamWOptions): void {
  const { learningRates, weightDecays, beta1, beta2, epsilon, updateNumber } = options;
  if (state.size !== set.size) throw new Error(`adamW: the state holds ${state.size} values, the parameters ${set.size}.`);
  if (learningRates.length !== set.specs.length || weightDecays.length !== set.specs.length) {
    throw new Error(
      `adamW: ${learningRates.length} learning rates and ${weightDecays.length} weight decays for ${set.specs.length} parameters.`,
    );
  }
  if (!(updateNumber >= 1)) throw new Error(`adamW: the first update has number 1, not ${updateNumber}.`);
  engine.settle(set);
  const correction = 1 - beta1 ** updateNumber;
  const keeps = engine.floats(learningRates.map((rate, i) => 1 - rate * weightDecays[i]!));
  const steps = engine.floats(learningRates.map((rate) => -rate / correction));
  const arrays = { p: set.values, g: set.gradients, m: state.m, v: state.v, keeps, steps };
  const root = 1 / Math.sqrt(1 - beta2 ** updateNumber);
  engine.run(kernels.adamW(engine.caps, set.layout, arrays, { beta1, beta2, epsilon, root }));
  for (const table of [keeps, steps]) engine.giveBack(table);
}

export function emaUpdate(engine: Engine, teacher: GpuParameterSet, student: GpuParameterSet, momentum: number): void {
  const same = teacher.specs.length === student.specs.length && teacher.specs.every((spec, i) => spec.offset === student.specs[i]!.offset);
  if (!same || teacher.size !== student.size) throw new Error('emaUpdate: teacher and student have different parameters.');
  engine.run(kernels.movingAverage(engine.caps, student.values, teacher.values, teacher.layout.count, momentum));
}
