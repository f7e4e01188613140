// Edges: joint bilateral upsampling against naive loops, masks between resolutions, run lengths, splits into instances.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodeRle, encodeRle } from '../../core/labels/index.ts';
import { boxIou, boxOfCells, boxRle, trimBox } from '../../core/prelabel/grid.ts';
import { solidity, splitInstances, squaredDistance } from '../../core/prelabel/instances.ts';
import { enlargeMask } from '../../core/prelabel/enlarge.ts';
import { bilinear, JointUpsampler, patchColours, pixelBox, threshold } from '../../core/prelabel/refine.ts';
import { Random } from '../../core/random.ts';
import { randomMask } from '../fixtures/masks.ts';

function picture(seed: number, width: number, height: number) {
  const random = new Random(seed);
  return { width, height, data: Uint8Array.from({ length: width * height * 3 }, () => random.int(256)) };
}

/** Kopf's formula as written, over every patch within one step of the nearest, of all grids. */
function naive(
  image: ReturnType<typeof picture>,
  grids: readonly { gridWidth: number; gridHeight: number; shiftX: number; shiftY: number }[],
  maps: readonly Float32Array[],
  sigmaSpace: number,
  sigmaRange: number,
): number[] {
  const out: number[] = [];
  const means = grids.map((g) => patchColours(image, g));
  for (let y = 0; y < image.height; y++) {
    for (let x = 0; x < image.width; x++) {
      let sum = 0;
      let total = 0;
      grids.forEach((g, index) => {
        const u = ((x + 0.5) * g.gridWidth) / image.width - 0.5 - g.shiftX;
        const v = ((y + 0.5) * g.gridHeight) / image.height - 0.5 - g.shiftY;
        for (let row = Math.round(v) - 1; row <= Math.round(v) + 1; row++) {
          for (let column = Math.round(u) - 1; column <= Math.round(u) + 1; column++) {
            if (row < 0 || column < 0 || row >= g.gridHeight || column >= g.gridWidth) continue;
            const q = row * g.gridWidth + column;
            let colour = 0;
            for (let c = 0; c < 3; c++) colour += (image.data[(y * image.width + x) * 3 + c] / 255 - means[index][q * 3 + c]) ** 2;
            const near = Math.exp(-((u - column) ** 2 + (v - row) ** 2) / (2 * sigmaSpace ** 2));
            const w = near * (Math.exp(-colour / (2 * sigmaRange ** 2)) + 1e-6);
            sum += w * maps[index][q];
            total += w;
          }
        }
      });
      out.push(sum / total);
    }
  }
  return out;
}

test('joint bilateral upsampling is Kopf’s formula, with one grid and with shifted ones', () => {
  const image = picture(1, 37, 29);
  const random = new Random(2);
  const one = [{ gridWidth: 6, gridHeight: 5, shiftX: 0, shiftY: 0 }];
  const four = [one[0], { ...one[0], shiftX: 0.5 }, { ...one[0], shiftY: 0.5 }, { ...one[0], shiftX: 0.5, shiftY: 0.5 }];
  for (const grids of [one, four]) {
    const maps = grids.map(() => Float32Array.from({ length: 30 }, () => random.uniform()));
    for (const sigmaRange of [0.1, 0.3]) {
      const got = new JointUpsampler(image, grids, { sigmaSpace: 0.6, sigmaRange }).upsample(maps);
      const expected = naive(image, grids, maps, 0.6, sigmaRange);
      // Range weights come from a table of 1,024 steps.
      expected.forEach((v, i) => assert.ok(Math.abs(got[i] - v) < 0.03, `${grids.length} grids, pixel ${i}: ${got[i]} is not ${v}`));
    }
  }
});

test('a box of the map equals that part of the whole, and equal neighbours give their value', () => {
  const image = picture(3, 50, 40);
  const grid = { gridWidth: 10, gridHeight: 8, shiftX: 0, shiftY: 0 };
  const upsampler = new JointUpsampler(image, [grid]);
  const map = Float32Array.from({ length: 80 }, (_, i) => (i % 10 > 4 && i > 30 ? 0.75 : 0));
  const whole = upsampler.upsample([map]);
  const box = pixelBox(image, grid, 4, 3, 7, 6);
  const part = upsampler.upsample([map], box);
  for (let y = 0; y < box.height; y++)
    for (let x = 0; x < box.width; x++) assert.equal(part[y * box.width + x], whole[(box.y + y) * 50 + box.x + x]);
  assert.equal(whole[39 * 50 + 49], 0.75);
  assert.equal(whole[0], 0);
});

test('the edge follows the picture: a step inside a patch is found to the pixel', () => {
  const width = 70;
  const height = 42;
  const data = new Uint8Array(width * height * 3);
  for (let i = 0; i < width * height; i++) data.fill(i % width < 38 ? 60 : 200, i * 3, i * 3 + 3); // patches are 14 wide: the step lies in the third
  const map = Float32Array.from({ length: 15 }, (_, q) => [1, 1, 0.71, 0, 0][q % 5]);
  const upsampler = new JointUpsampler({ width, height, data }, [{ gridWidth: 5, gridHeight: 3, shiftX: 0, shiftY: 0 }]);
  const whole = { x: 0, y: 0, width, height };
  const sharp = threshold(upsampler.upsample([map]), whole);
  const plain = threshold(bilinear(map, { gridWidth: 5, gridHeight: 3, shiftX: 0, shiftY: 0 }, width, height, whole), whole);
  const edge = (mask: { data: Uint8Array }): number => mask.data.subarray(20 * width, 21 * width).reduce((a, b) => a + b, 0);
  assert.equal(edge(sharp), 38);
  assert.notEqual(edge(plain), 38);
});

test('patch colours are area means', () => {
  const image = picture(5, 12, 8);
  const colours = patchColours(image, { gridWidth: 3, gridHeight: 2, shiftX: 0, shiftY: 0 });
  let sum = 0;
  for (let y = 4; y < 8; y++) for (let x = 4; x < 8; x++) sum += image.data[(y * 12 + x) * 3 + 1];
  assert.ok(Math.abs(colours[4 * 3 + 1] - sum / 16 / 255) < 1e-6);
  // More patches than pixels: each takes the pixel under its centre.
  const fine = patchColours(image, { gridWidth: 24, gridHeight: 16, shiftX: 0, shiftY: 0 });
  assert.ok(Math.abs(fine[(5 * 24 + 7) * 3] - image.data[(2 * 12 + 3) * 3] / 255) < 1e-6);
});

test('a box mask has the run lengths of the mask drawn whole', () => {
  for (const kind of ['noise', 'disks', 'lines', 'solid'] as const) {
    for (let seed = 0; seed < 6; seed++) {
      const mask = randomMask(seed, 13, 9, kind);
      const width = 13 + seed * 2;
      const height = 9 + (seed % 3);
      const x = seed;
      const y = seed % 3;
      const whole = { width, height, data: new Uint8Array(width * height) };
      for (let j = 0; j < 9; j++) whole.data.set(mask.data.subarray(j * 13, (j + 1) * 13), (y + j) * width + x);
      assert.deepEqual(boxRle({ x, y, ...mask, area: 0 }, width, height), encodeRle(whole), `${kind} ${seed}`);
    }
  }
});

test('trimming, boxes of cells and overlap', () => {
  const mask = boxOfCells([11, 12, 22], 10, 5, 1);
  assert.deepEqual([mask.x, mask.y, mask.width, mask.height, mask.area], [0, 0, 4, 4, 3]);
  const trimmed = trimBox(mask)!;
  assert.deepEqual([trimmed.x, trimmed.y, trimmed.width, trimmed.height, [...trimmed.data]], [1, 1, 2, 2, [1, 1, 0, 1]]);
  assert.equal(boxIou(mask, trimmed), 1);
  assert.equal(boxIou(trimmed, boxOfCells([12, 13], 10, 5)), 1 / 4);
  assert.equal(trimBox({ ...mask, data: new Uint8Array(16) }), null);
});

test('a mask brought to full resolution keeps a disk round and a border closed', () => {
  const small = { width: 50, height: 40 };
  const disk = new Uint8Array(small.width * small.height);
  for (let y = 0; y < 40; y++) for (let x = 0; x < 50; x++) if ((x - 20) ** 2 + (y - 20) ** 2 <= 144) disk[y * 50 + x] = 1;
  const full = enlargeMask(trimBox({ x: 0, y: 0, ...small, data: disk, area: 0 })!, 50, 40, 200, 160);
  let wrong = 0;
  let blocky = 0;
  const { data } = decodeRle(boxRle(full, 200, 160));
  for (let y = 0; y < 160; y++) {
    for (let x = 0; x < 200; x++) {
      const truth = Math.hypot((x + 0.5) / 4 - 20.5, (y + 0.5) / 4 - 20.5) <= 12.1 ? 1 : 0;
      if (truth !== data[y * 200 + x]) wrong++;
      if (truth !== disk[Math.floor(y / 4) * 50 + Math.floor(x / 4)]) blocky++;
    }
  }
  assert.ok(wrong < 0.05 * full.area && wrong < 0.9 * blocky, `${wrong} of ${full.area} pixels, ${blocky} with whole blocks`);
  const all = enlargeMask({ x: 0, y: 0, ...small, data: new Uint8Array(2000).fill(1), area: 2000 }, 50, 40, 133, 97);
  assert.equal(all.area, 133 * 97);
});

test('squared distances agree with a search over all pixels', () => {
  const mask = randomMask(4, 17, 12, 'disks');
  const got = squaredDistance(mask.data, 17, 12);
  for (let i = 0; i < got.length; i++) {
    let best = mask.data[i] === 0 ? 0 : Infinity;
    for (let y = -1; y <= 12; y++) {
      for (let x = -1; x <= 17; x++) {
        const set = x >= 0 && y >= 0 && x < 17 && y < 12 && mask.data[y * 17 + x] === 1;
        if (!set) best = Math.min(best, (x - (i % 17)) ** 2 + (y - Math.floor(i / 17)) ** 2);
      }
    }
    assert.equal(got[i], best);
  }
});

test('two touching disks are split where they touch; one disk and a bar are not', () => {
  const width = 60;
  const draw = (inside: (x: number, y: number) => boolean) => {
    const data = new Uint8Array(width * 30);
    for (let i = 0; i < data.length; i++) if (inside(i % width, Math.floor(i / width))) data[i] = 1;
    return trimBox({ x: 0, y: 0, width, height: 30, data, area: 0 })!;
  };
  const options = { depth: 0.15, minArea: 40, gain: 0.05 };
  const pair = draw((x, y) => Math.hypot(x - 16, y - 14) <= 11 || Math.hypot(x - 35, y - 14) <= 11);
  const parts = splitInstances(pair, options);
  assert.equal(parts.length, 2);
  assert.equal(parts[0].area + parts[1].area, pair.area);
  const [left, right] = [...parts].sort((a, b) => a.x - b.x);
  assert.ok(left.x + left.width <= 27 && right.x >= 25 && boxIou(left, right) === 0);
  assert.equal(
    splitInstances(
      draw((x, y) => Math.hypot(x - 16, y - 14) <= 11),
      options,
    ).length,
    1,
  );
  assert.equal(
    splitInstances(
      draw((x, y) => x > 4 && x < 55 && y > 8 && y < 15),
      options,
    ).length,
    1,
  );
  assert.equal(splitInstances(pair, { ...options, minArea: 400 }).length, 1);
  assert.equal(solidity(draw((x, y) => x >= 3 && x < 13 && y >= 4 && y < 9)), 1);
});
