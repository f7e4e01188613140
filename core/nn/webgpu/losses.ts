/** Heads' ends and losses: L2 normalisation, prototypes, cross-entropy, KoLeo, and the teacher's targets. */
import type { PrototypeLossInputs } from '../ops.ts';
import { check, checkRows, rowsOf, type Engine } from './engine.ts';
import { sumRows } from './kernels/columns.ts';
import { scale } from './kernels/elementwise.ts';
import { stored, type Operand } from './kernels/kernel.ts';
import * as koleoKernels from './kernels/koleo.ts';
import * as lossKernels from './kernels/loss.ts';
import * as normalize from './kernels/normalize.ts';
import * as targetKernels from './kernels/targets.ts';
import { blockSize } from './kernels/update.ts';
import { multiply } from './products.ts';
import { part } from './runtime.ts';
import type { GpuTensor } from './tensor.ts';

export function l2Normalize(engine: Engine, x: GpuTensor, epsilon: number): GpuTensor {
  const { rows, n } = rowsOf(x);
  const y = engine.make(x.shape, x.element);
  const inverses = engine.room(rows);
  engine.run(normalize.l2Normalize(engine.caps, x, y, inverses, rows, n, epsilon));
  engine.record(y, [x], (dy) => {
    engine.run(normalize.l2NormalizeBackward(engine.caps, { y, dy, inverses, dx: engine.gradient(x)! }, rows, n));
    engine.giveBack(inverses);
  });
  return y;
}

/** g_k / (||v_k|| temperature), [K]. */
function prototypeScales(engine: Engine, v: GpuTensor, g: GpuTensor, temperature: number): Operand {
  const { rows: K, n } = rowsOf(v);
  const scales = engine.room(K);
  engine.run(lossKernels.prototypeScales(engine.caps, v, g, scales, K, n, temperature));
  return scales;
}

/** Most logits that are kept from forward to backward: 256 MiB. Beyond, they are made again tile by tile. */
const keptLogits = 64 * 2 ** 20;
/** Logits of one tile: 128 MiB, enough to fill any device. */
const tileLogits = 32 * 2 ** 20;

export interface PrototypeLossTensors {
  readonly rows: GpuTensor;
  readonly weightV: GpuTensor;
  readonly weightG: GpuTensor;
  readonly targets: GpuTensor;
}

/** Elements first .. of an f32 array; `first` a multiple of a block, so that bound offsets are aligned. */
function slice<T extends Operand>(operand: T, first: number, count: number): T {
  return { ...operand, element: operand.element, region: part(operand.region, first * 4, count * 4) };
}

/** @param limits most logits kept, and logits of a tile: for tests of the tiled way */
export function prototypeLoss(
  engine: Engine,
  { rows: x, weightV: v, weightG: g, targets }: PrototypeLossTensors,
  { targetRows, rowWeights, temperature }: Omit<PrototypeLossInputs, keyof PrototypeLossTensors>,
  limits: { kept: number; tile: number } = { kept: keptLogits, tile: tileLogits },
): GpuTensor {
  const { caps } = engine;
  const { rows: R, n } = rowsOf(x);
  const { rows: K } = rowsOf(v);
  const { rows: Q } = rowsOf(targets);
  const m = targetRows.length / R;
  const fits = v.shape.at(-1) === n && g.size === K && targets.shape.at(-1) === K && rowWeights.length === R && R > 0;
  check(
    fits && Number.isInteger(m) && m > 0,
    `prototypeLoss with ${targetRows.length} target rows and ${rowWeights.length} weights`,
    x,
    v,
    g,
    targets,
  );
  checkRows('prototypeLoss', targetRows, Q);
  const loss = engine.make([]);
  const scales = prototypeScales(engine, v, g, temperature);
  const index = engine.list(targetRows);
  const weights = engine.floats(rowWeights);
  const state = engine.room(R * 4);
  const whole = R * K <= limits.kept && R * K * 4 <= caps.bindingBytes;
  const width = whole ? K : Math.min(K, Math.max(1, Math.floor(Math.min(limits.tile, caps.bindingBytes / 4) / R / blockSize)) * blockSize);
  const logits = engine.room(R * width);
  const tiles = Array.from({ length: Math.ceil(K / width) }, (_, i) => ({ k0: i * width, count: Math.min(width, K - i * width) }));
  /** Logits of a tile's prototypes, divided by the temperature, [R, count] close together. */
  const makeTile = (tile: Operand, k0: number, count: number): void => {
    const epilogue = { kind: 'column-scale', scale: slice(scales, k0, count).region } as const;
    multiply(engine, 'nt', { m: R, n: count, k: n }, x, prototypes(k0, count), tile, epilogue);
  };
  const prototypes = (k0: number, count: number): Operand => slice({ region: v.region, element: v.element }, k0 * n, count * n);
  for (const { k0, count } of tiles) {
    makeTile(logits, k0, count);
    engine.run(lossKernels.crossEntropy(caps, { logits, targets, targetRows: index, state }, { rows: R, count, k0, K, m }));
  }
  engine.run(lossKernels.crossEntropySum(state, weights, loss, R));
  if (!whole || !(engine.wants(x) || engine.wants(v) || engine.wants(g))) engine.giveBack(logits);
  engine.record(loss, [x, v, g], (dy) => {
    const dx = engine.gradient(x);
    const dv = engine.gradient(v);
    const dg = engine.gradient(g);
    // Sums over rows of (gradient by row . v_k) row: [width, n].
    const h = dv || dg ? engine.room(width * n) : null;
    const tile = whole ? logits : engine.room(R * width);
    for (const { k0, count } of tiles) {
      if (!whole) makeTile(tile, k0, count);
      const own = slice(scales, k0, count);
      const arrays = { logits: tile, targets, targetRows: index, state, weights, dy, scales: own };
      engine.run(lossKernels.crossEntropyBackward(caps, arrays, { rows: R, count, k0, K, m }));
      if (dx) multiply(engine, 'nn', { m: R, n, k: count }, tile, prototypes(k0, count), { ...dx, accumulate: k0 > 0 || dx.accumulate });
      if (!h) continue;
      multiply(engine, 'tn', { m: count, n, k: R }, tile, x, h);
      const lengths = slice({ region: g.region, element: g.element }, k0, count);
      const back = { dv: dv && slice(dv, k0 * n, count * n), dg: dg && slice(dg, k0, count) };
      engine.run(lossKernels.prototypeBackward(caps, { h, v: prototypes(k0, count), g: lengths, ...back }, count, n));
    }
    for (const room of [tile, h, scales, state]) if (room) engine.giveBack(room);
  });
  return loss;
}

export function prototypeLogits(engine: Engine, x: GpuTensor, v: GpuTensor, g: GpuTensor): GpuTensor {
  const { rows: R, n } = rowsOf(x);
  const { rows: K } = rowsOf(v);
  check(v.shape.at(-1) === n && g.size === K, 'prototypeLogits', x, v, g);
  const y = engine.make([R, K]);
  const scales = prototypeScales(engine, v, g, 1);
  multiply(engine, 'nt', { m: R, n: K, k: n }, x, v, y, { kind: 'column-scale', scale: scales.region });
  engine.giveBack(scales);
  return y;
}

export function koleo(engine: Engine, x: GpuTensor): GpuTensor {
  const { caps } = engine;
  const { rows: B, n } = rowsOf(x);
  check(B >= 2, 'koleo (at least two rows)', x);
  // x / max(||x||, 1e-8), recorded on its own: its gradient is l2Normalize's.
  const hat = l2Normalize(engine, x, 1e-8);
  const loss = engine.make([]);
  const [nearest, terms, slopes] = [engine.room(B), engine.room(B), engine.room(B * n)];
  engine.run(koleoKernels.koleo(caps, { x: hat, nearest, terms, slopes }, B, n), koleoKernels.sumAll(terms, loss, B, 1 / B));
  engine.record(loss, [hat], (dy) => {
    // hat has one user, so this is its first and only contribution.
    engine.run(koleoKernels.koleoBackward(caps, { nearest, slopes, dy, dx: engine.gradient(hat)! }, B, n, 1 / B));
  });
  return loss;
}

export function weightedSum(engine: Engine, terms: readonly GpuTensor[], weights: readonly number[]): GpuTensor {
  check(terms.length === weights.length && terms.every((term) => term.size === 1), `weightedSum with ${weights.length} weights`, ...terms);
  const y = engine.make([]);
  terms.forEach((term, i) => engine.run(scale(engine.caps, term, { ...stored(y), accumulate: i > 0 }, weights[i]!, 1)));
  engine.record(y, terms, (dy) => {
    terms.forEach((term, i) => {
      const target = engine.gradient(term);
      if (target) engine.run(scale(engine.caps, dy, target, weights[i]!, 1));
    });
  });
  return y;
}

// --- targets, no gradient ---------------------------------------------------------------------------------------------

export function sinkhornKnopp(engine: Engine, logits: GpuTensor, temperature: number, iterations: number): GpuTensor {
  const { rows, n: K } = rowsOf(logits);
  check(logits.shape.length === 2 && iterations >= 1, `sinkhornKnopp with ${iterations} iterations`, logits);
  const y = engine.make(logits.shape);
  const [factors, scales] = [engine.room(rows), engine.room(K)];
  engine.run(targetKernels.sinkhornKnopp(engine.caps, { logits, y, factors, scales }, { rows, K, temperature, iterations }));
  for (const room of [factors, scales]) engine.giveBack(room);
  return y;
}

export function centeredSoftmax(engine: Engine, logits: GpuTensor, center: GpuTensor, temperature: number): GpuTensor {
  const { rows, n: K } = rowsOf(logits);
  check(center.size === K, 'centeredSoftmax', logits, center);
  const y = engine.make(logits.shape);
  engine.run(targetKernels.centeredSoftmax(engine.caps, { logits, center, y }, { rows, K, temperature }));
  return y;
}

export function meanRows(engine: Engine, x: GpuTensor): GpuTensor {
  const { rows, n } = rowsOf(x);
  const y = engine.make([n]);
  engine.run(sumRows(engine.caps, x, stored(y), { rows, n, factor: 1 / rows }));
  return y;
}
