/** A watched run at a tiny size: its lines, the same again after a kill, and images that cannot be read. */
import assert from 'node:assert/strict';
import { appendFile, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { AppError, type JobEvent, type MonitorLine } from '../../core/contract/index.ts';
import { resolveConfig } from '../../core/dinov2/presets.ts';
import { pretrain, resume } from '../../core/dinov2/train.ts';
import { RunWatch, parseMonitors } from '../../core/monitor/index.ts';
import { cutViews, sampleSize } from '../../core/monitor/views.ts';
import { ReferenceExecutor } from '../nn/reference-executor.ts';
import { pictures, scanned } from '../dinov2/pictures.ts';
import { tinyRun } from '../dinov2/tiny-run.ts';

const config = tinyRun({ steps: 6, checkpointEvery: 2 });
const openImage = (missing: ReadonlySet<number> = new Set()) => {
  const source = pictures(missing).openImages!(scanned, config, () => {});
  return (image: { path: string }) => source.get(scanned.findIndex(({ path }) => path === image.path));
};

async function folder(t: TestContext): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'patchwise-watch-'));
  t.after(() => rm(dir, { recursive: true, force: true }));
  return join(dir, 'run');
}

async function watchedRun(runDir: string, start: boolean, stopAfter?: number): Promise<JobEvent[]> {
  const watch = new RunWatch({ runDir, imageRoot: '/nowhere', openImage: openImage() });
  const stop = new AbortController();
  const common = {
    runDir,
    imageRoot: '/nowhere',
    executor: new ReferenceExecutor(),
    signal: stop.signal,
    onCheckpoint: watch.observe.bind(watch),
    ...pictures(),
  };
  const seen: JobEvent[] = [];
  for await (const event of start ? pretrain({ ...common, images: scanned, config }) : resume(common)) {
    seen.push(event);
    if (event.type === 'metrics' && event.metrics.step === stopAfter) stop.abort();
  }
  return seen;
}

/** Less what depends on the clock. */
async function linesOf(runDir: string): Promise<Omit<MonitorLine, 'seconds'>[]> {
  return parseMonitors(await readFile(join(runDir, 'monitors.jsonl'), 'utf8')).map(({ seconds, ...line }) => {
    assert.ok(seconds > 0);
    return line;
  });
}

test('one line and one event a checkpoint; a run killed and resumed has the same lines, each step once', async (t) => {
  const whole = await folder(t);
  const events = await watchedRun(whole, true);
  const lines = await linesOf(whole);
  assert.deepEqual(
    lines.map(({ step }) => step),
    [0, 2, 4, 6],
  );
  const told = events.flatMap((event) => (event.type === 'monitors' ? [event.line] : []));
  assert.deepEqual(
    told.map(({ seconds: _, ...line }) => line),
    lines,
  );
  const metrics = events.flatMap((event) => (event.type === 'metrics' ? [event.metrics] : []));
  for (const line of lines) {
    assert.deepEqual([line.images, line.width, line.totalSteps], [10, 16, 6]);
    for (const name of ['denseCorrespondence', 'viewRetrieval', 'outlierShare'] as const)
      assert.ok(line[name] >= 0 && line[name] <= 1, name);
    assert.ok(line.classRank >= 1 && line.classRank <= 16 && line.patchRank >= 1 && line.patchRank <= 16);
    const since = metrics.filter(({ step }) => step > line.step - 2 && step <= line.step);
    // The student is compared with one that guesses: log 24 prototypes.
    if (since.length > 0) {
      const mean = since.reduce((sum, { dinoGlobal, dinoLocal }) => sum + dinoGlobal + dinoLocal, 0) / since.length;
      assert.ok(Math.abs(line.dinoLoss! - mean / Math.log(24)) < 1e-9);
    } else assert.equal(line.dinoLoss, null);
    for (const [ofLine, ofStep] of [
      ['loss', 'total'],
      ['sampleEntropy', 'sampleEntropy'],
      ['marginalEntropy', 'marginalEntropy'],
    ] as const) {
      if (since.length === 0) assert.equal(line[ofLine], null);
      else assert.ok(Math.abs(line[ofLine]! - (since[0]![ofStep] + since[1]![ofStep]) / 2) < 1e-9, `${ofLine} of step ${line.step}`);
    }
  }
  assert.notEqual(lines[3]!.patchRank, lines[0]!.patchRank, 'the network has learned');

  // Killed before its first checkpoint was whole, with lines of later ones: they go, a cut one too.
  const killed = await folder(t);
  await watchedRun(killed, true);
  await rm(join(killed, 'checkpoints'), { recursive: true });
  await appendFile(join(killed, 'monitors.jsonl'), '{"step":8,"imag');
  await watchedRun(killed, false);
  assert.deepEqual(await linesOf(killed), lines);

  const stopped = await folder(t);
  await watchedRun(stopped, true, 4);
  assert.deepEqual(
    (await linesOf(stopped)).map(({ step }) => step),
    [0, 2, 4],
  );
  await appendFile(join(stopped, 'monitors.jsonl'), `${JSON.stringify({ ...lines[3], classRank: 99 })}\n{"step":8,"imag`);
  await watchedRun(stopped, false);
  assert.deepEqual(await linesOf(stopped), lines);
});

test('images that cannot be read are left out; with hardly any, nothing is measured', async () => {
  const views = await cutViews(config, scanned, openImage(new Set([0, 3])));
  assert.equal(views.pairs.length, 8);
  const size = config.crops.globalSize;
  for (const pair of views.pairs) {
    for (const { place, pixels } of pair) {
      assert.equal(pixels.length, size * size * 3);
      assert.ok(place.left >= 0 && place.top >= 0 && place.left + place.width <= 60 && place.top + place.height <= 48);
    }
    const [a, b] = pair.map(({ place }) => place) as [(typeof pair)[0]['place'], (typeof pair)[0]['place']];
    const across = Math.min(a.left + a.width, b.left + b.width) - Math.max(a.left, b.left);
    const down = Math.min(a.top + a.height, b.top + b.height) - Math.max(a.top, b.top);
    assert.ok(across > 0 && down > 0 && across * down >= 0.3 * Math.min(a.width * a.height, b.width * b.height));
  }
  const none = await cutViews(config, scanned, async ({ path }) => {
    throw new AppError('image-vanished', `${path} is gone.`, 'Put it back.');
  });
  assert.equal(none.pairs.length, 0);
  await assert.rejects(
    cutViews(config, scanned, async () => {
      throw new Error('a fault of the program is not swallowed');
    }),
    /not swallowed/,
  );
});

test('the sample grows with the steps between checkpoints and stays within its bounds', () => {
  const facts = (images: number) => ({ images, cores: 2, memoryBytes: 8e9, engine: 'cpu, 2 threads', gpu: false });
  const sample = (preset: string, images: number, steps?: number): number =>
    sampleSize(resolveConfig(preset, facts(images), steps ? { steps } : {}), images);
  assert.deepEqual([sample('quick', 40), sample('quick', 2000, 10)], [40, 64]);
  assert.ok(sample('quick', 2000) >= 64 && sample('quick', 2000) < sample('standard', 2000));
  assert.equal(sample('thorough', 5000, 100_000), 1024);
  // The network's own count of tokens: monitors add 4 % of the training's at most, between the bounds.
  const { checkpointEvery, batch } = resolveConfig('standard', facts(2000));
  const global = 64 + 1 + 4;
  const trained = 4 * 2 * global + 3 * 4 * (9 + 1 + 4);
  const added = (2 * global * sample('standard', 2000)) / (checkpointEvery * batch * trained);
  assert.ok(added > 0.039 && added < 0.041, String(added));
});
