// Row-wise normalisations and their gradients: LayerNorm, L2 normalisation, and the KoLeo term that works on normalised
// rows. Gradients of parameters are summed over fixed groups of rows first, so the result does not depend on threads.
import { madd, loadUpTo4, storeUpTo4, keepUpTo4, sumLanes, dot } from './simd';
import { int, ptr, float } from './pool';

/** [x, y, stats or 0, weight, bias, rows, n, epsilon, rowsPerChunk] stats [rows, 2] = mean, 1 / standard deviation. */
export function kLayerNorm(p: usize, chunk: i32): void {
  const n = int(p, 6);
  const weight = ptr(p, 3);
  const bias = ptr(p, 4);
  const epsilon = float(p, 7);
  const stats = ptr(p, 2);
  const per = int(p, 8);
  const last = min(int(p, 5), (chunk + 1) * per);
  const inverseN: f32 = 1 / <f32>n;
  for (let r = chunk * per; r < last; ++r) {
    const x = ptr(p, 0) + (<usize>r * n << 2);
    const y = ptr(p, 1) + (<usize>r * n << 2);
    let sums = f32x4.splat(0);
    for (let i = 0; i < n; i += 4) sums = f32x4.add(sums, loadUpTo4(x + (<usize>i << 2), n - i));
    const mean = sumLanes(sums) * inverseN;
    const means = f32x4.splat(mean);
    sums = f32x4.splat(0);
    for (let i = 0; i < n; i += 4) {
      const c = keepUpTo4(f32x4.sub(loadUpTo4(x + (<usize>i << 2), n - i), means), n - i);
      sums = madd(c, c, sums);
    }
    const rstd: f32 = 1 / sqrt<f32>(sumLanes(sums) * inverseN + epsilon);
    const rstds = f32x4.splat(rstd);
    for (let i = 0; i < n; i += 4) {
      const o = <usize>i << 2;
      const hat = f32x4.mul(f32x4.sub(loadUpTo4(x + o, n - i), means), rstds);
      storeUpTo4(y + o, madd(hat, loadUpTo4(weight + o, n - i), loadUpTo4(bias + o, n - i)), n - i);
    }
    if (stats) {
      store<f32>(stats + (<usize>r << 3), mean);
      store<f32>(stats + (<usize>r << 3), rstd, 4);
    }
  }
}

/**
 * [x, dy, dx or 0, stats, weight, partials or 0, rows, n, rowsPerChunk, accumulate] partials [chunks, 2, n] receive this
 * chunk's sums of dy * xhat and dy. dx = rstd (g - mean(g) - xhat mean(g xhat)) with g = dy * weight.
 */
export function kLayerNormBackward(p: usize, chunk: i32): void {
  const n = int(p, 7);
  const weight = ptr(p, 4);
  const accumulate = int(p, 9) != 0;
  const per = int(p, 8);
  const last = min(int(p, 6), (chunk + 1) * per);
  const inverseN: f32 = 1 / <f32>n;
  const dWeight = ptr(p, 5) ? ptr(p, 5) + (<usize>chunk * n << 3) : 0;
  const dBias = dWeight + (<usize>n << 2);
  if (dWeight) memory.fill(dWeight, 0, <usize>n << 3);
  for (let r = chunk * per; r < last; ++r) {
    const at = <usize>r * n << 2;
    const x = ptr(p, 0) + at;
    const dy = ptr(p, 1) + at;
    const means = f32x4.splat(load<f32>(ptr(p, 3) + (<usize>r << 3)));
    const rstds = f32x4.splat(load<f32>(ptr(p, 3) + (<usize>r << 3), 4));
    let sumG = f32x4.splat(0);
    let sumGX = f32x4.splat(0);
    for (let i = 0; i < n; i += 4) {
      const o = <usize>i << 2;
      const left = n - i;
      const hat = f32x4.mul(f32x4.sub(loadUpTo4(x + o, left), means), rstds);
      const d = loadUpTo4(dy + o, left);
      const g = f32x4.mul(d, loadUpTo4(weight + o, left));
      sumG = f32x4.add(sumG, g);
      sumGX = madd(g, hat, sumGX);
      if (dWeight) {
        storeUpTo4(dWeight + o, madd(d, hat, loadUpTo4(dWeight + o, left)), left);
        storeUpTo4(dBias + o, f32x4.add(d, loadUpTo4(dBias + o, left)), left);
      }
    }
    if (!ptr(p, 2)) continue;
    const dx = ptr(p, 2) + at;
    const meanG = f32x4.splat(sumLanes(sumG) * inverseN);
    const meanGX = f32x4.splat(-sumLanes(sumGX) * inverseN);
    for (let i = 0; i < n; i += 4) {
      const o = <usize>i << 2;
      const left = n - i;
      const hat = f32x4.mul(f32x4.sub(loadUpTo4(x + o, left), means), rstds);
      const g = f32x4.mul(loadUpTo4(dy + o, left), loadUpTo4(weight + o, left));
      let v = f32x4.mul(madd(hat, meanGX, f32x4.sub(g, meanG)), rstds);
      if (accumulate) v = f32x4.add(v, loadUpTo4(dx + o, left));
      storeUpTo4(dx + o, v, left);
    }
  }
}

/** [x, y, inverses, rows, n, epsilon, rowsPerChunk] y = x / max(||x||, epsilon); inverses [rows]: negative where epsilon ruled. */
export function kL2Normalize(p: usize, chunk: i32): void {
  const n = int(p, 4);
  const epsilon = float(p, 5);
  const per = int(p, 6);
  const last = min(int(p, 3), (chunk + 1) * per);
  for (let r = chunk * per; r < last; ++r) {
    const x = ptr(p, 0) + (<usize>r * n << 2);
    const y = ptr(p, 1) + (<usize>r * n << 2);
    const norm = sqrt<f32>(dot(n, x, x));
    const inverse: f32 = 1 / max(norm, epsilon);
    for (let i = 0; i < n; i += 4) {
      storeUpTo4(y + (<usize>i << 2), f32x4.mul(loadUpTo4(x + (<usize>i << 2), n - i), f32x4.splat(inverse)), n - i);
    }
    store<f32>(ptr(p, 2) + (<usize>r << 2), norm > epsilon ? inverse : -inverse);
  }
}

/** [y, dy, dx, inverses, rows, n, accumulate, rowsPerChunk] dx = (dy - y (y . dy)) / ||x||, or dy / epsilon. */
export function kL2NormalizeBackward(p: usize, chunk: i32): void {
  const n = int(p, 5);
  const accumulate = int(p, 6) != 0;
  const per = int(p, 7);
  const last = min(int(p, 4), (chunk + 1) * per);
  for (let r = chunk * per; r < last; ++r) {
    const at = <usize>r * n << 2;
    const y = ptr(p, 0) + at;
    const dy = ptr(p, 1) + at;
    const dx = ptr(p, 2) + at;
    const inverse = load<f32>(ptr(p, 3) + (<usize>r << 2));
    const along = f32x4.splat(inverse > 0 ? -dot(n, y, dy) : 0);
    const inverses = f32x4.splat(abs(inverse));
    for (let i = 0; i < n; i += 4) {
      const o = <usize>i << 2;
      const left = n - i;
      let v = f32x4.mul(madd(loadUpTo4(y + o, left), along, loadUpTo4(dy + o, left)), inverses);
      if (accumulate) v = f32x4.add(v, loadUpTo4(dx + o, left));
      storeUpTo4(dx + o, v, left);
    }
  }
}

/** [xhat, nearest i32, terms, du, rows, n] one row a chunk: nearest other row by cosine, -log(d + 1e-8), and d term / d difference. */
export function kKoleo(p: usize, i: i32): void {
  const rows = int(p, 4);
  const n = int(p, 5);
  const x = ptr(p, 0);
  const row = x + (<usize>i * n << 2);
  let nearest = -1;
  let best: f32 = 0;
  for (let j = 0; j < rows; ++j) {
    if (j == i) continue;
    const cosine = dot(n, row, x + (<usize>j * n << 2));
    if (nearest < 0 || cosine > best) {
      best = cosine;
      nearest = j;
    }
  }
  const other = x + (<usize>nearest * n << 2);
  const du = ptr(p, 3) + (<usize>i * n << 2);
  for (let e = 0; e < n; e += 4) {
    const o = <usize>e << 2;
    const difference = f32x4.add(f32x4.sub(loadUpTo4(row + o, n - e), loadUpTo4(other + o, n - e)), f32x4.splat(1e-8));
    storeUpTo4(du + o, difference, n - e);
  }
  const d = sqrt<f32>(dot(n, du, du));
  const slope = f32x4.splat(d > 0 ? -1 / ((d + <f32>1e-8) * d) : 0);
  for (let e = 0; e < n; e += 4) {
    const o = <usize>e << 2;
    storeUpTo4(du + o, f32x4.mul(loadUpTo4(du + o, n - e), slope), n - e);
  }
  store<i32>(ptr(p, 1) + (<usize>i << 2), nearest);
  store<f32>(ptr(p, 2) + (<usize>i << 2), <f32>-Math.log(<f64>d + 1e-8));
}

/**
 * [nearest, du, dxhat, rows, n, scale, seed pointer] one row a chunk: its own difference's gradient minus those of the
 * rows whose nearest it is, times scale and the gradient of the loss.
 */
export function kKoleoBackward(p: usize, i: i32): void {
  const rows = int(p, 3);
  const n = int(p, 4);
  const du = ptr(p, 1);
  const to = ptr(p, 2) + (<usize>i * n << 2);
  const scale = f32x4.splat(float(p, 5) * load<f32>(ptr(p, 6)));
  memory.copy(to, du + (<usize>i * n << 2), <usize>n << 2);
  for (let j = 0; j < rows; ++j) {
    if (load<i32>(ptr(p, 0) + (<usize>j << 2)) != i) continue;
    const from = du + (<usize>j * n << 2);
    for (let e = 0; e < n; e += 4) {
      const o = <usize>e << 2;
      storeUpTo4(to + o, f32x4.sub(loadUpTo4(to + o, n - e), loadUpTo4(from + o, n - e)), n - e);
    }
  }
  for (let e = 0; e < n; e += 4) {
    const o = <usize>e << 2;
    storeUpTo4(to + o, f32x4.mul(loadUpTo4(to + o, n - e), scale), n - e);
  }
}
