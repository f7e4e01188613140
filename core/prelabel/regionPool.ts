/** Finds the regions of many images on several threads, in the order of the images. What a region is, is regions.ts. */
import { availableParallelism } from 'node:os';
import { errorFacts } from '../contract/index.ts';
import type { ErrorFacts } from '../contract/index.ts';
import { onThreads } from '../threads.ts';
import { edgeAnswers, type EdgeEngine } from './edges.ts';
import type { PrelabelImage } from './features.ts';
import { regionFinder } from './regions.ts';
import type { ImageRegions, RegionSettings } from './regions.ts';

/** Each holds a picture and its candidates, some 200 MB: more would cost more memory than they save time. */
const mostThreads = 8;

/** The regions of an image, or why it has none. */
export type ThreadReply = { readonly regions: ImageRegions } | { readonly error: ErrorFacts };

/** Fewer images than this for each thread do not repay its start. */
const imagesPerThread = 2;

/** Threads for so many images. @param most by default the cores */
export function threadsFor(images: number, most = Math.min(mostThreads, availableParallelism())): number {
  return Math.min(most, Math.floor(images / imagesPerThread));
}

/**
 * Regions of every image, in the order of `images`; at most two images a thread are worked on ahead of the one asked for.
 * Ending the iteration ends the threads.
 * @param engine brings candidates to pixels for all threads; null: each does it itself
 * @param threads most threads, by default the cores; with one the work is done on the calling thread
 * @throws AppError engine-died when a thread ends by itself
 */
export async function* findRegions(
  images: readonly PrelabelImage[],
  settings: RegionSettings,
  engine: EdgeEngine | null,
  threads?: number,
): AsyncGenerator<{ readonly image: PrelabelImage; readonly reply: ThreadReply }> {
  const count = threadsFor(images.length, threads);
  if (count <= 1) {
    const find = regionFinder(settings, engine);
    for (const image of images) {
      const reply: ThreadReply = await find(image).then(
        (regions) => ({ regions }),
        (error: unknown) => ({ error: errorFacts(error) }),
      );
      yield { image, reply };
    }
    return;
  }

  // sharp's native library must be loaded by the main thread first, and outlive the threads (sharp's documentation on worker
  // threads): this file's imports have loaded it.
  const entry = new URL(import.meta.url.endsWith('.ts') ? './regionThread.ts' : './regionThread.js', import.meta.url);
  const work = { entry, name: 'patchwise-regions', settings, threads: count, does: 'looks for regions', answer: edgeAnswers(engine) };
  for await (const { item, reply } of onThreads<PrelabelImage, ThreadReply>(images, work)) yield { image: item, reply };
}
