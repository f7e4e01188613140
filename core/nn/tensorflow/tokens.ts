/** From images to tokens, and copies that pick tokens or samples, on the TensorFlow.js API. */
import type { GroupSubset, PositionResize } from '../ops.ts';
import { resizeWeights, transposed } from '../positions.ts';
import { type Engine, type TfTensor } from './engine.ts';
import { linear, pick, spread } from './layers.ts';
import { check, checkRows, rowsOf, rowsOfSubset, subsetOf } from '../shapes.ts';

export function patchEmbed(engine: Engine, images: TfTensor, weight: TfTensor, bias: TfTensor): TfTensor {
  const { tf } = engine;
  const [N = 0, channels, height = 0, width = 0] = images.shape;
  const [, , p = 1, p2] = weight.shape;
  const fits = images.shape.length === 4 && weight.shape.length === 4 && channels === 3 && weight.shape[1] === 3 && p === p2;
  check(fits && height % p === 0 && width % p === 0, 'patchEmbed', images, weight, bias);
  const [h, w] = [height / p, width / p];
  const patches = engine.make(() => {
    // Two transpositions of four axes: WebAssembly has no fast one of six.
    const columns = tf.transpose(tf.reshape(images, [N * 3 * h, p, w, p]), [0, 2, 1, 3]); // [N*3*h, w, p, p]
    return tf.reshape(tf.transpose(tf.reshape(columns, [N, 3, h * w, p * p]), [0, 2, 1, 3]), [N, h * w, 3 * p * p]);
  });
  return linear(engine, patches, weight, bias, 'none');
}

export function maskPatches(engine: Engine, x: TfTensor, mask: Uint8Array, token: TfTensor): TfTensor {
  const { tf } = engine;
  const { rows, n } = rowsOf(x);
  check(mask.length === rows && token.size === n, `maskPatches with a mask of ${mask.length}`, x, token);
  const masked = (): TfTensor => tf.tensor2d(Float32Array.from(mask), [rows, 1]);
  const seen = (): TfTensor =>
    tf.tensor2d(
      Float32Array.from(mask, (bit) => 1 - bit),
      [rows, 1],
    );
  return engine.make(() =>
    engine.custom(
      [x, token],
      () => {
        const kept = tf.mul(tf.reshape(x, [rows, n]), seen());
        return tf.reshape(tf.add(kept, tf.matMul(masked(), tf.reshape(token, [1, n]))), x.shape);
      },
      (dy) => {
        const flat = tf.reshape(dy, [rows, n]);
        const dToken = tf.matMul(tf.reshape(masked(), [1, rows]), flat);
        return [tf.reshape(tf.mul(flat, seen()), x.shape), tf.reshape(dToken, token.shape)];
      },
    ),
  );
}

export function resizePositions(engine: Engine, table: TfTensor, resize: PositionResize): TfTensor {
  const { tf } = engine;
  const { gridHeight: h, gridWidth: w, offset, antialias } = resize;
  const n = table.shape.at(-1) ?? 0;
  const side = Math.sqrt((table.shape[1] ?? 0) - 1);
  check(table.shape.length === 3 && table.shape[0] === 1 && Number.isInteger(side) && h > 0 && w > 0, 'resizePositions', table);
  if (h === side && w === side)
    return engine.make(() =>
      engine.custom(
        [table],
        () => tf.reshape(table, [1 + h * w, n]),
        (dy) => [tf.reshape(dy, table.shape)],
      ),
    );
  const rows = resizeWeights(side, h, offset, antialias); // [h, side]
  const columns = resizeWeights(side, w, offset, antialias); // [w, side]
  /** Class row copied, grid [from, from, n] resized by matrices [toH, fromH] and [toW, fromW]. */
  const apply = (
    x: TfTensor,
    [toH, fromH]: [number, number],
    byRow: Float32Array,
    [toW, fromW]: [number, number],
    byColumn: Float32Array,
  ) => {
    const flat = tf.reshape(x, [1 + fromH * fromW, n]);
    const grid = tf.reshape(tf.slice(flat, [1, 0], [fromH * fromW, n]), [fromH, fromW * n]);
    const tall = tf.reshape(tf.matMul(tf.tensor2d(byRow, [toH, fromH]), grid), [toH, fromW, n]);
    const turned = tf.reshape(tf.transpose(tall, [1, 0, 2]), [fromW, toH * n]);
    const wide = tf.reshape(tf.matMul(tf.tensor2d(byColumn, [toW, fromW]), turned), [toW, toH, n]);
    return tf.concat([tf.slice(flat, [0, 0], [1, n]), tf.reshape(tf.transpose(wide, [1, 0, 2]), [toH * toW, n])]);
  };
  return engine.make(() =>
    engine.custom(
      [table],
      () => apply(table, [h, side], rows, [w, side], columns),
      (dy) => [tf.reshape(apply(dy, [side, h], transposed(rows, h, side), [side, w], transposed(columns, w, side)), table.shape)],
    ),
  );
}

export function assembleTokens(
  engine: Engine,
  patches: TfTensor,
  cls: TfTensor,
  positions: TfTensor,
  registers: TfTensor | null,
): TfTensor {
  const { tf } = engine;
  const [N = 0, P = 0, n = 0] = patches.shape;
  const R = registers ? registers.size / Math.max(n, 1) : 0;
  const fits = patches.shape.length === 3 && cls.size === n && positions.size === (1 + P) * n && Number.isInteger(R);
  check(fits, 'assembleTokens', patches, cls, positions, registers);
  const T = 1 + R + P;
  return engine.make(() =>
    engine.custom(
      registers ? [patches, cls, positions, registers] : [patches, cls, positions],
      () => {
        const table = tf.reshape(positions, [1 + P, n]);
        const start = tf.add(tf.reshape(cls, [1, n]), tf.slice(table, [0, 0], [1, n]));
        const fixed = registers ? tf.concat([start, tf.reshape(registers, [R, n])]) : start; // [1+R, n]
        const placed = tf.add(patches, tf.slice(table, [1, 0], [P, n])); // [N,P,n]
        const ahead = tf.matMul(tf.ones([N, 1]), tf.reshape(fixed, [1, (1 + R) * n])); // [N, (1+R) n]
        return tf.reshape(tf.concat([ahead, tf.reshape(placed, [N, P * n])], 1), [N, T, n]);
      },
      (dy) => {
        const sum = tf.reshape(engine.sumRows(tf.reshape(dy, [N, T * n])), [T, n]);
        const first = tf.slice(sum, [0, 0], [1, n]);
        const dPatches = tf.slice(dy, [0, 1 + R, 0], [N, P, n]);
        const dPositions = tf.concat([first, tf.slice(sum, [1 + R, 0], [P, n])]);
        const gradients = [dPatches, tf.reshape(first, cls.shape), tf.reshape(dPositions, positions.shape)];
        return registers ? [...gradients, tf.reshape(tf.slice(sum, [1, 0], [R, n]), registers.shape)] : gradients;
      },
    ),
  );
}

export function gatherSamples(engine: Engine, x: TfTensor, subset: readonly GroupSubset[]): TfTensor {
  const { parts, shape } = subsetOf('gatherSamples', x, subset);
  return gather(engine, x, rowsOfSubset(parts), shape.at(-1)!, shape);
}

export function gatherRows(engine: Engine, x: TfTensor, rows: Int32Array): TfTensor {
  const { rows: count, n } = rowsOf(x);
  checkRows('gatherRows', rows, count);
  return gather(engine, x, rows, n, [rows.length, n]);
}

function gather(engine: Engine, x: TfTensor, rows: Int32Array, n: number, shape: number[]): TfTensor {
  const { tf } = engine;
  const count = x.size / n;
  return engine.make(() =>
    engine.custom(
      [x],
      () => tf.reshape(pick(engine, tf.reshape(x, [count, n]), rows), shape),
      (dy) => [tf.reshape(spread(engine, tf.reshape(dy, [rows.length, n]), rows, count), x.shape)],
    ),
  );
}

export function sliceTokens(engine: Engine, x: TfTensor, start: number, count: number): TfTensor {
  const [N = 0, T = 0, n = 0] = x.shape;
  check(x.shape.length === 3 && start >= 0 && count >= 0 && start + count <= T, `sliceTokens from ${start}, ${count} of them`, x);
  const { tf } = engine;
  return engine.make(() =>
    engine.custom(
      [x],
      () => tf.slice(x, [0, start, 0], [N, count, n]),
      (dy) => [
        tf.pad(dy, [
          [0, 0],
          [start, T - start - count],
          [0, 0],
        ]),
      ],
    ),
  );
}

export function concatRows(engine: Engine, parts: readonly TfTensor[]): TfTensor {
  const n = parts[0]?.shape.at(-1) ?? 0;
  check(parts.length > 0 && parts.every((part) => part.shape.length > 1 && part.shape.at(-1) === n), 'concatRows', ...parts);
  const { tf } = engine;
  const sizes = parts.map((part) => rowsOf(part).rows);
  return engine.make(() =>
    engine.custom(
      parts,
      () =>
        tf.concat(
          parts.map((part, i) => tf.reshape(part, [sizes[i]!, n])),
          0,
        ),
      (dy) => tf.split(dy, sizes, 0).map((rows, i) => tf.reshape(rows, [...parts[i]!.shape])),
    ),
  );
}
