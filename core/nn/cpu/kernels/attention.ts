// Softmax attention, forward and backward, one (sample, head) at a time in the thread's scratch memory. Scores exist
// only for a block of rows; backward computes them again from the saved log-sum of each row (as in FlashAttention,
// Dao et al. 2022), so memory grows with T, not with T squared.
import { madd, exp4, keepUpTo4, maxLanes, sumLanes, dot } from './simd';
import { int, ptr, scratch } from './pool';
import { COLUMNS, PANEL, TILE, panelsOf, product, packRows, packTransposed } from './gemm';

/** Rows of scores held at once, a multiple of 6; the same number stands in ../attention.ts. */
const ROWS: i32 = 48;

/**
 * Rows of s[rows][columns] (ld bytes apart) become softmax(scale * s); lse[r] = log sum exp of row r. Lanes from
 * `columns` up to whole panels become 0.
 */
function softmaxRows(rows: i32, columns: i32, s: usize, ld: usize, scale: f32, lse: usize): void {
  const width = panelsOf(columns) * COLUMNS;
  const scales = f32x4.splat(scale);
  for (let r = 0; r < rows; ++r) {
    const row = s + <usize>r * ld;
    let top = f32x4.splat(-Infinity);
    let j = 0;
    for (; j + 4 <= columns; j += 4) top = f32x4.pmax(top, v128.load(row + (<usize>j << 2)));
    let highest = maxLanes(top);
    for (; j < columns; ++j) highest = max(highest, load<f32>(row + (<usize>j << 2)));
    const shift = f32x4.splat(-highest * scale);
    let sums = f32x4.splat(0);
    for (j = 0; j < width; j += 4) {
      const o = row + (<usize>j << 2);
      const left = columns - j;
      let e = exp4(madd(v128.load(o), scales, shift));
      e = left > 0 ? keepUpTo4(e, left) : f32x4.splat(0);
      sums = f32x4.add(sums, e);
      v128.store(o, e);
    }
    const sum = sumLanes(sums);
    const inverse = f32x4.splat(1 / sum);
    for (j = 0; j < width; j += 4) {
      const o = row + (<usize>j << 2);
      v128.store(o, f32x4.mul(v128.load(o), inverse));
    }
    if (lse) store<f32>(lse + (<usize>r << 2), highest * scale + <f32>Math.log(sum));
  }
}

/**
 * [qkv, out, lse or 0, T, heads, headDim, rowsPerChunk] qkv [N,T,3,heads,headDim] -> out [N,T,heads,headDim],
 * lse [N,heads,T]. Chunk = (sample, head, group of rows).
 */
export function kAttention(p: usize, chunk: i32): void {
  const T = int(p, 3);
  const heads = int(p, 4);
  const d = int(p, 5);
  const per = int(p, 6);
  const groups = (T + per - 1) / per;
  const group = chunk % groups;
  const pair = chunk / groups;
  const head = pair % heads;
  const sample = pair / heads;
  const D = <usize>heads * d * 4; // bytes of one of q, k, v of a token
  const token = D * 3;
  const q = ptr(p, 0) + <usize>sample * T * token + <usize>head * d * 4;
  const out = ptr(p, 1) + <usize>sample * T * D + <usize>head * d * 4;
  const lse = ptr(p, 2);
  const scale: f32 = 1 / sqrt<f32>(<f32>d);
  const width = <usize>(panelsOf(T) * COLUMNS);
  const depth = <usize>(panelsOf(d) * COLUMNS);
  const keys = scratch() + TILE; // packed k^T: panels of tokens, [d][COLUMNS]
  const values = keys + width * d * 4; // packed v: panels of channels, [T][COLUMNS]
  const s = values + depth * T * 4; // [ROWS][width]
  packTransposed(0, panelsOf(T), T, d, q + D, token, keys);
  packRows(0, T, T, d, q + D * 2, token, values, COLUMNS);
  const last = min(T, (group + 1) * per);
  for (let i = group * per; i < last; i += ROWS) {
    const rows = min(ROWS, last - i);
    product(rows, <i32>width, d, q + <usize>i * token, token, 4, keys, PANEL, <usize>d * PANEL, s, width << 2, false);
    softmaxRows(rows, T, s, width << 2, scale, lse ? lse + (<usize>pair * T + i) * 4 : 0);
    product(rows, d, T, s, width << 2, 4, values, PANEL, <usize>T * PANEL, out + <usize>i * D, D, false);
  }
}

/**
 * [qkv, lse, out, dOut, dQkv, T, heads, headDim, accumulate] Chunk = (sample, head).
 * With P = softmax(scale q k^T): dV = P^T dO, dS = P * (dO v^T - rowsum(dO * O)) scale, dQ = dS k, dK = dS^T q.
 */
export function kAttentionBackward(p: usize, chunk: i32): void {
  const T = int(p, 5);
  const heads = int(p, 6);
  const d = int(p, 7);
  const accumulate = int(p, 8) != 0;
  const head = chunk % heads;
  const sample = chunk / heads;
  const D = <usize>heads * d * 4;
  const token = D * 3;
  const place = <usize>head * d * 4;
  const q = ptr(p, 0) + <usize>sample * T * token + place;
  const lse = ptr(p, 1) + <usize>chunk * T * 4;
  const out = ptr(p, 2) + <usize>sample * T * D + place;
  const dOut = ptr(p, 3) + <usize>sample * T * D + place;
  const dQ = ptr(p, 4) + <usize>sample * T * token + place;
  const scale: f32 = 1 / sqrt<f32>(<f32>d);
  const scales = f32x4.splat(scale);
  const width = <usize>(panelsOf(T) * COLUMNS);
  const depth = <usize>(panelsOf(d) * COLUMNS);
  const ld = width << 2;
  const keys = scratch() + TILE; // k^T, panels of tokens
  const values = keys + width * d * 4; // v^T, panels of tokens
  const keyRows = values + width * d * 4; // k, panels of channels
  const queries = keyRows + depth * T * 4; // q of the block, panels of channels: [ROWS][COLUMNS]
  const grads = queries + depth * ROWS * 4; // dO of the block, the same
  const s = grads + depth * ROWS * 4; // [ROWS][width]
  const ds = s + ROWS * ld; // [ROWS][width]
  packTransposed(0, panelsOf(T), T, d, q + D, token, keys);
  packTransposed(0, panelsOf(T), T, d, q + D * 2, token, values);
  packRows(0, T, T, d, q + D, token, keyRows, COLUMNS);
  for (let i = 0; i < T; i += ROWS) {
    const rows = min(ROWS, T - i);
    const qi = q + <usize>i * token;
    const oi = <usize>i * D;
    product(rows, <i32>width, d, qi, token, 4, keys, PANEL, <usize>d * PANEL, s, ld, false);
    product(rows, <i32>width, d, dOut + oi, D, 4, values, PANEL, <usize>d * PANEL, ds, ld, false);
    for (let r = 0; r < rows; ++r) {
      const ro = oi + <usize>r * D;
      const delta = f32x4.splat(dot(d, dOut + ro, out + ro));
      const shift = f32x4.splat(-load<f32>(lse + (<usize>(i + r) << 2)));
      const row = s + <usize>r * ld;
      const dRow = ds + <usize>r * ld;
      for (let j = 0; j < T; j += 4) {
        const o = <usize>j << 2;
        const prob = exp4(madd(v128.load(row + o), scales, shift));
        v128.store(row + o, prob);
        v128.store(dRow + o, f32x4.mul(f32x4.mul(prob, f32x4.sub(v128.load(dRow + o), delta)), scales));
      }
    }
    const add = accumulate || i > 0;
    packRows(0, rows, rows, d, qi, token, queries, COLUMNS);
    packRows(0, rows, rows, d, dOut + oi, D, grads, COLUMNS);
    // Panels lie `rows` steps apart.
    product(T, d, rows, s, 4, ld, grads, PANEL, <usize>rows * PANEL, dQ + D * 2, token, add);
    product(T, d, rows, ds, 4, ld, queries, PANEL, <usize>rows * PANEL, dQ + D, token, add);
    product(rows, d, T, ds, ld, 4, keyRows, PANEL, <usize>T * PANEL, dQ + <usize>i * token, token, accumulate);
  }
}
