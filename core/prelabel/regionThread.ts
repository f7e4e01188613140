/** Entry of a thread of regionPool.ts: images in, their regions out, one at a time. */
import { parentPort, workerData } from 'node:worker_threads';
import { errorFacts } from '../contract/index.ts';
import type { Owned } from '../threads.ts';
import { ownersEngine } from './edges.ts';
import type { PrelabelImage } from './features.ts';
import type { ThreadReply } from './regionPool.ts';
import { regionFinder } from './regions.ts';
import type { RegionSettings } from './regions.ts';

const settings = workerData as RegionSettings & Owned;
const find = regionFinder(settings, ownersEngine(settings));

async function answer(image: PrelabelImage): Promise<void> {
  let reply: ThreadReply;
  try {
    reply = { regions: await find(image) };
  } catch (error) {
    // An AppError would arrive as a plain Error: its facts go instead.
    reply = { error: errorFacts(error) };
  }
  parentPort!.postMessage(reply, 'regions' in reply ? [reply.regions.rows.buffer] : []);
}

parentPort!.on('message', (image: PrelabelImage) => void answer(image));
