/** The teacher's targets over prototypes, kept whole while they are few and else made again where they are read. No gradients. */
import type { PrototypeTargets, TargetKind } from '../ops.ts';
import { type Engine } from './engine.ts';
import { sumRows } from './kernels/columns.ts';
import { fill, scale } from './kernels/elementwise.ts';
import { stored, type Operand } from './kernels/kernel.ts';
import * as kernels from './kernels/targets.ts';
import { gather } from './kernels/tokens.ts';
import { fitsWhole, logitsTile, prototypeLogits, prototypeScales, slice, tilesOf } from './prototypes.ts';
import type { GpuTensor } from './tensor.ts';
import { check, checkRows, rowsOf } from '../shapes.ts';

/** What targets that are not kept are made of: exp(l / temperature - byPrototype[k] - bySample[q]). */
interface Recipe {
  readonly rows: GpuTensor;
  readonly weightV: GpuTensor;
  /** g_k / (||v_k|| temperature), [K]. */
  readonly scales: Operand;
  /** [K]. */
  readonly byPrototype: GpuTensor;
  /** [Q]. */
  readonly bySample: GpuTensor;
}

export class GpuTargets implements PrototypeTargets {
  readonly rows: number;
  readonly prototypes: number;
  /** [Q,K] when kept; else the recipe is there. */
  readonly whole: GpuTensor | null;
  readonly recipe: Recipe | null;

  constructor(rows: number, prototypes: number, { whole = null, recipe = null }: { whole?: GpuTensor | null; recipe?: Recipe | null }) {
    this.rows = rows;
    this.prototypes = prototypes;
    this.whole = whole;
    this.recipe = recipe;
  }

  /** All tensors it needs, to be asked whether they live. */
  get tensors(): readonly GpuTensor[] {
    if (this.whole) return [this.whole];
    const { rows, weightV, byPrototype, bySample } = this.recipe!;
    return [rows, weightV, byPrototype, bySample];
  }
}

export function prototypeTargets(
  engine: Engine,
  x: GpuTensor,
  v: GpuTensor,
  g: GpuTensor,
  how: TargetKind,
  center: GpuTensor | null,
): GpuTargets {
  const { caps } = engine;
  const { rows: Q, n } = rowsOf(x);
  const { rows: K } = rowsOf(v);
  check(Q > 0 && v.shape.at(-1) === n && g.size === K && (!center || center.size === K), 'prototypeTargets', x, v, g, center);
  if (how.kind === 'sinkhorn' && !(how.iterations >= 1))
    throw new Error(`prototypeTargets: ${how.iterations} iterations, at least 1 is wanted.`);
  if (!fitsWhole(engine, Q, K, 4)) return new GpuTargets(Q, K, { recipe: recipe(engine, x, v, g, how, center) });
  const whole = prototypeLogits(engine, x, v, g);
  const { temperature } = how;
  if (how.kind === 'sinkhorn') {
    const [factors, scales] = [engine.room(Q), engine.room(K)];
    engine.run(kernels.sinkhornKnopp(caps, { y: whole, factors, scales }, { rows: Q, K, temperature, iterations: how.iterations }));
    for (const room of [factors, scales]) engine.giveBack(room);
  } else engine.run(kernels.centeredSoftmax(caps, { center: center ?? zeros(engine, K), y: whole }, { rows: Q, K, temperature }));
  return new GpuTargets(Q, K, { whole });
}

/** The factors, from logits that are made anew, tile by tile, in each iteration. */
function recipe(engine: Engine, x: GpuTensor, v: GpuTensor, g: GpuTensor, how: TargetKind, center: GpuTensor | null): Recipe {
  const { caps } = engine;
  const { rows: Q } = rowsOf(x);
  const { rows: K } = rowsOf(v);
  const scales = prototypeScales(engine, v, g, how.temperature);
  const directions = engine.factor(v, x.element);
  const byPrototype = zeros(engine, K);
  const bySample = zeros(engine, Q);
  if (center) engine.run(scale(caps, center, stored(byPrototype), 1 / how.temperature, K));
  const tiles = tilesOf(engine, Q, K, 4);
  const logits = engine.room(Q * tiles[0]!.count);
  const state = engine.room(Q * 2);
  const sinkhorn = how.kind === 'sinkhorn';
  // The constants (sums of 1/K and 1/Q) cancel: each iteration ends with samples, whose rows then sum to 1.
  for (let i = 0; i < (sinkhorn ? how.iterations : 1); ++i) {
    // bySample is read by every tile's prototypes: what the samples come to is written when all have been.
    tiles.forEach(({ k0, count }, t) => {
      const ofTile = slice<Operand>(byPrototype, k0, count);
      logitsTile(engine, x, directions, scales, logits, k0, count);
      if (sinkhorn) engine.run(kernels.prototypeLogs(caps, { logits, bySample, byPrototype: ofTile }, Q, count));
      const place = { rows: Q, count, first: t === 0, last: t === tiles.length - 1 };
      engine.run(kernels.sampleLogs(caps, { logits, byPrototype: ofTile, state, bySample }, place));
    });
  }
  for (const room of [logits, state]) engine.giveBack(room);
  return { rows: x, weightV: v, scales, byPrototype, bySample };
}

/**
 * Targets of prototypes k0 .. k0 + count - 1: the array they are in, as rows of K from column k0 on.
 * @param room of Q * count floats, for targets that are not kept
 */
export function targetsAt(
  engine: Engine,
  targets: GpuTensor | GpuTargets,
  k0: number,
  count: number,
  room: Operand | null,
): { targets: Operand; K: number; k0: number } {
  const whole = 'shape' in targets ? targets : targets.whole;
  if (whole) return { targets: whole, K: rowsOf(whole).n, k0 };
  const { rows, weightV, scales, byPrototype, bySample } = (targets as GpuTargets).recipe!;
  logitsTile(engine, rows, engine.factor(weightV, rows.element), scales, room!, k0, count);
  const ofTile = slice<Operand>(byPrototype, k0, count);
  engine.run(kernels.targetsOfLogits(engine.caps, { byPrototype: ofTile, bySample, y: room! }, bySample.size, count));
  return { targets: room!, K: count, k0: 0 };
}

export function gatherTargets(engine: Engine, targets: GpuTargets, rows: Int32Array): GpuTensor {
  const { caps } = engine;
  checkRows('gatherTargets', rows, targets.rows);
  const K = targets.prototypes;
  const y = engine.make([rows.length, K]);
  const places = engine.list(rows);
  if (targets.whole) {
    engine.run(gather(caps, targets.whole, places, y, rows.length, K));
    return y;
  }
  const { rows: x, weightV, scales, byPrototype, bySample } = targets.recipe!;
  const { n } = rowsOf(x);
  const picked = engine.make([rows.length, n], x.element);
  const logs = engine.room(rows.length);
  engine.run(gather(caps, x, places, picked, rows.length, n), gather(caps, bySample, places, logs, rows.length, 1));
  logitsTile(engine, picked, engine.factor(weightV, x.element), scales, y, 0, K);
  engine.run(kernels.targetsOfLogits(caps, { byPrototype, bySample: logs, y }, rows.length, K));
  return y;
}

/** In f32 whatever x is: a statistic. */
export function meanRows(engine: Engine, x: GpuTensor): GpuTensor {
  const { rows, n } = rowsOf(x);
  const y = engine.make([1, n]);
  engine.run(sumRows(engine.caps, x, stored(y), { rows, n, factor: 1 / rows }));
  return y;
}

function zeros(engine: Engine, count: number): GpuTensor {
  const y = engine.make([count]);
  engine.run(fill(engine.caps, y, 0, count));
  return y;
}
