// Updates over flat parameter buffers, chunk by chunk of a table [offset, length, parameter] that never crosses a
// parameter's end: gradient norms and clipping, AdamW, moving averages.
import { madd, loadUpTo4, storeUpTo4, keepUpTo4 } from './simd';
import { int, ptr, float } from './pool';

const ENTRY: usize = 12;

/** Sum of squares of each chunk, f64. [gradients, table, partials] */
export function kSquares(p: usize, chunk: i32): void {
  const entry = ptr(p, 1) + <usize>chunk * ENTRY;
  const g = ptr(p, 0) + (<usize>load<u32>(entry) << 2);
  const n = load<i32>(entry, 4);
  let low = f64x2.splat(0);
  let high = f64x2.splat(0);
  for (let i = 0; i < n; i += 4) {
    const v = keepUpTo4(loadUpTo4(g + (<usize>i << 2), n - i), n - i);
    const a = f64x2.promote_low_f32x4(v);
    const b = f64x2.promote_low_f32x4(v128.shuffle<f32>(v, v, 2, 3, 0, 1));
    low = f64x2.add(low, f64x2.mul(a, a));
    high = f64x2.add(high, f64x2.mul(b, b));
  }
  const sum = f64x2.add(low, high);
  store<f64>(ptr(p, 2) + (<usize>chunk << 3), f64x2.extract_lane(sum, 0) + f64x2.extract_lane(sum, 1));
}

/**
 * Norms of the parts and what their gradients are multiplied by; one chunk.
 * [partials, table, parts i32 by parameter, chunks, partCount, norms, factors, gradientScale, maxNorm, sums f64]
 */
export function kNorms(p: usize, _chunk: i32): void {
  const count = int(p, 4);
  const sums = ptr(p, 9);
  memory.fill(sums, 0, <usize>count << 3);
  const chunks = int(p, 3);
  for (let c = 0; c < chunks; ++c) {
    const parameter = load<u32>(ptr(p, 1) + <usize>c * ENTRY, 8);
    const at = sums + (<usize>load<u32>(ptr(p, 2) + (<usize>parameter << 2)) << 3);
    store<f64>(at, load<f64>(at) + load<f64>(ptr(p, 0) + (<usize>c << 3)));
  }
  const scale = load<f64>(p + 56);
  const most = load<f64>(p + 64);
  for (let i = 0; i < count; ++i) {
    const norm = sqrt<f64>(load<f64>(sums + (<usize>i << 3))) * scale;
    // As torch.nn.utils.clip_grad_norm_: the denominator is kept away from 0.
    const clip = most > 0 ? most / (norm + 1e-6) : 1;
    store<f32>(ptr(p, 5) + (<usize>i << 2), <f32>norm);
    // Written so that a norm that is not a number leaves a factor that is not one: it must show, not pass.
    store<f32>(ptr(p, 6) + (<usize>i << 2), <f32>(clip >= 1 ? scale : scale * clip));
  }
}

/** [gradients, table, parts, factors] */
export function kClip(p: usize, chunk: i32): void {
  const entry = ptr(p, 1) + <usize>chunk * ENTRY;
  const part = load<u32>(ptr(p, 2) + (<usize>load<u32>(entry, 8) << 2));
  const factor = load<f32>(ptr(p, 3) + (<usize>part << 2));
  if (factor == 1) return;
  const factors = f32x4.splat(factor);
  const g = ptr(p, 0) + (<usize>load<u32>(entry) << 2);
  const n = load<i32>(entry, 4);
  for (let i = 0; i < n; i += 4) {
    const o = <usize>i << 2;
    storeUpTo4(g + o, f32x4.mul(loadUpTo4(g + o, n - i), factors), n - i);
  }
}

/**
 * m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2; p = p (1 - lr wd) - lr (m / c1) / (sqrt(v / c2) + epsilon), c = 1 - b^t.
 * [parameters, gradients, m, v, table, learningRates, weightDecays, beta1, beta2, epsilon, c1, c2]
 */
export function kAdamW(p: usize, chunk: i32): void {
  const entry = ptr(p, 4) + <usize>chunk * ENTRY;
  const at = <usize>load<u32>(entry) << 2;
  const n = load<i32>(entry, 4);
  const index = <usize>load<u32>(entry, 8) << 2;
  const lr = <f64>load<f32>(ptr(p, 5) + index);
  const beta1 = load<f64>(p + 56);
  const beta2 = load<f64>(p + 64);
  const keep = f32x4.splat(<f32>(1 - lr * <f64>load<f32>(ptr(p, 6) + index)));
  const b1 = f32x4.splat(<f32>beta1);
  const a1 = f32x4.splat(<f32>(1 - beta1));
  const b2 = f32x4.splat(<f32>beta2);
  const a2 = f32x4.splat(<f32>(1 - beta2));
  const epsilon = f32x4.splat(float(p, 9));
  const step = f32x4.splat(<f32>(-lr / load<f64>(p + 80)));
  const root = f32x4.splat(<f32>(1 / sqrt<f64>(load<f64>(p + 88))));
  const w = ptr(p, 0) + at;
  const g = ptr(p, 1) + at;
  const m = ptr(p, 2) + at;
  const v = ptr(p, 3) + at;
  for (let i = 0; i < n; i += 4) {
    const o = <usize>i << 2;
    const left = n - i;
    const grad = loadUpTo4(g + o, left);
    const first = madd(b1, loadUpTo4(m + o, left), f32x4.mul(a1, grad));
    const second = madd(b2, loadUpTo4(v + o, left), f32x4.mul(f32x4.mul(a2, grad), grad));
    const ratio = f32x4.div(first, madd(f32x4.sqrt(second), root, epsilon));
    storeUpTo4(m + o, first, left);
    storeUpTo4(v + o, second, left);
    storeUpTo4(w + o, madd(step, ratio, f32x4.mul(loadUpTo4(w + o, left), keep)), left);
  }
}

/** y = momentum y + (1 - momentum) x. [y, x, table, momentum] */
export function kMovingAverage(p: usize, chunk: i32): void {
  const entry = ptr(p, 2) + <usize>chunk * ENTRY;
  const at = <usize>load<u32>(entry) << 2;
  const n = load<i32>(entry, 4);
  const momentum = load<f64>(p + 24);
  const take = f32x4.splat(<f32>(1 - momentum));
  const y = ptr(p, 0) + at;
  const x = ptr(p, 1) + at;
  for (let i = 0; i < n; i += 4) {
    const o = <usize>i << 2;
    const mean = loadUpTo4(y + o, n - i);
    // Written as a step towards the student: where both are equal the step is 0 and nothing is rounded.
    storeUpTo4(y + o, madd(take, f32x4.sub(loadUpTo4(x + o, n - i), mean), mean), n - i);
  }
}
