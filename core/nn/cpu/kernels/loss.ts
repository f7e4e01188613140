// Targets and losses over prototypes: weight-normed scales, softmax cross-entropy tile by tile, Sinkhorn-Knopp and
// centred softmax. Logits [rows, K] are the big operand: every kernel passes over them once.
import { madd, exp4, loadUpTo4, storeUpTo4, keepUpTo4, maxLanes, sumLanes, dot } from './simd';
import { int, ptr, float } from './pool';

/** [v, g, scales, K, n, temperature, perChunk] scales[k] = g_k / (||v_k|| temperature). */
export function kPrototypeScales(p: usize, chunk: i32): void {
  const n = int(p, 4);
  const per = int(p, 6);
  const last = min(int(p, 3), (chunk + 1) * per);
  for (let k = chunk * per; k < last; ++k) {
    const v = ptr(p, 0) + (<usize>k * n << 2);
    const o = <usize>k << 2;
    store<f32>(ptr(p, 2) + o, load<f32>(ptr(p, 1) + o) / (sqrt<f32>(dot(n, v, v)) * float(p, 5)));
  }
}

/** A row's running state over tiles of K: highest logit, sum of e^(l - highest), sum of q l, sum of q. */
const STATE: usize = 16;

/**
 * One tile of logits l (already divided by the temperature) enters the state of each row; q is the sum of the row's
 * targets. [logits, ld, targets, K, k0, width, targetRows i32, m, state, rows, first, rowsPerChunk]
 */
export function kCrossEntropy(p: usize, chunk: i32): void {
  const ld = ptr(p, 1);
  const K = <usize>int(p, 3) << 2;
  const width = int(p, 5);
  const m = int(p, 7);
  const per = int(p, 11);
  const last = min(int(p, 9), (chunk + 1) * per);
  for (let r = chunk * per; r < last; ++r) {
    const l = ptr(p, 0) + <usize>r * ld;
    const state = ptr(p, 8) + <usize>r * STATE;
    const first = int(p, 10) != 0;
    const before: f32 = first ? -Infinity : load<f32>(state);
    let top = f32x4.splat(before);
    for (let i = 0; i < width; i += 4) {
      const left = width - i;
      // A tail repeats the first logit: no effect on the maximum.
      const v = left >= 4 ? v128.load(l + (<usize>i << 2)) : v128.bitselect(loadUpTo4(l + (<usize>i << 2), left), v128.load32_splat(l), keepUpTo4(i32x4.splat(-1), left));
      top = f32x4.pmax(top, v);
    }
    const highest = maxLanes(top);
    const shift = f32x4.splat(-highest);
    let sums = f32x4.splat(0);
    for (let i = 0; i < width; i += 4) {
      const left = width - i;
      sums = f32x4.add(sums, keepUpTo4(exp4(f32x4.add(loadUpTo4(l + (<usize>i << 2), left), shift)), left));
    }
    let along = f32x4.splat(0);
    let weights = f32x4.splat(0);
    for (let t = 0; t < m; ++t) {
      const q = ptr(p, 2) + <usize>load<u32>(ptr(p, 6) + (<usize>(r * m + t) << 2)) * K + (<usize>int(p, 4) << 2);
      for (let i = 0; i < width; i += 4) {
        const o = <usize>i << 2;
        const left = width - i;
        const target = loadUpTo4(q + o, left);
        along = madd(target, loadUpTo4(l + o, left), along);
        weights = f32x4.add(weights, target);
      }
    }
    const kept: f32 = first ? 0 : load<f32>(state, 4) * <f32>Math.exp(<f64>before - <f64>highest);
    store<f32>(state, highest);
    store<f32>(state, kept + sumLanes(sums), 4);
    store<f32>(state, (first ? 0 : load<f32>(state, 8)) + sumLanes(along), 8);
    store<f32>(state, (first ? 0 : load<f32>(state, 12)) + sumLanes(weights), 12);
  }
}

/** loss = sum over rows of weight * (log-sum-exp * sum q - sum q l), one chunk. [state, rowWeights f32, rows, loss] */
export function kCrossEntropySum(p: usize, _chunk: i32): void {
  let sum: f64 = 0;
  const rows = int(p, 2);
  for (let r = 0; r < rows; ++r) {
    const state = ptr(p, 0) + <usize>r * STATE;
    const lse = <f64>load<f32>(state) + Math.log(<f64>load<f32>(state, 4));
    sum += <f64>load<f32>(ptr(p, 1) + (<usize>r << 2)) * (lse * <f64>load<f32>(state, 12) - <f64>load<f32>(state, 8));
  }
  store<f32>(ptr(p, 3), <f32>sum);
}

/**
 * In place of a tile of logits: seed * weight_r * (softmax * sum q - q) * scales[k], the gradient by row . v_k.
 * [logits, ld, targets, K, k0, width, targetRows, m, state, rows, rowWeights, seed pointer, scales, rowsPerChunk]
 */
export function kCrossEntropyBackward(p: usize, chunk: i32): void {
  const ld = ptr(p, 1);
  const K = <usize>int(p, 3) << 2;
  const k0 = <usize>int(p, 4) << 2;
  const width = int(p, 5);
  const m = int(p, 7);
  const seed = load<f32>(ptr(p, 11));
  const scales = ptr(p, 12) + k0;
  const per = int(p, 13);
  const last = min(int(p, 9), (chunk + 1) * per);
  for (let r = chunk * per; r < last; ++r) {
    const l = ptr(p, 0) + <usize>r * ld;
    const state = ptr(p, 8) + <usize>r * STATE;
    const weight = f32x4.splat(seed * load<f32>(ptr(p, 10) + (<usize>r << 2)));
    const shift = f32x4.splat(-load<f32>(state));
    const share = f32x4.splat(load<f32>(state, 12) / load<f32>(state, 4));
    const rowsOf = ptr(p, 6) + (<usize>(r * m) << 2);
    const q0 = ptr(p, 2) + <usize>load<u32>(rowsOf) * K + k0;
    for (let i = 0; i < width; i += 4) {
      const o = <usize>i << 2;
      const left = width - i;
      let q = loadUpTo4(q0 + o, left);
      for (let t = 1; t < m; ++t) q = f32x4.add(q, loadUpTo4(ptr(p, 2) + <usize>load<u32>(rowsOf + (<usize>t << 2)) * K + k0 + o, left));
      const d = f32x4.sub(f32x4.mul(exp4(f32x4.add(loadUpTo4(l + o, left), shift)), share), q);
      storeUpTo4(l + o, f32x4.mul(f32x4.mul(d, weight), loadUpTo4(scales + o, left)), left);
    }
  }
}

/**
 * From h_k = sum over rows of (gradient by row . v_k) row: dv_k (+)= h_k - u (u . h_k) with u = v_k / ||v_k||, and
 * dg_k (+)= (v_k . h_k) / g_k. [h, v, g, dv or 0, dg or 0, count, n, accumulateV, accumulateG, perChunk]
 */
export function kPrototypeBackward(p: usize, chunk: i32): void {
  const n = int(p, 6);
  const per = int(p, 9);
  const last = min(int(p, 5), (chunk + 1) * per);
  for (let k = chunk * per; k < last; ++k) {
    const at = <usize>k * n << 2;
    const h = ptr(p, 0) + at;
    const v = ptr(p, 1) + at;
    const along = dot(n, v, h);
    if (ptr(p, 3)) {
      const dv = ptr(p, 3) + at;
      const back = f32x4.splat(-along / dot(n, v, v));
      for (let i = 0; i < n; i += 4) {
        const o = <usize>i << 2;
        const left = n - i;
        let d = madd(loadUpTo4(v + o, left), back, loadUpTo4(h + o, left));
        if (int(p, 7)) d = f32x4.add(d, loadUpTo4(dv + o, left));
        storeUpTo4(dv + o, d, left);
      }
    }
    if (ptr(p, 4)) {
      const o = <usize>k << 2;
      const g = load<f32>(ptr(p, 2) + o);
      const d: f32 = g == 0 ? 0 : along / g;
      store<f32>(ptr(p, 4) + o, int(p, 8) ? load<f32>(ptr(p, 4) + o) + d : d);
    }
  }
}

// --- teacher targets ------------------------------------------------------------------------------------------------

/** y = e^((l - max of the row) / temperature), maxima [rows]. [logits, y, maxima, rows, K, temperature, rowsPerChunk] */
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

/** y = softmax((l - center) / temperature). [logits, center, y, rows, K, temperature, rowsPerChunk] */
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
