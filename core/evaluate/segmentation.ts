/** Between masks and patches: what a patch is labelled, and how well scores of patches cover the mask, class by class. */
import { AppError } from '../contract/index.ts';
import type { LabelMap } from './objects.ts';

/** Pixels with this number count nowhere. */
const IGNORED = 255;

export interface PatchLabels {
  /** [patches, classes] share of each class among the labelled pixels of the patch. */
  readonly shares: Float32Array;
  /** [patches] labelled share of the patch's pixels. */
  readonly weights: Float32Array;
}

/** A pixel belongs to the patch that its centre lies in. @param values class numbers, in the order of the shares */
export function patchLabels(labels: LabelMap, gridWidth: number, gridHeight: number, values: readonly number[]): PatchLabels {
  const { width, height, data } = labels;
  const classes = values.length;
  const position = positions(values);
  const counts = new Float32Array(gridWidth * gridHeight * classes);
  const pixels = new Float32Array(gridWidth * gridHeight);
  const columns = Int32Array.from({ length: width }, (_, x) => Math.floor(((x + 0.5) * gridWidth) / width));
  for (let y = 0; y < height; y++) {
    const row = Math.floor(((y + 0.5) * gridHeight) / height) * gridWidth;
    for (let x = 0; x < width; x++) {
      const patch = row + columns[x];
      pixels[patch]++;
      const at = position[data[y * width + x]];
      if (at >= 0) counts[patch * classes + at]++;
    }
  }
  const weights = new Float32Array(pixels.length);
  for (let patch = 0; patch < pixels.length; patch++) {
    let labelled = 0;
    for (let c = 0; c < classes; c++) labelled += counts[patch * classes + c];
    weights[patch] = pixels[patch] > 0 ? labelled / pixels[patch] : 0;
    if (labelled > 0) for (let c = 0; c < classes; c++) counts[patch * classes + c] /= labelled;
  }
  return { shares: counts, weights };
}

/** Index of each class number; -1 for ignored and unknown ones. */
function positions(values: readonly number[]): Int32Array {
  const table = new Int32Array(65536).fill(-1);
  values.forEach((value, at) => (table[value] = at));
  table[IGNORED] = -1;
  return table;
}

/** Pixels of each true class by predicted class, over any number of images. */
export class Confusion {
  readonly #values: readonly number[];
  readonly #position: Int32Array;
  /** [true, predicted] */
  readonly #pixels: Float64Array;

  constructor(values: readonly number[]) {
    this.#values = values;
    this.#position = positions(values);
    this.#pixels = new Float64Array(values.length ** 2);
  }

  /**
   * Scores of patches are enlarged bilinearly to the mask (pixel centres aligned, edges held); the largest is the prediction.
   * @param scores [gridHeight * gridWidth, classes]
   */
  add(scores: Float32Array, gridWidth: number, gridHeight: number, labels: LabelMap): void {
    const classes = this.#values.length;
    if (scores.length !== gridWidth * gridHeight * classes) {
      const found = `${scores.length} scores for ${gridWidth} x ${gridHeight} patches of ${classes} classes`;
      throw new AppError('masks-mismatch', `There are ${found}.`, 'Score every patch once for each class.');
    }
    const { width, height, data } = labels;
    const across = taps(width, gridWidth);
    const down = taps(height, gridHeight);
    const line = new Float64Array(gridWidth * classes); // the grid's rows, mixed for one line of pixels
    for (let y = 0; y < height; y++) {
      const upper = down.first[y] * gridWidth * classes;
      const lower = down.second[y] * gridWidth * classes;
      for (let i = 0; i < line.length; i++) line[i] = scores[upper + i] + down.share[y] * (scores[lower + i] - scores[upper + i]);
      for (let x = 0; x < width; x++) {
        const truth = this.#position[data[y * width + x]];
        if (truth < 0) continue;
        const left = across.first[x] * classes;
        const right = across.second[x] * classes;
        let best = 0;
        let most = -Infinity;
        for (let c = 0; c < classes; c++) {
          const score = line[left + c] + across.share[x] * (line[right + c] - line[left + c]);
          if (score > most) {
            most = score;
            best = c;
          }
        }
        this.#pixels[truth * classes + best]++;
      }
    }
  }

  /** Intersection over union of each class, pixels of all images together; 0 for a class that is neither there nor predicted. */
  iou(): number[] {
    const classes = this.#values.length;
    return this.#values.map((_, c) => {
      let union = -this.#pixels[c * classes + c];
      for (let other = 0; other < classes; other++) union += this.#pixels[c * classes + other] + this.#pixels[other * classes + c];
      return union > 0 ? this.#pixels[c * classes + c] / union : 0;
    });
  }
}

/** For each pixel along a side: the two cells between whose centres it lies, and how far it is towards the second. */
function taps(pixels: number, cells: number): { first: Int32Array; second: Int32Array; share: Float64Array } {
  const first = new Int32Array(pixels);
  const second = new Int32Array(pixels);
  const share = new Float64Array(pixels);
  for (let i = 0; i < pixels; i++) {
    const at = Math.min(cells - 1, Math.max(0, ((i + 0.5) * cells) / pixels - 0.5));
    first[i] = Math.floor(at);
    second[i] = Math.min(cells - 1, first[i] + 1);
    share[i] = at - first[i];
  }
  return { first, second, share };
}
