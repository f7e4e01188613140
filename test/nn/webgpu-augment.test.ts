/** Crops and whole pictures made on the GPU against those of the processor and of Pillow, byte by byte. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { after, before, describe, it } from 'node:test';
import { noAdapter } from './webgpu-device.ts';
import { applyCrop } from '../../core/nn/index.ts';
import { applyCrops, drawCrops, makeCrops as makeTensors, normalisedTable, normalizeImage } from '../../core/dinov2/augment.ts';
import { OFFICIAL_CROPS } from '../../core/dinov2/config.ts';
import type { CropDraw, CropGroup, PixelImage } from '../../core/nn/index.ts';
import { makeCrops, packCrops, pictureOffsets } from '../../core/nn/webgpu/augment.ts';
import { augment } from '../../core/nn/webgpu/kernels/augment.ts';
import { createWebgpuExecutor } from '../../core/nn/webgpu/index.ts';
import { Runtime } from '../../core/nn/webgpu/runtime.ts';
import { shiftInput } from '../../core/prelabel/features.ts';
import { golden, goldenNames, goldenPath, noGolden } from '../dinov2/golden.ts';
import { compareCrops, recordedCases, recordedCrops } from '../golden/augment.ts';
import { assertWithin } from '../golden/rows.ts';
import { Random } from './draw.ts';

let runtime: Runtime;

/** Noise on a slope, with all bytes and some grays: edges and flats for the resize, ties for the hue. */
function picture(random: Random, width: number, height: number): PixelImage {
  const data = new Uint8Array(width * height * 3);
  for (let i = 0; i < width * height; i++) {
    const gray = random.uniform() < 0.1;
    const base = (255 * (i % width)) / width;
    for (let c = 0; c < 3; c++) data[i * 3 + c] = gray ? base : 0.5 * base + 128 * random.uniform();
  }
  return { width, height, data };
}

/** Stands for the normalisation: a byte of channel c becomes itself plus 1000 c. */
const channels = Float32Array.from({ length: 768 }, (_, i) => (i % 256) + 1000 * Math.floor(i / 256));

/** [size,size,3] of each crop. @throws when a value is not a byte of its channel */
function bytesOf(values: Float32Array, { size, crops }: CropGroup): Uint8Array[] {
  const plane = size * size;
  assert.equal(values.length, crops.length * 3 * plane);
  return crops.map((_, crop) =>
    Uint8Array.from({ length: 3 * plane }, (_, i) => {
      const c = i % 3;
      const value = values[(crop * 3 + c) * plane + Math.floor(i / 3)]! - 1000 * c;
      if (!Number.isInteger(value) || value < 0 || value > 255) throw new Error(`crop ${crop} has the value ${value}`);
      return value;
    }),
  );
}

async function onGpu(pictures: readonly PixelImage[], groups: readonly CropGroup[]): Promise<Uint8Array[][]> {
  const floats = groups.map(({ size, crops }) => crops.length * 3 * size * size);
  const outputs = floats.map((count) => ({ region: runtime.take(count * 4), element: 'f32' as const }));
  makeCrops(runtime, pictures, groups, channels, outputs);
  const made: Uint8Array[][] = [];
  for (const [i, { region }] of outputs.entries()) {
    made.push(bytesOf(new Float32Array(await runtime.read(region, floats[i]! * 4)), groups[i]!));
    runtime.give(region);
  }
  return made;
}

const nothing = { flip: false, jitter: null, grayscale: false, blurSigma: 0, solarize: false };
const whole = ({ width, height }: PixelImage): CropDraw['box'] => ({ top: 0, left: 0, width, height });

/** Differences in levels: the largest, and the share of bytes that differ. */
function apart(actual: Uint8Array, wanted: Uint8Array): { most: number; share: number } {
  let most = 0;
  let count = 0;
  for (let i = 0; i < wanted.length; i++) {
    const difference = Math.abs(actual[i]! - wanted[i]!);
    most = Math.max(most, difference);
    if (difference > 0) count++;
  }
  return { most, share: count / wanted.length };
}

/** A blur's sums are float32 here and float64 there: next to a half one level lies between them. */
const blurShare = 1e-3;

async function compare(pictures: readonly PixelImage[], groups: readonly CropGroup[]): Promise<number> {
  const made = await onGpu(pictures, groups);
  let worst = 0;
  for (const [g, { size, crops }] of groups.entries()) {
    for (const [i, { picture: number, draw }] of crops.entries()) {
      const { most, share } = apart(made[g]![i]!, applyCrop(pictures[number]!, draw, size));
      const what = `crop ${i} of ${size} px (${JSON.stringify(draw)})`;
      if (draw.blurSigma === 0) assert.equal(share, 0, `${what}: ${share} of the bytes differ, by up to ${most}`);
      // Solarized, 127 and 128 are 127 and 127.
      assert.ok(most <= 1 && share <= blurShare, `${what}: ${share} of the bytes differ, by up to ${most}`);
      worst = Math.max(worst, share);
    }
  }
  return worst;
}

function factor(random: Random): number {
  // Also those at which blends land on whole numbers.
  return random.uniform() < 0.3 ? [0.5, 0.6, 0.7, 1, 1.2, 1.4][Math.floor(random.uniform() * 6)]! : 0.6 + 0.8 * random.uniform();
}

function drawOne(random: Random, { width, height }: PixelImage, blur: boolean): CropDraw {
  const int = (count: number): number => Math.floor(random.uniform() * count);
  const [w, h] = [1 + int(width), 1 + int(height)];
  const order = Int32Array.from(
    [0, 1, 2, 3].map((op) => [random.uniform(), op] as const).toSorted(([a], [b]) => a - b),
    ([, op]) => op,
  );
  const jitter = { order, brightness: factor(random), contrast: factor(random), saturation: factor(random), hue: random.uniform() - 0.5 };
  return {
    box: { top: int(height - h + 1), left: int(width - w + 1), width: w, height: h },
    flip: random.uniform() < 0.5,
    jitter: random.uniform() < 0.8 ? jitter : null,
    grayscale: random.uniform() < 0.2,
    blurSigma: blur ? 0.1 + 1.9 * random.uniform() : 0,
    solarize: random.uniform() < 0.2,
  };
}

describe('crops on the GPU', { skip: noAdapter }, () => {
  before(async () => {
    runtime = await Runtime.open();
  });
  after(() => runtime.dispose());

  it('resizes to the byte: smaller, larger, as it is, from one pixel, 1 px wide and high', async () => {
    const random = new Random(1);
    const pictures = [picture(random, 1, 60), picture(random, 61, 1), picture(random, 37, 37), picture(random, 150, 97)];
    const boxes = [
      ...pictures.map((image, number) => ({ picture: number, box: whole(image) })),
      { picture: 3, box: { top: 96, left: 149, width: 1, height: 1 } },
      { picture: 3, box: { top: 3, left: 7, width: 140, height: 5 } },
      { picture: 3, box: { top: 1, left: 2, width: 3, height: 90 } },
    ];
    const crops = boxes.flatMap(({ picture: number, box }) =>
      [false, true].map((flip) => ({ picture: number, draw: { ...nothing, box, flip } })),
    );
    await compare(
      pictures,
      [37, 16, 5].map((size) => ({ size, crops })),
    );
  });

  it('colours to the byte: every order of the four operations, single ones, none', async () => {
    const random = new Random(2);
    const image = picture(random, 40, 40);
    const orders = [0, 1, 2, 3].flatMap((a) =>
      [0, 1, 2, 3].flatMap((b) => [0, 1, 2, 3].map((c) => [a, b, c, 6 - a - b - c])).filter((order) => new Set(order).size === 4),
    );
    assert.equal(orders.length, 24);
    const crops = [...orders, [0], [1], [2], [3], []].flatMap((order) =>
      [1, 2].map(() => {
        const { jitter, ...draw } = drawOne(random, image, false);
        const amounts = jitter ?? { brightness: 1.4, contrast: 0.6, saturation: 1.2, hue: -0.1 };
        return { picture: 0, draw: { ...draw, box: whole(image), jitter: { ...amounts, order: Int32Array.from(order) } } };
      }),
    );
    await compare([image], [{ size: 40, crops }]);
  });

  it('blurs to one level on few bytes; in one batch each crop has what it drew', async (t) => {
    const random = new Random(3);
    const pictures = [picture(random, 90, 70), picture(random, 33, 120), picture(random, 5, 6)];
    const crops = Array.from({ length: 24 }, (_, i) => ({ picture: i % 3, draw: drawOne(random, pictures[i % 3]!, i % 2 === 0) }));
    const worst = await compare(pictures, [
      { size: 37, crops },
      { size: 5, crops },
    ]);
    t.diagnostic(`largest share of bytes of a crop that differ by one level: ${worst}`);
  });

  it('turns the hue of every colour of a coarse cube to the byte', async () => {
    const levels = [0, 1, 2, 5, 10, 51, 85, 102, 127, 128, 170, 204, 230, 250, 254, 255];
    const data = Uint8Array.from(levels.flatMap((r) => levels.flatMap((g) => levels.flatMap((b) => [r, g, b]))));
    const image = { width: 64, height: 64, data };
    const crops = [-0.5, -0.1, -1 / 255, 0, 0.004, 0.1, 0.3, 0.5].map((hue) => ({
      picture: 0,
      draw: { ...nothing, box: whole(image), jitter: { order: Int32Array.of(3), brightness: 1, contrast: 1, saturation: 1, hue } },
    }));
    await compare([image], [{ size: 64, crops }]);
  });

  it('goes through rows in parts when they have little room', async () => {
    const random = new Random(4);
    const pictures = [picture(random, 50, 40)];
    const group = { size: 16, crops: Array.from({ length: 7 }, () => ({ picture: 0, draw: drawOne(random, pictures[0]!, false) })) };
    const offsets = pictureOffsets(pictures);
    const { records, weights, parts } = packCrops(pictures, group, offsets, 3, 40 * 16 * 4 * 2);
    assert.ok(parts.length >= 3 && parts.every(({ count, rows }) => count <= 3 && rows <= 40 * 16 * 2));
    const y = { region: runtime.take(7 * 3 * 256 * 4), element: 'f32' as const };
    const arrays = {
      pictures: runtime.upload(pictures[0]!.data),
      crops: runtime.upload(records),
      weights: runtime.upload(weights),
      normalised: runtime.upload(channels),
      rows: runtime.take(40 * 16 * 4 * 2),
      pixels: runtime.take(7 * 256 * 4),
      sums: runtime.take(7 * 4),
    };
    for (const part of parts) runtime.run(augment(runtime.capabilities, { ...arrays, y }, 16, part));
    const made = bytesOf(new Float32Array(await runtime.read(y.region, 7 * 3 * 256 * 4)), group);
    for (const [i, { draw }] of group.crops.entries()) assert.deepEqual(made[i], applyCrop(pictures[0]!, draw, 16));
  });

  it('refuses boxes outside, pictures that are not there, crops that a blur cannot mirror, factors that do not fit', () => {
    const image = picture(new Random(5), 8, 8);
    const pack = (draw: Partial<CropDraw>, size = 8, number = 0): unknown =>
      packCrops([image], { size, crops: [{ picture: number, draw: { ...nothing, box: whole(image), ...draw } }] }, [0, 256], 9);
    assert.throws(() => pack({ box: { top: 1, left: 0, width: 8, height: 8 } }), /box 8 x 8 at 0, 1 of crop 0 is not inside/);
    assert.throws(() => pack({}, 8, 1), /picture 1 of 1/);
    assert.throws(() => pack({}, 4), /crops of 4 px/);
    const jitter = { order: Int32Array.of(0), brightness: -1, contrast: 1, saturation: 1, hue: 0 };
    assert.throws(() => pack({ jitter }), /brightness by -1/);
  });

  it('makes crops of a batch, and whole pictures moved, as the processor does, normalised, and holds nothing but them', async () => {
    const random = new Random(6);
    const pictures = [picture(random, 90, 70), picture(random, 64, 91)];
    const crops = { ...OFFICIAL_CROPS, globalSize: 28, localSize: 14, localCount: 3, blurProbability: [0, 0, 0] as const };
    const drawn = drawCrops({ crops, seed: 5 }, 7, pictures);
    const x = await createWebgpuExecutor();
    const values = await x.scope(async () => {
      const before = x.memoryBytes();
      const { global, local } = makeTensors(x, drawn);
      assert.deepEqual(
        [global.shape, local!.shape],
        [
          [4, 3, 28, 28],
          [6, 3, 14, 14],
        ],
      );
      const held = [global, local!].map(({ shape }) => Math.ceil((shape.reduce((a, b) => a * b) * 4) / 256) * 256);
      assert.equal(x.memoryBytes() - before, held[0]! + held[1]!);
      return [await x.read(global), await x.read(local!)];
    });
    assert.deepEqual(
      values,
      [drawn.global, drawn.local].map((group) => applyCrops(pictures, group)),
    );

    // Whole pictures, moved: odd sizes, and shifts beyond the border.
    const same = Array.from({ length: 3 }, () => picture(random, 31, 17));
    const shifts = [
      [0, 0],
      [7, 0],
      [0, 8],
      [40, 20],
    ] as const;
    const before = x.memoryBytes();
    const read = x.within(() => {
      const tensor = x.normalisePictures(same, shifts, normalisedTable);
      assert.deepEqual(tensor.shape, [12, 3, 17, 31]);
      return { values: x.read(tensor) };
    });
    const wanted = same.flatMap((image) => shifts.flatMap(([dx, dy]) => [...shiftInput(normalizeImage(image), 17, 31, dx, dy)]));
    assert.deepEqual(await read.values, Float32Array.from(wanted));
    assert.equal(x.memoryBytes(), before);
    assert.throws(() => x.normalisePictures([same[0]!, pictures[0]!], shifts, normalisedTable), /picture 1 .* all must be RGB of 31 x 17/);
    assert.throws(() => x.normalisePictures(same, [[0.5, 0]], normalisedTable), /shift by 0.5, 0/);
    await x.dispose();
  });

  for (const name of goldenNames('augment')) {
    it(`${name}: crops and single operations are those of Pillow and torchvision`, { skip: noGolden }, async (t) => {
      const recorded = await golden(name);
      const all = recordedCases(recorded, recordedCrops.parse(JSON.parse(await readFile(goldenPath(`${name}.json`), 'utf8'))));
      // The operations of one picture: a program that acts as a GPU takes half a minute for those of all.
      const cases = all.filter((one) => !/\.base\./.test(one.name) || one.name.startsWith('0.'));
      assert.ok(cases.length >= 24 && cases.length < all.length);
      const pictures = [...new Set(cases.map(({ image }) => image))];
      const sizes = [...new Set(cases.map(({ size }) => size))];
      const groups = sizes.map((size) => ({ size, of: cases.filter((one) => one.size === size) }));
      const made = await onGpu(
        pictures,
        groups.map(({ size, of }) => ({ size, crops: of.map(({ image, draw }) => ({ picture: pictures.indexOf(image), draw })) })),
      );
      const rows = groups.flatMap(({ of }, i) => compareCrops(name, recorded, of, made[i]!));
      t.diagnostic(assertWithin(rows));
    });
  }
});
