// Four-lane float32 building blocks: multiply-add, loads and stores of a row's tail, exp, and the normal distribution
// function behind GELU. AssemblyScript, no memory of its own. Everything here is inlined into the kernels.

/** a * b + c: one rounding where the runtime has relaxed SIMD, two where not. Chosen when compiling. */
// @ts-ignore: decorator
@inline
export function madd(a: v128, b: v128, c: v128): v128 {
  if (ASC_FEATURE_RELAXED_SIMD) return f32x4.relaxed_madd(a, b, c);
  return f32x4.add(f32x4.mul(a, b), c);
}

/** The first `left` (at least 1) of four floats; missing lanes are 0. */
// @ts-ignore: decorator
@inline
export function loadUpTo4(p: usize, left: i32): v128 {
  return left >= 4 ? v128.load(p) : loadTail(p, left);
}

function loadTail(p: usize, left: i32): v128 {
  if (left == 1) return v128.load32_zero(p);
  const pair = v128.load64_zero(p);
  return left == 2 ? pair : v128.load32_lane(p, pair, 2, 8);
}

/** Stores the first `left` (at least 1) of four floats. */
// @ts-ignore: decorator
@inline
export function storeUpTo4(p: usize, v: v128, left: i32): void {
  if (left >= 4) v128.store(p, v);
  else storeTail(p, v, left);
}

function storeTail(p: usize, v: v128, left: i32): void {
  if (left == 1) {
    v128.store32_lane(p, v, 0);
    return;
  }
  v128.store64_lane(p, v, 0);
  if (left == 3) v128.store32_lane(p, v, 2, 8);
}

/** Clears the lanes past `left`, so that tails do not enter sums. */
// @ts-ignore: decorator
@inline
export function keepUpTo4(v: v128, left: i32): v128 {
  return left >= 4 ? v : v128.and(v, i32x4.lt_s(i32x4(0, 1, 2, 3), i32x4.splat(left)));
}

// @ts-ignore: decorator
@inline
export function sumLanes(v: v128): f32 {
  const pairs = f32x4.add(v, v128.shuffle<f32>(v, v, 2, 3, 0, 1));
  return f32x4.extract_lane(pairs, 0) + f32x4.extract_lane(pairs, 1);
}

// @ts-ignore: decorator
@inline
export function maxLanes(v: v128): f32 {
  const pairs = f32x4.max(v, v128.shuffle<f32>(v, v, 2, 3, 0, 1));
  return max(f32x4.extract_lane(pairs, 0), f32x4.extract_lane(pairs, 1));
}

/** e^x to about 1e-7 relative (Cephes' expf polynomial); below -87 it ends at the smallest normal number, about 1e-38. */
// @ts-ignore: decorator
@inline
export function exp4(x: v128): v128 {
  x = f32x4.max(f32x4.min(x, f32x4.splat(88.3762626647949)), f32x4.splat(-87.3365447504));
  const n = f32x4.nearest(f32x4.mul(x, f32x4.splat(1.44269504088896341)));
  // x - n ln 2, ln 2 split in two so that the product is exact
  let r = madd(n, f32x4.splat(-0.693359375), x);
  r = madd(n, f32x4.splat(2.12194440e-4), r);
  let p = f32x4.splat(1.9875691500e-4);
  p = madd(p, r, f32x4.splat(1.3981999507e-3));
  p = madd(p, r, f32x4.splat(8.3334519073e-3));
  p = madd(p, r, f32x4.splat(4.1665795894e-2));
  p = madd(p, r, f32x4.splat(1.6666665459e-1));
  p = madd(p, r, f32x4.splat(5.0000001201e-1));
  p = f32x4.add(madd(p, f32x4.mul(r, r), r), f32x4.splat(1));
  // times 2^n by adding n to the exponent
  return i32x4.add(p, i32x4.shl(i32x4.trunc_sat_f32x4_s(n), 23));
}

/** e^(-x^2/2). */
// @ts-ignore: decorator
@inline
export function gauss4(x: v128): v128 {
  return exp4(f32x4.mul(f32x4.mul(x, x), f32x4.splat(-0.5)));
}

/**
 * The standard normal distribution function of x; `gauss` is gauss4(x).
 * erfc(z) e^(z^2) is a polynomial of degree 8 in t = 1 / (1 + 0.43 z), fitted here for the least relative error on
 * [0, 9]: 9e-8.
 */
// @ts-ignore: decorator
@inline
export function normal4(x: v128, gauss: v128): v128 {
  const one = f32x4.splat(1);
  const z = f32x4.mul(f32x4.abs(x), f32x4.splat(0.70710678118654752));
  const t = f32x4.div(one, madd(z, f32x4.splat(0.43), one));
  let q = f32x4.splat(0.0737055316567421);
  q = madd(q, t, f32x4.splat(-0.31036296486854553));
  q = madd(q, t, f32x4.splat(0.38368645310401917));
  q = madd(q, t, f32x4.splat(-0.08570615947246552));
  q = madd(q, t, f32x4.splat(0.24683262407779694));
  q = madd(q, t, f32x4.splat(0.2049553096294403));
  q = madd(q, t, f32x4.splat(0.24437463283538818));
  q = madd(q, t, f32x4.splat(0.24251466989517212));
  const half = f32x4.mul(f32x4.mul(f32x4.mul(q, t), gauss), f32x4.splat(0.5));
  return v128.bitselect(half, f32x4.sub(one, half), f32x4.lt(x, f32x4.splat(0)));
}

/** y += a x over n floats. */
// @ts-ignore: decorator
@inline
export function axpy(n: i32, a: f32, x: usize, y: usize): void {
  const av = f32x4.splat(a);
  for (let i = 0; i < n; i += 4) {
    const o = <usize>i << 2;
    storeUpTo4(y + o, madd(av, loadUpTo4(x + o, n - i), loadUpTo4(y + o, n - i)), n - i);
  }
}

/** Sum of x y over n floats. */
// @ts-ignore: decorator
@inline
export function dot(n: i32, x: usize, y: usize): f32 {
  let sum = f32x4.splat(0);
  for (let i = 0; i < n; i += 4) {
    const o = <usize>i << 2;
    sum = madd(loadUpTo4(x + o, n - i), loadUpTo4(y + o, n - i), sum);
  }
  return sumLanes(sum);
}

/** y = x, or y += x with `accumulate`, over n floats. */
// @ts-ignore: decorator
@inline
export function copyOrAdd(n: i32, x: usize, y: usize, accumulate: bool): void {
  if (!accumulate) {
    memory.copy(y, x, <usize>n << 2);
    return;
  }
  for (let i = 0; i < n; i += 4) {
    const o = <usize>i << 2;
    storeUpTo4(y + o, f32x4.add(loadUpTo4(y + o, n - i), loadUpTo4(x + o, n - i)), n - i);
  }
}
