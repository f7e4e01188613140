/**
 * Whether one picture is a copy of another, or a part of it: matches of their keypoints that agree on where the one lies in
 * the other. Scale and shift along each axis on their own, so a crop that was stretched to another shape is found too.
 */
import { Random } from '../random.ts';
import { descriptorDim, type Keypoints } from './keypoints.ts';

/** x in the second picture = scaleX * x in the first + shiftX; all in shares of width and height. */
export interface Alignment {
  readonly scaleX: number;
  readonly shiftX: number;
  readonly scaleY: number;
  readonly shiftY: number;
  /** Matches that agree on it. */
  readonly inliers: number;
  /** Matches there are. */
  readonly matches: number;
}

/** A match counts when the second best is this much farther (Lowe 2004, section 7.1). */
const ratio = 0.85;
/** Agreement: distance of a match from where the alignment puts it, as a share of the side. */
const tolerance = 0.02;
const tries = 200;
/** A copy of a copy is hardly ever enlarged more. */
const mostScale = 2.5;

/** The alignment that most matches agree on; null when there are fewer than three. */
export function align(a: Keypoints, b: Keypoints): Alignment | null {
  const matches = mutualMatches(a, b);
  if (matches.length < 3) return null;
  const random = new Random(19, matches.length);
  let best: Alignment | null = null;
  for (let attempt = 0; attempt < tries; attempt++) {
    const first = matches[random.int(matches.length)];
    const second = matches[random.int(matches.length)];
    const x = through(a.places[2 * first[0]], b.places[2 * first[1]], a.places[2 * second[0]], b.places[2 * second[1]]);
    const y = through(a.places[2 * first[0] + 1], b.places[2 * first[1] + 1], a.places[2 * second[0] + 1], b.places[2 * second[1] + 1]);
    if (x === null || y === null) continue;
    let inliers = 0;
    for (const [i, j] of matches) {
      const dx = x.scale * a.places[2 * i] + x.shift - b.places[2 * j];
      const dy = y.scale * a.places[2 * i + 1] + y.shift - b.places[2 * j + 1];
      if (Math.abs(dx) <= tolerance && Math.abs(dy) <= tolerance) inliers++;
    }
    if (best === null || inliers > best.inliers)
      best = { scaleX: x.scale, shiftX: x.shift, scaleY: y.scale, shiftY: y.shift, inliers, matches: matches.length };
  }
  return best;
}

/** Scale and shift that bring a0 to b0 and a1 to b1; null when the two are too near each other to tell. */
function through(a0: number, b0: number, a1: number, b1: number): { scale: number; shift: number } | null {
  if (Math.abs(a1 - a0) < 0.1) return null;
  const scale = (b1 - b0) / (a1 - a0);
  return scale >= 1 / mostScale && scale <= mostScale ? { scale, shift: b0 - scale * a0 } : null;
}

/** Pairs (i of a, j of b) that are each other's nearest, clearly nearer than the second nearest. */
export function mutualMatches(a: Keypoints, b: Keypoints): [number, number][] {
  const nearestOfB = new Int32Array(b.count).fill(-1);
  const distanceOfB = new Float64Array(b.count).fill(Infinity);
  const nearest = new Int32Array(a.count).fill(-1);
  for (let i = 0; i < a.count; i++) {
    let best = Infinity;
    let second = Infinity;
    for (let j = 0; j < b.count; j++) {
      let distance = 0;
      const p = i * descriptorDim;
      const q = j * descriptorDim;
      for (let k = 0; k < descriptorDim;) {
        for (const end = k + 32; k < end; k++) {
          const d = a.descriptors[p + k] - b.descriptors[q + k];
          distance += d * d;
        }
        // Already too far to be one of the two nearest, either way.
        if (distance >= second && distance >= distanceOfB[j]) break;
      }
      if (distance < best) {
        second = best;
        best = distance;
        nearest[i] = j;
      } else if (distance < second) second = distance;
      if (distance < distanceOfB[j]) {
        distanceOfB[j] = distance;
        nearestOfB[j] = i;
      }
    }
    if (best > ratio * ratio * second) nearest[i] = -1;
  }
  const matches: [number, number][] = [];
  for (let i = 0; i < a.count; i++) if (nearest[i] >= 0 && nearestOfB[nearest[i]] === i) matches.push([i, nearest[i]]);
  return matches;
}
