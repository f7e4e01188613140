/** Finds the regions of many images on several threads, in the order of the images. What a region is, is regions.ts. */
import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import { AppError, errorFacts } from '../contract/index.ts';
import type { ErrorFacts } from '../contract/index.ts';
import type { PrelabelImage } from './features.ts';
import { regionFinder } from './regions.ts';
import type { ImageRegions, RegionSettings } from './regions.ts';

/** Each holds a picture and its candidates, some 200 MB: more would cost more memory than they save time. */
const mostThreads = 8;

/** The regions of an image, or why it has none. */
export type ThreadReply = { readonly regions: ImageRegions } | { readonly error: ErrorFacts };

/** Fewer images than this for each thread do not repay its start. */
const imagesPerThread = 2;

/**
 * Regions of every image, in the order of `images`; at most two images a thread are worked on ahead of the one asked for.
 * Ending the iteration ends the threads.
 * @param threads most threads, by default the cores; with one the work is done on the calling thread
 * @throws AppError engine-died when a thread ends by itself
 */
export async function* findRegions(
  images: readonly PrelabelImage[],
  settings: RegionSettings,
  threads = Math.min(mostThreads, availableParallelism()),
): AsyncGenerator<{ readonly image: PrelabelImage; readonly reply: ThreadReply }> {
  const count = Math.min(threads, Math.floor(images.length / imagesPerThread));
  if (count <= 1) {
    const find = regionFinder(settings);
    for (const image of images) {
      const reply: ThreadReply = await find(image).then(
        (regions) => ({ regions }),
        (error: unknown) => ({ error: errorFacts(error) }),
      );
      yield { image, reply };
    }
    return;
  }

  const pool = Array.from({ length: count }, () => new RegionThread(settings));
  const idle = [...pool];
  /** Replies that were asked for and not yet yielded, in the order of the images. */
  const ahead: Promise<ThreadReply>[] = [];
  let next = 0;
  const feed = (): void => {
    while (idle.length > 0 && ahead.length < 2 * count && next < images.length) {
      const thread = idle.pop()!;
      const reply = thread.find(images[next++]).then((value) => {
        idle.push(thread);
        feed();
        return value;
      });
      // Its turn may come late or never: until then a failure is nobody's.
      reply.catch(() => {});
      ahead.push(reply);
    }
  };
  try {
    for (const image of images) {
      feed();
      yield { image, reply: await ahead.shift()! };
    }
  } finally {
    await Promise.all(pool.map((thread) => thread.end()));
  }
}

/** A thread that works on one image at a time, and keeps the process alive only while it does. */
class RegionThread {
  readonly #worker: Worker;
  #asked: PromiseWithResolvers<ThreadReply> | null = null;
  #died: AppError | null = null;

  constructor(settings: RegionSettings) {
    // sharp's native library must be loaded by the main thread first, and outlive the threads (sharp's documentation on
    // worker threads): this file's imports have loaded it.
    const entry = new URL(import.meta.url.endsWith('.ts') ? './regionThread.ts' : './regionThread.js', import.meta.url);
    this.#worker = new Worker(entry, { name: 'patchwise-regions', workerData: settings });
    this.#worker.unref();
    this.#worker.on('message', (reply: ThreadReply) => {
      this.#worker.unref();
      this.#asked?.resolve(reply);
    });
    this.#worker.on('error', (error) => this.#fail(error));
    this.#worker.on('exit', (code) => this.#fail(new Error(`it ended with code ${code}`)));
  }

  /** @throws AppError engine-died */
  find(image: PrelabelImage): Promise<ThreadReply> {
    this.#asked = Promise.withResolvers();
    if (this.#died !== null) this.#asked.reject(this.#died);
    this.#worker.ref();
    this.#worker.postMessage(image);
    return this.#asked.promise;
  }

  async end(): Promise<void> {
    await this.#worker.terminate();
  }

  #fail(cause: unknown): void {
    this.#died ??= new AppError(
      'engine-died',
      `A thread that looks for regions has died: ${cause instanceof Error ? cause.message : String(cause)}.`,
      'Start the job again; features that are stored are not computed again.',
      { cause },
    );
    this.#asked?.reject(this.#died);
  }
}
