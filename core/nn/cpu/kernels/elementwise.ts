// Element-wise work, copies and sums over rows: residuals, gathers and their inverses, GELU and SwiGLU gradients,
// bias gradients. Chunks are groups of rows or ranges of columns.
import { madd, exp4, loadUpTo4, storeUpTo4, copyOrAdd } from './simd';
import { int, ptr, float } from './pool';

/** [dst, value f32, count, perChunk] */
export function kFill(p: usize, chunk: i32): void {
  const per = int(p, 3);
  const from = chunk * per;
  const last = min(int(p, 2), from + per);
  const v = f32x4.splat(float(p, 1));
  for (let i = from; i < last; i += 4) storeUpTo4(ptr(p, 0) + (<usize>i << 2), v, last - i);
}

/** dst[i] (+)= src[i]. [dst, src, count, perChunk, accumulate] */
export function kCopy(p: usize, chunk: i32): void {
  const per = int(p, 3);
  const from = chunk * per;
  const n = min(int(p, 2) - from, per);
  copyOrAdd(n, ptr(p, 1) + (<usize>from << 2), ptr(p, 0) + (<usize>from << 2), int(p, 4) != 0);
}

/** Rows of n floats between two strides (bytes). [dst, dstStride, src, srcStride, rows, n, accumulate, rowsPerChunk] */
export function kCopyRows(p: usize, chunk: i32): void {
  const n = int(p, 5);
  const per = int(p, 7);
  const last = min(int(p, 4), (chunk + 1) * per);
  for (let r = chunk * per; r < last; ++r) {
    copyOrAdd(n, ptr(p, 2) + <usize>r * ptr(p, 3), ptr(p, 0) + <usize>r * ptr(p, 1), int(p, 6) != 0);
  }
}

/** dst row r = src row index[r]. [dst, src, index i32, rows, n, rowsPerChunk] */
export function kGather(p: usize, chunk: i32): void {
  const n = <usize>int(p, 4) << 2;
  const per = int(p, 5);
  const last = min(int(p, 3), (chunk + 1) * per);
  for (let r = chunk * per; r < last; ++r) {
    memory.copy(ptr(p, 0) + <usize>r * n, ptr(p, 1) + <usize>load<u32>(ptr(p, 2) + (<usize>r << 2)) * n, n);
  }
}

/**
 * The inverse of a gather as sums: dst row rows[i] += src rows sources[starts[i] .. starts[i+1]-1].
 * [dst, src, rows i32, starts i32, sources i32, count, n, perChunk]
 */
export function kScatterAdd(p: usize, chunk: i32): void {
  const n = int(p, 6);
  const per = int(p, 7);
  const bytes = <usize>n << 2;
  const last = min(int(p, 5), (chunk + 1) * per);
  for (let i = chunk * per; i < last; ++i) {
    const to = ptr(p, 0) + <usize>load<u32>(ptr(p, 2) + (<usize>i << 2)) * bytes;
    const end = load<u32>(ptr(p, 3) + (<usize>i << 2), 4);
    for (let s = load<u32>(ptr(p, 3) + (<usize>i << 2)); s < end; ++s) {
      copyOrAdd(n, ptr(p, 1) + <usize>load<u32>(ptr(p, 4) + (<usize>s << 2)) * bytes, to, true);
    }
  }
}

/**
 * y = x + scale gamma * branch over rows of n; the caller has y = x where a sample has no branch.
 * [y, x, branch, gamma, scale, samples i32 or 0, T, n, rows, rowsPerChunk] branch row r belongs to sample samples[r / T].
 */
export function kResidual(p: usize, chunk: i32): void {
  const n = int(p, 7);
  const T = int(p, 6);
  const gamma = ptr(p, 3);
  const scale = f32x4.splat(float(p, 4));
  const samples = ptr(p, 5);
  const per = int(p, 9);
  const last = min(int(p, 8), (chunk + 1) * per);
  for (let r = chunk * per; r < last; ++r) {
    const row = samples ? <i32>load<u32>(samples + (<usize>(r / T) << 2)) * T + (r % T) : r;
    const x = ptr(p, 1) + (<usize>row * n << 2);
    const y = ptr(p, 0) + (<usize>row * n << 2);
    const branch = ptr(p, 2) + (<usize>r * n << 2);
    for (let i = 0; i < n; i += 4) {
      const o = <usize>i << 2;
      const left = n - i;
      const g = f32x4.mul(loadUpTo4(gamma + o, left), scale);
      storeUpTo4(y + o, madd(g, loadUpTo4(branch + o, left), loadUpTo4(x + o, left)), left);
    }
  }
}

/**
 * dBranch (+)= scale gamma * dy, and this chunk's sum of scale dy * branch.
 * [dy, branch, gamma, scale, samples or 0, T, n, rows, rowsPerChunk, dBranch or 0, accumulate, partials [chunks, n] or 0]
 */
export function kResidualBackward(p: usize, chunk: i32): void {
  const n = int(p, 6);
  const T = int(p, 5);
  const gamma = ptr(p, 2);
  const scale = f32x4.splat(float(p, 3));
  const samples = ptr(p, 4);
  const per = int(p, 8);
  const accumulate = int(p, 10) != 0;
  const last = min(int(p, 7), (chunk + 1) * per);
  const dGamma = ptr(p, 11) ? ptr(p, 11) + (<usize>chunk * n << 2) : 0;
  if (dGamma) memory.fill(dGamma, 0, <usize>n << 2);
  for (let r = chunk * per; r < last; ++r) {
    const row = samples ? <i32>load<u32>(samples + (<usize>(r / T) << 2)) * T + (r % T) : r;
    const dy = ptr(p, 0) + (<usize>row * n << 2);
    const branch = ptr(p, 1) + (<usize>r * n << 2);
    const dBranch = ptr(p, 9) ? ptr(p, 9) + (<usize>r * n << 2) : 0;
    for (let i = 0; i < n; i += 4) {
      const o = <usize>i << 2;
      const left = n - i;
      const d = f32x4.mul(loadUpTo4(dy + o, left), scale);
      if (dGamma) storeUpTo4(dGamma + o, madd(d, loadUpTo4(branch + o, left), loadUpTo4(dGamma + o, left)), left);
      if (dBranch) {
        let v = f32x4.mul(d, loadUpTo4(gamma + o, left));
        if (accumulate) v = f32x4.add(v, loadUpTo4(dBranch + o, left));
        storeUpTo4(dBranch + o, v, left);
      }
    }
  }
}

/**
 * What a linear layer's backward does with dy before the products: dy *= slope (GELU's derivative, or 0 for none), and
 * this chunk's sum over its rows. [dy, slope or 0, rows, n, rowsPerChunk, partials [chunks, n] or 0]
 */
export function kBiasBackward(p: usize, chunk: i32): void {
  const n = int(p, 3);
  const per = int(p, 4);
  const last = min(int(p, 2), (chunk + 1) * per);
  const slope = ptr(p, 1);
  const sums = ptr(p, 5) ? ptr(p, 5) + (<usize>chunk * n << 2) : 0;
  if (sums) memory.fill(sums, 0, <usize>n << 2);
  for (let r = chunk * per; r < last; ++r) {
    const at = <usize>r * n << 2;
    const dy = ptr(p, 0) + at;
    for (let i = 0; i < n; i += 4) {
      const o = <usize>i << 2;
      const left = n - i;
      let d = loadUpTo4(dy + o, left);
      if (slope) {
        d = f32x4.mul(d, loadUpTo4(slope + at + o, left));
        storeUpTo4(dy + o, d, left);
      }
      if (sums) storeUpTo4(sums + o, f32x4.add(d, loadUpTo4(sums + o, left)), left);
    }
  }
}

/** dst[column] (+)= scale times the sum of src rows, in order. [dst, src, stride, rows, n, accumulate, scale, columnsPerChunk] */
export function kSumRows(p: usize, chunk: i32): void {
  const per = int(p, 7);
  const j0 = chunk * per;
  const j1 = min(int(p, 4), j0 + per);
  const rows = int(p, 3);
  const stride = ptr(p, 2);
  const scale = f32x4.splat(float(p, 6));
  for (let j = j0; j < j1; j += 4) {
    const left = j1 - j;
    let src = ptr(p, 1) + (<usize>j << 2);
    let sum = f32x4.splat(0);
    for (let r = 0; r < rows; ++r) {
      sum = f32x4.add(sum, loadUpTo4(src, left));
      src += stride;
    }
    const dst = ptr(p, 0) + (<usize>j << 2);
    sum = f32x4.mul(sum, scale);
    if (int(p, 5)) sum = f32x4.add(sum, loadUpTo4(dst, left));
    storeUpTo4(dst, sum, left);
  }
}

// @ts-ignore: decorator
@inline
function sigmoid4(x: v128): v128 {
  return f32x4.div(f32x4.splat(1), f32x4.add(f32x4.splat(1), exp4(f32x4.neg(x))));
}

/** [x, y, rows, H, rowsPerChunk] y = silu(x[:H]) * x[H:]. */
export function kSwiglu(p: usize, chunk: i32): void {
  const n = int(p, 3);
  const per = int(p, 4);
  const last = min(int(p, 2), (chunk + 1) * per);
  for (let r = chunk * per; r < last; ++r) {
    const a = ptr(p, 0) + (<usize>r * n << 3);
    const b = a + (<usize>n << 2);
    const y = ptr(p, 1) + (<usize>r * n << 2);
    for (let i = 0; i < n; i += 4) {
      const o = <usize>i << 2;
      const x = loadUpTo4(a + o, n - i);
      storeUpTo4(y + o, f32x4.mul(f32x4.mul(x, sigmoid4(x)), loadUpTo4(b + o, n - i)), n - i);
    }
  }
}

/** [x, dy, dx, rows, H, accumulate, rowsPerChunk] */
export function kSwigluBackward(p: usize, chunk: i32): void {
  const n = int(p, 4);
  const accumulate = int(p, 5) != 0;
  const per = int(p, 6);
  const last = min(int(p, 3), (chunk + 1) * per);
  const one = f32x4.splat(1);
  for (let r = chunk * per; r < last; ++r) {
    const a = ptr(p, 0) + (<usize>r * n << 3);
    const b = a + (<usize>n << 2);
    const dy = ptr(p, 1) + (<usize>r * n << 2);
    const da = ptr(p, 2) + (<usize>r * n << 3);
    const db = da + (<usize>n << 2);
    for (let i = 0; i < n; i += 4) {
      const o = <usize>i << 2;
      const left = n - i;
      const x = loadUpTo4(a + o, left);
      const s = sigmoid4(x);
      const d = loadUpTo4(dy + o, left);
      // d silu / dx = s (1 + x (1 - s))
      let u = f32x4.mul(f32x4.mul(d, loadUpTo4(b + o, left)), f32x4.mul(s, madd(x, f32x4.sub(one, s), one)));
      let v = f32x4.mul(d, f32x4.mul(x, s));
      if (accumulate) {
        u = f32x4.add(u, loadUpTo4(da + o, left));
        v = f32x4.add(v, loadUpTo4(db + o, left));
      }
      storeUpTo4(da + o, u, left);
      storeUpTo4(db + o, v, left);
    }
  }
}

/** dst (+)= sum_i weights[i] * terms[i], scalars, all in one chunk. [dst, terms (addresses u32), weights f32, count] */
export function kWeightedSum(p: usize, _chunk: i32): void {
  let sum: f64 = 0;
  const count = int(p, 3);
  for (let i = 0; i < count; ++i) {
    const o = <usize>i << 2;
    sum += <f64>load<f32>(ptr(p, 2) + o) * <f64>load<f32>(<usize>load<u32>(ptr(p, 1) + o));
  }
  store<f32>(ptr(p, 0), <f32>sum);
}

/** dst (+)= scale * src[0], a scalar. [dst, src, scale, accumulate] */
export function kScaleScalar(p: usize, _chunk: i32): void {
  const v = float(p, 2) * load<f32>(ptr(p, 1));
  store<f32>(ptr(p, 0), int(p, 3) ? load<f32>(ptr(p, 0)) + v : v);
}

/** dst = scale * sum of src in f64, one chunk. [dst, src, count, scale] */
export function kSumAll(p: usize, _chunk: i32): void {
  let sum: f64 = 0;
  const count = int(p, 2);
  for (let i = 0; i < count; ++i) sum += <f64>load<f32>(ptr(p, 1) + (<usize>i << 2));
  store<f32>(ptr(p, 0), <f32>(sum * load<f64>(p + 24)));
}
