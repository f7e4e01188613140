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

/**
 * The numbers of exp4, gauss4 and normal4. In memory rather than in the code: V8 builds a four-lane constant anew each
 * time it is met, at several instructions; a splatting load is one.
 */
const numbers: usize = memory.data<f32>([
  88.3762626647949, -87.3365447504, // 0, 4: largest and smallest exponent
  1.44269504088896341, // 8: 1 / ln 2
  -0.693359375, 2.12194440e-4, // 12, 16: -ln 2, in two parts so that n times the first is exact
  1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1, // 20 .. 40: Cephes' expf
  1, -0.5, 0.5, // 44, 48, 52
  0.70710678118654752, 0.43, // 56, 60: sqrt(1/2); t = 1 / (1 + 0.43 z)
  0.0737055316567421, -0.31036296486854553, 0.38368645310401917, -0.08570615947246552, // 64 .. 76: erfc, see normal4
  0.24683262407779694, 0.2049553096294403, 0.24437463283538818, 0.24251466989517212, // 80 .. 92
]);

/** Lanes that hold whole numbers as i32; a lane that is not a number gives 0 or -2^31, which exp4 shifts out: it stays none. */
// @ts-ignore: decorator
@inline
function toInteger4(x: v128): v128 {
  if (ASC_FEATURE_RELAXED_SIMD) return i32x4.relaxed_trunc_f32x4_s(x);
  return i32x4.trunc_sat_f32x4_s(x);
}

/** e^x to about 1e-7 relative; below -87 it ends at the smallest normal number, about 1e-38. */
// @ts-ignore: decorator
@inline
export function exp4(x: v128): v128 {
  // pmin and pmax are one instruction each, and leave an x that is not a number as it is.
  x = f32x4.pmax(f32x4.pmin(x, v128.load32_splat(numbers)), v128.load32_splat(numbers, 4));
  const n = f32x4.nearest(f32x4.mul(x, v128.load32_splat(numbers, 8)));
  let r = madd(n, v128.load32_splat(numbers, 12), x);
  r = madd(n, v128.load32_splat(numbers, 16), r);
  let p = madd(v128.load32_splat(numbers, 20), r, v128.load32_splat(numbers, 24));
  p = madd(p, r, v128.load32_splat(numbers, 28));
  p = madd(p, r, v128.load32_splat(numbers, 32));
  p = madd(p, r, v128.load32_splat(numbers, 36));
  p = madd(p, r, v128.load32_splat(numbers, 40));
  p = f32x4.add(madd(p, f32x4.mul(r, r), r), v128.load32_splat(numbers, 44));
  // times 2^n by adding n to the exponent
  return i32x4.add(p, i32x4.shl(toInteger4(n), 23));
}

/** e^(-x^2/2). */
// @ts-ignore: decorator
@inline
export function gauss4(x: v128): v128 {
  return exp4(f32x4.mul(f32x4.mul(x, x), v128.load32_splat(numbers, 48)));
}

/**
 * The standard normal distribution function of x; `gauss` is gauss4(x).
 * erfc(z) e^(z^2) is a polynomial of degree 8 in t = 1 / (1 + 0.43 z), fitted here for the least relative error on
 * [0, 9]: 9e-8.
 */
// @ts-ignore: decorator
@inline
export function normal4(x: v128, gauss: v128): v128 {
  const one = v128.load32_splat(numbers, 44);
  const z = f32x4.mul(f32x4.abs(x), v128.load32_splat(numbers, 56));
  const t = f32x4.div(one, madd(z, v128.load32_splat(numbers, 60), one));
  let q = madd(v128.load32_splat(numbers, 64), t, v128.load32_splat(numbers, 68));
  q = madd(q, t, v128.load32_splat(numbers, 72));
  q = madd(q, t, v128.load32_splat(numbers, 76));
  q = madd(q, t, v128.load32_splat(numbers, 80));
  q = madd(q, t, v128.load32_splat(numbers, 84));
  q = madd(q, t, v128.load32_splat(numbers, 88));
  q = madd(q, t, v128.load32_splat(numbers, 92));
  const half = f32x4.mul(f32x4.mul(f32x4.mul(q, t), gauss), v128.load32_splat(numbers, 52));
  const negative = f32x4.lt(x, f32x4.splat(0));
  if (ASC_FEATURE_RELAXED_SIMD) return i32x4.relaxed_laneselect(half, f32x4.sub(one, half), negative);
  return v128.bitselect(half, f32x4.sub(one, half), negative);
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
