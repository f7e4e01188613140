/**
 * Heads of a width that the attention kernels do not take are padded with zeros to one that they do. Scores are then divided
 * by the root of the padded width: queries are multiplied by what makes up for it.
 */
import { spread, type Capabilities, type Dispatch } from '../program.ts';
import { elementWidth, kernel, type Operand, type Target } from './kernel.ts';

/** Rows of d and of `padded` values, one a head; `queries`: the rows are q, k, v of each token in turn. */
export interface HeadShape {
  readonly rows: number;
  readonly heads: number;
  readonly d: number;
  readonly padded: number;
  readonly queries: boolean;
}

const uniforms = { count: 'u32', heads: 'u32', d: 'u32', padded: 'u32', factor: 'f32' } as const;

const padText = kernel({
  name: 'padHeads',
  reads: ['x'],
  writes: ['y'],
  uniforms,
  width: elementWidth,
  body: `  let i = group * ${elementWidth}u + lane;
  if (i >= u.count) { return; }
  let r = i / u.padded;
  let e = i - r * u.padded;
  if (e >= u.d) { y_put(i, 0.0); return; }
  y_put(i, x_at(r * u.d + e) * select(1.0, u.factor, r / u.heads % 3u == 0u));`,
});

const unpadText = kernel({
  name: 'unpadHeads',
  reads: ['x'],
  writes: ['y'],
  uniforms: { ...uniforms, add_y: 'u32' },
  width: elementWidth,
  body: `  let i = group * ${elementWidth}u + lane;
  if (i >= u.count) { return; }
  let r = i / u.d;
  y_add(i, x_at(r * u.padded + i - r * u.d) * select(1.0, u.factor, r / u.heads % 3u == 0u));`,
});

const factorOf = ({ d, padded, queries }: HeadShape): number => (queries ? Math.sqrt(padded / d) : 1);

/** x [rows, d] -> y [rows, padded]. */
export function padHeads(caps: Capabilities, x: Operand, y: Operand, shape: HeadShape): Dispatch[] {
  const { rows, heads, d, padded } = shape;
  const count = rows * padded;
  return [padText({ x, y }, { count, heads, d, padded, factor: factorOf(shape) }, spread(Math.ceil(count / elementWidth), caps))];
}

/** x [rows, padded] -> y [rows, d]; of queries' gradients the same factor. */
export function unpadHeads(caps: Capabilities, x: Operand, y: Target, shape: HeadShape): Dispatch[] {
  const { rows, heads, d, padded } = shape;
  const count = rows * d;
  const values = { count, heads, d, padded, factor: factorOf(shape), add_y: Number(y.accumulate) };
  return [unpadText({ x, y }, values, spread(Math.ceil(count / elementWidth), caps))];
}
