import assert from 'node:assert/strict';
import { hash } from 'node:crypto';
import { test } from 'node:test';
import {
  cocoPolygons,
  decodeRle,
  emptyMask,
  encodeRle,
  fillRing,
  outlinePixelEdges,
  ringArea,
  rleArea,
  type Mask,
  type Ring,
} from '../../core/labels/index.ts';
import { MASK_KINDS, maskOf, randomMask, textOf } from '../fixtures/masks.ts';
import { askPython, missingPython } from '../fixtures/python.ts';
import { recorded } from './recorded.ts';

/** Even-odd rule at pixel centres, straight from its definition. */
function insideByCrossings(rings: readonly Ring[], x: number, y: number): number {
  let crossings = 0;
  for (const ring of rings) {
    ring.forEach(([x0, y0], i) => {
      const [, y1] = ring[(i + 1) % ring.length]!;
      if (x0 > x + 0.5 && Math.min(y0, y1) < y + 0.5 && Math.max(y0, y1) > y + 0.5) crossings++;
    });
  }
  return crossings % 2;
}

function filledOuterRings(mask: Mask): Mask {
  const out = emptyMask(mask.width, mask.height);
  for (const ring of outlinePixelEdges(mask)) if (ringArea(ring) > 0) assert.ok(fillRing(out, ring));
  return out;
}

test('a pixel, an L, a ring with its hole', () => {
  assert.deepEqual(outlinePixelEdges(maskOf('000/010/000')), [
    [
      [1, 1],
      [2, 1],
      [2, 2],
      [1, 2],
    ],
  ]);
  assert.deepEqual(outlinePixelEdges(maskOf('10/11')), [
    [
      [0, 0],
      [1, 0],
      [1, 1],
      [2, 1],
      [2, 2],
      [0, 2],
    ],
  ]);
  assert.deepEqual(outlinePixelEdges(maskOf('111/101/111')), [
    [
      [0, 0],
      [3, 0],
      [3, 3],
      [0, 3],
    ],
    [
      [1, 2],
      [2, 2],
      [2, 1],
      [1, 1],
    ],
  ]);
  assert.deepEqual(outlinePixelEdges(maskOf('111/101/111')).map(ringArea), [9, -1]);
  assert.deepEqual(outlinePixelEdges(emptyMask(3, 3)), []);
});

test('pixels that touch at a corner are two rings; background that does is no hole', () => {
  assert.deepEqual(outlinePixelEdges(maskOf('10/01')).map(ringArea), [1, 1]);
  // the pixel in the middle is open to the outside over the corner at the lower right
  const open = maskOf('1110/1010/1100/0000');
  assert.deepEqual(outlinePixelEdges(open).map(ringArea), [7]);
  assert.equal(textOf(filledOuterRings(open)), textOf(open));
});

test('all rings together hold exactly the mask; areas add up to its pixels', () => {
  for (let seed = 0; seed < 60; seed++) {
    const mask = randomMask(seed, 1 + (seed % 19), 1 + ((seed * 5) % 23), MASK_KINDS[seed % 4]!);
    const rings = outlinePixelEdges(mask);
    const again = Uint8Array.from(mask.data, (_, i) => insideByCrossings(rings, i % mask.width, Math.floor(i / mask.width)));
    assert.deepEqual(again, mask.data, `seed ${seed}`);
    assert.equal(
      rings.reduce((sum, ring) => sum + ringArea(ring), 0),
      rleArea(encodeRle(mask)),
    );
    for (const ring of rings) {
      // every corner is a turn: no point lies on a straight line between its neighbours, and edges alternate
      ring.forEach(([x, y], i) => {
        const [nextX, nextY] = ring[(i + 1) % ring.length]!;
        const [afterX, afterY] = ring[(i + 2) % ring.length]!;
        assert.ok((x === nextX) !== (y === nextY));
        assert.ok((x === nextX) !== (nextX === afterX) && (y === nextY) !== (nextY === afterY));
      });
    }
  }
});

test('outer rings of a mask without holes fill to the same pixels', () => {
  for (let seed = 0; seed < 40; seed++) {
    const mask = randomMask(seed, 5 + (seed % 37), 5 + ((seed * 3) % 41), 'solid');
    assert.deepEqual(filledOuterRings(mask), mask);
  }
});

test('COCO polygons: pycocotools gave back the pixels of masks without holes, and filled the holes of others as we say', () => {
  let exact = 0;
  for (const { seed, width, height, kind, counts, polygons, filled } of recorded) {
    const mask = randomMask(seed, width, height, kind);
    const made = cocoPolygons(encodeRle(mask));
    assert.equal(hash('sha256', JSON.stringify(made)).slice(0, 16), polygons, `seed ${seed}: other polygons than were recorded`);
    const hasHoles = outlinePixelEdges(mask).some((ring) => ringArea(ring) < 0);
    assert.equal(filled === counts, !hasHoles);
    assert.equal(encodeRle(filledOuterRings(mask)).counts, filled);
    if (!hasHoles) exact++;
  }
  assert.ok(exact >= 6);
});

test('pycocotools rasterises 300 outlines as we do', { skip: missingPython('pycocotools.mask', 'numpy') }, () => {
  const masks = Array.from({ length: 300 }, (_, seed) =>
    randomMask(9000 + seed, 1 + ((seed * 31) % 97), 1 + ((seed * 17) % 83), MASK_KINDS[seed % 4]!),
  ).filter((mask) => mask.data.includes(1));
  const script = `
import json, sys
from pycocotools import mask as M
json.dump([M.merge(M.frPyObjects(m['polygons'], m['height'], m['width']))['counts'].decode() for m in json.load(sys.stdin)], sys.stdout)`;
  const answers = askPython(
    script,
    masks.map((mask) => ({ width: mask.width, height: mask.height, polygons: cocoPolygons(encodeRle(mask)) })),
  );
  assert.deepEqual(
    answers,
    masks.map((mask) => encodeRle(filledOuterRings(mask)).counts),
  );
});

test('rings off the pixel edges or outside the mask are not filled', () => {
  const mask = emptyMask(4, 4);
  assert.equal(
    fillRing(mask, [
      [0, 0],
      [2, 2],
      [0, 2],
    ]),
    false,
  );
  assert.equal(
    fillRing(mask, [
      [0, 0],
      [1.5, 0],
      [1.5, 1],
      [0, 1],
    ]),
    false,
  );
  assert.equal(
    fillRing(mask, [
      [0, 0],
      [5, 0],
      [5, 1],
      [0, 1],
    ]),
    false,
  );
  assert.equal(textOf(mask), '0000/0000/0000/0000');
  assert.equal(decodeRle(encodeRle(mask)).data.length, 16);
});
