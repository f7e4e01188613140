/** Whole runs over the pictures in memory: to start, to go on, and what they leave. */
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import type { JobEvent, TrainMetrics } from '../../core/contract/index.ts';
import type { RunConfig } from '../../core/dinov2/config.ts';
import { pretrain, resume } from '../../core/dinov2/train.ts';
import type { Executor } from '../../core/nn/ops.ts';
import { pictures, scanned } from './pictures.ts';

/** Where a run of a test may be, gone after it. */
export async function folder(t: TestContext): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'patchwise-train-'));
  t.after(() => rm(dir, { recursive: true, force: true }));
  return join(dir, 'run');
}

export const never = new AbortController().signal;

interface Stop {
  /** Abort on the metrics of this step. */
  readonly after?: number;
}

/** All events of a run; with `after` it is stopped there. */
export async function collect(events: AsyncIterable<JobEvent>, { after }: Stop = {}, controller?: AbortController): Promise<JobEvent[]> {
  const seen: JobEvent[] = [];
  for await (const event of events) {
    seen.push(event);
    if (event.type === 'metrics' && event.metrics.step === after) controller!.abort();
  }
  return seen;
}

export const run = (x: Executor, runDir: string, config: RunConfig, signal: AbortSignal = never, missing?: ReadonlySet<number>) =>
  pretrain({ runDir, imageRoot: '/nowhere', images: scanned, config, executor: x, signal, ...pictures(missing) });
export const goOn = (x: Executor, runDir: string, signal: AbortSignal = never) =>
  resume({ runDir, imageRoot: '/nowhere', executor: x, signal, ...pictures() });

/** Lines of metrics.jsonl less what depends on the clock. */
export async function metricsLines(runDir: string): Promise<Omit<TrainMetrics, 'imagesPerSecond' | 'secondsLeft'>[]> {
  const text = await readFile(join(runDir, 'metrics.jsonl'), 'utf8');
  assert.ok(text.endsWith('\n'));
  return text
    .trimEnd()
    .split('\n')
    .map((line) => {
      const { imagesPerSecond, secondsLeft, ...rest } = JSON.parse(line) as TrainMetrics;
      assert.ok(imagesPerSecond > 0 && secondsLeft >= 0);
      return rest;
    });
}
