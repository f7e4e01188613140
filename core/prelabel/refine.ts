/**
 * From patches to pixels: joint bilateral upsampling of patch probabilities (Kopf et al. 2007; 3x3 patches, sigma 0.6
 * patch in space and 0.1 in colour). Class-agnostic: it moves edges, it decides nothing else.
 */
import type { RgbImage } from '../images/index.ts';
import type { UpsampleGuide } from '../nn/index.ts';
import type { BoxMask } from './grid.ts';

/** One patch grid laid over an image. Shifted passes lie half a patch right or down. */
export interface GridPlacement {
  readonly gridWidth: number;
  readonly gridHeight: number;
  /** Right and down, in patches: 0 or 0.5. */
  readonly shiftX: number;
  readonly shiftY: number;
}

/** Where the grids of the four passes lie, right and down in patches; one pass is the first. */
export const gridShifts: readonly (readonly [number, number])[] = [
  [0, 0],
  [0.5, 0],
  [0, 0.5],
  [0.5, 0.5],
];

/** The grids of an image's passes. @param passes 1 or 4 */
export function gridPlacements(gridWidth: number, gridHeight: number, passes: number): GridPlacement[] {
  return gridShifts.slice(0, passes).map(([shiftX, shiftY]) => ({ gridWidth, gridHeight, shiftX, shiftY }));
}

export interface RefineOptions {
  /** Spatial sigma in patches. */
  readonly sigmaSpace: number;
  /** Colour sigma, RGB in 0..1. */
  readonly sigmaRange: number;
}

export const refineDefaults: RefineOptions = { sigmaSpace: 0.6, sigmaRange: 0.1 };

/** A rectangle of pixels. */
export interface PixelBox {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
}

/** Area means of the colours under each patch. @returns [gridHeight * gridWidth, 3] in 0..1 */
export function patchColours(image: RgbImage, grid: GridPlacement): Float32Array {
  const { width, height, data } = image;
  const { gridWidth, gridHeight } = grid;
  const sums = new Float32Array(gridWidth * gridHeight * 3);
  const counts = new Float32Array(gridWidth * gridHeight);
  const columns = new Int32Array(width);
  for (let x = 0; x < width; x++) columns[x] = Math.floor(((x + 0.5) * gridWidth) / width - grid.shiftX);
  for (let y = 0; y < height; y++) {
    const row = Math.floor(((y + 0.5) * gridHeight) / height - grid.shiftY);
    if (row < 0) continue;
    let at = y * width * 3;
    for (let x = 0; x < width; x++, at += 3) {
      if (columns[x] < 0) continue;
      const q = row * gridWidth + columns[x];
      sums[q * 3] += data[at];
      sums[q * 3 + 1] += data[at + 1];
      sums[q * 3 + 2] += data[at + 2];
      counts[q]++;
    }
  }
  for (let q = 0; q < counts.length; q++) {
    // A patch thinner than a pixel has the colour of the pixel at its centre.
    if (counts[q] === 0) {
      const gx = q % gridWidth;
      const gy = (q / gridWidth) | 0;
      const x = Math.min(width - 1, Math.floor(((gx + 0.5 + grid.shiftX) * width) / gridWidth));
      const y = Math.min(height - 1, Math.floor(((gy + 0.5 + grid.shiftY) * height) / gridHeight));
      for (let c = 0; c < 3; c++) sums[q * 3 + c] = data[(y * width + x) * 3 + c];
      counts[q] = 1;
    }
    for (let c = 0; c < 3; c++) sums[q * 3 + c] /= counts[q] * 255;
  }
  return sums;
}

const rangeSteps = 1024;

/** Weights of squared colour distances, in `rangeSteps` equal steps from 0 to `farthest`. */
function rangeWeights(sigma: number): { readonly table: Float32Array; readonly farthest: number } {
  // Squared colour distance runs to 3; beyond 6 sigma only the floor is left, by which a pixel unlike all its patches still
  // goes with the nearest.
  const farthest = Math.min(3, 36 * sigma * sigma);
  const table = new Float32Array(rangeSteps + 1);
  for (let i = 0; i <= rangeSteps; i++) table[i] = Math.exp(-((i / rangeSteps) * farthest) / (2 * sigma ** 2)) + 1e-6;
  return { table, farthest };
}

/** What an executor needs to upsample as `JointUpsampler` does. @param grids all of one size */
export function upsampleGuide(picture: RgbImage, grids: readonly GridPlacement[], options: RefineOptions = refineDefaults): UpsampleGuide {
  const { gridWidth, gridHeight } = grids[0];
  const { table: range, farthest } = rangeWeights(options.sigmaRange);
  const packed = ({ first, weights }: Axis): Float32Array => {
    const out = new Float32Array(first.length * 4);
    for (let i = 0; i < first.length; i++) out.set([first[i], weights[i * 3], weights[i * 3 + 1], weights[i * 3 + 2]], i * 4);
    return out;
  };
  return {
    picture,
    gridWidth,
    gridHeight,
    grids: grids.map((grid) => ({
      across: packed(axis(picture.width, gridWidth, grid.shiftX, options.sigmaSpace)),
      down: packed(axis(picture.height, gridHeight, grid.shiftY, options.sigmaSpace)),
      colours: patchColours(picture, grid),
    })),
    range,
    farthest,
  };
}

/** Pixels of an image under the patches [x0..x1] x [y0..y1] of a grid without shift, with half a patch around. */
export function pixelBox(
  { width, height }: { readonly width: number; readonly height: number },
  { gridWidth, gridHeight }: GridPlacement,
  x0: number,
  y0: number,
  x1: number,
  y1: number,
): PixelBox {
  const x = Math.max(0, Math.floor(((x0 - 0.5) * width) / gridWidth));
  const y = Math.max(0, Math.floor(((y0 - 0.5) * height) / gridHeight));
  const right = Math.min(width, Math.ceil(((x1 + 1.5) * width) / gridWidth));
  const bottom = Math.min(height, Math.ceil(((y1 + 1.5) * height) / gridHeight));
  return { x, y, width: right - x, height: bottom - y };
}

/**
 * Bilateral weights of one image, computed once and used for every map over its patch grids.
 * Memory: 36 bytes a pixel for each grid.
 */
export class JointUpsampler {
  readonly width: number;
  readonly height: number;
  readonly #placed: readonly PlacedGrid[];

  /** @param image the guide, at the resolution wanted out; @param grids the first is the one without shift */
  constructor(image: RgbImage, grids: readonly GridPlacement[], options: RefineOptions = refineDefaults) {
    this.width = image.width;
    this.height = image.height;
    const { table, farthest } = rangeWeights(options.sigmaRange);
    const total = new Float32Array(image.width * image.height);
    this.#placed = grids.map((grid) => {
      const alongX = axis(image.width, grid.gridWidth, grid.shiftX, options.sigmaSpace);
      const alongY = axis(image.height, grid.gridHeight, grid.shiftY, options.sigmaSpace);
      const weights = bilateralWeights(image, grid, alongX, alongY, table, farthest, total);
      return { ...grid, columns: alongX.first, rows: alongY.first, weights };
    });
    for (const { weights } of this.#placed) {
      for (let i = 0; i < total.length; i++) {
        const inverse = 1 / total[i];
        for (let k = i * 9; k < i * 9 + 9; k++) weights[k] *= inverse;
      }
    }
  }

  /**
   * One probability map brought to pixels.
   * @param maps one map for each grid given to the constructor, [gridHeight * gridWidth] each
   * @param box pixels to compute; default the whole image
   * @returns [box.height * box.width]
   */
  upsample(maps: readonly Float32Array[], box: PixelBox = { x: 0, y: 0, width: this.width, height: this.height }): Float32Array {
    const out = new Float32Array(box.width * box.height);
    maps.forEach((map, g) => addWeighted(map, this.#placed[g], this.width, box, out, maps.length === 1));
    return out;
  }
}

interface PlacedGrid extends GridPlacement {
  /** Left column and top row of the 3x3 patches of each pixel column and row; may be -1 or past the end. */
  readonly columns: Int32Array;
  readonly rows: Int32Array;
  /** [height * width, 9]; over all grids the weights of a pixel add up to 1. */
  readonly weights: Float32Array;
}

interface Axis {
  /** First of the three patches around each pixel. */
  readonly first: Int32Array;
  /** [length, 3] spatial weights; 0 outside the grid. */
  readonly weights: Float32Array;
}

function axis(length: number, patches: number, shift: number, sigma: number): Axis {
  const first = new Int32Array(length);
  const weights = new Float32Array(length * 3);
  for (let x = 0; x < length; x++) {
    const at = ((x + 0.5) * patches) / length - 0.5 - shift; // in patch centres
    const start = Math.round(at) - 1;
    first[x] = start;
    for (let k = 0; k < 3; k++) {
      const q = start + k;
      weights[x * 3 + k] = q < 0 || q >= patches ? 0 : Math.exp(-((at - q) ** 2) / (2 * sigma * sigma));
    }
  }
  return { first, weights };
}

/** Weights of one grid before normalisation, [height * width, 9]; their sums are added to `total`. */
function bilateralWeights(
  image: RgbImage,
  grid: GridPlacement,
  alongX: Axis,
  alongY: Axis,
  table: Float32Array,
  farthest: number,
  total: Float32Array,
): Float32Array {
  const { width, height, data } = image;
  const { gridWidth } = grid;
  const colours = patchColours(image, grid);
  const weights = new Float32Array(width * height * 9);
  const scale = rangeSteps / farthest;
  const byte = 1 / 255;
  for (let y = 0; y < height; y++) {
    const top = alongY.first[y];
    for (let x = 0; x < width; x++) {
      const pixel = y * width + x;
      const r = data[pixel * 3] * byte;
      const g = data[pixel * 3 + 1] * byte;
      const b = data[pixel * 3 + 2] * byte;
      const left = alongX.first[x];
      const to = pixel * 9;
      let sum = 0;
      for (let j = 0; j < 3; j++) {
        const wy = alongY.weights[y * 3 + j];
        if (wy === 0) continue;
        const row = (top + j) * gridWidth;
        for (let i = 0; i < 3; i++) {
          const wx = alongX.weights[x * 3 + i];
          if (wx === 0) continue;
          const q = (row + left + i) * 3;
          const dr = colours[q] - r;
          const dg = colours[q + 1] - g;
          const db = colours[q + 2] - b;
          const step = (dr * dr + dg * dg + db * db) * scale;
          const w = wx * wy * table[step < rangeSteps ? step | 0 : rangeSteps];
          weights[to + j * 3 + i] = w;
          sum += w;
        }
      }
      total[pixel] += sum;
    }
  }
  return weights;
}

/**
 * Adds one grid's weighted map. Works patch by patch: where the 3x3 values are equal the result is that value (`alone`:
 * the weights of this grid add up to 1), so only outlines cost.
 */
function addWeighted(map: Float32Array, placed: PlacedGrid, width: number, box: PixelBox, out: Float32Array, alone: boolean): void {
  const { gridWidth, gridHeight, columns, rows, weights } = placed;
  const value = new Float32Array(9);
  const right = box.x + box.width;
  const bottom = box.y + box.height;
  for (let y0 = box.y; y0 < bottom;) {
    const top = rows[y0];
    let y1 = y0 + 1;
    while (y1 < bottom && rows[y1] === top) y1++;
    for (let x0 = box.x; x0 < right;) {
      const left = columns[x0];
      let x1 = x0 + 1;
      while (x1 < right && columns[x1] === left) x1++;
      let least = Infinity;
      let most = -Infinity;
      for (let j = 0; j < 3; j++) {
        for (let i = 0; i < 3; i++) {
          const row = top + j;
          const column = left + i;
          const outside = row < 0 || column < 0 || row >= gridHeight || column >= gridWidth;
          const v = outside ? 0 : map[row * gridWidth + column];
          value[j * 3 + i] = v;
          if (outside) continue;
          if (v < least) least = v;
          if (v > most) most = v;
        }
      }
      if (most === 0 && least === 0) {
        // nothing to add
      } else if (alone && most === least) {
        for (let y = y0; y < y1; y++) {
          const row = (y - box.y) * box.width - box.x;
          out.fill(most, row + x0, row + x1);
        }
      } else {
        const [a, b, c, d, e, f, g, h, k] = value;
        for (let y = y0; y < y1; y++) {
          const row = (y - box.y) * box.width - box.x;
          for (let x = x0; x < x1; x++) {
            const w = (y * width + x) * 9;
            out[row + x] +=
              weights[w] * a +
              weights[w + 1] * b +
              weights[w + 2] * c +
              weights[w + 3] * d +
              weights[w + 4] * e +
              weights[w + 5] * f +
              weights[w + 6] * g +
              weights[w + 7] * h +
              weights[w + 8] * k;
          }
        }
      }
      x0 = x1;
    }
    y0 = y1;
  }
}

/** Bilinear map from patch centres to pixels, edges held; [box.height * box.width]. */
export function bilinear(map: Float32Array, grid: GridPlacement, width: number, height: number, box: PixelBox): Float32Array {
  const { gridWidth, gridHeight } = grid;
  const out = new Float32Array(box.width * box.height);
  for (let y = 0; y < box.height; y++) {
    const v = Math.min(gridHeight - 1, Math.max(0, ((box.y + y + 0.5) * gridHeight) / height - 0.5 - grid.shiftY));
    const top = Math.min(gridHeight - 1, Math.floor(v));
    const bottom = Math.min(gridHeight - 1, top + 1);
    const fy = v - top;
    for (let x = 0; x < box.width; x++) {
      const u = Math.min(gridWidth - 1, Math.max(0, ((box.x + x + 0.5) * gridWidth) / width - 0.5 - grid.shiftX));
      const left = Math.min(gridWidth - 1, Math.floor(u));
      const right = Math.min(gridWidth - 1, left + 1);
      const fx = u - left;
      const above = map[top * gridWidth + left] * (1 - fx) + map[top * gridWidth + right] * fx;
      const below = map[bottom * gridWidth + left] * (1 - fx) + map[bottom * gridWidth + right] * fx;
      out[y * box.width + x] = above * (1 - fy) + below * fy;
    }
  }
  return out;
}

/** Probability above 0.5 as a mask in its box. */
export function threshold(probability: Float32Array, box: PixelBox): BoxMask {
  const data = new Uint8Array(probability.length);
  let area = 0;
  for (let i = 0; i < data.length; i++) {
    if (probability[i] > 0.5) {
      data[i] = 1;
      area++;
    }
  }
  return { x: box.x, y: box.y, width: box.width, height: box.height, data, area };
}
