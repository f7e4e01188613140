/** From images to tokens, and copies that pick tokens or samples, with their gradients. */
import type { GroupSubset, PositionResize } from '../ops.ts';
import { rowsPerChunk, type Engine } from './engine.ts';
import { linear, withPartials } from './layers.ts';
import { resizeWeights, transposed } from '../positions.ts';
import type { CpuTensor } from './tensor.ts';
import { check, checkRows, rowsOf, rowsOfSubset, subsetOf } from '../shapes.ts';

/** images [N,3,H,W], weight [D,3,p,p], bias [D] -> [N, (H/p)(W/p), D]. */
export function patchEmbed(engine: Engine, images: CpuTensor, weight: CpuTensor, bias: CpuTensor): CpuTensor {
  const [N = 0, channels, height = 0, width = 0] = images.shape;
  const [, , p = 1, p2] = weight.shape;
  const fits = images.shape.length === 4 && weight.shape.length === 4 && channels === 3 && weight.shape[1] === 3 && p === p2;
  check(fits && height % p === 0 && width % p === 0, 'patchEmbed', images, weight, bias);
  if (engine.wants(images)) throw new Error('patchEmbed: there is no gradient with respect to images.');
  const count = (height / p) * (width / p);
  const patches = engine.make([N, count, 3 * p * p]);
  const rows = N * count;
  const per = rowsPerChunk(3 * p * p);
  engine.pool.run('kPatches', Math.ceil(rows / per), [images.address, patches.address, height, width, p, rows, per]);
  return linear(engine, patches, weight, bias, 'none');
}

export function maskPatches(engine: Engine, x: CpuTensor, mask: Uint8Array, token: CpuTensor): CpuTensor {
  const { rows, n } = rowsOf(x);
  check(mask.length === rows && token.size === n, `maskPatches with a mask of ${mask.length}`, x, token);
  const y = engine.make(x.shape);
  const bytes = engine.bytes(mask);
  const per = rowsPerChunk(n);
  const groups = Math.ceil(rows / per);
  engine.pool.run('kMaskPatches', groups, [x.address, bytes, token.address, y.address, rows, n, per]);
  engine.record(y, [x, token], (dy) => {
    const dx = engine.gradient(x);
    withPartials(engine, groups, n, [engine.gradient(token)], (partials) =>
      engine.pool.run('kMaskPatchesBackward', groups, [dy, bytes, dx?.address ?? 0, dx?.accumulate ?? 0, rows, n, per, partials]),
    );
  });
  return y;
}

/** table [1,1+M*M,D] -> [1+h*w, D]. */
export function resizePositions(engine: Engine, table: CpuTensor, resize: PositionResize): CpuTensor {
  const { gridHeight: h, gridWidth: w, offset, antialias } = resize;
  const n = table.shape.at(-1) ?? 0;
  const side = Math.sqrt((table.shape[1] ?? 0) - 1);
  check(table.shape.length === 3 && table.shape[0] === 1 && Number.isInteger(side) && h > 0 && w > 0, 'resizePositions', table);
  const y = engine.make([1 + h * w, n]);
  if (h === side && w === side) {
    engine.copy(y.address, table.address, y.size);
    engine.record(y, [table], (dy) => engine.passOn(table, dy));
    return y;
  }
  const rows = resizeWeights(side, h, offset, antialias); // [h, side]
  const columns = resizeWeights(side, w, offset, antialias); // [w, side]
  engine.copy(y.address, table.address, n);
  const args = [engine.floats(rows), engine.floats(columns), h, w, side, side, n, 0];
  engine.pool.run('kResizePositions', h * w, [table.address + n * 4, y.address + n * 4, ...args]);
  engine.record(y, [table], (dy) => {
    const target = engine.gradient(table)!;
    engine.copy(target.address, dy, n, target.accumulate);
    const back = [
      engine.floats(transposed(rows, h, side)),
      engine.floats(transposed(columns, w, side)),
      side,
      side,
      h,
      w,
      n,
      target.accumulate,
    ];
    engine.pool.run('kResizePositions', side * side, [dy + n * 4, target.address + n * 4, ...back]);
  });
  return y;
}

/** patches [N,P,D], cls [1,1,D], positions [1+P,D], registers [1,R,D] -> [N,1+R+P,D]. */
export function assembleTokens(
  engine: Engine,
  patches: CpuTensor,
  cls: CpuTensor,
  positions: CpuTensor,
  registers: CpuTensor | null,
): CpuTensor {
  const [N = 0, P = 0, n = 0] = patches.shape;
  const R = registers ? registers.size / Math.max(n, 1) : 0;
  const fits = patches.shape.length === 3 && cls.size === n && positions.size === (1 + P) * n && Number.isInteger(R);
  check(fits, 'assembleTokens', patches, cls, positions, registers);
  const T = 1 + R + P;
  const y = engine.make([N, T, n]);
  engine.pool.run('kAssembleTokens', N, [patches.address, cls.address, positions.address, registers?.address ?? 0, y.address, R, P, n]);
  engine.record(y, [patches, cls, positions, registers], (dy) => {
    const stride = T * n * 4;
    const afterRegisters = dy + (1 + R) * n * 4;
    const dPositions = engine.gradient(positions);
    if (dPositions) {
      engine.sumRows(dPositions.address, dy, stride, N, n, dPositions.accumulate);
      engine.sumRows(dPositions.address + n * 4, afterRegisters, stride, N, P * n, dPositions.accumulate);
    }
    const dCls = engine.gradient(cls);
    if (dCls) engine.sumRows(dCls.address, dy, stride, N, n, dCls.accumulate);
    const dRegisters = R > 0 ? engine.gradient(registers) : null;
    if (dRegisters) engine.sumRows(dRegisters.address, dy + n * 4, stride, N, R * n, dRegisters.accumulate);
    const dPatches = engine.gradient(patches);
    if (dPatches) copyRows(engine, dPatches.address, P * n * 4, afterRegisters, stride, N, P * n, dPatches.accumulate);
  });
  return y;
}

/** `rows` stretches of n floats, strides in bytes. */
function copyRows(
  engine: Engine,
  to: number,
  toStride: number,
  from: number,
  fromStride: number,
  rows: number,
  n: number,
  accumulate: number,
): void {
  const per = rowsPerChunk(n);
  engine.pool.run('kCopyRows', Math.ceil(rows / per), [to, toStride, from, fromStride, rows, n, accumulate, per]);
}

/** x [N,T,D] -> [N,count,D]. */
export function sliceTokens(engine: Engine, x: CpuTensor, start: number, count: number): CpuTensor {
  const [N = 0, T = 0, n = 0] = x.shape;
  check(x.shape.length === 3 && start >= 0 && count >= 0 && start + count <= T, `sliceTokens from ${start}, ${count} of them`, x);
  const y = engine.make([N, count, n]);
  copyRows(engine, y.address, count * n * 4, x.address + start * n * 4, T * n * 4, N, count * n, 0);
  engine.record(y, [x], (dy) => {
    const target = engine.gradient(x)!;
    if (!target.accumulate) engine.fill(target.address, 0, x.size);
    copyRows(engine, target.address + start * n * 4, T * n * 4, dy, count * n * 4, N, count * n, 1);
  });
  return y;
}

/** Rows of x, which are there; `shape` is the result's. */
function gather(engine: Engine, x: CpuTensor, rows: Int32Array, shape: readonly number[]): CpuTensor {
  const { n } = rowsOf(x);
  const y = engine.make(shape);
  const per = rowsPerChunk(n);
  engine.pool.run('kGather', Math.ceil(rows.length / per), [y.address, x.address, engine.ints(rows), rows.length, n, per]);
  engine.record(y, [x], (dy) => {
    const target = engine.gradient(x)!;
    if (!target.accumulate) engine.fill(target.address, 0, x.size);
    const { named, starts, sources } = inverse(rows);
    const lists = [engine.ints(named), engine.ints(starts), engine.ints(sources)];
    engine.pool.run('kScatterAdd', Math.ceil(named.length / per), [target.address, dy, ...lists, named.length, n, per]);
  });
  return y;
}

/** For each row that is named, ascending: the places that name it, ascending. */
function inverse(rows: Int32Array): { named: number[]; starts: number[]; sources: number[] } {
  const places = new Map<number, number[]>();
  rows.forEach((row, i) => {
    const list = places.get(row);
    if (list) list.push(i);
    else places.set(row, [i]);
  });
  const named = [...places.keys()].sort((a, b) => a - b);
  const starts = [0];
  const sources: number[] = [];
  for (const row of named) {
    sources.push(...places.get(row)!);
    starts.push(sources.length);
  }
  return { named, starts, sources };
}

export function gatherSamples(engine: Engine, x: CpuTensor, subset: readonly GroupSubset[]): CpuTensor {
  const { parts, shape } = subsetOf('gatherSamples', x, subset);
  return gather(engine, x, rowsOfSubset(parts), shape);
}

export function gatherRows(engine: Engine, x: CpuTensor, rows: Int32Array): CpuTensor {
  const { rows: count, n } = rowsOf(x);
  checkRows('gatherRows', rows, count);
  return gather(engine, x, rows, [rows.length, n]);
}

/** [R1,D], [R2,D], ... -> [R1+R2+...,D]. */
export function concatRows(engine: Engine, parts: readonly CpuTensor[]): CpuTensor {
  const n = parts[0]?.shape.at(-1) ?? 0;
  check(parts.length > 0 && parts.every((part) => part.shape.length > 1 && part.shape.at(-1) === n), 'concatRows', ...parts);
  const rows = parts.reduce((sum, part) => sum + rowsOf(part).rows, 0);
  const y = engine.make([rows, n]);
  let offset = 0;
  for (const part of parts) {
    engine.copy(y.address + offset, part.address, part.size);
    offset += part.bytes;
  }
  engine.record(y, parts, (dy) => {
    let from = dy;
    for (const part of parts) {
      const target = engine.gradient(part);
      if (target) engine.copy(target.address, from, part.size, target.accumulate);
      from += part.bytes;
    }
  });
  return y;
}
