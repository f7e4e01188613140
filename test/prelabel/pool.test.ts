// Candidates that are kept for learning: what comes back from the disk is what was found; the choice among them.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FeatureStore, type PrelabelImage } from '../../core/prelabel/features.ts';
import { boxIou, type BoxMask } from '../../core/prelabel/grid.ts';
import { guideMask } from '../../core/prelabel/job.ts';
import { readPool, writePool, type CandidatePool } from '../../core/prelabel/pool.ts';
import { choose, type RefinedCandidate } from '../../core/prelabel/propose.ts';
import { encodeRle } from '../../core/labels/index.ts';
import { Random } from '../../core/random.ts';
import { temporaryFolder } from '../fixtures/files.ts';

function box(x: number, y: number, width: number, height: number, keep: (dx: number, dy: number) => boolean = () => true): BoxMask {
  const data = new Uint8Array(width * height);
  for (let dy = 0; dy < height; dy++) for (let dx = 0; dx < width; dx++) data[dy * width + dx] = Number(keep(dx, dy));
  return { x, y, width, height, data, area: data.reduce((sum, v) => sum + v, 0) };
}

test('a pool comes back as it was written', async (t) => {
  const folder = temporaryFolder(t);
  const image: PrelabelImage = { id: 1, path: 'a.png', page: 0, hash: 'abc', width: 300, height: 200 };
  const store = new FeatureStore({ backbone: null, modelKey: 'run-1-step-2', cacheDir: folder, imageRoot: folder });
  assert.equal(await readPool(store, image), null);
  const random = new Random(5);
  const cue = (): number => Math.fround(random.uniform());
  const candidates = Array.from({ length: 40 }, (_, i): RefinedCandidate => {
    const [x, y] = [random.int(200), random.int(120)];
    return {
      mask: box(x, y, 3 + random.int(60), 2 + random.int(50), (dx, dy) => (dx * dx + dy) % 3 !== 0 || dx + dy < 3),
      cells: [...new Set(Array.from({ length: 1 + random.int(30) }, () => random.int(20 * 14)))].sort((a, b) => a - b),
      source: i % 3 === 0 ? 'object' : 'region',
      margin: random.uniform(),
      plain: random.chance(0.5),
      patch: {
        stability: cue(),
        homogeneity: cue(),
        contrast: cue(),
        weakest: cue(),
        share: cue(),
        border: cue(),
        fill: cue(),
        object: cue(),
        separation: cue(),
      },
      pixel: { edge: cue(), agreement: cue(), roundness: cue(), colour: cue() },
    };
  });
  const pool: CandidatePool = { width: 300, height: 200, gridWidth: 20, gridHeight: 14, candidates };
  await writePool(store, image, pool);
  assert.deepEqual(await readPool(store, image), pool);
});

test('the best comes first, repetitions go, and the rest counts for what it adds', () => {
  const whole = { mask: box(0, 0, 10, 10), score: 0.9 };
  const nearly = { mask: box(0, 0, 10, 8), score: 0.85 }; // IoU 0.8 with the whole
  const part = { mask: box(0, 0, 5, 8), score: 0.8 }; // IoU 0.4: left with 0.8 x 0.36
  const apart = { mask: box(40, 40, 6, 6), score: 0.5 };
  const faint = { mask: box(80, 0, 6, 6), score: 0.1 };
  const limits = { most: 10, sure: 10, leastScore: 0.35, maxOverlap: 0.6 };
  const chosen = choose([faint, part, nearly, apart, whole], limits);
  assert.deepEqual(
    chosen.map(({ mask }) => mask),
    [whole.mask, apart.mask, part.mask, faint.mask],
  );
  assert.ok(Math.abs(chosen[2].score - 0.8 * 0.6 ** 2) < 1e-12);
  assert.equal(choose([faint, part, nearly, apart, whole], { ...limits, most: 2 }).length, 2);
  // Past the sure number only what is still worth it.
  assert.deepEqual(
    choose([faint, part, nearly, apart, whole], { ...limits, sure: 1 }).map(({ score }) => score),
    [0.9, 0.5],
  );
});

test('a decided mask in the pixels of the guide: the nearest of its own, at any scale', () => {
  const [width, height] = [90, 70];
  const random = new Random(8);
  for (const [guideWidth, guideHeight] of [
    [90, 70],
    [45, 35],
    [31, 24],
    [120, 93],
  ]) {
    const data = new Uint8Array(width * height);
    const [cx, cy, r] = [random.uniform(10, 80), random.uniform(10, 60), random.uniform(4, 25)];
    for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) data[y * width + x] = Number(Math.hypot(x - cx, y - cy) < r);
    const guide = { width: guideWidth, height: guideHeight };
    const mask = guideMask(encodeRle({ width, height, data }), guide)!;
    const expected = box(0, 0, guideWidth, guideHeight, (x, y) => {
      const [u, v] = [Math.floor(((x + 0.5) * width) / guideWidth), Math.floor(((y + 0.5) * height) / guideHeight)];
      return data[v * width + u] === 1;
    });
    assert.equal(mask.area, expected.area);
    assert.equal(boxIou(mask, expected), 1);
  }
  const nothing = { size: [70, 90] as const, counts: encodeRle({ width, height, data: new Uint8Array(width * height) }).counts };
  assert.equal(guideMask(nothing, { width: 45, height: 35 }), null);
});
