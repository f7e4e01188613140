/** The job without labels: features of every image, regions and objects of each, clusters over the set. */
import type { JobEvent } from '../contract/index.ts';
import { clusterRegions } from './cluster.ts';
import type { ClusterOptions } from './cluster.ts';
import type { EdgeEngine } from './edges.ts';
import { FeatureStore } from './features.ts';
import type { FeatureBackbone, FeatureOptions, PrelabelImage } from './features.ts';
import { Phase, problemEvent, refuseFatal } from './job.ts';
import { proposeDefaults } from './propose.ts';
import type { ProposeOptions } from './propose.ts';
import { findRegions } from './regionPool.ts';
import { descriptorSize } from './regions.ts';
import type { RegionSettings } from './regions.ts';
import { setStatistics } from './statistics.ts';
import type { SetStatistics } from './statistics.ts';

export interface PrelabelOptions {
  readonly features?: Partial<FeatureOptions>;
  readonly propose?: Partial<ProposeOptions>;
  readonly clusters?: ClusterOptions;
  /** Most pixels of the picture that guides the edges; larger pictures are reduced for it. Default 2^18. */
  readonly guidePixels?: number;
  /** Most threads that look for regions; results do not depend on it. Default: the cores. */
  readonly threads?: number;
}

export interface PrelabelInput {
  readonly backbone: FeatureBackbone;
  /** Names the network in the cache: run and step, or the like. */
  readonly modelKey: string;
  readonly cacheDir: string;
  readonly imageRoot: string;
  readonly images: readonly PrelabelImage[];
  readonly options?: PrelabelOptions | undefined;
  /** Brings candidates to pixels; absent: threads. */
  readonly engine?: EdgeEngine | null | undefined;
  readonly signal?: AbortSignal | undefined;
}

export const guidePixelsDefault = 2 ** 18;
/** Examples named for each cluster. */
const exampleCount = 8;

/**
 * Proposes masks for every image. Events: progress ('Features', 'Regions', 'Clusters'), one `proposals` for each image,
 * `problem` for each image that cannot be read (the others go on), `clusters` at the end, `done`. When the signal aborts it
 * ends after the image at hand; what was proposed stays valid, clusters then do not come.
 * @throws AppError not-finite when the network is broken; what the engine throws, and writing the cache (disk full)
 */
export async function* prelabel(input: PrelabelInput): AsyncGenerator<JobEvent> {
  const { modelKey, cacheDir, imageRoot, images, options = {}, engine = null, signal } = input;
  const stopped = (): boolean => signal?.aborted === true;
  const store = new FeatureStore({ ...input, options: options.features });

  const readable: PrelabelImage[] = [];
  const featurePhase = new Phase('Features', images.length);
  try {
    for await (const { image, computed, error } of store.ensure(images, signal)) {
      if (error === undefined) readable.push(image);
      else yield problemEvent(image, error);
      yield featurePhase.step(computed);
    }
  } catch (error) {
    if (stopped()) return;
    throw error;
  }
  if (readable.length === 0) {
    yield { type: 'done', summary: 'No image could be read, so nothing was proposed.' };
    return;
  }
  if (stopped()) return;
  // Batches of equal size finish out of order: back to the order asked for.
  const place = new Map(images.map((image, i) => [image, i]));
  readable.sort((a, b) => place.get(a)! - place.get(b)!);

  let statistics: SetStatistics;
  try {
    statistics = await setStatistics(store, readable, signal);
  } catch (error) {
    if (stopped()) return;
    throw error;
  }
  if (statistics.c0 > 0.99) {
    const cosine = statistics.c0.toFixed(3);
    yield {
      type: 'log',
      level: 'warn',
      text: `Patches of different images are nearly alike (mean cosine ${cosine}): the network is untrained or has collapsed.`,
    };
  }
  if (stopped()) return;

  const regionPhase = new Phase('Regions', readable.length);
  const described: { imageId: number; count: number; rows: Float32Array; weights: number[] }[] = [];
  const settings: RegionSettings = {
    modelKey,
    cacheDir,
    imageRoot,
    features: options.features,
    patchSize: input.backbone.config.patchSize,
    statistics,
    propose: { ...proposeDefaults, ...options.propose },
    guidePixels: options.guidePixels ?? guidePixelsDefault,
  };
  for await (const { image, reply } of findRegions(readable, settings, engine, options.threads)) {
    if ('regions' in reply) {
      const { drafts, rows } = reply.regions;
      const weights = drafts.map((draft) => Math.sqrt(draft.area / (image.width * image.height)));
      described.push({ imageId: image.id, count: drafts.length, rows, weights });
      yield { type: 'proposals', imageId: image.id, proposals: drafts };
    } else {
      // Here stored features that are gone are one image's trouble.
      if (reply.error.code !== 'no-checkpoint') refuseFatal(reply.error);
      yield { type: 'problem', problem: { path: image.path, ...reply.error } };
    }
    yield regionPhase.step();
    if (stopped()) return;
  }

  const total = described.reduce((sum, d) => sum + d.count, 0);
  yield { type: 'progress', phase: 'Clusters', done: 0, total: 1, imagesPerSecond: null, secondsLeft: null };
  yield clustersEvent(described, total, options.clusters);
  yield { type: 'progress', phase: 'Clusters', done: 1, total: 1, imagesPerSecond: null, secondsLeft: 0 };
  yield { type: 'done', summary: `${total} proposals in ${described.length} ${described.length === 1 ? 'image' : 'images'}.` };
}

function clustersEvent(
  described: readonly { imageId: number; count: number; rows: Float32Array; weights: number[] }[],
  total: number,
  options: ClusterOptions | undefined,
): JobEvent {
  const rows = new Float32Array(total * descriptorSize);
  const weights = new Float32Array(total);
  let at = 0;
  for (const d of described) {
    rows.set(d.rows, at * descriptorSize);
    weights.set(d.weights, at);
    at += d.count;
  }
  // Descriptors are centred, so alike by chance is cosine 0.
  const { labels, count, compactness, typicality } = clusterRegions(rows, weights, descriptorSize, 0, options);
  const owners: { imageId: number; index: number }[] = [];
  for (const d of described) for (let index = 0; index < d.count; index++) owners.push({ imageId: d.imageId, index });
  const members: number[][] = Array.from({ length: count }, () => []);
  for (let i = 0; i < total; i++) members[labels[i]].push(i);
  const clusters = members.map((own, c) => {
    own.sort((a, b) => typicality[b] - typicality[a]);
    // Examples of different images first: eight views of one picture show little.
    const images = new Set<number>();
    const fresh: number[] = [];
    const more: number[] = [];
    for (const i of own) {
      if (fresh.length === exampleCount) break;
      const list = images.has(owners[i].imageId) ? more : fresh;
      list.push(i);
      images.add(owners[i].imageId);
    }
    const examples = [...fresh, ...more].slice(0, exampleCount);
    return { compactness: compactness[c], examples: examples.map((i) => owners[i]) };
  });
  let from = 0;
  const assignment = described.map(({ imageId, count: own }) => {
    const clustersOf = Array.from(labels.subarray(from, from + own));
    from += own;
    return { imageId, clusters: clustersOf };
  });
  return { type: 'clusters', clusters, assignment };
}
