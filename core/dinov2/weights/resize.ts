/** The position table of a backbone for another grid, once and for all. */
import { resizeWeights } from '../../nn/index.ts';
import type { ModelConfig } from '../config.ts';

/**
 * What the executor would make of the table at that grid, with the same weights (spec 1.3): bicubic along both axes, the
 * class token's row copied; without antialias and with offset 0.1 in networks without registers, with antialias in those
 * with. The same grid gives the same table.
 * @param table [1,1+M*M,D], M = config.positionGrid
 * @param grid side of the new table in patches, 1 or more
 * @returns [1,1+grid*grid,D]
 */
export function resizePositionTable(table: Float32Array, config: ModelConfig, grid: number): Float32Array {
  const { embedDim: D, positionGrid: M, positionOffset, positionAntialias } = config;
  if (table.length !== (1 + M * M) * D)
    throw new Error(`resizePositionTable: ${table.length} values are not a table of ${M} x ${M} patches`);
  if (grid === M) return table.slice();
  const weights = resizeWeights(M, grid, positionOffset, positionAntialias); // [grid,M]
  const rows = new Float64Array(grid * M * D); // [grid,M,D]: along y
  for (let y = 0; y < grid; y++) {
    for (let from = 0; from < M; from++) {
      const weight = weights[y * M + from]!;
      if (weight === 0) continue;
      for (let i = 0; i < M * D; i++) rows[y * M * D + i]! += weight * table[D + from * M * D + i]!;
    }
  }
  const out = new Float64Array((1 + grid * grid) * D);
  out.set(table.subarray(0, D));
  for (let y = 0; y < grid; y++) {
    for (let x = 0; x < grid; x++) {
      const to = (1 + y * grid + x) * D;
      for (let from = 0; from < M; from++) {
        const weight = weights[x * M + from]!;
        if (weight === 0) continue;
        for (let d = 0; d < D; d++) out[to + d]! += weight * rows[(y * M + from) * D + d]!;
      }
    }
  }
  return Float32Array.from(out);
}
