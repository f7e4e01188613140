/** Scores the candidates of many images on several threads, in the order of the images. What is done with one is rescore.ts. */
import { errorFacts } from '../contract/index.ts';
import type { ErrorFacts } from '../contract/index.ts';
import { onThreads } from '../threads.ts';
import { edgeAnswers, type EdgeEngine } from './edges.ts';
import type { FeatureStore } from './features.ts';
import { threadsFor } from './regionPool.ts';
import { rescore, type DecidedImage, type Lesson, type Rescored } from './rescore.ts';

/** What a lesson makes of an image, or why nothing. */
export type RescoreReply = Rescored | { readonly error: ErrorFacts };

/**
 * A reply for every item, in the order of `items`. Threads have no network: images whose features are not stored are left to
 * the calling thread. Ending the iteration ends the threads.
 * @param store of the calling thread, with the network where there is one
 * @param engine brings masks to pixels for all threads; null: each does it itself
 * @param most threads, by default the cores; with one the work is done on the calling thread
 * @throws AppError engine-died when a thread ends by itself
 */
export async function* rescoreAll(
  store: FeatureStore,
  lesson: Lesson,
  items: readonly DecidedImage[],
  engine: EdgeEngine | null,
  most?: number,
): AsyncGenerator<{ readonly item: DecidedImage; readonly reply: RescoreReply }> {
  const here = (item: DecidedImage): Promise<RescoreReply> =>
    rescore(store, lesson, item, engine).catch((error: unknown) => ({ error: errorFacts(error) }));
  const threads = threadsFor(items.length, most);
  if (threads <= 1) {
    for (const item of items) yield { item, reply: await here(item) };
    return;
  }
  // As for regionPool.ts, this file's imports have loaded sharp on the main thread.
  const entry = new URL(import.meta.url.endsWith('.ts') ? './learnThread.ts' : './learnThread.js', import.meta.url);
  const work = { entry, name: 'patchwise-learn', settings: lesson, threads, does: 'scores proposals', answer: edgeAnswers(engine) };
  for await (const { item, reply } of onThreads<DecidedImage, RescoreReply>(items, work)) {
    const missing = 'error' in reply && reply.error.code === 'no-checkpoint';
    yield { item, reply: missing ? await here(item) : reply };
  }
}
