/** Maps over the patches of a picture, brought to its pixels: what an executor is given for it, as plain arrays. */
import type { PixelImage } from './crops.ts';

/** One patch grid over a picture, and what its patches weigh at each pixel. */
export interface GuideGrid {
  /**
   * [W,4] and [H,4]: for each pixel column and row the first of the three patches around it, which may be -1 or past the
   * end, then the weights of the three, 0 outside the grid.
   */
  readonly across: Float32Array;
  readonly down: Float32Array;
  /** [gridHeight * gridWidth, 3] mean colours under the patches, 0..1. */
  readonly colours: Float32Array;
}

/** A picture whose edges the maps shall follow. */
export interface UpsampleGuide {
  readonly picture: PixelImage;
  /** Patches of every grid. */
  readonly gridWidth: number;
  readonly gridHeight: number;
  readonly grids: readonly GuideGrid[];
  /** [steps + 1] weights of squared colour distances, in equal steps from 0 to `farthest`; the last holds beyond. */
  readonly range: Float32Array;
  readonly farthest: number;
}

/** Words that a map takes in `PatchMaps.boxes`. */
export const BOX_LENGTH = 8;

/** Maps that are 0 outside a box of patches, each wanted in a box of pixels. */
export interface PatchMaps {
  /** [maps, 8]: x, y, width and height in patches, then in pixels. */
  readonly boxes: Int32Array;
  /** For each map [grids, height, width] of its box of patches, one map behind the other. */
  readonly values: Float32Array;
}

/** Pixels of a result begin at multiples of this, so that a mask's bits begin with a word. */
const ROW = 32;

/** Where the pixels of each map begin in a result, then where they end. */
export function mapOffsets({ boxes }: PatchMaps): number[] {
  const offsets = [0];
  for (let at = 0; at < boxes.length; at += BOX_LENGTH)
    offsets.push(offsets.at(-1)! + Math.ceil((boxes[at + 6]! * boxes[at + 7]!) / ROW) * ROW);
  return offsets;
}
