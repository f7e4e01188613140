/** The job with labels: accepted masks become class prototypes, and all candidates are scored again by what decisions tell. */
import { AppError, type JobEvent, type ProposalDraft, type Rle } from '../contract/index.ts';
import type { RgbImage } from '../images/index.ts';
import { proposeClasses } from './classMasks.ts';
import { colourReach, colourSpread, describe, pixelCues } from './cues.ts';
import type { Candidate } from './discover.ts';
import { labelledPatches, medianAreas } from './examples.ts';
import { FeatureStore } from './features.ts';
import type { FeatureBackbone, FeatureOptions, ImageFeatures, PrelabelImage } from './features.ts';
import { boxIntersection, boxIou, boxOfCells, type BoxMask } from './grid.ts';
import { draftOf, guideMask, Phase, problemEvent, readGuide } from './job.ts';
import { fitOverlap, type JudgedProposal, type ProposalCues } from './overlap.ts';
import { findPool, readPool } from './pool.ts';
import { guidePixelsDefault } from './prelabel.ts';
import { choose, proposeDefaults, scoreWithoutLabels, type RefinedCandidate } from './propose.ts';
import { classProbabilities, fitPrototypes, prototypeDefaults } from './prototypes.ts';
import type { ClassPrototypes, LabelledPatches, PrototypeOptions } from './prototypes.ts';
import { cachedStatistics, featureViews, setStatistics, type SetStatistics } from './statistics.ts';

export interface LearnOptions {
  readonly features?: Partial<FeatureOptions>;
  readonly prototypes?: Partial<PrototypeOptions>;
  readonly guidePixels?: number;
  /** Masks and parts under this many pixels of the guide are left out. Default 16. */
  readonly minPixels?: number;
  /** Most proposals an image; the surest stay. Default 300. */
  readonly maxProposals?: number;
}

export interface LearnInput {
  /** Needed only for images whose features are not stored. */
  readonly backbone?: FeatureBackbone | undefined;
  readonly modelKey: string;
  readonly cacheDir: string;
  readonly imageRoot: string;
  readonly images: readonly PrelabelImage[];
  readonly accepted: readonly { readonly imageId: number; readonly classId: number; readonly rle: Rle }[];
  readonly rejected: readonly { readonly imageId: number; readonly rle: Rle }[];
  /** Images a person has finished: what is unmarked in them is background, and nothing more is proposed there. */
  readonly reviewed?: readonly number[] | undefined;
  readonly options?: LearnOptions | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Images whose proposals are held against the decisions, the last in the order of images: enough for its weights. */
const judgedImages = 16;

/**
 * Proposes again for every image that is not reviewed, from accepted and rejected masks. Events: progress ('Learning',
 * 'Proposals'), one `proposals` for each image (prototype masks and the pool of candidates on one scale, best first), `problem`,
 * `done`. Ends after the image at hand when the signal aborts.
 * @throws AppError bad-input without an accepted mask; no-checkpoint when features are missing and no network was given
 */
export async function* learn(input: LearnInput): AsyncGenerator<JobEvent> {
  const { imageRoot, images, accepted, rejected, options = {}, signal } = input;
  const stopped = (): boolean => signal?.aborted === true;
  if (accepted.length === 0) {
    throw new AppError(
      'bad-input',
      'There is no accepted mask with a class to learn from.',
      'Accept at least one proposal and give it a class.',
    );
  }
  const store = new FeatureStore({ ...input, backbone: input.backbone ?? null, options: options.features });
  const reviewed = new Set(input.reviewed ?? []);
  const acceptedOf = Map.groupBy(accepted, (a) => a.imageId);
  const rejectedOf = Map.groupBy(rejected, (r) => r.imageId);
  let statistics: SetStatistics;
  try {
    statistics = (await cachedStatistics(store)) ?? (await setStatistics(store, images, signal));
  } catch (error) {
    if (stopped()) return;
    throw error;
  }

  const teaching = images.filter((image) => acceptedOf.has(image.id) || rejectedOf.has(image.id) || reviewed.has(image.id));
  const learnPhase = new Phase('Learning', teaching.length);
  const labelled: LabelledPatches[] = [];
  for (const image of teaching) {
    if (stopped()) return;
    try {
      const features = await store.get(image);
      labelled.push(...labelledPatches(features, acceptedOf.get(image.id) ?? [], rejectedOf.get(image.id) ?? [], reviewed.has(image.id)));
    } catch (error) {
      if (isFatal(error)) throw error;
      yield problemEvent(image, error);
    }
    yield learnPhase.step();
  }
  if (!labelled.some((l) => l.classId !== null)) {
    yield { type: 'done', summary: 'None of the accepted masks could be read, so nothing was learned.' };
    return;
  }
  const prototypes = fitPrototypes(labelled, statistics, { ...prototypeDefaults, ...options.prototypes });
  const medians = medianAreas(accepted);

  const guidePixels = options.guidePixels ?? guidePixelsDefault;
  const candidatesOf = async (image: PrelabelImage, guide: RgbImage): Promise<Rated[]> => {
    const features = await store.get(image);
    const kept = await readPool(store, image);
    // None for a new image, after the cache was emptied, or in a project of before; another guide means other settings.
    const fits = kept?.width === guide.width && kept.height === guide.height;
    const pool = fits ? kept.candidates : await findPool(store, image, features, guide, statistics, proposeDefaults);
    return rate(image, features, guide, prototypes, statistics, pool, medians, options.minPixels ?? 16);
  };
  const masksOf = (decided: readonly { readonly rle: Rle }[], guide: RgbImage): BoxMask[] =>
    decided.map(({ rle }) => guideMask(rle, guide)).filter((mask) => mask !== null);

  // What became of proposals like these where people have decided tells how good they are elsewhere.
  const judged: JudgedProposal[] = [];
  let judgedFrom = 0;
  for (const image of teaching.slice(-judgedImages)) {
    if (stopped()) return;
    try {
      const guide = await readGuide(imageRoot, image, guidePixels);
      const decided = {
        accepted: masksOf(acceptedOf.get(image.id) ?? [], guide),
        rejected: masksOf(rejectedOf.get(image.id) ?? [], guide),
      };
      const own = judge(await candidatesOf(image, guide), decided, reviewed.has(image.id));
      judged.push(...own);
      if (own.length > 0) judgedFrom++;
    } catch (error) {
      if (isFatal(error)) throw error; // another trouble has been told already
    }
  }
  const predictOverlap = fitOverlap(judged, judgedFrom);

  const waiting = images.filter((image) => !reviewed.has(image.id));
  const proposePhase = new Phase('Proposals', waiting.length);
  let total = 0;
  for (const image of waiting) {
    if (stopped()) return;
    try {
      const guide = await readGuide(imageRoot, image, guidePixels);
      const taken = masksOf(acceptedOf.get(image.id) ?? [], guide);
      const refused = masksOf(rejectedOf.get(image.id) ?? [], guide);
      const open = (await candidatesOf(image, guide))
        .map((one) => ({ ...one, score: predictOverlap(one.cues) }))
        .filter(({ mask }) => coveredShare(mask, taken) <= 0.5 && !refused.some((other) => boxIou(other, mask) > 0.5));
      const proposals = choose(open, {
        most: options.maxProposals ?? 300,
        sure: proposeDefaults.maxProposals,
        leastScore,
        maxOverlap: 0.5,
      })
        .map(({ mask, classId, source, margin, score }) => draftOf(mask, guide, image, { score, margin, classId, source }))
        .filter((draft) => draft !== null);
      total += proposals.length;
      yield { type: 'proposals', imageId: image.id, proposals };
    } catch (error) {
      if (isFatal(error)) throw error;
      yield problemEvent(image, error);
    }
    yield proposePhase.step();
  }
  yield { type: 'done', summary: `${total} proposals from ${accepted.length} accepted ${accepted.length === 1 ? 'mask' : 'masks'}.` };
}

/** Past the usual number of proposals an image only those are shown that are more likely right than not to be worth a look. */
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
function rate(
  image: PrelabelImage,
  features: ImageFeatures,
  guide: RgbImage,
  prototypes: ClassPrototypes,
  statistics: SetStatistics,
  pool: readonly RefinedCandidate[],
  medians: ReadonlyMap<number, number>,
  minPixels: number,
): Rated[] {
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
  const found = proposeClasses(features, guide, prototypes, { minPixels, medianArea }).map(({ mask, classId, score, margin }): Rated => {
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

/** Not one image's trouble: no network, broken network, full disk. */
function isFatal(error: unknown): boolean {
  return (
    (error instanceof AppError && (error.code === 'no-checkpoint' || error.code === 'not-finite')) ||
    (error as NodeJS.ErrnoException).code === 'ENOSPC'
  );
}
