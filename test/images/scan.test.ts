import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { execFileSync } from 'node:child_process';
import * as nodeFs from 'node:fs/promises';
import { chmod, link, mkdir, readdir, rename, rm, stat, symlink, unlink, utimes, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import sharp from 'sharp';
import type { ImageProblem, JobEvent, ScannedImage } from '../../core/contract/index.ts';
import { MAX_PIXELS, readRgb, scanFolder, type ReadFs, type ScanOptions } from '../../core/images/index.ts';
import { exifBlock, jpegWithOrientation, storedFor } from '../fixtures/exif.ts';
import { collect, temporaryFolder, writeFiles } from '../fixtures/files.ts';
import { encoder, photo, sixSquares } from '../fixtures/pictures.ts';
import { makePng } from '../fixtures/png.ts';
import { makeTiff } from '../fixtures/tiff.ts';

interface Scan {
  events: JobEvent[];
  images: ScannedImage[];
  /** By path. */
  problems: Record<string, ImageProblem>;
}

async function scan(folder: string, options?: ScanOptions): Promise<Scan> {
  const events = await collect(scanFolder(folder, options));
  return {
    events,
    images: events.flatMap((event) => (event.type === 'images' ? event.images : [])),
    problems: Object.fromEntries(events.flatMap((event) => (event.type === 'problem' ? [[event.problem.path, event.problem]] : []))),
  };
}

const paths = (images: readonly ScannedImage[]): string[] => images.map((image) => image.path);
const small = await encoder(photo(1, 40, 30))
  .jpeg()
  .toBuffer();
const smallPng = await encoder(photo(1, 40, 30))
  .png()
  .toBuffer();

/** The real file system but for some calls. */
const standIn = (changes: Partial<ReadFs>): ReadFs => ({ ...nodeFs, ...changes }) as ReadFs;
const refuse = (code: string): never => {
  throw Object.assign(new Error(`${code}: as the system would say`), { code });
};

test('facts of every format', async (t) => {
  const folder = temporaryFolder(t);
  const squares = sixSquares(8);
  const turned = storedFor(6, squares, 3);
  await writeFiles(folder, {
    'a.jpg': jpegWithOrientation(await encoder(turned).jpeg().toBuffer(), 6),
    'b.png': makePng({ width: 5, height: 4, bits: 16, colourType: 0, samples: Array<number>(20).fill(5) }),
    'c.png': makePng({ width: 5, height: 4, bits: 2, colourType: 3, samples: Array<number>(20).fill(1), palette: [1, 2, 3, 4, 5, 6] }),
    'd.webp': await encoder(squares).webp().toBuffer(),
    'e.gif': await encoder(squares).gif().toBuffer(),
    'f.tif': makeTiff([
      { width: 6, height: 3, bits: 16, samples: Array<number>(18).fill(9), orientation: 8 },
      { width: 4, height: 3, bits: 8, channels: 3, samples: Array<number>(36).fill(9) },
      { width: 2, height: 1, bits: 8, samples: [1, 2], subfile: 1 },
      { width: 3, height: 2, bits: 32, sampleFormat: 3, samples: Array<number>(6).fill(0.5) },
    ]),
    'g.jpg': await encoder(squares).toColourspace('cmyk').jpeg().toBuffer(),
    'h.png': makePng({ width: 2, height: 3, bits: 8, colourType: 6, samples: Array<number>(24).fill(90), exif: exifBlock(5) }),
  });
  const { images, problems } = await scan(folder);
  assert.deepEqual(problems, {});
  const facts = images.map(({ path: name, page, width, height, format, bitDepth, channels, orientation }) => [
    name,
    page,
    width,
    height,
    format,
    bitDepth,
    channels,
    orientation,
  ]);
  assert.deepEqual(facts, [
    ['a.jpg', 0, 24, 16, 'jpg', 8, 3, 6],
    ['b.png', 0, 5, 4, 'png', 16, 1, 1],
    ['c.png', 0, 5, 4, 'png', 2, 3, 1],
    ['d.webp', 0, 24, 16, 'webp', 8, 3, 1],
    ['e.gif', 0, 24, 16, 'gif', 8, 4, 1],
    ['f.tif', 0, 3, 6, 'tiff', 16, 1, 8],
    ['f.tif', 1, 4, 3, 'tiff', 8, 3, 1],
    ['f.tif', 3, 3, 2, 'tiff', 32, 1, 1],
    ['g.jpg', 0, 24, 16, 'jpg', 8, 4, 1],
    ['h.png', 0, 3, 2, 'png', 8, 4, 5],
  ]);
  for (const image of images) {
    const file = path.join(folder, image.path);
    const bytes = await nodeFs.readFile(file);
    assert.equal(image.hash, createHash('sha256').update(bytes).digest('hex'));
    assert.equal(image.bytes, bytes.length);
    assert.equal(image.modifiedMs, (await stat(file)).mtimeMs);
    const decoded = await readRgb(file, { page: image.page });
    assert.deepEqual([decoded.width, decoded.height], [image.width, image.height], `${image.path}, page ${image.page}: as decoded`);
  }
});

test('events: batches in the order of the walk, progress, done', async (t) => {
  const folder = temporaryFolder(t);
  await writeFiles(folder, Object.fromEntries(Array.from({ length: 450 }, (_, i) => [`${i % 3}/image ${i}.jpg`, small])));
  const { events, images } = await scan(folder);
  assert.equal(images.length, 450);
  assert.deepEqual(paths(images), paths(images).toSorted());
  assert.ok(events.filter((event) => event.type === 'images').every((event) => event.images.length <= 200));
  const progress = events.filter((event) => event.type === 'progress' && event.phase === 'Reading images');
  const last = progress.at(-1)!;
  assert.ok(last.type === 'progress' && last.done === 450 && last.total === 450 && last.secondsLeft === 0 && last.imagesPerSecond! > 0);
  assert.deepEqual(events.at(-1), { type: 'done', summary: '450 images, 0 problems' });
  // the same folder again gives the same list
  assert.deepEqual((await scan(folder)).images, images);
});

test('names: nested, same stem, upper case, spaces, non-ASCII, very long', async (t) => {
  const folder = temporaryFolder(t);
  const long = `${'l'.repeat(251)}.jpg`;
  const deep = Array.from({ length: 8 }, (_, i) => `${i}${'d'.repeat(100)}`).join('/');
  const names = [
    'IMG 1.JPG',
    'a/same.jpg',
    'b/same.png',
    'b/same.jpg',
    'größe ½ 画像 🌿.jpg',
    'e\u0301.jpg',
    '\u00e9.jpg',
    long,
    `${deep}/x.jpg`,
  ];
  await writeFiles(folder, Object.fromEntries(names.map((name) => [name, name.endsWith('png') ? smallPng : small])));
  const { images, problems } = await scan(folder);
  assert.deepEqual(problems, {});
  assert.deepEqual(paths(images).toSorted(), names.toSorted());
  assert.equal((await readRgb(path.join(folder, names[4]!))).width, 40);
  assert.equal((await readRgb(path.join(folder, `${deep}/x.jpg`))).width, 40);
});

test(
  'a name that is not valid Unicode is told as such',
  { skip: process.platform === 'linux' ? false : 'only Linux has such names' },
  async (t) => {
    const folder = temporaryFolder(t);
    await writeFiles(folder, { 'a.jpg': small });
    await rename(path.join(folder, 'a.jpg'), Buffer.concat([Buffer.from(`${folder}/b`), Buffer.from([0xe4]), Buffer.from('.jpg')]));
    await writeFiles(folder, { 'c.jpg': small });
    const { images, problems } = await scan(folder);
    assert.deepEqual(paths(images), ['c.jpg']);
    assert.match(problems['b\ufffd.jpg']!.message, /not valid Unicode/);
  },
);

test("hidden files, the systems' leavings and our own projects are passed over; other files are named", async (t) => {
  const folder = temporaryFolder(t);
  await writeFiles(folder, {
    'a.jpg': small,
    '.hidden.jpg': small,
    '.git/b.jpg': small,
    'Thumbs.db': 'x',
    'sub/desktop.ini': 'x',
    '.DS_Store': 'x',
    '__MACOSX/a.jpg': small,
    'our project/project.sqlite': 'x',
    'our project/cache/thumb.jpg': small,
    'notes.txt': 'to do',
    'phone.jpg': '\0\0\0\x18ftypheic',
    'drawing.svg': '<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>',
    'clip.MOV': 'moov',
    noextension: small,
  });
  const { images, problems } = await scan(folder);
  assert.deepEqual(paths(images), ['a.jpg', 'noextension']);
  assert.deepEqual(Object.keys(problems).toSorted(), ['clip.MOV', 'drawing.svg', 'notes.txt', 'phone.jpg']);
  for (const { code } of Object.values(problems)) assert.equal(code, 'image-unsupported');
  assert.equal(problems['phone.jpg']!.message, 'phone.jpg is in HEIC format; Patchwise reads jpg, png, webp, tiff, bmp and gif.');
  assert.equal(problems['drawing.svg']!.message, 'drawing.svg is in SVG format; Patchwise reads jpg, png, webp, tiff, bmp and gif.');
  assert.equal(problems['notes.txt']!.message, 'notes.txt is not in a format that Patchwise reads (jpg, png, webp, tiff, bmp and gif).');
});

test('zero-byte, truncated and mislabeled files are named, each with what to do; the rest goes on', async (t) => {
  const folder = temporaryFolder(t);
  const squares = photo(3, 120, 90);
  const whole: Record<string, Buffer> = {
    jpg: await encoder(squares).jpeg().toBuffer(),
    'progressive.jpg': await encoder(squares).jpeg({ progressive: true }).toBuffer(),
    png: await encoder(squares).png().toBuffer(),
    webp: await encoder(squares).webp().toBuffer(),
    gif: await encoder(squares).gif().toBuffer(),
    tif: makeTiff([{ width: 120, height: 90, bits: 16, samples: Array<number>(120 * 90).fill(7) }]),
    'lzw.tif': await encoder(squares).tiff({ compression: 'lzw' }).toBuffer(),
  };
  // a thumbnail in the EXIF data has an end of its own, which must not count
  const exif = Buffer.concat([
    Buffer.from([0xff, 0xd8, 0xff, 0xe1, 0, 20]),
    Buffer.from('Exif\0\0'),
    Buffer.alloc(10, 0xff),
    Buffer.from([0xff, 0xd9]),
  ]);
  whole['thumbnail.jpg'] = Buffer.concat([exif, whole['jpg']!.subarray(2)]);
  const files: Record<string, Buffer | string> = {
    'ok.png': smallPng,
    'empty.jpg': '',
    'text.jpg': 'this is a letter, not a picture',
    'png named.jpg': smallPng,
    'with trailer.jpg': Buffer.concat([small, Buffer.alloc(5000, 1)]),
  };
  const cut: string[] = [];
  for (const [kind, bytes] of Object.entries(whole)) {
    for (const keep of [12, Math.floor(bytes.length / 2), bytes.length - 2]) {
      const name = `cut at ${keep} ${kind.includes('.') ? kind : `x.${kind}`}`;
      // A gif's last byte only says that no frame follows.
      if (kind === 'gif' && keep === bytes.length - 2) continue;
      files[name] = bytes.subarray(0, keep);
      cut.push(name);
    }
    files[`whole ${kind.includes('.') ? kind : `x.${kind}`}`] = bytes;
  }
  // the right size, but nothing in the second half: an aborted copy
  files['hollow.jpg'] = Buffer.concat([whole['jpg']!.subarray(0, 1500), Buffer.alloc(whole['jpg']!.length - 1500)]);
  await writeFiles(folder, files);
  const { images, problems } = await scan(folder);
  assert.deepEqual(
    paths(images),
    Object.keys(files)
      .filter((name) => !cut.includes(name) && !['empty.jpg', 'text.jpg', 'hollow.jpg'].includes(name))
      .toSorted(),
  );
  for (const name of [...cut, 'hollow.jpg']) {
    assert.equal(problems[name]?.code, 'image-truncated', `${name}: ${problems[name]?.message}`);
    assert.ok(problems[name]!.message.startsWith(`${name} ends after `));
    assert.equal(problems[name]!.action, 'Copy the file again from its source.');
  }
  assert.deepEqual(problems['empty.jpg'], {
    path: 'empty.jpg',
    code: 'image-empty-file',
    message: 'empty.jpg has 0 bytes.',
    action: 'Copy the file again from its source.',
  });
  assert.equal(problems['text.jpg']!.code, 'image-not-an-image');
  for (const image of images) assert.ok((await readRgb(path.join(folder, image.path))).width > 0, image.path);
});

test('30,000 pixels wide is fine; more than the stated pixels is refused with the numbers', async (t) => {
  const folder = temporaryFolder(t);
  const wide = await sharp({ create: { width: 30_000, height: 20, channels: 3, background: 'green' } })
    .png()
    .toBuffer();
  const giant = Buffer.from(smallPng);
  giant.writeUInt32BE(20_000, 16);
  giant.writeUInt32BE(20_000, 20);
  const { crc32 } = await import('node:zlib');
  giant.writeUInt32BE(crc32(giant.subarray(12, 29)), 29);
  await writeFiles(folder, { 'wide.png': wide, 'giant.png': giant });
  const { images, problems } = await scan(folder);
  assert.deepEqual(
    images.map(({ path: name, width }) => [name, width]),
    [['wide.png', 30_000]],
  );
  assert.ok(20_000 ** 2 > MAX_PIXELS);
  assert.deepEqual(problems['giant.png'], {
    path: 'giant.png',
    code: 'image-too-large',
    message: 'giant.png has 20,000 x 20,000 pixels; Patchwise reads up to 268 megapixels a page.',
    action: 'Cut the image into smaller pieces, or scale it down.',
  });
});

test(
  'links: to files and folders followed, circles and doubles named, broken ones named',
  { skip: process.platform === 'win32' ? 'links need rights on Windows' : false },
  async (t) => {
    const base = temporaryFolder(t);
    const folder = path.join(base, 'root');
    await writeFiles(base, { 'root/a/1.jpg': small, 'root/b/2.jpg': small, 'elsewhere/3.jpg': small, 'elsewhere/deep/4.jpg': small });
    await symlink('..', path.join(folder, 'a/up')); // the root itself
    await symlink('../a', path.join(folder, 'b/sideways'));
    await symlink('../../elsewhere', path.join(folder, 'a/away'));
    await symlink('..', path.join(base, 'elsewhere/deep/up')); // a circle reached over a link
    await symlink('a/1.jpg', path.join(folder, 'linked.jpg'));
    await symlink('nothing.jpg', path.join(folder, 'broken.jpg'));
    await symlink('self.jpg', path.join(folder, 'self.jpg'));
    const { images, problems } = await scan(folder);
    assert.deepEqual(paths(images).toSorted(), ['a/1.jpg', 'a/away/3.jpg', 'a/away/deep/4.jpg', 'b/2.jpg', 'linked.jpg']);
    assert.deepEqual(Object.fromEntries(Object.entries(problems).map(([name, { code, message }]) => [name, [code, message]])), {
      'a/up': ['link-circle', 'a/up is a link that leads back to the image folder itself: a circle.'],
      'b/sideways': ['link-circle', 'b/sideways is a link to a, which is read already.'],
      'a/away/deep/up': ['link-circle', 'a/away/deep/up is a link that leads back to a/away: a circle.'],
      'broken.jpg': ['image-vanished', 'broken.jpg is a link to a file that is not there.'],
      'self.jpg': ['link-circle', 'self.jpg is a link that leads back to itself.'],
    });
  },
);

test('pipes are not opened', { skip: process.platform === 'win32' ? 'no named pipes in folders on Windows' : false }, async (t) => {
  const folder = temporaryFolder(t);
  await writeFiles(folder, { 'a.jpg': small });
  execFileSync('mkfifo', [path.join(folder, 'pipe.jpg')]);
  const { images, problems } = await scan(folder);
  assert.deepEqual(paths(images), ['a.jpg']);
  assert.equal(problems['pipe.jpg']!.code, 'image-unsupported');
});

test('empty, missing and unreadable folders', async (t) => {
  const folder = temporaryFolder(t);
  await assert.rejects(scan(folder), {
    code: 'folder-empty',
    message: `There is no image in ${folder} that Patchwise can read. It is empty.`,
  });
  await assert.rejects(scan(path.join(folder, 'none')), {
    code: 'folder-unreadable',
    message: `The folder ${path.join(folder, 'none')} is not there.`,
  });
  await writeFiles(folder, { 'a.txt': 'x' });
  await assert.rejects(scan(path.join(folder, 'a.txt')), { code: 'folder-unreadable' });
  await assert.rejects(scan(folder), { code: 'folder-empty', message: /1 entry is in the list of problems/ });
  // root may read everything: a stand-in file system answers EACCES
  await assert.rejects(scan(folder, { fs: standIn({ readdir: () => refuse('EACCES') }) }), {
    code: 'folder-unreadable',
    message: `No permission to read the folder ${folder}.`,
  });
});

test('unreadable files and subfolders are named (a stand-in file system answers EACCES and EIO)', async (t) => {
  const folder = temporaryFolder(t);
  await writeFiles(folder, { 'a.jpg': small, 'secret.jpg': small, 'worn.jpg': small, 'locked/b.jpg': small });
  const fs = standIn({
    open: (file, flags) =>
      file.endsWith('secret.jpg') ? refuse('EACCES') : file.endsWith('worn.jpg') ? refuse('EIO') : nodeFs.open(file, flags),
    readdir: (at, options) => (at.endsWith('locked') ? refuse('EACCES') : nodeFs.readdir(at, options)),
  });
  const { images, problems } = await scan(folder, { fs });
  assert.deepEqual(paths(images), ['a.jpg']);
  assert.deepEqual(
    [problems['secret.jpg']!.code, problems['secret.jpg']!.message],
    ['image-unreadable', 'No permission to read secret.jpg.'],
  );
  assert.deepEqual(
    [problems['worn.jpg']!.code, problems['worn.jpg']!.message],
    ['image-unreadable', 'worn.jpg cannot be read: EIO: as the system would say.'],
  );
  assert.equal(problems['locked']!.code, 'folder-unreadable');
});

test(
  'unreadable files by real permissions',
  { skip: process.getuid?.() === 0 ? 'root may read everything' : process.platform === 'win32' ? 'no such permissions' : false },
  async (t) => {
    const folder = temporaryFolder(t);
    await writeFiles(folder, { 'a.jpg': small, 'secret.jpg': small });
    await chmod(path.join(folder, 'secret.jpg'), 0);
    assert.equal((await scan(folder)).problems['secret.jpg']!.code, 'image-unreadable');
  },
);

test('a file that goes between listing and reading is named', async (t) => {
  const folder = temporaryFolder(t);
  await writeFiles(folder, { 'a.jpg': small, 'b.jpg': small, 'c.jpg': small });
  const fs = standIn({
    open: async (file, flags) => {
      if (file.endsWith('b.jpg')) await unlink(file);
      return nodeFs.open(file, flags);
    },
  });
  const { images, problems } = await scan(folder, { fs });
  assert.deepEqual(paths(images), ['a.jpg', 'c.jpg']);
  assert.deepEqual([problems['b.jpg']!.code, problems['b.jpg']!.message], ['image-vanished', 'b.jpg was there and is gone.']);
});

test('a rescan reads only what changed', async (t) => {
  const folder = temporaryFolder(t);
  await writeFiles(folder, {
    'a.jpg': small,
    'b.png': smallPng,
    'c.tif': makeTiff([1, 2].map((v) => ({ width: 1, height: 1, bits: 8, samples: [v] }))),
    'd.jpg': small,
    'e.jpg': small,
  });
  const first = await scan(folder);
  const known = Map.groupBy(first.images, (image) => image.path);
  await writeFile(
    path.join(folder, 'a.jpg'),
    await encoder(photo(2, 50, 20))
      .jpeg()
      .toBuffer(),
  );
  await utimes(path.join(folder, 'd.jpg'), 1000, 1000); // same bytes, another time
  await rm(path.join(folder, 'e.jpg'));
  await writeFiles(folder, { 'f.jpg': small });
  const opened: string[] = [];
  const fs = standIn({
    open: (file, flags) => {
      opened.push(path.basename(file));
      return nodeFs.open(file, flags);
    },
  });
  const second = await scan(folder, { known, fs });
  assert.deepEqual(opened.toSorted(), ['a.jpg', 'd.jpg', 'f.jpg']);
  assert.deepEqual(second.images, (await scan(folder)).images);
  assert.deepEqual(paths(second.images), ['a.jpg', 'b.png', 'c.tif', 'c.tif', 'd.jpg', 'f.jpg']);
  assert.equal(second.images[0]!.width, 50);
});

test('files too large for one read: same facts, same hash', async (t) => {
  const folder = temporaryFolder(t);
  // 18 MB of zeros behind the end of a JPEG, and an uncompressed TIFF of 17 MB
  await writeFiles(folder, {
    'a.jpg': Buffer.concat([small, Buffer.alloc(18 * 2 ** 20)]),
    'b.tif': makeTiff([{ width: 3000, height: 3000, bits: 16, samples: new Uint16Array(9e6).fill(3) }]),
    'c.tif': makeTiff([{ width: 3000, height: 3000, bits: 16, samples: new Uint16Array(9e6) }]).subarray(0, 17.5e6),
    'd.bin': Buffer.alloc(17 * 2 ** 20),
  });
  const { images, problems } = await scan(folder);
  assert.deepEqual(
    images.map(({ path: name, width, height }) => [name, width, height]),
    [
      ['a.jpg', 40, 30],
      ['b.tif', 3000, 3000],
    ],
  );
  for (const image of images)
    assert.equal(
      image.hash,
      createHash('sha256')
        .update(await nodeFs.readFile(path.join(folder, image.path)))
        .digest('hex'),
    );
  assert.deepEqual([problems['c.tif']!.code, problems['d.bin']!.code], ['image-truncated', 'image-unsupported']);
});

test('stopped by its signal: what was read is given, no done', async (t) => {
  const folder = temporaryFolder(t);
  await writeFiles(folder, Object.fromEntries(Array.from({ length: 600 }, (_, i) => [`${i}.jpg`, small])));
  const stop = new AbortController();
  const events: JobEvent[] = [];
  for await (const event of scanFolder(folder, { signal: stop.signal })) {
    events.push(event);
    if (event.type === 'images') stop.abort();
  }
  const count = events.flatMap((event) => (event.type === 'images' ? event.images : [])).length;
  assert.ok(count > 0 && count < 600, String(count));
  assert.ok(!events.some((event) => event.type === 'done'));
});

test('the folder is never written to: every entry keeps its bytes and times', async (t) => {
  const folder = temporaryFolder(t);
  await writeFiles(folder, { 'a.jpg': small, 'sub/b.png': smallPng, 'cut.jpg': small.subarray(0, 300) });
  await link(path.join(folder, 'a.jpg'), path.join(folder, 'hard.jpg'));
  await mkdir(path.join(folder, 'empty'));
  const state = async (): Promise<unknown[]> => {
    const names = (await readdir(folder, { recursive: true })).toSorted();
    return Promise.all(
      ['.', ...names].map(async (name) => [
        name,
        (await stat(path.join(folder, name))).mtimeMs,
        (await stat(path.join(folder, name))).ctimeMs,
      ]),
    );
  };
  const before = await state();
  const { images } = await scan(folder);
  await Promise.all(images.map((image) => readRgb(path.join(folder, image.path), { maxSide: 20 })));
  assert.deepEqual(await state(), before);
});
