/** What happens to parameters after the gradients, on all of them in one row: clipping, AdamW, the teacher's moving average. */
import type { AdamWOptions } from '../ops.ts';
import type { Engine, TfTensor } from './engine.ts';
import type { TfAdamState, TfParameterSet } from './parameters.ts';

/** Neighbouring parameters with the same value: where they begin in the row, how long they are, and the value. */
function runs(set: TfParameterSet, values: ArrayLike<number>): { from: number; size: number; value: number }[] {
  const found: { from: number; size: number; value: number }[] = [];
  for (const [i, { offset, size }] of set.specs.entries()) {
    const last = found.at(-1);
    if (last && last.value === values[i]) last.size += size;
    else found.push({ from: offset, size, value: values[i]! });
  }
  return found;
}

/** One value for each parameter, repeated for all its elements: [size]. */
function spreadOut({ tf }: Engine, set: TfParameterSet, values: ArrayLike<number>): TfTensor {
  return tf.concat(runs(set, values).map(({ size, value }) => tf.fill([size], value)));
}

/** Sum of squares of a row. In two stages: single-precision sums of millions of terms lose digits where they are sequential. */
function sumOfSquares({ tf }: Engine, x: TfTensor): TfTensor {
  const wide = 1024;
  const whole = Math.floor(x.size / wide);
  const squares = tf.square(x);
  const rest = tf.sum(tf.slice(squares, [whole * wide], [x.size - whole * wide]));
  if (whole === 0) return rest;
  return tf.add(rest, tf.sum(tf.sum(tf.reshape(tf.slice(squares, [0], [whole * wide]), [whole, wide]), 1)));
}

/** @returns [parts] norms before clipping */
export function clipGradients(engine: Engine, set: TfParameterSet, parts: Int32Array, maxNorm: number, gradientScale: number): TfTensor {
  const { tf } = engine;
  if (parts.length !== set.specs.length) throw new Error(`clipGradients: ${parts.length} part numbers for ${set.specs.length} parameters.`);
  const count = parts.reduce((most, part) => Math.max(most, part + 1), 0);
  const stretches = runs(set, parts);
  let clipped: TfTensor | null = null;
  const norms = engine.make(() => {
    if (!set.gradients) return tf.zeros([count]);
    const scaled = tf.mul(set.gradients, gradientScale);
    const pieces = stretches.map(({ from, size }) => tf.slice(scaled, [from], [size]));
    const each = Array.from({ length: count }, (_, part) => {
      const squares = pieces.filter((_piece, i) => stretches[i]!.value === part).map((piece) => sumOfSquares(engine, piece));
      return tf.sqrt(squares.length > 0 ? tf.addN(squares) : tf.scalar(0));
    });
    if (maxNorm > 0) {
      const factors = each.map((norm) => tf.minimum(1, tf.div(maxNorm, tf.add(norm, 1e-6))));
      clipped = tf.keep(tf.concat(pieces.map((piece, i) => tf.mul(piece, factors[stretches[i]!.value]!))));
    } else {
      clipped = tf.keep(scaled);
    }
    return tf.stack(each);
  });
  if (clipped) set.replaceGradients(clipped);
  return norms;
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
  tf.tidy(() => {
    const g = set.gradients ?? tf.zeros([set.size]);
    const m = tf.add(tf.mul(state.m, beta1), tf.mul(g, 1 - beta1));
    const v = tf.add(tf.mul(state.v, beta2), tf.mul(tf.square(g), 1 - beta2));
    const divisor = tf.add(tf.mul(tf.sqrt(v), 1 / Math.sqrt(1 - beta2 ** updateNumber)), epsilon);
    const rates = spreadOut(
      engine,
      set,
      Array.from(learningRates, (rate) => rate / (1 - beta1 ** updateNumber)),
    );
    const kept = spreadOut(
      engine,
      set,
      Array.from(learningRates, (rate, i) => 1 - rate * weightDecays[i]!),
    );
    set.assign(tf.sub(tf.mul(set.flat(), kept), tf.mul(rates, tf.div(m, divisor))));
    state.m.assign(m);
    state.v.assign(v);
  });
}

export function emaUpdate({ tf }: Engine, teacher: TfParameterSet, student: TfParameterSet, momentum: number): void {
  const same = teacher.specs.length === student.specs.length && teacher.specs.every((spec, i) => spec.offset === student.specs[i]!.offset);
  if (!same || teacher.size !== student.size) throw new Error('emaUpdate: teacher and student have different parameters.');
  tf.tidy(() => teacher.assign(tf.add(tf.mul(teacher.flat(), momentum), tf.mul(student.flat(), 1 - momentum))));
}
