/** Logits over the weight-normed prototypes of a head's last layer, whole or a tile of prototypes at a time. */
import { type Engine } from './engine.ts';
import type { Operand } from './kernels/kernel.ts';
import { prototypeScales as scalesKernel } from './kernels/loss.ts';
import { multiply } from './products.ts';
import { alignment, part } from './program.ts';
import { bytesOf, type GpuTensor } from './tensor.ts';
import { check, rowsOf } from '../shapes.ts';

/** g_k / (||v_k|| temperature), [K]. */
export function prototypeScales(engine: Engine, v: GpuTensor, g: GpuTensor, temperature: number): Operand {
  const { rows: K, n } = rowsOf(v);
  const scales = engine.room(K);
  engine.run(scalesKernel(engine.caps, v, g, scales, K, n, temperature));
  return scales;
}

/** Elements first .. of an array; `first` a multiple of a tile's step, so that bound offsets are aligned. */
export function slice<T extends Operand>(operand: T, first: number, count: number): T {
  const bytes = bytesOf(operand.element);
  return { ...operand, element: operand.element, region: part(operand.region, first * bytes, count * bytes) };
}

/**
 * Logits of prototypes k0 .. k0 + count - 1, over the temperature of the scales: [R, count] close together in `tile`.
 * @param directions of all prototypes, as a product with x takes them (`Engine.factor`)
 */
export function logitsTile(
  engine: Engine,
  x: GpuTensor,
  directions: Operand,
  scales: Operand,
  tile: Operand,
  k0: number,
  count: number,
): void {
  const { rows: R, n } = rowsOf(x);
  const epilogue = { kind: 'column-scale', scale: slice(scales, k0, count).region } as const;
  multiply(engine, 'nt', { m: R, n: count, k: n }, x, slice(directions, k0 * n, count * n), tile, epilogue);
}

/** Where tiles of prototypes begin and how many each has, for so many rows of logits of `bytes` each. */
export function tilesOf(engine: Engine, rows: number, K: number, bytes: number): { k0: number; count: number }[] {
  const step = alignment / 2; // f16 directions begin aligned too
  const most = Math.min(engine.limits.tile, engine.caps.bindingBytes / bytes) / rows;
  const width = Math.min(K, Math.max(1, Math.floor(most / step)) * step);
  return Array.from({ length: Math.ceil(K / width) }, (_, i) => ({ k0: i * width, count: Math.min(width, K - i * width) }));
}

/** Whether [rows, K] may exist whole. */
export function fitsWhole(engine: Engine, rows: number, K: number, bytes: number): boolean {
  return rows * K <= engine.limits.kept && rows * K * bytes <= engine.caps.bindingBytes;
}

/** f32 whatever x is: over a temperature of 0.04 the last place of an f16 logit near 1 is 1 % of its target. */
export function prototypeLogits(engine: Engine, x: GpuTensor, v: GpuTensor, g: GpuTensor): GpuTensor {
  const { rows: R, n } = rowsOf(x);
  const { rows: K } = rowsOf(v);
  check(v.shape.at(-1) === n && g.size === K, 'prototypeLogits', x, v, g);
  const y = engine.make([R, K]);
  const scales = prototypeScales(engine, v, g, 1);
  logitsTile(engine, x, engine.factor(v, x.element), scales, y, 0, K);
  engine.giveBack(scales);
  return y;
}
