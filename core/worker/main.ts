/**
 * The forked process: runs one job and posts its events. Arguments: [path of another jobs module] (tests).
 * Ends by itself when the host's channel closes, so that a killed host leaves nothing running.
 */
import { pathToFileURL } from 'node:url';
import { errorFacts } from '../contract/index.ts';
import type { FromWorker, ToWorker } from './index.ts';
import type { runJob as RunJob } from './jobs.ts';

const stop = new AbortController();

process.on('disconnect', () => process.exit(0));
// Ctrl-C in a terminal reaches the whole group; the host decides what happens to jobs.
process.on('SIGINT', () => {});
process.on('message', (message: ToWorker) => {
  if (message.type === 'stop') stop.abort();
  else void run(message);
});

/** Resolves when the message has left, so that a fast job waits for its host instead of filling memory. */
function post(message: FromWorker): Promise<void> {
  return new Promise((resolve, reject) => process.send!(message, undefined, {}, (error) => (error ? reject(error) : resolve())));
}

async function run({ request, options }: Extract<ToWorker, { type: 'start' }>): Promise<void> {
  try {
    const other = process.argv[2];
    const { runJob } = other ? ((await import(pathToFileURL(other).href)) as { runJob: typeof RunJob }) : await import('./jobs.ts');
    for await (const event of runJob(request, stop.signal, options)) await post({ type: 'event', event });
    await post({ type: 'end' });
  } catch (error) {
    await post({ type: 'error', facts: errorFacts(error) });
  }
  // Threads of an executor may still be alive.
  process.exit(0);
}
