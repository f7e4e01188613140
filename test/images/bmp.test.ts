import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test, type TestContext } from 'node:test';
import { Random } from '../../core/random.ts';
import { readRgb, scanFolder } from '../../core/images/index.ts';
import { makeBmp, type BmpParts } from '../fixtures/bmp.ts';
import { temporaryFolder } from '../fixtures/files.ts';
import { askPython, missingPython } from '../fixtures/python.ts';

type Colour = readonly [number, number, number];

const PALETTE = Array.from({ length: 256 }, (_, i): Colour => [(i * 37) % 256, (i * 91 + 5) % 256, 255 - i]);
const [WIDTH, HEIGHT] = [7, 4];

/** Index of the pixel, row 0 at the top. */
const indexAt = (x: number, y: number, n: number): number => (5 * x + 3 * y + x * y) % n;

function expectedIndexed(n: number): number[] {
  return Array.from({ length: WIDTH * HEIGHT }, (_, i) => [...PALETTE[indexAt(i % WIDTH, Math.floor(i / WIDTH), n)]!]).flat();
}

/** Stored rows: bottom first unless topDown, samples packed into bytes, padded to 4. */
function rows(bits: number, sample: (x: number, y: number) => number, topDown = false): Uint8Array {
  const stride = Math.ceil((WIDTH * bits) / 32) * 4;
  const bytes = new Uint8Array(stride * HEIGHT);
  for (let y = 0; y < HEIGHT; y++) {
    const start = (topDown ? y : HEIGHT - 1 - y) * stride;
    for (let x = 0; x < WIDTH; x++) {
      const value = sample(x, y);
      if (bits < 8) bytes[start + ((x * bits) >> 3)]! |= value << (8 - bits - ((x * bits) & 7));
      else for (let b = 0; b < bits / 8; b++) bytes[start + (x * bits) / 8 + b] = value / 2 ** (8 * b);
    }
  }
  return bytes;
}

const colourAt = (x: number, y: number): Colour => [(40 * x) % 256, (70 * y + 9) % 256, (x * y * 13) % 256];
const rgbAt = (x: number, y: number): number => colourAt(x, y)[0] * 65_536 + colourAt(x, y)[1] * 256 + colourAt(x, y)[2];
const expectedRgb = Array.from({ length: WIDTH * HEIGHT }, (_, i) => [...colourAt(i % WIDTH, Math.floor(i / WIDTH))]).flat();

/** Run lengths of the picture's rows, mixing runs, literals and end marks. */
function rle8(): Uint8Array {
  const out: number[] = [];
  for (let y = HEIGHT - 1; y >= 0; y--) {
    out.push(0, 5, ...Array.from({ length: 5 }, (_, x) => indexAt(x, y, 256)), 0); // 5 literals, padded
    for (let x = 5; x < WIDTH; x++) out.push(1, indexAt(x, y, 256));
    out.push(0, 0);
  }
  return Uint8Array.from([...out, 0, 1]);
}

function rle4(): Uint8Array {
  const out: number[] = [];
  for (let y = HEIGHT - 1; y >= 0; y--) {
    const at = (x: number): number => (x < WIDTH ? indexAt(x, y, 16) : 0);
    out.push(0, 5, at(0) * 16 + at(1), at(2) * 16 + at(3), at(4) * 16, 0); // 5 literals in 3 bytes, padded
    out.push(2, at(5) * 16 + at(6), 0, 0);
  }
  return Uint8Array.from([...out, 0, 1]);
}

const base = { width: WIDTH, height: HEIGHT };
const cases: Readonly<Record<string, { parts: BmpParts; expected: number[] }>> = {
  '1 bit': {
    parts: { ...base, bitsPerPixel: 1, palette: PALETTE.slice(0, 2), pixels: rows(1, (x, y) => indexAt(x, y, 2)) },
    expected: expectedIndexed(2),
  },
  '4 bits, odd width': {
    parts: { ...base, bitsPerPixel: 4, palette: PALETTE.slice(0, 16), pixels: rows(4, (x, y) => indexAt(x, y, 16)) },
    expected: expectedIndexed(16),
  },
  '8 bits': {
    parts: { ...base, bitsPerPixel: 8, palette: PALETTE, pixels: rows(8, (x, y) => indexAt(x, y, 256)) },
    expected: expectedIndexed(256),
  },
  '8 bits, short palette, gap before the pixels': {
    parts: { ...base, bitsPerPixel: 8, palette: PALETTE.slice(0, 20), gap: 6, pixels: rows(8, (x, y) => indexAt(x, y, 20)) },
    expected: expectedIndexed(20),
  },
  'run lengths of 8 bits': {
    parts: { ...base, bitsPerPixel: 8, compression: 1, palette: PALETTE, pixels: rle8() },
    expected: expectedIndexed(256),
  },
  'run lengths of 4 bits': {
    parts: { ...base, bitsPerPixel: 4, compression: 2, palette: PALETTE.slice(0, 16), pixels: rle4() },
    expected: expectedIndexed(16),
  },
  'OS/2 header': {
    parts: { ...base, bitsPerPixel: 8, headerBytes: 12, palette: PALETTE, pixels: rows(8, (x, y) => indexAt(x, y, 256)) },
    expected: expectedIndexed(256),
  },
  '24 bits': { parts: { ...base, bitsPerPixel: 24, pixels: rows(24, rgbAt) }, expected: expectedRgb },
  '24 bits, top row first': { parts: { ...base, height: -HEIGHT, bitsPerPixel: 24, pixels: rows(24, rgbAt, true) }, expected: expectedRgb },
  '32 bits': { parts: { ...base, bitsPerPixel: 32, pixels: rows(32, rgbAt) }, expected: expectedRgb },
  '32 bits, masks in another order': {
    parts: {
      ...base,
      bitsPerPixel: 32,
      headerBytes: 124,
      compression: 3,
      masks: [0xff000000, 0xff0000, 0xff00, 0],
      pixels: rows(32, (x, y) => rgbAt(x, y) * 256),
    },
    expected: expectedRgb,
  },
  '32 bits, alpha 0 everywhere means none': {
    parts: {
      ...base,
      bitsPerPixel: 32,
      headerBytes: 108,
      compression: 3,
      masks: [0xff0000, 0xff00, 0xff, 0xff000000],
      pixels: rows(32, rgbAt),
    },
    expected: expectedRgb,
  },
  '16 bits, 5-5-5': {
    parts: { ...base, bitsPerPixel: 16, pixels: rows(16, (x, y) => (y === 0 ? 0x7fff : ((4 * x) << 10) | ((8 * y) << 5) | x)) },
    expected: Array.from({ length: WIDTH * HEIGHT }, (_, i) => {
      const [x, y] = [i % WIDTH, Math.floor(i / WIDTH)];
      return (y === 0 ? [31, 31, 31] : [4 * x, 8 * y, x]).map((v) => Math.round((v * 255) / 31));
    }).flat(),
  },
  '16 bits, 5-6-5': {
    parts: {
      ...base,
      bitsPerPixel: 16,
      compression: 3,
      masks: [0xf800, 0x7e0, 0x1f],
      pixels: rows(16, (x, y) => ((4 * x) << 11) | ((16 * y) << 5) | x),
    },
    expected: Array.from({ length: WIDTH * HEIGHT }, (_, i) => [
      Math.round((4 * (i % WIDTH) * 255) / 31),
      Math.round((16 * Math.floor(i / WIDTH) * 255) / 63),
      Math.round(((i % WIDTH) * 255) / 31),
    ]).flat(),
  },
};

async function fileOf(t: TestContext, bytes: Uint8Array): Promise<string> {
  const file = path.join(temporaryFolder(t), 'picture.bmp');
  await writeFile(file, bytes);
  return file;
}

for (const [name, { parts, expected }] of Object.entries(cases)) {
  test(name, async (t) => {
    const image = await readRgb(await fileOf(t, makeBmp(parts)));
    assert.deepEqual([image.width, image.height], [WIDTH, HEIGHT]);
    assert.deepEqual([...image.data], expected);
  });
}

test('alpha is laid over mid gray', async (t) => {
  const parts: BmpParts = {
    ...base,
    bitsPerPixel: 32,
    headerBytes: 124,
    compression: 3,
    masks: [0xff0000, 0xff00, 0xff, 0xff000000],
    pixels: rows(32, (x, y) => rgbAt(x, y) + (x === 0 ? 0 : x === 1 ? 128 : 255) * 2 ** 24),
  };
  const { data } = await readRgb(await fileOf(t, makeBmp(parts)));
  for (let y = 0; y < HEIGHT; y++) {
    assert.deepEqual([...data.subarray(y * WIDTH * 3, y * WIDTH * 3 + 3)], [128, 128, 128]);
    colourAt(1, y).forEach((value, c) => assert.ok(Math.abs(data[(y * WIDTH + 1) * 3 + c]! - (value * 128 + 128 * 127) / 255) <= 1));
    assert.deepEqual([...data.subarray((y * WIDTH + 2) * 3, (y * WIDTH + 3) * 3)], [...colourAt(2, y)]);
  }
});

test('resized and turned into parts like any other file', async (t) => {
  const file = await fileOf(t, makeBmp(cases['24 bits']!.parts));
  const small = await readRgb(file, { size: { width: 3, height: 2 } });
  assert.deepEqual([small.width, small.height, small.data.length], [3, 2, 18]);
});

test('cut short, foreign and nonsensical files are named', async (t) => {
  const whole = makeBmp(cases['24 bits']!.parts);
  const runs = makeBmp(cases['run lengths of 8 bits']!.parts);
  // a size of the coded pixels of 0 is allowed: then only decoding sees the missing end
  runs.writeUInt32LE(0, 34);
  await assert.rejects(readRgb(await fileOf(t, runs.subarray(0, runs.length - 20))), { code: 'image-truncated' });
  await assert.rejects(readRgb(await fileOf(t, whole.subarray(0, whole.length - 9))), {
    code: 'image-truncated',
    message: 'picture.bmp ends after 141 of at least 147 bytes.',
  });
  await assert.rejects(readRgb(await fileOf(t, whole.subarray(0, 30))), { code: 'image-truncated' });
  const jpegInside = Buffer.from(whole);
  jpegInside.writeUInt32LE(4, 30);
  await assert.rejects(readRgb(await fileOf(t, jpegInside)), { code: 'image-unsupported', message: /24 bits a pixel and compression 4/ });
  const huge = Buffer.from(whole);
  huge.writeInt32LE(100_000, 18);
  huge.writeInt32LE(50_000, 22);
  await assert.rejects(readRgb(await fileOf(t, huge)), {
    code: 'image-too-large',
    message: 'picture.bmp has 100,000 x 50,000 pixels; Patchwise reads up to 268 megapixels a page.',
  });
  await assert.rejects(readRgb(await fileOf(t, Buffer.from('BMW, Audi, Opel and a few other makes'))), { code: /image-/ });
});

test('scanned with sizes and depths', async (t) => {
  const file = await fileOf(t, makeBmp(cases['4 bits, odd width']!.parts));
  for await (const event of scanFolder(path.dirname(file))) {
    if (event.type !== 'images') continue;
    const { width, height, format, bitDepth, channels, orientation } = event.images[0]!;
    assert.deepEqual(
      { width, height, format, bitDepth, channels, orientation },
      { width: 7, height: 4, format: 'bmp', bitDepth: 4, channels: 3, orientation: 1 },
    );
  }
});

test('Pillow reads the same pixels', { skip: missingPython('PIL', 'numpy') }, async (t) => {
  const folder = temporaryFolder(t);
  const random = new Random(4);
  const extra: BmpParts = {
    width: 501,
    height: 77,
    bitsPerPixel: 24,
    pixels: Uint8Array.from({ length: 1504 * 77 }, () => random.int(256)),
  };
  // Pillow keeps the alpha of zeros, and drops the last of an odd number of 4-bit literals
  const all = [
    ...Object.entries(cases)
      .filter(([name]) => !name.includes('alpha') && name !== 'run lengths of 4 bits')
      .map(([, { parts }]) => parts),
    extra,
  ];
  const files = all.map((_, i) => path.join(folder, `${i}.bmp`));
  await Promise.all(all.map((parts, i) => writeFile(files[i]!, makeBmp(parts))));
  const answers = askPython(
    `import json, sys\nfrom PIL import Image\njson.dump([list(Image.open(f).convert('RGB').tobytes()) for f in json.load(sys.stdin)], sys.stdout)`,
    files,
  ) as number[][];
  for (const [i, file] of files.entries()) {
    // Pillow rounds 5 bits down
    (await readRgb(file)).data.forEach((value, k) =>
      assert.ok(Math.abs(value - answers[i]![k]!) <= (all[i]!.bitsPerPixel === 16 ? 1 : 0), `${file} at ${k}: ${value}, ${answers[i]![k]}`),
    );
  }
});
