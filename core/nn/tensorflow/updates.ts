/** What happens to parameters after the gradients: clipping, AdamW, the teacher's moving average. */
import type { AdamWOptions } from '../ops.ts';
import type { Engine, TfTensor } from './engine.ts';
import type { TfAdamState, TfParameterSet } from './parameters.ts';

/** Row by row first: single-precision sums of millions of terms lose digits where they are sequential. */
function sumOfSquares({ tf }: Engine, x: TfTensor): TfTensor {
  const squares = tf.square(x);
  return tf.sum(x.shape.length > 1 ? tf.sum(squares, -1) : squares);
}

/** @returns [parts] norms before clipping */
export function clipGradients(engine: Engine, set: TfParameterSet, parts: Int32Array, maxNorm: number, gradientScale: number): TfTensor {
  const { tf } = engine;
  if (parts.length !== set.specs.length) throw new Error(`clipGradients: ${parts.length} part numbers for ${set.specs.length} parameters.`);
  const count = parts.reduce((most, part) => Math.max(most, part + 1), 0);
  return engine.make(() => {
    const norms = Array.from({ length: count }, (_, part) => {
      const squares = set.gradients
        .filter((gradient, i) => gradient && parts[i] === part)
        .map((gradient) => sumOfSquares(engine, gradient!));
      return squares.length > 0 ? tf.mul(tf.sqrt(tf.addN(squares)), gradientScale) : tf.scalar(0);
    });
    const factors = norms.map((norm) => {
      const clip = maxNorm > 0 ? tf.minimum(1, tf.div(maxNorm, tf.add(norm, 1e-6))) : tf.scalar(1);
      return tf.mul(clip, gradientScale);
    });
    set.gradients.forEach((gradient, i) => gradient && set.replaceGradient(i, tf.mul(gradient, factors[parts[i]!]!)));
    return tf.stack(norms);
  });
}

export function adamW(engine: Engine, set: TfParameterSet, state: TfAdamState, options: AdamWOptions): void {
  const { tf } = engine;
  const { learningRates, weightDecays, beta1, beta2, epsilon, updateNumber } = options;
  if (state.size !== set.size) throw new Error(`adamW: the state holds ${state.size} values, the parameters ${set.size}.`);
  if (learningRates.length !== set.specs.length || weightDecays.length !== set.specs.length) {
    throw new Error(
      `adamW: ${learningRates.length} learning rates and ${weightDecays.length} weight decays for ${set.specs.length} parameters.`,
    );
  }
  if (!(updateNumber >= 1)) throw new Error(`adamW: the first update has number 1, not ${updateNumber}.`);
  const correction1 = 1 - beta1 ** updateNumber;
  const correction2 = 1 - beta2 ** updateNumber;
  set.variables.forEach((p, i) =>
    tf.tidy(() => {
      const g = set.gradients[i] ?? tf.zerosLike(p);
      const m = tf.add(tf.mul(state.m[i]!, beta1), tf.mul(g, 1 - beta1));
      const v = tf.add(tf.mul(state.v[i]!, beta2), tf.mul(tf.square(g), 1 - beta2));
      const divisor = tf.add(tf.mul(tf.sqrt(v), 1 / Math.sqrt(correction2)), epsilon);
      const rate = learningRates[i]!;
      const kept = tf.mul(p, 1 - rate * weightDecays[i]!);
      p.assign(tf.sub(kept, tf.mul(tf.div(m, divisor), rate / correction1)));
      state.m[i]!.assign(m);
      state.v[i]!.assign(v);
    }),
  );
}

export function emaUpdate({ tf }: Engine, teacher: TfParameterSet, student: TfParameterSet, momentum: number): void {
  const same = teacher.specs.length === student.specs.length && teacher.specs.every((spec, i) => spec.offset === student.specs[i]!.offset);
  if (!same || teacher.size !== student.size) throw new Error('emaUpdate: teacher and student have different parameters.');
  // Written as a step towards the student: where both are equal the step is 0 and nothing is rounded.
  teacher.variables.forEach((mean, i) =>
    tf.tidy(() => mean.assign(tf.add(mean, tf.mul(tf.sub(student.variables[i]!, mean), 1 - momentum)))),
  );
}
