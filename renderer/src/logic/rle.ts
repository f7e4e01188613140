/**
 * COCO compressed run lengths <-> bitmaps, for the page. Not a mask library: measuring and cleaning masks is the
 * host's work. Format: runs down columns, alternating 0s and 1s and starting with 0s, as written by pycocotools
 * (cocoapi/common/maskApi.c, rleToString and rleFrString).
 */
import type { Box, Rle } from '../../../core/contract/index.ts';

/** A mask cut to its box: `data` is [height, width] row-major, 0 or 1; `x`, `y` place it in the whole image. */
export interface Patch {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
  readonly data: Uint8Array;
}

/**
 * Run lengths of a compressed string, down columns, zeros first.
 * @throws Error when the string ends inside a number or a run is negative
 */
export function countsFromString(text: string): number[] {
  const counts: number[] = [];
  let at = 0;
  while (at < text.length) {
    let value = 0;
    let shift = 0;
    let more = true;
    while (more) {
      if (at >= text.length) throw new Error(`Run lengths end inside a number at character ${at}.`);
      const code = text.charCodeAt(at++) - 48;
      value |= (code & 0x1f) << shift;
      more = (code & 0x20) !== 0;
      shift += 5;
      if (!more && code & 0x10) value |= -1 << shift;
    }
    // From the third run on, a number is the difference to the run two before it.
    if (counts.length > 2) value += counts[counts.length - 2]!;
    if (value < 0) throw new Error(`Run ${counts.length} has the negative length ${value}.`);
    counts.push(value);
  }
  return counts;
}

/** Compressed string of run lengths (down columns, zeros first). */
export function countsToString(counts: readonly number[]): string {
  let text = '';
  for (let i = 0; i < counts.length; i++) {
    let value = counts[i]!;
    if (i > 2) value -= counts[i - 2]!;
    for (let more = true; more;) {
      let code = value & 0x1f;
      value >>= 5;
      more = code & 0x10 ? value !== -1 : value !== 0;
      if (more) code |= 0x20;
      text += String.fromCharCode(code + 48);
    }
  }
  return text;
}

/** The mask inside `box` ([x, y, width, height], whole pixels), or inside its own smallest box when none is given. */
export function decodeRle(rle: Rle, box?: Box): Patch {
  const [height, width] = rle.size;
  const counts = countsFromString(rle.counts);
  const [x, y, w, h] = box ? clipBox(box, width, height) : boxOfCounts(counts, height, width);
  const data = new Uint8Array(w * h);
  let position = 0;
  for (let i = 0; i < counts.length; i++) {
    const end = position + counts[i]!;
    if (end > width * height) throw new Error(`Runs cover ${end} pixels of an image of ${width * height}.`);
    if (i & 1) paintRun(data, x, y, w, h, height, position, end);
    position = end;
  }
  return { x, y, width: w, height: h, data };
}

/** Sets the pixels of one run of ones; positions count down columns of an image `height` tall. */
function paintRun(data: Uint8Array, x: number, y: number, w: number, h: number, height: number, start: number, end: number): void {
  const lastColumn = Math.min(x + w - 1, Math.floor((end - 1) / height));
  for (let column = Math.max(x, Math.floor(start / height)); column <= lastColumn; column++) {
    const from = Math.max(start - column * height, y);
    const to = Math.min(end - column * height, y + h, height);
    for (let row = from; row < to; row++) data[(row - y) * w + (column - x)] = 1;
  }
}

/** Smallest box around the ones; [0, 0, 0, 0] of an empty mask. */
function boxOfCounts(counts: readonly number[], height: number, width: number): Box {
  let left = width;
  let right = -1;
  let top = height;
  let bottom = -1;
  let position = 0;
  for (let i = 0; i < counts.length; i++) {
    const end = position + counts[i]!;
    if (i & 1 && end > position) {
      const first = Math.floor(position / height);
      const last = Math.floor((end - 1) / height);
      left = Math.min(left, first);
      right = Math.max(right, last);
      // A run that goes over a column's end touches both the image's top and its bottom.
      top = Math.min(top, last > first ? 0 : position - first * height);
      bottom = Math.max(bottom, last > first ? height - 1 : end - 1 - last * height);
    }
    position = end;
  }
  return right < 0 ? [0, 0, 0, 0] : [left, top, right - left + 1, bottom - top + 1];
}

function clipBox(box: Box, width: number, height: number): [number, number, number, number] {
  const x = Math.max(0, Math.floor(box[0]));
  const y = Math.max(0, Math.floor(box[1]));
  return [
    x,
    y,
    Math.max(0, Math.min(width, Math.ceil(box[0] + box[2])) - x),
    Math.max(0, Math.min(height, Math.ceil(box[1] + box[3])) - y),
  ];
}

/** Run lengths of a patch inside a whole image of `width` x `height`; pixels outside the patch are 0. */
export function encodeRle(patch: Patch, width: number, height: number): Rle {
  const counts: number[] = [];
  let value = 0;
  let run = patch.x * height;
  for (let column = 0; column < patch.width; column++) {
    // Zeros above the patch, its own column, zeros below it.
    if (value === 0) run += patch.y;
    else if (patch.y > 0) {
      counts.push(run);
      value = 0;
      run = patch.y;
    }
    for (let row = 0; row < patch.height; row++) {
      const pixel = patch.data[row * patch.width + column]!;
      if (pixel === value) run++;
      else {
        counts.push(run);
        value = pixel;
        run = 1;
      }
    }
    const below = height - patch.y - patch.height;
    if (value === 0) run += below;
    else if (below > 0) {
      counts.push(run);
      value = 0;
      run = below;
    }
  }
  const rest = (width - patch.x - patch.width) * height;
  if (value === 0) run += rest;
  else if (rest > 0) {
    counts.push(run);
    run = rest;
  }
  counts.push(run);
  return { size: [height, width], counts: countsToString(counts) };
}

/** True when the image pixel (x, y) belongs to the patch's mask. */
export function patchHas(patch: Patch, x: number, y: number): boolean {
  const column = Math.floor(x) - patch.x;
  const row = Math.floor(y) - patch.y;
  return column >= 0 && row >= 0 && column < patch.width && row < patch.height && patch.data[row * patch.width + column] === 1;
}
