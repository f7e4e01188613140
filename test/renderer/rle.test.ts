/** The page's run-length codec against pycocotools' strings and against plain loops. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { countsFromString, countsToString, decodeRle, encodeRle, patchHas, type Patch } from '../../renderer/src/logic/rle.ts';
import { outlineRings } from '../../renderer/src/logic/outline.ts';

function random(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

function patchOf(rows: readonly string[]): Patch {
  const width = rows[0]!.length;
  return { x: 0, y: 0, width, height: rows.length, data: Uint8Array.from(rows.join(''), Number) };
}

const ring = patchOf(['00000', '01110', '01010', '01100']);

test('the mask with a hole has the counts and the string that pycocotools gives', () => {
  const rle = encodeRle(ring, 5, 4);
  assert.deepEqual(countsFromString(rle.counts), [5, 3, 1, 1, 1, 1, 1, 2, 5]);
  assert.deepEqual(rle, { size: [4, 5], counts: '531N00014' });
  const back = decodeRle(rle);
  assert.deepEqual([back.x, back.y, back.width, back.height], [1, 1, 3, 3]);
  assert.equal([...back.data].join(''), '111101110');
  assert.equal(
    back.data.reduce((a, b) => a + b),
    7,
  );
});

/** Written by pycocotools 2.0: a disk of radius 60 at (150, 90) less one of radius 20 at (140, 80), 300 x 200. */
const recorded =
  'Rea0`0c5:G8I6J6K4L4L4L4M2M4M2M4M2N2N2N2N2N2N2N2N2N2N2O0O2N2O0O2N2OnMXMd0g2YOaMd0^2ZOfMd0Y2\\OiMd0V2ZOnMd0Q2\\OQNd0n1[OTNd0k1\\OWNd0h1\\OXNd0h1[OZNd0e1\\O]Nd0b1\\O^Nd0b1[O`Nd0_1]OaNd0^1\\ObNd0^1\\ObNd0^1[OdNd0[1]OeNd0Z1\\OfNd0Z1\\OfNd0Z1\\OfNd0Z1\\OfNd0Y1]OgNd0X1\\OhNd0X1]OfNd0Z1\\OfNd0Z1\\OfNd0Z1\\OfNd0Z1]OdNd0\\1\\OdNd0\\1]ObNd0^1]O`Nd0`1\\O`Nd0`1]O^Nd0b1]O\\Nd0d1]OZNd0f1^OVNd0j1]OTNd0m1]OoMd0R2@fMd0Z2e100001N1000001N10001N10001N101N101N101N101N2N101N2N101N2N2N2N2N2N2N2N2N2N2N3L3N3L3N3L4L4L4L5J6J7H9FS`a0';

test('a recorded string of pycocotools decodes to the disk it was made of and encodes to the same characters', () => {
  const rle = { size: [200, 300], counts: recorded } as const;
  const patch = decodeRle(rle);
  assert.deepEqual([patch.x, patch.y, patch.width, patch.height], [90, 30, 120, 120]);
  assert.equal(
    patch.data.reduce((a, b) => a + b),
    10040,
  );
  for (let y = 0; y < 200; y++) {
    for (let x = 0; x < 300; x++) {
      const disk = (x + 0.5 - 150) ** 2 + (y + 0.5 - 90) ** 2 <= 3600 && (x + 0.5 - 140) ** 2 + (y + 0.5 - 80) ** 2 > 400;
      assert.equal(patchHas(patch, x, y), disk);
    }
  }
  assert.equal(encodeRle(patch, 300, 200).counts, recorded);
});

test('all ones, all zeros and a single pixel', () => {
  assert.deepEqual(encodeRle(patchOf(['11', '11']), 2, 2), { size: [2, 2], counts: '04' });
  assert.deepEqual(countsFromString('04'), [0, 4]);
  assert.deepEqual(countsFromString(encodeRle(patchOf(['00', '00']), 2, 2).counts), [4]);
  const one = encodeRle({ x: 6, y: 2, width: 1, height: 1, data: Uint8Array.of(1) }, 9, 5);
  assert.deepEqual(countsFromString(one.counts), [32, 1, 12]);
});

test('numbers above 2^15 and negative differences survive the string', () => {
  const counts = [1_000_000, 3, 999_000, 70_000, 1, 2, 40_000_000, 1, 1];
  assert.deepEqual(countsFromString(countsToString(counts)), counts);
});

test('a string that ends inside a number is refused', () => {
  assert.throws(() => countsFromString('53o'), /end inside a number/);
});

test('random masks: patch placement, decoding to a box and back equal plain loops', () => {
  const next = random(7);
  for (let round = 0; round < 60; round++) {
    const width = 1 + Math.floor(next() * 23);
    const height = 1 + Math.floor(next() * 19);
    const density = next();
    const full = Uint8Array.from({ length: width * height }, () => (next() < density ? 1 : 0));
    // Encode from a sub-rectangle; the rest counts as zeros.
    const x = Math.floor(next() * width);
    const y = Math.floor(next() * height);
    const w = 1 + Math.floor(next() * (width - x));
    const h = 1 + Math.floor(next() * (height - y));
    const inside = new Uint8Array(w * h);
    const expected = new Uint8Array(width * height);
    for (let r = 0; r < h; r++) {
      for (let c = 0; c < w; c++) {
        inside[r * w + c] = full[(y + r) * width + x + c]!;
        expected[(y + r) * width + x + c] = full[(y + r) * width + x + c]!;
      }
    }
    const rle = encodeRle({ x, y, width: w, height: h, data: inside }, width, height);
    const runs: number[] = [];
    let value = 0;
    let run = 0;
    for (let c = 0; c < width; c++) {
      for (let r = 0; r < height; r++) {
        const pixel = expected[r * width + c]!;
        if (pixel === value) run++;
        else {
          runs.push(run);
          run = 1;
          value = pixel;
        }
      }
    }
    runs.push(run);
    assert.deepEqual(countsFromString(rle.counts), runs);
    const own = decodeRle(rle);
    const whole = decodeRle(rle, [0, 0, width, height]);
    assert.deepEqual(whole.data, expected);
    for (let r = 0; r < height; r++) for (let c = 0; c < width; c++) assert.equal(patchHas(own, c, r), expected[r * width + c] === 1);
    const part = decodeRle(rle, [x, y, w, h]);
    assert.deepEqual(part.data, inside);
  }
});

test('outlines enclose exactly the mask: even-odd count of the rings at every pixel centre', () => {
  const next = random(11);
  for (let round = 0; round < 40; round++) {
    const width = 2 + Math.floor(next() * 14);
    const height = 2 + Math.floor(next() * 12);
    const data = Uint8Array.from({ length: width * height }, () => (next() < 0.55 ? 1 : 0));
    const rings = outlineRings({ x: 3, y: 2, width, height, data });
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        let crossings = 0;
        for (const points of rings) {
          for (let i = 0; i < points.length; i += 2) {
            const j = (i + 2) % points.length;
            const [x0, y0, x1, y1] = [points[i]!, points[i + 1]!, points[j]!, points[j + 1]!];
            assert.ok((x0 === x1) !== (y0 === y1), 'edges run along one axis');
            const cy = y + 2.5;
            if (x0 === x1 && x0 > x + 3.5 && Math.min(y0, y1) < cy && Math.max(y0, y1) > cy) crossings++;
          }
        }
        assert.equal(crossings % 2, data[y * width + x], `pixel ${x},${y}`);
      }
    }
  }
});

const ringArea = (points: readonly number[]): number => {
  let twice = 0;
  for (let i = 0; i < points.length; i += 2) {
    const j = (i + 2) % points.length;
    twice += points[i]! * points[j + 1]! - points[j]! * points[i + 1]!;
  }
  return twice / 2;
};

test('outlines: a hole turns the other way, pixels touching at a corner stay apart, straight runs are one edge', () => {
  const hole = outlineRings(patchOf(['111', '101', '111']));
  assert.deepEqual(hole.map(ringArea), [9, -1]);
  assert.deepEqual(hole[0], [0, 0, 3, 0, 3, 3, 0, 3]);
  assert.deepEqual(outlineRings(patchOf(['10', '01'])).map(ringArea), [1, 1]);
  // The hole of this mask touches the outside at a corner: one ring around seven pixels.
  assert.deepEqual(outlineRings(ring).map(ringArea), [7]);
});
