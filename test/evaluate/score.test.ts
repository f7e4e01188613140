// Scores of proposals against hand-computed numbers; objects from class masks and instances; the colour baseline on a drawn picture.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AppError } from '../../core/contract/index.ts';
import {
  bestOverlaps,
  colourPositionBaseline,
  objectsFromClasses,
  objectsFromInstances,
  rgbToLab,
  scoreProposals,
} from '../../core/evaluate/index.ts';
import { encodeRle } from '../../core/labels/index.ts';
import type { Mask } from '../../core/labels/index.ts';

/** A mask of rectangles [x, y, width, height]. */
function rectangles(width: number, height: number, boxes: readonly (readonly [number, number, number, number])[]): Mask {
  const data = new Uint8Array(width * height);
  for (const [x, y, w, h] of boxes) for (let j = y; j < y + h; j++) for (let i = x; i < x + w; i++) data[j * width + i] = 1;
  return { width, height, data };
}

test('objects of a class mask: 8-connected parts of one class over 16 pixels, ignored pixels apart', () => {
  const width = 20;
  const height = 12;
  const data = new Uint16Array(width * height);
  const paint = (x: number, y: number, w: number, h: number, value: number): void => {
    for (let j = y; j < y + h; j++) for (let i = x; i < x + w; i++) data[j * width + i] = value;
  };
  paint(0, 0, 5, 5, 1); // 25 pixels
  paint(5, 5, 4, 4, 1); // touches the first at a corner: one object of 41
  paint(9, 5, 4, 5, 2); // touches, but of another class: 20
  paint(14, 0, 4, 4, 1); // 16 pixels: too small
  paint(16, 8, 4, 4, 255); // ignored
  const objects = objectsFromClasses({ width, height, data });
  assert.deepEqual([...objects.areas], [41, 20]);
  assert.equal(objects.labels[0], 1);
  assert.equal(objects.labels[5 * width + 5], 1);
  assert.equal(objects.labels[5 * width + 9], 2);
  assert.equal(objects.labels[0 * width + 14], 0);
  assert.equal(objects.labels[9 * width + 17], -1);
});

test('instances keep their pixels, however few or scattered', () => {
  const objects = objectsFromInstances({ width: 4, height: 2, data: Uint16Array.from([0, 700, 700, 0, 3, 0, 0, 700]) });
  assert.deepEqual([...objects.areas], [3, 1]);
  assert.deepEqual([...objects.labels], [0, 1, 1, 0, 2, 0, 0, 1]);
});

test('best overlap and recall, by hand', () => {
  const width = 10;
  const height = 10;
  const data = new Uint16Array(width * height);
  for (let y = 0; y < 4; y++) for (let x = 0; x < 5; x++) data[y * width + x] = 1; // A: 20 pixels
  for (let y = 6; y < 10; y++) for (let x = 4; x < 10; x++) data[y * width + x] = 2; // B: 24 pixels
  const objects = objectsFromInstances({ width, height, data });
  const proposals = [
    rectangles(width, height, [[0, 0, 5, 2]]), // 10 in A: 10/20
    rectangles(width, height, [
      [4, 6, 4, 4],
      [0, 0, 1, 1],
    ]), // 16 in B of 17: 16/25, and 1 in A: 1/36
    rectangles(width, height, [[0, 0, 5, 4]]), // A exactly
  ];
  assert.deepEqual([...bestOverlaps(objects, proposals, 2)], [0.5, 16 / 25]);
  assert.deepEqual([...bestOverlaps(objects, proposals, 3)], [1, 16 / 25]);
  const two = scoreProposals([objects], [proposals], 2);
  assert.equal(two.bestOverlap, (0.5 + 0.64) / 2);
  assert.equal(two.recall50, 1);
  assert.equal(two.objects, 2);
  assert.equal(two.proposalsPerImage, 2);
  const one = scoreProposals([objects, objects], [proposals.slice(0, 1), []], 5);
  assert.equal(one.bestOverlap, 0.5 / 4);
  assert.equal(one.recall50, 0.25);
  assert.equal(one.proposalsPerImage, 0.5);
  // Run lengths score as their masks do.
  assert.deepEqual(scoreProposals([objects], [proposals.map(encodeRle)], 3), scoreProposals([objects], [proposals], 3));
});

test('ignored pixels count neither for nor against', () => {
  const data = new Uint16Array(100).fill(0);
  for (let i = 0; i < 40; i++) data[i] = 1;
  for (let i = 40; i < 60; i++) data[i] = 255;
  const objects = objectsFromClasses({ width: 10, height: 10, data });
  assert.deepEqual([...bestOverlaps(objects, [rectangles(10, 10, [[0, 0, 10, 6]])], 1)], [1]);
});

test('a proposal of another size is refused with both sizes', () => {
  const objects = objectsFromInstances({ width: 2, height: 2, data: Uint16Array.from([1, 1, 0, 0]) });
  assert.throws(
    () => scoreProposals([objects], [[rectangles(3, 2, [[0, 0, 1, 1]])]], 1),
    (error: unknown) =>
      error instanceof AppError && error.code === 'masks-mismatch' && /3 x 2/.test(error.message) && /2 x 2/.test(error.message),
  );
});

test('L*a*b* of known colours', () => {
  const lab = rgbToLab(Uint8Array.from([255, 255, 255, 255, 0, 0, 0, 0, 255, 119, 119, 119]));
  const expected = [100, 0, 0, 53.24, 80.09, 67.2, 32.3, 79.19, -107.86, 50.03, 0, 0]; // published sRGB/D65 values
  expected.forEach((value, i) => assert.ok(Math.abs(lab[i] - value) < 0.06, `${i}: ${lab[i]} is not ${value}`));
});

test('the colour baseline finds coloured rectangles exactly and repeats nothing', () => {
  const width = 60;
  const height = 40;
  const data = new Uint8Array(width * height * 3).fill(30);
  const boxes = [
    [5, 5, 12, 10, 220, 40, 40],
    [30, 8, 20, 14, 40, 200, 60],
    [10, 25, 9, 9, 60, 80, 240],
  ] as const;
  const truth = new Uint16Array(width * height);
  boxes.forEach(([x, y, w, h, r, g, b], k) => {
    for (let j = y; j < y + h; j++) {
      for (let i = x; i < x + w; i++) {
        data.set([r, g, b], (j * width + i) * 3);
        truth[j * width + i] = k + 1;
      }
    }
  });
  const masks = colourPositionBaseline({ width, height, data }, 10, { clusters: [4, 8], position: 0.05 });
  const score = scoreProposals([objectsFromInstances({ width, height, data: truth })], [masks], 10);
  assert.equal(score.recall50, 1);
  assert.equal(score.bestOverlap, 1);
  for (let a = 0; a < masks.length; a++) for (let b = a + 1; b < masks.length; b++) assert.notDeepEqual(masks[a].data, masks[b].data);
});
