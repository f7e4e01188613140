/** Logits over the weight-normed prototypes of a head's last layer, whole or a tile of prototypes at a time. */
import { type Engine, type TfTensor } from './engine.ts';
import { check, rowsOf } from '../shapes.ts';

/** Directions and lengths of prototypes k0 .. k0 + count - 1 as they act: weight [count, n] over the temperature. */
export function prototypes({ tf }: Engine, v: TfTensor, g: TfTensor, temperature: number, k0: number, count: number) {
  const [K, n] = v.shape as [number, number];
  const direction = count === K ? v : tf.slice(v, [k0, 0], [count, n]);
  const inverse = tf.rsqrt(tf.sum(tf.square(direction), 1, true)); // [count, 1]
  const length = tf.slice(tf.reshape(g, [g.size, 1]), [k0, 0], [count, 1]);
  const scale = tf.mul(tf.mul(length, inverse), 1 / temperature); // [count, 1]
  return { unit: () => tf.mul(direction, inverse), scale, weight: tf.mul(direction, scale) };
}

/** Logits [rows, count] of those prototypes, over the temperature. */
export function logitsTile(
  engine: Engine,
  x: TfTensor,
  v: TfTensor,
  g: TfTensor,
  temperature: number,
  k0: number,
  count: number,
): TfTensor {
  return engine.product(x, prototypes(engine, v, g, temperature, k0, count).weight, false, true);
}

/** The prototypes in tiles of so many rows. */
export function tiles(engine: Engine, rows: number, K: number): { k0: number; count: number }[] {
  const width = Math.min(K, Math.max(8, Math.floor(engine.limits.tile / rows)));
  return Array.from({ length: Math.ceil(K / width) }, (_, i) => ({ k0: i * width, count: Math.min(width, K - i * width) }));
}

export function prototypeLogits(engine: Engine, x: TfTensor, v: TfTensor, g: TfTensor): TfTensor {
  const { n } = rowsOf(x);
  const { rows: K } = rowsOf(v);
  check(v.shape.at(-1) === n && g.size === K && x.shape.length === 2, 'prototypeLogits', x, v, g);
  return engine.make(() => logitsTile(engine, x, v, g, 1, 0, K));
}
