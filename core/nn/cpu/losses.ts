/** Heads' ends and losses: L2 normalisation, prototypes, cross-entropy, KoLeo, and the teacher's targets. */
import type { PrototypeLossInputs } from '../ops.ts';
import { check, rowsPerChunk, type Engine } from './engine.ts';
import { checkRows, rowsOf } from './layers.ts';
import { productNN, productNT, productTN } from './products.ts';
import type { CpuTensor } from './tensor.ts';

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

/** g_k / (||v_k|| temperature), [K]. */
function prototypeScales(engine: Engine, v: CpuTensor, g: CpuTensor, temperature: number): number {
  const { rows: K, n } = rowsOf(v);
  const scales = engine.room(K);
  const per = rowsPerChunk(n);
  engine.pool.run('kPrototypeScales', Math.ceil(K / per), [v.address, g.address, scales, K, n, temperature, per]);
  return scales;
}

/** Most logits that are kept from forward to backward: 256 MiB. Beyond, they are made again tile by tile. */
const keptLogits = 64 * 2 ** 20;
/** Logits of one tile: 32 MiB. */
const tileLogits = 8 * 2 ** 20;

export interface PrototypeLossTensors {
  readonly rows: CpuTensor;
  readonly weightV: CpuTensor;
  readonly weightG: CpuTensor;
  readonly targets: CpuTensor;
}

/** @param limits most logits kept, and logits of a tile: for tests of the tiled way */
export function prototypeLoss(
  engine: Engine,
  { rows: x, weightV: v, weightG: g, targets }: PrototypeLossTensors,
  { targetRows, rowWeights, temperature }: Omit<PrototypeLossInputs, keyof PrototypeLossTensors>,
  limits: { kept: number; tile: number } = { kept: keptLogits, tile: tileLogits },
): CpuTensor {
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
  const index = engine.ints(targetRows);
  const weights = engine.floats(rowWeights);
  const state = engine.room(R * 4);
  const whole = R * K <= limits.kept;
  const width = whole ? K : Math.min(K, Math.max(8, Math.floor(limits.tile / R / 8) * 8));
  const logits = engine.room(R * width);
  const per = rowsPerChunk(width * (1 + m));
  const groups = Math.ceil(R / per);
  /** Logits of prototypes k0 .. k0 + count - 1, divided by the temperature, [R, count] close together. */
  const makeTile = (tile: number, k0: number, count: number): void => {
    const epilogue = { kind: 'column-scale', vector: scales + k0 * 4, slope: 0 } as const;
    productNT(engine, { m: R, n: count, k: n }, x.address, v.address + k0 * n * 4, tile, 0, epilogue);
  };
  for (let k0 = 0; k0 < K; k0 += width) {
    const count = Math.min(width, K - k0);
    makeTile(logits, k0, count);
    engine.pool.run('kCrossEntropy', groups, [logits, count * 4, targets.address, K, k0, count, index, m, state, R, k0 === 0 ? 1 : 0, per]);
  }
  engine.pool.run('kCrossEntropySum', 1, [state, weights, R, loss.address]);
  if (!whole) engine.giveBack(logits, R * width);
  engine.record(loss, [x, v, g], (dy) => {
    const dx = engine.gradient(x);
    const dv = engine.gradient(v);
    const dg = engine.gradient(g);
    // Sums over rows of (gradient by row . v_k) row: [width, n].
    const h = dv || dg ? engine.room(width * n) : 0;
    const tile = whole ? logits : engine.room(R * width);
    for (let k0 = 0; k0 < K; k0 += width) {
      const count = Math.min(width, K - k0);
      if (!whole) makeTile(tile, k0, count);
      const args = [tile, count * 4, targets.address, K, k0, count, index, m, state, R, weights, dy, scales, per];
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
    if (h) engine.giveBack(h, width * n);
  });
  return loss;
}

export function prototypeLogits(engine: Engine, x: CpuTensor, v: CpuTensor, g: CpuTensor): CpuTensor {
  const { rows: R, n } = rowsOf(x);
  const { rows: K } = rowsOf(v);
  check(v.shape.at(-1) === n && g.size === K, 'prototypeLogits', x, v, g);
  const y = engine.make([R, K]);
  const vector = prototypeScales(engine, v, g, 1);
  productNT(engine, { m: R, n: K, k: n }, x.address, v.address, y.address, 0, { kind: 'column-scale', vector, slope: 0 });
  return y;
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

// --- targets, no gradient ---------------------------------------------------------------------------------------------

export function sinkhornKnopp(engine: Engine, logits: CpuTensor, temperature: number, iterations: number): CpuTensor {
  const { rows, n: K } = rowsOf(logits);
  check(logits.shape.length === 2 && iterations >= 1, `sinkhornKnopp with ${iterations} iterations`, logits);
  const y = engine.make(logits.shape);
  // Q = diag(v) E diag(u): only the factors change from pass to pass.
  const v = engine.room(rows);
  const u = engine.room(K);
  const per = rowsPerChunk(K);
  const columns = 256;
  engine.pool.run('kSinkhornExp', Math.ceil(rows / per), [logits.address, y.address, v, rows, K, temperature, per]);
  engine.pool.run('kSinkhornStart', 1, [v, rows, temperature]);
  for (let i = 0; i < iterations; ++i) {
    const last = i === iterations - 1 ? 1 : 0;
    engine.pool.run('kSinkhornPrototypes', Math.ceil(K / columns), [y.address, v, u, rows, K, columns]);
    engine.pool.run('kSinkhornSamples', Math.ceil(rows / per), [y.address, v, u, rows, K, last, per]);
  }
  return y;
}

export function centeredSoftmax(engine: Engine, logits: CpuTensor, center: CpuTensor, temperature: number): CpuTensor {
  const { rows, n: K } = rowsOf(logits);
  check(center.size === K, 'centeredSoftmax', logits, center);
  const y = engine.make(logits.shape);
  const per = rowsPerChunk(K);
  engine.pool.run('kCenteredSoftmax', Math.ceil(rows / per), [logits.address, center.address, y.address, rows, K, temperature, per]);
  return y;
}

export function meanRows(engine: Engine, x: CpuTensor): CpuTensor {
  const { rows, n } = rowsOf(x);
  const y = engine.make([n]);
  engine.sumRows(y.address, x.address, n * 4, rows, n, 0, 1 / rows);
  return y;
}
