/** What belongs to a linear layer with a LayerScale residual, besides its products: arrays as large as the weights. */
import { spread, type Capabilities, type Dispatch } from '../program.ts';
import { kernel, type Operand, type Target } from './kernel.ts';

const width = 256;

/** Declares `total(lane, value)`: the sum over the workgroup, the same for all, in a fixed order. */
const sumOfAll = `var<workgroup> shares: array<f32, ${width}>;
fn total(lane: u32, value: f32) -> f32 {
  shares[lane] = value;
  workgroupBarrier();
  for (var step = ${width / 2}u; step > 0u; step >>= 1u) {
    if (lane < step) { shares[lane] += shares[lane + step]; }
    workgroupBarrier();
  }
  return shares[0];
}`;

const backwardText = kernel({
  name: 'layerScaleBackward',
  reads: ['raw', 'sums', 'weight', 'bias', 'gamma'],
  writes: ['dWeight', 'dBias', 'dGamma'],
  uniforms: { n: 'u32', inputs: 'u32', add_dWeight: 'u32', add_dBias: 'u32', add_dGamma: 'u32' },
  width,
  outside: sumOfAll,
  body: `  if (group >= u.n) { return; }
  let factor = gamma_at(group);
  var sum = 0.0;
  for (var e = lane; e < u.inputs; e += ${width}u) {
    let i = group * u.inputs + e;
    sum += raw_at(i) * weight_at(i);
    dWeight_add(i, factor * raw_at(i));
  }
  sum = total(lane, sum);
  if (lane == 0u) {
    dGamma_add(group, sum + bias_at(group) * sums_at(group));
    dBias_add(group, factor * sums_at(group));
  }`,
});

/**
 * The gradients of weight [n, inputs], bias [n] and gamma [n] in y = x + gamma (input weight^T + bias).
 * @param arrays.raw dy^T input [n, inputs]
 * @param arrays.sums of the rows of dy [n]
 */
export function layerScaleBackward(
  caps: Capabilities,
  arrays: {
    raw: Operand;
    sums: Operand;
    weight: Operand;
    bias: Operand;
    gamma: Operand;
    dWeight: Target;
    dBias: Target;
    dGamma: Target;
  },
  n: number,
  inputs: number,
): Dispatch[] {
  const { dWeight, dBias, dGamma } = arrays;
  const uniforms = {
    n,
    inputs,
    add_dWeight: Number(dWeight.accumulate),
    add_dBias: Number(dBias.accumulate),
    add_dGamma: Number(dGamma.accumulate),
  };
  return [backwardText({ ...arrays }, uniforms, spread(n, caps), { bytes: 12 * n * inputs })];
}

const perGroup = 4 * width;

const rowsText = kernel({
  name: 'scaleRows',
  reads: ['weight', 'gamma'],
  writes: ['y', 'scale'],
  uniforms: { count: 'u32', n: 'u32', inputs: 'u32' },
  width,
  outside: `var<workgroup> highest: array<f32, ${width}>;`,
  body: `  var most = 0.0;
  for (var k = lane; k < u.n; k += ${width}u) { most = max(most, abs(gamma_at(k))); }
  highest[lane] = most;
  workgroupBarrier();
  for (var step = ${width / 2}u; step > 0u; step >>= 1u) {
    if (lane < step) { highest[lane] = max(highest[lane], highest[lane + step]); }
    workgroupBarrier();
  }
  most = select(1.0, highest[0], highest[0] > 0.0);
  for (var part = 0u; part < ${perGroup / width}u; part++) {
    let i = group * ${perGroup}u + part * ${width}u + lane;
    if (i < u.count) { y_put(i, gamma_at(i / u.inputs) / most * weight_at(i)); }
  }
  if (group == 0u && lane == 0u) { scale_put(0u, most); }`,
});

/**
 * y [n, inputs] = gamma [n] times the rows of weight, over the largest |gamma|, which `scale` [1] receives: what y rounds to
 * does not depend on how small all gammas are.
 */
export function scaleRows(
  caps: Capabilities,
  arrays: { weight: Operand; gamma: Operand; y: Operand; scale: Operand },
  n: number,
  inputs: number,
): Dispatch[] {
  const count = n * inputs;
  return [rowsText({ ...arrays }, { count, n, inputs }, spread(Math.ceil(count / perGroup), caps), { bytes: 6 * count })];
}
