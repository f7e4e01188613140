/** Pixels of big images on disk: what comes back, what is never trusted, what there is room for. */
import assert from 'node:assert/strict';
import { mkdir, readdir, readFile, rm, stat, truncate, utimes, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test, type TestContext } from 'node:test';
import type { ScannedImage } from '../../core/contract/index.ts';
import { ImageCache, readRgb, scanFolder } from '../../core/images/index.ts';
import { PixelStore, readPixels, writePixels } from '../../core/images/pixelStore.ts';
import { collect, smallDisk, temporaryFolder, writeFiles } from '../fixtures/files.ts';
import { encoder, photo } from '../fixtures/pictures.ts';

const MAX_SIDE = 32;
/** Of 200 x 150: 32 x 24 behind the header. */
const STORED = 32 + 32 * 24 * 3;

/** Photographs worth storing, and a last one that is not. */
async function folderOf(t: TestContext, count: number): Promise<{ root: string; images: ScannedImage[]; storeDir: string }> {
  const root = temporaryFolder(t);
  for (let i = 0; i <= count; i++) {
    const side = i < count ? 200 : 60;
    const file = await encoder(photo(i, side, (side * 3) / 4))
      .jpeg()
      .toBuffer();
    await writeFiles(root, { [`${i}.jpg`]: file });
  }
  const images = (await collect(scanFolder(root))).flatMap((event) => (event.type === 'images' ? event.images : []));
  return { root, images, storeDir: temporaryFolder(t) };
}

type Options = Omit<ConstructorParameters<typeof ImageCache>[0], 'maxSide' | 'maxBytes'>;

/** All images, or the codes of what was wrong with them. */
async function readAll(options: Options): Promise<unknown[]> {
  const cache = new ImageCache({ ...options, maxSide: MAX_SIDE, maxBytes: 0 });
  const all = await Promise.all(
    options.images.map((_, i) =>
      cache.get(i).then(
        ({ width, height, data }) => ({ width, height, data: [...data] }),
        (error: { code: string }) => error.code,
      ),
    ),
  );
  await cache.close();
  return all;
}

const straight = ({ root, images }: Options): Promise<unknown[]> =>
  Promise.all(
    images.map(async (image) => {
      const { width, height, data } = await readRgb(path.join(root, image.path), { maxSide: MAX_SIDE });
      return { width, height, data: [...data] };
    }),
  );

async function storedFiles(storeDir: string): Promise<string[]> {
  const [folder] = await readdir(storeDir);
  return folder === undefined ? [] : (await readdir(path.join(storeDir, folder))).map((name) => path.join(storeDir, folder, name));
}

test('stored pixels are those of the files; what is not worth it is not stored', async (t) => {
  const folder = await folderOf(t, 3);
  const wanted = await straight(folder);
  assert.deepEqual(await readAll(folder), wanted);
  const files = await storedFiles(folder.storeDir);
  assert.deepEqual(await Promise.all(files.map(async (file) => (await stat(file)).size)), [STORED, STORED, STORED]);
  assert.deepEqual(await readAll(folder), wanted);
  // That they do come from there: other pixels put in their place come instead.
  const other = { width: 2, height: 1, data: Uint8Array.of(1, 2, 3, 4, 5, 6) };
  for (const file of files) await writePixels(file, other);
  const again = await readAll(folder);
  assert.deepEqual(again.slice(0, 3), new Array(3).fill({ ...other, data: [...other.data] }));
  assert.deepEqual(again[3], wanted[3]);
});

test('damaged pixels are decoded again, and mended', async (t) => {
  const folder = await folderOf(t, 4);
  const wanted = await readAll(folder);
  const [cut, turned, empty, header] = await storedFiles(folder.storeDir);
  await truncate(cut!, STORED - 1);
  const bytes = await readFile(turned!);
  bytes[STORED - 5]! ^= 1;
  await writeFile(turned!, bytes);
  await writeFile(empty!, '');
  await writeFile(header!, bytes.subarray(0, 20));
  for (const file of [cut, turned, empty, header]) assert.equal(await readPixels(file!), null);
  assert.deepEqual(await readAll(folder), wanted);
  for (const file of [cut, turned, empty, header]) assert.equal((await readPixels(file!))!.width, 32);
});

test('a file that is gone or another one is so whatever is stored of it', async (t) => {
  const { root, images, storeDir } = await folderOf(t, 2);
  await readAll({ root, images, storeDir });
  await rm(path.join(root, images[0]!.path));
  const other = await encoder(photo(9, 200, 150))
    .jpeg()
    .toBuffer();
  await writeFile(path.join(root, images[1]!.path), other);
  await utimes(path.join(root, images[1]!.path), 1e9, 1e9);
  const [gone, changed] = await readAll({ root, images, storeDir });
  assert.equal(gone, 'image-vanished');
  const { width, height, data } = await readRgb(path.join(root, images[1]!.path), { maxSide: MAX_SIDE });
  assert.deepEqual(changed, { width, height, data: [...data] });
  // What it showed before is still under the name of its old content.
  assert.equal((await storedFiles(storeDir)).length, 2);
});

test('keeps to its room; the oldest of other images make way, other versions go', async (t) => {
  const folder = await folderOf(t, 4);
  const wanted = await straight(folder);
  assert.deepEqual(await readAll({ ...folder, storeBytes: 2.5 * STORED }), wanted);
  const kept = await storedFiles(folder.storeDir);
  assert.equal(kept.length, 2);
  assert.deepEqual(await readAll({ ...folder, storeBytes: 2.5 * STORED }), wanted);
  assert.deepEqual(await storedFiles(folder.storeDir), kept);

  const place = path.dirname(kept[0]!);
  for (const [i, name] of ['older', 'old', 'new'].entries()) {
    await writeFile(path.join(place, name), new Uint8Array(STORED));
    await utimes(path.join(place, name), 1e9 + i, 1e9 + i);
  }
  await writeFile(path.join(place, 'new.1-0-0.tmp'), 'half');
  await mkdir(path.join(folder.storeDir, '0-of-before'));
  await PixelStore.open(folder.storeDir, folder.images, MAX_SIDE, 6 * STORED);
  assert.deepEqual(await readdir(folder.storeDir), [path.basename(place)]);
  const left = (await readdir(place)).filter((name) => !kept.includes(path.join(place, name)));
  assert.deepEqual(left.toSorted(), ['new', 'old']);
  // Two of another four images are stored already, so of those only.
  await PixelStore.open(folder.storeDir, folder.images, MAX_SIDE, STORED);
  assert.deepEqual(await storedFiles(folder.storeDir), kept);
});

test('a full disk costs nothing but time', async (t) => {
  const folder = await folderOf(t, 3);
  const storeDir = smallDisk(t, 4);
  if (storeDir === null) return t.skip('mounting a small disk is not allowed here');
  assert.deepEqual(await readAll({ ...folder, storeDir, storeBytes: 1e9 }), await straight(folder));
});

test('a folder that cannot be made costs nothing but time', async (t) => {
  const folder = await folderOf(t, 2);
  await writeFile(path.join(folder.storeDir, 'file'), '');
  const storeDir = path.join(folder.storeDir, 'file', 'pixels');
  assert.deepEqual(await readAll({ ...folder, storeDir }), await straight(folder));
});
