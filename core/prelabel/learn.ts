/** The job with labels: accepted masks become class prototypes, and all candidates are scored again by what decisions tell. */
import { AppError, errorFacts, type JobEvent, type Rle } from '../contract/index.ts';
import { labelledPatches, medianAreas } from './examples.ts';
import type { EdgeEngine } from './edges.ts';
import { FeatureStore } from './features.ts';
import type { FeatureBackbone, FeatureOptions, PrelabelImage } from './features.ts';
import { Phase, problemEvent, refuseFatal } from './job.ts';
import { rescoreAll } from './learnPool.ts';
import { fitOverlap, type JudgedProposal } from './overlap.ts';
import { guidePixelsDefault } from './prelabel.ts';
import { fitPrototypes, prototypeDefaults } from './prototypes.ts';
import type { LabelledPatches, PrototypeOptions } from './prototypes.ts';
import type { DecidedImage, Lesson } from './rescore.ts';
import { cachedStatistics, setStatistics, type SetStatistics } from './statistics.ts';

export interface LearnOptions {
  readonly features?: Partial<FeatureOptions>;
  readonly prototypes?: Partial<PrototypeOptions>;
  readonly guidePixels?: number;
  /** Masks and parts under this many pixels of the guide are left out. Default 16. */
  readonly minPixels?: number;
  /** Most proposals an image; the surest stay. Default 300. */
  readonly maxProposals?: number;
  /** Most threads that score proposals; results do not depend on it. Default: the cores. */
  readonly threads?: number;
}

export interface LearnInput {
  /** Needed only for images whose features are not stored. */
  readonly backbone?: FeatureBackbone | undefined;
  readonly modelKey: string;
  readonly cacheDir: string;
  readonly imageRoot: string;
  readonly images: readonly PrelabelImage[];
  /** Without a class a mask teaches no class, but it is decided. `drawn`: a person made it, no machine proposed it. */
  readonly accepted: readonly { readonly imageId: number; readonly classId: number | null; readonly drawn?: boolean; readonly rle: Rle }[];
  readonly rejected: readonly { readonly imageId: number; readonly rle: Rle }[];
  /** Images a person has finished: what is unmarked in them is background, and nothing more is proposed there. */
  readonly reviewed?: readonly number[] | undefined;
  /** Images to propose for before all others, the next to be looked at first; absent: in the order of `images`. */
  readonly first?: readonly number[] | undefined;
  readonly options?: LearnOptions | undefined;
  /** Brings masks to pixels; absent: threads. */
  readonly engine?: EdgeEngine | null | undefined;
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
  const { images, accepted, rejected, options = {}, engine = null, signal } = input;
  const stopped = (): boolean => signal?.aborted === true;
  const named = accepted.filter((mask) => mask.classId !== null) as { imageId: number; classId: number; rle: Rle }[];
  if (named.length === 0) {
    throw new AppError(
      'bad-input',
      'There is no accepted mask with a class to learn from.',
      'Accept at least one proposal and give it a class.',
    );
  }
  const store = new FeatureStore({ ...input, backbone: input.backbone ?? null, options: options.features });
  const reviewed = new Set(input.reviewed ?? []);
  const acceptedOf = Map.groupBy(accepted, (a) => a.imageId);
  const namedOf = Map.groupBy(named, (a) => a.imageId);
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
      labelled.push(...labelledPatches(features, namedOf.get(image.id) ?? [], rejectedOf.get(image.id) ?? [], reviewed.has(image.id)));
    } catch (error) {
      refuseFatal(errorFacts(error));
      yield problemEvent(image, error);
    }
    yield learnPhase.step();
  }
  if (!labelled.some((l) => l.classId !== null)) {
    yield { type: 'done', summary: 'None of the accepted masks could be read, so nothing was learned.' };
    return;
  }
  const prototypes = fitPrototypes(labelled, statistics, { ...prototypeDefaults, ...options.prototypes });

  const lesson: Lesson = {
    modelKey: input.modelKey,
    cacheDir: input.cacheDir,
    imageRoot: input.imageRoot,
    features: options.features,
    patchSize: input.backbone?.config.patchSize,
    statistics,
    prototypes,
    medians: medianAreas(named),
    guidePixels: options.guidePixels ?? guidePixelsDefault,
    minPixels: options.minPixels ?? 16,
    maxProposals: options.maxProposals ?? 300,
  };
  const decided = (image: PrelabelImage): DecidedImage => {
    const [taken, refused] = [acceptedOf.get(image.id) ?? [], rejectedOf.get(image.id) ?? []];
    return {
      image,
      accepted: taken.map(({ rle }) => rle),
      rejected: refused.map(({ rle }) => rle),
      usedUp: taken.filter(({ drawn }) => drawn !== true).length + refused.length,
      reviewed: reviewed.has(image.id),
    };
  };

  // What became of proposals like these where people have decided tells how good they are elsewhere.
  const judged: JudgedProposal[] = [];
  let judgedFrom = 0;
  for await (const { reply } of rescoreAll(store, lesson, teaching.slice(-judgedImages).map(decided), engine, options.threads)) {
    if (stopped()) return;
    if ('error' in reply) refuseFatal(reply.error); // another trouble has been told already
    if (!('judged' in reply)) continue;
    judged.push(...reply.judged);
    if (reply.judged.length > 0) judgedFrom++;
  }
  const overlap = fitOverlap(judged, judgedFrom);

  const waiting = inTurn(images, input.first ?? []).filter((image) => !reviewed.has(image.id));
  const proposePhase = new Phase('Proposals', waiting.length);
  let total = 0;
  if (stopped()) return;
  for await (const { item, reply } of rescoreAll(store, { ...lesson, overlap }, waiting.map(decided), engine, options.threads)) {
    const { image } = item;
    if ('error' in reply) {
      refuseFatal(reply.error);
      yield { type: 'problem', problem: { path: image.path, ...reply.error } };
    } else if ('drafts' in reply) {
      total += reply.drafts.length;
      yield { type: 'proposals', imageId: image.id, proposals: reply.drafts };
    }
    yield proposePhase.step();
    if (stopped()) return;
  }
  yield { type: 'done', summary: `${total} proposals from ${named.length} accepted ${named.length === 1 ? 'mask' : 'masks'}.` };
}

/** The images that `first` names, in its order, then all others in theirs. */
function inTurn(images: readonly PrelabelImage[], first: readonly number[]): PrelabelImage[] {
  const byId = new Map(images.map((image) => [image.id, image]));
  const early = new Set(first.map((id) => byId.get(id)).filter((image) => image !== undefined));
  return [...early, ...images.filter((image) => !early.has(image))];
}
