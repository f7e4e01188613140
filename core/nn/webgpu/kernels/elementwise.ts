/** Element-wise work and copies: one invocation an element. */
import { spread, type Capabilities, type Dispatch, type Region } from '../program.ts';
import { elementWidth, kernel, type Operand, type Target } from './kernel.ts';

const element = `  let i = group * ${elementWidth}u + lane;`;

function workgroups(caps: Capabilities, count: number): [number, number, number] {
  return spread(Math.ceil(count / elementWidth), caps);
}

const fillText = kernel({
  name: 'fill',
  writes: ['y'],
  uniforms: { count: 'u32', value: 'f32' },
  width: elementWidth,
  body: `${element}
  if (i < u.count) { y_put(i, u.value); }`,
});

/** y[0 .. count-1] = value. */
export function fill(caps: Capabilities, y: Operand, value: number, count: number): Dispatch[] {
  return [fillText({ y }, { count, value }, workgroups(caps, count))];
}

const copyText = kernel({
  name: 'copyRows',
  reads: ['x'],
  writes: ['y'],
  uniforms: { count: 'u32', n: 'u32', start_x: 'u32', stride_x: 'u32', start_y: 'u32', stride_y: 'u32', add_y: 'u32' },
  width: elementWidth,
  body: `${element}
  if (i >= u.count) { return; }
  let r = i / u.n;
  let e = i - r * u.n;
  y_add(u.start_y + r * u.stride_y + e, x_at(u.start_x + r * u.stride_x + e));`,
});

export interface Stretches {
  readonly rows: number;
  /** Elements of a row that are copied. */
  readonly n: number;
  /** First element, and elements between the beginnings of two rows. Stride absent: rows lie close together. */
  readonly startX?: number;
  readonly strideX?: number;
  readonly startY?: number;
  readonly strideY?: number;
}

/** y (+)= rows of x, between two layouts (and element types). */
export function copyRows(
  caps: Capabilities,
  x: Operand,
  y: Target,
  { rows, n, startX = 0, strideX = n, startY = 0, strideY = n }: Stretches,
): Dispatch[] {
  const uniforms = {
    count: rows * n,
    n,
    start_x: startX,
    stride_x: strideX,
    start_y: startY,
    stride_y: strideY,
    add_y: Number(y.accumulate),
  };
  return [copyText({ x, y }, uniforms, workgroups(caps, rows * n), { bytes: rows * n * 8 })];
}

const scaleText = kernel({
  name: 'scale',
  reads: ['x'],
  writes: ['y'],
  uniforms: { count: 'u32', factor: 'f32', add_y: 'u32' },
  width: elementWidth,
  body: `${element}
  if (i < u.count) { y_add(i, u.factor * x_at(i)); }`,
});

/** y (+)= factor * x. */
export function scale(caps: Capabilities, x: Operand, y: Target, factor: number, count: number): Dispatch[] {
  return [scaleText({ x, y }, { count, factor, add_y: Number(y.accumulate) }, workgroups(caps, count))];
}

const timesText = kernel({
  name: 'times',
  reads: ['x', 'factor'],
  writes: ['y'],
  uniforms: { count: 'u32', add_y: 'u32' },
  width: elementWidth,
  body: `${element}
  if (i < u.count) { y_add(i, x_at(i) * factor_at(i)); }`,
});

/** y (+)= x * factor. */
export function times(caps: Capabilities, x: Operand, factor: Operand, y: Target, count: number): Dispatch[] {
  return [timesText({ x, factor, y }, { count, add_y: Number(y.accumulate) }, workgroups(caps, count), { bytes: count * 12 })];
}

const swigluText = kernel({
  name: 'swiglu',
  reads: ['x'],
  writes: ['y'],
  uniforms: { count: 'u32', half: 'u32' },
  width: elementWidth,
  body: `${element}
  if (i >= u.count) { return; }
  let r = i / u.half;
  let a = x_at(i + r * u.half);
  y_put(i, a / (1.0 + exp(-a)) * x_at(i + (r + 1u) * u.half));`,
});

/** x [rows, 2 half] -> y [rows, half] = silu(first half) * second half. */
export function swiglu(caps: Capabilities, x: Operand, y: Operand, rows: number, half: number): Dispatch[] {
  return [swigluText({ x, y }, { count: rows * half, half }, workgroups(caps, rows * half), { bytes: rows * half * 12 })];
}

const swigluBackwardText = kernel({
  name: 'swigluBackward',
  reads: ['x', 'dy'],
  writes: ['dx'],
  uniforms: { count: 'u32', half: 'u32', add_dx: 'u32' },
  width: elementWidth,
  body: `${element}
  if (i >= u.count) { return; }
  let r = i / u.half;
  let first = i + r * u.half;
  let second = first + u.half;
  let a = x_at(first);
  let s = 1.0 / (1.0 + exp(-a));
  let d = dy_at(i);
  // d silu / da = s (1 + a (1 - s))
  let da = d * x_at(second) * s * (1.0 + a * (1.0 - s));
  dx_add(first, da);
  dx_add(second, d * a * s);`,
});

export function swigluBackward(caps: Capabilities, x: Operand, dy: Operand, dx: Target, rows: number, half: number): Dispatch[] {
  const uniforms = { count: rows * half, half, add_dx: Number(dx.accumulate) };
  return [swigluBackwardText({ x, dy, dx }, uniforms, workgroups(caps, rows * half), { bytes: rows * half * 20 })];
}

const residualText = kernel({
  name: 'residual',
  reads: ['x', 'branch', 'gamma'],
  writes: ['y'],
  uniforms: { count: 'u32', n: 'u32' },
  width: elementWidth,
  body: `${element}
  if (i < u.count) { y_put(i, x_at(i) + gamma_at(i % u.n) * branch_at(i)); }`,
});

const subsetText = kernel({
  name: 'residual of a subset',
  reads: ['x', 'branch', 'gamma'],
  writes: ['y'],
  lists: ['places'],
  uniforms: { count: 'u32', n: 'u32', sample_size: 'u32', start: 'u32', start_branch: 'u32', factor: 'f32' },
  width: elementWidth,
  body: `${element}
  if (i >= u.count) { return; }
  let s = i / u.sample_size;
  let p = places[s];
  var v = x_at(u.start + i);
  if (p > 0u) { v += u.factor * gamma_at(i % u.n) * branch_at(u.start_branch + (p - 1u) * u.sample_size + i - s * u.sample_size); }
  y_put(u.start + i, v);`,
});

/** y = x + gamma [n] * branch; `count` elements of x. */
export function residual(
  caps: Capabilities,
  arrays: { x: Operand; branch: Operand; gamma: Operand; y: Operand },
  n: number,
  count: number,
): Dispatch[] {
  return [residualText({ ...arrays }, { count, n }, workgroups(caps, count), { bytes: count * 12 })];
}

export interface SubsetShape {
  readonly samples: number;
  /** Elements of a sample, whose last axis is n. */
  readonly sampleSize: number;
  readonly n: number;
  /** First elements of the group in x and y, and of its part in the branch. */
  readonly start: number;
  readonly startBranch: number;
  readonly scale: number;
}

/**
 * y = x, plus scale gamma [n] times the branch in the samples that have one; of one group of samples.
 * @param arrays.places for each sample 1 + its number in the branch, or 0 without one
 */
export function subsetResidual(
  caps: Capabilities,
  arrays: { x: Operand; branch: Operand; gamma: Operand; places: Region; y: Operand },
  { samples, sampleSize, n, start, startBranch, scale }: SubsetShape,
): Dispatch[] {
  const count = samples * sampleSize;
  const uniforms = { count, n, sample_size: sampleSize, start, start_branch: startBranch, factor: scale };
  return [subsetText({ ...arrays }, uniforms, workgroups(caps, count), { bytes: count * 12 })];
}
