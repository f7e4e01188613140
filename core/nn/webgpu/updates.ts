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
  const pieces = set.layout.map((layout, i) => ({ ...layout, g: set.gradients.pieces[i]! }));
  const scratch = kernels.clipScratch(
    pieces.reduce((sum, { count }) => sum + count, 0),
    partCount,
  );
  const [squares, partials, factors] = [engine.room(scratch.squares), engine.room(scratch.partials), engine.room(partCount)];
  const arrays = { segments: set.segments, parts: engine.list(parts), norms, factors, squares, partials };
  engine.run(kernels.clipGradients(engine.caps, pieces, arrays, { partCount, factor: gradientScale, maxNorm }));
  for (const room of [squares, partials, factors]) engine.giveBack(room);
  return norms;
}

/** @param guard nothing changes when one of its values is not finite */
export function adamW(
  engine: Engine,
  set: GpuParameterSet,
  state: GpuAdamState,
  options: Omit<AdamWOptions, 'guard'>,
  guard: GpuTensor | null,
): void {
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
  const table = new Float32Array(learningRates.length * 2);
  learningRates.forEach((rate, i) => table.set([1 - rate * weightDecays[i]!, -rate / correction], i * 2));
  const rates = engine.floats(table);
  const numbers = { beta1, beta2, epsilon, root: 1 / Math.sqrt(1 - beta2 ** updateNumber), guards: guard?.size ?? 0 };
  set.layout.forEach((layout, i) => {
    const [p, g, m, v] = [set.values, set.gradients, state.m, state.v].map(({ pieces }) => pieces[i]!);
    const arrays = { p: p!, half: set.halves?.pieces[i] ?? null, g: g!, m: m!, v: v!, rates, guard };
    engine.run(kernels.adamW(engine.caps, layout, arrays, numbers));
  });
  engine.giveBack(rates);
}

/** @param guard as for adamW */
export function emaUpdate(
  engine: Engine,
  teacher: GpuParameterSet,
  student: GpuParameterSet,
  momentum: number,
  guard: GpuTensor | null,
): void {
  const same = teacher.specs.length === student.specs.length && teacher.specs.every((spec, i) => spec.offset === student.specs[i]!.offset);
  if (!same || teacher.size !== student.size) throw new Error('emaUpdate: teacher and student have different parameters.');
  teacher.layout.forEach(({ count }, i) => {
    const [x, y] = [student.values.pieces[i]!, teacher.values.pieces[i]!];
    const arrays = { x, y, half: teacher.halves?.pieces[i] ?? null, guard };
    engine.run(kernels.movingAverage(engine.caps, arrays, count, { momentum, guards: guard?.size ?? 0 }));
  });
}
