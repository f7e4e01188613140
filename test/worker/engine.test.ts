/** Which engine a training job runs on: the one that is asked for, and when it goes on, the one it was started with. */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import sharp from 'sharp';
import type { JobEvent, ScannedImage } from '../../core/contract/index.ts';
import { readRun } from '../../core/dinov2/index.ts';
import { scanFolder } from '../../core/images/index.ts';
import type { EngineWish } from '../../core/nn/index.ts';
import { checkPlan, runJob } from '../../core/worker/jobs.ts';
import { tinyRun } from '../dinov2/tiny-run.ts';
import { photo } from '../fixtures/pictures.ts';

test('a run goes on with the engine it was started with, or with another one and a warning', async (t) => {
  const place = await mkdtemp(path.join(tmpdir(), 'patchwise-engine-'));
  t.after(() => rm(place, { recursive: true, force: true }));
  for (let i = 0; i < 8; i++) {
    const { data, width, height } = photo(i, 60, 48);
    await sharp(data, { raw: { width, height, channels: 3 } }).toFile(path.join(place, `${i}.png`));
  }
  const images: ScannedImage[] = [];
  for await (const event of scanFolder(place, { known: new Map(), signal: new AbortController().signal }))
    if (event.type === 'images') images.push(...event.images);
  assert.equal(images.length, 8);

  const runDir = path.join(place, 'run');
  /** Engine and warnings that the job's log tells; it is stopped after one step. */
  const oneStep = async (start: boolean, engine: EngineWish | null): Promise<{ engine: string; warnings: string[]; last: JobEvent }> => {
    const stop = new AbortController();
    const events: JobEvent[] = [];
    const config = tinyRun({ steps: 9 });
    const list = { dedupe: false, balance: false, keep: null };
    const chosen = images.map((image, i) => ({ ...image, id: i + 1 }));
    const begin = { images: chosen, config, list, exclude: [], curation: null, cacheDir: path.join(place, 'cache') };
    const pixelDir = path.join(place, 'pixels');
    for await (const event of runJob(
      { kind: 'pretrain', runDir, imageRoot: place, pixelDir, start: start ? begin : null, engine },
      stop.signal,
    )) {
      events.push(event);
      if (event.type === 'metrics') stop.abort();
    }
    const logs = events.flatMap((event) => (event.type === 'log' ? [event] : []));
    return {
      engine: /images, (\w+) \(/.exec(logs.find(({ level }) => level === 'info')!.text)![1]!,
      // A network of two blocks on eight pictures collapses at once, and is told so; that is not asked here.
      warnings: logs.flatMap(({ level, text }) => (level === 'warn' && !text.startsWith('The features') ? text : [])),
      last: events.at(-1)!,
    };
  };
  const first = await oneStep(true, 'tensorflow');
  assert.deepEqual([first.engine, first.warnings, first.last.type], ['tensorflow', [], 'done']);
  const second = await oneStep(false, null);
  assert.deepEqual([second.engine, second.warnings], ['tensorflow', []]);
  const third = await oneStep(false, 'cpu');
  assert.equal(third.engine, 'cpu');
  assert.match(third.warnings.join(), /^The run was started on tensorflow and goes on with cpu: its numbers will differ in rounding/);

  const { config } = await readRun(runDir);
  assert.deepEqual([config.engine, config.precision], ['tensorflow', 'f32']);
  // What was asked for is passed on, also for a run that goes on.
  const own = { kind: 'pretrain', runDir, imageRoot: place, pixelDir: path.join(place, 'pixels') } as const;
  const request = { ...own, start: null, engine: null, precision: 'f16' } as const;
  await assert.rejects(runJob(request, new AbortController().signal).next(), /f16 is for the webgpu engine/);
});

test('a run planned for a GPU does not begin on the CPU', () => {
  assert.throws(() => checkPlan(true, 'cpu', ['The driver computes wrongly.']), /^AppError: The driver computes wrongly\.$/);
  checkPlan(true, 'webgpu', ['Its matrix units are left unused.']);
  checkPlan(true, 'tensorflow', ['The next engine is tried.']);
  checkPlan(false, 'cpu', []);
});
