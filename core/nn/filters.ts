/** What pixels weigh in a crop's resize and in its blur, the same wherever it is done. */

/** For each output position: first input position, number of inputs, fixed-point weights. */
export interface ResizeWeights {
  /** [out] */
  readonly first: Int32Array;
  /** [out], at most `taps` */
  readonly count: Int32Array;
  /** [out, taps], 22 fractional bits. */
  readonly weights: Int32Array;
  readonly taps: number;
}

/** Pillow's 8-bit precision: 32 bits less 8 of the pixel less 2 of headroom. */
export const RESIZE_PRECISION = 22;

/** Weights by (input size, output size): a run meets a few hundred pairs again and again. */
const cache = new Map<number, ResizeWeights>();
const CACHE_LIMIT = 4096;

/** Cubic convolution, a = -0.5 (Keys 1981), stretched when shrinking: Pillow's BICUBIC. Sizes up to 65,535. */
export function bicubicWeights(input: number, output: number): ResizeWeights {
  const key = input * 65536 + output;
  const cached = cache.get(key);
  if (cached) return cached;
  const scale = input / output;
  const stretch = Math.max(scale, 1);
  const support = 2 * stretch;
  const taps = Math.ceil(support) * 2 + 1;
  const first = new Int32Array(output);
  const count = new Int32Array(output);
  const weights = new Int32Array(output * taps);
  const row = new Float64Array(taps);
  for (let i = 0; i < output; i++) {
    const center = (i + 0.5) * scale;
    const from = Math.max(Math.trunc(center - support + 0.5), 0);
    const to = Math.min(Math.trunc(center + support + 0.5), input);
    let sum = 0;
    for (let j = from; j < to; j++) {
      const t = Math.abs((j - center + 0.5) / stretch);
      row[j - from] = t < 1 ? (1.5 * t - 2.5) * t * t + 1 : t < 2 ? ((-0.5 * t + 2.5) * t - 4) * t + 2 : 0;
      sum += row[j - from]!;
    }
    first[i] = from;
    count[i] = to - from;
    for (let j = 0; j < to - from; j++) weights[i * taps + j] = Math.round((row[j]! / sum) * (1 << RESIZE_PRECISION));
  }
  const made = { first, count, weights, taps };
  if (cache.size >= CACHE_LIMIT) cache.clear();
  cache.set(key, made);
  return made;
}

/** Of the blur, to each side of a pixel: at any crop size, as in the official code. */
export const BLUR_RADIUS = 4;

/** A Gaussian's weights 0..4 pixels away, over both sides together 1. @param sigma pixels, above 0 */
export function blurWeights(sigma: number): number[] {
  const kernel = Array.from({ length: BLUR_RADIUS + 1 }, (_, k) => Math.exp(-0.5 * (k / sigma) ** 2));
  const sum = kernel.reduce((total, weight, k) => total + (k === 0 ? weight : 2 * weight), 0);
  return kernel.map((weight) => weight / sum);
}
