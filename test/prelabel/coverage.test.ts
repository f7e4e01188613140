// Half-patch shifted passes: the input they see, the patches they cover, and what they are worth on known outlines.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { coverageOf, refineCandidates } from '../../core/prelabel/coverage.ts';
import { describe } from '../../core/prelabel/cues.ts';
import { unitRows, type Candidate, type FeatureView } from '../../core/prelabel/discover.ts';
import { shiftInput } from '../../core/prelabel/features.ts';
import { boxOfCells } from '../../core/prelabel/grid.ts';
import { gridShifts } from '../../core/prelabel/refine.ts';
import { Random } from '../../core/random.ts';

const gridWidth = 12;
const gridHeight = 9;
const patch = 14;
const [width, height] = [gridWidth * patch, gridHeight * patch];

test('a shifted pass sees the picture moved, its border repeated', () => {
  const random = new Random(4);
  const [h, w] = [6, 5];
  const input = Float32Array.from({ length: 3 * h * w }, () => random.normal());
  for (const [dx, dy] of [
    [0, 0],
    [2, 0],
    [0, 3],
    [2, 3],
  ]) {
    const got = shiftInput(input, h, w, dx, dy);
    for (let c = 0; c < 3; c++) {
      for (let y = 0; y < h; y++)
        for (let x = 0; x < w; x++)
          assert.equal(got[(c * h + y) * w + x], input[(c * h + Math.min(h - 1, y + dy)) * w + Math.min(w - 1, x + dx)]);
    }
  }
});

/** Pixels of a disk. */
function disk(cx: number, cy: number, r: number): Uint8Array {
  const data = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) if (Math.hypot(x + 0.5 - cx, y + 0.5 - cy) < r) data[y * width + x] = 1;
  return data;
}

/** Share of each patch of a shifted grid that a mask covers, its border repeated past the picture. */
function shares(mask: Uint8Array, shiftX: number, shiftY: number): Float32Array {
  const out = new Float32Array(gridWidth * gridHeight);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const from = Math.min(height - 1, y + shiftY * patch) * width + Math.min(width - 1, x + shiftX * patch);
      out[Math.floor(y / patch) * gridWidth + Math.floor(x / patch)] += mask[from] / patch ** 2;
    }
  }
  return out;
}

/** Standard deviation of what a network makes of a patch's share. */
const noise = 0.2;

/** Patches whose features mix two directions by about the share that the mask covers. */
function mixedView(mask: Uint8Array, passes: 1 | 4, random: Random): FeatureView {
  const dim = 8;
  const rows = gridShifts.slice(0, passes).map(([x, y]) => {
    const features = new Float32Array(gridWidth * gridHeight * dim);
    shares(mask, x, y).forEach((share, q) => {
      const seen = share + noise * random.normal();
      features[q * dim] = seen;
      features[q * dim + 1] = 1 - seen;
      for (let k = 2; k < dim; k++) features[q * dim + k] = 0.05 * random.normal();
    });
    return unitRows(features, dim);
  });
  const [unit, ...shifted] = rows;
  return { grid: { gridWidth, gridHeight, dim, unit }, c0: 0.4, shifted };
}

function candidateOf(mask: Uint8Array): Candidate {
  const cells: number[] = [];
  shares(mask, 0, 0).forEach((share, q) => {
    if (share > 0.5) cells.push(q);
  });
  return { cells, source: 'region', stability: 0.5, box: boxOfCells(cells, gridWidth, gridHeight) };
}

test('four passes place an outline better than one, where the picture itself shows none', async (t) => {
  const gray = { width, height, data: new Uint8Array(width * height * 3).fill(128) };
  const random = new Random(9);
  const means = { 1: 0, 4: 0 };
  const rounds = 40;
  for (let round = 0; round < rounds; round++) {
    const truth = disk(random.uniform(30, width - 10), random.uniform(30, height - 10), random.uniform(18, 40));
    for (const passes of [1, 4] as const) {
      const view = mixedView(truth, passes, random);
      const candidate = candidateOf(truth);
      const d = describe(view, candidate, new Uint8Array(gridWidth * gridHeight));
      const mask = (await refineCandidates(gray, [{ view, d }], 4, null))[0]!;
      let both = 0;
      for (let y = 0; y < mask.height; y++)
        for (let x = 0; x < mask.width; x++) both += mask.data[y * mask.width + x] & truth[(mask.y + y) * width + mask.x + x];
      const area = truth.reduce((sum, v) => sum + v, 0);
      means[passes] += both / (area + mask.area - both) / rounds;
    }
  }
  t.diagnostic(`mean IoU with the disk: one pass ${means[1].toFixed(3)}, four passes ${means[4].toFixed(3)}`);
  assert.ok(means[4] > means[1] + 0.02, `${means[4]} is not above ${means[1]}`);
  assert.ok(means[4] > 0.88, String(means[4]));
});

test('a patch inside a region is never taken for empty, one beside it never for full, on any grid', () => {
  const random = new Random(12);
  for (let round = 0; round < 20; round++) {
    const mask = new Uint8Array(width * height);
    for (let q = 0; q < gridWidth * gridHeight; q++) {
      if (!random.chance(0.3)) continue;
      const at = Math.floor(q / gridWidth) * patch * width + (q % gridWidth) * patch;
      for (let y = 0; y < patch; y++) mask.fill(1, at + y * width, at + y * width + patch);
    }
    const candidate = candidateOf(mask);
    // Features that say nothing: the bounds are all there is.
    const view = mixedView(mask, 4, random);
    const noise = (rows: Float32Array): Float32Array =>
      unitRows(
        Float32Array.from(rows, () => random.normal()),
        8,
      );
    const blind = { ...view, grid: { ...view.grid, unit: noise(view.grid.unit) }, shifted: view.shifted.map(noise) };
    const d = describe(blind, candidate, new Uint8Array(gridWidth * gridHeight));
    coverageOf(blind, d).forEach(({ cells, shares: got }, pass) => {
      const own = shares(mask, ...gridShifts[pass]);
      const seen = new Map(cells.map((q, i) => [q, got[i]]));
      own.forEach((share, q) => {
        assert.ok(share === 0 || seen.has(q), `pass ${pass}: patch ${q} is covered by ${share} and missing`);
        const value = seen.get(q) ?? 0;
        assert.ok(value >= 0.4 * share - 1e-6 && value <= 0.6 + 0.4 * share + 1e-6, `pass ${pass}, patch ${q}: ${value} for ${share}`);
      });
    });
  }
});
