/** Block masks and the batch scheme against spec 3: a second implementation of it, and its numbers over 10,000 masks. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { modelConfig, OFFICIAL_CROPS } from '../../core/dinov2/config.ts';
import { drawBlockMask, drawMasks, largestBlock, roundHalfEven } from '../../core/dinov2/masking.ts';
import { Random } from '../../core/random.ts';
import { assertCounts, assertShare, meanTolerance, RISK } from '../fixtures/statistics.ts';

/** Crop and patch sizes with the largest block of each (spec 3). */
const LARGEST = [
  [224, 14, 128],
  [224, 16, 98],
  [518, 14, 666],
  [98, 14, 21],
  [112, 14, 32],
] as const;

test('halves round to even as in Python', () => {
  assert.deepEqual([0.5, 1.5, 2.5, 3.5, 2.4, 2.6, 7].map(roundHalfEven), [0, 2, 2, 4, 2, 3, 7]);
});

test('the largest block is the official one at every size', () => {
  for (const [crop, patch, largest] of LARGEST) assert.equal(largestBlock(crop, patch), largest);
});

interface Mask {
  /** Patches set, as row,column. */
  readonly set: ReadonlySet<string>;
  readonly target: number;
  readonly blocks: number;
}

/** Spec 3 once more, block by block, with sets; draws numbers in the order of the text. */
function plainMask(random: Random, grid: number, target: number, largest: number): Mask {
  const set = new Set<string>();
  let blocks = 0;
  const halfToEven = (value: number): number => {
    const below = Math.floor(value);
    if (value - below === 0.5) return below + (below % 2);
    return value - below < 0.5 ? below : below + 1;
  };
  const place = (limit: number): boolean => {
    const area = random.uniform(4, limit);
    const aspect = Math.exp(random.uniform(Math.log(0.3), Math.log(1 / 0.3)));
    const [h, w] = [halfToEven(Math.sqrt(area * aspect)), halfToEven(Math.sqrt(area / aspect))];
    if (h >= grid || w >= grid) return false;
    const [top, left] = [random.int(grid - h + 1), random.int(grid - w + 1)];
    const block = Array.from({ length: h * w }, (_, i) => `${top + Math.floor(i / w)},${left + (i % w)}`);
    const fresh = block.filter((patch) => !set.has(patch)).length;
    if (fresh === 0 || fresh > limit) return false;
    for (const patch of block) set.add(patch);
    return true;
  };
  for (;;) {
    if (set.size >= target) return { set, target, blocks };
    let attempts = 10;
    while (attempts > 0 && !place(Math.min(target - set.size, largest))) attempts--;
    if (attempts === 0) return { set, target, blocks };
    blocks++;
  }
}

/** The batch scheme once more: B of 2B crops, one in each slice of 0.1 to 0.5, shuffled. */
function plainMasks(random: Random, grid: number, crops: number, largest: number): Mask[] {
  const masked = Math.floor(crops / 2);
  const edges = Array.from({ length: masked + 1 }, (_, i) => 0.1 + (0.4 * i) / masked);
  const masks = Array.from({ length: crops }, (_, i) =>
    i < masked
      ? plainMask(random, grid, Math.floor(grid * grid * random.uniform(edges[i], edges[i + 1])), largest)
      : { set: new Set<string>(), target: 0, blocks: 0 },
  );
  random.shuffle(masks);
  return masks;
}

function bytesOf(masks: readonly Mask[], grid: number): Uint8Array {
  const bytes = new Uint8Array(masks.length * grid * grid);
  for (const [m, { set }] of masks.entries()) {
    for (const patch of set) {
      const [y, x] = patch.split(',').map(Number);
      bytes[(m * grid + y!) * grid + x!] = 1;
    }
  }
  return bytes;
}

const configOf = (crop: number, patchSize: number): Parameters<typeof drawMasks>[1] => ({
  model: modelConfig('small', { patchSize }),
  crops: { ...OFFICIAL_CROPS, globalSize: crop },
  masking: { probability: 0.5, ratio: [0.1, 0.5] },
});

test('masks of a batch are those of a second implementation, at every size', () => {
  for (const [crop, patch, largest] of LARGEST) {
    const grid = crop / patch;
    for (let step = 0; step < 5; step++) {
      const expected = bytesOf(plainMasks(new Random(4, crop, patch, step), grid, 12, largest), grid);
      assert.deepEqual(drawMasks(new Random(4, crop, patch, step), configOf(crop, patch), 12), expected, `${crop}/${patch}`);
    }
  }
});

test('a mask is never above its target, and what is returned is what is set', () => {
  for (let i = 0; i < 1000; i++) {
    const random = new Random(11, i);
    const target = Math.trunc(256 * random.uniform(0.1, 0.5));
    const mask = new Uint8Array(256);
    const set = drawBlockMask(random, mask, 16, target, 128);
    assert.equal(
      mask.reduce((sum, bit) => sum + bit, 0),
      set,
    );
    assert.ok(set <= target);
  }
});

test('10,000 masks of 16 x 16: exact in 92 %, short by 0.08 patches, 5.2 blocks, 0.30 of the patches', () => {
  const [B, batches] = [20, 500];
  const draws = B * batches;
  const counts: number[] = [];
  const shortfalls: number[] = [];
  const blocks: number[] = [];
  for (let step = 0; step < batches; step++) {
    const masks = plainMasks(new Random(2, step), 16, 2 * B, 128);
    const drawn = drawMasks(new Random(2, step), configOf(224, 14), 2 * B);
    assert.deepEqual(drawn, bytesOf(masks, 16)); // so the second implementation's numbers are the first one's
    const masked = masks.filter(({ target }) => target > 0).sort((a, b) => a.target - b.target);
    assert.equal(masked.length, B);
    for (const [i, { set, target, blocks: number }] of masked.entries()) {
      // one crop in each slice of the range
      const [low, high] = [0.1 + (0.4 * i) / B, 0.1 + (0.4 * (i + 1)) / B];
      assert.ok(target >= Math.floor(256 * low) && target <= 256 * high, `target ${target} in slice ${i}`);
      counts.push(set.size);
      shortfalls.push(target - set.size);
      blocks.push(number);
    }
  }
  // The published numbers are themselves of 3,840 masks and rounded: their error and half a digit add to ours.
  const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0) / values.length;
  const near = (values: readonly number[], published: number, halfDigit: number, what: string): void => {
    const m = mean(values);
    const deviation = Math.sqrt(mean(values.map((value) => (value - m) ** 2)));
    const allowed = halfDigit + Math.hypot(meanTolerance(deviation, draws), meanTolerance(deviation, 3840));
    assert.ok(Math.abs(m - published) <= allowed, `${what}: ${m}, not ${published} within ${allowed}`);
  };
  near(
    shortfalls.map((s) => Number(s === 0)),
    0.92,
    0.005,
    'share of exact masks',
  );
  near(shortfalls, 0.08, 0.005, 'mean shortfall');
  near(blocks, 5.2, 0.05, 'blocks');
  // Of those 3,840 masks none was short by more than 2, which is no bound: any rate up to -ln(RISK) / 3,840 can show so.
  const far = shortfalls.filter((s) => s > 2).length;
  assert.ok(far / draws <= -Math.log(RISK) / 3840, `${far} masks short by more than 2`);
  // Targets are floor(256 u) with u uniform over the slices, 76.3 on average; in each slice of 5.12 they spread by 1.5.
  const allowed = 0.05 + meanTolerance(5.12 / Math.sqrt(12), draws);
  assert.ok(Math.abs(mean(counts) - 76.2) <= allowed, `${mean(counts)} masked patches, 76.2 within ${allowed}`);
});

test('10,000 batches: which crops are masked is shuffled, so an image has 0, 1 or 2 masked crops', () => {
  const [B, batches, grid] = [3, 10_000, 8];
  const perImage = new Int32Array(3);
  const maskedAt = new Int32Array(2 * B);
  const largestAt = new Int32Array(2 * B);
  for (let step = 0; step < batches; step++) {
    const masks = drawMasks(new Random(6, step), configOf(112, 14), 2 * B);
    const counts = Array.from({ length: 2 * B }, (_, i) =>
      masks.subarray(i * grid * grid, (i + 1) * grid * grid).reduce((sum, bit) => sum + bit, 0),
    );
    assert.equal(counts.filter((c) => c > 0).length, B);
    for (const [i, c] of counts.entries()) if (c > 0) maskedAt[i]!++;
    largestAt[counts.indexOf(Math.max(...counts))]!++;
    // Crops lie crop-major: image b has crops b and B + b. One image a batch, for images of a batch depend on each other.
    const b = step % B;
    perImage[Number(counts[b]! > 0) + Number(counts[B + b]! > 0)]!++;
  }
  // B of 2B crops without replacement: both of an image's with (B - 1) / (2 (2B - 1)), neither just as often.
  const both = (B - 1) / (2 * (2 * B - 1));
  assertCounts(perImage, [both, 1 - 2 * both, both], 'masked crops of an image');
  for (const [i, hits] of maskedAt.entries()) assertShare(hits, batches, 0.5, `position ${i} masked`);
  assertCounts(largestAt, new Array<number>(2 * B).fill(1 / (2 * B)), 'position of the largest mask');
});
