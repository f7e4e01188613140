// COCO's compressed run lengths, exactly as pycocotools writes and reads them (cocodataset/cocoapi, common/maskApi.c).
// Runs go down the columns and alternate zeros, ones, zeros, ... starting with zeros (the first may be 0).
import { AppError, type Box, type Rle } from '../contract/index.ts';
import type { Mask } from './masks.ts';

/** Lengths of the runs, zeros first; they add up to height x width. */
export function rleRuns(rle: Rle): Uint32Array {
  const { counts, size } = rle;
  const runs = new Uint32Array(counts.length);
  let used = 0;
  let sum = 0;
  for (let at = 0; at < counts.length;) {
    let value = 0;
    for (let shift = 0, more = true; more; shift += 5) {
      const digit = counts.charCodeAt(at++) - 48;
      if (!(digit >= 0 && digit < 64) || shift > 30) throw invalid(`its run lengths are not valid at character ${at}`);
      value |= (digit & 31) << shift;
      more = (digit & 32) !== 0;
      // the last digit carries the sign
      if (!more && digit & 16 && shift <= 25) value |= -1 << (shift + 5);
    }
    if (used > 2) value += runs[used - 2]!;
    if (value < 0) throw invalid('it has a run of negative length');
    runs[used++] = value;
    sum += value;
  }
  if (sum !== size[0] * size[1]) throw invalid(`its runs cover ${sum} of ${size[0]} x ${size[1]} pixels`);
  return runs.subarray(0, used);
}

/** @param runs as rleRuns gives them */
export function rleFromRuns(runs: ArrayLike<number>, size: readonly [height: number, width: number]): Rle {
  const characters = new Uint8Array(runs.length * 7);
  let used = 0;
  for (let i = 0; i < runs.length; i++) {
    let value = i > 2 ? runs[i]! - runs[i - 2]! : runs[i]!;
    for (let more = true; more;) {
      const digit = value & 31;
      value >>= 5;
      more = digit & 16 ? value !== -1 : value !== 0;
      characters[used++] = (more ? digit | 32 : digit) + 48;
    }
  }
  return { size, counts: Buffer.from(characters.buffer, 0, used).toString('latin1') };
}

/** Run lengths of a mask. */
export function encodeRle({ width, height, data }: Mask): Rle {
  let runs = new Uint32Array(256);
  let used = 0;
  let current = 0;
  let length = 0;
  for (let x = 0; x < width; x++) {
    for (let y = 0, i = x; y < height; y++, i += width) {
      if (data[i] === current) {
        length++;
        continue;
      }
      if (used + 2 > runs.length) {
        const larger = new Uint32Array(runs.length * 2);
        larger.set(runs);
        runs = larger;
      }
      runs[used++] = length;
      current ^= 1;
      length = 1;
    }
  }
  runs[used++] = length;
  return rleFromRuns(runs.subarray(0, used), [height, width]);
}

/**
 * Pixels of run lengths; with `box`, only those inside it, as a mask of the box's size.
 * @throws AppError mask-invalid
 */
export function decodeRle(rle: Rle, box?: Box): Mask {
  const height = rle.size[0];
  const [left, top, width, boxHeight] = box ?? [0, 0, rle.size[1], height];
  const data = new Uint8Array(width * boxHeight);
  const bottom = top + boxHeight;
  forEachColumnRun(rleRuns(rle), height, (x, from, to) => {
    if (x < left || x >= left + width) return;
    const end = Math.min(to, bottom);
    for (let y = Math.max(from, top), i = (y - top) * width + x - left; y < end; y++, i += width) data[i] = 1;
  });
  return { width, height: boxHeight, data };
}

/** Pixels set. @throws AppError mask-invalid */
export function rleArea(rle: Rle): number {
  const runs = rleRuns(rle);
  let area = 0;
  for (let i = 1; i < runs.length; i += 2) area += runs[i]!;
  return area;
}

/** Smallest box around the set pixels; [0, 0, 0, 0] of an empty mask. @throws AppError mask-invalid */
export function rleBox(rle: Rle): Box {
  let left = rle.size[1];
  let right = -1;
  let top: number = rle.size[0];
  let bottom = -1;
  forEachColumnRun(rleRuns(rle), rle.size[0], (x, from, to) => {
    if (x < left) left = x;
    if (x > right) right = x;
    if (from < top) top = from;
    if (to > bottom) bottom = to;
  });
  return right < 0 ? [0, 0, 0, 0] : [left, top, right - left + 1, bottom - top];
}

/** Intersection over union, 0..1; two empty masks give 0. @throws AppError masks-mismatch, mask-invalid */
export function rleIou(a: Rle, b: Rle): number {
  if (a.size[0] !== b.size[0] || a.size[1] !== b.size[1]) {
    throw new AppError(
      'masks-mismatch',
      `A mask of ${a.size[1]} x ${a.size[0]} meets one of ${b.size[1]} x ${b.size[0]} pixels.`,
      'Use masks of the same image.',
    );
  }
  const runsA = rleRuns(a);
  const runsB = rleRuns(b);
  let both = 0;
  let either = 0;
  let i = 0;
  let j = 0;
  let leftA = runsA[0] ?? 0;
  let leftB = runsB[0] ?? 0;
  while (i < runsA.length && j < runsB.length) {
    const step = Math.min(leftA, leftB);
    const inA = i % 2;
    const inB = j % 2;
    both += step * (inA & inB);
    either += step * (inA | inB);
    leftA -= step;
    leftB -= step;
    if (leftA === 0) leftA = runsA[++i] ?? 0;
    if (leftB === 0) leftB = runsB[++j] ?? 0;
  }
  return either === 0 ? 0 : both / either;
}

/** Calls with the set pixels as pieces of columns: column x, rows from..to (exclusive). */
function forEachColumnRun(runs: Uint32Array, height: number, piece: (x: number, from: number, to: number) => void): void {
  let position = 0;
  for (let i = 0; i < runs.length; i++) {
    const end = position + runs[i]!;
    if (i % 2 === 1) {
      for (let start = position; start < end;) {
        const x = Math.floor(start / height);
        const to = Math.min(end, (x + 1) * height);
        piece(x, start - x * height, to - x * height);
        start = to;
      }
    }
    position = end;
  }
}

function invalid(what: string): AppError {
  return new AppError('mask-invalid', `A mask cannot be read: ${what}.`, 'Draw the mask again, or take its file from a backup.');
}
