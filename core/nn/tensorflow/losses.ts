/** A head's end and the losses on the TensorFlow.js API: L2 normalisation, cross-entropy over prototypes, KoLeo. */
import type { PrototypeLossInputs } from '../ops.ts';
import { type Engine, type TfTensor } from './engine.ts';
import { pick } from './layers.ts';
import { prototypes, tiles } from './prototypes.ts';
import { targetsAt, TfTargets } from './targets.ts';
import { check, checkRows, rowsOf } from '../shapes.ts';

export function l2Normalize(engine: Engine, x: TfTensor, epsilon: number): TfTensor {
  return engine.make(() => normalize(engine, x, epsilon));
}

function normalize(engine: Engine, x: TfTensor, epsilon: number): TfTensor {
  const { tf } = engine;
  const { rows, n } = rowsOf(x);
  return engine.custom(
    [x],
    (save) => {
      const flat = tf.reshape(x, [rows, n]);
      const norms = tf.sqrt(tf.sum(tf.square(flat), 1, true)); // [rows, 1]
      const y = tf.div(flat, tf.maximum(norms, epsilon));
      save([y, norms]);
      return tf.reshape(y, x.shape);
    },
    (dy, saved) => {
      const [y, norms] = saved as [TfTensor, TfTensor];
      const flat = tf.reshape(dy, [rows, n]);
      // Below epsilon the divisor is a constant.
      const along = tf.mul(tf.sum(tf.mul(flat, y), 1, true), tf.cast(tf.greater(norms, epsilon), 'float32'));
      return [tf.reshape(tf.div(tf.sub(flat, tf.mul(y, along)), tf.maximum(norms, epsilon)), x.shape)];
    },
  );
}

export interface PrototypeLossTensors {
  readonly rows: TfTensor;
  readonly weightV: TfTensor;
  readonly weightG: TfTensor;
  readonly targets: TfTensor | TfTargets;
}

/** The logits never exist beyond a tile, nor do targets that are not kept whole. */
export function prototypeLoss(
  engine: Engine,
  { rows: x, weightV: v, weightG: g, targets }: PrototypeLossTensors,
  { targetRows, rowWeights, temperature }: Omit<PrototypeLossInputs, keyof PrototypeLossTensors>,
): TfTensor {
  const { tf } = engine;
  const { rows: R, n } = rowsOf(x);
  const { rows: K } = rowsOf(v);
  const { rows: Q, n: targetK } = targets instanceof TfTargets ? { rows: targets.rows, n: targets.prototypes } : rowsOf(targets);
  const m = targetRows.length / R;
  const fits = v.shape.at(-1) === n && g.size === K && targetK === K && rowWeights.length === R && R > 0;
  check(
    fits && Number.isInteger(m) && m > 0,
    `prototypeLoss with ${targetRows.length} target rows, ${rowWeights.length} weights and targets [${Q},${targetK}]`,
    x,
    v,
    g,
  );
  checkRows('prototypeLoss', targetRows, Q);
  const implicit = targets instanceof TfTargets && !targets.whole;
  const parts = tiles(engine, implicit ? Math.max(R, Q) : R, K);
  const weights = (): TfTensor => tf.tensor2d(rowWeights.slice(), [R, 1]);
  /** The m targets of each row added up, prototypes k0 .. k0 + count - 1: [R, count]. */
  const wanted = (k0: number, count: number): TfTensor => {
    const part = targetsAt(engine, targets, k0, count);
    const each = Array.from({ length: m }, (_, j) =>
      pick(
        engine,
        part,
        Int32Array.from({ length: R }, (_row, r) => targetRows[r * m + j]!),
      ),
    );
    return each.reduce((sum, one) => tf.add(sum, one));
  };
  return engine.make(() =>
    engine.custom(
      [x, v, g],
      (save) => {
        const highest: TfTensor[] = [];
        const sums: TfTensor[] = []; // of exp(logit - highest), by tile, [R, 1]
        let dots: TfTensor = tf.zeros([R, 1]); // target . logits
        let mass: TfTensor = tf.zeros([R, 1]); // sum of the targets
        for (const { k0, count } of parts) {
          const tileSums = tf.tidy(() => {
            const logits = engine.product(x, prototypes(engine, v, g, temperature, k0, count).weight, false, true);
            const q = wanted(k0, count);
            const top = tf.max(logits, 1, true);
            const sum = tf.sum(tf.exp(tf.sub(logits, top)), 1, true);
            return [top, sum, tf.add(dots, tf.sum(tf.mul(q, logits), 1, true)), tf.add(mass, tf.sum(q, 1, true))];
          }) as [TfTensor, TfTensor, TfTensor, TfTensor];
          highest.push(tileSums[0]);
          sums.push(tileSums[1]);
          dots = tileSums[2];
          mass = tileSums[3];
        }
        const tops = tf.concat(highest, 1); // [R, tiles]
        const top = tf.max(tops, 1, true);
        const sum = tf.sum(tf.mul(tf.concat(sums, 1), tf.exp(tf.sub(tops, top))), 1, true);
        const logSum = tf.add(top, tf.log(sum)); // [R, 1]
        save([logSum, mass]);
        return tf.sum(tf.mul(weights(), tf.sub(tf.mul(mass, logSum), dots)));
      },
      // The logits are made again, tile by tile.
      (dy, saved) => {
        const [logSum, mass] = saved as [TfTensor, TfTensor];
        const factor = tf.mul(weights(), dy); // [R, 1]
        let dX: TfTensor = tf.zeros([R, n]);
        const dV: TfTensor[] = [];
        const dG: TfTensor[] = [];
        for (const { k0, count } of parts) {
          const gradients = tf.tidy(() => {
            const { unit, scale, weight } = prototypes(engine, v, g, temperature, k0, count);
            const softmax = tf.exp(tf.sub(engine.product(x, weight, false, true), logSum)); // [R, count]
            const dLogits = tf.mul(tf.sub(tf.mul(softmax, mass), wanted(k0, count)), factor);
            const dWeight = engine.product(dLogits, x, true); // [count, n]
            const direction = unit();
            const along = tf.sum(tf.mul(dWeight, direction), 1, true); // [count, 1]
            return [
              tf.add(dX, engine.product(dLogits, weight)),
              tf.mul(tf.sub(dWeight, tf.mul(direction, along)), scale),
              tf.mul(along, 1 / temperature),
            ];
          }) as [TfTensor, TfTensor, TfTensor];
          dX.dispose();
          dX = gradients[0];
          dV.push(gradients[1]);
          dG.push(gradients[2]);
        }
        return [tf.reshape(dX, x.shape), tf.reshape(tf.concat(dV), v.shape), tf.reshape(tf.concat(dG), g.shape)];
      },
    ),
  );
}

export function koleo(engine: Engine, x: TfTensor): TfTensor {
  const { tf } = engine;
  const { rows: B, n } = rowsOf(x);
  check(x.shape.length === 2 && B >= 2, 'koleo (at least two rows)', x);
  return engine.make(() => {
    const rows = normalize(engine, x, 1e-8);
    return engine.custom(
      [rows],
      (save) => {
        // A row is never its own neighbour: cosines are at most 1.
        const cosines = tf.sub(engine.product(rows, rows, false, true), tf.mul(tf.eye(B), 4));
        const nearest = tf.argMax(cosines, 1);
        const difference = tf.add(tf.sub(rows, tf.gather(rows, nearest)), 1e-8);
        const distance = tf.sqrt(tf.sum(tf.square(difference), 1, true)); // [B, 1]
        save([nearest, difference, distance]);
        return tf.neg(tf.mean(tf.log(tf.add(distance, 1e-8))));
      },
      (dy, saved) => {
        const [nearest, difference, distance] = saved as [TfTensor, TfTensor, TfTensor];
        // d(-log(distance + 1e-8) / B) / d difference
        const slope = tf.div(tf.mul(dy, -1 / B), tf.mul(tf.add(distance, 1e-8), distance)); // [B, 1]
        const toRow = tf.mul(difference, slope);
        const places = tf.reshape(tf.cast(nearest, 'int32'), [B, 1]);
        return [tf.sub(toRow, tf.scatterND(places, toRow, [B, n]))];
      },
    );
  });
}

export function weightedSum(engine: Engine, terms: readonly TfTensor[], weights: readonly number[]): TfTensor {
  const { tf } = engine;
  check(terms.length === weights.length && terms.every((term) => term.size === 1), `weightedSum with ${weights.length} weights`, ...terms);
  return engine.make(() =>
    engine.custom(
      terms,
      () => tf.addN(terms.map((term, i) => tf.mul(tf.reshape(term, []), weights[i]!))),
      (dy) => terms.map((term, i) => tf.reshape(tf.mul(dy, weights[i]!), term.shape)),
    ),
  );
}
