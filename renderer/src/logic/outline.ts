/** Outlines of a mask along its pixel edges, for drawing a crisp line at any zoom. Not for export: that is the host's. */
import type { Patch } from './rle.ts';

/**
 * Closed rings around the ones, in image coordinates (corners of pixels), straight runs merged; each ring is
 * [x0, y0, x1, y1, ...] without the first point repeated. Outer rings turn clockwise on screen, holes the other way.
 * Pixels that touch at a corner only belong to different rings.
 */
export function outlineRings(patch: Patch): number[][] {
  const { width: w, height: h, data } = patch;
  const at = (x: number, y: number): number => (x >= 0 && y >= 0 && x < w && y < h ? data[y * w + x]! : 0);
  // Directed edges with the mask on their right hand: 0 east, 1 south, 2 west, 3 north. Bit d of a corner: an edge leaves it so.
  const stride = w + 1;
  const leaving = new Uint8Array(stride * (h + 1));
  for (let y = 0; y < h; y++) {
    for (let x = 0; x < w; x++) {
      if (!data[y * w + x]) continue;
      if (!at(x, y - 1)) leaving[y * stride + x]! |= 1;
      if (!at(x + 1, y)) leaving[y * stride + x + 1]! |= 2;
      if (!at(x, y + 1)) leaving[(y + 1) * stride + x + 1]! |= 4;
      if (!at(x - 1, y)) leaving[(y + 1) * stride + x]! |= 8;
    }
  }
  const step = [1, stride, -1, -stride];
  const rings: number[][] = [];
  for (let start = 0; start < leaving.length; start++) {
    while (leaving[start]) {
      const ring: number[] = [];
      let corner = start;
      let direction = -1;
      do {
        const out = leaving[corner]!;
        let next: number;
        if (direction < 0) next = Math.log2(out & -out);
        else {
          // Turn right first: keeps diagonal neighbours apart.
          next = [1, 0, 3].map((turn) => (direction + turn) & 3).find((d) => out & (1 << d))!;
        }
        if (next !== direction) ring.push(patch.x + (corner % stride), patch.y + Math.floor(corner / stride));
        leaving[corner]! &= ~(1 << next);
        corner += step[next]!;
        direction = next;
      } while (corner !== start || !closesHere(leaving[corner]!, direction));
      // The start is a corner of the ring only if the last edge turns there.
      if (ring.length >= 4 && sameLine(ring)) ring.splice(0, 2);
      rings.push(ring);
    }
  }
  return rings;
}

/** Back at the start: the ring ends here unless a right-hand turn (first choice) is still open. */
function closesHere(out: number, direction: number): boolean {
  return (out & (1 << ((direction + 1) & 3))) === 0;
}

/** True when the first point lies on the line from the last to the second. */
function sameLine(ring: readonly number[]): boolean {
  const [x0, y0, x1, y1] = ring as [number, number, number, number];
  const xl = ring[ring.length - 2]!;
  const yl = ring[ring.length - 1]!;
  return (xl === x0 && x0 === x1) || (yl === y0 && y0 === y1);
}
