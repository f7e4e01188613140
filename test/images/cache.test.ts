import assert from 'node:assert/strict';
import { rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test, type TestContext } from 'node:test';
import type { ImageProblem, ScannedImage } from '../../core/contract/index.ts';
import { ImageCache, readRgb, scanFolder } from '../../core/images/index.ts';
import { collect, temporaryFolder, writeFiles } from '../fixtures/files.ts';
import { encoder, photo } from '../fixtures/pictures.ts';
import { makeTiff } from '../fixtures/tiff.ts';

async function folderOf(t: TestContext, count: number): Promise<{ root: string; images: ScannedImage[] }> {
  const root = temporaryFolder(t);
  for (let i = 0; i < count; i++)
    await writeFiles(root, {
      [`sub/${i}.jpg`]: await encoder(photo(i, 64, 48))
        .jpeg()
        .toBuffer(),
    });
  const images = (await collect(scanFolder(root))).flatMap((event) => (event.type === 'images' ? event.images : []));
  return { root, images };
}

const SIZE = 32 * 24 * 3;

test('gives what readRgb gives; keeps up to the budget, decodes the rest again', async (t) => {
  const { root, images } = await folderOf(t, 5);
  const cache = new ImageCache({ root, images, maxSide: 32, maxBytes: 3 * SIZE });
  for (const pass of [1, 2]) {
    for (const [i, image] of images.entries()) {
      const got = await cache.get(i);
      assert.deepEqual(got, await readRgb(path.join(root, image.path), { maxSide: 32 }), `pass ${pass}`);
    }
    assert.equal(cache.keptBytes, 3 * SIZE);
  }
  const [kept, again] = [await cache.get(0), await cache.get(4)];
  assert.equal(await cache.get(0), kept);
  assert.notEqual(await cache.get(4), again);
});

test('decodes ahead: what was asked for is there although its file is gone by then', async (t) => {
  const { root, images } = await folderOf(t, 6);
  const cache = new ImageCache({ root, images, maxSide: 32, maxBytes: 0, concurrency: 2 });
  cache.prefetch([3, 1]);
  // both places are taken: these two wait until 3 and 1 are decoded
  await Promise.all([cache.get(0), cache.get(2)]);
  await Promise.all([3, 1].map((i) => rm(path.join(root, images[i]!.path))));
  for (const i of [3, 1]) assert.equal((await cache.get(i)).width, 32);
  // taken once, they are not held any longer
  await assert.rejects(cache.get(3), { code: 'image-vanished' });
  assert.equal(cache.keptBytes, 0);
});

test('a new list replaces the old one: what was decoded ahead for nothing is dropped', async (t) => {
  const { root, images } = await folderOf(t, 4);
  const cache = new ImageCache({ root, images, maxSide: 32, maxBytes: 0, concurrency: 1 });
  cache.prefetch([1]);
  await cache.get(0);
  cache.prefetch([2]);
  await cache.get(0);
  await Promise.all([1, 2].map((i) => rm(path.join(root, images[i]!.path))));
  await assert.rejects(cache.get(1), { code: 'image-vanished' });
  assert.equal((await cache.get(2)).width, 32);
});

test('pages of a TIFF are images of their own', async (t) => {
  const root = temporaryFolder(t);
  await writeFile(
    path.join(root, 'a.tif'),
    makeTiff([10, 90].map((value) => ({ width: 4, height: 4, bits: 8, samples: Array<number>(16).fill(value) }))),
  );
  const images = (await collect(scanFolder(root))).flatMap((event) => (event.type === 'images' ? event.images : []));
  const cache = new ImageCache({ root, images, maxSide: 8, maxBytes: 1e6 });
  assert.deepEqual([(await cache.get(0)).data[0], (await cache.get(1)).data[0]], [10, 90]);
});

test('a file that vanishes mid-run, or is cut short, is told once and fails for good', async (t) => {
  const { root, images } = await folderOf(t, 4);
  const problems: [ImageProblem, number][] = [];
  const cache = new ImageCache({
    root,
    images,
    maxSide: 32,
    maxBytes: 1e9,
    onProblem: (problem, index) => problems.push([problem, index]),
  });
  await cache.get(0);
  await rm(path.join(root, images[0]!.path));
  await rm(path.join(root, images[2]!.path));
  await writeFile(path.join(root, images[3]!.path), Buffer.from([0xff, 0xd8, 0xff, 0xe0, 0, 4, 0, 0]));
  assert.equal((await cache.get(0)).width, 32); // in memory already
  cache.prefetch([2, 3, 1]);
  for (let n = 0; n < 3; n++) {
    await assert.rejects(cache.get(2), { name: 'AppError', code: 'image-vanished' });
    await assert.rejects(cache.get(3), { name: 'AppError', code: /image-(truncated|unreadable)/ });
  }
  assert.equal((await cache.get(1)).width, 32);
  // coming back does not count within one run
  await writeFile(
    path.join(root, images[2]!.path),
    await encoder(photo(2, 64, 48))
      .jpeg()
      .toBuffer(),
  );
  await assert.rejects(cache.get(2), { code: 'image-vanished' });
  assert.deepEqual(problems.map(([problem, index]) => [problem.path, problem.code === 'image-vanished', index]).toSorted(), [
    [images[2]!.path, true, 2],
    [images[3]!.path, false, 3],
  ]);
});
