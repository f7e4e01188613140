/** Whole runs at a tiny size, with pictures from memory: what is written, stopping, resuming, and what can go wrong. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdir, readFile, rm, writeFile, mkdir, appendFile, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { AppError, JobEvent } from '../../core/contract/index.ts';
import { type RunConfig } from '../../core/dinov2/config.ts';
import { listCheckpoints, loadBackbone, untrainedBackbone } from '../../core/dinov2/index.ts';
import { pretrain } from '../../core/dinov2/train.ts';
import { executors } from './executors.ts';
import { COUNT, pictures, scanned } from './pictures.ts';
import { collect, folder, goOn, metricsLines, never, run } from './runs.ts';
import { tinyRun } from './tiny-run.ts';

const VARIANTS: Record<string, Partial<RunConfig>> = {
  'softmax centring': {},
  'Sinkhorn, own iBOT head, drop path': {
    model: { ...tinyRun().model, dropPath: 0.3 },
    heads: { dino: { hidden: 16, bottleneck: 8, prototypes: 24 }, ibot: { hidden: 12, bottleneck: 6, prototypes: 20 } },
    teacher: { ...tinyRun().teacher, centering: 'sinkhorn' },
  },
};

for (const [engine, create] of executors) {
  for (const [variant, changes] of Object.entries(VARIANTS)) {
    test(`a run stopped and resumed repeats the never stopped one bit for bit (${engine}, ${variant})`, async (t) => {
      const x = await create();
      const config = tinyRun({ steps: 7, checkpointEvery: 3, ...changes });
      const whole = await folder(t);
      const events = await collect(run(x, whole, config));
      assert.equal(events.at(-1)!.type, 'done');
      const expected = await metricsLines(whole);
      assert.deepEqual(
        expected.map(({ step }) => step),
        [1, 2, 3, 4, 5, 6, 7],
      );
      for (const line of expected) {
        assert.ok(Math.abs(line.total - line.dinoGlobal - line.dinoLocal - line.ibot - line.koleo) < 1e-4);
        assert.ok(line.dinoGlobal > 0 && line.dinoLocal > 0 && line.ibot > 0);
      }
      assert.deepEqual(await listCheckpoints(whole), [0, 3, 6, 7]);

      // Stopped by the person between two checkpoints: one more is written.
      const stopped = await folder(t);
      const controller = new AbortController();
      const before = await collect(run(x, stopped, config, controller.signal), { after: 2 }, controller);
      assert.match((before.at(-1) as { summary: string }).summary, /^Stopped after 2 of 7 steps/);
      assert.deepEqual(await listCheckpoints(stopped), [0, 2]);
      // Killed at step 5: metrics past the checkpoint of step 3, the last line cut off, a half-written checkpoint.
      const again = new AbortController();
      await collect(goOn(x, stopped, again.signal), { after: 5 }, again);
      await rm(join(stopped, 'checkpoints', '5'), { recursive: true });
      await appendFile(join(stopped, 'metrics.jsonl'), '{"step":6,"tot');
      await mkdir(join(stopped, 'checkpoints', '.writing-6'));
      await writeFile(join(stopped, 'checkpoints', '.writing-6', 'teacher.safetensors'), 'half');

      await collect(goOn(x, stopped));
      assert.deepEqual(await metricsLines(stopped), expected);
      for (const file of ['teacher', 'training']) {
        const read = (dir: string): Promise<Buffer> => readFile(join(dir, 'checkpoints', '7', `${file}.safetensors`));
        assert.ok((await read(stopped)).equals(await read(whole)), `${file} of step 7 differs`);
      }
      // Resuming what is finished does nothing more.
      const finished = await collect(goOn(x, stopped));
      assert.equal(finished.filter(({ type }) => type === 'metrics').length, 0);
      assert.deepEqual(await metricsLines(stopped), expected);
      await x.dispose();
    });
  }

  test(`a damaged checkpoint is told and the one before is used (${engine})`, async (t) => {
    const x = await create();
    const runDir = await folder(t);
    await collect(run(x, runDir, tinyRun({ steps: 4, checkpointEvery: 2 })));
    const expected = await metricsLines(runDir);
    const training = join(runDir, 'checkpoints', '4', 'training.safetensors');
    const bytes = await readFile(training);
    bytes[bytes.length - 9]! ^= 1; // one bit of the centres
    await writeFile(training, bytes);
    const flipped = await collect(goOn(x, runDir));
    const warning = flipped.find((event) => event.type === 'log' && event.level === 'warn');
    assert.match((warning as { text: string }).text, /step 4 is damaged.*checksum.*Going on from step 2/);
    assert.deepEqual(await metricsLines(runDir), expected);

    await truncate(join(runDir, 'checkpoints', '4', 'teacher.safetensors'), 1000);
    await assert.rejects(
      loadBackbone({ runDir, step: 4 }, x),
      (error: AppError) => error.code === 'checkpoint-damaged' && /step 4/.test(error.message),
    );
    await truncate(join(runDir, 'checkpoints', '2', 'training.safetensors'), 4);
    await assert.rejects(collect(goOn(x, runDir)), (error: AppError) => error.code === 'checkpoint-damaged');
    await assert.rejects(loadBackbone({ runDir, step: 3 }, x), (error: AppError) => error.code === 'no-checkpoint');
    await x.dispose();
  });

  test(`the backbone of a checkpoint gives the teacher's features (${engine})`, async (t) => {
    const x = await create();
    const runDir = await folder(t);
    const config = tinyRun({ steps: 2 });
    const images = Float32Array.from({ length: 3 * 3 * 28 * 56 }, (_, i) => Math.sin(i * 0.37));
    const during = new Map<number, Float32Array>();
    const events = pretrain({
      runDir,
      imageRoot: '/nowhere',
      images: scanned,
      config,
      executor: x,
      signal: never,
      ...pictures(),
      async *onCheckpoint(teacher, step) {
        during.set(step, (await teacher.features(images, 3, 28, 56)).patches);
        yield { type: 'pca', step, imagePaths: [], explained: 0 };
      },
    });
    const seen = await collect(events);
    assert.deepEqual(
      seen.filter(({ type }) => type === 'pca').map((event) => (event as { step: number }).step),
      [0, 2],
    );
    const untrained = untrainedBackbone(config.model, config.seed, x);
    const start = await untrained.features(images, 3, 28, 56);
    assert.deepEqual([start.gridHeight, start.gridWidth, start.patches.length, start.cls.length], [2, 4, 3 * 8 * 16, 3 * 16]);
    assert.deepEqual(start.patches, during.get(0));
    const trained = await loadBackbone({ runDir, step: 2 }, x);
    assert.deepEqual((await trained.features(images, 3, 28, 56)).patches, during.get(2));
    assert.notDeepEqual(during.get(2), during.get(0));
    // one at a time gives what all at once gives
    const alone = await trained.features(images.subarray(3 * 28 * 56, 2 * 3 * 28 * 56), 1, 28, 56);
    for (let i = 0; i < alone.patches.length; i++) assert.ok(Math.abs(alone.patches[i]! - during.get(2)![8 * 16 + i]!) < 1e-5);
    await assert.rejects(trained.features(images, 1, 30, 56), (error: AppError) => error.code === 'bad-input');
    trained.dispose();
    untrained.dispose();
    await x.dispose();
  });
}

test('a run killed in mid-step, before or after its first checkpoint, goes on to the same losses', async (t) => {
  const config = tinyRun({ steps: 6, checkpointEvery: 2 });
  const whole = await folder(t);
  const x = await executors[0]![1]();
  await collect(run(x, whole, config));
  const killed = await folder(t);
  const child = spawn(process.execPath, [fileURLToPath(new URL('killed-run.ts', import.meta.url)), killed], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  for await (const line of createInterface({ input: child.stdout })) if (line === '5') child.kill('SIGKILL');
  assert.equal(child.signalCode ?? (await once(child, 'exit'))[1], 'SIGKILL');
  assert.deepEqual(await listCheckpoints(killed), [0, 2, 4]);
  await collect(goOn(x, killed));
  assert.deepEqual(await metricsLines(killed), await metricsLines(whole));

  await rm(join(killed, 'checkpoints'), { recursive: true });
  await collect(goOn(x, killed));
  assert.deepEqual(await metricsLines(killed), await metricsLines(whole));
});

test('a run remembers its engine; resuming it on another one warns, resuming it on its own does not', async (t) => {
  const [first, second] = await Promise.all([executors[0]![1](), executors[1]![1]()]);
  const runDir = await folder(t);
  const controller = new AbortController();
  await collect(run(first, runDir, tinyRun({ steps: 3 }), controller.signal), { after: 1 }, controller);
  const { engine } = JSON.parse(await readFile(join(runDir, 'config.json'), 'utf8')) as RunConfig;
  assert.equal(engine, 'reference');
  const warnings = (events: JobEvent[]): string[] =>
    events.flatMap((event) => (event.type === 'log' && event.level === 'warn' ? event.text : []));
  const again = new AbortController();
  assert.deepEqual(warnings(await collect(goOn(second, runDir, again.signal), { after: 2 }, again)), [
    'The run was started on reference and goes on with cpu: its numbers will differ in rounding from what they would have been.',
  ]);
  assert.deepEqual(warnings(await collect(goOn(first, runDir))), []);
  await second.dispose();
});

test('images that cannot be read are named, and the run goes on', async (t) => {
  const x = await executors[0]![1]();
  const runDir = await folder(t);
  const events = await collect(run(x, runDir, tinyRun({ steps: 4 }), never, new Set([1, 2, 7])));
  const named = events.filter(({ type }) => type === 'problem').map((event) => (event as { problem: { path: string } }).problem.path);
  assert.deepEqual([...new Set(named)].sort(), ['pictures/1.png', 'pictures/2.png', 'pictures/7.png']);
  assert.equal(events.at(-1)!.type, 'done');
  const nothing = new Set(Array.from({ length: COUNT }, (_, i) => i));
  await assert.rejects(collect(run(x, await folder(t), tinyRun(), never, nothing)), (error: AppError) => error.code === 'image-vanished');
});

test('a number that is not finite ends the run, names itself, and is never saved', async (t) => {
  const x = await executors[0]![1]();
  const runDir = await folder(t);
  const config = tinyRun({ logEvery: 3, steps: 6, optimizer: { ...tinyRun().optimizer, learningRate: 1e30, warmupSteps: 0, clipNorm: 0 } });
  await assert.rejects(
    collect(run(x, runDir, config)),
    (error: AppError) => error.code === 'not-finite' && /[Ss]tep|steps/.test(error.message) && /NaN|Infinity/.test(error.message),
  );
  for (const step of await listCheckpoints(runDir)) {
    const backbone = await loadBackbone({ runDir, step }, x);
    const { patches } = await backbone.features(new Float32Array(3 * 28 * 28), 1, 28, 28);
    assert.ok(patches.every(Number.isFinite), `checkpoint ${step}`);
  }
});

test('too few images, a folder that holds a run, and a folder that holds none are refused', async (t) => {
  const x = await executors[0]![1]();
  const runDir = await folder(t);
  const few = pretrain({
    runDir,
    imageRoot: '/nowhere',
    images: scanned.slice(0, 7),
    config: tinyRun(),
    executor: x,
    signal: never,
    ...pictures(),
  });
  await assert.rejects(collect(few), (error: AppError) => error.code === 'too-few-images' && /7/.test(error.message));
  await assert.rejects(collect(goOn(x, runDir)), (error: AppError) => error.code === 'run-not-found');
  await collect(run(x, runDir, tinyRun({ steps: 1 })));
  await assert.rejects(collect(run(x, runDir, tinyRun())), (error: AppError) => error.code === 'bad-input');
  await writeFile(join(runDir, 'config.json'), '{"version": 1,');
  await assert.rejects(collect(goOn(x, runDir)), (error: AppError) => error.code === 'run-damaged');
  assert.deepEqual((await readdir(runDir)).sort(), ['checkpoints', 'config.json', 'images.jsonl', 'metrics.jsonl']);
});
