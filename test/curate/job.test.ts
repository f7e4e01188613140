/** The curation job on files: what it finds, what it tells, how it ends when stopped or when files are bad. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { test, type TestContext } from 'node:test';
import type { CurationResult, JobEvent } from '../../core/contract/index.ts';
import { curate, picturesKey, readDescriptors, retrieve } from '../../core/curate/index.ts';
import { keepLooks } from '../../core/curate/lookPool.ts';
import { drawConveyor } from '../../core/demo/conveyor.ts';
import { encodeJpeg, encodePng, resizeRgb } from '../../core/images/index.ts';
import { sharp } from '../../core/images/sharp.ts';
import type { FeatureBackbone, PrelabelImage } from '../../core/prelabel/index.ts';
import { collect, temporaryFolder, writeFiles } from '../fixtures/files.ts';

/** Images of a folder as the host hands them out, in the order of their names. */
async function listed(folder: string): Promise<PrelabelImage[]> {
  const names = readdirSync(folder).sort();
  return Promise.all(
    names.map(async (name, i) => {
      const bytes = readFileSync(path.join(folder, name));
      const { width, height } = await sharp(bytes, { failOn: 'none' }).metadata();
      return { id: i + 1, path: name, page: 0, hash: createHash('sha256').update(bytes).digest('hex'), width, height };
    }),
  );
}

/** Eight scenes; a: the same file twice, b: the same pixels as PNG of other bytes, c: a small JPEG, and a larger original. */
async function folderOfCopies(t: TestContext): Promise<{ root: string; imageRoot: string }> {
  const root = temporaryFolder(t);
  const imageRoot = path.join(root, 'images');
  const scenes = Array.from({ length: 8 }, (_, i) => drawConveyor(9, i + 60, 320, 240).image);
  const files: Record<string, Uint8Array> = {};
  for (const [i, scene] of scenes.entries()) files[`scene-${i}.png`] = await encodePng(scene);
  files['a-again.png'] = files['scene-0.png']!;
  files['b-again.png'] = await sharp(scenes[1]!.data, { raw: { width: 320, height: 240, channels: 3 } })
    .png({ compressionLevel: 1 })
    .toBuffer();
  files['c-small.jpg'] = await encodeJpeg(await resizeRgb(scenes[2]!, 200, 150), 70);
  files['d-large.png'] = await encodePng(await resizeRgb(scenes[3]!, 640, 480));
  await writeFiles(imageRoot, files);
  return { root, imageRoot };
}

const curationOf = (events: readonly JobEvent[]): CurationResult => {
  const found = events.find((event) => event.type === 'curation');
  assert.ok(found, 'a curation event');
  return found.curation;
};

test('copies of files, of pixels and of pictures are grouped, the best one first; the rest is in clusters', async (t) => {
  const { root, imageRoot } = await folderOfCopies(t);
  const images = await listed(imageRoot);
  const cacheDir = path.join(root, 'cache');
  const events = await collect(curate({ images, imageRoot, cacheDir, network: null }));
  const curation = curationOf(events);
  const names = curation.groups.map(({ members }) =>
    members.map(({ imageId, exact }) => `${images[imageId - 1]!.path}${exact ? '' : ' near'}`),
  );
  assert.deepEqual(names.sort(), [
    ['a-again.png', 'scene-0.png'],
    ['b-again.png', 'scene-1.png'],
    ['d-large.png', 'scene-3.png near'],
    ['scene-2.png', 'c-small.jpg near'],
  ]);
  for (const { members } of curation.groups)
    for (const { similarity, exact } of members) assert.ok(exact ? similarity > 0.9999 : similarity > 0.97 && similarity <= 1);
  assert.equal(curation.features, picturesKey);
  assert.deepEqual(
    curation.images.map(({ imageId }) => imageId),
    images.map(({ id }) => id),
  );
  const clusterOf = new Map(curation.images.map(({ imageId, cluster }) => [imageId, cluster]));
  for (const { members } of curation.groups) assert.equal(new Set(members.map(({ imageId }) => clusterOf.get(imageId))).size, 1);
  curation.clusters.forEach(({ examples }, cluster) => assert.ok(examples.every((id) => clusterOf.get(id) === cluster)));
  assert.equal(
    events.at(-1)?.type === 'done' && events.at(-1)!.type === 'done' && (events.at(-1) as { summary: string }).summary,
    `4 copies in 4 groups, ${curation.clusters.length} clusters.`,
  );
  const phases = [...new Set(events.flatMap((event) => (event.type === 'progress' ? [event.phase] : [])))];
  assert.deepEqual(phases, ['Looking', 'Candidates', 'Comparing', 'Clusters']);

  // What "show similar" reads: the nearest of a copy is its original.
  const descriptors = (await readDescriptors(cacheDir, picturesKey))!;
  const rowOf = (name: string): number => {
    const image = images.find((one) => one.path === name)!;
    return descriptors.rowOf.get(`${image.hash}-0`)!;
  };
  assert.equal(retrieve(descriptors.rows, descriptors.dim, [rowOf('c-small.jpg')], 3)[0]!.index, rowOf('scene-2.png'));
  assert.equal(await readDescriptors(cacheDir, 'run-7-step-1'), null);

  // Again, from the looks kept: the same answer. A damaged look is made again.
  const look = readdirSync(path.join(cacheDir, 'looks'), { recursive: true, withFileTypes: true }).find((entry) => entry.isFile())!;
  writeFileSync(path.join(look.parentPath, look.name), 'not a look');
  assert.deepEqual(curationOf(await collect(curate({ images, imageRoot, cacheDir, network: null }))), curation);
});

test('bad files are named, each once, and the rest is compared; an empty and a hopeless folder end quietly', async (t) => {
  const { root, imageRoot } = await folderOfCopies(t);
  const good = await listed(imageRoot);
  writeFileSync(path.join(imageRoot, 'cut.png'), readFileSync(path.join(imageRoot, 'scene-0.png')).subarray(0, 900));
  const bad = (id: number, name: string, hash: string): PrelabelImage => ({ id, path: name, page: 0, hash, width: 320, height: 240 });
  const images = [bad(90, 'cut.png', 'c'.repeat(64)), bad(91, 'cut.png', 'c'.repeat(64)), ...good, bad(92, 'gone.png', 'd'.repeat(64))];
  const cacheDir = path.join(root, 'cache');
  const events = await collect(curate({ images, imageRoot, cacheDir, network: null }));
  assert.deepEqual(
    events.flatMap((event) => (event.type === 'problem' ? [[event.problem.path, event.problem.code]] : [])),
    [
      ['cut.png', 'image-unreadable'],
      ['cut.png', 'image-unreadable'],
      ['gone.png', 'image-vanished'],
    ],
  );
  const curation = curationOf(events);
  assert.deepEqual([curation.groups.length, curation.images.length], [4, good.length]);
  for (const none of [[], [bad(90, 'cut.png', 'c'.repeat(64))]]) {
    const quiet = await collect(curate({ images: none, imageRoot, cacheDir, network: null }));
    assert.equal(quiet.at(-1)!.type, 'done');
    assert.ok(!quiet.some((event) => event.type === 'curation'));
  }
  const one = curationOf(await collect(curate({ images: good.slice(0, 1), imageRoot, cacheDir, network: null })));
  assert.deepEqual([one.groups, one.clusters.length, one.images], [[], 1, [{ imageId: 1, cluster: 0 }]]);
});

test('several threads make the looks that one makes, in the order of the images', async (t) => {
  const { root, imageRoot } = await folderOfCopies(t);
  const images = (await listed(imageRoot)).filter(({ path: name }) => name !== 'a-again.png');
  images.splice(3, 0, { ...images[0]!, id: 99, path: 'gone.png', hash: 'e'.repeat(64) });
  const made = async (threads: number) => {
    const cacheDir = path.join(root, `cache-${threads}`);
    const told = await collect(keepLooks(images, { imageRoot, cacheDir }, threads));
    const files = images
      .filter(({ id }) => id !== 99)
      .map(({ hash }) => readFileSync(path.join(cacheDir, 'looks', hash.slice(0, 2), `${hash}-0.look`)));
    return { told, files };
  };
  const [one, three] = [await made(1), await made(3)];
  assert.deepEqual(three, one);
  assert.deepEqual(
    one.told.map(({ image, reply }) => [image.path, 'error' in reply ? reply.error.code : reply.made]),
    images.map(({ path: name }) => [name, name === 'gone.png' ? 'image-vanished' : true]),
  );
  assert.ok(
    (await made(3)).told.every(({ reply }) => 'error' in reply || !reply.made),
    'the second time they are there',
  );
});

test('stopped at any phase it ends without a result, and the next one goes on from the looks', async (t) => {
  const { root, imageRoot } = await folderOfCopies(t);
  const images = await listed(imageRoot);
  for (const phase of ['Looking', 'Candidates', 'Comparing', 'Clusters']) {
    const stop = new AbortController();
    const events: JobEvent[] = [];
    for await (const event of curate({ images, imageRoot, cacheDir: path.join(root, 'cache'), network: null, signal: stop.signal })) {
      events.push(event);
      if (event.type === 'progress' && event.phase === phase) stop.abort();
    }
    assert.ok(!events.some((event) => event.type === 'curation' || event.type === 'done'), phase);
  }
});

test("by a network's features: rows of its tokens, kept under its key; a network that breaks is said", async (t) => {
  const { root, imageRoot } = await folderOfCopies(t);
  const images = await listed(imageRoot);
  // Mean colour of each patch, and of the image: enough to tell scenes apart.
  const backbone = (broken: boolean): FeatureBackbone => ({
    config: { patchSize: 14, embedDim: 3 },
    async features(input, n, height, width) {
      const [gridHeight, gridWidth] = [height / 14, width / 14];
      const patches = new Float32Array(n * gridHeight * gridWidth * 3);
      const cls = new Float32Array(n * 3);
      for (let i = 0; i < n; i++)
        for (let c = 0; c < 3; c++)
          for (let y = 0; y < height; y++)
            for (let x = 0; x < width; x++) {
              const v = input[((i * 3 + c) * height + y) * width + x]!;
              patches[((i * gridHeight + Math.floor(y / 14)) * gridWidth + Math.floor(x / 14)) * 3 + c]! += v / 196;
              cls[i * 3 + c]! += v / (height * width);
            }
      if (broken) patches[0] = NaN;
      return { patches, cls, gridHeight, gridWidth };
    },
  });
  const cacheDir = path.join(root, 'cache');
  const modelKey = 'run-1-step-5';
  const events = await collect(curate({ images, imageRoot, cacheDir, network: { backbone: backbone(false), modelKey } }));
  const curation = curationOf(events);
  assert.deepEqual([curation.features, curation.groups.length, curation.images.length], [modelKey, 4, images.length]);
  const { rows, dim } = (await readDescriptors(cacheDir, modelKey))!;
  assert.deepEqual([dim, rows.length], [6, (images.length - 1) * 6], 'one row for the file that is there twice');
  for (let i = 0; i < images.length - 1; i++) assert.ok(Math.abs(Math.hypot(...rows.subarray(6 * i, 6 * i + 6)) - 1) < 2e-3);
  const broken = collect(curate({ images, imageRoot, cacheDir, network: { backbone: backbone(true), modelKey: 'run-2-step-5' } }));
  await assert.rejects(broken, (error: { code?: string }) => error.code === 'not-finite');
});
