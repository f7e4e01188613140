// A teacher's targets over prototypes, Sinkhorn-Knopp and centred softmax: of whole logits [rows, K], where each kernel
// passes over them once, and of a tile of them at a time, where only the logarithms of the factors are kept.
import { madd, exp4, loadUpTo4, storeUpTo4, keepUpTo4, maxLanes, sumLanes, dot } from './simd';
import { int, ptr, float } from './pool';

/** y = e^((l - max of the row) / temperature), maxima [rows]; y may be l. [logits, y, maxima, rows, K, temperature, rowsPerChunk] */
export function kSinkhornExp(p: usize, chunk: i32): void {
  const K = int(p, 4);
  const per = int(p, 6);
  const last = min(int(p, 3), (chunk + 1) * per);
  const inverse = f32x4.splat(1 / float(p, 5));
  for (let r = chunk * per; r < last; ++r) {
    const l = ptr(p, 0) + (<usize>r * K << 2);
    const y = ptr(p, 1) + (<usize>r * K << 2);
    let highest: f32 = -Infinity;
    let top = f32x4.splat(highest);
    let i = 0;
    for (; i + 4 <= K; i += 4) top = f32x4.pmax(top, v128.load(l + (<usize>i << 2)));
    highest = maxLanes(top);
    for (; i < K; ++i) highest = max(highest, load<f32>(l + (<usize>i << 2)));
    const tops = f32x4.splat(highest);
    for (i = 0; i < K; i += 4) {
      const o = <usize>i << 2;
      storeUpTo4(y + o, exp4(f32x4.mul(f32x4.sub(loadUpTo4(l + o, K - i), tops), inverse)), K - i);
    }
    store<f32>(ptr(p, 2) + (<usize>r << 2), highest);
  }
}

/** In place: maxima -> e^((maximum - highest) / temperature), one chunk. [maxima, rows, temperature] */
export function kSinkhornStart(p: usize, _chunk: i32): void {
  const rows = int(p, 1);
  let highest: f32 = -Infinity;
  for (let r = 0; r < rows; ++r) highest = max(highest, load<f32>(ptr(p, 0) + (<usize>r << 2)));
  for (let r = 0; r < rows; ++r) {
    const at = ptr(p, 0) + (<usize>r << 2);
    store<f32>(at, <f32>Math.exp((<f64>load<f32>(at) - <f64>highest) / load<f64>(p + 16)));
  }
}

/** Prototype factors u_k = 1 / (K sum_r E[r,k] v_r); 0 where no row reaches. [E, v, u, rows, K, columnsPerChunk] */
export function kSinkhornPrototypes(p: usize, chunk: i32): void {
  const rows = int(p, 3);
  const K = int(p, 4);
  const per = int(p, 5);
  const j0 = chunk * per;
  const j1 = min(K, j0 + per);
  const u = ptr(p, 2);
  memory.fill(u + (<usize>j0 << 2), 0, <usize>(j1 - j0) << 2);
  for (let r = 0; r < rows; ++r) {
    const e = ptr(p, 0) + (<usize>r * K << 2);
    const v = v128.load32_splat(ptr(p, 1) + (<usize>r << 2));
    for (let j = j0; j < j1; j += 4) {
      const o = <usize>j << 2;
      storeUpTo4(u + o, madd(v, loadUpTo4(e + o, j1 - j), loadUpTo4(u + o, j1 - j)), j1 - j);
    }
  }
  for (let j = j0; j < j1; ++j) {
    const at = u + (<usize>j << 2);
    const sum = load<f32>(at);
    store<f32>(at, sum > 0 ? 1 / (<f32>K * sum) : 0);
  }
}

/** Sample factors v_r = 1 / (rows sum_k E[r,k] u_k); in the last pass E[r,k] *= u_k v_r rows. [E, v, u, rows, K, last, rowsPerChunk] */
export function kSinkhornSamples(p: usize, chunk: i32): void {
  const rows = int(p, 3);
  const K = int(p, 4);
  const per = int(p, 6);
  const end = min(rows, (chunk + 1) * per);
  for (let r = chunk * per; r < end; ++r) {
    const e = ptr(p, 0) + (<usize>r * K << 2);
    const sum = dot(K, e, ptr(p, 2));
    store<f32>(ptr(p, 1) + (<usize>r << 2), 1 / (<f32>rows * sum));
    if (!int(p, 5)) continue;
    const share = f32x4.splat(1 / sum);
    for (let j = 0; j < K; j += 4) {
      const o = <usize>j << 2;
      storeUpTo4(e + o, f32x4.mul(f32x4.mul(loadUpTo4(e + o, K - j), loadUpTo4(ptr(p, 2) + o, K - j)), share), K - j);
    }
  }
}

/** y = softmax((l - center) / temperature); y may be l. [logits, center, y, rows, K, temperature, rowsPerChunk] */
export function kCenteredSoftmax(p: usize, chunk: i32): void {
  const K = int(p, 4);
  const per = int(p, 6);
  const last = min(int(p, 3), (chunk + 1) * per);
  const inverse = f32x4.splat(1 / float(p, 5));
  const center = ptr(p, 1);
  for (let r = chunk * per; r < last; ++r) {
    const l = ptr(p, 0) + (<usize>r * K << 2);
    const y = ptr(p, 2) + (<usize>r * K << 2);
    let highest: f32 = -Infinity;
    for (let i = 0; i < K; i += 4) {
      const o = <usize>i << 2;
      const left = K - i;
      const v = f32x4.mul(f32x4.sub(loadUpTo4(l + o, left), loadUpTo4(center + o, left)), inverse);
      storeUpTo4(y + o, v, left);
      if (left >= 4) highest = max(highest, maxLanes(v));
      else for (let e = i; e < K; ++e) highest = max(highest, load<f32>(y + (<usize>e << 2)));
    }
    const shift = f32x4.splat(-highest);
    let sums = f32x4.splat(0);
    for (let i = 0; i < K; i += 4) {
      const o = <usize>i << 2;
      const left = K - i;
      const e = keepUpTo4(exp4(f32x4.add(loadUpTo4(y + o, left), shift)), left);
      storeUpTo4(y + o, e, left);
      sums = f32x4.add(sums, e);
    }
    const share = f32x4.splat(1 / sumLanes(sums));
    for (let i = 0; i < K; i += 4) {
      const o = <usize>i << 2;
      storeUpTo4(y + o, f32x4.mul(loadUpTo4(y + o, K - i), share), K - i);
    }
  }
}

// --- tile by tile: targets e^(l - a_k - b_r), l already divided by the temperature ------------------------------------

/**
 * a_k = log sum_r e^(l - b_r), the whole of it: a tile holds all rows. [l, ld, b, a of the tile, sums, rows, width, columnsPerChunk]
 */
export function kTargetPrototypes(p: usize, chunk: i32): void {
  const ld = ptr(p, 1);
  const rows = int(p, 5);
  const per = int(p, 7);
  const j0 = chunk * per;
  const j1 = min(int(p, 6), j0 + per);
  const tops = ptr(p, 3);
  const sums = ptr(p, 4);
  for (let j = j0; j < j1; j += 4) {
    const o = <usize>j << 2;
    storeUpTo4(tops + o, f32x4.splat(-Infinity), j1 - j);
    storeUpTo4(sums + o, f32x4.splat(0), j1 - j);
  }
  for (let r = 0; r < rows; ++r) {
    const l = ptr(p, 0) + <usize>r * ld;
    const b = v128.load32_splat(ptr(p, 2) + (<usize>r << 2));
    for (let j = j0; j < j1; j += 4) {
      const o = <usize>j << 2;
      const left = j1 - j;
      storeUpTo4(tops + o, f32x4.max(loadUpTo4(tops + o, left), f32x4.sub(loadUpTo4(l + o, left), b)), left);
    }
  }
  for (let r = 0; r < rows; ++r) {
    const l = ptr(p, 0) + <usize>r * ld;
    const b = v128.load32_splat(ptr(p, 2) + (<usize>r << 2));
    for (let j = j0; j < j1; j += 4) {
      const o = <usize>j << 2;
      const left = j1 - j;
      const e = exp4(f32x4.sub(f32x4.sub(loadUpTo4(l + o, left), b), loadUpTo4(tops + o, left)));
      storeUpTo4(sums + o, f32x4.add(loadUpTo4(sums + o, left), e), left);
    }
  }
  for (let j = j0; j < j1; ++j) {
    const o = <usize>j << 2;
    store<f32>(tops + o, <f32>(<f64>load<f32>(tops + o) + Math.log(<f64>load<f32>(sums + o))));
  }
}

/** A row's running state over tiles: highest l - a, sum of e^(l - a - highest). */
const ROW_STATE: usize = 8;

/** One tile enters the state of each row. [l, ld, a of the tile, state, rows, width, first, rowsPerChunk] */
export function kTargetSamples(p: usize, chunk: i32): void {
  const width = int(p, 5);
  const per = int(p, 7);
  const a = ptr(p, 2);
  const last = min(int(p, 4), (chunk + 1) * per);
  const nothing = f32x4.splat(-Infinity);
  for (let r = chunk * per; r < last; ++r) {
    const l = ptr(p, 0) + <usize>r * ptr(p, 1);
    const state = ptr(p, 3) + <usize>r * ROW_STATE;
    const first = int(p, 6) != 0;
    const before: f32 = first ? -Infinity : load<f32>(state);
    let top = f32x4.splat(before);
    for (let i = 0; i < width; i += 4) {
      const o = <usize>i << 2;
      const left = width - i;
      const v = f32x4.sub(loadUpTo4(l + o, left), loadUpTo4(a + o, left));
      top = f32x4.max(top, left >= 4 ? v : v128.bitselect(v, nothing, keepUpTo4(i32x4.splat(-1), left)));
    }
    const highest = maxLanes(top);
    const shift = f32x4.splat(highest);
    let sums = f32x4.splat(0);
    for (let i = 0; i < width; i += 4) {
      const o = <usize>i << 2;
      const left = width - i;
      const v = f32x4.sub(loadUpTo4(l + o, left), loadUpTo4(a + o, left));
      sums = f32x4.add(sums, keepUpTo4(exp4(f32x4.sub(v, shift)), left));
    }
    const kept: f32 = first ? 0 : load<f32>(state, 4) * <f32>Math.exp(<f64>before - <f64>highest);
    store<f32>(state, highest);
    store<f32>(state, kept + sumLanes(sums), 4);
  }
}

/** b_r = log of the whole sum of row r, one chunk. [state, b, rows] */
export function kTargetSampleLogs(p: usize, _chunk: i32): void {
  const rows = int(p, 2);
  for (let r = 0; r < rows; ++r) {
    const state = ptr(p, 0) + <usize>r * ROW_STATE;
    store<f32>(ptr(p, 1) + (<usize>r << 2), <f32>(<f64>load<f32>(state) + Math.log(<f64>load<f32>(state, 4))));
  }
}

/** In place: a tile of logits becomes targets. [l, ld, a of the tile, b, rows, width, rowsPerChunk] */
export function kTargets(p: usize, chunk: i32): void {
  const width = int(p, 5);
  const per = int(p, 6);
  const last = min(int(p, 4), (chunk + 1) * per);
  for (let r = chunk * per; r < last; ++r) {
    const l = ptr(p, 0) + <usize>r * ptr(p, 1);
    const b = v128.load32_splat(ptr(p, 3) + (<usize>r << 2));
    for (let i = 0; i < width; i += 4) {
      const o = <usize>i << 2;
      const left = width - i;
      storeUpTo4(l + o, exp4(f32x4.sub(f32x4.sub(loadUpTo4(l + o, left), loadUpTo4(ptr(p, 2) + o, left)), b)), left);
    }
  }
}
