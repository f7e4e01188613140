/** The layers of a transformer block and their gradients: linear, LayerNorm, attention, SwiGLU, LayerScale residual. */
import type { Activation, BatchSubset } from '../ops.ts';
import { type Engine } from './engine.ts';
import * as kernels from './kernels/attention.ts';
import { biasBackward, normWeightBackward, residualBackward, rowGroups, sumRows } from './kernels/columns.ts';
import * as elementwise from './kernels/elementwise.ts';
import { padHeads, unpadHeads, type HeadShape } from './kernels/heads.ts';
import { stored, type Operand } from './kernels/kernel.ts';
import * as normalize from './kernels/normalize.ts';
import type { Epilogue } from './kernels/product.ts';
import { multiply } from './products.ts';
import type { GpuTensor } from './tensor.ts';
import { check, checkRows, rowsOf } from '../shapes.ts';

/** x [..., I], weight [O, ...] with I values a row -> [..., O]. */
export function linear(engine: Engine, x: GpuTensor, weight: GpuTensor, bias: GpuTensor | null, activation: Activation): GpuTensor {
  const { rows, n: inputs } = rowsOf(x);
  const outputs = weight.shape[0] ?? 0;
  check(weight.shape.length >= 2 && weight.size === outputs * inputs && (!bias || bias.size === outputs), 'linear', x, weight, bias);
  const y = engine.make([...x.shape.slice(0, -1), outputs], x.element);
  const wanted = engine.wants(x) || engine.wants(weight) || engine.wants(bias);
  const gelu = activation === 'gelu';
  const factor = engine.factor(weight, x.element);
  const slope = gelu && wanted ? engine.room(y.size, y.element) : null;
  // GELU without a bias takes zeros for it: rare, and one kernel less.
  const vector = bias ?? (gelu ? zeros(engine, outputs) : null);
  let epilogue: Epilogue = { kind: 'none' };
  if (gelu) epilogue = { kind: 'bias-gelu', bias: vector!.region, ...(slope ? { slope: slope.region } : {}) };
  else if (vector) epilogue = { kind: 'bias', bias: vector.region };
  multiply(engine, 'nt', { m: rows, n: outputs, k: inputs }, x, factor, y, epilogue);
  engine.record(y, [x, weight, bias], (dy) => {
    const dBias = engine.gradient(bias);
    if (slope || dBias) {
      const { groups } = rowGroups(rows);
      const partials = engine.room(groups * outputs);
      engine.run(biasBackward(dy, slope, partials, rows, outputs));
      if (dBias) engine.run(sumRows(engine.caps, partials, dBias, { rows: groups, n: outputs }));
      engine.giveBack(partials);
    }
    if (slope) engine.giveBack(slope);
    const dWeight = engine.gradient(weight);
    if (dWeight) multiply(engine, 'tn', { m: outputs, n: inputs, k: rows }, dy, x, dWeight);
    const dx = engine.gradient(x);
    if (dx) multiply(engine, 'nn', { m: rows, n: inputs, k: outputs }, dy, factor, dx);
  });
  return y;
}

function zeros(engine: Engine, count: number): Operand {
  const room = engine.room(count);
  engine.run(elementwise.fill(engine.caps, room, 0, count));
  return room;
}

export function layerNorm(engine: Engine, x: GpuTensor, weight: GpuTensor, bias: GpuTensor, epsilon: number): GpuTensor {
  const { caps } = engine;
  const { rows, n } = rowsOf(x);
  check(weight.size === n && bias.size === n, 'layerNorm', x, weight, bias);
  const y = engine.make(x.shape, x.element);
  const stats = engine.room(rows * 2);
  engine.run(normalize.layerNorm(caps, { x, weight, bias, y, stats }, rows, n, epsilon));
  engine.record(y, [x, weight, bias], (dy) => {
    const dWeight = engine.gradient(weight);
    const dBias = engine.gradient(bias);
    if (dWeight || dBias) {
      // Partial sums of weight and bias side by side: [groups, 2 n].
      const { groups } = rowGroups(rows);
      const partials = engine.room(groups * n * 2);
      const sums = { rows: groups, n, strideX: 2 * n };
      engine.run(normWeightBackward(x, dy, stats, partials, rows, n));
      if (dWeight) engine.run(sumRows(caps, partials, dWeight, sums));
      if (dBias) engine.run(sumRows(caps, partials, dBias, { ...sums, startX: n }));
      engine.giveBack(partials);
    }
    const dx = engine.gradient(x);
    if (dx) engine.run(normalize.layerNormBackward(caps, { x, dy, stats, weight, dx }, rows, n));
    engine.giveBack(stats);
  });
  return y;
}

/** The attention kernels take heads of whole vectors of four. */
const headStep = 4;

/** qkv [N,T,3,heads,d] -> [N,T,heads,d]. */
export function attention(engine: Engine, qkv: GpuTensor, heads: number): GpuTensor {
  const { caps } = engine;
  const [N = 0, T = 0, width = 0] = qkv.shape;
  const d = width / 3 / heads;
  check(qkv.shape.length === 3 && Number.isInteger(d) && d > 0, `attention with ${heads} heads`, qkv);
  const element = qkv.element as 'f32' | 'f16';
  const out = engine.make([N, T, width / 3], element);
  const headDim = Math.ceil(d / headStep) * headStep;
  const rows = N * T * heads;
  const wide = { rows: rows * 3, heads, d, padded: headDim, queries: true };
  const narrow = { ...wide, rows, queries: false };
  const pad = (x: Operand, shape: HeadShape): Operand => {
    if (headDim === d) return x;
    const padded = engine.room(shape.rows * headDim, element);
    engine.run(padHeads(caps, x, padded, shape));
    return padded;
  };
  const kept = pad(qkv, wide);
  const attended = headDim === d ? out : engine.room(rows * headDim, element);
  const lse = engine.room(rows);
  const regions = { qkv: kept.region, out: attended.region, lse: lse.region };
  const inputs = { samples: N, tokens: T, heads, headDim, element, ...regions };
  engine.run(kernels.attention(caps, inputs));
  if (headDim !== d) engine.run(unpadHeads(caps, attended, stored(out), narrow));
  engine.record(out, [qkv], (dy) => {
    const target = engine.gradient(qkv)!;
    const dOut = pad(dy, narrow);
    const delta = engine.room(rows);
    // The kernels replace: what is added to, or has narrower heads, takes a detour.
    const direct = headDim === d && !target.accumulate;
    const dQkv = direct ? target : engine.room(rows * 3 * headDim, element);
    engine.run(kernels.attentionBackward(caps, { ...inputs, dOut: dOut.region, dQkv: dQkv.region, delta: delta.region }));
    if (!direct) {
      engine.run(unpadHeads(caps, dQkv, target, wide));
      engine.giveBack(dQkv);
    }
    for (const room of [delta, lse]) engine.giveBack(room);
    if (headDim !== d) for (const room of [dOut, kept, attended]) engine.giveBack(room);
  });
  return out;
}

export function swiglu(engine: Engine, x: GpuTensor): GpuTensor {
  const { rows, n } = rowsOf(x);
  const half = n / 2;
  check(Number.isInteger(half), 'swiglu', x);
  const y = engine.make([...x.shape.slice(0, -1), half], x.element);
  engine.run(elementwise.swiglu(engine.caps, x, y, rows, half));
  engine.record(y, [x], (dy) => {
    engine.run(elementwise.swigluBackward(engine.caps, x, dy, engine.gradient(x)!, rows, half));
  });
  return y;
}

/** x [N,T,D] + gamma [D] * branch, or scale * gamma * branch [s,T,D] on the samples of a subset. */
export function addResidual(engine: Engine, x: GpuTensor, branch: GpuTensor, gamma: GpuTensor, subset?: BatchSubset): GpuTensor {
  const { caps } = engine;
  const [N = 0, T = 0, n = 0] = x.shape;
  const samples = subset ? subset.rows.length : N;
  const fits = branch.shape.length === 3 && branch.shape[0] === samples && branch.shape[1] === T && branch.shape[2] === n;
  check(x.shape.length === 3 && fits && gamma.size === n, 'addResidual', x, branch, gamma);
  if (subset) checkRows('addResidual', subset.rows, N, true);
  const y = engine.make(x.shape, x.element);
  const scale = subset ? subset.scale : 1;
  const places = subset ? engine.list(placesOf(subset.rows, N)) : null;
  const named = subset ? engine.list(subset.rows) : null;
  engine.run(elementwise.residual(caps, { x, branch, gamma, y }, n, x.size, places && { places, scale, sampleSize: T * n }));
  engine.record(y, [x, branch, gamma], (dy) => {
    const dBranch = engine.gradient(branch);
    const dGamma = engine.gradient(gamma);
    const rows = samples * T;
    const { groups } = rowGroups(rows);
    const partials = dGamma && engine.room(groups * n);
    engine.run(residualBackward({ dy, branch, gamma, dBranch, partials }, { rows, n, tokens: T, samples: named, scale }));
    if (partials) {
      engine.run(sumRows(caps, partials, dGamma, { rows: groups, n }));
      engine.giveBack(partials);
    }
    return engine.passOn(x, dy);
  });
  return y;
}

/** For each of N samples 1 + its place in rows, or 0. */
function placesOf(rows: Int32Array, N: number): Uint32Array {
  const places = new Uint32Array(N);
  rows.forEach((row, place) => (places[row] = place + 1));
  return places;
}
