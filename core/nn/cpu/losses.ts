/** A head's end and the losses: L2 normalisation, cross-entropy over prototypes, KoLeo. */
import type { PrototypeLossInputs } from '../ops.ts';
import { rowsPerChunk, type Engine } from './engine.ts';
import { productNN, productTN } from './products.ts';
import { logitsTile, prototypeScales, tileWidth } from './prototypes.ts';
import { targetsAt, type CpuTargets } from './targets.ts';
import type { CpuTensor } from './tensor.ts';
import { check, checkRows, rowsOf } from '../shapes.ts';

export function l2Normalize(engine: Engine, x: CpuTensor, epsilon: number): CpuTensor {
  const { rows, n } = rowsOf(x);
  const y = engine.make(x.shape);
  const inverses = engine.room(rows);
  const per = rowsPerChunk(n);
  engine.pool.run('kL2Normalize', Math.ceil(rows / per), [x.address, y.address, inverses, rows, n, epsilon, per]);
  engine.record(y, [x], (dy) => {
    const target = engine.gradient(x)!;
    const args = [y.address, dy, target.address, inverses, rows, n, target.accumulate, per];
    engine.pool.run('kL2NormalizeBackward', Math.ceil(rows / per), args);
  });
  return y;
}

export interface PrototypeLossTensors {
  readonly rows: CpuTensor;
  readonly weightV: CpuTensor;
  readonly weightG: CpuTensor;
  readonly targets: CpuTensor | CpuTargets;
}

/**
 * The logits are kept from forward to backward when they are few, else made again tile by tile, as are targets that are
 * not kept whole.
 */
export function prototypeLoss(
  engine: Engine,
  { rows: x, weightV: v, weightG: g, targets }: PrototypeLossTensors,
  { targetRows, rowWeights, temperature }: Omit<PrototypeLossInputs, keyof PrototypeLossTensors>,
): CpuTensor {
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
  const index = engine.ints(targetRows);
  const weights = engine.floats(rowWeights);
  const state = engine.room(R * 4);
  const implicit = !('shape' in targets) && !targets.whole;
  const whole = !implicit && R * K <= engine.limits.kept;
  const width = whole ? K : tileWidth(engine, implicit ? Math.max(R, Q) : R, K);
  const logits = engine.room(R * width);
  const made = implicit ? engine.room(Q * width) : 0;
  const per = rowsPerChunk(width * (1 + m));
  const groups = Math.ceil(R / per);
  const tileOf = (tile: number, k0: number, count: number): void => logitsTile(engine, x, v, scales, tile, k0, count);
  for (let k0 = 0; k0 < K; k0 += width) {
    const count = Math.min(width, K - k0);
    tileOf(logits, k0, count);
    const q = targetsAt(engine, targets, k0, count, made);
    const args = [logits, count * 4, q.address, q.K, q.k0, count, index, m, state, R, k0 === 0 ? 1 : 0, per];
    engine.pool.run('kCrossEntropy', groups, args);
  }
  engine.pool.run('kCrossEntropySum', 1, [state, weights, R, loss.address]);
  if (!whole) engine.giveBack(logits, R * width);
  if (made) engine.giveBack(made, Q * width);
  engine.record(loss, [x, v, g], (dy) => {
    const dx = engine.gradient(x);
    const dv = engine.gradient(v);
    const dg = engine.gradient(g);
    // Sums over rows of (gradient by row . v_k) row: [width, n].
    const h = dv || dg ? engine.room(width * n) : 0;
    const tile = whole ? logits : engine.room(R * width);
    const again = implicit ? engine.room(Q * width) : 0;
    for (let k0 = 0; k0 < K; k0 += width) {
      const count = Math.min(width, K - k0);
      if (!whole) tileOf(tile, k0, count);
      const q = targetsAt(engine, targets, k0, count, again);
      const args = [tile, count * 4, q.address, q.K, q.k0, count, index, m, state, R, weights, dy, scales + (k0 - q.k0) * 4, per];
      engine.pool.run('kCrossEntropyBackward', groups, args);
      const vTile = v.address + k0 * n * 4;
      if (dx) productNN(engine, { m: R, n, k: count }, tile, vTile, dx.address, k0 > 0 ? 1 : dx.accumulate);
      if (!h) continue;
      productTN(engine, { m: count, n, k: R }, tile, x.address, h, 0);
      const rowsEach = rowsPerChunk(n);
      const toV = dv ? dv.address + k0 * n * 4 : 0;
      const toG = dg ? dg.address + k0 * 4 : 0;
      const back = [h, vTile, g.address + k0 * 4, toV, toG, count, n, dv?.accumulate ?? 0, dg?.accumulate ?? 0, rowsEach];
      engine.pool.run('kPrototypeBackward', Math.ceil(count / rowsEach), back);
    }
    engine.giveBack(tile, R * width);
    if (again) engine.giveBack(again, Q * width);
    if (h) engine.giveBack(h, width * n);
  });
  return loss;
}

export function koleo(engine: Engine, x: CpuTensor): CpuTensor {
  const { rows: B, n } = rowsOf(x);
  check(B >= 2, 'koleo (at least two rows)', x);
  // x / max(||x||, 1e-8), recorded on its own: its gradient is l2Normalize's.
  const hat = l2Normalize(engine, x, 1e-8);
  const loss = engine.make([]);
  const nearest = engine.room(B);
  const terms = engine.room(B);
  const slopes = engine.room(B * n);
  engine.pool.run('kKoleo', B, [hat.address, nearest, terms, slopes, B, n], 2 * B * B * n);
  engine.pool.run('kSumAll', 1, [loss.address, terms, B, 1 / B]);
  engine.record(loss, [hat], (dy) => {
    const target = engine.gradient(hat)!;
    // hat has one user, so this is its first and only contribution.
    engine.pool.run('kKoleoBackward', B, [nearest, slopes, target.address, B, n, 1 / B, dy]);
  });
  return loss;
}

export function weightedSum(engine: Engine, terms: readonly CpuTensor[], weights: readonly number[]): CpuTensor {
  check(terms.length === weights.length && terms.every((term) => term.size === 1), `weightedSum with ${weights.length} weights`, ...terms);
  const y = engine.make([]);
  const addresses = engine.ints(terms.map((term) => term.address));
  engine.pool.run('kWeightedSum', 1, [y.address, addresses, engine.floats(weights), terms.length]);
  engine.record(y, terms, (dy) => {
    terms.forEach((term, i) => {
      const target = engine.gradient(term);
      if (target) engine.pool.run('kScaleScalar', 1, [target.address, dy, weights[i]!, target.accumulate]);
    });
  });
  return y;
}
