// From images to tokens: patches as rows, the mask token, resized position tables, and the assembled sequence.
import { madd, loadUpTo4, storeUpTo4, copyOrAdd } from './simd';
import { int, ptr } from './pool';

/** [images, dst, height, width, p, rows, rowsPerChunk] images [N,3,H,W] -> dst [N (H/p) (W/p), 3 p p], one row a patch. */
export function kPatches(p: usize, chunk: i32): void {
  const height = int(p, 2);
  const width = int(p, 3);
  const size = int(p, 4);
  const down = height / size;
  const across = width / size;
  const per = int(p, 6);
  const last = min(int(p, 5), (chunk + 1) * per);
  const line = <usize>size << 2;
  for (let r = chunk * per; r < last; ++r) {
    const sample = r / (down * across);
    const y = (r / across) % down;
    const x = r % across;
    let to = ptr(p, 1) + <usize>r * 3 * size * line;
    for (let channel = 0; channel < 3; ++channel) {
      let from = ptr(p, 0) + ((<usize>(sample * 3 + channel) * height + <usize>y * size) * width + <usize>x * size) * 4;
      for (let i = 0; i < size; ++i) {
        memory.copy(to, from, line);
        to += line;
        from += <usize>width << 2;
      }
    }
  }
}

/** [x, mask u8, token, y, rows, n, rowsPerChunk] */
export function kMaskPatches(p: usize, chunk: i32): void {
  const bytes = <usize>int(p, 5) << 2;
  const per = int(p, 6);
  const last = min(int(p, 4), (chunk + 1) * per);
  for (let r = chunk * per; r < last; ++r) {
    const masked = load<u8>(ptr(p, 1) + r) != 0;
    memory.copy(ptr(p, 3) + <usize>r * bytes, masked ? ptr(p, 2) : ptr(p, 0) + <usize>r * bytes, bytes);
  }
}

/** [dy, mask u8, dx or 0, accumulate, rows, n, rowsPerChunk, partials [chunks, n] or 0] */
export function kMaskPatchesBackward(p: usize, chunk: i32): void {
  const n = int(p, 5);
  const bytes = <usize>n << 2;
  const accumulate = int(p, 3) != 0;
  const per = int(p, 6);
  const last = min(int(p, 4), (chunk + 1) * per);
  const sums = ptr(p, 7) ? ptr(p, 7) + <usize>chunk * bytes : 0;
  if (sums) memory.fill(sums, 0, bytes);
  for (let r = chunk * per; r < last; ++r) {
    const dy = ptr(p, 0) + <usize>r * bytes;
    const dx = ptr(p, 2) ? ptr(p, 2) + <usize>r * bytes : 0;
    if (load<u8>(ptr(p, 1) + r)) {
      if (sums) copyOrAdd(n, dy, sums, true);
      if (dx && !accumulate) memory.fill(dx, 0, bytes);
    } else if (dx) copyOrAdd(n, dy, dx, accumulate);
  }
}

/**
 * out[y,x] (+)= sum over i, j of rows[y,i] columns[x,j] table[i,j]; the gradient is the same with transposed weights.
 * [table, out, rows f32 [h,m], columns f32 [w,k], h, w, m, k, n, accumulate] chunk = cell of out.
 */
export function kResizePositions(p: usize, chunk: i32): void {
  const w = int(p, 5);
  const m = int(p, 6);
  const k = int(p, 7);
  const n = int(p, 8);
  const rows = ptr(p, 2) + <usize>(chunk / w) * m * 4;
  const columns = ptr(p, 3) + <usize>(chunk % w) * k * 4;
  const out = ptr(p, 1) + <usize>chunk * n * 4;
  if (!int(p, 9)) memory.fill(out, 0, <usize>n << 2);
  for (let i = 0; i < m; ++i) {
    const a = load<f32>(rows + (<usize>i << 2));
    if (a == 0) continue;
    for (let j = 0; j < k; ++j) {
      const b = load<f32>(columns + (<usize>j << 2));
      if (b == 0) continue;
      const weight = f32x4.splat(a * b);
      const from = ptr(p, 0) + <usize>(i * k + j) * n * 4;
      for (let e = 0; e < n; e += 4) {
        const o = <usize>e << 2;
        storeUpTo4(out + o, madd(weight, loadUpTo4(from + o, n - e), loadUpTo4(out + o, n - e)), n - e);
      }
    }
  }
}

/** [patches, cls, positions, registers or 0, y, registerCount, patchCount, n] chunk = sample; y [N, 1 + R + P, n]. */
export function kAssembleTokens(p: usize, sample: i32): void {
  const R = int(p, 5);
  const P = int(p, 6);
  const n = int(p, 7);
  const bytes = <usize>n << 2;
  const positions = ptr(p, 2);
  let y = ptr(p, 4) + <usize>sample * (1 + R + P) * bytes;
  addTo(y, ptr(p, 1), positions, n);
  y += bytes;
  if (R) memory.copy(y, ptr(p, 3), <usize>R * bytes);
  addTo(y + <usize>R * bytes, ptr(p, 0) + <usize>sample * P * bytes, positions + bytes, n * P);
}

// @ts-ignore: decorator
@inline
function addTo(y: usize, a: usize, b: usize, n: i32): void {
  for (let i = 0; i < n; i += 4) {
    const o = <usize>i << 2;
    storeUpTo4(y + o, f32x4.add(loadUpTo4(a + o, n - i), loadUpTo4(b + o, n - i)), n - i);
  }
}
