/** The job with labels: accepted masks become class prototypes that propose again for everything undecided. */
import { connectedComponents, decodeRle, fillHoles, removeSmall, rleArea, rleIou } from '../labels/index.ts';
import type { JobEvent, ProposalDraft, Rle } from '../contract/index.ts';
import { AppError } from '../contract/index.ts';
import type { RgbImage } from '../images/index.ts';
import { FeatureStore } from './features.ts';
import type { FeatureBackbone, FeatureOptions, ImageFeatures, PatchFeatures, PrelabelImage } from './features.ts';
import { trimBox } from './grid.ts';
import type { BoxMask } from './grid.ts';
import { splitInstances } from './instances.ts';
import { draftOf, Phase, problemEvent, readGuide } from './job.ts';
import { guidePixelsDefault, storedRegions } from './prelabel.ts';
import { classProbabilities, fitPrototypes, prototypeDefaults } from './prototypes.ts';
import type { ClassPrototypes, LabelledPatches, PrototypeOptions } from './prototypes.ts';
import { gridPlacements, JointUpsampler, threshold } from './refine.ts';
import { fitOverlap, type JudgedProposal, type ProposalCues } from './overlap.ts';
import { cachedStatistics, setStatistics } from './statistics.ts';

export interface LearnOptions {
  readonly features?: Partial<FeatureOptions>;
  readonly prototypes?: Partial<PrototypeOptions>;
  readonly guidePixels?: number;
  /** Masks and parts under this many pixels of the guide are left out. Default 16. */
  readonly minPixels?: number;
  /** Most proposals an image; the surest stay. Default 300. */
  readonly maxProposals?: number;
  /** Most regions found without labels that are shown beside them, best first. Default 20. */
  readonly maxRegions?: number;
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

/** Images whose proposals are held against the decisions, newest last: enough for nine weights. */
const judgedImages = 16;

/** What a decision is worth per patch: rejected masks are hard negatives; the surroundings of an accepted mask are likely background. */
const worth = { accepted: 1, rejected: 3, reviewed: 1, around: 0.5 };

/**
 * Proposes again for every image that is not reviewed, from accepted and rejected masks. Events: progress ('Learning',
 * 'Proposals'), one `proposals` for each image (prototype masks and stored regions on one scale, best first), `problem`,
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
  const statistics = (await cachedStatistics(store)) ?? (await setStatistics(store, images, signal));

  const teaching = images.filter((image) => acceptedOf.has(image.id) || rejectedOf.has(image.id));
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

  const candidatesOf = async (image: PrelabelImage): Promise<Candidate[]> => {
    const features = await store.get(image);
    const guide = await readGuide(imageRoot, image, options.guidePixels ?? guidePixelsDefault);
    const regions = (await storedRegions(store, image)).slice(0, options.maxRegions ?? 20);
    return imageCandidates(image, features, guide, prototypes, regions, medians, options.minPixels ?? 16);
  };

  // What became of proposals like these where people have decided tells how good they are elsewhere.
  const judged: JudgedProposal[] = [];
  for (const image of teaching.slice(-judgedImages)) {
    if (stopped()) return;
    try {
      const decided = { accepted: acceptedOf.get(image.id) ?? [], rejected: rejectedOf.get(image.id) ?? [] };
      judged.push(...judge(await candidatesOf(image), decided, reviewed.has(image.id)));
    } catch (error) {
      if (isFatal(error)) throw error; // another trouble has been told already
    }
  }
  const predictOverlap = fitOverlap(judged);

  const waiting = images.filter((image) => !reviewed.has(image.id));
  const proposePhase = new Phase('Proposals', waiting.length);
  let total = 0;
  for (const image of waiting) {
    if (stopped()) return;
    try {
      const taken = acceptedOf.get(image.id) ?? [];
      const refused = rejectedOf.get(image.id) ?? [];
      const blocked = coverageOf(taken, image);
      const ranked = (await candidatesOf(image))
        .map(({ draft, cues }) => ({ ...draft, score: predictOverlap(cues) }))
        .filter((draft) => blocked === null || coveredShare(draft.rle, blocked) <= 0.5)
        .sort((a, b) => b.score - a.score);
      const proposals: ProposalDraft[] = [];
      for (const draft of ranked) {
        if (proposals.length >= (options.maxProposals ?? 300)) break;
        if (![...proposals, ...refused].some((other) => rleIou(other.rle, draft.rle) > 0.5)) proposals.push(draft);
      }
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

/** A mask that may be proposed, and what is known of it before it is scored. */
interface Candidate {
  readonly draft: ProposalDraft;
  readonly cues: ProposalCues;
}

/** Masks from class prototypes, and the regions found without labels with the class they look like. */
function imageCandidates(
  image: PrelabelImage,
  features: ImageFeatures,
  guide: RgbImage,
  prototypes: ClassPrototypes,
  regions: readonly ProposalDraft[],
  medians: ReadonlyMap<number, number>,
  minPixels: number,
): Candidate[] {
  const probabilities = classProbabilities(prototypes, features.patches);
  const toGuide = (guide.width * guide.height) / (image.width * image.height);
  const found = proposeClasses(features, guide, prototypes, { minPixels, medianArea: (classId) => (medians.get(classId) ?? 0) * toGuide });
  const drafts = found.map(({ mask, classId, score, margin }) =>
    draftOf(mask, guide, image, { score, margin, classId, source: 'prototype' }),
  );
  return [...drafts.filter((draft) => draft !== null), ...regions].map((draft) => {
    const inside = patchCoverage(draft.rle, features.gridWidth, features.gridHeight);
    const all = inside.reduce((sum, share) => sum + share, 0) || 1;
    const means = probabilities.map((p) => p.reduce((sum, value, q) => sum + value * inside[q], 0) / all);
    let best = -1;
    prototypes.classes.forEach(({ classId }, c) => {
      if (classId !== null && (best < 0 || means[c] > means[best])) best = c;
    });
    const likeliest = prototypes.classes[best].classId!;
    const prototype = draft.source === 'prototype';
    const classId = prototype ? draft.classId : means[best] > 0.5 ? likeliest : null;
    const median = medians.get(classId ?? likeliest);
    const size = median === undefined ? 0 : Math.abs(Math.log(draft.area / median));
    // Background is always the first class.
    return { draft: { ...draft, classId }, cues: { prototype, score: draft.score, purity: means[best], background: means[0], size } };
  });
}

/** Candidates whose fate is known: all of a finished image, elsewhere those that meet a decision. */
function judge(
  candidates: readonly Candidate[],
  decided: { readonly accepted: readonly { readonly rle: Rle }[]; readonly rejected: readonly { readonly rle: Rle }[] },
  reviewed: boolean,
): JudgedProposal[] {
  const best = (draft: ProposalDraft, masks: readonly { readonly rle: Rle }[]): number =>
    masks.reduce((most, { rle }) => Math.max(most, rleIou(rle, draft.rle)), 0);
  return candidates.flatMap(({ draft, cues }) => {
    const overlap = best(draft, decided.accepted);
    if (reviewed || overlap > 0.3) return [{ cues, overlap }];
    return best(draft, decided.rejected) > 0.5 ? [{ cues, overlap: 0 }] : [];
  });
}

/** Not one image's trouble: no network, broken network, full disk. */
function isFatal(error: unknown): boolean {
  return (
    (error instanceof AppError && (error.code === 'no-checkpoint' || error.code === 'not-finite')) ||
    (error as NodeJS.ErrnoException).code === 'ENOSPC'
  );
}

/** Share of each patch that a mask covers. @returns [gridHeight * gridWidth], 0..1 */
export function patchCoverage(rle: Rle, gridWidth: number, gridHeight: number): Float32Array {
  const mask = decodeRle(rle);
  const { width, height, data } = mask;
  const inside = new Float32Array(gridWidth * gridHeight);
  const all = new Float32Array(gridWidth * gridHeight);
  const columns = Int32Array.from({ length: width }, (_, x) => Math.floor(((x + 0.5) * gridWidth) / width));
  for (let y = 0; y < height; y++) {
    const row = Math.floor(((y + 0.5) * gridHeight) / height) * gridWidth;
    for (let x = 0; x < width; x++) {
      const q = row + columns[x];
      all[q]++;
      inside[q] += data[y * width + x];
    }
  }
  for (let q = 0; q < all.length; q++) {
    if (all[q] > 0) inside[q] /= all[q];
    else {
      // A patch finer than a pixel takes the pixel at its centre.
      const x = Math.min(width - 1, Math.floor((((q % gridWidth) + 0.5) * width) / gridWidth));
      const y = Math.min(height - 1, Math.floor(((((q / gridWidth) | 0) + 0.5) * height) / gridHeight));
      inside[q] = data[y * width + x];
    }
  }
  return inside;
}

/** Patches of one image that teach something, by class. */
export function labelledPatches(
  features: PatchFeatures,
  accepted: readonly { readonly classId: number; readonly rle: Rle }[],
  rejected: readonly { readonly rle: Rle }[],
  reviewed: boolean,
): LabelledPatches[] {
  const { gridWidth, gridHeight, dim, patches } = features;
  const n = gridWidth * gridHeight;
  const shares = new Map<number, Float32Array>();
  const covered = new Float32Array(n);
  for (const { classId, rle } of accepted) {
    const share = patchCoverage(rle, gridWidth, gridHeight);
    const sum = shares.get(classId) ?? new Float32Array(n);
    shares.set(classId, sum);
    let most = 0;
    for (let q = 0; q < n; q++) most = Math.max(most, share[q]);
    for (let q = 0; q < n; q++) {
      covered[q] = Math.min(1, covered[q] + share[q]);
      // Patches mostly outside say little about the class; objects smaller than a patch have no better ones.
      if (share[q] >= Math.min(0.5, 0.8 * most)) sum[q] = Math.max(sum[q], share[q]);
    }
  }
  const background = new Float32Array(n);
  for (const { rle } of rejected) {
    const share = patchCoverage(rle, gridWidth, gridHeight);
    for (let q = 0; q < n; q++) if (share[q] > 0.5 && covered[q] < 0.1) background[q] = worth.rejected * share[q];
  }
  for (let q = 0; q < n; q++) {
    if (covered[q] > 0 || background[q] > 0) continue;
    if (reviewed) background[q] = worth.reviewed;
    else if (accepted.length > 0 && nearCovered(covered, q, gridWidth, gridHeight, 2)) background[q] = worth.around;
  }
  const pick = (classId: number | null, weights: Float32Array, scale: number): LabelledPatches | null => {
    const cells: number[] = [];
    for (let q = 0; q < n; q++) if (weights[q] > 0) cells.push(q);
    if (cells.length === 0) return null;
    const rows = new Float32Array(cells.length * dim);
    cells.forEach((q, i) => rows.set(patches.subarray(q * dim, (q + 1) * dim), i * dim));
    return { classId, rows, weights: Float32Array.from(cells, (q) => weights[q] * scale) };
  };
  return [...shares]
    .map(([classId, share]) => pick(classId, share, worth.accepted))
    .concat(pick(null, background, 1))
    .filter((l) => l !== null);
}

function nearCovered(covered: Float32Array, q: number, gridWidth: number, gridHeight: number, reach: number): boolean {
  const x = q % gridWidth;
  const y = (q / gridWidth) | 0;
  for (let ny = Math.max(0, y - reach); ny <= Math.min(gridHeight - 1, y + reach); ny++) {
    for (let nx = Math.max(0, x - reach); nx <= Math.min(gridWidth - 1, x + reach); nx++)
      if (covered[ny * gridWidth + nx] > 0.5) return true;
  }
  return false;
}

/** Median pixels of the accepted masks of each class. */
function medianAreas(accepted: readonly { readonly classId: number; readonly rle: Rle }[]): Map<number, number> {
  const out = new Map<number, number>();
  for (const [classId, own] of Map.groupBy(accepted, (a) => a.classId)) {
    const areas = own.map((a) => rleArea(a.rle)).sort((a, b) => a - b);
    out.set(classId, areas[areas.length >> 1]);
  }
  return out;
}

/** Pixels of all accepted masks of an image; null when there are none. */
function coverageOf(taken: readonly { readonly rle: Rle }[], image: PrelabelImage): Uint8Array | null {
  if (taken.length === 0) return null;
  const all = new Uint8Array(image.width * image.height);
  for (const { rle } of taken) {
    const { data } = decodeRle(rle);
    for (let i = 0; i < all.length; i++) all[i] |= data[i];
  }
  return all;
}

function coveredShare(rle: Rle, blocked: Uint8Array): number {
  const { data } = decodeRle(rle);
  let both = 0;
  let area = 0;
  for (let i = 0; i < data.length; i++) {
    area += data[i];
    both += data[i] & blocked[i];
  }
  return area === 0 ? 1 : both / area;
}

export interface ClassProposal {
  /** At the guide's resolution. */
  readonly mask: BoxMask;
  readonly classId: number;
  /** Mean probability of the class inside the mask. */
  readonly score: number;
  /** Mean lead over the runner-up inside the mask. */
  readonly margin: number;
}

/**
 * Masks of every class in one image: probabilities brought to pixels, the likeliest class at each pixel, connected parts,
 * touching instances split.
 * @param options.medianArea typical pixels of an object of the class at the guide's resolution; 0 when unknown
 */
export function proposeClasses(
  features: ImageFeatures,
  guide: RgbImage,
  prototypes: ClassPrototypes,
  options: { readonly minPixels: number; readonly medianArea: (classId: number) => number },
): ClassProposal[] {
  const { gridWidth, gridHeight } = features;
  const passes = [features.patches, ...features.shifted].map((rows) => classProbabilities(prototypes, rows)); // [pass][class][patch]
  const [patches] = passes;
  const upsampler = new JointUpsampler(guide, gridPlacements(gridWidth, gridHeight, passes.length));
  const whole = { x: 0, y: 0, width: guide.width, height: guide.height };
  const out: ClassProposal[] = [];
  prototypes.classes.forEach(({ classId }, index) => {
    if (classId === null) return;
    // Nothing near this class anywhere: no pixel can reach one half.
    if (!patches[index].some((p) => p > 0.5)) return;
    const probability = upsampler.upsample(
      passes.map((classes) => classes[index]),
      whole,
    );
    const median = options.medianArea(classId);
    const least = Math.max(options.minPixels, Math.round(0.05 * median));
    const rough = threshold(probability, whole);
    const clean = fillHoles(removeSmall({ width: guide.width, height: guide.height, data: rough.data }, least), least);
    const parts = connectedComponents(clean, 8);
    for (let part = 1; part <= parts.count; part++) {
      const [x, y, width, height] = parts.boxes[part - 1];
      const data = new Uint8Array(width * height);
      for (let row = 0; row < height; row++) {
        for (let column = 0; column < width; column++) {
          if (parts.labels[(y + row) * guide.width + x + column] === part) data[row * width + column] = 1;
        }
      }
      const component: BoxMask = { x, y, width, height, data, area: parts.areas[part - 1] };
      const pieces = splitInstances(component, { depth: 0.15, minArea: Math.max(least, 0.25 * median), gain: 0.05 });
      for (const piece of pieces) {
        const trimmed = trimBox(piece);
        if (trimmed === null || trimmed.area < least) continue;
        const score = meanInside(trimmed, probability, guide.width);
        // With the others together at 1 - p, the lead is at least 2 p - 1; with two classes it is exactly that.
        out.push({ mask: trimmed, classId, score, margin: Math.max(0, score - runnerUp(trimmed, patches, index, features, guide)) });
      }
    }
  });
  return out;
}

function meanInside(mask: BoxMask, probability: Float32Array, width: number): number {
  let sum = 0;
  for (let y = 0; y < mask.height; y++) {
    for (let x = 0; x < mask.width; x++) if (mask.data[y * mask.width + x] === 1) sum += probability[(mask.y + y) * width + mask.x + x];
  }
  return sum / mask.area;
}

/** Largest mean probability of another class over the mask's patches. */
function runnerUp(mask: BoxMask, patches: readonly Float32Array[], index: number, features: PatchFeatures, guide: RgbImage): number {
  const sums = new Float64Array(patches.length);
  for (let y = 0; y < mask.height; y++) {
    const row = Math.floor(((mask.y + y + 0.5) * features.gridHeight) / guide.height) * features.gridWidth;
    for (let x = 0; x < mask.width; x++) {
      if (mask.data[y * mask.width + x] === 0) continue;
      const q = row + Math.floor(((mask.x + x + 0.5) * features.gridWidth) / guide.width);
      for (let c = 0; c < sums.length; c++) sums[c] += patches[c][q];
    }
  }
  sums[index] = 0;
  return Math.max(...sums) / mask.area;
}
