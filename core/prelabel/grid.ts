/**
 * Masks cut to their box, of patch grids or images: overlap, trimming, run lengths. What concerns whole masks (parts,
 * holes, files) is the labels room's.
 */
import { rleFromRuns } from '../labels/index.ts';
import type { Rle } from '../contract/index.ts';

/** One mask of a grid or box cut out of it: 0 or 1 per cell, with its origin in the whole grid. */
export interface BoxMask {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
  readonly data: Uint8Array;
  /** Cells that are 1. */
  readonly area: number;
}

/** Intersection over union of two box masks of the same grid; 0 when both are empty. */
export function boxIou(a: BoxMask, b: BoxMask): number {
  const union = a.area + b.area;
  if (union === 0) return 0;
  const both = boxIntersection(a, b);
  return both / (union - both);
}

/** Cells that both masks cover. */
export function boxIntersection(a: BoxMask, b: BoxMask): number {
  const x0 = Math.max(a.x, b.x);
  const y0 = Math.max(a.y, b.y);
  const x1 = Math.min(a.x + a.width, b.x + b.width);
  const y1 = Math.min(a.y + a.height, b.y + b.height);
  let both = 0;
  for (let y = y0; y < y1; y++) {
    const rowA = (y - a.y) * a.width - a.x;
    const rowB = (y - b.y) * b.width - b.x;
    for (let x = x0; x < x1; x++) both += a.data[rowA + x] & b.data[rowB + x];
  }
  return both;
}

/** The mask without its empty margin; null when nothing is left. */
export function trimBox(mask: BoxMask): BoxMask | null {
  const { data, width, height } = mask;
  let x0 = width;
  let x1 = -1;
  let y0 = height;
  let y1 = -1;
  let area = 0;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (data[y * width + x] === 0) continue;
      area++;
      if (x < x0) x0 = x;
      if (x > x1) x1 = x;
      if (y < y0) y0 = y;
      y1 = y;
    }
  }
  if (area === 0) return null;
  const w = x1 - x0 + 1;
  const h = y1 - y0 + 1;
  const cut = new Uint8Array(w * h);
  for (let y = 0; y < h; y++) cut.set(data.subarray((y + y0) * width + x0, (y + y0) * width + x1 + 1), y * w);
  return { x: mask.x + x0, y: mask.y + y0, width: w, height: h, data: cut, area };
}

/** Box mask of the listed cells of a grid `gridWidth` wide, with `margin` cells around, inside the grid. */
export function boxOfCells(cells: ArrayLike<number>, gridWidth: number, gridHeight: number, margin = 0): BoxMask {
  let x0 = gridWidth;
  let x1 = 0;
  let y0 = gridHeight;
  let y1 = 0;
  for (let i = 0; i < cells.length; i++) {
    const y = (cells[i] / gridWidth) | 0;
    const x = cells[i] - y * gridWidth;
    if (x < x0) x0 = x;
    if (x > x1) x1 = x;
    if (y < y0) y0 = y;
    if (y > y1) y1 = y;
  }
  x0 = Math.max(0, x0 - margin);
  y0 = Math.max(0, y0 - margin);
  x1 = Math.min(gridWidth - 1, x1 + margin);
  y1 = Math.min(gridHeight - 1, y1 + margin);
  const width = x1 - x0 + 1;
  const height = y1 - y0 + 1;
  const data = new Uint8Array(width * height);
  for (let i = 0; i < cells.length; i++) {
    const y = (cells[i] / gridWidth) | 0;
    data[(y - y0) * width + (cells[i] - y * gridWidth) - x0] = 1;
  }
  return { x: x0, y: y0, width, height, data, area: cells.length };
}

/** Run lengths of a box mask as a mask of the whole image, without drawing the whole image. */
export function boxRle(mask: BoxMask, imageWidth: number, imageHeight: number): Rle {
  const { data, width, height } = mask;
  const runs: number[] = [];
  let end = 0; // where the last run of ones ended, counted down the columns of the image
  for (let x = 0; x < width; x++) {
    const column = (mask.x + x) * imageHeight + mask.y;
    for (let y = 0; y < height; y++) {
      if (data[y * width + x] === 0) continue;
      let stop = y;
      while (stop < height && data[stop * width + x] === 1) stop++;
      const start = column + y;
      // A run that goes on from the foot of the column before is the same run.
      if (start === end && runs.length > 0) runs[runs.length - 1] += stop - y;
      else if (runs.length === 0) runs.push(start, stop - y);
      else runs.push(start - end, stop - y);
      end = column + stop;
      y = stop;
    }
  }
  const total = imageWidth * imageHeight;
  if (runs.length === 0) return rleFromRuns([total], [imageHeight, imageWidth]);
  if (end < total) runs.push(total - end);
  return rleFromRuns(runs, [imageHeight, imageWidth]);
}
