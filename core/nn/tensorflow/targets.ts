/** The teacher's targets over prototypes, kept whole while they are few and else made again where they are read. No gradients. */
import type { PrototypeTargets, TargetKind } from '../ops.ts';
import { type Engine, type TfTensor } from './engine.ts';
import { pick } from './layers.ts';
import { logitsTile, tiles } from './prototypes.ts';
import { check, checkRows, rowsOf } from '../shapes.ts';

/** What targets that are not kept are made of: exp(l / temperature - byPrototype[k] - bySample[q]). */
interface Recipe {
  readonly rows: TfTensor;
  readonly weightV: TfTensor;
  readonly weightG: TfTensor;
  readonly temperature: number;
  /** [1,K]. */
  readonly byPrototype: TfTensor;
  /** [Q,1]. */
  readonly bySample: TfTensor;
}

export class TfTargets implements PrototypeTargets {
  readonly rows: number;
  readonly prototypes: number;
  /** [Q,K] when kept; else the recipe is there. */
  readonly whole: TfTensor | null;
  readonly recipe: Recipe | null;

  constructor(rows: number, prototypes: number, { whole = null, recipe = null }: { whole?: TfTensor | null; recipe?: Recipe | null }) {
    this.rows = rows;
    this.prototypes = prototypes;
    this.whole = whole;
    this.recipe = recipe;
  }

  /** All tensors it needs, to be asked whether they live. */
  get tensors(): readonly TfTensor[] {
    if (this.whole) return [this.whole];
    const { rows, weightV, weightG, byPrototype, bySample } = this.recipe!;
    return [rows, weightV, weightG, byPrototype, bySample];
  }
}

export function prototypeTargets(
  engine: Engine,
  x: TfTensor,
  v: TfTensor,
  g: TfTensor,
  how: TargetKind,
  center: TfTensor | null,
): TfTargets {
  const { rows: Q, n } = rowsOf(x);
  const { rows: K } = rowsOf(v);
  const fits = x.shape.length === 2 && Q > 0 && v.shape.at(-1) === n && g.size === K && (!center || center.size === K);
  check(fits, 'prototypeTargets', x, v, g, center);
  if (how.kind === 'sinkhorn' && !(how.iterations >= 1))
    throw new Error(`prototypeTargets: ${how.iterations} iterations, at least 1 is wanted.`);
  if (Q * K > engine.limits.kept) return new TfTargets(Q, K, { recipe: recipe(engine, x, v, g, how, center) });
  const { tf } = engine;
  const whole = engine.make(() => {
    const logits = logitsTile(engine, x, v, g, 1, 0, K);
    if (how.kind === 'sinkhorn') return sinkhornKnopp(engine, tf.mul(logits, 1 / how.temperature), how.iterations);
    return tf.softmax(tf.mul(center ? tf.sub(logits, tf.reshape(center, [K])) : logits, 1 / how.temperature));
  });
  return new TfTargets(Q, K, { whole });
}

/** In logarithms: a prototype far from every sample is a large negative number, not 0 / 0. */
function sinkhornKnopp({ tf }: Engine, start: TfTensor, iterations: number): TfTensor {
  const [rows, K] = start.shape as [number, number];
  let byPrototype: TfTensor = tf.zeros([1, K]);
  let bySample: TfTensor = tf.zeros([rows, 1]);
  // The constants (sums of 1/K and 1/n) cancel: each pass ends with samples, whose rows then sum to 1.
  for (let i = 0; i < iterations; ++i) {
    byPrototype = tf.logSumExp(tf.sub(start, bySample), 0, true);
    bySample = tf.logSumExp(tf.sub(start, byPrototype), 1, true);
  }
  return tf.exp(tf.sub(tf.sub(start, byPrototype), bySample));
}

/** The same factors from logits that are made anew, tile by tile, in each iteration. */
function recipe(engine: Engine, rows: TfTensor, weightV: TfTensor, weightG: TfTensor, how: TargetKind, center: TfTensor | null): Recipe {
  const { tf } = engine;
  const { temperature } = how;
  const Q = rows.shape[0]!;
  const K = weightV.shape[0]!;
  const parts = tiles(engine, Q, K);
  /** Of logits [Q, count] less the prototypes' factors: log of the sums over all tiles, [Q, 1]. */
  const together = (logs: readonly TfTensor[]): TfTensor => tf.logSumExp(tf.concat([...logs], 1), 1, true);
  let byPrototype = engine.make(() => (center ? tf.mul(tf.reshape(center, [1, K]), 1 / temperature) : tf.zeros([1, K])));
  let bySample = engine.make(() => tf.zeros([Q, 1]));
  for (let i = 0; i < (how.kind === 'sinkhorn' ? how.iterations : 1); ++i) {
    const columns: TfTensor[] = [];
    const logs: TfTensor[] = [];
    for (const { k0, count } of parts) {
      const made = tf.tidy(() => {
        const logits = logitsTile(engine, rows, weightV, weightG, temperature, k0, count);
        const column =
          how.kind === 'sinkhorn' ? tf.logSumExp(tf.sub(logits, bySample), 0, true) : tf.slice(byPrototype, [0, k0], [1, count]);
        return [column, tf.logSumExp(tf.sub(logits, column), 1, true)];
      }) as [TfTensor, TfTensor];
      columns.push(made[0]);
      logs.push(made[1]);
    }
    if (how.kind === 'sinkhorn') byPrototype = engine.make(() => tf.concat(columns, 1));
    bySample = engine.make(() => together(logs));
    tf.dispose([columns, logs]);
  }
  return { rows, weightV, weightG, temperature, byPrototype, bySample };
}

/** Targets of prototypes k0 .. k0 + count - 1: [Q, count]. */
export function targetsAt(engine: Engine, targets: TfTensor | TfTargets, k0: number, count: number): TfTensor {
  const { tf } = engine;
  const whole = targets instanceof TfTargets ? targets.whole : targets;
  if (whole) return count === whole.shape[1] ? whole : tf.slice(whole, [0, k0], [whole.shape[0]!, count]);
  const { rows, weightV, weightG, temperature, byPrototype, bySample } = (targets as TfTargets).recipe!;
  const logits = logitsTile(engine, rows, weightV, weightG, temperature, k0, count);
  return tf.exp(tf.sub(tf.sub(logits, tf.slice(byPrototype, [0, k0], [1, count])), bySample));
}

export function gatherTargets(engine: Engine, targets: TfTargets, rows: Int32Array): TfTensor {
  checkRows('gatherTargets', rows, targets.rows);
  return engine.make(() => {
    if (targets.whole) return pick(engine, targets.whole, rows);
    const { recipe } = targets;
    const picked = { ...recipe!, rows: pick(engine, recipe!.rows, rows), bySample: pick(engine, recipe!.bySample, rows) };
    return targetsAt(engine, new TfTargets(rows.length, targets.prototypes, { recipe: picked }), 0, targets.prototypes);
  });
}

export function meanRows(engine: Engine, x: TfTensor): TfTensor {
  const { rows, n } = rowsOf(x);
  const { tf } = engine;
  return engine.make(() => tf.reshape(tf.mul(engine.sumRows(tf.reshape(x, [rows, n])), 1 / rows), [1, n]));
}
