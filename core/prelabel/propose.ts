/**
 * From candidates on the patch grid to the few masks of an image that are worth a person's time: soft coverage, pixels,
 * cues, a predicted overlap, and a choice that repeats nothing.
 */
import type { RgbImage } from '../images/index.ts';
import { appearanceView } from './appearance.ts';
import { refineCandidates, type SeenCandidate } from './coverage.ts';
import { colourReach, colourSpread, describe, pixelCues, type PatchCues, type PixelCues } from './cues.ts';
import { discover, discoverDefaults } from './discover.ts';
import type { DiscoverOptions, FeatureView } from './discover.ts';
import type { EdgeEngine } from './edges.ts';
import { boxIou } from './grid.ts';
import type { BoxMask } from './grid.ts';

export interface ProposeOptions extends DiscoverOptions {
  /** Most proposals an image. */
  readonly maxProposals: number;
  /** Candidates that are brought to pixels. */
  readonly refined: number;
  /** A proposal overlapping a better one by a larger IoU is left out. */
  readonly maxOverlap: number;
  /** Masks and parts of masks under this many pixels are left out. */
  readonly minPixels: number;
}

export const proposeDefaults: ProposeOptions = { ...discoverDefaults, maxProposals: 20, refined: 320, maxOverlap: 0.6, minPixels: 16 };

/**
 * What a candidate found by plain appearance is worth beside the network's own: it knows edges, not what belongs together.
 * Measured with a network trained for a few minutes, at most 20 proposals an image, best overlap in percent without the
 * appearance view and with it: nuclei 24.5 and 34.3, leaves 34.3 and 34.6; at full worth leaves had 31.8.
 */
const appearanceWorth = 0.8;

/** A candidate with pixels and all that its score is made of. */
export interface RefinedCandidate {
  /** At the guide's resolution. */
  readonly mask: BoxMask;
  /** Its patches. */
  readonly cells: readonly number[];
  readonly source: 'region' | 'object';
  /** How unlike its surroundings it is: 1 - calibrated cosine of the means, 0..1. */
  readonly margin: number;
  readonly patch: PatchCues;
  readonly pixel: PixelCues;
  /** Found by plain appearance, not by the network. */
  readonly plain: boolean;
}

/**
 * The most promising candidates of all views with their pixels, before any is chosen.
 * @param image the guide: the picture at the resolution the masks shall have
 * @param views the network's, at least one, all of the same grids; their candidates and those of plain appearance compete
 * @param engine brings them to pixels; null: this thread
 */
export async function candidates(
  image: RgbImage,
  views: readonly FeatureView[],
  options: ProposeOptions,
  engine: EdgeEngine | null,
): Promise<RefinedCandidate[]> {
  const { gridWidth, gridHeight } = views[0].grid;
  const passes = 1 + views[0].shifted.length;
  const inside = new Uint8Array(gridWidth * gridHeight);
  const plainView = appearanceView(image, gridWidth, gridHeight, passes);
  const described = [...views, plainView]
    .flatMap((view) => discover(view.grid, view.c0, options).map((candidate) => ({ view, d: describe(view, candidate, inside) })))
    .map((one) => ({ ...one, promise: promiseOf(one.d.cues) }))
    .sort((a, b) => b.promise - a.promise);
  const refined: SeenCandidate[] = [];
  for (const one of described) {
    if (refined.length >= options.refined) break;
    // Nested versions of one region differ by a patch or two: pixels would make them the same.
    const { box } = one.d.candidate;
    if (!refined.some(({ d }) => similarArea(d.candidate.box, box) && boxIou(d.candidate.box, box) > samePatches)) refined.push(one);
  }
  const masks = await refineCandidates(image, refined, options.minPixels, engine);
  const spread = colourSpread(image);
  const reach = colourReach(image, gridWidth);
  const pool: RefinedCandidate[] = [];
  for (const [i, { view, d }] of refined.entries()) {
    const mask = masks[i];
    if (mask === null || mask.area < options.minPixels || mask.area > options.maxShare * image.width * image.height) continue;
    const { cells, source } = d.candidate;
    const margin = Math.min(1, Math.max(0, d.cues.contrast));
    const pixel = pixelCues(image, mask, d.candidate, view.grid, spread, reach);
    pool.push({ mask, cells, source, margin, patch: d.cues, pixel, plain: view === plainView });
  }
  return pool;
}

/** Candidates whose patches overlap more than this are one. */
const samePatches = 0.85;

/** Whether two masks can overlap by samePatches at all. */
function similarArea(a: BoxMask, b: BoxMask): boolean {
  return Math.min(a.area, b.area) > samePatches * Math.max(a.area, b.area);
}

/**
 * Promise of a candidate before it has pixels. Weights: least squares on the overlap with true objects of candidates from
 * hand-made patch features, nuclei and coffee leaves counting alike; rounded.
 */
function promiseOf(cues: PatchCues): number {
  return (
    0.1 * Math.min(1.2, cues.contrast) +
    0.1 * Math.min(1, cues.weakest) +
    0.36 * cues.separation -
    0.26 * cues.border -
    0.17 * cues.fill +
    0.24 * cues.object -
    0.13 * (cues.share > 0.5 ? 1 : 0) -
    0.07 * (cues.share < 0.001 ? 1 : 0) -
    0.2 * Math.sqrt(cues.stability)
  );
}

/** Predicted overlap with a true object, 0..1; weights found as those of promiseOf, on the same candidates with pixels. */
function predictedOverlap(patch: PatchCues, pixel: PixelCues): number {
  const value =
    0.11 * Math.min(1.2, patch.contrast) +
    0.04 * patch.separation -
    0.39 * patch.border -
    0.19 * patch.fill +
    0.07 * patch.object -
    0.11 * (patch.share > 0.5 ? 1 : 0) +
    0.08 * Math.sqrt(pixel.edge) +
    0.21 * pixel.agreement +
    0.17 * pixel.roundness +
    0.23 * pixel.colour +
    0.45 * pixel.colour * pixel.roundness -
    0.12;
  return Math.min(1, Math.max(0.001, value));
}

/** Predicted overlap of a candidate with a true object while nobody has decided anything, 0..1. */
export function scoreWithoutLabels({ patch, pixel, plain }: RefinedCandidate): number {
  return (plain ? appearanceWorth : 1) * predictedOverlap(patch, pixel);
}

export interface ChoiceLimits {
  /** Most proposals. */
  readonly most: number;
  /** Past this number only what is still worth leastScore. */
  readonly sure: number;
  readonly leastScore: number;
  /** What overlaps a better one by a larger IoU is left out. */
  readonly maxOverlap: number;
}

/**
 * Takes the best proposal again and again; what overlaps it too much is dropped, the rest loses by its overlap. So the list
 * spreads over the image and over sizes instead of repeating one object's nested versions.
 * @returns best first; `score` is what was left of it: the overlap it is expected to add
 */
export function choose<T extends { readonly mask: BoxMask; readonly score: number }>(pool: readonly T[], limits: ChoiceLimits): T[] {
  const value = Float64Array.from(pool, (p) => p.score);
  const chosen: T[] = [];
  while (chosen.length < limits.most) {
    let best = -1;
    for (let i = 0; i < value.length; i++) if (value[i] > 0 && (best < 0 || value[i] > value[best])) best = i;
    if (best < 0 || (chosen.length >= limits.sure && value[best] < limits.leastScore)) break;
    chosen.push({ ...pool[best], score: value[best] });
    value[best] = 0;
    for (let i = 0; i < value.length; i++) {
      if (value[i] === 0) continue;
      const overlap = boxIou(pool[best].mask, pool[i].mask);
      value[i] = overlap > limits.maxOverlap ? 0 : value[i] * (1 - overlap) ** 2;
    }
  }
  return chosen;
}
