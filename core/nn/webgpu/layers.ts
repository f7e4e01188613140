/** The layers of a transformer block and their gradients: linear, LayerNorm, attention, SwiGLU, LayerScale residual. */
import type { Activation, GroupSubset, SampleGroup } from '../ops.ts';
import { type Engine } from './engine.ts';
import * as kernels from './kernels/attention.ts';
import { biasBackward, normWeightBackward, residualBackward, rowGroups, sumRows } from './kernels/columns.ts';
import { layerScaleBackward, scaleRows } from './kernels/layerScale.ts';
import * as elementwise from './kernels/elementwise.ts';
import { padHeads, unpadHeads, type HeadShape } from './kernels/heads.ts';
import { stored, type Operand } from './kernels/kernel.ts';
import * as normalize from './kernels/normalize.ts';
import type { Epilogue } from './kernels/product.ts';
import { multiply } from './products.ts';
import type { Element } from './program.ts';
import { addBranch, takeSamples } from './gather.ts';
import type { GpuTensor } from './tensor.ts';
import { check, groupsOf, residualShape, rowsOf, sizeOf, subsetOf, type PlacedSubset } from '../shapes.ts';

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
  const before = slope ? engine.withoutValues(y.shape, y.element) : y;
  engine.record(before, [x, weight, bias], (dy) => {
    const dBias = engine.gradient(bias);
    if (dBias) {
      const sums = columnSums(engine, dy, rows, outputs);
      engine.run(sumRows(engine.caps, sums.partials, dBias, { rows: sums.groups, n: outputs }));
      engine.giveBack(sums.partials);
    }
    if (slope) engine.giveBack(slope);
    const dWeight = engine.gradient(weight);
    if (dWeight) multiply(engine, 'tn', { m: outputs, n: inputs, k: rows }, dy, x, dWeight);
    inputGradient(engine, x, dy, factor, { rows, inputs, outputs });
  });
  if (slope) recordSlope(engine, y, before, slope);
  return y;
}

/** Group sums of the rows of dy [rows, n]: partials [groups, n]. */
function columnSums(engine: Engine, dy: Operand, rows: number, n: number): { partials: Operand; groups: number } {
  const { groups } = rowGroups(rows);
  const partials = engine.room(groups * n);
  engine.run(biasBackward(dy, partials, rows, n));
  return { partials, groups };
}

/**
 * y = GELU(before), whose gradient is dy times the slope. A layer that takes y multiplies on its way out of registers
 * (`inputGradient`); what comes to y from elsewhere is multiplied here.
 */
function recordSlope(engine: Engine, y: GpuTensor, before: GpuTensor, slope: Operand): void {
  y.activation = { before, slope };
  engine.record(y, [before], (dy) => engine.run(elementwise.times(engine.caps, dy, slope, engine.gradient(before)!, y.size)));
}

/**
 * The gradient of a layer's input x [rows, inputs]: dy [rows, outputs] times factor [outputs, inputs], times the one number
 * in `scale`. Where x is the value of a GELU the product goes through its slope at once, to what was before it.
 */
function inputGradient(
  engine: Engine,
  x: GpuTensor,
  dy: Operand,
  factor: Operand,
  { rows, inputs, outputs }: { rows: number; inputs: number; outputs: number },
  scale?: Operand,
): void {
  const { before, slope } = x.activation ?? { before: x, slope: null };
  const dx = engine.gradient(before);
  if (!dx) return;
  const epilogue: Epilogue =
    slope || scale ? { kind: 'times', ...(slope && { factor: slope.region }), ...(scale && { scale: scale.region }) } : { kind: 'none' };
  multiply(engine, 'nn', { m: rows, n: inputs, k: outputs }, dy, factor, dx, epilogue);
}

/**
 * x + gamma [D] * (input [..., I] weight^T + bias), the LayerScale residual of a linear layer. What is added is never kept: with
 * raw = dy^T input [D,I], weight's gradient is gamma raw, row by row, and gamma's is the sum of weight raw over the row plus
 * bias times the sum of dy. Of a subset, dy is that of its rows times its scales.
 */
export function linearResidual(
  engine: Engine,
  x: GpuTensor,
  input: GpuTensor,
  weight: GpuTensor,
  bias: GpuTensor,
  gamma: GpuTensor,
  subset?: readonly GroupSubset[],
): GpuTensor {
  const { caps } = engine;
  const { parts = null, shape } = subset ? subsetOf('linearResidual', x, subset) : { shape: x.shape };
  const outputs = shape.at(-1) ?? 0;
  const rows = sizeOf(shape) / outputs;
  const inputs = input.shape.at(-1) ?? 0;
  const fits = input.size === rows * inputs && weight.size === outputs * inputs && weight.shape[0] === outputs;
  check(fits && bias.size === outputs && gamma.size === outputs, 'linearResidual', x, input, weight, bias, gamma);
  const y = engine.make(x.shape, x.element);
  const factor = engine.factor(weight, input.element);
  if (parts) {
    const branch = engine.room(rows * outputs, x.element);
    multiply(engine, 'nt', { m: rows, n: outputs, k: inputs }, input, factor, stored(branch), { kind: 'bias', bias: bias.region });
    addBranch(engine, { x, branch, gamma, y }, parts, outputs);
    engine.giveBack(branch);
  } else {
    const epilogue: Epilogue = { kind: 'residual', bias: bias.region, gamma: gamma.region, residual: x.region };
    multiply(engine, 'nt', { m: rows, n: outputs, k: inputs }, input, factor, y, epilogue);
  }
  engine.record(y, [x, input, weight, bias, gamma], (dAll) => {
    const dy = partOf(engine, dAll, parts, rows, outputs, x.element);
    const targets = [weight, bias, gamma].map((parameter) => engine.gradient(parameter));
    if (targets.some((target) => target !== null)) {
      const { partials, groups } = columnSums(engine, dy, rows, outputs);
      const sums = engine.room(outputs);
      engine.run(sumRows(caps, partials, stored(sums), { rows: groups, n: outputs }));
      const raw = engine.room(outputs * inputs);
      multiply(engine, 'tn', { m: outputs, n: inputs, k: rows }, dy, input, raw);
      const [dWeight, dBias, dGamma] = targets.map((target, i) => target ?? stored(engine.room(i === 0 ? weight.size : outputs)));
      const arrays = { raw, sums, weight, bias, gamma, dWeight: dWeight!, dBias: dBias!, dGamma: dGamma! };
      engine.run(layerScaleBackward(caps, arrays, outputs, inputs));
      for (const room of [partials, sums, raw]) engine.giveBack(room);
    }
    if (engine.wants(input.activation?.before ?? input)) {
      // Small gammas (1e-5) would leave f16's range if they came to the weights as they are.
      const scaled = { weight: engine.room(weight.size, input.element), scale: engine.room(4) };
      engine.run(scaleRows(caps, { weight, gamma, y: scaled.weight, scale: scaled.scale }, outputs, inputs));
      inputGradient(engine, input, dy, scaled.weight, { rows, inputs, outputs }, scaled.scale);
      for (const room of Object.values(scaled)) engine.giveBack(room);
    }
    if (parts) engine.giveBack(dy);
    return engine.passOn(x, dAll);
  });
  return y;
}

/** The gradient of a branch before gamma: dy, or of a subset a copy [rows, n] of its part, scaled. */
function partOf(engine: Engine, dy: Operand, parts: readonly PlacedSubset[] | null, rows: number, n: number, element: Element): Operand {
  if (!parts) return dy;
  const part = engine.room(rows * n, element);
  takeSamples(engine, dy, part, parts, n, true);
  return part;
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

/** qkv [N,T,3,heads,d] -> [N,T,heads,d], or of groups [R,3,heads,d] -> [R,heads,d]. */
export function attention(engine: Engine, qkv: GpuTensor, heads: number, packed?: readonly SampleGroup[]): GpuTensor {
  const { caps } = engine;
  const groups = groupsOf(qkv, heads, packed);
  const width = qkv.shape.at(-1)!;
  const d = width / 3 / heads;
  const element = qkv.element as 'f32' | 'f16';
  const out = engine.make([...qkv.shape.slice(0, -1), width / 3], element);
  const headDim = Math.ceil(d / headStep) * headStep;
  const rows = out.size / d;
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
  const inputs = { groups, heads, headDim, element, ...regions };
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

/** x [...,D] + gamma [D] * branch; of a subset, times each group's scale in the rows that take part. */
export function addResidual(engine: Engine, x: GpuTensor, branch: GpuTensor, gamma: GpuTensor, subset?: readonly GroupSubset[]): GpuTensor {
  const { caps } = engine;
  const { rows, n, parts } = residualShape(x, branch, gamma, subset);
  const y = engine.make(x.shape, x.element);
  if (parts) addBranch(engine, { x, branch, gamma, y }, parts, n);
  else engine.run(elementwise.residual(caps, { x, branch, gamma, y }, n, x.size));
  engine.record(y, [x, branch, gamma], (dAll) => {
    const dBranch = engine.gradient(branch);
    const dGamma = engine.gradient(gamma);
    const dy = partOf(engine, dAll, parts, rows, n, x.element);
    const { groups } = rowGroups(rows);
    const partials = dGamma && engine.room(groups * n);
    engine.run(residualBackward({ dy, branch, gamma, dBranch, partials }, rows, n));
    if (partials) {
      engine.run(sumRows(caps, partials, dGamma, { rows: groups, n }));
      engine.giveBack(partials);
    }
    if (parts) engine.giveBack(dy);
    return engine.passOn(x, dAll);
  });
  return y;
}
