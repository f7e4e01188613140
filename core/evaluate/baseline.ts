/** Proposals without any network: k-means on colour and position, the thing a trained network has to beat. */
import type { RgbImage } from '../images/index.ts';
import type { Mask } from '../labels/index.ts';
import { Random } from '../random.ts';

export interface BaselineOptions {
  /** Numbers of clusters; the components of all are pooled. Default 8 alone: the strongest of 2 to 32 and their mixes on nuclei and coffee leaves. */
  readonly clusters?: readonly number[];
  /** Weight of position: 1 makes the image's longer side as far as 100 Lab units. Default 0.2, the strongest of 0.2 to 1. */
  readonly position?: number;
  /** Components under this many pixels are no proposals. Default 17, as objects have over 16. */
  readonly minPixels?: number;
  readonly seed?: number;
}

/** sRGB bytes to CIE L*a*b* (D65), interleaved. @param rgb [n, 3] @returns [n, 3]: L 0..100 */
export function rgbToLab(rgb: Uint8Array): Float32Array {
  const linear = new Float32Array(256);
  for (let i = 0; i < 256; i++) linear[i] = i / 255 <= 0.04045 ? i / 255 / 12.92 : ((i / 255 + 0.055) / 1.055) ** 2.4;
  const f = (t: number): number => (t > 216 / 24389 ? Math.cbrt(t) : (t * 24389) / 27 / 116 + 16 / 116);
  const out = new Float32Array(rgb.length);
  for (let i = 0; i < rgb.length; i += 3) {
    const r = linear[rgb[i]];
    const g = linear[rgb[i + 1]];
    const b = linear[rgb[i + 2]];
    const x = f((0.4124564 * r + 0.3575761 * g + 0.1804375 * b) / 0.95047);
    const y = f(0.2126729 * r + 0.7151522 * g + 0.072175 * b);
    const z = f((0.0193339 * r + 0.119192 * g + 0.9503041 * b) / 1.08883);
    out[i] = 116 * y - 16;
    out[i + 1] = 500 * (x - y);
    out[i + 2] = 200 * (y - z);
  }
  return out;
}

const dims = 5;

/** Lloyd's k-means with k-means++ starts, in place of a library: points [n, 5]. @returns centres [k, 5] */
function kMeans(points: Float32Array, k: number, random: Random): Float32Array {
  const n = points.length / dims;
  const centres = new Float32Array(k * dims);
  const nearest = new Float64Array(n).fill(Infinity);
  let pick = random.int(n);
  for (let c = 0; c < k; c++) {
    centres.set(points.subarray(pick * dims, (pick + 1) * dims), c * dims);
    let total = 0;
    for (let i = 0; i < n; i++) {
      const d = distance(points, i, centres, c);
      if (d < nearest[i]) nearest[i] = d;
      total += nearest[i];
    }
    let target = random.uniform() * total;
    pick = n - 1;
    for (let i = 0; i < n; i++) {
      target -= nearest[i];
      if (target <= 0) {
        pick = i;
        break;
      }
    }
  }
  const sums = new Float64Array(k * dims);
  const counts = new Float64Array(k);
  for (let iteration = 0; iteration < 12; iteration++) {
    sums.fill(0);
    counts.fill(0);
    for (let i = 0; i < n; i++) {
      const c = closest(points, i, centres, k);
      counts[c]++;
      for (let j = 0; j < dims; j++) sums[c * dims + j] += points[i * dims + j];
    }
    for (let c = 0; c < k; c++) if (counts[c] > 0) for (let j = 0; j < dims; j++) centres[c * dims + j] = sums[c * dims + j] / counts[c];
  }
  return centres;
}

function distance(points: Float32Array, i: number, centres: Float32Array, c: number): number {
  let sum = 0;
  for (let j = 0; j < dims; j++) {
    const d = points[i * dims + j] - centres[c * dims + j];
    sum += d * d;
  }
  return sum;
}

function closest(points: Float32Array, i: number, centres: Float32Array, k: number): number {
  let best = 0;
  let least = Infinity;
  for (let c = 0; c < k; c++) {
    const d = distance(points, i, centres, c);
    if (d < least) {
      least = d;
      best = c;
    }
  }
  return best;
}

interface Component {
  readonly members: Int32Array;
}

/** 4-connected components of a label map with at least `least` pixels, largest first. */
function componentsOf(labels: Uint8Array, width: number, height: number, least: number): Component[] {
  const seen = new Uint8Array(labels.length);
  const stack = new Int32Array(labels.length);
  const found: Component[] = [];
  for (let start = 0; start < labels.length; start++) {
    if (seen[start] === 1) continue;
    const members: number[] = [];
    let top = 0;
    stack[top++] = start;
    seen[start] = 1;
    while (top > 0) {
      const at = stack[--top];
      members.push(at);
      const x = at % width;
      if (x > 0) top = visit(at - 1, labels[at], labels, seen, stack, top);
      if (x + 1 < width) top = visit(at + 1, labels[at], labels, seen, stack, top);
      if (at >= width) top = visit(at - width, labels[at], labels, seen, stack, top);
      if (at + width < width * height) top = visit(at + width, labels[at], labels, seen, stack, top);
    }
    if (members.length >= least) found.push({ members: Int32Array.from(members) });
  }
  return found.sort((a, b) => b.members.length - a.members.length);
}

function visit(at: number, label: number, labels: Uint8Array, seen: Uint8Array, stack: Int32Array, top: number): number {
  if (seen[at] === 1 || labels[at] !== label) return top;
  seen[at] = 1;
  stack[top] = at;
  return top + 1;
}

/**
 * Connected components of k-means clusters on L*a*b* colour and position, largest first and, for several k, taken in turn
 * from each k; a component that repeats one already taken (IoU above 0.8) is left out.
 * @param maxProposals most masks returned
 */
export function colourPositionBaseline(image: RgbImage, maxProposals: number, options: BaselineOptions = {}): Mask[] {
  const { width, height } = image;
  const n = width * height;
  const clusters = options.clusters ?? [8];
  const weight = ((options.position ?? 0.2) * 100) / Math.max(width, height);
  const lab = rgbToLab(image.data);
  const points = new Float32Array(n * dims);
  for (let i = 0; i < n; i++) {
    points[i * dims] = lab[i * 3];
    points[i * dims + 1] = lab[i * 3 + 1];
    points[i * dims + 2] = lab[i * 3 + 2];
    points[i * dims + 3] = (i % width) * weight;
    points[i * dims + 4] = ((i / width) | 0) * weight;
  }
  const random = new Random(options.seed ?? 0, n);
  const sampled = Math.min(n, 4000);
  const sample = new Float32Array(sampled * dims);
  for (let s = 0; s < sampled; s++) {
    const i = n <= 4000 ? s : random.int(n);
    sample.set(points.subarray(i * dims, (i + 1) * dims), s * dims);
  }
  const labels = new Uint8Array(n);
  const queues = clusters.map((k) => {
    const centres = kMeans(sample, Math.min(k, sampled), random);
    for (let i = 0; i < n; i++) labels[i] = closest(points, i, centres, Math.min(k, sampled));
    return componentsOf(labels, width, height, options.minPixels ?? 17);
  });
  const taken: { mask: Uint8Array; area: number }[] = [];
  for (let rank = 0; taken.length < maxProposals && queues.some((q) => rank < q.length); rank++) {
    for (const queue of queues) {
      if (rank >= queue.length || taken.length >= maxProposals) continue;
      const { members } = queue[rank];
      const repeats = taken.some(({ mask, area }) => {
        if (Math.min(area, members.length) <= 0.8 * Math.max(area, members.length)) return false;
        let both = 0;
        for (let i = 0; i < members.length; i++) both += mask[members[i]];
        return both / (area + members.length - both) > 0.8;
      });
      if (repeats) continue;
      const mask = new Uint8Array(n);
      for (let i = 0; i < members.length; i++) mask[members[i]] = 1;
      taken.push({ mask, area: members.length });
    }
  }
  return taken.map(({ mask }) => ({ width, height, data: mask }));
}
