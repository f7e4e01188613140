/** Rows picked by number, and for drop path the samples of each group that take part in a branch, picked and brought back. */
import type { GroupSubset } from '../ops.ts';
import { checkRows, rowsOf, subsetOf, type PlacedSubset } from '../shapes.ts';
import type { Engine } from './engine.ts';
import * as elementwise from './kernels/elementwise.ts';
import type { Operand } from './kernels/kernel.ts';
import { gather, scatter } from './kernels/tokens.ts';
import type { GpuTensor } from './tensor.ts';

export function gatherRows(engine: Engine, x: GpuTensor, rows: Int32Array): GpuTensor {
  const { rows: count, n } = rowsOf(x);
  checkRows('gatherRows', rows, count);
  const y = engine.make([rows.length, n], x.element);
  engine.run(gather(engine.caps, x, engine.list(rows), y, rows.length, n));
  engine.record(y, [x], (dy) => {
    const dx = engine.gradient(x)!;
    const { starts, sources } = inverse(rows, count);
    engine.run(scatter(engine.caps, { dy, starts: engine.list(starts), sources: engine.list(sources), dx }, count, n));
  });
  return y;
}

/** For each of `count` rows the places that name it, ascending: sources[starts[row] .. starts[row + 1] - 1]. */
function inverse(rows: Int32Array, count: number): { starts: Uint32Array; sources: Uint32Array } {
  const starts = new Uint32Array(count + 1);
  for (const row of rows) starts[row + 1]!++;
  for (let row = 0; row < count; ++row) starts[row + 1]! += starts[row]!;
  const next = starts.slice(0, count);
  const sources = new Uint32Array(rows.length);
  rows.forEach((row, place) => (sources[next[row]!++] = place));
  return { starts, sources };
}

/** The samples that take part: of x [N,T,n] one group's, of x [R,n] all groups'. */
export function gatherSamples(engine: Engine, x: GpuTensor, subset: readonly GroupSubset[]): GpuTensor {
  const { parts, shape } = subsetOf('gatherSamples', x, subset);
  const n = shape.at(-1)!;
  const y = engine.make(shape, x.element);
  takeSamples(engine, x, y, parts, n);
  engine.record(y, [x], (dy) => {
    const dx = engine.gradient(x)!;
    for (const { rows, samples, tokens, from, to } of parts) {
      const { starts, sources } = inverse(rows, samples);
      const arrays = { dy, starts: engine.list(starts), sources: engine.list(sources), dx };
      engine.run(scatter(engine.caps, arrays, samples, tokens * n, { startX: from * n, startY: to * n }));
    }
  });
  return y;
}

/** y: the rows of x that take part, times each group's scale where `scaled`. */
export function takeSamples(engine: Engine, x: Operand, y: Operand, parts: readonly PlacedSubset[], n: number, scaled = false): void {
  for (const { rows, scale, tokens, from, to } of parts) {
    const place = { startX: from * n, startY: to * n, factor: scaled ? scale : 1 };
    engine.run(gather(engine.caps, x, engine.list(rows), y, rows.length, tokens * n, place));
  }
}

/** y = x, plus gamma [n] times the branch and each group's scale in the rows that take part. */
export function addBranch(
  engine: Engine,
  arrays: { x: Operand; branch: Operand; gamma: Operand; y: Operand },
  parts: readonly PlacedSubset[],
  n: number,
): void {
  for (const { rows, scale, samples, tokens, from, to } of parts) {
    const places = new Uint32Array(samples);
    rows.forEach((row, place) => (places[row] = place + 1));
    const shape = { samples, sampleSize: tokens * n, n, start: from * n, startBranch: to * n, scale };
    engine.run(elementwise.subsetResidual(engine.caps, { ...arrays, places: engine.list(places) }, shape));
  }
}
