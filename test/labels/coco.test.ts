import assert from 'node:assert/strict';
import { readFile, readdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import {
  cocoPreflight,
  encodeRle,
  emptyMask,
  maskArea,
  maskBox,
  readCoco,
  writeCoco,
  type CocoContent,
  type CocoObject,
} from '../../core/labels/index.ts';
import { MASK_KINDS, maskOf, randomMask } from '../fixtures/masks.ts';
import { smallDisk, temporaryFolder } from '../fixtures/files.ts';
import { askPython, missingPython } from '../fixtures/python.ts';

const images = [
  { id: 1, path: 'a/leaf.jpg', page: 0, width: 5, height: 4 },
  { id: 2, path: 'b\\blatt "ü".jpg', page: 0, width: 6, height: 4 },
  { id: 5, path: 'stack.tif', page: 0, width: 5, height: 4 },
  { id: 6, path: 'stack.tif', page: 1, width: 5, height: 4 },
];
const categories = [
  { id: 2, name: 'leaf' },
  { id: 7, name: 'spot, "brown"' },
];
const holed = encodeRle(maskOf('00000/01110/01010/01110'));
const solid = encodeRle(maskOf('110000/110000/000011/000001'));
const objects: CocoObject[] = [
  {
    imageId: 1,
    categoryId: 7,
    rle: holed,
    score: 0.875,
    attributes: { origin: 'accepted', reviewer: 'Ada', seconds: 1.5, model: 'run-1/400' },
  },
  { imageId: 2, categoryId: 2, rle: solid, attributes: { origin: 'drawn' } },
  { imageId: 2, categoryId: 2, rle: encodeRle(emptyMask(6, 4)) },
];
const content = (segmentation: CocoContent['segmentation']): CocoContent => ({
  images,
  categories,
  objects,
  segmentation,
  createdAt: '2026-01-02T03:04:05.000Z',
});

test('run lengths: every field as the format says', async (t) => {
  const folder = temporaryFolder(t);
  const file = path.join(folder, 'instances.json');
  const written = await writeCoco(file, content('rle'));
  const text = await readFile(file, 'utf8');
  assert.deepEqual(written, { images: 4, objects: 2, empty: 1, bytes: Buffer.byteLength(text) });
  assert.deepEqual(await readdir(folder), ['instances.json']);
  assert.deepEqual(JSON.parse(text), {
    info: {
      description: 'Exported by Patchwise',
      version: '1.0',
      year: 2026,
      contributor: '',
      url: '',
      date_created: '2026-01-02T03:04:05.000Z',
    },
    licenses: [],
    images: [
      { id: 1, file_name: 'a/leaf.jpg', width: 5, height: 4 },
      { id: 2, file_name: 'b/blatt "ü".jpg', width: 6, height: 4 },
      { id: 5, file_name: 'stack.tif', width: 5, height: 4 },
      { id: 6, file_name: 'stack.tif#page=1', width: 5, height: 4, page: 1 },
    ],
    categories: [
      { id: 2, name: 'leaf', supercategory: '' },
      { id: 7, name: 'spot, "brown"', supercategory: '' },
    ],
    annotations: [
      {
        id: 1,
        image_id: 1,
        category_id: 7,
        segmentation: { size: [4, 5], counts: holed.counts },
        area: 8,
        bbox: [1, 1, 3, 3],
        iscrowd: 0,
        score: 0.875,
        attributes: { origin: 'accepted', reviewer: 'Ada', seconds: 1.5, model: 'run-1/400' },
      },
      {
        id: 2,
        image_id: 2,
        category_id: 2,
        segmentation: { size: [4, 6], counts: solid.counts },
        area: 7,
        bbox: [0, 0, 6, 4],
        iscrowd: 0,
        attributes: { origin: 'drawn' },
      },
    ],
  });
});

test('polygons: outer rings, areas of the masks', async (t) => {
  const file = path.join(temporaryFolder(t), 'instances.json');
  await writeCoco(file, content('polygons'));
  const { annotations } = JSON.parse(await readFile(file, 'utf8'));
  assert.deepEqual(annotations[0].segmentation, [[1, 1, 4, 1, 4, 4, 1, 4]]);
  assert.equal(annotations[0].area, 8);
  assert.deepEqual(annotations[1].segmentation, [
    [0, 0, 2, 0, 2, 2, 0, 2],
    [4, 2, 6, 2, 6, 4, 5, 4, 5, 3, 4, 3],
  ]);
});

test('read back: the same pixels from run lengths, holes filled from polygons', async (t) => {
  const folder = temporaryFolder(t);
  for (const segmentation of ['rle', 'polygons'] as const) {
    const file = path.join(folder, `${segmentation}.json`);
    await writeCoco(file, content(segmentation));
    const back = await readCoco(file);
    assert.deepEqual(back.images[3], { id: 6, fileName: 'stack.tif#page=1', width: 5, height: 4, page: 1 });
    assert.deepEqual(back.categories, categories);
    assert.deepEqual(back.objects[0]!.rle, segmentation === 'rle' ? holed : encodeRle(maskOf('00000/01110/01110/01110')));
    assert.deepEqual(back.objects[1]!.rle, solid);
    assert.deepEqual(back.objects[0]!.attributes, objects[0]!.attributes);
  }
});

test('uncompressed run lengths are read, foreign polygons and broken files refused', async (t) => {
  const folder = temporaryFolder(t);
  const file = path.join(folder, 'x.json');
  const with_ = async (segmentation: unknown): Promise<void> =>
    writeFile(
      file,
      JSON.stringify({
        images: [{ id: 1, file_name: 'a.jpg', width: 5, height: 4 }],
        categories: [],
        annotations: [{ id: 1, image_id: 1, category_id: 1, segmentation, area: 7, bbox: [1, 1, 3, 3] }],
      }),
    );
  await with_({ size: [4, 5], counts: [5, 3, 1, 1, 1, 1, 1, 2, 5] });
  assert.equal((await readCoco(file)).objects[0]!.rle.counts, '531N00014');
  await with_([[0, 0, 3, 1, 2, 3]]);
  await assert.rejects(readCoco(file), { code: 'bad-input' });
  await with_({ size: [4, 5], counts: '53' });
  await assert.rejects(readCoco(file), { code: 'mask-invalid' });
  await writeFile(file, '{"images":[');
  await assert.rejects(readCoco(file), { code: 'bad-input' });
});

test('objects that do not fit the images are refused, and no file is left', async (t) => {
  const folder = temporaryFolder(t);
  const file = path.join(folder, 'instances.json');
  for (const wrong of [
    { imageId: 1, categoryId: 7, rle: solid },
    { imageId: 9, categoryId: 7, rle: solid },
    { imageId: 2, categoryId: 1, rle: solid },
  ]) {
    await assert.rejects(writeCoco(file, { ...content('rle'), objects: [wrong] }), { code: 'mask-invalid' });
    assert.deepEqual(await readdir(folder), []);
  }
});

test('a failure in the middle leaves the earlier file as it was', async (t) => {
  const folder = temporaryFolder(t);
  const file = path.join(folder, 'instances.json');
  await writeCoco(file, content('rle'));
  const before = await readFile(file, 'utf8');
  async function* failing(): AsyncGenerator<CocoObject> {
    yield objects[0]!;
    throw new Error('the database went away');
  }
  await assert.rejects(writeCoco(file, { ...content('rle'), objects: failing() }), /database went away/);
  assert.equal(await readFile(file, 'utf8'), before);
  assert.deepEqual(await readdir(folder), ['instances.json']);
});

test('a full disk and a read-only one: the system says so, nothing is left behind, the earlier file stays', async (t) => {
  const full = smallDisk(t, 64);
  const readOnly = smallDisk(t, 64, true);
  if (full === null || readOnly === null) return t.skip('mounting a small disk is not allowed here');
  const file = path.join(full, 'instances.json');
  await writeCoco(file, content('rle'));
  const before = await readFile(file, 'utf8');
  const rle = encodeRle(randomMask(1, 6, 4, 'noise'));
  await assert.rejects(
    writeCoco(file, { ...content('rle'), objects: Array.from({ length: 5000 }, () => ({ imageId: 2, categoryId: 2, rle })) }),
    { code: 'ENOSPC' },
  );
  assert.equal(await readFile(file, 'utf8'), before);
  assert.deepEqual(await readdir(full), ['instances.json']);
  await assert.rejects(writeCoco(path.join(readOnly, 'instances.json'), content('rle')), { code: 'EROFS' });
});

test('large exports are streamed in pieces and stay valid', async (t) => {
  const file = path.join(temporaryFolder(t), 'instances.json');
  const mask = encodeRle(randomMask(1, 60, 60, 'noise'));
  async function* many(): AsyncGenerator<CocoObject> {
    for (let i = 0; i < 1500; i++) yield { imageId: 1, categoryId: 2, rle: mask, score: i / 1500 };
  }
  const written = await writeCoco(file, {
    images: [{ id: 1, path: 'ä.png', page: 0, width: 60, height: 60 }],
    categories,
    objects: many(),
    segmentation: 'rle',
  });
  assert.ok(written.bytes > 1.5 * 2 ** 20);
  const { annotations } = JSON.parse(await readFile(file, 'utf8'));
  assert.deepEqual(
    annotations.map((annotation: { id: number }) => annotation.id),
    Array.from({ length: 1500 }, (_, i) => i + 1),
  );
});

test('what polygons would lose is told in words', async () => {
  const masks = [holed, holed, solid, encodeRle(emptyMask(2, 2)), encodeRle(maskOf('1'))];
  assert.deepEqual(await cocoPreflight(masks, 'polygons'), {
    objects: 5,
    empty: 1,
    withHoles: 2,
    severalParts: 1,
    warnings: [
      '2 objects have holes; COCO polygons fill them.',
      '1 object has several parts; it becomes several polygons of one annotation.',
      '1 object has no pixel and is left out.',
    ],
  });
  assert.deepEqual((await cocoPreflight(masks, 'rle')).warnings, ['1 object has no pixel and is left out.']);
  assert.deepEqual((await cocoPreflight([solid], 'rle')).warnings, []);
});

test('pycocotools reads both kinds of file', { skip: missingPython('pycocotools.coco', 'numpy') }, async (t) => {
  const folder = temporaryFolder(t);
  const masks = Array.from({ length: 40 }, (_, seed) =>
    randomMask(seed, 30 + seed, 50, seed % 2 ? 'solid' : MASK_KINDS[(seed >> 1) % 4]!),
  ).filter((mask) => mask.data.includes(1));
  for (const segmentation of ['rle', 'polygons'] as const) {
    const shown = segmentation === 'rle' ? masks : masks.filter((_, i) => i % 2 === 1);
    const file = path.join(folder, `${segmentation}.json`);
    await writeCoco(file, {
      images: shown.map(({ width, height }, i) => ({ id: i + 1, path: `${i}.png`, page: 0, width, height })),
      categories,
      objects: shown.map((mask, i) => ({ imageId: i + 1, categoryId: 2, rle: encodeRle(mask) })),
      segmentation,
    });
    const script = `
import json, sys, contextlib
from pycocotools.coco import COCO
with contextlib.redirect_stdout(sys.stderr):
    coco = COCO(json.load(sys.stdin))
json.dump([{'bits': ''.join(map(str, coco.annToMask(a).flatten())), 'area': a['area'], 'box': a['bbox']} for a in coco.loadAnns(coco.getAnnIds())], sys.stdout)`;
    const answers = askPython(script, file);
    assert.deepEqual(
      answers,
      shown.map((mask) => ({ bits: mask.data.join(''), area: maskArea(mask), box: maskBox(mask) })),
    );
  }
});
