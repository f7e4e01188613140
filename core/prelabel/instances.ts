/**
 * One component of pixels into touching instances: peaks of the distance to its outline, grown down to the saddles between
 * them (watershed), accepted only when the parts are convincing objects.
 */
import { boxOfCells, trimBox } from './grid.ts';
import type { BoxMask } from './grid.ts';

export interface SplitOptions {
  /** Two peaks are two instances when the saddle between them lies this share of the larger peak under the smaller one. */
  readonly depth: number;
  /** Every part has at least this area; 0.25 of the median accepted area of the class. */
  readonly minArea: number;
  /** The parts' mean solidity (area over convex hull) exceeds that of the whole by at least this; two disks that share a seventh of their width gain 0.07. */
  readonly gain: number;
}

/**
 * Squared Euclidean distance of each set pixel to the nearest unset one or to the outside of the box (Felzenszwalb and
 * Huttenlocher 2012). @returns [height * width]
 */
export function squaredDistance(data: Uint8Array, width: number, height: number): Float64Array {
  const far = width * width + height * height + 4;
  // One pixel of margin on each side: outside the box nothing is set.
  const w = width + 2;
  const h = height + 2;
  const grid = new Float64Array(w * h);
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) if (data[y * width + x] === 1) grid[(y + 1) * w + x + 1] = far;
  const longest = Math.max(w, h);
  const f = new Float64Array(longest);
  const sites = new Int32Array(longest);
  const bounds = new Float64Array(longest + 1);
  const line = (start: number, stride: number, n: number): void => {
    for (let i = 0; i < n; i++) f[i] = grid[start + i * stride];
    let k = 0;
    sites[0] = 0;
    bounds[0] = -Infinity;
    bounds[1] = Infinity;
    for (let q = 1; q < n; q++) {
      // Where the parabola of q begins to lie below that of site p.
      const from = (p: number): number => (f[q] + q * q - f[p] - p * p) / (2 * (q - p));
      while (from(sites[k]) <= bounds[k]) k--;
      const s = from(sites[k]);
      k++;
      sites[k] = q;
      bounds[k] = s;
      bounds[k + 1] = Infinity;
    }
    k = 0;
    for (let q = 0; q < n; q++) {
      while (bounds[k + 1] < q) k++;
      grid[start + q * stride] = (q - sites[k]) ** 2 + f[sites[k]];
    }
  };
  for (let x = 0; x < w; x++) line(x, w, h);
  for (let y = 0; y < h; y++) line(y * w, 1, w);
  const out = new Float64Array(width * height);
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) out[y * width + x] = grid[(y + 1) * w + x + 1];
  return out;
}

/** Area over the area of the convex hull of the pixels' squares, 0..1. */
export function solidity(mask: BoxMask): number {
  const points: [number, number][] = [];
  for (let y = 0; y < mask.height; y++) {
    const row = y * mask.width;
    let first = -1;
    let last = -1;
    for (let x = 0; x < mask.width; x++) {
      if (mask.data[row + x] === 0) continue;
      if (first < 0) first = x;
      last = x;
    }
    if (first >= 0) points.push([first, y], [first, y + 1], [last + 1, y], [last + 1, y + 1]);
  }
  if (points.length === 0) return 0;
  points.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  const half = (ordered: [number, number][]): [number, number][] => {
    const chain: [number, number][] = [];
    for (const p of ordered) {
      while (chain.length >= 2) {
        const a = chain[chain.length - 2];
        const b = chain[chain.length - 1];
        if ((b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0]) > 0) break;
        chain.pop();
      }
      chain.push(p);
    }
    chain.pop();
    return chain;
  };
  const hull = [...half(points), ...half(points.reverse())];
  let twice = 0;
  for (let i = 0; i < hull.length; i++) {
    const a = hull[i];
    const b = hull[(i + 1) % hull.length];
    twice += a[0] * b[1] - a[1] * b[0];
  }
  return mask.area / (Math.abs(twice) / 2);
}

/** Parts of one connected mask, or the mask itself when no split convinces. */
export function splitInstances(mask: BoxMask, options: SplitOptions): BoxMask[] {
  const { data, width, height } = mask;
  if (mask.area < 2 * options.minArea) return [mask];
  const distance = squaredDistance(data, width, height);
  const cells: number[] = [];
  let highest = 0;
  for (let i = 0; i < data.length; i++) {
    if (data[i] === 0) continue;
    cells.push(i);
    distance[i] = Math.sqrt(distance[i]);
    if (distance[i] > highest) highest = distance[i];
  }
  const depth = options.depth * highest;
  // From the highest pixel down: a pixel joins the basin of its neighbours; where two basins meet, the one with the lower
  // peak is swallowed unless its peak rises enough above this saddle.
  cells.sort((a, b) => distance[b] - distance[a] || a - b);
  const basin = new Int32Array(data.length).fill(-1);
  const parent: number[] = [];
  const peak: number[] = [];
  const find = (b: number): number => {
    while (parent[b] !== b) b = parent[b] = parent[parent[b]];
    return b;
  };
  for (const at of cells) {
    const x = at % width;
    const y = (at / width) | 0;
    let own = -1; // the basin uphill of this pixel
    let uphill = -1;
    let meeting = -1;
    for (let dy = -1; dy <= 1; dy++) {
      for (let dx = -1; dx <= 1; dx++) {
        const nx = x + dx;
        const ny = y + dy;
        if (nx < 0 || ny < 0 || nx >= width || ny >= height) continue;
        const near = ny * width + nx;
        if (basin[near] < 0) continue;
        const other = find(basin[near]);
        if (meeting >= 0 && find(meeting) !== other) {
          const before = find(meeting);
          const low = peak[other] < peak[before] ? other : before;
          if (peak[low] - distance[at] < depth) parent[low] = low === other ? before : other;
        }
        meeting = other;
        // Diagonal neighbours are farther: slope, not height.
        const slope = (distance[near] - distance[at]) / (dx !== 0 && dy !== 0 ? Math.SQRT2 : 1);
        if (slope > uphill) {
          uphill = slope;
          own = other;
        }
      }
    }
    if (own < 0) {
      own = parent.length;
      parent.push(own);
      peak.push(distance[at]);
    }
    basin[at] = own;
  }
  const groups = new Map<number, number[]>();
  for (const at of cells) {
    const b = find(basin[at]);
    const group = groups.get(b);
    if (group === undefined) groups.set(b, [at]);
    else group.push(at);
  }
  if (groups.size < 2) return [mask];
  const parts: BoxMask[] = [];
  let sum = 0;
  for (const group of groups.values()) {
    if (group.length < options.minArea) return [mask];
    const part = boxOfCells(group, width, height);
    parts.push({ ...part, x: part.x + mask.x, y: part.y + mask.y });
    sum += solidity(part) * group.length;
  }
  const whole = trimBox(mask);
  return whole !== null && sum / mask.area >= solidity(whole) + options.gain ? parts : [mask];
}
