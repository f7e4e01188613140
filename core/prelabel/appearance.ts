/**
 * What a patch looks like without any network: mean and spread of its colours, as features whose cosine is a smooth kernel
 * of the difference. Its regions compete with the network's: a network knows what belongs together, colours know to the
 * patch where it ends.
 */
import type { RgbImage } from '../images/index.ts';
import { Random } from '../random.ts';
import { unitRows, type FeatureView } from './discover.ts';
import { gridPlacements, type GridPlacement } from './refine.ts';

/** Cosines per patch; random Fourier features of a Gaussian kernel (Rahimi and Recht 2007). */
const appearanceDim = 32;
/** Width of the kernel in standard deviations of the natural images that inputs are normalised by. */
const inverseWidth = 0.8;
/** Mean spread of a channel of natural images, 0..255 (ImageNet). */
const channelSpread = 57;

const random = new Random(77);
const directions = Float32Array.from({ length: appearanceDim * 6 }, () => random.normal() * inverseWidth);
const offsets = Float32Array.from({ length: appearanceDim }, () => random.uniform(0, 2 * Math.PI));

/** Mean and standard deviation of each channel in each patch, in units of channelSpread. @returns [gridHeight * gridWidth, 6] */
export function patchColours(image: RgbImage, { gridWidth, gridHeight, shiftX, shiftY }: GridPlacement): Float32Array {
  const { width, height, data } = image;
  const out = new Float32Array(gridWidth * gridHeight * 6);
  for (let gy = 0; gy < gridHeight; gy++) {
    const y0 = Math.min(height - 1, Math.floor(((gy + shiftY) * height) / gridHeight));
    const y1 = Math.min(height, Math.max(y0 + 1, Math.floor(((gy + 1 + shiftY) * height) / gridHeight)));
    for (let gx = 0; gx < gridWidth; gx++) {
      const x0 = Math.min(width - 1, Math.floor(((gx + shiftX) * width) / gridWidth));
      const x1 = Math.min(width, Math.max(x0 + 1, Math.floor(((gx + 1 + shiftX) * width) / gridWidth)));
      const n = (y1 - y0) * (x1 - x0);
      const to = (gy * gridWidth + gx) * 6;
      for (let c = 0; c < 3; c++) {
        let sum = 0;
        let square = 0;
        for (let y = y0; y < y1; y++) {
          for (let x = x0; x < x1; x++) {
            const v = data[(y * width + x) * 3 + c];
            sum += v;
            square += v * v;
          }
        }
        out[to + c] = sum / n / channelSpread;
        out[to + 3 + c] = Math.sqrt(Math.max(0, square / n - (sum / n) ** 2)) / channelSpread;
      }
    }
  }
  return out;
}

/** Unit rows, [gridHeight * gridWidth, appearanceDim]. */
function appearanceRows(image: RgbImage, grid: GridPlacement): Float32Array {
  const colours = patchColours(image, grid);
  const n = grid.gridWidth * grid.gridHeight;
  const waves = new Float32Array(n * appearanceDim);
  for (let i = 0; i < n; i++) {
    for (let k = 0; k < appearanceDim; k++) {
      let phase = offsets[k];
      for (let j = 0; j < 6; j++) phase += colours[i * 6 + j] * directions[k * 6 + j];
      waves[i * appearanceDim + k] = Math.cos(phase);
    }
  }
  return unitRows(waves, appearanceDim);
}

/**
 * The patches as appearance sees them; the zero of its calibrated cosine is the mean over the image's own pairs of patches.
 * @param passes 1, or 4 with the shifted grids
 */
export function appearanceView(image: RgbImage, gridWidth: number, gridHeight: number, passes: number): FeatureView {
  const [unit, ...shifted] = gridPlacements(gridWidth, gridHeight, passes).map((grid) => appearanceRows(image, grid));
  const n = gridWidth * gridHeight;
  const mean = new Float64Array(appearanceDim);
  for (let i = 0; i < unit.length; i++) mean[i % appearanceDim] += unit[i] / n;
  const c0 = mean.reduce((sum, m) => sum + m * m, 0);
  return { grid: { gridWidth, gridHeight, dim: appearanceDim, unit }, c0, shifted };
}
