// The loss over prototypes: weight-normed scales, softmax cross-entropy tile by tile. Logits [rows, K] are the big operand:
// every kernel passes over them once.
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
