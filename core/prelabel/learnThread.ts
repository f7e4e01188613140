/** Entry of a thread of learnPool.ts: images in, what a lesson makes of them out, one at a time. */
import { parentPort, workerData } from 'node:worker_threads';
import { errorFacts } from '../contract/index.ts';
import type { Owned } from '../threads.ts';
import { ownersEngine } from './edges.ts';
import { FeatureStore } from './features.ts';
import type { RescoreReply } from './learnPool.ts';
import { rescore, type DecidedImage, type Lesson } from './rescore.ts';

const lesson = workerData as Lesson & Owned;
const engine = ownersEngine(lesson);
const store = new FeatureStore({ ...lesson, backbone: null, options: lesson.features });

async function answer(item: DecidedImage): Promise<void> {
  let reply: RescoreReply;
  try {
    reply = await rescore(store, lesson, item, engine);
  } catch (error) {
    // An AppError would arrive as a plain Error: its facts go instead.
    reply = { error: errorFacts(error) };
  }
  parentPort!.postMessage(reply);
}

parentPort!.on('message', (item: DecidedImage) => void answer(item));
