/** What every engine asks of shapes and rows, and which tensors a scope's result keeps. */

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

/** The tensors that a scope returns: alone, in an array or in a plain object. */
export function survivors<T>(result: unknown, isTensor: (value: unknown) => value is T): T[] {
  if (isTensor(result)) return [result];
  if (Array.isArray(result)) return [...new Set(result.filter(isTensor))];
  if (result !== null && typeof result === 'object' && Object.getPrototypeOf(result) === Object.prototype)
    return survivors(Object.values(result), isTensor);
  return [];
}
