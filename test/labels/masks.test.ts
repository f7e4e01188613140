import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  componentMask,
  connectedComponents,
  countHoles,
  emptyMask,
  fillHoles,
  intersectMask,
  maskArea,
  maskBox,
  maskIou,
  removeSmall,
  subtractMask,
  unionMask,
  type Connectivity,
  type Mask,
} from '../../core/labels/index.ts';
import { MASK_KINDS, maskOf, randomMask, textOf } from '../fixtures/masks.ts';

/** Flood fill from each pixel in turn: slow and plain. */
function floodLabels({ width, height, data }: Mask, connectivity: Connectivity): Int32Array {
  const labels = new Int32Array(data.length);
  let count = 0;
  for (let start = 0; start < data.length; start++) {
    if (data[start] === 0 || labels[start] !== 0) continue;
    labels[start] = ++count;
    const open = [start];
    for (let i = open.pop(); i !== undefined; i = open.pop()) {
      const [x, y] = [i % width, Math.floor(i / width)];
      for (let dy = -1; dy <= 1; dy++) {
        for (let dx = -1; dx <= 1; dx++) {
          const [nx, ny] = [x + dx, y + dy];
          if (nx < 0 || ny < 0 || nx >= width || ny >= height || (connectivity === 4 && dx !== 0 && dy !== 0)) continue;
          const n = ny * width + nx;
          if (data[n] === 1 && labels[n] === 0) {
            labels[n] = count;
            open.push(n);
          }
        }
      }
    }
  }
  return labels;
}

test('parts are those of a flood fill, in the order of their first pixel', () => {
  for (let seed = 0; seed < 60; seed++) {
    const mask = randomMask(seed, 1 + (seed % 23), 1 + ((seed * 7) % 31), MASK_KINDS[seed % 4]!);
    for (const connectivity of [4, 8] as const) {
      const parts = connectedComponents(mask, connectivity);
      const expected = floodLabels(mask, connectivity);
      assert.deepEqual(parts.labels, expected, `seed ${seed}, ${connectivity}`);
      assert.equal(parts.count, Math.max(0, ...expected));
      for (let part = 1; part <= parts.count; part++) {
        const one = componentMask(parts, part);
        assert.deepEqual(
          one.data,
          Uint8Array.from(expected, (label) => (label === part ? 1 : 0)),
        );
        assert.equal(parts.areas[part - 1], maskArea(one));
        assert.deepEqual(parts.boxes[part - 1], maskBox(one));
      }
    }
  }
});

test('diagonal pixels are one part of 8-connectivity and two of 4-connectivity', () => {
  const mask = maskOf('10/01');
  assert.equal(connectedComponents(mask, 8).count, 1);
  assert.equal(connectedComponents(mask, 4).count, 2);
});

test('boxes', () => {
  assert.deepEqual(maskBox(maskOf('00000/01110/01010/01100')), [1, 1, 3, 3]);
  assert.deepEqual(maskBox(emptyMask(3, 2)), [0, 0, 0, 0]);
  assert.deepEqual(maskBox(maskOf('00/00/01')), [1, 2, 1, 1]);
  assert.deepEqual(maskBox(maskOf('111/111')), [0, 0, 3, 2]);
  assert.deepEqual(maskBox(maskOf('0010/0000/1000')), [0, 0, 3, 3]);
});

test('holes: filled up to a size; a way out over an edge is no hole, one over a corner only is', () => {
  const ring = '11111/10001/10101/10001/11111';
  assert.equal(countHoles(maskOf(ring)), 1);
  assert.equal(textOf(fillHoles(maskOf(ring))), '11111/11111/11111/11111/11111');
  assert.equal(textOf(fillHoles(maskOf(ring), 7)), ring);
  assert.equal(textOf(fillHoles(maskOf(ring), 8)), '11111/11111/11111/11111/11111');
  assert.equal(countHoles(maskOf('111/101/101')), 0);
  assert.equal(countHoles(maskOf('1111/1011/1101/1110')), 2);
});

test('small parts go, others stay', () => {
  const mask = maskOf('11000/11001/00000/10000/01000');
  assert.equal(textOf(removeSmall(mask, 2)), '11000/11000/00000/10000/01000');
  assert.equal(textOf(removeSmall(mask, 2, 4)), '11000/11000/00000/00000/00000');
  assert.equal(textOf(removeSmall(mask, 5)), '00000/00000/00000/00000/00000');
});

test('overlap, union, intersection, difference', () => {
  const a = maskOf('110/110');
  const b = maskOf('011/011');
  assert.equal(maskIou(a, b), 2 / 6);
  assert.equal(maskIou(emptyMask(2, 2), emptyMask(2, 2)), 0);
  assert.equal(textOf(unionMask(a, b)), '111/111');
  assert.equal(textOf(intersectMask(a, b)), '010/010');
  assert.equal(textOf(subtractMask(a, b)), '100/100');
  assert.throws(() => maskIou(a, emptyMask(2, 3)), { code: 'masks-mismatch', message: 'A mask of 3 x 2 meets one of 2 x 3 pixels.' });
});
