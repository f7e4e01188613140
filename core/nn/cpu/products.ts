/**
 * Matrix products by threads: which kernel, what is packed, how large the blocks are. Shapes are row-major and whole;
 * sizes decide everything, the number of threads nothing.
 */
import type { Engine } from './engine.ts';
import { roundUp } from './memory.ts';

/** What happens to a block of the result while it is in the cache; the numbers of kernels/gemm.ts. */
export interface Epilogue {
  readonly kind: 'none' | 'bias' | 'bias-gelu' | 'column-scale';
  /** Bias or scales, one a column. */
  readonly vector: number;
  /** Where GELU's derivative is stored, shaped as the result; 0 for nowhere. */
  readonly slope: number;
}

export const noEpilogue: Epilogue = { kind: 'none', vector: 0, slope: 0 };
const kinds = { none: 0, bias: 1, 'bias-gelu': 2, 'column-scale': 3 } as const;

/** Rows of the result in a block: eight tiles of six. */
const blockRows = 48;
/** Operations of a block: about 0.1 ms of one thread. */
const blockFlops = 4e6;
/** Up to so many rows, packing the right side apart would cost a noticeable part of the product. */
const fewRows = 160;
/** Steps of the right side that kernels/gemm.ts packs at a time. */
const depth = 256;
/** Bytes of scratch that a tile at an edge needs; the same number stands there. */
export const edgeTile = 512;

/** A multiple of the panel's columns. */
function blockColumns(rows: number, k: number, n: number, panel: number): number {
  const wanted = roundUp(blockFlops / (2 * Math.min(rows, blockRows) * Math.max(k, 1)), panel);
  return Math.min(Math.max(16, wanted), roundUp(n, panel));
}

/** y[m,n] (+)= x[m,k] w[n,k]^T, then the epilogue. */
export function productNT(
  engine: Engine,
  sizes: { m: number; n: number; k: number },
  x: number,
  w: number,
  y: number,
  accumulate: number,
  epilogue: Epilogue = noEpilogue,
): void {
  const { m, n, k } = sizes;
  const flops = 2 * m * n * k;
  const end = [kinds[epilogue.kind], epilogue.vector, epilogue.slope];
  if (m <= fewRows) {
    fewRowsProduct(engine, sizes, x, w, k * 4, 1, y, accumulate, end);
    return;
  }
  const panel = engine.pool.columns;
  const width = roundUp(n, panel);
  const packed = engine.room(width * k);
  const per = Math.max(1, Math.floor(32768 / panel / Math.max(k, 1)));
  engine.pool.run('kPackTransposed', Math.ceil(width / panel / per), [w, k * 4, n, k, packed, per]);
  const columns = blockColumns(m, k, n, panel);
  const chunks = Math.ceil(m / blockRows) * Math.ceil(n / columns);
  engine.pool.run(
    'kProduct',
    chunks,
    [m, n, k, x, k * 4, 4, packed, panel * 4, k * panel * 4, y, n * 4, accumulate, blockRows, columns, ...end],
    flops,
  );
  engine.giveBack(packed, width * k);
}

/** c[m,n] (+)= a[m,k] b[k,n]. */
export function productNN(
  engine: Engine,
  sizes: { m: number; n: number; k: number },
  a: number,
  b: number,
  c: number,
  accumulate: number,
): void {
  const { m, n, k } = sizes;
  const end = [0, 0, 0];
  if (m <= fewRows) {
    fewRowsProduct(engine, sizes, a, b, n * 4, 0, c, accumulate, end);
    return;
  }
  const panel = engine.pool.columns;
  const width = roundUp(n, panel);
  const packed = engine.room(width * k);
  const per = Math.max(1, Math.floor(16384 / Math.max(n, 1)));
  engine.pool.run('kPackRows', Math.ceil(k / per), [b, n * 4, k, n, packed, panel, per]);
  const columns = blockColumns(m, k, n, panel);
  const chunks = Math.ceil(m / blockRows) * Math.ceil(n / columns);
  engine.pool.run(
    'kProduct',
    chunks,
    [m, n, k, a, k * 4, 4, packed, panel * 4, k * panel * 4, c, n * 4, accumulate, blockRows, columns, ...end],
    2 * m * n * k,
  );
  engine.giveBack(packed, width * k);
}

function fewRowsProduct(
  engine: Engine,
  { m, n, k }: { m: number; n: number; k: number },
  a: number,
  b: number,
  stride: number,
  transposed: number,
  c: number,
  accumulate: number,
  end: readonly number[],
): void {
  // Untransposed, the right side is read in stretches of so many floats: long ones, but enough chunks for the threads.
  const most = transposed ? 32 : 128;
  const columns = Math.min(most, Math.max(16, roundUp(n / 16, 16)), roundUp(n, engine.pool.columns));
  engine.pool.scratch(edgeTile + depth * columns * 4);
  const args = [m, n, k, a, k * 4, 4, b, stride, transposed, c, n * 4, accumulate, columns, ...end];
  engine.pool.run('kProductFewRows', Math.ceil(n / columns), args, 2 * m * n * k);
}

/** c[m,n] (+)= a[k,m]^T b[k,n]: a weight's gradient from k rows. */
export function productTN(
  engine: Engine,
  sizes: { m: number; n: number; k: number },
  a: number,
  b: number,
  c: number,
  accumulate: number,
): void {
  const { m, n, k } = sizes;
  const flops = 2 * m * n * k;
  const panel = engine.pool.columns;
  const columns = blockColumns(m, k, n, panel);
  const chunks = Math.ceil(m / blockRows) * Math.ceil(n / columns);
  if (k <= 24) {
    // So few rows stay in the cache as they lie.
    const args = [m, n, k, a, 4, m * 4, b, n * 4, panel * 4, c, n * 4, accumulate, blockRows, columns, 0, 0, 0];
    engine.pool.run('kProduct', chunks, args, flops);
    return;
  }
  const left = Math.ceil(m / 6) * 6 * k;
  const right = roundUp(n, panel) * k;
  const a6 = engine.room(left);
  const bPanels = engine.room(right);
  const perA = Math.max(1, Math.floor(16384 / Math.max(m, 1)));
  const perB = Math.max(1, Math.floor(16384 / Math.max(n, 1)));
  engine.pool.run('kPackRows', Math.ceil(k / perA), [a, m * 4, k, m, a6, 6, perA]);
  engine.pool.run('kPackRows', Math.ceil(k / perB), [b, n * 4, k, n, bPanels, panel, perB]);
  engine.pool.run(
    'kProductPacked',
    chunks,
    [m, n, k, a6, 0, 0, bPanels, panel * 4, k * panel * 4, c, n * 4, accumulate, blockRows, columns],
    flops,
  );
  engine.giveBack(a6, left);
  engine.giveBack(bPanels, right);
}
