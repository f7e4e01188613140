import assert from 'node:assert/strict';
import { readFile, readdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test, type TestContext } from 'node:test';
import sharp from 'sharp';
import { encodeJpeg, encodeWebp, readRgb, readTile, resizeRgb, writePng, type RgbImage } from '../../core/images/index.ts';
import { exifBlock, jpegWithOrientation, storedFor, type Picture } from '../fixtures/exif.ts';
import { smallDisk, temporaryFolder } from '../fixtures/files.ts';
import { SIX_COLOURS, encoder, photo, sixSquares } from '../fixtures/pictures.ts';
import { makePng } from '../fixtures/png.ts';
import { makeTiff, type TiffPageParts } from '../fixtures/tiff.ts';

async function fileOf(t: TestContext, bytes: Uint8Array, name = 'picture'): Promise<string> {
  const file = path.join(temporaryFolder(t), name);
  await writeFile(file, bytes);
  return file;
}

/** The six colours at the centres of a 3 x 2 grid of squares, within `tolerance`. */
function assertSixSquares(image: RgbImage, tolerance: number, what: string): void {
  const [cellWidth, cellHeight] = [image.width / 3, image.height / 2];
  SIX_COLOURS.forEach((colour, i) => {
    const x = Math.floor(((i % 3) + 0.5) * cellWidth);
    const y = Math.floor((Math.floor(i / 3) + 0.5) * cellHeight);
    colour.forEach((value, c) => {
      const got = image.data[(y * image.width + x) * 3 + c]!;
      assert.ok(Math.abs(got - value) <= tolerance, `${what}: square ${i}, channel ${c} is ${got}, not ${value}`);
    });
  });
}

function assertNear(actual: RgbImage, expected: Picture, tolerance: number, what: string): void {
  assert.deepEqual([actual.width, actual.height], [expected.width, expected.height], what);
  expected.data.forEach((value, i) =>
    assert.ok(Math.abs(actual.data[i]! - value) <= tolerance, `${what}: ${actual.data[i]} at ${i}, not ${value}`),
  );
}

const makers: Readonly<Record<string, (stored: Picture, orientation: number) => Promise<Buffer> | Buffer>> = {
  jpg: async (stored, orientation) =>
    jpegWithOrientation(await encoder(stored).jpeg({ quality: 95, chromaSubsampling: '4:4:4' }).toBuffer(), orientation),
  png: ({ width, height, data }, orientation) =>
    makePng({ width, height, bits: 8, colourType: 2, samples: data, exif: exifBlock(orientation) }),
  tiff: ({ width, height, data }, orientation) => makeTiff([{ width, height, bits: 8, channels: 3, samples: data, orientation }]),
  webp: (stored, orientation) => encoder(stored).webp({ lossless: true }).withMetadata({ orientation }).toBuffer(),
};

for (const [format, make] of Object.entries(makers)) {
  test(`${format}: all 8 EXIF turns give the same upright pixels, whole, resized and as a part`, async (t) => {
    const upright = sixSquares(32);
    for (let orientation = 1; orientation <= 8; orientation++) {
      const file = await fileOf(t, await make(storedFor(orientation, upright, 3), orientation));
      const what = `${format}, orientation ${orientation}`;
      const whole = await readRgb(file);
      assertNear(whole, upright, format === 'jpg' ? 16 : 0, what);
      assertSixSquares(whole, 8, what);
      const small = await readRgb(file, { maxSide: 24 });
      assert.deepEqual([small.width, small.height], [24, 16], what);
      assertSixSquares(small, 10, what);
      const exact = await readRgb(file, { size: { width: 48, height: 48 } });
      assert.deepEqual([exact.width, exact.height], [48, 48], what);
      assertSixSquares(exact, 10, what);
      // the lower right square, at half its size
      const part = await readTile(file, { x: 64, y: 32, width: 32, height: 32, scale: 0.5 });
      assert.deepEqual([part.width, part.height], [16, 16], what);
      SIX_COLOURS[5].forEach((value, c) => assert.ok(Math.abs(part.data[(8 * 16 + 8) * 3 + c]! - value) <= 8, what));
    }
  });
}

test('16-bit turned files are turned too', async (t) => {
  const upright = { width: 3, height: 2, data: Uint8Array.from([0, 50, 100, 150, 200, 255]) };
  for (let orientation = 1; orientation <= 8; orientation++) {
    const stored = storedFor(orientation, upright, 1);
    const file = await fileOf(
      t,
      makeTiff([
        { width: stored.width, height: stored.height, bits: 16, samples: Uint16Array.from(stored.data, (v) => v * 100), orientation },
      ]),
    );
    const image = await readRgb(file);
    assert.deepEqual([image.width, image.height], [3, 2]);
    assert.deepEqual(
      [...image.data].filter((_, i) => i % 3 === 0),
      [...upright.data],
    );
  }
});

test('maxSide keeps the aspect and does not enlarge', async (t) => {
  const file = await fileOf(
    t,
    await encoder(photo(1, 90, 31))
      .png()
      .toBuffer(),
  );
  const sides = async (maxSide: number): Promise<number[]> => {
    const { width, height } = await readRgb(file, { maxSide });
    return [width, height];
  };
  assert.deepEqual(await sides(45), [45, 16]);
  assert.deepEqual(await sides(500), [90, 31]);
});

test('shrinking averages: a fine checkerboard becomes an even gray, also through JPEG shrink-on-load', async (t) => {
  const data = Uint8Array.from({ length: 256 * 256 * 3 }, (_, i) =>
    ((Math.floor(i / 3) % 256) + Math.floor(i / 3 / 256)) % 2 === 0 ? 255 : 0,
  );
  for (const bytes of [
    await encoder({ width: 256, height: 256, data }).png().toBuffer(),
    await encoder({ width: 256, height: 256, data }).jpeg({ quality: 100 }).toBuffer(),
  ]) {
    const { data: small } = await readRgb(await fileOf(t, bytes), { size: { width: 32, height: 32 } });
    for (const value of small) assert.ok(value >= 122 && value <= 133, String(value));
  }
});

test('resizeRgb: a ramp keeps its values at pixel centres', async () => {
  const ramp = { width: 64, height: 4, data: Uint8Array.from({ length: 64 * 4 * 3 }, (_, i) => 4 * (Math.floor(i / 3) % 64)) };
  const small = await resizeRgb(ramp, 16, 2);
  for (let x = 2; x < 14; x++) {
    // centre of pixel x lies at 4 (x + 0.5) - 0.5 = 4 x + 1.5 of the large one
    assert.ok(Math.abs(small.data[3 * x]! - 4 * (4 * x + 1.5)) <= 1, `${x}: ${small.data[3 * x]}`);
  }
  assert.equal(await resizeRgb(ramp, 64, 4), ramp);
});

test('gray, palette, CMYK, 1-bit, gif and transparent files come out as RGB', async (t) => {
  const squares = sixSquares(16);
  const { width, height } = squares;
  const read = async (bytes: Uint8Array): Promise<RgbImage> => readRgb(await fileOf(t, bytes));

  const gray = await read(makePng({ width: 3, height: 1, bits: 8, colourType: 0, samples: [0, 99, 255] }));
  assert.deepEqual([...gray.data], [0, 0, 0, 99, 99, 99, 255, 255, 255]);
  const oneBit = await read(makePng({ width: 3, height: 1, bits: 1, colourType: 0, samples: [0, 1, 1] }));
  assert.deepEqual([...oneBit.data], [0, 0, 0, 255, 255, 255, 255, 255, 255]);
  const grayJpeg = await read(
    await sharp(Buffer.alloc(64, 77), { raw: { width: 8, height: 8, channels: 1 } })
      .toColourspace('b-w')
      .jpeg()
      .toBuffer(),
  );
  assert.equal(grayJpeg.data.length, 8 * 8 * 3);
  assert.ok(grayJpeg.data.every((value) => Math.abs(value - 77) <= 1));

  const indices = Uint8Array.from({ length: width * height }, (_, i) => Math.floor((i % width) / 16) + 3 * Math.floor(i / width / 16));
  const palette = SIX_COLOURS.flat();
  assertNear(await read(makePng({ width, height, bits: 4, colourType: 3, samples: indices, palette })), squares, 0, 'palette');

  const cmyk = await encoder(squares).toColourspace('cmyk').jpeg({ quality: 95 }).toBuffer();
  assert.equal((await sharp(cmyk).metadata()).space, 'cmyk');
  // saturated colours do not print, but red stays the reddest, and black and white stay
  const inks = await read(cmyk);
  assert.deepEqual([inks.width, inks.height], [width, height]);
  const centres = SIX_COLOURS.map((_, i) => [
    ...inks.data.subarray(((Math.floor(i / 3) * 16 + 8) * width + (i % 3) * 16 + 8) * 3).subarray(0, 3),
  ]);
  for (const c of [0, 1, 2]) assert.equal(centres[c]!.indexOf(Math.max(...centres[c]!)), c, `square ${c}: ${centres[c]}`);
  assert.ok(Math.max(...centres[4]!) < 50 && Math.min(...centres[5]!) > 220, `black ${centres[4]}, white ${centres[5]}`);

  assertSixSquares(await read(await encoder(squares).gif().toBuffer()), 4, 'gif');
});

test('the first frame of a moving gif', async (t) => {
  const frames = Buffer.concat([Buffer.alloc(8 * 8 * 3, 200), Buffer.alloc(8 * 8 * 3, 20)]);
  const gif = await sharp(frames, { raw: { width: 8, height: 16, channels: 3, pageHeight: 8 } })
    .gif({ delay: [100, 100] })
    .toBuffer();
  assert.equal((await sharp(gif).metadata()).pages, 2);
  const { width, height, data } = await readRgb(await fileOf(t, gif));
  assert.deepEqual([width, height], [8, 8]);
  assert.ok(data.every((value) => value > 190));
});

test('alpha is laid over mid gray: RGBA, gray and alpha, palette with transparency, 16 bits', async (t) => {
  const read = async (bytes: Uint8Array): Promise<number[]> => [...(await readRgb(await fileOf(t, bytes))).data];
  const near = (actual: number[], expected: number[]): void => {
    assert.equal(actual.length, expected.length);
    actual.forEach((value, i) => assert.ok(Math.abs(value - expected[i]!) <= 1, `${actual} is not ${expected}`));
  };
  near(
    await read(makePng({ width: 3, height: 1, bits: 8, colourType: 6, samples: [255, 0, 10, 255, 255, 0, 10, 0, 255, 0, 10, 51] })),
    [255, 0, 10, 128, 128, 128, 153, 102, 104],
  );
  near(await read(makePng({ width: 2, height: 1, bits: 8, colourType: 4, samples: [255, 255, 255, 0] })), [255, 255, 255, 128, 128, 128]);
  near(
    await read(
      makePng({ width: 2, height: 1, bits: 2, colourType: 3, samples: [0, 1], palette: [9, 8, 7, 1, 2, 3], transparency: [255, 0] }),
    ),
    [9, 8, 7, 128, 128, 128],
  );
  // 16 bits: 0 and 65535 span the range (also that of transparent pixels), then half transparent
  near(
    await read(makePng({ width: 3, height: 1, bits: 16, colourType: 4, samples: [0, 65_535, 65_535, 65_535, 65_535, 32_768] })),
    [0, 0, 0, 255, 255, 255, 192, 192, 192],
  );
});

test('more than 8 bits: the 0.5th and 99.5th percentile become 0 and 255, the same in every size and part', async (t) => {
  // 1000 samples from 10,000 in steps of 10, and hot and dead pixels: 3 at 65,535 and 2 at 0
  const samples = Array.from({ length: 1000 }, (_, i) => 10_000 + 10 * i);
  samples.splice(500, 3, 65_535, 65_535, 65_535);
  samples.splice(700, 2, 0, 0);
  const sorted = samples.toSorted((a, b) => a - b);
  const [low, high] = [sorted[4]!, sorted[994]!];
  const expected = samples.map((v) => Math.round(Math.min(255, Math.max(0, ((v - low) * 255) / (high - low)))));
  const files = [
    makePng({ width: 40, height: 25, bits: 16, colourType: 0, samples }),
    makeTiff([{ width: 40, height: 25, bits: 16, samples }]),
    makeTiff([{ width: 40, height: 25, bits: 16, samples }], { bigEndian: true }),
    makeTiff([{ width: 40, height: 25, bits: 16, samples }], { big: true }),
    makeTiff([{ width: 40, height: 25, bits: 32, sampleFormat: 3, samples: samples.map((v) => v / 1000 - 12) }]),
    makeTiff([{ width: 40, height: 25, bits: 32, sampleFormat: 2, samples: samples.map((v) => v * 1000 - 9_000_000) }]),
  ];
  for (const [i, bytes] of files.entries()) {
    const file = await fileOf(t, bytes);
    const { data } = await readRgb(file);
    expected.forEach((value, k) =>
      assert.ok(Math.abs(data[3 * k]! - value) <= (i < 4 ? 0 : 1), `file ${i}, sample ${k}: ${data[3 * k]}, not ${value}`),
    );
    const part = await readTile(file, { x: 10, y: 5, width: 4, height: 2, scale: 1 });
    for (let y = 0; y < 2; y++)
      assert.deepEqual([...part.data.subarray(y * 12, y * 12 + 12)], [...data.subarray(((5 + y) * 40 + 10) * 3, ((5 + y) * 40 + 14) * 3)]);
  }
});

test('16-bit colour: one range for all channels, so gray stays gray', async (t) => {
  const samples = Array.from({ length: 300 }, (_, i) => [100 * i, 50 * i + 500, 20_000]).flat();
  const sorted = samples.toSorted((a, b) => a - b);
  const [low, high] = [sorted[4]!, sorted[895]!];
  for (const bytes of [
    makePng({ width: 20, height: 15, bits: 16, colourType: 2, samples }),
    makeTiff([{ width: 20, height: 15, bits: 16, channels: 3, samples }]),
  ]) {
    const { data } = await readRgb(await fileOf(t, bytes));
    assert.deepEqual(
      [...data],
      samples.map((v) => Math.round(Math.min(255, Math.max(0, ((v - low) * 255) / (high - low))))),
    );
  }
});

test('float pages with NaN and infinities, and pages of one value', async (t) => {
  const strange = makeTiff([{ width: 4, height: 1, bits: 32, sampleFormat: 3, samples: [NaN, -1, 3, Infinity] }]);
  const image = await readRgb(await fileOf(t, strange));
  assert.deepEqual(
    [...image.data].filter((_, i) => i % 3 === 0),
    [0, 0, 255, 255],
  );
  const flat = makeTiff([{ width: 2, height: 1, bits: 16, samples: [700, 700] }]);
  assert.deepEqual([...(await readRgb(await fileOf(t, flat))).data], [128, 128, 128, 128, 128, 128]);
});

test('channels of a TIFF: declared alpha is alpha, other extra channels are left out, floats are not bent', async (t) => {
  const read = async (parts: Omit<TiffPageParts, 'width' | 'height'>, width: number): Promise<number[]> => [
    ...(await readRgb(await fileOf(t, makeTiff([{ ...parts, width, height: 1 }])))).data,
  ];
  const rgba = [0, 0, 0, 65_535, 65_535, 30_000, 0, 65_535, 65_535, 65_535, 65_535, 0];
  assert.deepEqual(await read({ bits: 16, channels: 4, extraSample: 2, samples: rgba }, 3), [0, 0, 0, 255, 117, 0, 128, 128, 128]);
  assert.deepEqual(await read({ bits: 16, channels: 4, extraSample: 0, samples: rgba }, 3), [0, 0, 0, 255, 117, 0, 255, 255, 255]);
  assert.deepEqual(
    await read({ bits: 16, channels: 2, extraSample: 0, samples: [0, 5, 300, 7, 3000, 9] }, 3),
    [0, 0, 0, 26, 26, 26, 255, 255, 255],
  );
  assert.deepEqual(await read({ bits: 8, channels: 5, samples: [0, 1, 2, 3, 4, 200, 100, 50, 10, 20] }, 2), [0, 1, 2, 200, 100, 50]);
  assert.deepEqual(await read({ bits: 8, channels: 2, extraSample: 2, samples: [0, 255, 200, 0] }, 2), [0, 0, 0, 128, 128, 128]);
  const floats = { bits: 32, sampleFormat: 3, channels: 3, samples: [-1, 0, 1, 2, 3, -1] } as const;
  assert.deepEqual(await read(floats, 2), [0, 64, 128, 191, 255, 0]);
});

test('pages of a TIFF', async (t) => {
  const page = (value: number, width: number): { width: number; height: number; bits: 8; samples: number[] } => ({
    width,
    height: 2,
    bits: 8,
    samples: Array<number>(2 * width).fill(value),
  });
  const file = await fileOf(t, makeTiff([page(10, 3), page(20, 5), page(30, 4)]));
  for (const [number, width, value] of [
    [0, 3, 10],
    [1, 5, 20],
    [2, 4, 30],
  ] as const) {
    const image = await readRgb(file, { page: number });
    assert.equal(image.width, width);
    assert.ok(image.data.every((v) => v === value));
  }
  await assert.rejects(readRgb(file, { page: 3 }), { code: /image-/ });
});

test('a mislabeled file is read by its content', async (t) => {
  const squares = sixSquares(8);
  assertNear(await readRgb(await fileOf(t, await encoder(squares).png().toBuffer(), 'photo.jpg')), squares, 0, 'png named jpg');
});

test('30,000 pixels wide works, small and in parts', async (t) => {
  const bytes = await sharp({ create: { width: 30_000, height: 40, channels: 3, background: { r: 10, g: 200, b: 60 } } })
    .jpeg()
    .toBuffer();
  const file = await fileOf(t, bytes);
  const small = await readRgb(file, { maxSide: 300 });
  assert.deepEqual([small.width, small.height], [300, 1]);
  const part = await readTile(file, { x: 29_900, y: 0, width: 100, height: 40, scale: 1 });
  assert.deepEqual([part.width, part.height], [100, 40]);
  assert.ok(Math.abs(part.data[1]! - 200) <= 2);
});

test('what cannot be read is told in words', async (t) => {
  const jpeg = await encoder(photo(2, 200, 150))
    .jpeg()
    .toBuffer();
  const png = await encoder(photo(2, 200, 150))
    .png()
    .toBuffer();
  const webp = await encoder(photo(2, 200, 150))
    .webp()
    .toBuffer();
  const gif = await encoder(photo(2, 200, 150))
    .gif()
    .toBuffer();
  const tiff = makeTiff([{ width: 20, height: 10, bits: 16, samples: Array<number>(200).fill(7) }]);
  for (const [format, bytes] of Object.entries({ jpeg, png, webp, gif, tiff })) {
    const file = await fileOf(t, bytes.subarray(0, Math.floor(bytes.length * 0.6)), `a.${format}`);
    await assert.rejects(readRgb(file), (error: { code: string; message: string; action: string }) => {
      assert.match(error.code, /^image-(truncated|unreadable)$/, `${format}: ${error.message}`);
      assert.match(error.message, /^a\./);
      assert.ok(error.action.length > 0);
      return true;
    });
  }
  await assert.rejects(readRgb(await fileOf(t, new Uint8Array(), 'a.jpg')), { code: 'image-empty-file', message: 'a.jpg has 0 bytes.' });
  await assert.rejects(readRgb(await fileOf(t, Buffer.from('hello, I am a text'), 'a.jpg')), { code: 'image-not-an-image' });
  await assert.rejects(readRgb(await fileOf(t, Buffer.from('hello, I am a text'), 'a.txt')), { code: 'image-unsupported' });
  await assert.rejects(readRgb('/nowhere/a.jpg'), { code: 'image-vanished', message: 'a.jpg was there and is gone.' });
  await assert.rejects(readTile(await fileOf(t, png, 'a.png'), { x: 190, y: 0, width: 20, height: 10, scale: 1 }), { code: 'bad-input' });
  const huge = Buffer.from(png);
  huge.writeUInt32BE(60_000, 16);
  huge.writeUInt32BE(60_000, 20);
  await assert.rejects(readRgb(await fileOf(t, huge, 'a.png')), { code: /image-(too-large|unreadable)/ });
});

test('writePng: the same pixels again, no other file left, nothing on failure', async (t) => {
  const folder = temporaryFolder(t);
  const picture = photo(5, 33, 21);
  const file = path.join(folder, 'out.png');
  await writePng(file, picture);
  assert.deepEqual(await readdir(folder), ['out.png']);
  assertNear(await readRgb(file), picture, 0, 'written');
  await assert.rejects(writePng(path.join(folder, 'missing', 'out.png'), picture), { code: 'ENOENT' });
  // a folder of that name cannot be replaced: the temporary file goes away again
  await assert.rejects(writePng(folder, picture));
  assert.deepEqual(await readdir(folder), ['out.png']);
  assert.deepEqual((await readFile(file)).subarray(1, 4).toString(), 'PNG');
});

test('writePng on a full disk leaves nothing behind', async (t) => {
  const full = smallDisk(t, 64);
  if (full === null) return t.skip('mounting a small disk is not allowed here');
  await assert.rejects(writePng(path.join(full, 'out.png'), photo(5, 400, 300)), { code: 'ENOSPC' });
  assert.deepEqual(await readdir(full), []);
});

test('JPEG and WebP of an image', async () => {
  const squares = sixSquares(16);
  for (const bytes of [await encodeJpeg(squares, 90), await encodeWebp(squares, 90)]) {
    const { data, info } = await sharp(bytes).raw().toBuffer({ resolveWithObject: true });
    assertSixSquares({ width: info.width, height: info.height, data }, 12, info.format);
  }
});
