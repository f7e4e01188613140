/** What is known of a candidate, on the patch grid and of its pixels: what its score is made of. */
import type { RgbImage } from '../images/index.ts';
import type { Candidate, FeatureView, PatchGrid } from './discover.ts';
import type { BoxMask } from './grid.ts';

/** What is known of a candidate before it has pixels. */
export interface PatchCues {
  readonly stability: number;
  /** Mean calibrated cosine between its patches. */
  readonly homogeneity: number;
  /** 1 - calibrated cosine between its mean and the mean of the patches around it. */
  readonly contrast: number;
  /** The same for the most similar of the patches around it. */
  readonly weakest: number;
  /** Share of the grid, 0..1. */
  readonly share: number;
  /** Share of the grid's border patches that are its. */
  readonly border: number;
  /** Share of its box. */
  readonly fill: number;
  readonly object: number;
  /** Spread between region and surroundings over all spread (Fisher's ratio), 0..1. */
  readonly separation: number;
}

export interface PixelCues {
  /** Colour step across the outline, in standard deviations of the image's colours. */
  readonly edge: number;
  /** IoU of the mask with the whole patches it came from. */
  readonly agreement: number;
  /** 4 pi area / perimeter^2 (pixel edges), 0..0.8. */
  readonly roundness: number;
  /** Fisher's ratio of the colours inside against those just outside, 0..1. */
  readonly colour: number;
}

/** Patches within `reach` (8-neighbour steps) of a candidate but not its own. */
function ringOf(candidate: Candidate, inside: Uint8Array, gridWidth: number, gridHeight: number, reach: number): number[] {
  const { x, y, width, height } = candidate.box;
  const ring: number[] = [];
  for (let gy = Math.max(0, y - reach); gy < Math.min(gridHeight, y + height + reach); gy++) {
    for (let gx = Math.max(0, x - reach); gx < Math.min(gridWidth, x + width + reach); gx++) {
      if (inside[gy * gridWidth + gx] === 1) continue;
      let near = false;
      for (let ny = Math.max(0, gy - reach); ny <= Math.min(gridHeight - 1, gy + reach) && !near; ny++) {
        for (let nx = Math.max(0, gx - reach); nx <= Math.min(gridWidth - 1, gx + reach) && !near; nx++)
          near = inside[ny * gridWidth + nx] === 1;
      }
      if (near) ring.push(gy * gridWidth + gx);
    }
  }
  return ring;
}

function meanOf(unit: Float32Array, dim: number, cells: readonly number[]): Float64Array {
  const mean = new Float64Array(dim);
  for (const q of cells) for (let k = 0; k < dim; k++) mean[k] += unit[q * dim + k];
  for (let k = 0; k < dim; k++) mean[k] /= Math.max(1, cells.length);
  return mean;
}

function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let k = 0; k < a.length; k++) sum += a[k] * b[k];
  return sum;
}

/** Cues of one candidate, and the line in feature space along which its patches are mixed with their surroundings. */
export interface Described {
  readonly candidate: Candidate;
  readonly cues: PatchCues;
  /** Patches that touch it, corners included. */
  readonly near: readonly number[];
  /** [dim] from the mean of the surroundings to the region's mean. */
  readonly axis: Float64Array;
  /** Where the surroundings' mean lies along the axis. */
  readonly origin: number;
}

/** @param inside scratch of zeros, [patches]; left as it was */
export function describe({ grid, c0 }: FeatureView, candidate: Candidate, inside: Uint8Array): Described {
  const { gridWidth, gridHeight, dim, unit } = grid;
  const calibrate = (cosine: number): number => (cosine - c0) / Math.max(1e-9, 1 - c0);
  const own = candidate.cells;
  for (const q of own) inside[q] = 1;
  const near = ringOf(candidate, inside, gridWidth, gridHeight, 1);
  const around = ringOf(candidate, inside, gridWidth, gridHeight, 2);
  const mean = meanOf(unit, dim, own);
  const other = meanOf(unit, dim, around);
  const length = Math.sqrt(dot(mean, mean)) || 1;
  const otherLength = Math.sqrt(dot(other, other)) || 1;

  let weakest = -1;
  for (const q of near) {
    let cosine = 0;
    for (let k = 0; k < dim; k++) cosine += unit[q * dim + k] * mean[k];
    weakest = Math.max(weakest, cosine / length);
  }
  let edgeCells = 0;
  for (const q of own) {
    const x = q % gridWidth;
    if (x === 0 || x === gridWidth - 1 || q < gridWidth || q >= gridWidth * (gridHeight - 1)) edgeCells++;
  }
  let between = 0;
  for (let k = 0; k < dim; k++) between += (mean[k] - other[k]) ** 2;
  const n = own.length;
  const pairs = (length * length * n - 1) / Math.max(1, n - 1);
  const cues: PatchCues = {
    stability: candidate.stability,
    homogeneity: n === 1 ? 1 : Math.max(0, calibrate(pairs)),
    contrast: around.length === 0 ? 0 : Math.min(2, 1 - calibrate(dot(mean, other) / (length * otherLength))),
    weakest: near.length === 0 ? 0 : Math.min(2, 1 - calibrate(weakest)),
    share: n / (gridWidth * gridHeight),
    border: edgeCells / Math.max(1, 2 * (gridWidth + gridHeight) - 4),
    fill: n / (candidate.box.width * candidate.box.height),
    object: candidate.source === 'object' ? 1 : 0,
    separation: between / (between + Math.max(0, 1 - length * length) + Math.max(0, 1 - otherLength * otherLength) + 1e-9),
  };

  for (const q of own) inside[q] = 0;
  const axis = mean.map((m, k) => (around.length === 0 ? 0 : m - other[k]));
  return { candidate, cues, near, axis, origin: dot(axis, other) };
}

/** Pixels on each side of an outline whose colours are compared: a seventh of a patch. */
export function colourReach(image: { readonly width: number }, gridWidth: number): number {
  return Math.max(1, Math.round((0.15 * image.width) / gridWidth));
}

/** Standard deviation of an image's colours (root of the mean over channels), 0..255; at least 1. */
export function colourSpread(image: RgbImage): number {
  const sums = [0, 0, 0];
  const squares = [0, 0, 0];
  const n = image.width * image.height;
  const step = Math.max(1, Math.floor(n / 20000));
  let counted = 0;
  for (let i = 0; i < n; i += step, counted++) {
    for (let c = 0; c < 3; c++) {
      const v = image.data[i * 3 + c];
      sums[c] += v;
      squares[c] += v * v;
    }
  }
  let variance = 0;
  for (let c = 0; c < 3; c++) variance += squares[c] / counted - (sums[c] / counted) ** 2;
  return Math.max(1, Math.sqrt(Math.max(0, variance / 3)));
}

/**
 * Cues of a mask's pixels.
 * @param spread from colourSpread
 * @param reach pixels on each side of the outline whose colours are compared
 */
export function pixelCues(image: RgbImage, mask: BoxMask, candidate: Candidate, grid: PatchGrid, spread: number, reach: number): PixelCues {
  const { width: imageWidth, height: imageHeight, data: rgb } = image;
  const { data, width, height } = mask;
  let step = 0;
  let compared = 0;
  let perimeter = 0;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (data[y * width + x] === 0) continue;
      for (let side = 0; side < 4; side++) {
        const dx = side === 0 ? 1 : side === 1 ? -1 : 0;
        const dy = side === 2 ? 1 : side === 3 ? -1 : 0;
        const nx = x + dx;
        const ny = y + dy;
        if (nx >= 0 && ny >= 0 && nx < width && ny < height && data[ny * width + nx] === 1) continue;
        perimeter++;
        const ix = mask.x + x - dx * (reach - 1);
        const iy = mask.y + y - dy * (reach - 1);
        const ox = mask.x + x + dx * reach;
        const oy = mask.y + y + dy * reach;
        if (ix < 0 || iy < 0 || ox < 0 || oy < 0 || ix >= imageWidth || ox >= imageWidth || iy >= imageHeight || oy >= imageHeight)
          continue;
        const a = (iy * imageWidth + ix) * 3;
        const b = (oy * imageWidth + ox) * 3;
        const dr = rgb[a] - rgb[b];
        const dg = rgb[a + 1] - rgb[b + 1];
        const db = rgb[a + 2] - rgb[b + 2];
        step += Math.sqrt((dr * dr + dg * dg + db * db) / 3);
        compared++;
      }
    }
  }
  const { gridWidth, gridHeight } = grid;
  const patchPixels = (imageWidth / gridWidth) * (imageHeight / gridHeight);
  let shared = 0;
  const own = new Uint8Array(gridWidth * gridHeight);
  for (const q of candidate.cells) own[q] = 1;
  for (let y = 0; y < height; y++) {
    const row = Math.floor(((mask.y + y) * gridHeight) / imageHeight) * gridWidth;
    for (let x = 0; x < width; x++) {
      if (data[y * width + x] === 1) shared += own[row + Math.floor(((mask.x + x) * gridWidth) / imageWidth)];
    }
  }
  const whole = candidate.cells.length * patchPixels;
  return {
    edge: compared === 0 ? 0 : Math.min(4, step / compared / spread),
    agreement: shared / Math.max(1, mask.area + whole - shared),
    roundness: (4 * Math.PI * mask.area) / (perimeter * perimeter),
    colour: colourSeparation(image, mask, Math.ceil(0.75 * Math.sqrt(patchPixels))),
  };
}

/** Fisher's ratio of colours: between / (between + within), mask against the rest of its box grown by `margin`. */
function colourSeparation(image: RgbImage, mask: BoxMask, margin: number): number {
  const x0 = Math.max(0, mask.x - margin);
  const y0 = Math.max(0, mask.y - margin);
  const x1 = Math.min(image.width, mask.x + mask.width + margin);
  const y1 = Math.min(image.height, mask.y + mask.height + margin);
  // A few thousand pixels settle a mean and a variance.
  const step = Math.max(1, Math.floor(Math.sqrt(((x1 - x0) * (y1 - y0)) / 4000)));
  const sums = new Float64Array(8); // count, r, g, b outside; the same inside
  const squares = new Float64Array(2);
  for (let y = y0; y < y1; y += step) {
    const row = y - mask.y;
    for (let x = x0; x < x1; x += step) {
      const column = x - mask.x;
      const inside = row >= 0 && column >= 0 && row < mask.height && column < mask.width ? mask.data[row * mask.width + column] : 0;
      const at = (y * image.width + x) * 3;
      const r = image.data[at];
      const g = image.data[at + 1];
      const b = image.data[at + 2];
      const to = inside * 4;
      sums[to]++;
      sums[to + 1] += r;
      sums[to + 2] += g;
      sums[to + 3] += b;
      squares[inside] += r * r + g * g + b * b;
    }
  }
  if (sums[0] === 0 || sums[4] === 0) return 0;
  let between = 0;
  let within = squares[0] / sums[0] + squares[1] / sums[4];
  for (let c = 1; c < 4; c++) {
    const outside = sums[c] / sums[0];
    const own = sums[4 + c] / sums[4];
    between += (own - outside) ** 2;
    within -= outside * outside + own * own;
  }
  return between / (between + Math.max(0, within) + 1);
}
