/** A run in its own process, to be killed: prints each step it has logged. Argument: the run's folder. */
import { pretrain } from '../../core/dinov2/train.ts';
import { ReferenceExecutor } from '../nn/reference-executor.ts';
import { pictures, scanned } from './pictures.ts';
import { tinyRun } from './tiny-run.ts';

const events = pretrain({
  runDir: process.argv[2]!,
  imageRoot: '/nowhere',
  images: scanned,
  config: tinyRun({ steps: 6, checkpointEvery: 2 }),
  executor: new ReferenceExecutor(),
  signal: new AbortController().signal,
  ...pictures(),
});
for await (const event of events) {
  if (event.type !== 'metrics') continue;
  console.log(event.metrics.step);
  if (event.metrics.step === 5) await new Promise(() => setInterval(() => undefined, 1000)); // waits for the kill
}
