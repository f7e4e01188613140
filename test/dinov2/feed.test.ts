/** Batches made ahead on threads against the same made in place, and runs from files whatever is stored of their pixels. */
import assert from 'node:assert/strict';
import { readdir, rm, truncate } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import type { ScannedImage } from '../../core/contract/index.ts';
import { applyCrops } from '../../core/dinov2/augment.ts';
import { Feed, type ImageSource } from '../../core/dinov2/feed.ts';
import { pretrain, resume } from '../../core/dinov2/train.ts';
import type { Batch, DrawnBatch } from '../../core/dinov2/step.ts';
import { batchIndices, scanFolder } from '../../core/images/index.ts';
import { createExecutor } from '../../core/nn/index.ts';
import { collect as collectAll, temporaryFolder, writeFiles } from '../fixtures/files.ts';
import { encoder, photo } from '../fixtures/pictures.ts';
import { pictures, scanned, COUNT } from './pictures.ts';
import { collect, folder, metricsLines } from './runs.ts';
import { tinyRun } from './tiny-run.ts';

const config = tinyRun({ steps: 3, accumulate: 2 });

/** Told what is asked for ahead. */
function source(missing: ReadonlySet<number> = new Set(), ahead: number[][] = []): ImageSource {
  const inMemory = pictures(missing).openImages!(scanned, config, () => undefined);
  return { get: (index) => inMemory.get(index), prefetch: (indices) => void ahead.push([...indices]) };
}

test('batches made ahead on threads are those made in place, in any order', async () => {
  const ahead: number[][] = [];
  const feeds = [false, true].map((drawn) => new Feed({ config, source: source(new Set([3]), ahead), count: COUNT, drawn }));
  for (const number of [0, 1, 2, 5, 1]) {
    const [made, drawn] = (await Promise.all(feeds.map((feed) => feed.take(number)))) as [Batch, DrawnBatch];
    const { pictures: seen, global, local } = drawn.drawn;
    assert.deepEqual([...made.globalCrops], [...applyCrops(seen, global)], `batch ${number}`);
    assert.deepEqual([...made.localCrops], [...applyCrops(seen, local)], `batch ${number}`);
    assert.deepEqual(made.masks, drawn.masks);
    assert.deepEqual([global.crops.length, local.crops.length, made.images], [8, 8, 4]);
    // Crop-major, of the images that the sampler names; the missing one is replaced by the next.
    assert.deepEqual(
      global.crops.map(({ picture }) => picture),
      [0, 1, 2, 3, 0, 1, 2, 3],
    );
    for (const [i, index] of batchIndices(config.seed, number, 4, COUNT).entries())
      assert.deepEqual(seen[i], await source().get(index === 3 ? 4 : index));
  }
  // Batch 0 asks for the pictures of the next two; the last for none.
  assert.deepEqual(
    ahead[0],
    [1, 2].flatMap((number) => [...batchIndices(config.seed, number, 4, COUNT)]),
  );
  assert.ok(ahead.some((indices) => indices.length === 0));
  await Promise.all(feeds.map((feed) => feed.close()));
});

test('a feed without readable images says so when the batch is taken', async () => {
  const none = new Set(scanned.map((_, i) => i));
  const feed = new Feed({ config, source: source(none), count: COUNT, drawn: false });
  await assert.rejects(feed.take(0), { code: 'image-vanished' });
  await feed.close();
});

test('a run from files repeats bit for bit, stopped or not, with pixels stored, damaged, taken away or never stored', async (t) => {
  const root = temporaryFolder(t);
  for (let i = 0; i < 9; i++) {
    const file = await encoder(photo(i, 320, 240))
      .jpeg()
      .toBuffer();
    await writeFiles(root, { [`${i}.jpg`]: file });
  }
  const images: ScannedImage[] = (await collectAll(scanFolder(root))).flatMap((event) => (event.type === 'images' ? event.images : []));
  const run = tinyRun({ steps: 5, maxImageSide: 96, imageCacheBytes: 0 });
  const x = await createExecutor({ engine: 'cpu', threads: 2 });
  const options = { imageRoot: root, executor: x };
  const never = new AbortController().signal;
  const whole = await folder(t);
  await collect(pretrain({ ...options, runDir: whole, images, config: run, signal: never }));
  const wanted = await metricsLines(whole);
  assert.equal(wanted.length, 5);

  const pixelDir = temporaryFolder(t);
  const stored = async (): Promise<string[]> => {
    const [version] = await readdir(pixelDir);
    return (await readdir(path.join(pixelDir, version!))).map((name) => path.join(pixelDir, version!, name));
  };
  const stopped = await folder(t);
  const stop = async (after: number, start: boolean): Promise<void> => {
    const controller = new AbortController();
    const common = { ...options, runDir: stopped, pixelDir, signal: controller.signal };
    await collect(start ? pretrain({ ...common, images, config: run }) : resume(common), { after }, controller);
  };
  await stop(2, true);
  const files = await stored();
  assert.ok(files.length >= 8, `${files.length} images are stored`);
  await truncate(files[0]!, 1000);
  await rm(files[1]!);
  await stop(4, false);
  await rm(pixelDir, { recursive: true });
  await collect(resume({ ...options, runDir: stopped, pixelDir, signal: never }));
  assert.deepEqual(await metricsLines(stopped), wanted);
  await x.dispose();
});
