/** Heads' ends and losses: L2 normalisation, cross-entropy over prototypes, KoLeo. */
import type { PrototypeLossInputs } from '../ops.ts';
import { type Engine } from './engine.ts';
import { scale } from './kernels/elementwise.ts';
import { stored, type Operand } from './kernels/kernel.ts';
import * as koleoKernels from './kernels/koleo.ts';
import * as lossKernels from './kernels/loss.ts';
import * as normalize from './kernels/normalize.ts';
import { multiply } from './products.ts';
import { fitsWhole, logitsTile, prototypeScales, slice, tilesOf } from './prototypes.ts';
import { targetsAt, type GpuTargets } from './targets.ts';
import { bytesOf, type GpuTensor } from './tensor.ts';
import { check, checkRows, rowsOf } from '../shapes.ts';

export function l2Normalize(engine: Engine, x: GpuTensor, epsilon: number, element = x.element): GpuTensor {
  const { rows, n } = rowsOf(x);
  const y = engine.make(x.shape, element);
  const inverses = engine.room(rows);
  engine.run(normalize.l2Normalize(engine.caps, x, y, inverses, rows, n, epsilon));
  engine.record(y, [x], (dy) => {
    engine.run(normalize.l2NormalizeBackward(engine.caps, { y, dy, inverses, dx: engine.gradient(x)! }, rows, n));
    engine.giveBack(inverses);
  });
  return y;
}

export interface PrototypeLossTensors {
  readonly rows: GpuTensor;
  readonly weightV: GpuTensor;
  readonly weightG: GpuTensor;
  readonly targets: GpuTensor | GpuTargets;
}

/**
 * Logits, and in backward their gradients, have the element of x. In f16 those of a student, at most 10 in size, are off by
 * up to 4e-3, as much as the loss of one row, and the mean over rows far less; a matrix unit takes them as they are.
 */
export function prototypeLoss(
  engine: Engine,
  { rows: x, weightV: v, weightG: g, targets }: PrototypeLossTensors,
  { targetRows, rowWeights, temperature }: Omit<PrototypeLossInputs, keyof PrototypeLossTensors>,
): GpuTensor {
  const { caps } = engine;
  const { rows: R, n } = rowsOf(x);
  const { rows: K } = rowsOf(v);
  const { rows: Q, n: targetK } = 'shape' in targets ? rowsOf(targets) : { rows: targets.rows, n: targets.prototypes };
  const m = targetRows.length / R;
  const fits = v.shape.at(-1) === n && g.size === K && targetK === K && rowWeights.length === R && R > 0;
  check(
    fits && Number.isInteger(m) && m > 0,
    `prototypeLoss with ${targetRows.length} target rows, ${rowWeights.length} weights and targets [${Q},${targetK}]`,
    x,
    v,
    g,
  );
  checkRows('prototypeLoss', targetRows, Q);
  const loss = engine.make([]);
  const scales = prototypeScales(engine, v, g, temperature);
  const index = engine.list(targetRows);
  const weights = engine.floats(rowWeights);
  const state = engine.room(R * 4);
  const { element } = x;
  const directions = engine.factor(v, element);
  const implicit = !('shape' in targets) && !targets.whole;
  const whole = !implicit && fitsWhole(engine, R, K, bytesOf(element));
  const tiles = whole ? [{ k0: 0, count: K }] : tilesOf(engine, implicit ? Math.max(R, Q) : R, K, 4);
  const width = tiles[0]!.count;
  const logits = engine.room(R * width, element);
  const made = implicit ? engine.room(Q * width) : null;
  for (const { k0, count } of tiles) {
    logitsTile(engine, x, directions, scales, logits, k0, count);
    const from = targetsAt(engine, targets, k0, count, made);
    const arrays = { logits, targets: from.targets, targetRows: index, state };
    engine.run(lossKernels.crossEntropy(caps, arrays, { rows: R, count, k0: from.k0, K: from.K, m }, k0 === 0));
  }
  engine.run(lossKernels.crossEntropySum(state, weights, loss, R));
  if (made) engine.giveBack(made);
  if (!whole || !(engine.wants(x) || engine.wants(v) || engine.wants(g))) engine.giveBack(logits);
  engine.record(loss, [x, v, g], (dy) => {
    const dx = engine.gradient(x);
    const dv = engine.gradient(v);
    const dg = engine.gradient(g);
    // Sums over rows of (gradient by row . v_k) row: [width, n].
    const h = dv || dg ? engine.room(width * n) : null;
    const tile = whole ? logits : engine.room(R * width, element);
    const again = implicit ? engine.room(Q * width) : null;
    for (const { k0, count } of tiles) {
      if (!whole) logitsTile(engine, x, directions, scales, tile, k0, count);
      const from = targetsAt(engine, targets, k0, count, again);
      const own = slice(scales, k0, count);
      const arrays = { logits: tile, targets: from.targets, targetRows: index, state, weights, dy, scales: own };
      engine.run(lossKernels.crossEntropyBackward(caps, arrays, { rows: R, count, k0: from.k0, K: from.K, m }));
      const toRows = dx && { ...dx, accumulate: k0 > 0 || dx.accumulate };
      if (toRows) multiply(engine, 'nn', { m: R, n, k: count }, tile, slice(directions, k0 * n, count * n), toRows);
      if (!h) continue;
      multiply(engine, 'tn', { m: count, n, k: R }, tile, x, h);
      const ofTile = (array: GpuTensor, each: number): Operand => slice<Operand>(array, k0 * each, count * each);
      const back = { dv: dv && slice(dv, k0 * n, count * n), dg: dg && slice(dg, k0, count) };
      engine.run(lossKernels.prototypeBackward(caps, { h, v: ofTile(v, n), g: ofTile(g, 1), ...back }, count, n));
    }
    for (const room of [tile, again, h, scales, state]) if (room) engine.giveBack(room);
  });
  return loss;
}

export function koleo(engine: Engine, x: GpuTensor): GpuTensor {
  const { caps } = engine;
  const { rows: B, n } = rowsOf(x);
  check(B >= 2, 'koleo (at least two rows)', x);
  // x / max(||x||, 1e-8), recorded on its own: its gradient is l2Normalize's.
  // In f32 whatever x is: distances of tokens that are nearly equal are what it is about.
  const hat = l2Normalize(engine, x, 1e-8, 'f32');
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
