/** The teacher's targets over prototypes, kept whole while they are few and else made again where they are read. No gradients. */
import type { PrototypeTargets, TargetKind } from '../ops.ts';
import { rowsPerChunk, type Engine } from './engine.ts';
import { logitsTile, prototypeLogits, prototypeScales, tileWidth } from './prototypes.ts';
import type { CpuTensor } from './tensor.ts';
import { check, checkRows, rowsOf } from '../shapes.ts';

/** What targets that are not kept are made of: exp(l / temperature - byPrototype[k] - bySample[q]). */
interface Recipe {
  readonly rows: CpuTensor;
  readonly weightV: CpuTensor;
  /** Address of g_k / (||v_k|| temperature), [K]. */
  readonly scales: number;
  /** [K]. */
  readonly byPrototype: CpuTensor;
  /** [Q]. */
  readonly bySample: CpuTensor;
}

export class CpuTargets implements PrototypeTargets {
  readonly rows: number;
  readonly prototypes: number;
  /** [Q,K] when kept; else the recipe is there. */
  readonly whole: CpuTensor | null;
  readonly recipe: Recipe | null;

  constructor(rows: number, prototypes: number, { whole = null, recipe = null }: { whole?: CpuTensor | null; recipe?: Recipe | null }) {
    this.rows = rows;
    this.prototypes = prototypes;
    this.whole = whole;
    this.recipe = recipe;
  }

  /** All tensors it needs, to be asked whether they live. */
  get tensors(): readonly CpuTensor[] {
    if (this.whole) return [this.whole];
    const { rows, weightV, byPrototype, bySample } = this.recipe!;
    return [rows, weightV, byPrototype, bySample];
  }
}

export function prototypeTargets(
  engine: Engine,
  x: CpuTensor,
  v: CpuTensor,
  g: CpuTensor,
  how: TargetKind,
  center: CpuTensor | null,
): CpuTargets {
  const { rows: Q, n } = rowsOf(x);
  const { rows: K } = rowsOf(v);
  check(Q > 0 && v.shape.at(-1) === n && g.size === K && (!center || center.size === K), 'prototypeTargets', x, v, g, center);
  if (how.kind === 'sinkhorn' && !(how.iterations >= 1))
    throw new Error(`prototypeTargets: ${how.iterations} iterations, at least 1 is wanted.`);
  if (Q * K > engine.limits.kept) return new CpuTargets(Q, K, { recipe: recipe(engine, x, v, g, how, center) });
  const whole = prototypeLogits(engine, x, v, g);
  if (how.kind === 'sinkhorn') sinkhornKnopp(engine, whole, how.temperature, how.iterations);
  else centeredSoftmax(engine, whole, center, how.temperature);
  return new CpuTargets(Q, K, { whole });
}

/** Q = diag(v) E diag(u), in place of the logits: only the factors change from pass to pass. */
function sinkhornKnopp(engine: Engine, y: CpuTensor, temperature: number, iterations: number): void {
  const { rows, n: K } = rowsOf(y);
  const v = engine.room(rows);
  const u = engine.room(K);
  const per = rowsPerChunk(K);
  engine.pool.run('kSinkhornExp', Math.ceil(rows / per), [y.address, y.address, v, rows, K, temperature, per]);
  engine.pool.run('kSinkhornStart', 1, [v, rows, temperature]);
  for (let i = 0; i < iterations; ++i) {
    const last = i === iterations - 1 ? 1 : 0;
    engine.pool.run('kSinkhornPrototypes', Math.ceil(K / columns), [y.address, v, u, rows, K, columns]);
    engine.pool.run('kSinkhornSamples', Math.ceil(rows / per), [y.address, v, u, rows, K, last, per]);
  }
}

/** In place of the logits. */
function centeredSoftmax(engine: Engine, y: CpuTensor, center: CpuTensor | null, temperature: number): void {
  const { rows, n: K } = rowsOf(y);
  const per = rowsPerChunk(K);
  const centers = (center ?? zeros(engine, K)).address;
  engine.pool.run('kCenteredSoftmax', Math.ceil(rows / per), [y.address, centers, y.address, rows, K, temperature, per]);
}

/** Prototypes of a chunk of a pass along the rows. */
const columns = 256;

/** The factors, from logits that are made anew, tile by tile, in each iteration. */
function recipe(engine: Engine, x: CpuTensor, v: CpuTensor, g: CpuTensor, how: TargetKind, center: CpuTensor | null): Recipe {
  const { rows: Q } = rowsOf(x);
  const { rows: K } = rowsOf(v);
  const scales = prototypeScales(engine, v, g, how.temperature);
  const byPrototype = engine.make([K]);
  const bySample = zeros(engine, Q);
  if (center) engine.sumRows(byPrototype.address, center.address, K * 4, 1, K, 0, 1 / how.temperature);
  else engine.fill(byPrototype.address, 0, K);
  const width = tileWidth(engine, Q, K);
  const tile = engine.room(Q * width);
  const sums = engine.room(width);
  const state = engine.room(Q * 2);
  const per = rowsPerChunk(width);
  // The constants (sums of 1/K and 1/Q) cancel: each iteration ends with samples, whose rows then sum to 1.
  for (let i = 0; i < (how.kind === 'sinkhorn' ? how.iterations : 1); ++i) {
    for (let k0 = 0; k0 < K; k0 += width) {
      const count = Math.min(width, K - k0);
      const a = byPrototype.address + k0 * 4;
      logitsTile(engine, x, v, scales, tile, k0, count);
      if (how.kind === 'sinkhorn') {
        const args = [tile, count * 4, bySample.address, a, sums, Q, count, columns];
        engine.pool.run('kTargetPrototypes', Math.ceil(count / columns), args);
      }
      engine.pool.run('kTargetSamples', Math.ceil(Q / per), [tile, count * 4, a, state, Q, count, k0 === 0 ? 1 : 0, per]);
    }
    engine.pool.run('kTargetSampleLogs', 1, [state, bySample.address, Q]);
  }
  engine.giveBack(tile, Q * width);
  return { rows: x, weightV: v, scales, byPrototype, bySample };
}

/**
 * Targets of prototypes k0 .. k0 + count - 1: where they lie, as rows of K from column k0 on.
 * @param room of Q * count floats, for targets that are not kept
 */
export function targetsAt(
  engine: Engine,
  targets: CpuTensor | CpuTargets,
  k0: number,
  count: number,
  room: number,
): { address: number; K: number; k0: number } {
  const whole = 'shape' in targets ? targets : targets.whole;
  if (whole) return { address: whole.address, K: rowsOf(whole).n, k0 };
  const { rows, weightV, scales, byPrototype, bySample } = (targets as CpuTargets).recipe!;
  logitsTile(engine, rows, weightV, scales, room, k0, count);
  toTargets(engine, room, byPrototype.address + k0 * 4, bySample.address, bySample.size, count);
  return { address: room, K: count, k0: 0 };
}

function toTargets(engine: Engine, tile: number, byPrototype: number, bySample: number, rows: number, count: number): void {
  const per = rowsPerChunk(count);
  engine.pool.run('kTargets', Math.ceil(rows / per), [tile, count * 4, byPrototype, bySample, rows, count, per]);
}

export function gatherTargets(engine: Engine, targets: CpuTargets, rows: Int32Array): CpuTensor {
  checkRows('gatherTargets', rows, targets.rows);
  const y = engine.make([rows.length, targets.prototypes]);
  /** Rows of `from`, close together at `to`. */
  const pick = (from: CpuTensor, to: number, n: number): void =>
    rows.forEach((row, i) => engine.heap.f32.copyWithin(to / 4 + i * n, from.address / 4 + row * n, from.address / 4 + (row + 1) * n));
  if (targets.whole) {
    pick(targets.whole, y.address, targets.prototypes);
    return y;
  }
  const { rows: x, weightV, scales, byPrototype, bySample } = targets.recipe!;
  const { n } = rowsOf(x);
  const picked = engine.make([rows.length, n]);
  const logs = engine.room(rows.length);
  pick(x, picked.address, n);
  pick(bySample, logs, 1);
  logitsTile(engine, picked, weightV, scales, y.address, 0, targets.prototypes);
  toTargets(engine, y.address, byPrototype.address, logs, rows.length, targets.prototypes);
  return y;
}

export function meanRows(engine: Engine, x: CpuTensor): CpuTensor {
  const { rows, n } = rowsOf(x);
  const y = engine.make([1, n]);
  engine.sumRows(y.address, x.address, n * 4, rows, n, 0, 1 / rows);
  return y;
}

function zeros(engine: Engine, count: number): CpuTensor {
  const y = engine.make([count]);
  engine.fill(y.address, 0, count);
  return y;
}
