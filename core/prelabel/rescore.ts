/**
 * The candidates of one image scored by what decisions taught: proposals of an image that is open, and what became of those
 * of an image that was decided. Which thread runs it is learnPool.ts.
 */
import { AppError, type ProposalDraft, type Rle } from '../contract/index.ts';
import type { RgbImage } from '../images/index.ts';
import { proposeClasses } from './classMasks.ts';
import { colourReach, colourSpread, describe, pixelCues } from './cues.ts';
import type { Candidate } from './discover.ts';
import type { EdgeEngine } from './edges.ts';
import type { ImageFeatures } from './featureFile.ts';
import type { FeatureOptions, FeatureStore, PrelabelImage } from './features.ts';
import { boxIntersection, boxIou, boxOfCells, type BoxMask } from './grid.ts';
import { draftOf, guideMask, readGuide } from './job.ts';
import { predictOverlap, type JudgedProposal, type OverlapModel, type ProposalCues } from './overlap.ts';
import { findPool, readPool } from './pool.ts';
import { choose, proposeDefaults, scoreWithoutLabels, type RefinedCandidate } from './propose.ts';
import { classProbabilities, type ClassPrototypes } from './prototypes.ts';
import { featureViews, type SetStatistics } from './statistics.ts';

/** What is the same for every image of a lesson. Plain data: it is sent to threads. */
export interface Lesson {
  readonly modelKey: string;
  readonly cacheDir: string;
  readonly imageRoot: string;
  readonly features: Partial<FeatureOptions> | undefined;
  /** Of the network, in pixels: by it features are named. */
  readonly patchSize: number | undefined;
  readonly statistics: SetStatistics;
  readonly prototypes: ClassPrototypes;
  /** Median area of accepted masks by class, in pixels. */
  readonly medians: ReadonlyMap<number, number>;
  readonly guidePixels: number;
  readonly minPixels: number;
  readonly maxProposals: number;
  /** What an image is asked for: drafts by this model; absent: how its candidates fared. */
  readonly overlap?: OverlapModel;
}

/** An image and what was decided in it. */
export interface DecidedImage {
  readonly image: PrelabelImage;
  /** With a class or without, drawn ones too. */
  readonly accepted: readonly Rle[];
  readonly rejected: readonly Rle[];
  /** Proposals that became one of these: each has used up one of the usual number. A mask that was drawn was none. */
  readonly usedUp: number;
  /** A person has finished it: what is unmarked is background. */
  readonly reviewed: boolean;
}

export type Rescored = { readonly drafts: readonly ProposalDraft[] } | { readonly judged: readonly JudgedProposal[] };

/**
 * @param store of the lesson's network
 * @param engine brings masks to pixels; null: this thread
 * @throws AppError no-checkpoint when the image's features are not stored and the store has no network; what decoding throws
 */
export async function rescore(
  store: FeatureStore,
  lesson: Lesson,
  { image, accepted, rejected, usedUp, reviewed }: DecidedImage,
  engine: EdgeEngine | null,
): Promise<Rescored> {
  const guide = await readGuide(lesson.imageRoot, image, lesson.guidePixels);
  const masks = (decided: readonly Rle[]): BoxMask[] => decided.map((rle) => guideMask(rle, guide)).filter((mask) => mask !== null);
  const [taken, refused] = [masks(accepted), masks(rejected)];
  const rated = await candidatesOf(store, lesson, image, guide, engine);
  const model = lesson.overlap;
  if (model === undefined) return { judged: judge(rated, { accepted: taken, rejected: refused }, reviewed) };
  const open = rated
    .map((one) => ({ ...one, score: predictOverlap(model, one.cues) }))
    .filter(({ mask }) => coveredShare(mask, taken) <= 0.5 && !refused.some((other) => boxIou(other, mask) > 0.5));
  const sure = Math.max(0, proposeDefaults.maxProposals - usedUp);
  const chosen = choose(open, { most: lesson.maxProposals, sure, leastScore, maxOverlap: 0.5 });
  const drafts = chosen.map(({ mask, classId, source, margin, score }) => draftOf(mask, guide, image, { score, margin, classId, source }));
  return { drafts: drafts.filter((draft) => draft !== null) };
}

async function candidatesOf(
  store: FeatureStore,
  lesson: Lesson,
  image: PrelabelImage,
  guide: RgbImage,
  engine: EdgeEngine | null,
): Promise<Rated[]> {
  const { statistics, prototypes, medians, minPixels } = lesson;
  const features = await store.get(image);
  // Of another network under the same name: whoever has the network computes them again.
  if (features.dim !== statistics.dim) throw new AppError('no-checkpoint', 'The stored features are of another network.', 'Propose again.');
  const kept = await readPool(store, image);
  // None for a new image, after the cache was emptied, or in a project of before; another guide means other settings.
  const fits = kept?.width === guide.width && kept.height === guide.height;
  const pool = fits ? kept.candidates : await findPool(store, image, features, guide, statistics, proposeDefaults, engine);
  return rate(image, features, guide, prototypes, statistics, pool, medians, minPixels, engine);
}

/**
 * Past the usual number of proposals an image, the decided ones among them, only those are shown that are more likely right
 * than not to be worth a look: an image that was worked through would fill up again for ever.
 */
const leastScore = 0.35;

/** A mask that may be proposed, and what is known of it before it is scored. */
interface Rated {
  /** At the guide's resolution. */
  readonly mask: BoxMask;
  readonly classId: number | null;
  readonly source: ProposalDraft['source'];
  readonly margin: number;
  readonly cues: ProposalCues;
}

/** Masks from class prototypes, and the candidates found without labels with the class they look like. */
async function rate(
  image: PrelabelImage,
  features: ImageFeatures,
  guide: RgbImage,
  prototypes: ClassPrototypes,
  statistics: SetStatistics,
  pool: readonly RefinedCandidate[],
  medians: ReadonlyMap<number, number>,
  minPixels: number,
  engine: EdgeEngine | null,
): Promise<Rated[]> {
  const { gridWidth, gridHeight } = features;
  const probabilities = classProbabilities(prototypes, features.patches); // [class][patch]
  const toGuide = (guide.width * guide.height) / (image.width * image.height);
  const medianArea = (classId: number): number => (medians.get(classId) ?? 0) * toGuide;

  const cuesOf = (candidate: RefinedCandidate, classId: number | null, score: number): { likeliest: number | null; cues: ProposalCues } => {
    const means = probabilities.map((p) => candidate.cells.reduce((sum, q) => sum + p[q], 0) / candidate.cells.length);
    // Background is always the first class.
    let best = 1;
    for (let c = 2; c < means.length; c++) if (means[c] > means[best]) best = c;
    const likeliest = prototypes.classes[best].classId!;
    const median = medianArea(classId ?? likeliest);
    const cues = {
      prototype: classId !== null,
      plain: candidate.plain,
      score,
      purity: means[best],
      background: means[0],
      size: median === 0 ? 0 : Math.abs(Math.log(candidate.mask.area / median)),
      area: candidate.mask.area / (guide.width * guide.height),
      patch: candidate.patch,
      pixel: candidate.pixel,
    };
    return { likeliest: means[best] > 0.5 ? likeliest : null, cues };
  };

  const [view] = featureViews(features, statistics);
  const inside = new Uint8Array(gridWidth * gridHeight);
  const spread = colourSpread(guide);
  const reach = colourReach(guide, gridWidth);
  const proposed = await proposeClasses(features, guide, prototypes, { minPixels, medianArea }, engine);
  const found = proposed.map(({ mask, classId, score, margin }): Rated => {
    const cells = cellsUnder(mask, guide, gridWidth, gridHeight);
    const candidate: Candidate = { cells, source: 'region', stability: 0, box: boxOfCells(cells, gridWidth, gridHeight) };
    const patch = describe(view, candidate, inside).cues;
    const pixel = pixelCues(guide, mask, candidate, view.grid, spread, reach);
    const { cues } = cuesOf({ mask, cells, source: 'region', margin, patch, pixel, plain: false }, classId, score);
    return { mask, classId, source: 'prototype', margin, cues };
  });
  const regions = pool.map((candidate): Rated => {
    const { likeliest, cues } = cuesOf(candidate, null, scoreWithoutLabels(candidate));
    return { mask: candidate.mask, classId: likeliest, source: candidate.source, margin: candidate.margin, cues };
  });
  return [...found, ...regions];
}

/** Patches at least half covered by a mask; of a smaller one the patch it covers most. */
function cellsUnder(mask: BoxMask, guide: RgbImage, gridWidth: number, gridHeight: number): number[] {
  const inside = new Map<number, number>();
  for (let y = 0; y < mask.height; y++) {
    const row = Math.floor(((mask.y + y + 0.5) * gridHeight) / guide.height) * gridWidth;
    for (let x = 0; x < mask.width; x++) {
      if (mask.data[y * mask.width + x] === 0) continue;
      const q = row + Math.floor(((mask.x + x + 0.5) * gridWidth) / guide.width);
      inside.set(q, (inside.get(q) ?? 0) + 1);
    }
  }
  const patchPixels = (guide.width * guide.height) / (gridWidth * gridHeight);
  const most = Math.max(...inside.values());
  return [...inside].filter(([, pixels]) => pixels >= Math.min(most, 0.5 * patchPixels)).map(([q]) => q);
}

/** Candidates whose fate is known: all of a finished image, elsewhere those that meet a decision. */
function judge(
  candidates: readonly Rated[],
  decided: { readonly accepted: readonly BoxMask[]; readonly rejected: readonly BoxMask[] },
  reviewed: boolean,
): JudgedProposal[] {
  const best = (mask: BoxMask, masks: readonly BoxMask[]): number => masks.reduce((most, other) => Math.max(most, boxIou(other, mask)), 0);
  return candidates.flatMap(({ mask, cues }) => {
    const overlap = best(mask, decided.accepted);
    if (reviewed || overlap > 0.3) return [{ cues, overlap }];
    return best(mask, decided.rejected) > 0.5 ? [{ cues, overlap: 0 }] : [];
  });
}

/** Share of a mask that accepted masks cover together. */
function coveredShare(mask: BoxMask, taken: readonly BoxMask[]): number {
  const near = taken.filter((other) => boxIntersection(mask, other) > 0);
  if (near.length === 0) return 0;
  let both = 0;
  for (let y = mask.y; y < mask.y + mask.height; y++) {
    for (let x = mask.x; x < mask.x + mask.width; x++) if (covers(mask, x, y) && near.some((other) => covers(other, x, y))) both++;
  }
  return both / mask.area;
}

function covers({ x, y, width, height, data }: BoxMask, column: number, row: number): boolean {
  const [dx, dy] = [column - x, row - y];
  return dx >= 0 && dy >= 0 && dx < width && dy < height && data[dy * width + dx] === 1;
}
