/** The bitmap under the brush: one byte a pixel, the whole image, painted by strokes and polygons. Knows no canvas. */
import { decodeRle, encodeRle, type Patch } from './rle.ts';
import type { Rle } from '../../../core/contract/index.ts';

/** Pixels [left, right) x [top, bottom). */
export interface Rect {
  readonly left: number;
  readonly top: number;
  readonly right: number;
  readonly bottom: number;
}

export interface Bitmap {
  readonly width: number;
  readonly height: number;
  /** [height, width] row-major, 0 or 1. */
  readonly data: Uint8Array;
}

export interface Point {
  readonly x: number;
  readonly y: number;
}

export function emptyBitmap(width: number, height: number): Bitmap {
  return { width, height, data: new Uint8Array(width * height) };
}

export function bitmapFromRle(rle: Rle): Bitmap {
  const [height, width] = rle.size;
  const bitmap = emptyBitmap(width, height);
  putPatch(bitmap, decodeRle(rle));
  return bitmap;
}

/** Copy of the pixels inside a rectangle. */
export function cutPatch(bitmap: Bitmap, rect: Rect): Patch {
  const width = Math.max(0, rect.right - rect.left);
  const height = Math.max(0, rect.bottom - rect.top);
  const data = new Uint8Array(width * height);
  for (let row = 0; row < height; row++) {
    const from = (rect.top + row) * bitmap.width + rect.left;
    data.set(bitmap.data.subarray(from, from + width), row * width);
  }
  return { x: rect.left, y: rect.top, width, height, data };
}

/** Writes a patch's pixels back, zeros too. */
export function putPatch(bitmap: Bitmap, patch: Patch): void {
  for (let row = 0; row < patch.height; row++) {
    bitmap.data.set(patch.data.subarray(row * patch.width, (row + 1) * patch.width), (patch.y + row) * bitmap.width + patch.x);
  }
}

/** Smallest rectangle around the ones, or null when there are none. */
export function contentRect(bitmap: Bitmap): Rect | null {
  const { width, height, data } = bitmap;
  let left = width;
  let right = 0;
  let top = -1;
  let bottom = 0;
  for (let row = 0; row < height; row++) {
    const start = row * width;
    const line = data.subarray(start, start + width);
    const first = line.indexOf(1);
    if (first < 0) continue;
    if (top < 0) top = row;
    bottom = row + 1;
    left = Math.min(left, first);
    right = Math.max(right, line.lastIndexOf(1) + 1);
  }
  return top < 0 ? null : { left, top, right, bottom };
}

/** Run lengths of the whole bitmap; null when it is empty. */
export function bitmapToRle(bitmap: Bitmap): Rle | null {
  const rect = contentRect(bitmap);
  return rect && encodeRle(cutPatch(bitmap, rect), bitmap.width, bitmap.height);
}

/** Smallest rectangle around both; null stands for nothing. */
export function unionRect(a: Rect | null, b: Rect | null): Rect | null {
  if (!a || !b) return a ?? b;
  return {
    left: Math.min(a.left, b.left),
    top: Math.min(a.top, b.top),
    right: Math.max(a.right, b.right),
    bottom: Math.max(a.bottom, b.bottom),
  };
}

/**
 * Paints the brush along a segment: every pixel whose centre lies within `radius` (image pixels) of it.
 * The radius is never below half a pixel's diagonal, so that the pixel under the pointer is always painted.
 * @returns the rectangle that may have changed, clipped to the bitmap, or null when all of it is outside
 */
export function strokeSegment(bitmap: Bitmap, from: Point, to: Point, radius: number, value: 0 | 1): Rect | null {
  const r = Math.max(radius, Math.SQRT1_2);
  const left = Math.max(0, Math.floor(Math.min(from.x, to.x) - r));
  const top = Math.max(0, Math.floor(Math.min(from.y, to.y) - r));
  const right = Math.min(bitmap.width, Math.ceil(Math.max(from.x, to.x) + r));
  const bottom = Math.min(bitmap.height, Math.ceil(Math.max(from.y, to.y) + r));
  if (left >= right || top >= bottom) return null;
  const dx = to.x - from.x;
  const dy = to.y - from.y;
  const length2 = dx * dx + dy * dy;
  for (let row = top; row < bottom; row++) {
    const py = row + 0.5 - from.y;
    for (let column = left; column < right; column++) {
      const px = column + 0.5 - from.x;
      const t = length2 === 0 ? 0 : Math.min(1, Math.max(0, (px * dx + py * dy) / length2));
      const ex = px - t * dx;
      const ey = py - t * dy;
      if (ex * ex + ey * ey <= r * r) bitmap.data[row * bitmap.width + column] = value;
    }
  }
  return { left, top, right, bottom };
}

/**
 * Fills a closed polygon (even-odd rule): every pixel whose centre is inside. Scanlines through pixel centres; an edge
 * counts where it goes down or up over the centre line, its upper end included and its lower end not, so that a vertex
 * on the line counts once and neighbours share no pixel.
 * @returns the rectangle that may have changed, or null for under three points or all outside
 */
export function fillPolygon(bitmap: Bitmap, points: readonly Point[], value: 0 | 1): Rect | null {
  if (points.length < 3) return null;
  const ys = points.map((p) => p.y);
  const xs = points.map((p) => p.x);
  const left = Math.max(0, Math.floor(Math.min(...xs)));
  const top = Math.max(0, Math.floor(Math.min(...ys)));
  const right = Math.min(bitmap.width, Math.ceil(Math.max(...xs)));
  const bottom = Math.min(bitmap.height, Math.ceil(Math.max(...ys)));
  if (left >= right || top >= bottom) return null;
  for (let row = top; row < bottom; row++) {
    const y = row + 0.5;
    const crossings: number[] = [];
    for (let i = 0; i < points.length; i++) {
      const a = points[i]!;
      const b = points[(i + 1) % points.length]!;
      if (a.y <= y !== b.y <= y) crossings.push(a.x + ((y - a.y) / (b.y - a.y)) * (b.x - a.x));
    }
    crossings.sort((a, b) => a - b);
    for (let i = 0; i + 1 < crossings.length; i += 2) {
      // Centres at column + 0.5 in [start, end).
      const start = Math.max(left, Math.ceil(crossings[i]! - 0.5));
      const end = Math.min(right, Math.ceil(crossings[i + 1]! - 0.5));
      if (end > start) bitmap.data.fill(value, row * bitmap.width + start, row * bitmap.width + end);
    }
  }
  return { left, top, right, bottom };
}
