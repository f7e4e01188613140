/**
 * Points of a picture that are found again in a copy of it: extrema of differences of Gaussians, each described by the
 * gradients around it (Lowe 2004, sections 3 and 6, without turning: copies of photographs are upright). Matching them
 * is align.ts.
 */

export interface Keypoints {
  readonly count: number;
  /** [count, 2] x and y of each, as shares of width and height, 0..1. */
  readonly places: Float32Array;
  /** [count, descriptorDim], length about 512 each (Lowe's bytes). */
  readonly descriptors: Uint8Array;
}

const cells = 4;
const directions = 8;
export const descriptorDim = cells * cells * directions;
/** Strongest points kept. */
export const mostKeypoints = 64;

const firstSigma = 1.6;
const intervals = 2;
/** Least difference of Gaussians, gray values 0..255. */
const leastContrast = 1.5;
/** Largest ratio of principal curvatures: along an edge a point is not found again. */
const edgeRatio = 10;
/** Width of a descriptor's cell in units of the point's sigma. */
const cellWidth = 3;

interface Plane {
  readonly width: number;
  readonly height: number;
  readonly data: Float32Array;
}

/** @param gray [height * width], 0..255 */
export function keypointsOf(gray: Float32Array, width: number, height: number): Keypoints {
  const found: { x: number; y: number; strength: number; sigma: number; plane: Plane }[] = [];
  let base = blur({ width, height, data: gray }, Math.sqrt(firstSigma ** 2 - 0.5 ** 2));
  for (let octave = 0; octave < 3 && Math.min(base.width, base.height) >= 24; octave++) {
    const planes = [base];
    for (let s = 1; s < intervals + 3; s++) {
      const [before, now] = [firstSigma * 2 ** ((s - 1) / intervals), firstSigma * 2 ** (s / intervals)];
      planes.push(blur(planes[s - 1], Math.sqrt(now ** 2 - before ** 2)));
    }
    const differences = planes.slice(1).map((plane, s) => subtract(plane, planes[s]));
    for (let s = 1; s <= intervals; s++) {
      for (const { x, y, strength } of extrema(differences[s - 1], differences[s], differences[s + 1]))
        found.push({ x, y, strength, sigma: firstSigma * 2 ** (s / intervals), plane: planes[s] });
    }
    base = halve(planes[intervals]);
  }
  found.sort((a, b) => b.strength - a.strength);
  const kept = found.slice(0, mostKeypoints);
  const places = new Float32Array(kept.length * 2);
  const descriptors = new Uint8Array(kept.length * descriptorDim);
  kept.forEach(({ x, y, sigma, plane }, i) => {
    places[2 * i] = (x + 0.5) / plane.width;
    places[2 * i + 1] = (y + 0.5) / plane.height;
    descriptors.set(describe(plane, x, y, sigma), i * descriptorDim);
  });
  return { count: kept.length, places, descriptors };
}

function blur({ width, height, data }: Plane, sigma: number): Plane {
  const radius = Math.ceil(2.5 * sigma);
  const kernel = Float32Array.from({ length: 2 * radius + 1 }, (_, i) => Math.exp(-((i - radius) ** 2) / (2 * sigma ** 2)));
  const total = kernel.reduce((sum, k) => sum + k, 0);
  for (let i = 0; i < kernel.length; i++) kernel[i] /= total;
  const across = new Float32Array(data.length);
  const line = new Float32Array(width + 2 * radius);
  for (let y = 0; y < height; y++) {
    line.set(data.subarray(y * width, (y + 1) * width), radius);
    line.fill(data[y * width], 0, radius);
    line.fill(data[(y + 1) * width - 1], radius + width);
    for (let x = 0; x < width; x++) {
      let sum = 0;
      for (let k = 0; k < kernel.length; k++) sum += kernel[k] * line[x + k];
      across[y * width + x] = sum;
    }
  }
  // Down the columns row by row: reading in the order of memory.
  const out = new Float32Array(data.length);
  for (let y = 0; y < height; y++) {
    const to = y * width;
    for (let k = 0; k < kernel.length; k++) {
      const from = Math.min(height - 1, Math.max(0, y + k - radius)) * width;
      const weight = kernel[k];
      for (let x = 0; x < width; x++) out[to + x] += weight * across[from + x];
    }
  }
  return { width, height, data: out };
}

function subtract(a: Plane, b: Plane): Plane {
  const data = new Float32Array(a.data.length);
  for (let i = 0; i < data.length; i++) data[i] = a.data[i] - b.data[i];
  return { ...a, data };
}

function halve({ width, height, data }: Plane): Plane {
  const [w, h] = [width >> 1, height >> 1];
  const out = new Float32Array(w * h);
  for (let y = 0; y < h; y++) for (let x = 0; x < w; x++) out[y * w + x] = data[2 * y * width + 2 * x];
  return { width: w, height: h, data: out };
}

/** Places that exceed their 26 neighbours in place and scale, strong enough, and not along an edge. */
function* extrema(below: Plane, here: Plane, above: Plane): Generator<{ x: number; y: number; strength: number }> {
  const { width, height, data } = here;
  for (let y = 1; y < height - 1; y++) {
    for (let x = 1; x < width - 1; x++) {
      const at = y * width + x;
      const value = data[at];
      if (Math.abs(value) < leastContrast) continue;
      const sign = value > 0 ? 1 : -1;
      let extreme = true;
      for (let dy = -width; extreme && dy <= width; dy += width) {
        for (let d = at + dy - 1; d <= at + dy + 1; d++) {
          if (
            (d !== at && sign * data[d] >= sign * value) ||
            sign * below.data[d] >= sign * value ||
            sign * above.data[d] >= sign * value
          ) {
            extreme = false;
            break;
          }
        }
      }
      if (!extreme) continue;
      const dxx = data[at + 1] + data[at - 1] - 2 * value;
      const dyy = data[at + width] + data[at - width] - 2 * value;
      const dxy = (data[at + width + 1] - data[at + width - 1] - data[at - width + 1] + data[at - width - 1]) / 4;
      const determinant = dxx * dyy - dxy * dxy;
      if (determinant <= 0 || (dxx + dyy) ** 2 / determinant > (edgeRatio + 1) ** 2 / edgeRatio) continue;
      yield { x, y, strength: Math.abs(value) };
    }
  }
}

/** Gradients around a point, in 4 x 4 cells of 8 directions, Gaussian weights, cut at 0.2 and normalised. */
function describe({ width, height, data }: Plane, px: number, py: number, sigma: number): Uint8Array {
  const histogram = new Float64Array(descriptorDim);
  const cell = cellWidth * sigma;
  const radius = Math.round((cell * (cells + 1)) / 2);
  const weights = Float64Array.from({ length: 2 * radius + 1 }, (_, i) => Math.exp(-((i - radius) ** 2) / (2 * (cell * cells * 0.5) ** 2)));
  for (let dy = -radius; dy <= radius; dy++) {
    const y = py + dy;
    if (y < 1 || y >= height - 1) continue;
    const row = dy / cell + cells / 2 - 0.5;
    if (row <= -1 || row >= cells) continue;
    for (let dx = -radius; dx <= radius; dx++) {
      const x = px + dx;
      const column = dx / cell + cells / 2 - 0.5;
      if (x < 1 || x >= width - 1 || column <= -1 || column >= cells) continue;
      const at = y * width + x;
      const gx = data[at + 1] - data[at - 1];
      const gy = data[at + width] - data[at - width];
      const magnitude = Math.sqrt(gx * gx + gy * gy) * weights[dy + radius] * weights[dx + radius];
      const turn = ((Math.atan2(gy, gx) / (2 * Math.PI) + 1) * directions) % directions;
      const [r0, c0, o0] = [Math.floor(row), Math.floor(column), Math.floor(turn)];
      const [fr, fc, fo] = [row - r0, column - c0, turn - o0];
      for (let r = 0; r < 2; r++) {
        if (r0 + r < 0 || r0 + r >= cells) continue;
        for (let c = 0; c < 2; c++) {
          if (c0 + c < 0 || c0 + c >= cells) continue;
          const share = magnitude * (r === 0 ? 1 - fr : fr) * (c === 0 ? 1 - fc : fc);
          const to = ((r0 + r) * cells + c0 + c) * directions;
          histogram[to + (o0 % directions)] += share * (1 - fo);
          histogram[to + ((o0 + 1) % directions)] += share * fo;
        }
      }
    }
  }
  normalise(histogram);
  for (let i = 0; i < descriptorDim; i++) histogram[i] = Math.min(0.2, histogram[i]);
  normalise(histogram);
  return Uint8Array.from(histogram, (v) => Math.min(255, Math.round(512 * v)));
}

function normalise(values: Float64Array): void {
  let norm = 0;
  for (const v of values) norm += v * v;
  if (norm > 0) for (let i = 0; i < values.length; i++) values[i] /= Math.sqrt(norm);
}
