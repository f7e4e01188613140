/** What every engine asks of shapes and rows, and which tensors a scope's result keeps. */

import type { GroupSubset, SampleGroup } from './ops.ts';

/** The part of a tensor that is asked. */
interface Shaped {
  readonly shape: readonly number[];
  readonly size: number;
}

export function sizeOf(shape: readonly number[]): number {
  return shape.reduce((product, n) => product * n, 1);
}

/** x seen as [rows, last axis]. */
export function rowsOf({ shape, size }: Shaped): { rows: number; n: number } {
  const n = shape.at(-1) ?? 1;
  return { rows: n === 0 ? 0 : size / n, n };
}

/** @throws Error with the operation's name and the shapes when `right` is false */
export function check(right: boolean, operation: string, ...tensors: readonly (Shaped | null)[]): void {
  if (right) return;
  const shapes = tensors.map((tensor) => (tensor ? `[${tensor.shape.join(',')}]` : 'null'));
  throw new Error(`${operation}: the shapes ${shapes.join(', ')} do not fit.`);
}

/** @throws Error when a row number is not in [0, count), or named twice where `distinct` */
export function checkRows(operation: string, rows: Int32Array, count: number, distinct = false): void {
  for (const row of rows) if (row < 0 || row >= count) throw new Error(`${operation}: row ${row} is not in 0 to ${count - 1}.`);
  if (distinct && new Set(rows).size !== rows.length) throw new Error(`${operation}: a row is named twice.`);
}

/**
 * Where the samples of attention lie in the rows of qkv: one group [N,T,3D], or several [R,3D].
 * @throws Error naming the shape when they or the heads do not fit it
 */
export function groupsOf(qkv: Shaped, heads: number, packed?: readonly SampleGroup[]): (SampleGroup & { readonly tokenOffset: number })[] {
  const { rows, n } = rowsOf(qkv);
  const [samples = 0, tokens = 0] = qkv.shape;
  let tokenOffset = 0;
  const groups = (packed ?? [{ samples, tokens }]).map((group) => {
    const placed = { ...group, tokenOffset };
    tokenOffset += group.samples * group.tokens;
    return placed;
  });
  const d = n / 3 / heads;
  const whole = groups.every((group) => group.samples >= 0 && group.tokens >= 0);
  const fits = qkv.shape.length === (packed ? 2 : 3) && tokenOffset === rows && whole;
  check(fits && Number.isInteger(d) && d > 0, `attention with ${heads} heads${packed ? ` on ${tokenOffset} tokens` : ''}`, qkv);
  return groups;
}

/** Part of a group, and where it begins among the rows of all groups and among those that take part. */
export interface PlacedSubset extends GroupSubset {
  readonly from: number;
  readonly to: number;
}

/**
 * Where a subset's samples lie in x, [N,T,n] of one group or [R,n], and the shape of them alone.
 * @throws Error naming the shape when the groups do not fit it, or a row that is not there or named twice
 */
export function subsetOf(operation: string, x: Shaped, subset: readonly GroupSubset[]): { parts: PlacedSubset[]; shape: number[] } {
  const { rows, n } = rowsOf(x);
  let [from, to] = [0, 0];
  const parts = subset.map((part) => {
    const placed = { ...part, from, to };
    checkRows(operation, part.rows, part.samples, true);
    from += part.samples * part.tokens;
    to += part.rows.length * part.tokens;
    return placed;
  });
  const [samples, tokens] = x.shape;
  const single = x.shape.length === 3 && subset.length === 1 && subset[0]!.samples === samples && subset[0]!.tokens === tokens;
  check(single || (x.shape.length === 2 && from === rows), `${operation} of groups with ${from} tokens`, x);
  return { parts, shape: single ? [parts[0]!.rows.length, tokens!, n] : [to, n] };
}

/** The rows of x that take part, in their order. */
export function rowsOfSubset(parts: readonly PlacedSubset[]): Int32Array {
  const numbers = parts.map(({ rows, tokens, from }) =>
    Int32Array.from({ length: rows.length * tokens }, (_, i) => from + rows[Math.floor(i / tokens)]! * tokens + (i % tokens)),
  );
  return Int32Array.from(numbers.flatMap((part) => [...part]));
}

/**
 * x [...,n] and its branch [...,n], which is of the same shape or has the tokens of a subset only: its parts, and its rows.
 * @throws Error naming the shapes when they do not fit
 */
export function residualShape(
  x: Shaped,
  branch: Shaped,
  gamma: Shaped,
  subset?: readonly GroupSubset[],
): { rows: number; n: number; parts: readonly PlacedSubset[] | null } {
  const { parts = null, shape } = subset ? subsetOf('addResidual', x, subset) : { shape: x.shape };
  const fits = branch.shape.length === shape.length && branch.shape.every((length, i) => length === shape[i]);
  check(fits && gamma.size === shape.at(-1), 'addResidual', x, branch, gamma);
  return { ...rowsOf(branch), parts };
}

/** The tensors that a scope returns: alone, in an array or in a plain object. */
export function survivors<T>(result: unknown, isTensor: (value: unknown) => value is T): T[] {
  if (isTensor(result)) return [result];
  if (Array.isArray(result)) return [...new Set(result.filter(isTensor))];
  if (result !== null && typeof result === 'object' && Object.getPrototypeOf(result) === Object.prototype)
    return survivors(Object.values(result), isTensor);
  return [];
}
