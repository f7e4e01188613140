// The two jobs on real files with a hand-made network (mean colour and spread of each patch), and the feature cache.
import assert from 'node:assert/strict';
import { readdir, readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import type { TestContext } from 'node:test';
import { AppError } from '../../core/contract/index.ts';
import type { JobEvent, ProposalDraft } from '../../core/contract/index.ts';
import { colourPositionBaseline, objectsFromInstances, scoreProposals } from '../../core/evaluate/index.ts';
import type { ImageObjects } from '../../core/evaluate/index.ts';
import { readLabels, readRgb, writePng } from '../../core/images/index.ts';
import type { RgbImage } from '../../core/images/index.ts';
import { encodeRle, rleArea, rleBox } from '../../core/labels/index.ts';
import { roundToHalf } from '../../core/prelabel/cachefile.ts';
import { repairOutliers } from '../../core/prelabel/featureFile.ts';
import { featureDefaults, FeatureStore, inputSize, shiftInput } from '../../core/prelabel/features.ts';
import { normalizeImage } from '../../core/dinov2/index.ts';
import { learn, prelabel } from '../../core/prelabel/index.ts';
import type { FeatureBackbone, PrelabelImage } from '../../core/prelabel/index.ts';
import { findRegions } from '../../core/prelabel/regionPool.ts';
import type { RegionSettings } from '../../core/prelabel/regions.ts';
import { Random } from '../../core/random.ts';
import { collect, temporaryFolder } from '../fixtures/files.ts';

/** A network of no layers: mean and spread of each channel in the patch, lifted to 24 cosines; counts its passes. */
function handMade(): FeatureBackbone & { passes: number } {
  const dim = 24;
  const random = new Random(77);
  const lift = Float32Array.from({ length: dim * 6 }, () => random.normal());
  const offset = Float32Array.from({ length: dim }, () => random.uniform(0, 2 * Math.PI));
  return {
    passes: 0,
    config: { patchSize: 14, embedDim: dim },
    features(images, n, height, width) {
      this.passes++;
      const gridHeight = height / 14;
      const gridWidth = width / 14;
      const patches = new Float32Array(n * gridHeight * gridWidth * dim);
      for (let i = 0; i < n; i++) {
        for (let gy = 0; gy < gridHeight; gy++) {
          for (let gx = 0; gx < gridWidth; gx++) {
            const simple = new Float32Array(6);
            for (let c = 0; c < 3; c++) {
              let sum = 0;
              let square = 0;
              for (let y = 0; y < 14; y++) {
                for (let x = 0; x < 14; x++) {
                  const v = images[((i * 3 + c) * height + gy * 14 + y) * width + gx * 14 + x];
                  sum += v;
                  square += v * v;
                }
              }
              simple[c] = sum / 196;
              simple[3 + c] = Math.sqrt(Math.max(0, square / 196 - (sum / 196) ** 2));
            }
            const to = ((i * gridHeight + gy) * gridWidth + gx) * dim;
            for (let k = 0; k < dim; k++) patches[to + k] = Math.cos(simple.reduce((s, v, j) => s + 0.8 * v * lift[k * 6 + j], offset[k]));
          }
        }
      }
      return Promise.resolve({ patches, cls: new Float32Array(n * dim), gridHeight, gridWidth });
    },
  };
}

/** A picture of red disks and blue squares on textured gray, and its truth. */
function scene(seed: number, width = 224, height = 168): { image: RgbImage; truth: Uint16Array; kinds: number[] } {
  const random = new Random(seed);
  const data = new Uint8Array(width * height * 3);
  for (let i = 0; i < width * height; i++) data.fill(120 + random.int(25), i * 3, i * 3 + 3);
  const truth = new Uint16Array(width * height);
  const kinds: number[] = [];
  for (let place = 0; place < 6; place++) {
    if (place > 1 && random.chance(0.3)) continue;
    const kind = place % 2;
    const cx = 36 + (place % 3) * 74 + random.int(9);
    const cy = 42 + Math.floor(place / 3) * 82 + random.int(9);
    const r = 13 + random.int(10);
    kinds.push(kind);
    for (let y = cy - r; y <= cy + r; y++) {
      for (let x = cx - r; x <= cx + r; x++) {
        if (kind === 0 && Math.hypot(x - cx, y - cy) > r) continue;
        const shade = random.int(20);
        data.set(kind === 0 ? [205 + shade, 40 + shade, 45] : [35, 60 + shade, 200 + shade], (y * width + x) * 3);
        truth[y * width + x] = kinds.length;
      }
    }
  }
  return { image: { width, height, data }, truth, kinds };
}

interface Set {
  readonly root: string;
  readonly cacheDir: string;
  readonly images: PrelabelImage[];
  readonly objects: ImageObjects[];
  readonly scenes: ReturnType<typeof scene>[];
}

async function makeSet(t: TestContext, count: number): Promise<Set> {
  const root = temporaryFolder(t);
  const scenes = Array.from({ length: count }, (_, i) => scene(i + 1));
  const images: PrelabelImage[] = [];
  for (const [i, { image }] of scenes.entries()) {
    await writePng(path.join(root, `${i}.png`), image);
    images.push({ id: i + 10, path: `${i}.png`, page: 0, hash: `hash${i}`, width: image.width, height: image.height });
  }
  const objects = scenes.map(({ image: { width, height }, truth, kinds }) => {
    const areas = new Int32Array(kinds.length);
    for (const v of truth) if (v > 0) areas[v - 1]++;
    return { width, height, labels: Int32Array.from(truth), areas };
  });
  return { root, cacheDir: temporaryFolder(t), images, objects, scenes };
}

const features = { shortSide: 224, maxTokens: 400, batch: 3 };

const proposalsOf = (events: readonly JobEvent[]): Map<number, readonly ProposalDraft[]> =>
  new Map(events.flatMap((e) => (e.type === 'proposals' ? [[e.imageId, e.proposals] as const] : [])));

test('prelabel finds the things in a set of pictures, clusters them by kind, and goes on past a file it cannot read', async (t) => {
  const set = await makeSet(t, 6);
  await writeFile(path.join(set.root, 'torn.png'), (await readFile(path.join(set.root, '0.png'))).subarray(0, 900));
  const torn = { ...set.images[0], id: 99, path: 'torn.png', hash: 'torn' };
  const backbone = handMade();
  const input = { backbone, modelKey: 'hand-made', cacheDir: set.cacheDir, imageRoot: set.root, options: { features } };
  const events = await collect(prelabel({ ...input, images: [...set.images.slice(0, 3), torn, ...set.images.slice(3)] }));

  const problems = events.flatMap((e) => (e.type === 'problem' ? [e.problem] : []));
  assert.deepEqual(
    problems.map((p) => p.path),
    ['torn.png'],
  );
  const proposals = proposalsOf(events);
  assert.deepEqual(
    [...proposals.keys()],
    set.images.map((i) => i.id),
  );
  const score = scoreProposals(
    set.objects,
    set.images.map((i) => proposals.get(i.id)!.map((p) => p.rle)),
    20,
  );
  assert.ok(score.bestOverlap > 0.85 && score.recall50 === 1, `best overlap ${score.bestOverlap}, recall ${score.recall50}`);
  const few = scoreProposals(
    set.objects,
    set.images.map((i) => proposals.get(i.id)!.map((p) => p.rle)),
    8,
  );
  assert.ok(few.recall50 > 0.9, `recall ${few.recall50} with 8`);
  for (const list of proposals.values()) {
    assert.ok(list.length > 0 && list.length <= 20);
    for (const p of list) {
      assert.equal(p.area, rleArea(p.rle));
      assert.deepEqual([...p.box], [...rleBox(p.rle)]);
      assert.ok(p.score > 0 && p.score <= 1 && p.margin >= 0 && p.margin <= 1);
      assert.deepEqual(p.rle.size, [168, 224]);
    }
  }

  const clusters = events.find((e) => e.type === 'clusters')!;
  const clusterOf = new Map(clusters.assignment.map((a) => [a.imageId, a.clusters]));
  for (const [id, list] of proposals) assert.equal(clusterOf.get(id)!.length, list.length);
  // The best proposal of each disk lies in another cluster than that of each square.
  const seen = [new Map<number, number>(), new Map<number, number>()];
  set.images.forEach((image, i) => {
    set.scenes[i].kinds.forEach((kind, k) => {
      const overlaps = proposals.get(image.id)!.map((p) => {
        const single = {
          ...set.objects[i],
          labels: set.objects[i].labels.map((l) => (l === k + 1 ? 1 : 0)),
          areas: Int32Array.from([set.objects[i].areas[k]]),
        };
        return scoreProposals([single], [[p.rle]], 1).bestOverlap;
      });
      const cluster = clusterOf.get(image.id)![overlaps.indexOf(Math.max(...overlaps))];
      seen[kind].set(cluster, (seen[kind].get(cluster) ?? 0) + 1);
    });
  });
  for (const cluster of seen[0].keys()) assert.ok(!seen[1].has(cluster), `cluster ${cluster} holds disks and squares`);
  for (const { examples } of clusters.clusters) {
    assert.ok(examples.length > 0 && examples.length <= 8);
    for (const { imageId, index } of examples) assert.ok(index < proposals.get(imageId)!.length);
  }
  const progress = events.filter((e) => e.type === 'progress');
  assert.deepEqual([...new Set(progress.map((p) => p.phase))], ['Features', 'Regions', 'Clusters']);
  assert.equal(progress.filter((p) => p.phase === 'Features').at(-1)!.done, 7);
  assert.equal(events.at(-1)!.type, 'done');

  // A second run reads the cache: no pass of the network, the same proposals.
  const passes = backbone.passes;
  const again = await collect(prelabel({ ...input, images: set.images }));
  assert.deepEqual(proposalsOf(again).size, 6);
  const statisticsPasses = backbone.passes - passes;
  assert.ok(statisticsPasses <= 3, `${statisticsPasses} passes`); // the set changed (one image less): only its statistics are new
  const third = await collect(prelabel({ ...input, images: set.images }));
  assert.equal(backbone.passes, passes + statisticsPasses);
  assert.deepEqual([...proposalsOf(third)], [...proposalsOf(again)]);
});

test('two threads propose what one does, in the same order', async (t) => {
  const set = await makeSet(t, 6);
  const input = { backbone: handMade(), modelKey: 'm', cacheDir: set.cacheDir, imageRoot: set.root, images: set.images };
  const withThreads = async (threads: number) => {
    const events = await collect(prelabel({ ...input, options: { features, threads } }));
    return events.map((e) => (e.type === 'progress' ? { phase: e.phase, done: e.done, total: e.total } : e));
  };
  const alone = await withThreads(1);
  assert.ok(alone.some((e) => 'type' in e && e.type === 'clusters' && e.clusters.length > 0));
  assert.deepEqual(await withThreads(2), alone);
});

for (const threads of [1, 2]) {
  test(`an image that vanishes before its regions are found is a problem, the others go on (threads: ${threads})`, async (t) => {
    const set = await makeSet(t, 5);
    const seen: string[] = [];
    for await (const event of prelabel({
      backbone: handMade(),
      modelKey: 'm',
      cacheDir: set.cacheDir,
      imageRoot: set.root,
      images: set.images,
      options: { features, threads },
    })) {
      if (event.type === 'progress' && event.phase === 'Features' && event.done === 5) await rm(path.join(set.root, '1.png'));
      if (event.type === 'proposals') seen.push(String(event.imageId));
      if (event.type === 'problem') seen.push(`${event.problem.path}: ${event.problem.code}`);
      if (event.type === 'clusters') seen.push(`clusters of ${event.assignment.map((a) => a.imageId).join(' ')}`);
      if (event.type === 'done') seen.push('done');
    }
    assert.deepEqual(seen, ['10', '1.png: image-vanished', '12', '13', '14', 'clusters of 10 12 13 14', 'done']);
  });

  test(`a stop ends the job after the image at hand (threads: ${threads})`, async (t) => {
    const set = await makeSet(t, 5);
    const stop = new AbortController();
    const seen: JobEvent[] = [];
    for await (const event of prelabel({
      backbone: handMade(),
      modelKey: 'm',
      cacheDir: set.cacheDir,
      imageRoot: set.root,
      images: set.images,
      options: { features, threads },
      signal: stop.signal,
    })) {
      seen.push(event);
      if (event.type === 'proposals') stop.abort();
    }
    assert.equal(seen.filter((e) => e.type === 'proposals').length, 1);
    assert.ok(!seen.some((e) => e.type === 'done' || e.type === 'clusters'));
  });
}

test('a thread that dies ends the job with words', async (t) => {
  const set = await makeSet(t, 4);
  const broken = { modelKey: 'm', cacheDir: undefined, imageRoot: set.root } as unknown as RegionSettings;
  await assert.rejects(
    collect(findRegions(set.images, broken, null, 2)),
    (e: unknown) => e instanceof AppError && e.code === 'engine-died' && e.message.includes('"path" argument'),
  );
});

test('a few accepted masks name the rest of the set; decided objects stay decided', async (t) => {
  const set = await makeSet(t, 6);
  const input = {
    backbone: handMade(),
    modelKey: 'm',
    cacheDir: set.cacheDir,
    imageRoot: set.root,
    images: set.images,
    options: { features },
  };
  await collect(prelabel(input));
  const maskOf = (image: number, object: number) => {
    const { width, height, labels } = set.objects[image];
    return encodeRle({ width, height, data: Uint8Array.from(labels, (l) => (l === object + 1 ? 1 : 0)) });
  };
  const accepted = [
    { imageId: set.images[0].id, classId: 1, rle: maskOf(0, 0) },
    { imageId: set.images[0].id, classId: 2, rle: maskOf(0, 1) },
    { imageId: set.images[1].id, classId: 1, rle: maskOf(1, 0) },
    // The finished image has all its objects: what is unmarked there is background.
    ...set.scenes[5].kinds.map((kind, object) => ({ imageId: set.images[5].id, classId: kind + 1, rle: maskOf(5, object) })),
  ];
  assert.deepEqual(set.scenes[0].kinds.slice(0, 2), [0, 1]);
  // A person refused a piece of the ground.
  const ground = encodeRle({
    width: 224,
    height: 168,
    data: Uint8Array.from(set.scenes[1].truth, (v, i) => (v === 0 && i % 224 > 150 && i > 224 * 130 ? 1 : 0)),
  });
  const { backbone: _network, ...withoutNetwork } = input;
  const events = await collect(
    learn({ ...withoutNetwork, accepted, rejected: [{ imageId: set.images[1].id, rle: ground }], reviewed: [set.images[5].id] }),
  );
  const proposals = proposalsOf(events);
  assert.deepEqual(
    [...proposals.keys()],
    set.images.slice(0, 5).map((i) => i.id),
  );
  let found = 0;
  let wanted = 0;
  for (let i = 2; i < 5; i++) {
    const list = proposals.get(set.images[i].id)!;
    for (const kind of [0, 1]) {
      const objects = set.scenes[i].kinds.flatMap((k, n) => (k === kind ? [n] : []));
      // Best first: few more masks than objects must do.
      const own = list.filter((p) => p.classId === kind + 1).slice(0, objects.length + 2);
      assert.ok(own.every((p) => p.margin >= 0));
      for (const n of objects) {
        const single = {
          ...set.objects[i],
          labels: set.objects[i].labels.map((l) => (l === n + 1 ? 1 : 0)),
          areas: Int32Array.from([set.objects[i].areas[n]]),
        };
        wanted++;
        if (scoreProposals([single], [own.map((p) => p.rle)], 50).bestOverlap > 0.8) found++;
      }
    }
  }
  assert.ok(found >= 0.9 * wanted, `${found} of ${wanted} objects have a mask of their class`);
  // Nothing is proposed again over what was accepted.
  for (const [image, object] of [
    [0, 0],
    [0, 1],
    [1, 0],
  ]) {
    const { areas, labels } = set.objects[image];
    const single = {
      ...set.objects[image],
      labels: labels.map((l) => (l === object + 1 ? 1 : 0)),
      areas: Int32Array.from([areas[object]]),
    };
    assert.ok(scoreProposals([single], [proposals.get(set.images[image].id)!.map((p) => p.rle)], 300).bestOverlap <= 0.5);
  }

  // Candidates are found again where they are gone: a new image, a cache that was emptied.
  const folder = path.join(set.cacheDir, 'features', input.modelKey);
  const pools = (await readdir(folder)).filter((file) => file.endsWith('.pool'));
  assert.equal(pools.length, set.images.length);
  for (const file of pools) await rm(path.join(folder, file));
  const again = await collect(
    learn({ ...withoutNetwork, accepted, rejected: [{ imageId: set.images[1].id, rle: ground }], reviewed: [set.images[5].id] }),
  );
  assert.deepEqual(proposalsOf(again), proposals);

  // By one thread or two, in whatever order: the same proposals, those of the images named first at first.
  const rest = { accepted, rejected: [{ imageId: set.images[1].id, rle: ground }], reviewed: [set.images[5].id] };
  const first = [set.images[3].id, set.images[5].id, 99, set.images[1].id];
  for (const threads of [1, 2]) {
    const events = await collect(learn({ ...withoutNetwork, ...rest, first, options: { features, threads } }));
    const ordered = proposalsOf(events);
    assert.deepEqual(
      [...ordered.keys()],
      [3, 1, 0, 2, 4].map((i) => set.images[i].id),
    );
    for (const [id, list] of proposals) assert.deepEqual(ordered.get(id), list, `image ${id}, ${threads} threads`);
    assert.deepEqual(
      events.flatMap((e) => (e.type === 'progress' && e.phase === 'Proposals' ? [e.done] : [])),
      [1, 2, 3, 4, 5],
    );
  }

  // Threads have no network: what is not stored is computed beside them, and without a network it is said.
  const stored = (await readdir(folder)).filter((file) => file.startsWith(`${set.images[2].hash}-`));
  for (const file of stored) await rm(path.join(folder, file));
  const two = { features, threads: 2 };
  await assert.rejects(
    collect(learn({ ...withoutNetwork, ...rest, options: two })),
    (e: unknown) => e instanceof AppError && e.code === 'no-checkpoint',
  );
  assert.deepEqual(proposalsOf(await collect(learn({ ...input, ...rest, options: two }))), proposals);
});

test('a decided proposal uses up one of the usual number, a drawn mask none: an image worked through stays empty', async (t) => {
  const set = await makeSet(t, 3);
  const input = { modelKey: 'm', cacheDir: set.cacheDir, imageRoot: set.root, images: set.images, options: { features } };
  const [shown, other] = set.images;
  await collect(prelabel({ ...input, backbone: handMade() }));
  const { width, height, labels } = set.objects[1];
  const rle = encodeRle({ width, height, data: Uint8Array.from(labels, (l) => (l === 1 ? 1 : 0)) });
  // Single pixels of the ground: decided, and in the way of no candidate.
  const pixels = Array.from({ length: 20 }, (_, i) => ({
    imageId: shown.id,
    rle: encodeRle({ width, height, data: new Uint8Array(width * height).fill(1, i * 3, i * 3 + 1) }),
  }));
  /** Proposals of the image after so many were accepted without a class (or masks drawn), and so many rejected. */
  const proposedAfter = async (took: number, refused: number, drawn = false): Promise<readonly ProposalDraft[]> => {
    const accepted = [
      { imageId: other.id, classId: 1, drawn: false, rle },
      ...pixels.slice(0, took).map((mask) => ({ ...mask, classId: null, drawn })),
    ];
    const rejected = pixels.slice(took, took + refused);
    return proposalsOf(await collect(learn({ ...input, accepted, rejected }))).get(shown.id)!;
  };
  const fresh = await proposedAfter(0, 0);
  const unlikely = fresh.filter(({ score }) => score < 0.35);
  assert.ok(fresh.length === 20 && unlikely.length > 5, `${unlikely.length} of ${fresh.length} are unlikely`);
  assert.equal((await proposedAfter(3, 2)).length, 15);
  for (const [took, refused] of [
    [0, 20],
    [12, 8],
  ]) {
    const left = await proposedAfter(took, refused);
    assert.equal(left.length, 20 - unlikely.length, 'the likely ones alone');
    assert.ok(left.every(({ score }) => score >= 0.35));
  }
  assert.equal((await proposedAfter(20, 0, true)).length, 20);
});

for (const threads of [1, 2])
  test(`learning goes on past an image that vanished, and ends after the image at hand (threads: ${threads})`, async (t) => {
    const set = await makeSet(t, 5);
    const input = { modelKey: 'm', cacheDir: set.cacheDir, imageRoot: set.root, images: set.images, rejected: [] };
    await collect(prelabel({ ...input, backbone: handMade(), options: { features } }));
    const { width, height, labels } = set.objects[0];
    const rle = encodeRle({ width, height, data: Uint8Array.from(labels, (l) => (l === 1 ? 1 : 0)) });
    const lesson = { ...input, accepted: [{ imageId: set.images[0].id, classId: 1, rle }], options: { features, threads } };
    await rm(path.join(set.root, '1.png'));
    const seen = (await collect(learn(lesson))).flatMap((e): (number | string)[] =>
      e.type === 'proposals' ? [e.imageId] : e.type === 'problem' ? [`${e.problem.path}: ${e.problem.code}`] : [],
    );
    assert.deepEqual(seen, [10, '1.png: image-vanished', 12, 13, 14]);
    const stop = new AbortController();
    let images = 0;
    for await (const event of learn({ ...lesson, signal: stop.signal })) {
      if (event.type === 'proposals') images++;
      if (event.type === 'proposals') stop.abort();
      assert.notEqual(event.type, 'done');
    }
    assert.equal(images, 1);
  });

test('copies of one picture share its files, and each has its proposals when threads find them at once', async (t) => {
  const set = await makeSet(t, 1);
  const images = Array.from({ length: 8 }, (_, i) => ({ ...set.images[0], id: i + 1 }));
  const events = await collect(
    prelabel({ backbone: handMade(), modelKey: 'copies', cacheDir: set.cacheDir, imageRoot: set.root, images, options: { threads: 2 } }),
  );
  assert.deepEqual(
    events.filter((event) => event.type === 'problem'),
    [],
  );
  const lists = [...proposalsOf(events).values()];
  assert.equal(lists.length, 8);
  for (const list of lists) assert.deepEqual(list, lists[0]);
});

test('learning needs an accepted mask, and features or a network', async (t) => {
  const set = await makeSet(t, 1);
  const base = { modelKey: 'none', cacheDir: set.cacheDir, imageRoot: set.root, images: set.images, rejected: [] };
  await assert.rejects(collect(learn({ ...base, accepted: [] })), (e: unknown) => e instanceof AppError && e.code === 'bad-input');
  const rle = encodeRle({ width: 224, height: 168, data: Uint8Array.from(set.scenes[0].truth, (v) => (v === 1 ? 1 : 0)) });
  await assert.rejects(
    collect(learn({ ...base, accepted: [{ imageId: set.images[0].id, classId: 1, rle }] })),
    (e: unknown) => e instanceof AppError && e.code === 'no-checkpoint',
  );
});

test('a damaged, cut or foreign cache file is computed again, never trusted', async (t) => {
  const set = await makeSet(t, 1);
  const backbone = handMade();
  const store = new FeatureStore({
    backbone,
    modelKey: '../away/from here',
    cacheDir: set.cacheDir,
    imageRoot: set.root,
    options: features,
  });
  assert.ok(store.folder.startsWith(path.join(set.cacheDir, 'features') + path.sep));
  const first = await store.get(set.images[0]);
  assert.equal(backbone.passes, 1);
  assert.deepEqual(await store.get(set.images[0]), first);
  assert.equal(backbone.passes, 1);
  const file = store.file(set.images[0]);
  const good = await readFile(file);
  const damaged = [
    Buffer.alloc(0),
    good.subarray(0, 5),
    good.subarray(0, good.length - 1),
    Buffer.concat([good, Buffer.from([0])]),
    Buffer.from(good.map((b, i) => (i === good.length - 40 ? b ^ 1 : b))),
    Buffer.from(good.map((b, i) => (i === 40 ? b ^ 1 : b))),
    Buffer.from(good.map((b, i) => (i === 7 ? 50 : b))),
  ];
  for (const [i, bytes] of damaged.entries()) {
    await writeFile(file, bytes);
    assert.equal(await store.cached(set.images[0]), null, `damage ${i}`);
    assert.deepEqual(await store.get(set.images[0]), first);
    assert.deepEqual(await readFile(file), good);
  }
  assert.equal(backbone.passes, 1 + damaged.length);
  assert.deepEqual(
    (await readdir(store.folder)).filter((f) => f.endsWith('.tmp')),
    [],
  );
});

test('a network that computes beside this thread has the next batches before the last is written, three at most', async (t) => {
  const set = await makeSet(t, 7);
  const plain = handMade();
  const given: number[] = [];
  let open = 0;
  let most = 0;
  let gate: PromiseWithResolvers<void> | null = null;
  const beside: FeatureBackbone = {
    ...plain,
    tokensAtOnce: 2 * 16 * 12 * 4,
    async pictureFeatures(pictures, shifts) {
      given.push(pictures.length);
      most = Math.max(most, ++open);
      const { width, height } = pictures[0];
      const views = pictures.flatMap((p) => shifts.map(([dx, dy]) => shiftInput(normalizeImage(p), height, width, dx, dy)));
      const made = await plain.features(Float32Array.from(views.flatMap((v) => [...v])), views.length, height, width);
      for (let wait = 0; most < 3 && wait < 400; wait++) await pause(5);
      if (given.length > 1) await gate?.promise;
      open--;
      return made;
    },
  };
  const options = { shortSide: 168, maxTokens: 400, batch: 1, passes: 4 } as const;
  const stores = [beside, plain].map(
    (backbone, i) => new FeatureStore({ backbone, modelKey: `k${i}`, cacheDir: set.cacheDir, imageRoot: set.root, options }),
  );
  for (const store of stores) for await (const { error } of store.ensure(set.images)) assert.equal(error, undefined);
  assert.deepEqual(given, [2, 2, 2, 1]); // as many pictures as fill tokensAtOnce, each seen four times
  assert.equal(most, 3);
  for (const image of set.images) assert.deepEqual(await stores[0].cached(image), await stores[1].cached(image));

  // One that ends early waits for what it has given; a network that fails is told in its turn.
  const early = new FeatureStore({ backbone: beside, modelKey: 'early', cacheDir: set.cacheDir, imageRoot: set.root, options });
  given.length = 0;
  gate = Promise.withResolvers<void>();
  const iterator = early.ensure(set.images);
  assert.equal((await iterator.next()).value?.computed, true);
  let ended = false;
  const end = iterator.return(undefined).then(() => (ended = true));
  await pause(20);
  assert.deepEqual([ended, open], [false, 2]);
  gate.resolve();
  await end;
  assert.deepEqual([open, given], [0, [2, 2, 2]]);
  const failing = { ...beside, pictureFeatures: () => Promise.reject(new Error('lost')) };
  const lost = new FeatureStore({ backbone: failing, modelKey: 'lost', cacheDir: set.cacheDir, imageRoot: set.root, options });
  await assert.rejects(async () => {
    for await (const _ of lost.ensure(set.images));
  }, /lost/);
});

test('pictures of many sizes wait for others of their size only so long', async (t) => {
  const root = temporaryFolder(t);
  const images: PrelabelImage[] = [];
  for (let i = 0; i < 70; i++) {
    const [width, height] = [28, 28 + 14 * i];
    await writePng(path.join(root, `${i}.png`), { width, height, data: new Uint8Array(width * height * 3).fill(i) });
    images.push({ id: i, path: `${i}.png`, page: 0, hash: `h${i}`, width, height });
  }
  const backbone = handMade();
  const options = { shortSide: 28, maxTokens: 400, batch: 2 };
  const store = new FeatureStore({ backbone, modelKey: 'k', cacheDir: temporaryFolder(t), imageRoot: root, options });
  const order: number[] = [];
  const computedAt: number[] = [];
  for await (const { image } of store.ensure(images)) {
    order.push(image.id);
    computedAt.push(backbone.passes);
  }
  assert.deepEqual(
    order,
    images.map(({ id }) => id),
  );
  // The first went when 65 waited, long before the end.
  assert.deepEqual(computedAt.slice(0, 3), [1, 2, 3]);
  assert.equal(backbone.passes, 70);
});

test('half-precision numbers round as IEEE 754 says', () => {
  const cases: [number, number][] = [
    [0, 0],
    [-0, 0x8000],
    [1, 0x3c00],
    [-2, 0xc000],
    [65504, 0x7bff],
    [65520, 0x7c00],
    [Infinity, 0x7c00],
    [1e-8, 0],
    [2 ** -24, 1],
    [1.5 * 2 ** -24, 2],
    [2 ** -14, 0x0400],
    [1 + 2 ** -11, 0x3c00],
    [1 + 3 * 2 ** -11, 0x3c02],
    [0.1, 0x2e66],
    [-(2 ** -25), 0x8000],
    [2 ** -14 - 2 ** -25, 0x0400],
  ];
  for (const [value, bits] of cases)
    assert.equal(new Uint16Array(Float16Array.from(roundToHalf(Float32Array.of(value))).buffer)[0], bits, String(value));
  const random = new Random(1);
  const values = Float32Array.from({ length: 2000 }, () => random.normal() * 10 ** random.uniform(-4, 3));
  const rounded = roundToHalf(values);
  values.forEach((v, i) => assert.ok(Math.abs(rounded[i] - v) <= Math.max(Math.abs(v) * 2 ** -11, 2 ** -25)));
  assert.deepEqual(roundToHalf(rounded), rounded);
});

test('input sizes: multiples of the patch, aspect kept, never over the limit', () => {
  assert.deepEqual(inputSize(256, 256, 14, featureDefaults), { width: 448, height: 448 });
  assert.deepEqual(inputSize(1024, 512, 14, { ...featureDefaults, maxTokens: 2048 }), { width: 896, height: 448 });
  for (const [width, height] of [
    [1, 1],
    [30000, 20],
    [20, 30000],
    [640, 480],
    [4000, 3000],
    [333, 77],
  ]) {
    const size = inputSize(width, height, 14, featureDefaults);
    const tokens = (size.width / 14) * (size.height / 14);
    assert.ok(size.width % 14 === 0 && size.height % 14 === 0 && size.width >= 28 && size.height >= 28);
    assert.ok(tokens <= featureDefaults.maxTokens * 1.06, `${width} x ${height}: ${tokens} tokens`);
  }
  const { width, height } = inputSize(640, 480, 14, featureDefaults);
  assert.ok(Math.abs(width / height - 640 / 480) < 0.03);
});

test('tokens of abnormal length are replaced by the mean of their neighbours', () => {
  const random = new Random(4);
  const dim = 8;
  const patches = Float32Array.from({ length: 25 * dim }, () => random.normal());
  const before = patches.slice();
  for (let k = 0; k < dim; k++) patches[12 * dim + k] = 100;
  assert.equal(repairOutliers(patches, 5, 5, dim), 1);
  for (let k = 0; k < dim; k++) {
    const around = [6, 7, 8, 11, 13, 16, 17, 18].reduce((s, q) => s + before[q * dim + k], 0) / 8;
    assert.ok(Math.abs(patches[12 * dim + k] - around) < 1e-6);
  }
  before.forEach((v, i) => Math.floor(i / dim) !== 12 && assert.equal(patches[i], v));
  assert.equal(repairOutliers(new Float32Array(50).fill(1), 5, 5, 2), 0);
});

const real = path.resolve(import.meta.dirname, '../../../shared/data/nuclei');
const names = await readdir(path.join(real, 'images')).catch(() => []);

test(
  'on real nuclei, hand-made features beat k-means on colour and position',
  { skip: names.length === 0 && '../shared/data/nuclei is not here' },
  async (t) => {
    const picked = names
      .sort()
      .filter((_, i) => i % 32 === 5)
      .slice(0, 8);
    const images: PrelabelImage[] = [];
    const objects: ImageObjects[] = [];
    const baseline = [];
    for (const [i, name] of picked.entries()) {
      const image = await readRgb(path.join(real, 'images', name));
      images.push({ id: i, path: name, page: 0, hash: name, width: image.width, height: image.height });
      objects.push(objectsFromInstances(await readLabels(path.join(real, 'instances', name))));
      baseline.push(colourPositionBaseline(image, 20));
    }
    const events = await collect(
      prelabel({ backbone: handMade(), modelKey: 'm', cacheDir: temporaryFolder(t), imageRoot: path.join(real, 'images'), images }),
    );
    const proposals = proposalsOf(events);
    const own = scoreProposals(
      objects,
      images.map((i) => proposals.get(i.id)!.map((p) => p.rle)),
      20,
    );
    const colour = scoreProposals(objects, baseline, 20);
    t.diagnostic(
      `best overlap ${own.bestOverlap.toFixed(3)} and recall ${own.recall50.toFixed(3)}; k-means ${colour.bestOverlap.toFixed(3)} and ${colour.recall50.toFixed(3)}; ${own.objects} nuclei, 20 proposals`,
    );
    assert.ok(own.bestOverlap > colour.bestOverlap && own.recall50 > colour.recall50);
  },
);
