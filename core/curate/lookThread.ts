/** Entry of a thread of lookPool.ts: images in; their looks are kept on disk, the reply tells whether they were made now. */
import { parentPort, workerData } from 'node:worker_threads';
import { errorFacts } from '../contract/index.ts';
import type { PrelabelImage } from '../prelabel/index.ts';
import { keepLook } from './look.ts';
import type { LookReply, LookSettings } from './lookPool.ts';

const { imageRoot, cacheDir } = workerData as LookSettings;

async function answer(image: PrelabelImage): Promise<void> {
  let reply: LookReply;
  try {
    reply = { made: await keepLook(image, imageRoot, cacheDir) };
  } catch (error) {
    // An AppError would arrive as a plain Error: its facts go instead.
    reply = { error: errorFacts(error) };
  }
  parentPort!.postMessage(reply);
}

parentPort!.on('message', (image: PrelabelImage) => void answer(image));
