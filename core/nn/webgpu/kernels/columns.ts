/**
 * Sums over rows, in a fixed order so that results repeat bit for bit: first over groups of rows, column by column, while
 * the row's gradient is formed; then over the groups (`sumRows`).
 */
import type { Capabilities, Dispatch, Region } from '../program.ts';
import { kernel, type KernelText, type Launch, type Operand, type Target } from './kernel.ts';

/** Columns and slices of rows of a workgroup of `sumRows`. */
const tile = 16;

const sumText = kernel({
  name: 'sumRows',
  reads: ['x'],
  writes: ['y'],
  uniforms: { rows: 'u32', n: 'u32', start_x: 'u32', stride_x: 'u32', start_y: 'u32', factor: 'f32', add_y: 'u32' },
  width: tile * tile,
  outside: `var<workgroup> sums: array<f32, ${tile * tile}>;`,
  body: `  let slice = lane / ${tile}u;
  let column = group * ${tile}u + lane % ${tile}u;
  var sum = 0.0;
  if (column < u.n) {
    for (var r = slice; r < u.rows; r += ${tile}u) { sum += x_at(u.start_x + r * u.stride_x + column); }
  }
  sums[lane] = sum;
  workgroupBarrier();
  for (var step = ${tile / 2}u; step > 0u; step >>= 1u) {
    if (slice < step) { sums[lane] += sums[lane + step * ${tile}u]; }
    workgroupBarrier();
  }
  if (slice == 0u && column < u.n) { y_add(u.start_y + column, u.factor * sums[lane]); }`,
});

export interface RowSums {
  readonly rows: number;
  readonly n: number;
  readonly startX?: number;
  /** Elements between the beginnings of two rows; absent: n. */
  readonly strideX?: number;
  readonly startY?: number;
  readonly factor?: number;
}

/** y [n] (+)= factor times the sum of the rows of x. */
export function sumRows(
  caps: Capabilities,
  x: Operand,
  y: Target,
  { rows, n, startX = 0, strideX = n, startY = 0, factor = 1 }: RowSums,
): Dispatch[] {
  const uniforms = { rows, n, start_x: startX, stride_x: strideX, start_y: startY, factor, add_y: Number(y.accumulate) };
  const count = Math.ceil(n / tile);
  const across = Math.min(count, caps.workgroupsPerDimension);
  return [sumText({ x, y }, uniforms, [across, Math.ceil(count / across), 1], { flops: rows * n, bytes: rows * n * 4 })];
}

/** Groups of rows at most, and rows of a group at least. */
const mostGroups = 512;
const fewestRows = 32;

/** How many rows go to a group, and how many groups of partial sums there are. */
export function rowGroups(rows: number): { per: number; groups: number } {
  const per = Math.max(fewestRows, Math.ceil(rows / mostGroups));
  return { per, groups: Math.max(1, Math.ceil(rows / per)) };
}

/** Columns of a workgroup: one an invocation. */
const columnWidth = 64;

/** A kernel that goes down the columns of a group of rows. `each` runs for row r and `column`; the body may use `i`, the element. */
function columnsKernel(text: Omit<KernelText, 'width' | 'body'>, before: string, each: string, after: string): Launch {
  return kernel({
    ...text,
    uniforms: { ...text.uniforms, rows: 'u32', n: 'u32', per: 'u32' },
    width: columnWidth,
    body: `  let column = group_id.x * ${columnWidth}u + lane;
  if (column >= u.n) { return; }
  let last = min(u.rows, (group_id.y + 1u) * u.per);
${before}
  for (var r = group_id.y * u.per; r < last; r++) {
    let i = r * u.n + column;
${each}
  }
${after}`,
  });
}

function columnGroups(n: number, groups: number): [number, number, number] {
  return [Math.ceil(n / columnWidth), groups, 1];
}

const biasText = columnsKernel(
  { name: 'biasBackward', reads: ['dy'], writes: ['partials'], uniforms: {} },
  '  var sum = 0.0;',
  '    sum += dy_at(i);',
  '  partials_put(group_id.y * u.n + column, sum);',
);

/** Group sums (`rowGroups`) of dy [rows, n], the gradient of a bias: partials [groups, n]. */
export function biasBackward(dy: Operand, partials: Operand, rows: number, n: number): Dispatch[] {
  const { per, groups } = rowGroups(rows);
  return [biasText({ dy, partials }, { rows, n, per }, columnGroups(n, groups), { bytes: rows * n * 4 })];
}

const branchText = columnsKernel(
  { name: 'residualBackward', reads: ['dy', 'gamma'], writes: ['dx'], uniforms: { add_dx: 'u32' } },
  '  let weight = gamma_at(column);',
  '    dx_add(i, weight * dy_at(i));',
  '',
);
const gammaText = columnsKernel(
  { name: 'residualBackward of gamma', reads: ['dy', 'branch'], writes: ['partials'], uniforms: {} },
  '  var sum = 0.0;',
  '    sum += dy_at(i) * branch_at(i);',
  '  partials_put(group_id.y * u.n + column, sum);',
);
const bothText = columnsKernel(
  {
    name: 'residualBackward of both',
    reads: ['dy', 'branch', 'gamma'],
    writes: ['dx', 'partials'],
    uniforms: { add_dx: 'u32' },
  },
  `  let weight = gamma_at(column);
  var sum = 0.0;`,
  `    let d = dy_at(i);
    dx_add(i, weight * d);
    sum += d * branch_at(i);`,
  '  partials_put(group_id.y * u.n + column, sum);',
);

/** dBranch [rows, n] (+)= gamma * dy, and group sums of dy * branch into partials [groups, n]; either may be null. */
export function residualBackward(
  arrays: { dy: Operand; branch: Operand; gamma: Operand; dBranch: Target | null; partials: Operand | null },
  rows: number,
  n: number,
): Dispatch[] {
  const { dy, branch, gamma, dBranch: dx, partials } = arrays;
  const { per, groups } = rowGroups(rows);
  const uniforms = { rows, n, per, add_dx: Number(dx?.accumulate ?? false) };
  const places = columnGroups(n, groups);
  if (dx && partials) return [bothText({ dy, branch, gamma, dx, partials }, uniforms, places, { bytes: rows * n * 12 })];
  if (dx) return [branchText({ dy, gamma, dx }, uniforms, places, { bytes: rows * n * 8 })];
  return partials ? [gammaText({ dy, branch, partials }, uniforms, places, { bytes: rows * n * 8 })] : [];
}

const normText = columnsKernel(
  { name: 'layerNormBackward of weight', reads: ['x', 'dy', 'stats'], writes: ['partials'], uniforms: {} },
  `  var weight = 0.0;
  var bias = 0.0;`,
  `    let d = dy_at(i);
    weight += d * (x_at(i) - stats_at(2u * r)) * stats_at(2u * r + 1u);
    bias += d;`,
  `  partials_put(group_id.y * 2u * u.n + column, weight);
  partials_put((group_id.y * 2u + 1u) * u.n + column, bias);`,
);

/** Group sums of dy * xhat and of dy, side by side: partials [groups, 2, n]. stats [rows, 2] as layerNorm leaves them. */
export function normWeightBackward(x: Operand, dy: Operand, stats: Operand, partials: Operand, rows: number, n: number): Dispatch[] {
  const { per, groups } = rowGroups(rows);
  return [normText({ x, dy, stats, partials }, { rows, n, per }, columnGroups(n, groups), { bytes: rows * n * 8 })];
}

const maskText = columnsKernel(
  { name: 'maskPatchesBackward of token', reads: ['dy'], writes: ['partials'], lists: ['mask'], uniforms: {} },
  '  var sum = 0.0;',
  '    if (((mask[r / 4u] >> (8u * (r % 4u))) & 255u) != 0u) { sum += dy_at(i); }',
  '  partials_put(group_id.y * u.n + column, sum);',
);

/** Group sums of the masked rows of dy: partials [groups, n]. mask: a byte a row. */
export function maskTokenBackward(dy: Operand, mask: Region, partials: Operand, rows: number, n: number): Dispatch[] {
  const { per, groups } = rowGroups(rows);
  return [maskText({ dy, partials, mask }, { rows, n, per }, columnGroups(n, groups))];
}
