import assert from 'node:assert/strict';
import { test } from 'node:test';
import { agreement, smallSide } from '../../core/curate/agreement.ts';
import { align, mutualMatches } from '../../core/curate/align.ts';
import { compareLooks, copyRule, hashCandidates, keypointCandidates, PairSet } from '../../core/curate/copies.ts';
import { dctHash, differingBits, hashSide } from '../../core/curate/dctHash.ts';
import { descriptorDim, keypointsOf, type Keypoints } from '../../core/curate/keypoints.ts';
import { decodeLook, encodeLook, grayOf, lookAt, reduce, type Look } from '../../core/curate/look.ts';
import { drawConveyor } from '../../core/demo/conveyor.ts';
import { encodeJpeg, resizeRgb, type RgbImage } from '../../core/images/index.ts';
import { Random } from '../../core/random.ts';
import { sharp } from '../../core/images/sharp.ts';

const noBreath = async (): Promise<void> => {};

/** A picture of the demo's generator: 320 x 240 with parts on a belt. */
const scene = (index: number): RgbImage => drawConveyor(9, index, 320, 240).image;

async function jpeg(image: RgbImage, quality: number): Promise<RgbImage> {
  const { data, info } = await sharp(await encodeJpeg(image, quality))
    .raw()
    .toBuffer({ resolveWithObject: true });
  return { width: info.width, height: info.height, data: new Uint8Array(data) };
}

function crop({ width, data }: RgbImage, left: number, top: number, w: number, h: number): RgbImage {
  const out = new Uint8Array(w * h * 3);
  for (let y = 0; y < h; y++) out.set(data.subarray(((top + y) * width + left) * 3, ((top + y) * width + left + w) * 3), y * w * 3);
  return { width: w, height: h, data: out };
}

const brighter = (image: RgbImage, gain: number, offset: number): RgbImage => ({
  ...image,
  data: image.data.map((v) => Math.min(255, Math.max(0, Math.round(gain * v + offset)))),
});

/** The definition, four loops: X[v][u] = sum of x[y][x] cos(pi u (2x + 1) / 2N) cos(pi v (2y + 1) / 2N). */
function hashByDefinition(gray: Float32Array): bigint {
  const n = hashSide;
  const coefficients: number[] = [];
  for (let v = 0; v < 8; v++) {
    for (let u = 0; u < 8; u++) {
      let sum = 0;
      for (let y = 0; y < n; y++)
        for (let x = 0; x < n; x++)
          sum += gray[y * n + x]! * Math.cos((Math.PI * u * (2 * x + 1)) / (2 * n)) * Math.cos((Math.PI * v * (2 * y + 1)) / (2 * n));
      coefficients.push(sum);
    }
  }
  const median = coefficients.slice(1).sort((a, b) => a - b)[31]!;
  return coefficients.reduce((bits, c, i) => (c > median ? bits | (1n << BigInt(i)) : bits), 0n);
}

test('the DCT hash is that of the definition', () => {
  for (let i = 0; i < 6; i++) {
    const random = new Random(4, i);
    const gray = Float32Array.from({ length: hashSide ** 2 }, (_, at) => 100 + 60 * Math.sin(at / (3 + i)) + 20 * random.normal());
    const [low, high] = dctHash(gray);
    const expected = hashByDefinition(gray);
    // A coefficient within rounding of the median may fall on either side; there is none in these.
    assert.equal((BigInt(high) << 32n) | BigInt(low), expected);
    assert.equal(expected.toString(2).replaceAll('0', '').length, 31 + Number(expected & 1n), '31 of 63 are above their median');
  }
});

test('differing bits are counted as by hand', () => {
  assert.equal(differingBits(0, 0), 0);
  assert.equal(differingBits(0xffffffff, 0), 32);
  assert.equal(differingBits(0b1011, 0b0110), 3);
  const random = new Random(8);
  for (let i = 0; i < 200; i++) {
    const [a, b] = [random.uint32(), random.uint32()];
    assert.equal(differingBits(a, b), ((a ^ b) >>> 0).toString(2).replaceAll('0', '').length);
  }
});

test('a picture is reduced by means over equal areas, also where sides do not divide', () => {
  const gray = Float32Array.from([0, 30, 60, 90, 120, 150]); // 3 x 2
  assert.deepEqual([...reduce(gray, 3, 2, 1)], [75]);
  // Left half: the first column and half of the second.
  const halves = reduce(gray, 3, 2, 2);
  const expected = [(0 + 15) / 1.5, (15 + 60) / 1.5, (90 + 60) / 1.5, (60 + 150) / 1.5];
  halves.forEach((value, i) => assert.ok(Math.abs(value - expected[i]!) < 1e-4, `${value} is not ${expected[i]}`));
  assert.deepEqual([...reduce(gray, 3, 2, 3).filter((_, i) => i % 3 === 0)], [0, 45, 90]);
});

test('keypoints: a bright disk is found at its centre, an edge is not', () => {
  const [width, height] = [120, 90];
  const disk = new Float32Array(width * height).fill(50);
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) if (Math.hypot(x - 80, y - 30) < 5) disk[y * width + x] = 200;
  const found = keypointsOf(disk, width, height);
  assert.ok(found.count >= 1);
  assert.ok(
    Math.abs(found.places[0]! * width - 80.5) < 1.5 && Math.abs(found.places[1]! * height - 30.5) < 1.5,
    [...found.places].join(' '),
  );
  const edge = new Float32Array(width * height).map((_, i) => (i % width < 60 ? 50 : 200));
  assert.equal(keypointsOf(edge, width, height).count, 0);
  assert.equal(keypointsOf(new Float32Array(width * height).fill(90), width, height).count, 0);
});

/** Keypoints with random descriptors, at given places. */
function pointsAt(places: readonly (readonly [number, number])[], descriptors: Uint8Array): Keypoints {
  return { count: places.length, places: Float32Array.from(places.flat()), descriptors };
}

test('the alignment of matches is the one they were made with, whatever else matches', () => {
  const random = new Random(31);
  const descriptors = Uint8Array.from({ length: 40 * descriptorDim }, () => random.int(120));
  const places = Array.from({ length: 40 }, () => [random.uniform(0.05, 0.95), random.uniform(0.05, 0.95)] as const);
  // x' = 1.3 x - 0.2, y' = 1.6 y - 0.25; the last ten lie anywhere.
  const moved = places.map(([x, y], i) =>
    i < 30 ? ([1.3 * x - 0.2, 1.6 * y - 0.25] as const) : ([random.uniform(), random.uniform()] as const),
  );
  const found = align(pointsAt(places, descriptors), pointsAt(moved, descriptors))!;
  assert.equal(found.matches, 40);
  assert.ok(found.inliers >= 30 && found.inliers <= 33, String(found.inliers));
  for (const [got, wanted] of [
    [found.scaleX, 1.3],
    [found.shiftX, -0.2],
    [found.scaleY, 1.6],
    [found.shiftY, -0.25],
  ] as const)
    assert.ok(Math.abs(got - wanted) < 0.03, `${got} is not ${wanted}`);
  assert.equal(align(pointsAt(places.slice(0, 2), descriptors), pointsAt(moved, descriptors)), null);
});

test('matches are those of a plain search: mutual, and clearly nearer than the second', () => {
  const [a, b] = [lookAt(scene(1)).keypoints, lookAt(crop(scene(1), 20, 10, 280, 220)).keypoints];
  const distance = (i: number, j: number): number => {
    let sum = 0;
    for (let k = 0; k < descriptorDim; k++) sum += (a.descriptors[i * descriptorDim + k]! - b.descriptors[j * descriptorDim + k]!) ** 2;
    return Math.sqrt(sum);
  };
  const expected: [number, number][] = [];
  for (let i = 0; i < a.count; i++) {
    const order = Array.from({ length: b.count }, (_, j) => j).sort((p, q) => distance(i, p) - distance(i, q));
    const back = Array.from({ length: a.count }, (_, p) => p).sort((p, q) => distance(p, order[0]!) - distance(q, order[0]!));
    if (back[0] === i && distance(i, order[0]!) <= 0.85 * distance(i, order[1]!)) expected.push([i, order[0]!]);
  }
  assert.ok(expected.length > 8, `${expected.length} matches`);
  assert.deepEqual(mutualMatches(a, b), expected);
});

test('agreement: equal is 1 and 0, brightness does not count, one changed part does', () => {
  const random = new Random(2);
  const a = Uint8Array.from({ length: smallSide ** 2 }, () => 60 + random.int(80));
  const same = agreement(a, a)!;
  assert.deepEqual([same.covered, Math.round(1e6 * same.correlation), same.worst < 1e-3], [1, 1e6, true]);
  const bright = agreement(
    a,
    a.map((v) => Math.round(1.5 * v + 20)),
  )!;
  assert.ok(bright.worst < 0.02, `brightness: ${bright.worst}`);
  const changed = a.slice();
  for (let y = 20; y < 36; y++) changed.fill(255, y * smallSide + 20, y * smallSide + 36);
  assert.ok(agreement(a, changed)!.worst > 2, `one sixteenth changed: ${agreement(a, changed)!.worst}`);
  assert.equal(agreement(a, a, { scaleX: 1, shiftX: 0.95, scaleY: 1, shiftY: 0 }), null, 'hardly any overlap');
  const flat = new Uint8Array(smallSide ** 2).fill(128);
  assert.deepEqual([agreement(flat, flat)!.correlation, agreement(flat, a)!.correlation], [1, 0]);
});

test('copies are found however they were made; other pictures of the same belt are none', async (t) => {
  const original = scene(5);
  const look = lookAt(original);
  const cases: Record<string, RgbImage> = {
    'JPEG of quality 40': await jpeg(original, 40),
    'half the size': await resizeRgb(original, 160, 120),
    'stretched by a fifth': await resizeRgb(original, 320, 200),
    brighter: brighter(original, 1.25, 15),
    darker: brighter(original, 0.6, 0),
    'crop of 90 %': crop(original, 16, 12, 288, 216),
    'crop of 75 % at a corner': crop(original, 0, 0, 240, 180),
  };
  for (const [name, picture] of Object.entries(cases)) {
    const found = compareLooks(look, lookAt(picture));
    assert.ok(found, name);
    t.diagnostic(`${name}: ${(100 * found.similarity).toFixed(1)} %, ${found.inPlace ? 'in place' : 'aligned'}`);
    assert.equal(found.inPlace, !name.startsWith('crop'), name);
    assert.ok(compareLooks(lookAt(picture), look), `${name}, the other way round`);
  }
  // Hardly any keypoints, but all of them agree, and so does every part.
  assert.ok(compareLooks(lookAt(scene(3)), lookAt(crop(scene(3), 16, 12, 288, 216))));
  // Two fields of view that overlap by half: each shows what the other does not.
  const [left, right] = [lookAt(crop(original, 0, 0, 210, 240)), lookAt(crop(original, 110, 0, 210, 240))];
  assert.ok(align(left.keypoints, right.keypoints)!.inliers >= 7, 'what they share is seen');
  assert.equal(compareLooks(left, right), null);
  const others = Array.from({ length: 12 }, (_, i) => lookAt(scene(20 + i)));
  for (const other of others) assert.equal(compareLooks(look, other), null);
});

test('a fixed camera: the same background with another thing in it is no copy', () => {
  const random = new Random(77);
  const background = { width: 320, height: 240, data: new Uint8Array(320 * 240 * 3) };
  // Blobs of all sizes: a background full of keypoints.
  background.data.fill(120);
  for (let blob = 0; blob < 260; blob++) {
    const [bx, by, radius, value] = [random.int(320), random.int(240), 2 + random.int(9), random.int(256)];
    for (let y = Math.max(0, by - radius); y < Math.min(240, by + radius); y++)
      for (let x = Math.max(0, bx - radius); x < Math.min(320, bx + radius); x++)
        if (Math.hypot(x - bx, y - by) < radius) background.data.fill(value, (y * 320 + x) * 3, (y * 320 + x) * 3 + 3);
  }
  const withThing = (x0: number, y0: number): RgbImage => {
    const data = background.data.slice();
    for (let y = y0; y < y0 + 60; y++) data.fill(250, (y * 320 + x0) * 3, (y * 320 + x0 + 64) * 3);
    return { ...background, data };
  };
  const [a, b] = [lookAt(withThing(20, 30)), lookAt(withThing(220, 150))];
  assert.ok(align(a.keypoints, b.keypoints)!.inliers >= copyRule.aligned[0]!.inliers, 'their keypoints agree');
  assert.equal(compareLooks(a, b), null);
  assert.ok(compareLooks(a, lookAt(withThing(20, 30))));
});

test('candidates: all within the hash distance, and a crop among those of its keypoints', async () => {
  const looks: Look[] = [];
  for (let i = 0; i < 14; i++) looks.push(lookAt(scene(40 + i)));
  looks.push(lookAt(await jpeg(scene(42), 50)), lookAt(crop(scene(45), 20, 14, 270, 205)));
  const byHash = new PairSet(looks.length);
  await hashCandidates(looks, byHash, noBreath);
  const expected: string[] = [];
  for (let i = 0; i < looks.length; i++)
    for (let j = i + 1; j < looks.length; j++)
      if (differingBits(looks[i]!.hash[0], looks[j]!.hash[0]) + differingBits(looks[i]!.hash[1], looks[j]!.hash[1]) <= copyRule.hashBits)
        expected.push(`${i}-${j}`);
  assert.deepEqual([...byHash].map(([i, j]) => `${i}-${j}`).sort(), expected.sort());
  assert.ok(expected.includes('2-14'), expected.join(' '));
  const byKeypoints = new PairSet(looks.length);
  await keypointCandidates(looks, byKeypoints, noBreath);
  assert.ok([...byKeypoints].some(([i, j]) => i === 5 && j === 15));
});

test('a look comes back from its bytes as it was; anything else reads as none', () => {
  const look = lookAt(scene(0));
  const bytes = encodeLook(look);
  assert.deepEqual(decodeLook(bytes), { ...look, sharpness: Math.fround(look.sharpness) });
  for (let i = 0; i < bytes.length; i += 397) {
    const damaged = Buffer.from(bytes);
    damaged[i]! ^= 0x10;
    assert.equal(decodeLook(damaged), null, `byte ${i}`);
  }
  assert.equal(decodeLook(bytes.subarray(0, bytes.length - 1)), null);
  assert.equal(decodeLook(Buffer.alloc(0)), null);
  const tiny = lookAt({ width: 1, height: 1, data: new Uint8Array([1, 2, 3]) });
  assert.deepEqual([tiny.keypoints.count, tiny.sharpness, decodeLook(encodeLook(tiny))!.keypoints.count], [0, 0, 0]);
  assert.equal(grayOf({ width: 1, height: 1, data: new Uint8Array([255, 255, 255]) })[0]!.toFixed(2), '255.00');
});
