/** Softmax attention on the TensorFlow.js API. */
import type { SampleGroup } from '../ops.ts';
import { type Engine, type TfTensor } from './engine.ts';
import { concatRows } from './tokens.ts';
import { groupsOf } from '../shapes.ts';

/** qkv [N,T,3,heads,d] -> [N,T,heads,d], or of groups [R,3,heads,d] -> [R,heads,d]. */
export function attention(engine: Engine, qkv: TfTensor, heads: number, packed?: readonly SampleGroup[]): TfTensor {
  const groups = groupsOf(qkv, heads, packed);
  if (!packed) return attentionOfOne(engine, qkv, heads);
  const { tf } = engine;
  const width = qkv.shape.at(-1)!;
  const rows = groups.map(({ samples, tokens }) => samples * tokens);
  /** The group's rows alone, [N,T,3D]; the gradient of the others is zero. */
  const taken = groups.map(({ samples, tokens, tokenOffset }, g) =>
    engine.make(() =>
      engine.custom(
        [qkv],
        () => tf.reshape(tf.slice(qkv, [tokenOffset, 0], [rows[g]!, width]), [samples, tokens, width]),
        (dy) => {
          const after = qkv.shape[0]! - tokenOffset - rows[g]!;
          return [
            tf.pad(tf.reshape(dy, [rows[g]!, width]), [
              [tokenOffset, after],
              [0, 0],
            ]),
          ];
        },
      ),
    ),
  );
  return concatRows(
    engine,
    taken.map((group) => attentionOfOne(engine, group, heads)),
  );
}

function attentionOfOne(engine: Engine, qkv: TfTensor, heads: number): TfTensor {
  const { tf } = engine;
  const [N, T, width] = qkv.shape as [number, number, number];
  const D = width / 3;
  const d = D / heads;
  const scale = 1 / Math.sqrt(d);
  /** [N,T,D] -> [N*heads, T, d]. */
  const byHead = (x: TfTensor): TfTensor => tf.reshape(tf.transpose(tf.reshape(x, [N, T, heads, d]), [0, 2, 1, 3]), [N * heads, T, d]);
  /** [N*heads, T, d] -> [N,T,D]. */
  const together = (x: TfTensor): TfTensor => tf.reshape(tf.transpose(tf.reshape(x, [N, heads, T, d]), [0, 2, 1, 3]), [N, T, D]);
  /** q (scaled), k and v, each [N*heads, T, d]. */
  const parts = (): [TfTensor, TfTensor, TfTensor] => {
    const [q, k, v] = [0, 1, 2].map((part) => byHead(tf.slice(qkv, [0, 0, part * D], [N, T, D]))) as [TfTensor, TfTensor, TfTensor];
    return [tf.mul(q, scale), k, v];
  };
  const weights = (q: TfTensor, k: TfTensor): TfTensor => tf.softmax(tf.matMul(q, k, false, true)); // [N*heads, T, T]
  return engine.make(() =>
    engine.custom(
      [qkv],
      () => {
        const [q, k, v] = parts();
        return together(tf.matMul(weights(q, k), v));
      },
      // The weights are made again: kept, they would be the largest tensors of a step.
      (dy) => {
        const [q, k, v] = parts();
        const p = weights(q, k);
        const dOut = byHead(dy);
        const dV = tf.matMul(p, dOut, true);
        const dP = tf.matMul(dOut, v, false, true);
        const dScores = tf.mul(p, tf.sub(dP, tf.sum(tf.mul(dP, p), 2, true)));
        const dQ = tf.mul(tf.matMul(dScores, k), scale);
        const dK = tf.matMul(dScores, q, true); // q carries the scale
        return [tf.concat([dQ, dK, dV].map(together), 2)];
      },
    ),
  );
}
