/** The job: looks of all images, pairs and groups of copies, descriptors, clusters. Images in, events out. */
import { createHash } from 'node:crypto';
import path from 'node:path';
import { setImmediate as nextTurn, setTimeout as pause } from 'node:timers/promises';
import { AppError, type CurationResult, type JobEvent, type JobProgress } from '../contract/index.ts';
import { readRgb } from '../images/index.ts';
import { FeatureStore, Phase, problemEvent, type FeatureBackbone, type PrelabelImage } from '../prelabel/index.ts';
import { clusterCount, clusterImages } from './balance.ts';
import { compareLooks, copyRule, hashCandidates, keypointCandidates, PairSet, type CopyPair } from './copies.ts';
import { standardised, tokenDescriptors } from './descriptors.ts';
import { DisjointSets, groupsOf } from './groups.ts';
import { appearanceDim, keptLook, type Look } from './look.ts';
import { keepLooks } from './lookPool.ts';
import { nearestOfAll } from './neighbours.ts';
import { picturesKey, writeDescriptors } from './store.ts';

export interface CurateInput {
  readonly images: readonly PrelabelImage[];
  readonly imageRoot: string;
  readonly cacheDir: string;
  /** Whose features describe the images; null: their plain appearance, which needs no network. */
  readonly network: { readonly backbone: FeatureBackbone; readonly modelKey: string } | null;
  readonly signal?: AbortSignal | undefined;
}

/** Examples named for each cluster. */
const exampleCount = 8;
/** Descriptors nearer than this are worth a comparison (DINOv2, section 3, cuts at 0.6 with a network made for copies). */
const leastCosine = 0.6;
const progressMs = 250;

type Breathe = (share: number) => Promise<void>;

/**
 * Finds copies and clusters. Events: progress ('Looking', 'Features' with a network, 'Candidates', 'Comparing', 'Clusters'),
 * `problem` for each image that cannot be read (the others go on), `curation` at the end, `done`. When the signal aborts it
 * ends without `curation`; looks made so far are kept.
 * @throws AppError not-finite when the network is broken; what writing the cache throws (disk full)
 */
export async function* curate(input: CurateInput): AsyncGenerator<JobEvent> {
  const { signal } = input;
  try {
    yield* work(input);
  } catch (error) {
    if (signal?.aborted !== true) throw error;
  }
}

async function* work({ images, imageRoot, cacheDir, network, signal }: CurateInput): AsyncGenerator<JobEvent> {
  // 1. Looks; files with the same bytes are looked at once.
  const nameOf = (image: PrelabelImage): string => `${image.hash}-${image.page}`;
  const byName = Map.groupBy(images, nameOf);
  const lookOf = new Map<string, Look>();
  const looking = new Phase('Looking', images.length);
  const first = [...byName.values()].map(([image]) => image);
  for await (const { image, reply } of keepLooks(first, { imageRoot, cacheDir })) {
    signal?.throwIfAborted();
    const same = byName.get(nameOf(image))!;
    const look = 'error' in reply ? null : await keptLook(image, cacheDir);
    if (look !== null) lookOf.set(nameOf(image), look);
    else {
      const facts = 'error' in reply ? reply.error : vanished(cacheDir).facts;
      for (const { path: file } of same) yield { type: 'problem', problem: { path: file, ...facts } };
    }
    for (const [at] of same.entries()) yield looking.step(at === 0 && 'made' in reply && reply.made);
  }
  const readable = images.filter((image) => lookOf.has(nameOf(image)));
  const looks = readable.map((image) => lookOf.get(nameOf(image))!);
  const pairs: CopyPair[] = [];
  const firstOf = new Map<string, number>();
  readable.forEach((image, i) => {
    const before = firstOf.get(nameOf(image));
    if (before === undefined) firstOf.set(nameOf(image), i);
    else pairs.push({ a: before, b: i, similarity: 1, inPlace: true });
  });
  if (readable.length === 0) {
    yield { type: 'done', summary: 'No image could be read, so nothing was compared.' };
    return;
  }

  // 2. Descriptors.
  const features = network?.modelKey ?? picturesKey;
  const described = network
    ? yield* networkDescriptors(readable, { imageRoot, cacheDir, network, signal })
    : {
        rows: standardised(concat(looks.map((look) => look.appearance)), appearanceDim),
        dim: appearanceDim,
        of: readable.map((_, i) => i),
      };
  const { rows, dim, of } = described;
  const names = of.map((i) => nameOf(readable[i]));
  await writeDescriptors(cacheDir, features, dim, rows, names);

  // 3. Candidates: only the first of files with the same bytes.
  const unique = [...firstOf.values()];
  const candidates = new PairSet(unique.length);
  const own = unique.map((i) => looks[i]);
  yield* told('Candidates', signal, async (breathe) => {
    await hashCandidates(own, candidates, (share) => breathe(share / 3));
    await keypointCandidates(own, candidates, (share) => breathe((1 + share) / 3));
    const place = new Map(unique.map((i, at) => [i, at]));
    const { index, cosine } = await nearestOfAll(rows, dim, copyRule.candidates, (share) => breathe((2 + share) / 3));
    index.forEach((j, at) => {
      if (j < 0 || cosine[at] < leastCosine) return;
      const [a, b] = [place.get(of[Math.floor(at / copyRule.candidates)]), place.get(of[j])];
      if (a !== undefined && b !== undefined) candidates.add(a, b);
    });
  });

  // 4. Pairs and groups.
  const exact = new DisjointSets(readable.length);
  for (const { a, b } of pairs) exact.join(a, b);
  yield* told('Comparing', signal, async (breathe) => {
    const digests = new Map<number, Promise<string>>();
    const digest = (i: number): Promise<string> => {
      if (!digests.has(i)) digests.set(i, pixelDigest(readable[i], imageRoot));
      return digests.get(i)!;
    };
    let done = 0;
    for (const [p, q] of candidates) {
      const found = compareLooks(own[p], own[q]);
      if (done++ % 64 === 0) await breathe(done / candidates.count);
      if (found === null) continue;
      const [a, b] = [unique[p], unique[q]];
      pairs.push({ a, b, ...found });
      const sameSize = readable[a].width === readable[b].width && readable[a].height === readable[b].height;
      if (found.inPlace && sameSize && found.similarity > 0.9999 && (await digest(a)) === (await digest(b))) exact.join(a, b);
    }
  });
  const quality = readable.map(({ width, height }, i) => ({ pixels: width * height, sharpness: looks[i].sharpness }));
  const groups = groupsOf(pairs, quality).map(({ members, similarity }) => ({
    members: members.map((i, at) => ({
      imageId: readable[i].id,
      similarity: similarity[at],
      exact: exact.find(i) === exact.find(members[0]),
    })),
  }));

  // 5. Clusters.
  yield { type: 'progress', phase: 'Clusters', done: 0, total: 1, imagesPerSecond: null, secondsLeft: null };
  await nextTurn();
  signal?.throwIfAborted();
  const { labels, count, typicality } = clusterImages(rows, dim, clusterCount(of.length));
  yield { type: 'progress', phase: 'Clusters', done: 1, total: 1, imagesPerSecond: null, secondsLeft: 0 };
  const members: number[][] = Array.from({ length: count }, () => []);
  labels.forEach((cluster, row) => members[cluster].push(row));
  const curation: CurationResult = {
    features,
    groups,
    clusters: members.map((rowsOf) => ({
      compactness: Math.max(0, rowsOf.reduce((sum, row) => sum + typicality[row], 0) / rowsOf.length),
      examples: rowsOf
        .toSorted((a, b) => typicality[b] - typicality[a])
        .slice(0, exampleCount)
        .map((row) => readable[of[row]].id),
    })),
    images: of.map((i, row) => ({ imageId: readable[i].id, cluster: labels[row] })),
  };
  yield { type: 'curation', curation };
  const copies = groups.reduce((sum, group) => sum + group.members.length - 1, 0);
  yield {
    type: 'done',
    summary: `${copies} ${copies === 1 ? 'copy' : 'copies'} in ${groups.length} ${groups.length === 1 ? 'group' : 'groups'}, ${count} clusters.`,
  };
}

/** Class tokens and mean patches of every image; `of` names the image of each row (those whose features could be had). */
async function* networkDescriptors(
  images: readonly PrelabelImage[],
  { imageRoot, cacheDir, network, signal }: Omit<CurateInput, 'images' | 'network'> & { network: NonNullable<CurateInput['network']> },
): AsyncGenerator<JobEvent, { rows: Float32Array; dim: number; of: number[] }> {
  const store = new FeatureStore({ ...network, cacheDir, imageRoot });
  const tokens = new Map<PrelabelImage, { cls: Float32Array; mean: Float32Array }>();
  const phase = new Phase('Features', images.length);
  for await (const { image, computed, error } of store.ensure(images, signal)) {
    if (error === undefined) {
      const { patches, cls, dim } = await store.get(image);
      const mean = new Float32Array(dim);
      for (let i = 0; i < patches.length; i++) mean[i % dim] += (patches[i] * dim) / patches.length;
      tokens.set(image, { cls, mean });
    } else {
      yield problemEvent(image, error);
    }
    yield phase.step(computed);
  }
  const of = images.map((_, i) => i).filter((i) => tokens.has(images[i]));
  const dim = network.backbone.config.embedDim;
  const cls = concat(of.map((i) => tokens.get(images[i])!.cls));
  const means = concat(of.map((i) => tokens.get(images[i])!.mean));
  return { rows: tokenDescriptors(cls, means, dim), dim: 2 * dim, of };
}

/** Runs long work and tells how far it is; between its pieces it may be stopped. */
async function* told(
  phase: string,
  signal: AbortSignal | undefined,
  task: (breathe: Breathe) => Promise<void>,
): AsyncGenerator<JobProgress> {
  let share = 0;
  let over = false;
  const progress = (): JobProgress => ({
    type: 'progress',
    phase,
    done: Math.round(100 * share),
    total: 100,
    imagesPerSecond: null,
    secondsLeft: null,
  });
  yield progress();
  const running = task(async (done) => {
    share = done;
    await nextTurn();
    signal?.throwIfAborted();
  }).finally(() => (over = true));
  running.catch(() => undefined); // told by the await below
  while (!over) {
    await Promise.race([running, pause(progressMs)]);
    if (!over) yield progress();
  }
  await running;
  share = 1;
  yield progress();
}

/** Something else has emptied the cache while this job wrote it. */
function vanished(cacheDir: string): AppError {
  return new AppError(
    'internal',
    `What was kept of this image in ${cacheDir} is gone again.`,
    'Leave the cache alone while a job runs; start it again.',
  );
}

/** SHA-256 of the decoded, upright pixels. */
async function pixelDigest(image: PrelabelImage, imageRoot: string): Promise<string> {
  const { data } = await readRgb(path.join(imageRoot, image.path), { page: image.page });
  return createHash('sha256').update(data).digest('hex');
}

function concat(rows: readonly Float32Array[]): Float32Array {
  const width = rows[0]?.length ?? 0;
  const out = new Float32Array(rows.length * width);
  rows.forEach((row, i) => out.set(row, i * width));
  return out;
}
