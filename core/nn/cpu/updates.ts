/** What happens to parameters after the gradients: clipping, AdamW, the teacher's moving average. */
import type { AdamWOptions } from '../ops.ts';
import type { Engine } from './engine.ts';
import type { CpuAdamState, CpuParameterSet, CpuTensor } from './tensor.ts';

/** @returns [parts] norms before clipping */
export function clipGradients(engine: Engine, set: CpuParameterSet, parts: Int32Array, maxNorm: number, gradientScale: number): CpuTensor {
  if (parts.length !== set.specs.length) throw new Error(`clipGradients: ${parts.length} part numbers for ${set.specs.length} parameters.`);
  engine.settle(set);
  const count = parts.reduce((most, part) => Math.max(most, part + 1), 0);
  const norms = engine.make([count]);
  // One f64 a chunk, one a part.
  const partials = engine.room(set.chunks * 2);
  const sums = engine.room(count * 2);
  const factors = engine.room(count);
  const partOf = engine.ints(parts);
  engine.pool.run('kSquares', set.chunks, [set.gradients, set.table, partials]);
  engine.pool.run('kNorms', 1, [partials, set.table, partOf, set.chunks, count, norms.address, factors, gradientScale, maxNorm, sums]);
  engine.pool.run('kClip', set.chunks, [set.gradients, set.table, partOf, factors]);
  return norms;
}

export function adamW(engine: Engine, set: CpuParameterSet, state: CpuAdamState, options: AdamWOptions): void {
  const { learningRates, weightDecays, beta1, beta2, epsilon, updateNumber } = options;
  if (state.size !== set.size) throw new Error(`adamW: the state holds ${state.size} values, the parameters ${set.size}.`);
  if (learningRates.length !== set.specs.length || weightDecays.length !== set.specs.length) {
    throw new Error(
      `adamW: ${learningRates.length} learning rates and ${weightDecays.length} weight decays for ${set.specs.length} parameters.`,
    );
  }
  if (!(updateNumber >= 1)) throw new Error(`adamW: the first update has number 1, not ${updateNumber}.`);
  engine.settle(set);
  const rates = engine.floats(learningRates);
  const decays = engine.floats(weightDecays);
  const corrections = [1 - beta1 ** updateNumber, 1 - beta2 ** updateNumber];
  const args = [set.values, set.gradients, state.m, state.v, set.table, rates, decays, beta1, beta2, epsilon, ...corrections];
  engine.pool.run('kAdamW', set.chunks, args);
  engine.giveBack(rates, learningRates.length);
  engine.giveBack(decays, weightDecays.length);
}

export function emaUpdate(engine: Engine, teacher: CpuParameterSet, student: CpuParameterSet, momentum: number): void {
  const same = teacher.specs.length === student.specs.length && teacher.specs.every((spec, i) => spec.offset === student.specs[i]!.offset);
  if (!same || teacher.size !== student.size) throw new Error('emaUpdate: teacher and student have different parameters.');
  engine.pool.run('kMovingAverage', teacher.chunks, [teacher.values, student.values, teacher.table, momentum]);
}
