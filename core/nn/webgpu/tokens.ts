/** From images to tokens, and copies of stretches of them, with their gradients. */
import type { PositionResize } from '../ops.ts';
import { resizeWeights, transposed } from '../positions.ts';
import { type Engine } from './engine.ts';
import { maskTokenBackward, rowGroups, sumRows } from './kernels/columns.ts';
import { copyRows, fill } from './kernels/elementwise.ts';
import { stored } from './kernels/kernel.ts';
import * as kernels from './kernels/tokens.ts';
import { linear } from './layers.ts';
import type { GpuTensor } from './tensor.ts';
import { check, rowsOf } from '../shapes.ts';

/** images [N,3,H,W], weight [D,3,p,p], bias [D] -> [N, (H/p)(W/p), D]. */
export function patchEmbed(engine: Engine, images: GpuTensor, weight: GpuTensor, bias: GpuTensor): GpuTensor {
  const [N = 0, channels, height = 0, width = 0] = images.shape;
  const [, , p = 1, p2] = weight.shape;
  const fits = images.shape.length === 4 && weight.shape.length === 4 && channels === 3 && weight.shape[1] === 3 && p === p2;
  check(fits && height % p === 0 && width % p === 0, 'patchEmbed', images, weight, bias);
  if (engine.wants(images)) throw new Error('patchEmbed: there is no gradient with respect to images.');
  const patches = engine.make([N, (height / p) * (width / p), 3 * p * p], engine.precision);
  engine.run(kernels.patches(engine.caps, images, patches, { N, height, width, side: p }));
  return linear(engine, patches, weight, bias, 'none');
}

export function maskPatches(engine: Engine, x: GpuTensor, mask: Uint8Array, token: GpuTensor): GpuTensor {
  const { rows, n } = rowsOf(x);
  check(mask.length === rows && token.size === n, `maskPatches with a mask of ${mask.length}`, x, token);
  const y = engine.make(x.shape, x.element);
  const bytes = engine.list(mask);
  engine.run(kernels.maskPatches(engine.caps, x, token, bytes, y, rows, n));
  engine.record(y, [x, token], (dy) => {
    const dx = engine.gradient(x);
    if (dx) engine.run(kernels.maskPatchesBackward(engine.caps, dy, bytes, dx, rows, n));
    const dToken = engine.gradient(token);
    if (!dToken) return;
    const { groups } = rowGroups(rows);
    const partials = engine.room(groups * n);
    engine.run(maskTokenBackward(dy, bytes, partials, rows, n), sumRows(engine.caps, partials, dToken, { rows: groups, n }));
    engine.giveBack(partials);
  });
  return y;
}

/** table [1,1+M*M,D] -> [1+h*w, D]. */
export function resizePositions(engine: Engine, table: GpuTensor, resize: PositionResize): GpuTensor {
  const { gridHeight: h, gridWidth: w, offset, antialias } = resize;
  const n = table.shape.at(-1) ?? 0;
  const side = Math.sqrt((table.shape[1] ?? 0) - 1);
  check(table.shape.length === 3 && table.shape[0] === 1 && Number.isInteger(side) && h > 0 && w > 0, 'resizePositions', table);
  const y = engine.make([1 + h * w, n]);
  const copied = stored(y);
  if (h === side && w === side) {
    engine.run(copyRows(engine.caps, table, copied, { rows: 1, n: y.size }));
    engine.record(y, [table], (dy) => engine.passOn(table, dy));
    return y;
  }
  const rows = resizeWeights(side, h, offset, antialias); // [h, side]
  const columns = resizeWeights(side, w, offset, antialias); // [w, side]
  const weights = { rows: engine.floats(rows), columns: engine.floats(columns) };
  engine.run(kernels.resizePositions(engine.caps, { x: table, ...weights, y: copied }, { from: [side, side], to: [h, w], n }));
  engine.record(y, [table], (dy) => {
    const back = { rows: engine.floats(transposed(rows, h, side)), columns: engine.floats(transposed(columns, w, side)) };
    const target = engine.gradient(table)!;
    engine.run(kernels.resizePositions(engine.caps, { x: dy, ...back, y: target }, { from: [h, w], to: [side, side], n }));
  });
  return y;
}

/** patches [N,P,D], cls [1,1,D], positions [1+P,D], registers [1,R,D] -> [N,1+R+P,D]. */
export function assembleTokens(
  engine: Engine,
  patches: GpuTensor,
  cls: GpuTensor,
  positions: GpuTensor,
  registers: GpuTensor | null,
): GpuTensor {
  const { caps } = engine;
  const [N = 0, P = 0, n = 0] = patches.shape;
  const R = registers ? registers.size / Math.max(n, 1) : 0;
  const fits = patches.shape.length === 3 && cls.size === n && positions.size === (1 + P) * n && Number.isInteger(R);
  check(fits, 'assembleTokens', patches, cls, positions, registers);
  const T = 1 + R + P;
  const y = engine.make([N, T, n], patches.element);
  engine.run(kernels.assembleTokens(caps, { patches, cls, positions, registers, y }, { N, P, R, n }));
  engine.record(y, [patches, cls, positions, registers], (dy) => {
    const strideX = T * n;
    const dPositions = engine.gradient(positions);
    if (dPositions) {
      engine.run(
        sumRows(caps, dy, dPositions, { rows: N, n, strideX }),
        sumRows(caps, dy, dPositions, { rows: N, n: P * n, startX: (1 + R) * n, strideX, startY: n }),
      );
    }
    const dCls = engine.gradient(cls);
    if (dCls) engine.run(sumRows(caps, dy, dCls, { rows: N, n, strideX }));
    const dRegisters = R > 0 ? engine.gradient(registers) : null;
    if (dRegisters) engine.run(sumRows(caps, dy, dRegisters, { rows: N, n: R * n, startX: n, strideX }));
    const dPatches = engine.gradient(patches);
    if (dPatches) engine.run(copyRows(caps, dy, dPatches, { rows: N, n: P * n, startX: (1 + R) * n, strideX }));
  });
  return y;
}

/** x [N,T,D] -> [N,count,D]. */
export function sliceTokens(engine: Engine, x: GpuTensor, start: number, count: number): GpuTensor {
  const [N = 0, T = 0, n = 0] = x.shape;
  check(x.shape.length === 3 && start >= 0 && count >= 0 && start + count <= T, `sliceTokens from ${start}, ${count} of them`, x);
  const y = engine.make([N, count, n], x.element);
  const stretches = { rows: N, n: count * n };
  engine.run(copyRows(engine.caps, x, stored(y), { ...stretches, startX: start * n, strideX: T * n }));
  engine.record(y, [x], (dy) => {
    const target = engine.gradient(x)!;
    if (!target.accumulate) engine.run(fill(engine.caps, target, 0, x.size));
    const added = { ...target, accumulate: true };
    engine.run(copyRows(engine.caps, dy, added, { ...stretches, startY: start * n, strideY: T * n }));
  });
  return y;
}

/** [R1,D], [R2,D], ... -> [R1+R2+...,D]. */
export function concatRows(engine: Engine, parts: readonly GpuTensor[]): GpuTensor {
  const n = parts[0]?.shape.at(-1) ?? 0;
  check(parts.length > 0 && parts.every((part) => part.shape.length > 1 && part.shape.at(-1) === n), 'concatRows', ...parts);
  const rows = parts.reduce((sum, part) => sum + rowsOf(part).rows, 0);
  const y = engine.make([rows, n], parts[0]!.element);
  const joined = stored(y);
  let start = 0;
  for (const part of parts) {
    engine.run(copyRows(engine.caps, part, joined, { rows: 1, n: part.size, startY: start }));
    start += part.size;
  }
  engine.record(y, parts, (dy) => {
    let from = 0;
    for (const part of parts) {
      const target = engine.gradient(part);
      if (target) engine.run(copyRows(engine.caps, dy, target, { rows: 1, n: part.size, startX: from }));
      from += part.size;
    }
  });
  return y;
}
