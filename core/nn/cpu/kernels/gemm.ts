// Matrix products C (+)= A B in float32. The inner kernel keeps a tile of C in 12 registers: 6 rows by 8 columns in lanes
// of four, by 16 where the compiler makes one instruction of two (WIDE, build/wasm.mjs). A is read with two strides (so
// transposed or packed operands need no kernel of their own), B in panels of as many columns.
// Each element of C is a chain of multiply-adds in the order of k, whatever tile, thread or chunk computes it.
import { madd, gauss4, normal4, loadUpTo4, storeUpTo4 } from './simd';
import { int, ptr, scratch } from './pool';

/** Columns of a tile and of a panel of B, and the bytes of a panel's step. */
export const COLUMNS: i32 = WIDE ? 16 : 8;
export const PANEL: usize = COLUMNS << 2;

/** Scratch that the tiles at the edges need before anything else; the same number stands in ../products.ts. */
export const TILE: usize = 512;

// @ts-ignore: decorator
@inline
export function panelsOf(columns: i32): i32 {
  return (columns + COLUMNS - 1) / COLUMNS;
}

/** Depth of a B panel that stays in the first-level cache with the rows of A it meets: 8 or 16 KiB. */
const DEPTH: i32 = 256;

/** What a tile starts from that adds to nothing: loaded like c, so that all accumulators are set in one way (see WIDE). */
const zeros: usize = memory.data(64, 16);

/** One full tile: c[6][8] (+)= sum over k of a(row r: a + r ars, step aks) times b (8 floats, step bks). Strides in bytes. */
// @ts-ignore: decorator
@inline
function tile6x8(
  k: i32,
  a0: usize,
  a1: usize,
  a2: usize,
  a3: usize,
  a4: usize,
  a5: usize,
  aks: usize,
  b: usize,
  bks: usize,
  c: usize,
  ldc: usize,
  accumulate: bool,
): void {
  let r = accumulate ? c : zeros;
  const step = accumulate ? ldc : 0;
  let s00 = v128.load(r), s01 = v128.load(r, 16); r += step;
  let s10 = v128.load(r), s11 = v128.load(r, 16); r += step;
  let s20 = v128.load(r), s21 = v128.load(r, 16); r += step;
  let s30 = v128.load(r), s31 = v128.load(r, 16); r += step;
  let s40 = v128.load(r), s41 = v128.load(r, 16); r += step;
  let s50 = v128.load(r), s51 = v128.load(r, 16);
  for (let i = 0; i < k; ++i) {
    const b0 = v128.load(b);
    const b1 = v128.load(b, 16);
    b += bks;
    const x0 = v128.load32_splat(a0);
    s00 = madd(x0, b0, s00); s01 = madd(x0, b1, s01);
    a0 += aks;
    const x1 = v128.load32_splat(a1);
    s10 = madd(x1, b0, s10); s11 = madd(x1, b1, s11);
    a1 += aks;
    const x2 = v128.load32_splat(a2);
    s20 = madd(x2, b0, s20); s21 = madd(x2, b1, s21);
    a2 += aks;
    const x3 = v128.load32_splat(a3);
    s30 = madd(x3, b0, s30); s31 = madd(x3, b1, s31);
    a3 += aks;
    const x4 = v128.load32_splat(a4);
    s40 = madd(x4, b0, s40); s41 = madd(x4, b1, s41);
    a4 += aks;
    const x5 = v128.load32_splat(a5);
    s50 = madd(x5, b0, s50); s51 = madd(x5, b1, s51);
    a5 += aks;
  }
  r = c;
  v128.store(r, s00); v128.store(r, s01, 16); r += ldc;
  v128.store(r, s10); v128.store(r, s11, 16); r += ldc;
  v128.store(r, s20); v128.store(r, s21, 16); r += ldc;
  v128.store(r, s30); v128.store(r, s31, 16); r += ldc;
  v128.store(r, s40); v128.store(r, s41, 16); r += ldc;
  v128.store(r, s50); v128.store(r, s51, 16);
}

/** The same for c[6][16]: 24 registers of four lanes, or 12 of eight. */
// @ts-ignore: decorator
@inline
function tile6x16(
  k: i32,
  a0: usize,
  a1: usize,
  a2: usize,
  a3: usize,
  a4: usize,
  a5: usize,
  aks: usize,
  b: usize,
  bks: usize,
  c: usize,
  ldc: usize,
  accumulate: bool,
): void {
  let r = accumulate ? c : zeros;
  const step = accumulate ? ldc : 0;
  let s00 = v128.load(r), s01 = v128.load(r, 16), s02 = v128.load(r, 32), s03 = v128.load(r, 48); r += step;
  let s10 = v128.load(r), s11 = v128.load(r, 16), s12 = v128.load(r, 32), s13 = v128.load(r, 48); r += step;
  let s20 = v128.load(r), s21 = v128.load(r, 16), s22 = v128.load(r, 32), s23 = v128.load(r, 48); r += step;
  let s30 = v128.load(r), s31 = v128.load(r, 16), s32 = v128.load(r, 32), s33 = v128.load(r, 48); r += step;
  let s40 = v128.load(r), s41 = v128.load(r, 16), s42 = v128.load(r, 32), s43 = v128.load(r, 48); r += step;
  let s50 = v128.load(r), s51 = v128.load(r, 16), s52 = v128.load(r, 32), s53 = v128.load(r, 48);
  for (let i = 0; i < k; ++i) {
    const b0 = v128.load(b);
    const b1 = v128.load(b, 16);
    const b2 = v128.load(b, 32);
    const b3 = v128.load(b, 48);
    b += bks;
    const x0 = v128.load32_splat(a0);
    s00 = madd(x0, b0, s00); s01 = madd(x0, b1, s01); s02 = madd(x0, b2, s02); s03 = madd(x0, b3, s03);
    a0 += aks;
    const x1 = v128.load32_splat(a1);
    s10 = madd(x1, b0, s10); s11 = madd(x1, b1, s11); s12 = madd(x1, b2, s12); s13 = madd(x1, b3, s13);
    a1 += aks;
    const x2 = v128.load32_splat(a2);
    s20 = madd(x2, b0, s20); s21 = madd(x2, b1, s21); s22 = madd(x2, b2, s22); s23 = madd(x2, b3, s23);
    a2 += aks;
    const x3 = v128.load32_splat(a3);
    s30 = madd(x3, b0, s30); s31 = madd(x3, b1, s31); s32 = madd(x3, b2, s32); s33 = madd(x3, b3, s33);
    a3 += aks;
    const x4 = v128.load32_splat(a4);
    s40 = madd(x4, b0, s40); s41 = madd(x4, b1, s41); s42 = madd(x4, b2, s42); s43 = madd(x4, b3, s43);
    a4 += aks;
    const x5 = v128.load32_splat(a5);
    s50 = madd(x5, b0, s50); s51 = madd(x5, b1, s51); s52 = madd(x5, b2, s52); s53 = madd(x5, b3, s53);
    a5 += aks;
  }
  r = c;
  v128.store(r, s00); v128.store(r, s01, 16); v128.store(r, s02, 32); v128.store(r, s03, 48); r += ldc;
  v128.store(r, s10); v128.store(r, s11, 16); v128.store(r, s12, 32); v128.store(r, s13, 48); r += ldc;
  v128.store(r, s20); v128.store(r, s21, 16); v128.store(r, s22, 32); v128.store(r, s23, 48); r += ldc;
  v128.store(r, s30); v128.store(r, s31, 16); v128.store(r, s32, 32); v128.store(r, s33, 48); r += ldc;
  v128.store(r, s40); v128.store(r, s41, 16); v128.store(r, s42, 32); v128.store(r, s43, 48); r += ldc;
  v128.store(r, s50); v128.store(r, s51, 16); v128.store(r, s52, 32); v128.store(r, s53, 48);
}

// @ts-ignore: decorator
@inline
function tile6(
  k: i32,
  a0: usize,
  a1: usize,
  a2: usize,
  a3: usize,
  a4: usize,
  a5: usize,
  aks: usize,
  b: usize,
  bks: usize,
  c: usize,
  ldc: usize,
  accumulate: bool,
): void {
  if (WIDE) tile6x16(k, a0, a1, a2, a3, a4, a5, aks, b, bks, c, ldc, accumulate);
  else tile6x8(k, a0, a1, a2, a3, a4, a5, aks, b, bks, c, ldc, accumulate);
}

/** A tile of which only `rows` x `columns` exist, computed at the start of scratch (6 * PANEL bytes), then copied. Columns past the end may be read from b, never past the allocation. */
function edgeTile(
  rows: i32,
  columns: i32,
  k: i32,
  a: usize,
  ars: usize,
  aks: usize,
  b: usize,
  bks: usize,
  c: usize,
  ldc: usize,
  accumulate: bool,
): void {
  const t = scratch();
  if (accumulate) {
    for (let r = 0; r < rows; ++r) memory.copy(t + <usize>r * PANEL, c + <usize>r * ldc, <usize>columns << 2);
  }
  // Missing rows repeat the first one.
  tile6(
    k,
    a,
    rows > 1 ? a + ars : a,
    rows > 2 ? a + ars * 2 : a,
    rows > 3 ? a + ars * 3 : a,
    rows > 4 ? a + ars * 4 : a,
    a,
    aks,
    b,
    bks,
    t,
    PANEL,
    accumulate,
  );
  for (let r = 0; r < rows; ++r) {
    const from = t + <usize>r * PANEL;
    const to = c + <usize>r * ldc;
    if (columns == COLUMNS) copyStep(from, to);
    else for (let j: usize = 0; j < <usize>columns << 2; j += 4) store<f32>(to + j, load<f32>(from + j));
  }
}

/**
 * C[m,n] (+)= A[m,k] B[k,n] on one thread. Strides in bytes: ars, aks between rows and steps of A; bks between steps of B,
 * bps between B's panels (PANEL where B lies unpacked, row by row); ldc between rows of C.
 */
export function product(
  m: i32,
  n: i32,
  k: i32,
  a: usize,
  ars: usize,
  aks: usize,
  b: usize,
  bks: usize,
  bps: usize,
  c: usize,
  ldc: usize,
  accumulate: bool,
): void {
  if (k == 0 && !accumulate) {
    for (let i = 0; i < m; ++i) memory.fill(c + <usize>i * ldc, 0, <usize>n << 2);
    return;
  }
  // Even depths rather than a short last one.
  const parts = (k + DEPTH - 1) / DEPTH;
  const depth = parts > 0 ? (k + parts - 1) / parts : 0;
  for (let k0 = 0; k0 < k; k0 += depth) {
    const kk = min(depth, k - k0);
    const add = accumulate || k0 > 0;
    for (let j = 0; j < n; j += COLUMNS) {
      const bp = b + <usize>(j / COLUMNS) * bps + <usize>k0 * bks;
      const columns = min(COLUMNS, n - j);
      let ap = a + <usize>k0 * aks;
      let cp = c + (<usize>j << 2);
      let i = 0;
      if (columns == COLUMNS) {
        for (; i + 6 <= m; i += 6) {
          const a2 = ap + ars * 2;
          const a4 = ap + ars * 4;
          tile6(kk, ap, ap + ars, a2, a2 + ars, a4, a4 + ars, aks, bp, bks, cp, ldc, add);
          ap += ars * 6;
          cp += ldc * 6;
        }
      }
      for (; i < m; i += 6) {
        const rows = min(6, m - i);
        if (rows == 6) edgeTile6(columns, kk, ap, ars, aks, bp, bks, cp, ldc, add);
        else edgeTile(rows, columns, kk, ap, ars, aks, bp, bks, cp, ldc, add);
        ap += ars * 6;
        cp += ldc * 6;
      }
    }
  }
}

/** All six rows, fewer columns than a panel has. */
function edgeTile6(columns: i32, k: i32, a: usize, ars: usize, aks: usize, b: usize, bks: usize, c: usize, ldc: usize, accumulate: bool): void {
  edgeTile(5, columns, k, a, ars, aks, b, bks, c, ldc, accumulate);
  edgeTile(1, columns, k, a + ars * 5, ars, aks, b, bks, c + ldc * 5, ldc, accumulate);
}

/** Panels of a packed operand, `width` columns each: dst[panel][row][width], missing columns 0. Source rows lie stride bytes apart. */
export function packRows(row0: i32, row1: i32, rows: i32, columns: i32, src: usize, stride: usize, dst: usize, width: i32): void {
  const panelBytes = <usize>rows * <usize>width * 4;
  for (let r = row0; r < row1; ++r) {
    let from = src + <usize>r * stride;
    let to = dst + <usize>r * <usize>width * 4;
    let j = 0;
    if (width == COLUMNS) {
      for (; j + COLUMNS <= columns; j += COLUMNS) {
        copyStep(from, to);
        from += PANEL;
        to += panelBytes;
      }
    } else {
      for (; j + 6 <= columns; j += 6) {
        v128.store(to, v128.load(from));
        store<u64>(to, load<u64>(from, 16), 16);
        from += 24;
        to += panelBytes;
      }
    }
    if (j < columns) {
      for (let e = 0; e < width; ++e) store<f32>(to + (<usize>e << 2), j + e < columns ? load<f32>(from + (<usize>e << 2)) : 0);
    }
  }
}

/** Panels of the transpose: src [columns][k] (rows stride bytes apart) -> dst[panel][k][COLUMNS], panels p0 to p1. Missing columns are 0. */
export function packTransposed(p0: i32, p1: i32, columns: i32, k: i32, src: usize, stride: usize, dst: usize): void {
  const panelBytes = <usize>k * PANEL;
  for (let p = p0; p < p1; ++p) {
    const to = dst + <usize>p * panelBytes;
    const from = src + <usize>(p * COLUMNS) * stride;
    const valid = min(COLUMNS, columns - p * COLUMNS);
    let i = 0;
    if (valid == COLUMNS) {
      for (; i + 4 <= k; i += 4) {
        const f = from + (<usize>i << 2);
        const t = to + <usize>i * PANEL;
        transpose4(f, stride, t);
        transpose4(f + stride * 4, stride, t + 16);
        if (WIDE) {
          transpose4(f + stride * 8, stride, t + 32);
          transpose4(f + stride * 12, stride, t + 48);
        }
      }
    }
    for (; i < k; ++i) {
      for (let e = 0; e < COLUMNS; ++e) {
        store<f32>(to + <usize>i * PANEL + (<usize>e << 2), e < valid ? load<f32>(from + <usize>e * stride + (<usize>i << 2)) : 0);
      }
    }
  }
}

/** One step of a panel. */
// @ts-ignore: decorator
@inline
function copyStep(from: usize, to: usize): void {
  v128.store(to, v128.load(from));
  v128.store(to, v128.load(from, 16), 16);
  if (WIDE) {
    v128.store(to, v128.load(from, 32), 32);
    v128.store(to, v128.load(from, 48), 48);
  }
}

// @ts-ignore: decorator
@inline
function transpose4(from: usize, stride: usize, to: usize): void {
  const a = v128.load(from);
  const b = v128.load(from + stride);
  const c = v128.load(from + stride * 2);
  const d = v128.load(from + stride * 3);
  const ab0 = v128.shuffle<f32>(a, b, 0, 4, 1, 5);
  const ab1 = v128.shuffle<f32>(a, b, 2, 6, 3, 7);
  const cd0 = v128.shuffle<f32>(c, d, 0, 4, 1, 5);
  const cd1 = v128.shuffle<f32>(c, d, 2, 6, 3, 7);
  v128.store(to, v128.shuffle<f32>(ab0, cd0, 0, 1, 4, 5));
  v128.store(to + PANEL, v128.shuffle<f32>(ab0, cd0, 2, 3, 6, 7));
  v128.store(to + PANEL * 2, v128.shuffle<f32>(ab1, cd1, 0, 1, 4, 5));
  v128.store(to + PANEL * 3, v128.shuffle<f32>(ab1, cd1, 2, 3, 6, 7));
}

// --- what follows a product while its block is still in the cache ---------------------------------------------------

/** Epilogues beside 0, none, and 1, bias alone; the numbers stand in ../products.ts too. */
const BIAS_GELU: i32 = 2;
const COLUMN_SCALE: i32 = 3;

/**
 * On the block C[m,n]: adds bias, or adds bias and applies GELU, or multiplies columns by `vector`. With `slope` (not 0),
 * GELU's derivative is stored there, rows as far apart as C's.
 */
function epilogue(kind: i32, m: i32, n: i32, c: usize, ldc: usize, vector: usize, slope: usize): void {
  for (let i = 0; i < m; ++i) {
    const row = c + <usize>i * ldc;
    const slopes = slope + <usize>i * ldc;
    if (kind == BIAS_GELU) {
      for (let j = 0; j < n; j += 4) {
        const o = <usize>j << 2;
        const left = n - j;
        const u = f32x4.add(loadUpTo4(row + o, left), loadUpTo4(vector + o, left));
        const gauss = gauss4(u);
        const phi = normal4(u, gauss);
        // d/du u Phi(u) = Phi(u) + u e^(-u^2/2) / sqrt(2 pi)
        if (slope) storeUpTo4(slopes + o, madd(f32x4.mul(u, f32x4.splat(0.3989422804014327)), gauss, phi), left);
        storeUpTo4(row + o, f32x4.mul(u, phi), left);
      }
    } else if (kind == COLUMN_SCALE) {
      for (let j = 0; j < n; j += 4) {
        const o = <usize>j << 2;
        storeUpTo4(row + o, f32x4.mul(loadUpTo4(row + o, n - j), loadUpTo4(vector + o, n - j)), n - j);
      }
    } else {
      for (let j = 0; j < n; j += 4) {
        const o = <usize>j << 2;
        storeUpTo4(row + o, f32x4.add(loadUpTo4(row + o, n - j), loadUpTo4(vector + o, n - j)), n - j);
      }
    }
  }
}

// --- kernels --------------------------------------------------------------------------------------------------------

/** packRows over row chunks. [src, stride, rows, columns, dst, width, rowsPerChunk] */
export function kPackRows(p: usize, chunk: i32): void {
  const rows = int(p, 2);
  const per = int(p, 6);
  const r0 = chunk * per;
  packRows(r0, min(rows, r0 + per), rows, int(p, 3), ptr(p, 0), ptr(p, 1), ptr(p, 4), int(p, 5));
}

/** packTransposed, `per` panels a chunk. [src, stride, columns, k, dst, per] */
export function kPackTransposed(p: usize, chunk: i32): void {
  const columns = int(p, 2);
  const per = int(p, 5);
  const p0 = chunk * per;
  packTransposed(p0, min(panelsOf(columns), p0 + per), columns, int(p, 3), ptr(p, 0), ptr(p, 1), ptr(p, 4));
}

/**
 * Blocks of C (+)= A B. [m, n, k, a, ars, aks, b, bks, bps, c, ldc, accumulate, blockRows, blockColumns, epilogue, vector, slope]
 * blockColumns is a multiple of COLUMNS. A packed in panels of 6 rows is told by ars = 4.
 */
export function kProduct(p: usize, chunk: i32): void {
  const m = int(p, 0);
  const n = int(p, 1);
  const k = int(p, 2);
  const ldc = ptr(p, 10);
  const blockRows = int(p, 12);
  const blockColumns = int(p, 13);
  const down = (m + blockRows - 1) / blockRows;
  const i0 = (chunk % down) * blockRows;
  const j0 = (chunk / down) * blockColumns;
  const rows = min(blockRows, m - i0);
  const columns = min(blockColumns, n - j0);
  const ars = ptr(p, 4);
  const aks = ptr(p, 5);
  const b = ptr(p, 6) + <usize>(j0 / COLUMNS) * ptr(p, 8);
  const o = <usize>i0 * ldc + (<usize>j0 << 2);
  const c = ptr(p, 9) + o;
  product(rows, columns, k, ptr(p, 3) + <usize>i0 * ars, ars, aks, b, ptr(p, 7), ptr(p, 8), c, ldc, int(p, 11) != 0);
  const kind = int(p, 14);
  if (kind) epilogue(kind, rows, columns, c, ldc, ptr(p, 15) + (<usize>j0 << 2), ptr(p, 16) ? ptr(p, 16) + o : 0);
}

/**
 * Like kProduct for A packed in panels of 6 rows (dst of kPackRows with width 6); blockRows is a multiple of 6.
 * [m, n, k, a, -, -, b, bks, bps, c, ldc, accumulate, blockRows, blockColumns]
 */
export function kProductPacked(p: usize, chunk: i32): void {
  const m = int(p, 0);
  const n = int(p, 1);
  const k = int(p, 2);
  const ldc = ptr(p, 10);
  const bks = ptr(p, 7);
  const bps = ptr(p, 8);
  const blockRows = int(p, 12);
  const blockColumns = int(p, 13);
  const down = (m + blockRows - 1) / blockRows;
  const i0 = (chunk % down) * blockRows;
  const j0 = (chunk / down) * blockColumns;
  const i1 = min(i0 + blockRows, m);
  const j1 = min(j0 + blockColumns, n);
  const accumulate = int(p, 11) != 0;
  const panel = <usize>k * 24;
  for (let k0 = 0; k0 < k; k0 += DEPTH) {
    const kk = min(DEPTH, k - k0);
    for (let j = j0; j < j1; j += COLUMNS) {
      const b = ptr(p, 6) + <usize>(j / COLUMNS) * bps + <usize>k0 * bks;
      const columns = min(COLUMNS, j1 - j);
      for (let i = i0; i < i1; i += 6) {
        const a = ptr(p, 3) + <usize>(i / 6) * panel + <usize>k0 * 24;
        const rows = min(6, i1 - i);
        const c = ptr(p, 9) + <usize>i * ldc + (<usize>j << 2);
        product6(rows, columns, kk, a, b, bks, c, ldc, accumulate || k0 > 0);
      }
    }
  }
}

function product6(rows: i32, columns: i32, k: i32, a: usize, b: usize, bks: usize, c: usize, ldc: usize, accumulate: bool): void {
  if (rows == 6 && columns == COLUMNS) tile6(k, a, a + 4, a + 8, a + 12, a + 16, a + 20, 24, b, bks, c, ldc, accumulate);
  else if (rows == 6) edgeTile6(columns, k, a, 4, 24, b, bks, c, ldc, accumulate);
  else edgeTile(rows, columns, k, a, 4, 24, b, bks, c, ldc, accumulate);
}

/**
 * C (+)= A B for few rows: each chunk packs its own columns of B in scratch, so B is read from memory once.
 * [m, n, k, a, ars, aks, b, stride, transposed, c, ldc, accumulate, blockColumns, epilogue, vector, slope]
 * B is [k,n], or [n,k] when transposed; its rows lie stride bytes apart. Scratch: TILE + DEPTH * blockColumns * 4 bytes.
 */
export function kProductFewRows(p: usize, chunk: i32): void {
  const m = int(p, 0);
  const k = int(p, 2);
  const aks = ptr(p, 5);
  const stride = ptr(p, 7);
  const transposed = int(p, 8) != 0;
  const ldc = ptr(p, 10);
  const j0 = chunk * int(p, 12);
  const columns = min(int(p, 12), int(p, 1) - j0);
  const panels = scratch() + TILE;
  const b = ptr(p, 6) + (transposed ? <usize>j0 * stride : <usize>j0 << 2);
  const c = ptr(p, 9) + (<usize>j0 << 2);
  for (let k0 = 0; k0 < k; k0 += DEPTH) {
    const kk = min(DEPTH, k - k0);
    if (transposed) packTransposed(0, panelsOf(columns), columns, kk, b + (<usize>k0 << 2), stride, panels);
    else packRows(0, kk, kk, columns, b + <usize>k0 * stride, stride, panels, COLUMNS);
    const a = ptr(p, 3) + <usize>k0 * aks;
    product(m, columns, kk, a, ptr(p, 4), aks, panels, PANEL, <usize>kk * PANEL, c, ldc, k0 > 0 || int(p, 11) != 0);
  }
  const kind = int(p, 13);
  if (kind) epilogue(kind, m, columns, c, ldc, ptr(p, 14) + (<usize>j0 << 2), ptr(p, 15) ? ptr(p, 15) + (<usize>j0 << 2) : 0);
}
