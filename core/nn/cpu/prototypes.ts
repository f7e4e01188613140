/** Logits over the weight-normed prototypes of a head's last layer, whole or a tile of prototypes at a time. */
import { rowsPerChunk, type Engine } from './engine.ts';
import { productNT } from './products.ts';
import type { CpuTensor } from './tensor.ts';
import { check, rowsOf } from '../shapes.ts';

/** g_k / (||v_k|| temperature), [K]. */
export function prototypeScales(engine: Engine, v: CpuTensor, g: CpuTensor, temperature: number): number {
  const { rows: K, n } = rowsOf(v);
  const scales = engine.room(K);
  const per = rowsPerChunk(n);
  engine.pool.run('kPrototypeScales', Math.ceil(K / per), [v.address, g.address, scales, K, n, temperature, per]);
  return scales;
}

/** Logits of prototypes k0 .. k0 + count - 1, over the temperature of the scales: [R, count] close together at `tile`. */
export function logitsTile(engine: Engine, x: CpuTensor, v: CpuTensor, scales: number, tile: number, k0: number, count: number): void {
  const { rows: R, n } = rowsOf(x);
  const epilogue = { kind: 'column-scale', vector: scales + k0 * 4, slope: 0 } as const;
  productNT(engine, { m: R, n: count, k: n }, x.address, v.address + k0 * n * 4, tile, 0, epilogue);
}

/** Prototypes of a tile of so many rows. */
export function tileWidth(engine: Engine, rows: number, K: number): number {
  return Math.min(K, Math.max(8, Math.floor(engine.limits.tile / rows / 8) * 8));
}

export function prototypeLogits(engine: Engine, x: CpuTensor, v: CpuTensor, g: CpuTensor): CpuTensor {
  const { rows: R, n } = rowsOf(x);
  const { rows: K } = rowsOf(v);
  check(v.shape.at(-1) === n && g.size === K, 'prototypeLogits', x, v, g);
  const y = engine.make([R, K]);
  logitsTile(engine, x, v, prototypeScales(engine, v, g, 1), y.address, 0, K);
  return y;
}
