import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Random } from '../../core/random.ts';
import {
  decodeRle,
  emptyMask,
  encodeRle,
  maskArea,
  maskBox,
  maskIou,
  rleArea,
  rleBox,
  rleFromRuns,
  rleIou,
  rleRuns,
} from '../../core/labels/index.ts';
import { MASK_KINDS, maskOf, randomMask, textOf } from '../fixtures/masks.ts';
import { askPython, missingPython } from '../fixtures/python.ts';
import { recorded } from './recorded.ts';

test('the worked example: runs, string, area, box', () => {
  const rle = encodeRle(maskOf('00000/01110/01010/01100'));
  assert.deepEqual([...rleRuns(rle)], [5, 3, 1, 1, 1, 1, 1, 2, 5]);
  assert.deepEqual(rle, { size: [4, 5], counts: '531N00014' });
  assert.equal(rleArea(rle), 7);
  assert.deepEqual(rleBox(rle), [1, 1, 3, 3]);
  assert.equal(textOf(decodeRle(rle)), '00000/01110/01010/01100');
  assert.deepEqual(encodeRle(maskOf('11/11')), { size: [2, 2], counts: '04' });
  assert.deepEqual([...rleRuns({ size: [2, 2], counts: '04' })], [0, 4]);
});

test('strings, areas and boxes that pycocotools gave', () => {
  for (const { seed, width, height, kind, counts, area, box } of recorded) {
    const mask = randomMask(seed, width, height, kind);
    const rle = encodeRle(mask);
    assert.equal(rle.counts, counts, `seed ${seed}`);
    assert.equal(rleArea(rle), area);
    assert.deepEqual(rleBox(rle), box);
    assert.deepEqual(decodeRle(rle), mask);
  }
});

test('long runs use up to six characters, with their sign', () => {
  const runs = [0, 1, 2 ** 27, 1, 5, 2 ** 27 - 7];
  const sum = runs.reduce((a, b) => a + b);
  const rle = rleFromRuns(runs, [1, sum]);
  assert.deepEqual([...rleRuns(rle)], runs);
  // 2^27 - 7 - 1: differences of either sign around the borders of 5-bit groups
  for (const difference of [15, 16, 511, 512, 2 ** 24 - 1, 2 ** 24, 2 ** 26]) {
    for (const pair of [
      [1, 1 + difference],
      [1 + difference, 1],
    ]) {
      const all = [1, 1, pair[0]!, 1, pair[1]!];
      assert.deepEqual([...rleRuns(rleFromRuns(all, [1, all.reduce((a, b) => a + b)]))], all);
    }
  }
});

test('a random mask survives, whole and cropped', () => {
  for (let seed = 0; seed < 40; seed++) {
    const random = new Random(seed, 77);
    const [width, height] = [1 + random.int(40), 1 + random.int(40)];
    const mask = randomMask(seed, width, height, MASK_KINDS[seed % 4]!);
    const rle = encodeRle(mask);
    assert.deepEqual(decodeRle(rle), mask);
    assert.equal(rleArea(rle), maskArea(mask));
    assert.deepEqual(rleBox(rle), maskBox(mask));
    const x = random.int(width);
    const y = random.int(height);
    const [w, h] = [1 + random.int(width - x), 1 + random.int(height - y)];
    const part = decodeRle(rle, [x, y, w, h]);
    assert.deepEqual([part.width, part.height], [w, h]);
    for (let i = 0; i < w * h; i++) assert.equal(part.data[i], mask.data[(y + Math.floor(i / w)) * width + x + (i % w)]);
  }
});

test('overlap of run lengths is that of the pixels', () => {
  for (let seed = 0; seed < 30; seed++) {
    const a = randomMask(seed, 23, 17, MASK_KINDS[seed % 4]!);
    const b = randomMask(seed + 1000, 23, 17, MASK_KINDS[(seed >> 2) % 4]!);
    assert.equal(rleIou(encodeRle(a), encodeRle(b)), maskIou(a, b));
  }
  assert.equal(rleIou(encodeRle(emptyMask(3, 3)), encodeRle(emptyMask(3, 3))), 0);
  assert.throws(() => rleIou(encodeRle(emptyMask(3, 2)), encodeRle(emptyMask(2, 3))), { code: 'masks-mismatch' });
});

test('strings that are no run lengths of that size are refused', () => {
  for (const counts of ['', '5', '53', '531N0001', '5 3', '5\u00e9', '531N00014P', 'oooooooo0']) {
    assert.throws(() => decodeRle({ size: [4, 5], counts }), { code: 'mask-invalid' }, JSON.stringify(counts));
  }
});

test('pycocotools agrees on 300 masks, both ways', { skip: missingPython('pycocotools.mask', 'numpy') }, () => {
  const masks = Array.from({ length: 300 }, (_, seed) =>
    randomMask(5000 + seed, 1 + ((seed * 31) % 97), 1 + ((seed * 17) % 83), MASK_KINDS[seed % 4]!),
  );
  const script = `
import json, sys, numpy as np
from pycocotools import mask as M
out = []
for m in json.load(sys.stdin):
    a = np.array(list(map(int, m['bits'])), dtype=np.uint8).reshape(m['height'], m['width'])
    e = M.encode(np.asfortranarray(a))
    same = bool((M.decode({'size': m['rle']['size'], 'counts': m['rle']['counts'].encode()}) == a).all())
    out.append({'counts': e['counts'].decode(), 'area': int(M.area(e)), 'box': [int(v) for v in M.toBbox(e)], 'same': same})
json.dump(out, sys.stdout)`;
  const answers = askPython(
    script,
    masks.map((mask) => ({ ...mask, bits: mask.data.join(''), data: undefined, rle: encodeRle(mask) })),
  );
  const ours = masks.map((mask) => {
    const rle = encodeRle(mask);
    return { counts: rle.counts, area: rleArea(rle), box: rleBox(rle), same: true };
  });
  assert.deepEqual(answers, ours);
});
