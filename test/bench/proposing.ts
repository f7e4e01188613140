/**
 * Where the time of proposing goes: processor time for an image, step by step, with one look at it and with four; and what is
 * left of a thread's work where an executor brings candidates to pixels (its answers are made beforehand: they cost nothing).
 * Run: node test/bench/proposing.ts DIR [--images 16] [--arch nano] [--pixels 262144]
 */
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { modelConfig, untrainedBackbone, type ModelName } from '../../core/dinov2/index.ts';
import { readRgb, type RgbImage } from '../../core/images/index.ts';
import { createExecutor, type PatchMaps } from '../../core/nn/index.ts';
import { appearanceView } from '../../core/prelabel/appearance.ts';
import { describe } from '../../core/prelabel/cues.ts';
import { discover } from '../../core/prelabel/discover.ts';
import { upsampledMaps, upsampledMasks, type EdgeEngine, type MaskRequest } from '../../core/prelabel/edges.ts';
import type { NetworkFeatures } from '../../core/prelabel/featureFile.ts';
import { FeatureStore, type FeatureBackbone, type PrelabelImage } from '../../core/prelabel/features.ts';
import { draftOf } from '../../core/prelabel/job.ts';
import { writePool } from '../../core/prelabel/pool.ts';
import { candidates, choose, proposeDefaults, scoreWithoutLabels } from '../../core/prelabel/propose.ts';
import { gridPlacements } from '../../core/prelabel/refine.ts';
import { featureViews, setStatistics } from '../../core/prelabel/statistics.ts';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    images: { type: 'string', default: '16' },
    arch: { type: 'string', default: 'nano' },
    pixels: { type: 'string', default: String(2 ** 18) },
  },
});
const root = positionals[0];
if (root === undefined) throw new Error('Name a folder of images.');
/** Looked at first and not counted: the first images pay for compiling. */
const warming = 3;

/** Bits of every mask asked for, from values that the processor made. */
async function answers(guide: RgbImage, passes: number, grid: readonly [number, number], maps: PatchMaps): Promise<Uint32Array> {
  let from = 0;
  const requests = Array.from({ length: maps.boxes.length / 8 }, (_, i): MaskRequest => {
    const [x0, y0, across, down, x, y, width, height] = maps.boxes.subarray(i * 8, i * 8 + 8) as unknown as number[];
    const own = Array.from({ length: passes }, () => {
      const shares = Array.from(maps.values.subarray(from, (from += across! * down!)));
      const cells = shares.map((_share, k) => (y0! + Math.floor(k / across!)) * grid[0] + x0! + (k % across!));
      return { cells, shares };
    });
    return { maps: own, box: { x: x!, y: y!, width: width!, height: height! } };
  });
  const words: number[] = [];
  for (const { data } of await upsampledMasks(guide, gridPlacements(...grid, passes), requests, null)) {
    for (let at = 0; at < data.length; at += 32) {
      let word = 0;
      for (let bit = 0; bit < Math.min(32, data.length - at); bit++) word |= data[at + bit]! << bit;
      words.push(word >>> 0);
    }
  }
  return Uint32Array.from(words);
}

const files = (await readdir(root)).filter((name) => /\.(jpe?g|png)$/i.test(name)).sort();
const images: PrelabelImage[] = [];
for (const file of files.slice(0, warming + Number(values.images))) {
  const { width, height } = await readRgb(path.join(root, file));
  images.push({ id: images.length, path: file, page: 0, hash: file, width, height });
}
const x = await createExecutor({ engine: 'cpu' });
const backbone = untrainedBackbone(modelConfig(values.arch as ModelName, { positionGrid: 8 }), 1, x);
const cacheDir = await mkdtemp(path.join(tmpdir(), 'patchwise-proposing-'));
for (const passes of [1, 4] as const) {
  const sums = new Map<string, number>();
  let counted = false;
  const timed = async <T>(name: string, work: () => T | Promise<T>): Promise<T> => {
    const before = process.cpuUsage();
    const result = await work();
    const { user, system } = process.cpuUsage(before);
    if (counted) sums.set(name, (sums.get(name) ?? 0) + (user + system) / 1000);
    return result;
  };
  const network: FeatureBackbone = {
    config: backbone.config,
    features: (...given): Promise<NetworkFeatures> => timed('of it the network', () => backbone.features(...given)),
  };
  const store = new FeatureStore({ backbone: network, modelKey: `${passes}`, cacheDir, imageRoot: root, options: { passes } });
  for (const [first, list] of [images.slice(0, warming), images.slice(warming)].entries()) {
    counted = first === 1;
    await timed('features', async () => {
      for await (const { error } of store.ensure(list)) if (error !== undefined) throw error;
    });
  }
  counted = false;
  const statistics = await setStatistics(store, images);
  for (const [i, image] of images.entries()) {
    counted = i >= warming;
    const features = await timed('read the features', () => store.get(image));
    const scale = Math.sqrt(Number(values.pixels) / (image.width * image.height));
    const size = { width: Math.round(image.width * scale), height: Math.round(image.height * scale) };
    const guide = await timed('decode the guide', () => readRgb(path.join(root, image.path), { size }));
    const views = await timed('views', () => featureViews(features, statistics));
    const { gridWidth, gridHeight } = features;
    const plain = await timed('appearance', () => appearanceView(guide, gridWidth, gridHeight, passes));
    const all = [...views, plain];
    const found = await timed('trees and cuts', () => all.map(({ grid, c0 }) => discover(grid, c0, proposeDefaults)));
    const inside = new Uint8Array(gridWidth * gridHeight);
    await timed('cues of patches', () => all.map((view, v) => found[v]!.map((candidate) => describe(view, candidate, inside))));

    const pool = await timed('candidates (all from appearance on)', () => candidates(guide, views, proposeDefaults, null));
    const known: { words: Uint32Array | null } = { words: null };
    const engine: EdgeEngine = {
      upsample: () => Promise.reject(new Error('not asked here')),
      upsampleMasks: async (_guide, maps) => (known.words ??= await answers(guide, passes, [gridWidth, gridHeight], maps)),
    };
    const same = await candidates(guide, views, proposeDefaults, engine);
    if (JSON.stringify(same) !== JSON.stringify(pool)) throw new Error(`${image.path}: other candidates from the same masks.`);
    await timed('candidates where an executor has the edges', () => candidates(guide, views, proposeDefaults, engine));

    const scored = pool.map((candidate) => ({ ...candidate, score: scoreWithoutLabels(candidate) }));
    const chosen = await timed('choice', () => choose(scored, { most: 20, sure: 20, leastScore: 0, maxOverlap: 0.6 }));
    const facts = { score: 1, margin: 1, classId: null, source: 'region' } as const;
    await timed('drafts', () => chosen.map(({ mask }) => draftOf(mask, guide, image, facts)));
    await timed('write the pool', () => writePool(store, image, { ...size, gridWidth, gridHeight, candidates: pool }));
    const maps = [0.3, 0.7].map((p) =>
      gridPlacements(gridWidth, gridHeight, passes).map(() => new Float32Array(gridWidth * gridHeight).map((_, q) => (p * q) % 1)),
    );
    await timed('learning: maps of two classes', () => upsampledMaps(guide, gridPlacements(gridWidth, gridHeight, passes), maps, null));
  }
  console.log(`${passes === 1 ? 'one pass' : 'four passes'}, processor time in ms for an image`);
  for (const [name, ms] of sums) console.log(`  ${(ms / (images.length - warming)).toFixed(1).padStart(7)}  ${name}`);
}
await rm(cacheDir, { recursive: true, force: true });
await x.dispose();
