// Outlines along pixel edges: corners at integer coordinates, every edge horizontal or vertical. This is the outline whose
// pixels COCO's rasteriser gives back exactly; other consumers (YOLO, labelme) want pixel centres and are not served here.
import type { Mask } from './masks.ts';

/** Corners [x, y] of a closed line, the first not repeated at the end. */
export type Ring = readonly (readonly [x: number, y: number])[];

/**
 * All outlines of a mask, in row-major order of their first edge. Outer rings run clockwise as seen on the screen
 * (ringArea > 0), the rings of holes counter-clockwise (ringArea < 0).
 *
 * Pixels that touch only at a corner are separate (4-connected), background that does is joined: so a gap that is open at
 * a corner is no hole, and the fewest pixels are lost to formats that have no holes.
 */
export function outlinePixelEdges({ width, height, data }: Mask): [x: number, y: number][][] {
  const rings: [number, number][][] = [];
  // Top edges of pixels already in a ring. Each ring has at least one: it must come back from the right.
  const done = new Uint8Array(width * height);
  const set = (x: number, y: number): boolean => x >= 0 && y >= 0 && x < width && y < height && data[y * width + x] === 1;

  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const i = y * width + x;
      if (data[i] === 0 || done[i] === 1 || (y > 0 && data[i - width] === 1)) continue;
      // The leftmost untraced top edge of its row starts at a corner, so the ring begins with one.
      const ring: [number, number][] = [];
      let px = x;
      let py = y;
      let dx = 1;
      let dy = 0;
      do {
        ring.push([px, py]);
        // Straight on while there is mask on the right hand and none on the left.
        for (;;) {
          if (dx === 1) done[py * width + px] = 1;
          px += dx;
          py += dy;
          // the two pixels ahead of corner (px, py)
          const aheadRight = set(px + (dx - dy - 1) / 2, py + (dx + dy - 1) / 2);
          const aheadLeft = set(px + (dx + dy - 1) / 2, py + (dy - dx - 1) / 2);
          if (!aheadRight) {
            [dx, dy] = [-dy, dx]; // right turn around the same pixel
            break;
          }
          if (aheadLeft) {
            [dx, dy] = [dy, -dx];
            break;
          }
        }
      } while (px !== x || py !== y || dx !== 1);
      rings.push(ring);
    }
  }
  return rings;
}

/** Pixels enclosed, negative for the ring of a hole (shoelace formula, y down). */
export function ringArea(ring: Ring): number {
  let twice = 0;
  for (let i = 0; i < ring.length; i++) {
    const [x0, y0] = ring[i]!;
    const [x1, y1] = ring[(i + 1) % ring.length]!;
    twice += x0 * y1 - x1 * y0;
  }
  return twice / 2;
}

/**
 * Fills one ring of horizontal and vertical edges into a mask (pixels already set stay): every vertical edge flips the
 * pixels to its right.
 * @returns false, with nothing filled, when the ring has other edges, other corners than integers, or leaves the mask
 */
export function fillRing({ width, height, data }: Mask, ring: Ring): boolean {
  const fits = ring.every(([x, y], i) => {
    const [nextX, nextY] = ring[(i + 1) % ring.length]!;
    return Number.isInteger(x) && Number.isInteger(y) && x >= 0 && y >= 0 && x <= width && y <= height && (x === nextX || y === nextY);
  });
  if (!fits) return false;
  const ys = ring.map(([, y]) => y);
  const top = Math.min(...ys);
  const bottom = Math.max(...ys);
  const stride = width + 1;
  const flips = new Uint8Array(stride * (bottom - top));
  ring.forEach(([x, y], i) => {
    const nextY = ring[(i + 1) % ring.length]![1];
    for (let row = Math.min(y, nextY); row < Math.max(y, nextY); row++) flips[(row - top) * stride + x]! ^= 1;
  });
  for (let y = top; y < bottom; y++) {
    for (let x = 0, inside = 0; x < width; x++) {
      inside ^= flips[(y - top) * stride + x]!;
      if (inside === 1) data[y * width + x] = 1;
    }
  }
  return true;
}
