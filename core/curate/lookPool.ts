/** Makes the looks of many images on several threads, in the order of the images. What a look is, is look.ts. */
import { availableParallelism } from 'node:os';
import { errorFacts, type ErrorFacts } from '../contract/index.ts';
import type { PrelabelImage } from '../prelabel/index.ts';
import { onThreads } from '../threads.ts';
import { keepLook } from './look.ts';

export interface LookSettings {
  readonly imageRoot: string;
  readonly cacheDir: string;
}

/** Whether the look was made now (false: it was there), or why there is none. */
export type LookReply = { readonly made: boolean } | { readonly error: ErrorFacts };

const mostThreads = 16;
/** Fewer images than this for each thread do not repay its start. */
const imagesPerThread = 32;

/**
 * Sees to it that every image has its look on disk.
 * @throws AppError engine-died when a thread ends by itself
 */
export async function* keepLooks(
  images: readonly PrelabelImage[],
  settings: LookSettings,
  threads = Math.min(mostThreads, availableParallelism(), Math.floor(images.length / imagesPerThread)),
): AsyncGenerator<{ readonly image: PrelabelImage; readonly reply: LookReply }> {
  if (threads <= 1) {
    for (const image of images) {
      const reply: LookReply = await keepLook(image, settings.imageRoot, settings.cacheDir).then(
        (made) => ({ made }),
        (error: unknown) => ({ error: errorFacts(error) }),
      );
      yield { image, reply };
    }
    return;
  }
  // The decoder's native library must be loaded by the main thread first, and outlive the threads: look.ts has loaded it.
  const entry = new URL(import.meta.url.endsWith('.ts') ? './lookThread.ts' : './lookThread.js', import.meta.url);
  const work = { entry, name: 'patchwise-looks', settings, threads, does: 'looks at images' };
  for await (const { item, reply } of onThreads<PrelabelImage, LookReply>(images, work)) yield { image: item, reply };
}
