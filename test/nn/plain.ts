/**
 * The operations of a training step as plain loops in float64, forward only: what the executors are compared with.
 * Written from the definitions (ops.ts and the papers), sharing no code with any executor.
 */

import type { GroupSubset } from '../../core/nn/index.ts';

/** A row-major array with its shape. */
export interface Value {
  readonly shape: readonly number[];
  readonly data: Float64Array;
}

export function count(shape: readonly number[]): number {
  return shape.reduce((product, n) => product * n, 1);
}

export function value(shape: readonly number[], data?: ArrayLike<number>): Value {
  return { shape, data: data ? Float64Array.from(data) : new Float64Array(count(shape)) };
}

function rowsOf(x: Value): { rows: number; n: number } {
  const n = x.shape.at(-1) ?? 1;
  return { rows: x.data.length / n, n };
}

/** erf by its Taylor series near 0 and by the continued fraction of erfc elsewhere; full double precision. */
export function erf(x: number): number {
  const z = Math.abs(x);
  if (z < 2.5) {
    let term = z;
    let sum = z;
    for (let k = 1; k < 80; ++k) {
      term *= (-z * z) / k;
      sum += term / (2 * k + 1);
    }
    return (Math.sign(x) * 2 * sum) / Math.sqrt(Math.PI);
  }
  let fraction = 0;
  for (let k = 80; k >= 1; --k) fraction = k / 2 / (z + fraction);
  return Math.sign(x) * (1 - Math.exp(-z * z) / (Math.sqrt(Math.PI) * (z + fraction)));
}

export function gelu(x: number): number {
  return 0.5 * x * (1 + erf(x / Math.SQRT2));
}

export function linear(x: Value, weight: Value, bias: Value | null, activation: 'none' | 'gelu' = 'none'): Value {
  const { rows, n } = rowsOf(x);
  const outputs = weight.shape[0]!;
  const y = value([...x.shape.slice(0, -1), outputs]);
  for (let r = 0; r < rows; ++r) {
    for (let o = 0; o < outputs; ++o) {
      let sum = bias ? bias.data[o]! : 0;
      for (let i = 0; i < n; ++i) sum += x.data[r * n + i]! * weight.data[o * n + i]!;
      y.data[r * outputs + o] = activation === 'gelu' ? gelu(sum) : sum;
    }
  }
  return y;
}

export function patchEmbed(images: Value, weight: Value, bias: Value): Value {
  const [N, , H, W] = images.shape as [number, number, number, number];
  const [D, , p] = weight.shape as [number, number, number, number];
  const h = H / p;
  const w = W / p;
  const y = value([N, h * w, D]);
  for (let n = 0; n < N; ++n)
    for (let gy = 0; gy < h; ++gy)
      for (let gx = 0; gx < w; ++gx)
        for (let d = 0; d < D; ++d) {
          let sum = bias.data[d]!;
          for (let c = 0; c < 3; ++c)
            for (let i = 0; i < p; ++i)
              for (let j = 0; j < p; ++j) {
                sum += images.data[((n * 3 + c) * H + gy * p + i) * W + gx * p + j]! * weight.data[((d * 3 + c) * p + i) * p + j]!;
              }
          y.data[(n * h * w + gy * w + gx) * D + d] = sum;
        }
  return y;
}

export function maskPatches(x: Value, mask: Uint8Array, token: Value): Value {
  const { n } = rowsOf(x);
  return value(
    x.shape,
    x.data.map((v, i) => (mask[Math.floor(i / n)] ? token.data[i % n]! : v)),
  );
}

/** Taps and weights along one axis of a resized position table (spec 1.3), for `to` cells out of `from`. */
export function positionWeights(from: number, to: number, offset: number, antialias: boolean): number[][] {
  const cubic = (t: number, a: number): number => {
    const z = Math.abs(t);
    if (z <= 1) return (a + 2) * z ** 3 - (a + 3) * z ** 2 + 1;
    return z < 2 ? a * (z ** 3 - 5 * z ** 2 + 8 * z - 4) : 0;
  };
  return Array.from({ length: to }, (_, i) => {
    const row = new Array<number>(from).fill(0);
    if (!antialias) {
      const source = ((i + 0.5) * from) / (to + offset) - 0.5;
      for (let k = -1; k <= 2; ++k) {
        const tap = Math.floor(source) + k;
        row[Math.min(from - 1, Math.max(0, tap))]! += cubic(source - tap, -0.75);
      }
      return row;
    }
    const s = from / to;
    const wide = Math.max(1, s);
    const center = s * (i + 0.5);
    const low = Math.max(0, Math.floor(center - 2 * wide + 0.5));
    const high = Math.min(from, Math.floor(center + 2 * wide + 0.5));
    for (let j = low; j < high; ++j) row[j] = cubic((j - center + 0.5) / wide, -0.5);
    const sum = row.reduce((a, b) => a + b, 0);
    return row.map((v) => v / sum);
  });
}

export function resizePositions(table: Value, h: number, w: number, offset: number, antialias: boolean): Value {
  const n = table.shape[2]!;
  const side = Math.sqrt(table.shape[1]! - 1);
  if (h === side && w === side) return value([1 + h * w, n], table.data);
  const rows = positionWeights(side, h, offset, antialias);
  const columns = positionWeights(side, w, offset, antialias);
  const y = value([1 + h * w, n]);
  for (let d = 0; d < n; ++d) {
    y.data[d] = table.data[d]!;
    for (let a = 0; a < h; ++a)
      for (let b = 0; b < w; ++b)
        for (let i = 0; i < side; ++i)
          for (let j = 0; j < side; ++j) {
            y.data[(1 + a * w + b) * n + d]! += rows[a]![i]! * columns[b]![j]! * table.data[(1 + i * side + j) * n + d]!;
          }
  }
  return y;
}

export function assembleTokens(patches: Value, cls: Value, positions: Value, registers: Value | null): Value {
  const [N, P, n] = patches.shape as [number, number, number];
  const R = registers ? registers.shape[1]! : 0;
  const T = 1 + R + P;
  const y = value([N, T, n]);
  for (let s = 0; s < N; ++s)
    for (let d = 0; d < n; ++d) {
      const at = (t: number): number => (s * T + t) * n + d;
      y.data[at(0)] = cls.data[d]! + positions.data[d]!;
      for (let r = 0; r < R; ++r) y.data[at(1 + r)] = registers!.data[r * n + d]!;
      for (let p = 0; p < P; ++p) y.data[at(1 + R + p)] = patches.data[(s * P + p) * n + d]! + positions.data[(1 + p) * n + d]!;
    }
  return y;
}

export function layerNorm(x: Value, weight: Value, bias: Value, epsilon: number): Value {
  const { rows, n } = rowsOf(x);
  const y = value(x.shape);
  for (let r = 0; r < rows; ++r) {
    const row = x.data.subarray(r * n, (r + 1) * n);
    const mean = row.reduce((a, b) => a + b, 0) / n;
    const variance = row.reduce((a, b) => a + (b - mean) ** 2, 0) / n;
    row.forEach((v, i) => (y.data[r * n + i] = ((v - mean) / Math.sqrt(variance + epsilon)) * weight.data[i]! + bias.data[i]!));
  }
  return y;
}

export function attention(qkv: Value, heads: number): Value {
  const [N, T, width] = qkv.shape as [number, number, number];
  const D = width / 3;
  const d = D / heads;
  const y = value([N, T, D]);
  const at = (n: number, t: number, part: number, h: number): number => (n * T + t) * width + part * D + h * d;
  for (let n = 0; n < N; ++n)
    for (let h = 0; h < heads; ++h)
      for (let t = 0; t < T; ++t) {
        const q = at(n, t, 0, h);
        const scores = Array.from({ length: T }, (_, s) => {
          const k = at(n, s, 1, h);
          let sum = 0;
          for (let i = 0; i < d; ++i) sum += qkv.data[q + i]! * qkv.data[k + i]!;
          return sum / Math.sqrt(d);
        });
        const probabilities = softmax(scores);
        for (let s = 0; s < T; ++s) {
          const v = at(n, s, 2, h);
          for (let i = 0; i < d; ++i) y.data[(n * T + t) * D + h * d + i]! += probabilities[s]! * qkv.data[v + i]!;
        }
      }
  return y;
}

export function softmax(scores: ArrayLike<number>): number[] {
  const list = Array.from(scores);
  const highest = list.reduce((a, b) => Math.max(a, b), -Infinity);
  const e = list.map((s) => Math.exp(s - highest));
  const sum = e.reduce((a, b) => a + b, 0);
  return e.map((v) => v / sum);
}

export function swiglu(x: Value): Value {
  const { rows, n } = rowsOf(x);
  const half = n / 2;
  const y = value([...x.shape.slice(0, -1), half]);
  for (let r = 0; r < rows; ++r)
    for (let i = 0; i < half; ++i) {
      const a = x.data[r * n + i]!;
      y.data[r * half + i] = (a / (1 + Math.exp(-a))) * x.data[r * n + half + i]!;
    }
  return y;
}

/** Rows of tokens that take part in a branch, and what the branch counts there. */
function takingPart(subset: readonly GroupSubset[]): { row: number; scale: number }[] {
  const taking: { row: number; scale: number }[] = [];
  let before = 0;
  for (const { samples, tokens, rows, scale } of subset) {
    for (const sample of rows) for (let t = 0; t < tokens; ++t) taking.push({ row: before + sample * tokens + t, scale });
    before += samples * tokens;
  }
  return taking;
}

export function gatherSamples(x: Value, subset: readonly GroupSubset[]): Value {
  const { n } = rowsOf(x);
  const rows = takingPart(subset).map(({ row }) => row);
  const shape = x.shape.length === 3 ? [subset[0]!.rows.length, x.shape[1]!, n] : [rows.length, n];
  return gather(x, Int32Array.from(rows), n, shape);
}

export function addResidual(x: Value, branch: Value, gamma: Value, subset: readonly GroupSubset[] | null = null): Value {
  const { rows, n } = rowsOf(x);
  const taking = subset ? takingPart(subset) : Array.from({ length: rows }, (_, row) => ({ row, scale: 1 }));
  const y = value(x.shape, x.data);
  taking.forEach(({ row, scale }, b) => {
    for (let i = 0; i < n; ++i) y.data[row * n + i]! += scale * gamma.data[i]! * branch.data[b * n + i]!;
  });
  return y;
}

/** Rows of n values picked by number. */
export function gather(x: Value, rows: Int32Array, n: number, shape: readonly number[]): Value {
  const y = value(shape);
  rows.forEach((row, r) => y.data.set(x.data.subarray(row * n, (row + 1) * n), r * n));
  return y;
}

export function sliceTokens(x: Value, start: number, length: number): Value {
  const [N, T, n] = x.shape as [number, number, number];
  const y = value([N, length, n]);
  for (let s = 0; s < N; ++s) y.data.set(x.data.subarray((s * T + start) * n, (s * T + start + length) * n), s * length * n);
  return y;
}

export function concatRows(parts: readonly Value[]): Value {
  const n = parts[0]!.shape.at(-1)!;
  const data = parts.flatMap((part) => Array.from(part.data));
  return value([data.length / n, n], data);
}

export function l2Normalize(x: Value, epsilon: number): Value {
  const { rows, n } = rowsOf(x);
  const y = value(x.shape);
  for (let r = 0; r < rows; ++r) {
    const norm = Math.sqrt(x.data.subarray(r * n, (r + 1) * n).reduce((a, b) => a + b * b, 0));
    for (let i = 0; i < n; ++i) y.data[r * n + i] = x.data[r * n + i]! / Math.max(norm, epsilon);
  }
  return y;
}

export function prototypeLogits(x: Value, v: Value, g: Value): Value {
  const { rows, n } = rowsOf(x);
  const { rows: K } = rowsOf(v);
  const y = value([rows, K]);
  for (let k = 0; k < K; ++k) {
    const direction = v.data.subarray(k * n, (k + 1) * n);
    const factor = g.data[k]! / Math.sqrt(direction.reduce((a, b) => a + b * b, 0));
    for (let r = 0; r < rows; ++r) {
      let sum = 0;
      for (let i = 0; i < n; ++i) sum += x.data[r * n + i]! * direction[i]!;
      y.data[r * K + k] = sum * factor;
    }
  }
  return y;
}

export interface PrototypeLoss {
  readonly targets: Value;
  readonly targetRows: Int32Array;
  readonly rowWeights: ArrayLike<number>;
  readonly temperature: number;
}

export function prototypeLoss(x: Value, v: Value, g: Value, { targets, targetRows, rowWeights, temperature }: PrototypeLoss): Value {
  const logits = prototypeLogits(x, v, g);
  const { rows, n: K } = rowsOf(logits);
  const m = targetRows.length / rows;
  let loss = 0;
  for (let r = 0; r < rows; ++r) {
    const l = Array.from(logits.data.subarray(r * K, (r + 1) * K), (s) => s / temperature);
    const highest = l.reduce((a, b) => Math.max(a, b), -Infinity);
    const lse = highest + Math.log(l.reduce((a, b) => a + Math.exp(b - highest), 0));
    for (let j = 0; j < m; ++j) {
      const q = targetRows[r * m + j]! * K;
      for (let k = 0; k < K; ++k) loss -= rowWeights[r]! * targets.data[q + k]! * (l[k]! - lse);
    }
  }
  return value([], [loss]);
}

export function koleo(x: Value): Value {
  const { rows, n } = rowsOf(x);
  const hat = l2Normalize(x, 1e-8).data;
  const cosine = (a: number, b: number): number => {
    let sum = 0;
    for (let i = 0; i < n; ++i) sum += hat[a * n + i]! * hat[b * n + i]!;
    return sum;
  };
  let loss = 0;
  for (let r = 0; r < rows; ++r) {
    let nearest = -1;
    for (let s = 0; s < rows; ++s) if (s !== r && (nearest < 0 || cosine(r, s) > cosine(r, nearest))) nearest = s;
    let squares = 0;
    for (let i = 0; i < n; ++i) squares += (hat[r * n + i]! - hat[nearest * n + i]! + 1e-8) ** 2;
    loss -= Math.log(Math.sqrt(squares) + 1e-8) / rows;
  }
  return value([], [loss]);
}

/** As the paper has it: Q = exp(logits / temperature)^T, alternately normalised by prototype and by sample. */
export function sinkhornKnopp(logits: Value, temperature: number, iterations: number): Value {
  const { rows, n: K } = rowsOf(logits);
  const highest = logits.data.reduce((a, b) => Math.max(a, b), -Infinity);
  const q = logits.data.map((l) => Math.exp((l - highest) / temperature));
  for (let i = 0; i < iterations; ++i) {
    for (let k = 0; k < K; ++k) {
      let sum = 0;
      for (let r = 0; r < rows; ++r) sum += q[r * K + k]!;
      for (let r = 0; r < rows; ++r) q[r * K + k]! /= sum * K;
    }
    for (let r = 0; r < rows; ++r) {
      let sum = 0;
      for (let k = 0; k < K; ++k) sum += q[r * K + k]!;
      for (let k = 0; k < K; ++k) q[r * K + k]! /= sum * rows;
    }
  }
  return value(
    logits.shape,
    q.map((v) => v * rows),
  );
}
