/** Brush strokes, polygon fill and patches against brute force. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  bitmapFromRle,
  bitmapToRle,
  contentRect,
  cutPatch,
  emptyBitmap,
  fillPolygon,
  putPatch,
  strokeSegment,
  unionRect,
} from '../../renderer/src/logic/bitmap.ts';
import type { Point } from '../../renderer/src/logic/bitmap.ts';

function random(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

/** Distance from a point to a segment, by dense sampling refined by golden-section: no projection formula shared with the code. */
function distanceToSegment(p: Point, a: Point, b: Point): number {
  let low = 0;
  let high = 1;
  const d = (t: number): number => Math.hypot(a.x + (b.x - a.x) * t - p.x, a.y + (b.y - a.y) * t - p.y);
  for (let i = 0; i < 60; i++) {
    const m1 = low + (high - low) * 0.382;
    const m2 = low + (high - low) * 0.618;
    if (d(m1) < d(m2)) high = m2;
    else low = m1;
  }
  return Math.min(d(0), d(1), d((low + high) / 2));
}

test('a stroke paints the pixels whose centre is within the radius, and nothing outside its rectangle', () => {
  const next = random(3);
  for (let round = 0; round < 60; round++) {
    const bitmap = emptyBitmap(40, 30);
    const a = { x: next() * 50 - 5, y: next() * 40 - 5 };
    const b = round % 5 === 0 ? a : { x: next() * 50 - 5, y: next() * 40 - 5 };
    const radius = 0.3 + next() * 8;
    const rect = strokeSegment(bitmap, a, b, radius, 1);
    const reach = Math.max(radius, Math.SQRT1_2);
    for (let y = 0; y < 30; y++) {
      for (let x = 0; x < 40; x++) {
        const distance = distanceToSegment({ x: x + 0.5, y: y + 0.5 }, a, b);
        if (Math.abs(distance - reach) < 1e-6) continue;
        assert.equal(bitmap.data[y * 40 + x], distance <= reach ? 1 : 0, `round ${round}, pixel ${x},${y}`);
        if (bitmap.data[y * 40 + x]) assert.ok(rect && x >= rect.left && x < rect.right && y >= rect.top && y < rect.bottom);
      }
    }
  }
});

test('the smallest brush still paints the pixel under the pointer', () => {
  const next = random(5);
  for (let round = 0; round < 50; round++) {
    const bitmap = emptyBitmap(9, 9);
    const p = { x: next() * 9, y: next() * 9 };
    strokeSegment(bitmap, p, p, 0.01, 1);
    assert.equal(bitmap.data[Math.floor(p.y) * 9 + Math.floor(p.x)], 1);
  }
});

test('erasing is painting with zero', () => {
  const bitmap = emptyBitmap(20, 20);
  bitmap.data.fill(1);
  strokeSegment(bitmap, { x: 10, y: 10 }, { x: 10, y: 10 }, 3, 0);
  const other = emptyBitmap(20, 20);
  strokeSegment(other, { x: 10, y: 10 }, { x: 10, y: 10 }, 3, 1);
  assert.deepEqual(
    bitmap.data,
    other.data.map((v) => 1 - v),
  );
});

test('polygon fill equals the winding of rays at every pixel centre', () => {
  const next = random(17);
  for (let round = 0; round < 80; round++) {
    const count = 3 + Math.floor(next() * 7);
    // Every third round on whole and half pixels: vertices on centre lines.
    const snap = round % 3 === 0;
    const coordinate = (limit: number): number => {
      const v = next() * (limit + 8) - 4;
      return snap ? Math.round(v * 2) / 2 : v;
    };
    const points = Array.from({ length: count }, () => ({ x: coordinate(32), y: coordinate(24) }));
    const bitmap = emptyBitmap(32, 24);
    fillPolygon(bitmap, points, 1);
    for (let y = 0; y < 24; y++) {
      for (let x = 0; x < 32; x++) {
        // A vertical ray, a hair off the centre: independent of the horizontal scanlines of the code.
        const px = x + 0.5 + 1e-7;
        const py = y + 0.5 + 1e-9;
        let inside = false;
        let near = false;
        for (let i = 0; i < count; i++) {
          const a = points[i]!;
          const b = points[(i + 1) % count]!;
          near ||= distanceToSegment({ x: x + 0.5, y: y + 0.5 }, a, b) < 1e-5;
          if (a.x > px !== b.x > px && py < a.y + ((px - a.x) / (b.x - a.x)) * (b.y - a.y)) inside = !inside;
        }
        if (!near) assert.equal(bitmap.data[y * 32 + x], inside ? 1 : 0, `round ${round}, pixel ${x},${y}`);
      }
    }
  }
});

test('polygons that share an edge share no pixel and leave no gap', () => {
  const a = emptyBitmap(16, 16);
  const b = emptyBitmap(16, 16);
  const corners = [
    { x: 1.5, y: 1.5 },
    { x: 14.5, y: 1.5 },
    { x: 14.5, y: 14.5 },
    { x: 1.5, y: 14.5 },
  ];
  fillPolygon(a, [corners[0]!, corners[1]!, corners[2]!], 1);
  fillPolygon(b, [corners[0]!, corners[2]!, corners[3]!], 1);
  const square = emptyBitmap(16, 16);
  fillPolygon(square, corners, 1);
  assert.deepEqual(
    a.data.map((v, i) => v + b.data[i]!),
    square.data,
  );
});

test('two points fill nothing', () => {
  assert.equal(
    fillPolygon(
      emptyBitmap(4, 4),
      [
        { x: 0, y: 0 },
        { x: 3, y: 3 },
      ],
      1,
    ),
    null,
  );
});

test('cut and put back a patch restores the bitmap; content and run lengths agree', () => {
  const bitmap = emptyBitmap(50, 40);
  const before = cutPatch(bitmap, { left: 5, top: 6, right: 30, bottom: 28 });
  const first = strokeSegment(bitmap, { x: 12, y: 14 }, { x: 20, y: 20 }, 4, 1);
  const second = strokeSegment(bitmap, { x: 24.5, y: 20.5 }, { x: 24.5, y: 20.5 }, 0.5, 1);
  const rect = contentRect(bitmap)!;
  const union = unionRect(first, second)!;
  assert.ok(rect.left >= union.left && rect.right <= union.right && rect.top >= union.top && rect.bottom <= union.bottom);
  const rle = bitmapToRle(bitmap)!;
  assert.deepEqual(bitmapFromRle(rle).data, bitmap.data);
  putPatch(bitmap, before);
  assert.equal(contentRect(bitmap), null);
  assert.equal(bitmapToRle(bitmap), null);
});
