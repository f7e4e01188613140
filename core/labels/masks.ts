// Binary masks as pixels: parts, holes, boxes, overlap. Run lengths are in rle.ts, outlines in outlines.ts.
import { AppError, type Box } from '../contract/index.ts';

export interface Mask {
  readonly width: number;
  readonly height: number;
  /** 0 or 1, row-major [H,W]. */
  readonly data: Uint8Array;
}

/** 4: pixels that share an edge; 8: also those that share a corner. */
export type Connectivity = 4 | 8;

export interface Components {
  readonly width: number;
  readonly height: number;
  /** [H,W]: 0 background, 1..count, numbered in row-major order of each part's first pixel. */
  readonly labels: Int32Array;
  readonly count: number;
  /** Pixels of part i + 1. */
  readonly areas: Int32Array;
  /** Box of part i + 1. */
  readonly boxes: readonly Box[];
}

export function emptyMask(width: number, height: number): Mask {
  return { width, height, data: new Uint8Array(width * height) };
}

/** Pixels set. */
export function maskArea({ data }: Mask): number {
  let area = 0;
  for (let i = 0; i < data.length; i++) area += data[i]!;
  return area;
}

/** Smallest box around the set pixels; [0, 0, 0, 0] of an empty mask. */
export function maskBox({ width, height, data }: Mask): Box {
  let left = width;
  let right = -1;
  let top = -1;
  let bottom = -1;
  for (let y = 0; y < height; y++) {
    const row = y * width;
    const first = data.indexOf(1, row);
    if (first < 0) break; // none further down
    if (first >= row + width) {
      y = Math.floor(first / width) - 1;
      continue;
    }
    if (top < 0) top = y;
    bottom = y;
    left = Math.min(left, first - row);
    let last = row + width - 1;
    while (data[last] === 0) last--;
    right = Math.max(right, last - row);
  }
  return right < 0 ? [0, 0, 0, 0] : [left, top, right - left + 1, bottom - top + 1];
}

/** Intersection over union, 0..1; two empty masks give 0. @throws AppError masks-mismatch */
export function maskIou(a: Mask, b: Mask): number {
  sameSize(a, b);
  let both = 0;
  let either = 0;
  for (let i = 0; i < a.data.length; i++) {
    both += a.data[i]! & b.data[i]!;
    either += a.data[i]! | b.data[i]!;
  }
  return either === 0 ? 0 : both / either;
}

/** Pixels in a or b. @throws AppError masks-mismatch */
export function unionMask(a: Mask, b: Mask): Mask {
  return combine(a, b, (p, q) => p | q);
}

/** Pixels in a and b. @throws AppError masks-mismatch */
export function intersectMask(a: Mask, b: Mask): Mask {
  return combine(a, b, (p, q) => p & q);
}

/** Pixels in a that are not in b. @throws AppError masks-mismatch */
export function subtractMask(a: Mask, b: Mask): Mask {
  return combine(a, b, (p, q) => p & (q ^ 1));
}

function combine(a: Mask, b: Mask, pixel: (a: number, b: number) => number): Mask {
  sameSize(a, b);
  const out = emptyMask(a.width, a.height);
  for (let i = 0; i < out.data.length; i++) out.data[i] = pixel(a.data[i]!, b.data[i]!);
  return out;
}

function sameSize(a: Mask, b: Mask): void {
  if (a.width !== b.width || a.height !== b.height) {
    throw new AppError(
      'masks-mismatch',
      `A mask of ${a.width} x ${a.height} meets one of ${b.width} x ${b.height} pixels.`,
      'Use masks of the same image.',
    );
  }
}

/**
 * Labels the parts of a mask: one pass gives runs of each row provisional numbers and joins those that touch (union-find),
 * a second writes the final numbers.
 */
export function connectedComponents(mask: Mask, connectivity: Connectivity): Components {
  return label(mask, 1, connectivity);
}

/** Parts of the pixels equal to `value`. */
function label({ width, height, data }: Mask, value: 0 | 1, connectivity: Connectivity): Components {
  const labels = new Int32Array(width * height);
  let parents = new Int32Array(1024);
  let used = 1; // 0 is background
  const find = (i: number): number => {
    while (parents[i] !== i) i = parents[i] = parents[parents[i]!]!;
    return i;
  };
  const reach = connectivity === 8 ? 1 : 0;
  for (let y = 0; y < height; y++) {
    const row = y * width;
    for (let x = 0; x < width; x++) {
      if (data[row + x] !== value) continue;
      const start = x;
      while (x + 1 < width && data[row + x + 1] === value) x++;
      // runs of the row above that this run [start, x] touches
      let own = 0;
      if (y > 0) {
        const to = Math.min(width - 1, x + reach);
        for (let above = Math.max(0, start - reach); above <= to; above++) {
          const other = labels[row - width + above]!;
          if (other === 0) continue;
          const top = find(other);
          if (own === 0) own = top;
          else if (own !== top) {
            // the smaller number stays, so that numbers follow the first pixel
            const low = Math.min(own, top);
            parents[Math.max(own, top)] = low;
            own = low;
          }
          while (above < to && labels[row - width + above + 1] === other) above++;
        }
      }
      if (own === 0) {
        if (used === parents.length) {
          const larger = new Int32Array(used * 2);
          larger.set(parents);
          parents = larger;
        }
        own = used++;
        parents[own] = own;
      }
      labels.fill(own, row + start, row + x + 1);
    }
  }

  const final = new Int32Array(used);
  let count = 0;
  for (let i = 1; i < used; i++) final[i] = parents[i] === i ? ++count : final[find(i)]!;
  const areas = new Int32Array(count);
  const left = new Int32Array(count).fill(width);
  const right = new Int32Array(count).fill(-1);
  const top = new Int32Array(count).fill(-1);
  const bottom = new Int32Array(count);
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      if (labels[i] === 0) continue;
      const part = final[labels[i]!]! - 1;
      labels[i] = part + 1;
      areas[part]!++;
      if (x < left[part]!) left[part] = x;
      if (x > right[part]!) right[part] = x;
      if (top[part]! < 0) top[part] = y;
      bottom[part] = y;
    }
  }
  const boxes = Array.from(areas, (_, i): Box => [left[i]!, top[i]!, right[i]! - left[i]! + 1, bottom[i]! - top[i]! + 1]);
  return { width, height, labels, count, areas, boxes };
}

/** One part of `components` (1..count) as a mask of the whole image. */
export function componentMask({ width, height, labels, boxes }: Components, part: number): Mask {
  const mask = emptyMask(width, height);
  const [left, top, boxWidth, boxHeight] = boxes[part - 1]!;
  for (let y = top; y < top + boxHeight; y++) {
    for (let x = left; x < left + boxWidth; x++) {
      if (labels[y * width + x] === part) mask.data[y * width + x] = 1;
    }
  }
  return mask;
}

/** Without the parts under `minPixels` pixels. */
export function removeSmall(mask: Mask, minPixels: number, connectivity: Connectivity = 8): Mask {
  const { labels, areas } = connectedComponents(mask, connectivity);
  const data = mask.data.slice();
  for (let i = 0; i < data.length; i++) if (labels[i] !== 0 && areas[labels[i]! - 1]! < minPixels) data[i] = 0;
  return { ...mask, data };
}

/** With holes of up to `maxPixels` pixels filled. A hole is background that no path of edge neighbours leads out of. */
export function fillHoles(mask: Mask, maxPixels = Infinity): Mask {
  const { labels, areas, isHole } = background(mask);
  const data = mask.data.slice();
  for (let i = 0; i < data.length; i++) {
    const part = labels[i]! - 1;
    if (part >= 0 && isHole[part] === 1 && areas[part]! <= maxPixels) data[i] = 1;
  }
  return { ...mask, data };
}

/** Holes as in fillHoles. */
export function countHoles(mask: Mask): number {
  return background(mask).isHole.reduce((sum, hole) => sum + hole, 0);
}

function background(mask: Mask): Components & { readonly isHole: Uint8Array } {
  const parts = label(mask, 0, 4);
  const isHole = new Uint8Array(parts.count);
  parts.boxes.forEach(([x, y, w, h], i) => (isHole[i] = x > 0 && y > 0 && x + w < mask.width && y + h < mask.height ? 1 : 0));
  return { ...parts, isHole };
}
