/**
 * Layers of the network on the TensorFlow.js API. Every operation brings its gradient in closed form: the tape's own keep
 * and repeat more, and the core package for Node carries none.
 */
import type { Activation, GroupSubset } from '../ops.ts';
import { type Engine, type TfTensor } from './engine.ts';
import { check, residualShape, rowsOf, rowsOfSubset } from '../shapes.ts';

/** Gaussian error linear unit, exact: h (1 + erf(h / sqrt 2)) / 2. */
function gelu({ tf }: Engine, h: TfTensor): TfTensor {
  return tf.mul(tf.mul(h, 0.5), tf.add(tf.erf(tf.mul(h, Math.SQRT1_2)), 1));
}

/** dy times the slope of GELU at h: Phi(h) + h phi(h), the normal distribution and its density. */
function geluBackward({ tf }: Engine, dy: TfTensor, h: TfTensor): TfTensor {
  const phi = tf.mul(tf.exp(tf.mul(tf.square(h), -0.5)), 1 / Math.sqrt(2 * Math.PI));
  const distribution = tf.mul(tf.add(tf.erf(tf.mul(h, Math.SQRT1_2)), 1), 0.5);
  return tf.mul(dy, tf.add(distribution, tf.mul(h, phi)));
}

export function linear(engine: Engine, x: TfTensor, weight: TfTensor, bias: TfTensor | null, activation: Activation): TfTensor {
  const { tf } = engine;
  const { rows, n: inputs } = rowsOf(x);
  const outputs = weight.shape[0] ?? 0;
  check(weight.shape.length >= 2 && weight.size === outputs * inputs && (!bias || bias.size === outputs), 'linear', x, weight, bias);
  const asRows = (tensor: TfTensor, n: number): TfTensor => tf.reshape(tensor, [tensor.size / n, n]);
  return engine.make(() =>
    engine.custom(
      bias ? [x, weight, bias] : [x, weight],
      (save) => {
        let h = engine.product(asRows(x, inputs), asRows(weight, inputs), false, true); // [rows, outputs]
        if (bias) h = tf.add(h, tf.reshape(bias, [outputs]));
        if (activation === 'gelu') save([h]);
        return tf.reshape(activation === 'gelu' ? gelu(engine, h) : h, [...x.shape.slice(0, -1), outputs]);
      },
      (dy, [h]) => {
        const dh = h ? geluBackward(engine, tf.reshape(dy, [rows, outputs]), h) : tf.reshape(dy, [rows, outputs]);
        const dx = tf.reshape(engine.product(dh, asRows(weight, inputs)), x.shape);
        const dWeight = tf.reshape(engine.product(dh, asRows(x, inputs), true), weight.shape);
        return bias ? [dx, dWeight, tf.reshape(engine.sumRows(dh), bias.shape)] : [dx, dWeight];
      },
    ),
  );
}

export function layerNorm(engine: Engine, x: TfTensor, weight: TfTensor, bias: TfTensor, epsilon: number): TfTensor {
  const { tf } = engine;
  const { rows, n } = rowsOf(x);
  check(weight.size === n && bias.size === n, 'layerNorm', x, weight, bias);
  return engine.make(() =>
    engine.custom(
      [x, weight, bias],
      (save) => {
        const flat = tf.reshape(x, [rows, n]);
        const centered = tf.sub(flat, tf.mean(flat, 1, true));
        const inverse = tf.rsqrt(tf.add(tf.mean(tf.square(centered), 1, true), epsilon)); // [rows, 1]
        const normal = tf.mul(centered, inverse);
        save([normal, inverse]);
        return tf.reshape(tf.add(tf.mul(normal, weight), bias), x.shape);
      },
      (dy, saved) => {
        const [normal, inverse] = saved as [TfTensor, TfTensor];
        const flat = tf.reshape(dy, [rows, n]);
        const dNormal = tf.mul(flat, weight);
        const shared = tf.add(tf.mul(normal, tf.mean(tf.mul(dNormal, normal), 1, true)), tf.mean(dNormal, 1, true));
        const dx = tf.mul(tf.sub(dNormal, shared), inverse);
        return [tf.reshape(dx, x.shape), engine.sumRows(tf.mul(flat, normal)), engine.sumRows(flat)].map((gradient, i) =>
          i === 0 ? gradient : tf.reshape(gradient, [weight, bias][i - 1]!.shape),
        );
      },
    ),
  );
}

export function swiglu(engine: Engine, x: TfTensor): TfTensor {
  const { tf } = engine;
  const { rows, n } = rowsOf(x);
  const half = n / 2;
  check(Number.isInteger(half), 'swiglu', x);
  const halves = (): TfTensor[] => {
    const flat = tf.reshape(x, [rows, n]);
    return [0, half].map((start) => tf.slice(flat, [0, start], [rows, half]));
  };
  return engine.make(() =>
    engine.custom(
      [x],
      () => {
        const [a, b] = halves() as [TfTensor, TfTensor];
        return tf.reshape(tf.mul(tf.mul(a, tf.sigmoid(a)), b), [...x.shape.slice(0, -1), half]);
      },
      (dy) => {
        const [a, b] = halves() as [TfTensor, TfTensor];
        const flat = tf.reshape(dy, [rows, half]);
        const s = tf.sigmoid(a);
        const silu = tf.mul(a, s);
        // silu' = s + silu (1 - s)
        const slope = tf.add(s, tf.mul(silu, tf.sub(1, s)));
        return [tf.reshape(tf.concat([tf.mul(tf.mul(flat, b), slope), tf.mul(flat, silu)], 1), x.shape)];
      },
    ),
  );
}

export function addResidual(engine: Engine, x: TfTensor, branch: TfTensor, gamma: TfTensor, subset?: readonly GroupSubset[]): TfTensor {
  const { tf } = engine;
  const { rows, n, parts } = residualShape(x, branch, gamma, subset);
  const all = x.size / n;
  const named = parts && rowsOfSubset(parts);
  /** The branch's rows [rows,n] times their groups' scales. */
  const scaled = (flat: TfTensor): TfTensor => {
    if (!parts) return flat;
    const scales = parts.flatMap(({ rows: samples, tokens, scale }) => new Array<number>(samples.length * tokens).fill(scale));
    return tf.mul(flat, tf.tensor2d(scales, [rows, 1]));
  };
  return engine.make(() =>
    engine.custom(
      [x, branch, gamma],
      () => {
        const added = scaled(tf.mul(tf.reshape(branch, [rows, n]), gamma));
        return tf.add(x, tf.reshape(named ? spread(engine, added, named, all) : added, x.shape));
      },
      (dy) => {
        const flat = tf.reshape(dy, [all, n]);
        const dAdded = scaled(named ? pick(engine, flat, named) : flat); // [rows,n]
        const dGamma = engine.sumRows(tf.mul(dAdded, tf.reshape(branch, [rows, n])));
        return [tf.clone(dy), tf.reshape(tf.mul(dAdded, gamma), branch.shape), tf.reshape(dGamma, gamma.shape)];
      },
    ),
  );
}

/** Rows of x [M, n] -> [rows.length, n]. */
export function pick({ tf }: Engine, x: TfTensor, rows: Int32Array): TfTensor {
  return tf.gather(x, tf.tensor1d(rows, 'int32'), 0);
}

/** Rows of x [rows.length, n] added into zeros [count, n] at their places. */
export function spread({ tf }: Engine, x: TfTensor, rows: Int32Array, count: number): TfTensor {
  return tf.scatterND(tf.tensor2d(rows, [rows.length, 1], 'int32'), x, [count, x.shape[1]!]);
}
