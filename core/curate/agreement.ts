/**
 * How well two pictures agree where they show the same, part by part. Two frames of a fixed camera share their background
 * and all its keypoints; they are copies only when no part of them differs.
 */

/** Where the first picture lies in the second: x' = scaleX x + shiftX, in shares of width and height. */
export interface Placement {
  readonly scaleX: number;
  readonly shiftX: number;
  readonly scaleY: number;
  readonly shiftY: number;
}

export const inPlace: Placement = { scaleX: 1, shiftX: 0, scaleY: 1, shiftY: 0 };

export interface Agreement {
  /** Correlation of the gray values over what both show, -1..1. */
  readonly correlation: number;
  /** Of the 1/16 of its parts that differ most: their difference by the spread of the picture, 0 when equal. */
  readonly worst: number;
  /** Share of the second picture that the first covers, 0..1. */
  readonly covered: number;
}

/** Side of the squares that are compared. */
export const smallSide = 64;
/** Side of a part. */
const part = 4;
/** Gray values that rounding, compression and resampling change on their own. */
const noise = 4;

/**
 * Brightness and contrast may differ as a whole: the second is compared with the best linear function of the first.
 * @param a @param b [64 * 64] gray, 0..255, each picture stretched to the square
 * @returns null when they overlap in less than 4 x 4 parts
 */
export function agreement(a: Uint8Array, b: Uint8Array, placement: Placement = inPlace): Agreement | null {
  const n = smallSide;
  const { scaleX, shiftX, scaleY, shiftY } = placement;
  const of = new Float32Array(n * n);
  const known = new Uint8Array(n * n);
  let count = 0;
  let [sumA, sumB, sumAa, sumBb, sumAb] = [0, 0, 0, 0, 0];
  for (let y = 0; y < n; y++) {
    const fy = (((y + 0.5) / n - shiftY) / scaleY) * n - 0.5;
    if (fy < -0.5 || fy > n - 0.5) continue;
    const y0 = Math.min(n - 2, Math.max(0, Math.floor(fy)));
    const ty = Math.min(1, Math.max(0, fy - y0));
    for (let x = 0; x < n; x++) {
      const fx = (((x + 0.5) / n - shiftX) / scaleX) * n - 0.5;
      if (fx < -0.5 || fx > n - 0.5) continue;
      const x0 = Math.min(n - 2, Math.max(0, Math.floor(fx)));
      const tx = Math.min(1, Math.max(0, fx - x0));
      const at = y0 * n + x0;
      const va = (a[at] * (1 - tx) + a[at + 1] * tx) * (1 - ty) + (a[at + n] * (1 - tx) + a[at + n + 1] * tx) * ty;
      const vb = b[y * n + x];
      of[y * n + x] = va;
      known[y * n + x] = 1;
      count++;
      sumA += va;
      sumB += vb;
      sumAa += va * va;
      sumBb += vb * vb;
      sumAb += va * vb;
    }
  }
  if (count < 16 * part * part) return null;
  const varianceA = Math.max(0, sumAa / count - (sumA / count) ** 2);
  const varianceB = Math.max(0, sumBb / count - (sumB / count) ** 2);
  const covariance = sumAb / count - (sumA * sumB) / count ** 2;
  const gain = varianceA > 0 ? covariance / varianceA : 0;
  const offset = (sumB - gain * sumA) / count;
  const spread = Math.sqrt(varianceB) + noise;
  const differences: number[] = [];
  for (let y0 = 0; y0 < n; y0 += part) {
    for (let x0 = 0; x0 < n; x0 += part) {
      let sum = 0;
      let shared = 0;
      for (let y = y0; y < y0 + part; y++) {
        for (let x = x0; x < x0 + part; x++) {
          const at = y * n + x;
          if (known[at] === 0) continue;
          sum += (b[at] - gain * of[at] - offset) ** 2;
          shared++;
        }
      }
      if (shared >= (part * part) / 2) differences.push(Math.sqrt(sum / shared));
    }
  }
  differences.sort((p, q) => q - p);
  const most = Math.max(1, Math.round(differences.length / 16));
  let worst = 0;
  for (let i = 0; i < most; i++) worst += differences[i] / most / spread;
  const flat = varianceA * varianceB < 1;
  return { correlation: flat ? Number(worst < 1) : covariance / Math.sqrt(varianceA * varianceB), worst, covered: count / (n * n) };
}
