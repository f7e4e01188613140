/** Pixels of crops against Pillow's, and 10,000 draws of each kind of crop against the distributions of spec 2. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import { drawCrop, type CropDraw, type CropKind } from '../../core/dinov2/augment.ts';
import { OFFICIAL_CROPS, STREAM } from '../../core/dinov2/config.ts';
import { Random } from '../../core/random.ts';
import { assertCounts, assertDistribution, assertShare, assertUncorrelated, distributionOf, uniform } from '../fixtures/statistics.ts';
import { checkAugment, recordedCrops } from '../golden/augment.ts';
import { assertWithin } from '../golden/rows.ts';
import { golden, goldenNames, goldenPath, noGolden } from './golden.ts';

for (const name of goldenNames('augment')) {
  test(`${name}: crops and single operations are those of Pillow and torchvision`, { skip: noGolden }, async (t) => {
    const crops = recordedCrops.parse(JSON.parse(await readFile(goldenPath(`${name}.json`), 'utf8')));
    t.diagnostic(assertWithin(checkAugment(name, await golden(name), crops)));
  });
}

const DRAWS = 10_000;
const [NARROW, WIDE] = [3 / 4, 4 / 3];

/** One crop of each of DRAWS images, addressed as a run addresses them: 100 steps of 100 images. */
function drawMany(kind: CropKind, width: number, height: number): CropDraw[] {
  const crop = { global1: 0, global2: 1, local: 2 }[kind];
  return Array.from({ length: DRAWS }, (_, i) =>
    drawCrop(new Random(3, STREAM.crops, Math.floor(i / 100), i % 100, crop), OFFICIAL_CROPS, kind, width, height),
  );
}

/**
 * How much of the range of log(w / h) fits into an image with an area share a: a box is no wider than the image while its
 * aspect is at most the image's over a, and no higher while it is at least the image's times a.
 */
function fittingAspects(area: number, imageAspect: number): number {
  const from = Math.max(Math.log(NARROW), Math.log(area * imageAspect));
  const to = Math.min(Math.log(WIDE), Math.log(imageAspect / area));
  return Math.max(0, to - from);
}

/** Largest area share that fits with an aspect. */
const largestArea = (aspect: number, imageAspect: number): number => Math.min(1, imageAspect / aspect, aspect / imageAspect);

for (const [kind, low, high, blur, solarize] of [
  ['global1', 0.32, 1, 0, 0],
  ['global2', 0.32, 1, 0.9, 0.2],
  ['local', 0.05, 0.32, 0.5, 0],
] as const) {
  test(`${DRAWS} ${kind} crops: boxes as RandomResizedCrop draws them`, () => {
    // Large, so that rounding to whole pixels hardly moves a distribution.
    const [width, height] = [4000, 3000];
    const imageAspect = width / height;
    const draws = drawMany(kind, width, height);
    for (const { box } of draws) {
      assert.ok(box.top >= 0 && box.left >= 0 && box.top + box.height <= height && box.left + box.width <= width);
    }
    const areas = draws.map(({ box }) => (box.width * box.height) / (width * height));
    const aspects = draws.map(({ box }) => Math.log(box.width / box.height));
    // Uniform area and log-uniform aspect, given that the box fits into the image; local boxes always do.
    const areaLaw = kind === 'local' ? uniform(low, high) : distributionOf((a) => fittingAspects(a, imageAspect), low, high);
    const aspectLaw =
      kind === 'local'
        ? uniform(Math.log(NARROW), Math.log(WIDE))
        : distributionOf((log) => Math.max(0, largestArea(Math.exp(log), imageAspect) - low), Math.log(NARROW), Math.log(WIDE));
    assertDistribution(areas, areaLaw, `${kind} area`);
    assertDistribution(aspects, aspectLaw, `${kind} log aspect`);
    // Offsets are uniform whatever the size: as shares of the room that is left, each whole number a cell of it. Boxes that
    // fill the image leave too few cells to be a distribution.
    for (const [what, of] of [
      ['top', ({ box }: CropDraw) => [box.top, height - box.height + 1]],
      ['left', ({ box }: CropDraw) => [box.left, width - box.width + 1]],
    ] as const) {
      const roomy = draws.map(of).filter(([, room]) => room! > 100);
      assert.ok(roomy.length > 0.8 * DRAWS);
      const shares = roomy.map(([offset, room]) => (offset! + 0.5) / room!);
      assertDistribution(shares, uniform(0, 1), `${kind} ${what}`);
    }
    // Neighbouring streams know nothing of each other.
    assertUncorrelated(areas.slice(1), areas.slice(0, -1), `${kind} areas of neighbours`);
    if (kind === 'local') assertUncorrelated(areas, aspects, 'area and aspect');
  });

  test(`${DRAWS} ${kind} crops: colours, blur and flips in the official shares`, () => {
    const draws = drawMany(kind, 400, 300);
    const count = (yes: (draw: CropDraw) => boolean): number => draws.filter(yes).length;
    assertShare(
      count(({ flip }) => flip),
      DRAWS,
      0.5,
      'flips',
    );
    assertShare(
      count(({ grayscale }) => grayscale),
      DRAWS,
      0.2,
      'grays',
    );
    assertShare(
      count((draw) => draw.blurSigma > 0),
      DRAWS,
      blur,
      'blurs',
    );
    assertShare(
      count((draw) => draw.solarize),
      DRAWS,
      solarize,
      'solarisations',
    );
    const sigmas = draws.map(({ blurSigma }) => blurSigma).filter((sigma) => sigma > 0);
    if (blur > 0) assertDistribution(sigmas, uniform(0.1, 2), 'sigma');

    const jitters = draws.map(({ jitter }) => jitter).filter((jitter) => jitter !== null);
    assertShare(jitters.length, DRAWS, 0.8, 'jitters');
    for (const [what, amount, middle] of [
      ['brightness', 0.4, 1],
      ['contrast', 0.4, 1],
      ['saturation', 0.2, 1],
      ['hue', 0.1, 0],
    ] as const) {
      assertDistribution(
        jitters.map((jitter) => jitter[what]),
        uniform(middle - amount, middle + amount),
        what,
      );
    }
    const orders = new Map<string, number>();
    for (const { order } of jitters) {
      assert.deepEqual([...order].sort(), [0, 1, 2, 3]);
      orders.set(order.join(), (orders.get(order.join()) ?? 0) + 1);
    }
    assert.equal(orders.size, 24);
    assertCounts([...orders.values()], new Array<number>(24).fill(1 / 24), 'orders of the four operations');

    // Each is drawn for itself.
    const bits = [
      (draw: CropDraw) => draw.flip,
      (draw: CropDraw) => draw.grayscale,
      (draw: CropDraw) => draw.jitter !== null,
      (draw: CropDraw) => draw.blurSigma > 0,
    ].map((yes) => draws.map((draw) => Number(yes(draw))));
    if (blur === 0) bits.pop(); // never, so with nothing to correlate
    for (const [i, a] of bits.entries()) for (const b of bits.slice(i + 1)) assertUncorrelated(a, b, `${kind}: two of its draws`);
  });
}

test('an image too long for any box falls back to the largest centred one of an allowed aspect', () => {
  for (const kind of ['global1', 'local'] as const) {
    for (const { box } of drawMany(kind, 3000, 30)) assert.deepEqual(box, { top: 0, left: 1480, width: 40, height: 30 });
    for (const { box } of drawMany(kind, 30, 3000)) assert.deepEqual(box, { top: 1480, left: 0, width: 30, height: 40 });
  }
});

test('a long image falls back as often as ten attempts in a row fail', () => {
  const imageAspect = 3;
  const [low, high] = [0.32, 1];
  // Share of (area, log aspect) that fits, by the midpoint rule over aspects.
  const cells = 4000;
  const span = Math.log(WIDE / NARROW);
  let fits = 0;
  for (let i = 0; i < cells; i++) {
    const aspect = NARROW * Math.exp((span * (i + 0.5)) / cells);
    fits += Math.max(0, largestArea(aspect, imageAspect) - low) / (high - low) / cells;
  }
  const draws = drawMany('global1', 3600, 1200);
  const whole = draws.filter(({ box }) => box.height === 1200 && box.width === 1600 && box.left === 1000).length;
  assertShare(whole, DRAWS, (1 - fits) ** 10, 'fallbacks');
});
