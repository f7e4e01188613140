// The two jobs on the GPU's engine against the cpu engine: the same proposals, through one thread and through several.
import assert from 'node:assert/strict';
import path from 'node:path';
import { test } from 'node:test';
import { AppError, type JobEvent, type ProposalDraft } from '../../core/contract/index.ts';
import { modelConfig } from '../../core/dinov2/config.ts';
import { untrainedBackbone } from '../../core/dinov2/index.ts';
import { writePng } from '../../core/images/index.ts';
import { encodeRle, rleIou } from '../../core/labels/index.ts';
import { createCpuExecutor } from '../../core/nn/cpu/index.ts';
import type { Executor } from '../../core/nn/index.ts';
import { createWebgpuExecutor } from '../../core/nn/webgpu/index.ts';
import type { ImageFeatures } from '../../core/prelabel/featureFile.ts';
import { edgeEngine, FeatureStore, learn, prelabel, type EdgeEngine, type PrelabelImage } from '../../core/prelabel/index.ts';
import { Random } from '../../core/random.ts';
import { collect, temporaryFolder } from '../fixtures/files.ts';
import { noAdapter } from '../nn/webgpu-device.ts';

const [width, height] = [150, 110];

function inDisk(image: number, disk: number, x: number, y: number): boolean {
  const random = new Random(22, image, disk);
  const [cx, cy, r] = [random.uniform(20, width - 20), random.uniform(20, height - 20), random.uniform(9, 18)];
  return Math.hypot(x - cx, y - cy) < r;
}

/** Disks of two kinds on shaded ground. */
async function drawSet(root: string, count: number): Promise<PrelabelImage[]> {
  const images: PrelabelImage[] = [];
  for (let id = 0; id < count; id++) {
    const random = new Random(21, id);
    const data = Uint8Array.from({ length: width * height * 3 }, (_, i) => 90 + 40 * (((i / 3) % width) / width) + random.int(12));
    for (let disk = 0; disk < 4; disk++) {
      for (let y = 0; y < height; y++)
        for (let x = 0; x < width; x++)
          if (inDisk(id, disk, x, y))
            data.set(disk % 2 ? [210, 70 + random.int(9), 50] : [40, 80, 190 + random.int(9)], (y * width + x) * 3);
    }
    await writePng(path.join(root, `${id}.png`), { width, height, data });
    images.push({ id, path: `${id}.png`, page: 0, hash: `h${id}`, width, height });
  }
  return images;
}

type Proposals = ReadonlyMap<number, readonly ProposalDraft[]>;

const proposalsOf = (events: readonly JobEvent[]): Proposals =>
  new Map(events.flatMap((e) => (e.type === 'proposals' ? [[e.imageId, e.proposals] as const] : [])));

/** Share of the proposals of one set that the other has with an IoU above the bound; the smaller of both directions. */
function agreement(a: Proposals, b: Proposals, bound: number): number {
  const share = (from: Proposals, to: Proposals): number => {
    const all = [...from].flatMap(([id, own]) => own.map(({ rle }) => Math.max(0, ...to.get(id)!.map((other) => rleIou(rle, other.rle)))));
    return all.filter((iou) => iou > bound).length / all.length;
  };
  return Math.min(share(a, b), share(b, a));
}

const model = { ...modelConfig('nano', { positionGrid: 8 }), embedDim: 32, depth: 2, heads: 2 };

/** Counts what it is asked. */
function counted(engine: EdgeEngine): EdgeEngine & { readonly asked: { upsample: number; upsampleMasks: number } } {
  const asked = { upsample: 0, upsampleMasks: 0 };
  return {
    asked,
    upsample: (...given) => (asked.upsample++, engine.upsample(...given)),
    upsampleMasks: (...given) => (asked.upsampleMasks++, engine.upsampleMasks(...given)),
  };
}

test('features, outlines and learning on the GPU give the proposals of the cpu engine', { skip: noAdapter }, async (t) => {
  const root = temporaryFolder(t);
  const images = await drawSet(root, 4);
  const [cpu, gpu] = [await createCpuExecutor({ threads: 1 }), await createWebgpuExecutor({ precision: 'f32' })];
  t.after(() => Promise.all([cpu.dispose(), gpu.dispose()]));
  const disk = encodeRle({
    width,
    height,
    data: Uint8Array.from({ length: width * height }, (_, i) => Number(inDisk(0, 0, i % width, Math.floor(i / width)))),
  });
  const accepted = [{ imageId: 0, classId: 1, rle: disk }];

  // Each image four times; on the GPU from two threads that ask the one that holds the engine.
  const features = { shortSide: 112, maxTokens: 200, passes: 4 } as const;
  const run = async (x: Executor): Promise<{ jobs: Proposals[]; features: ImageFeatures }> => {
    const backbone = untrainedBackbone(model, 5, x);
    const cacheDir = path.join(root, `cache-${x.name}`);
    const found = edgeEngine(x);
    const engine = found && counted(found);
    const input = {
      backbone,
      engine,
      modelKey: 'm',
      cacheDir,
      imageRoot: root,
      images,
      options: { threads: engine ? 2 : 1, features, propose: { refined: 32 } },
    };
    const events = [await collect(prelabel(input)), await collect(learn({ ...input, accepted, rejected: [] }))];
    assert.ok(!events.flat().some((e) => e.type === 'problem'));
    if (engine) assert.deepEqual(engine.asked, { upsample: images.length + 1, upsampleMasks: images.length });
    const stored = await new FeatureStore({ ...input, options: features }).cached(images[1]);
    backbone.dispose();
    return { jobs: events.map(proposalsOf), features: stored! };
  };
  const wanted = await run(cpu);
  const got = await run(gpu);
  [wanted.features.patches, ...wanted.features.shifted].forEach((rows, pass) => {
    const own = [got.features.patches, ...got.features.shifted][pass];
    const largest = rows.reduce((most, v) => Math.max(most, Math.abs(v)), 0);
    // Stored as halves: one step of the last place where rounding decides.
    rows.forEach((v, i) => assert.ok(Math.abs(own[i] - v) < 2e-3 * largest, `pass ${pass}, value ${i}: ${own[i]}, wanted ${v}`));
  });
  wanted.jobs.forEach((proposals, job) => {
    const share = agreement(proposals, got.jobs[job], 0.95);
    t.diagnostic(`${job === 0 ? 'prelabel' : 'learn'}: ${share} of ${[...proposals.values()].flat().length} proposals agree`);
    assert.ok(share >= 0.9);
  });
});

test('an engine that is gone ends the job and is named, not one image after the other', async (t) => {
  const root = temporaryFolder(t);
  const images = await drawSet(root, 4);
  const cpu = await createCpuExecutor({ threads: 1 });
  t.after(() => cpu.dispose());
  const gone = (): Promise<never> => Promise.reject(new AppError('engine-died', 'The GPU stopped working.', 'Start again.'));
  for (const threads of [1, 2]) {
    const input = {
      backbone: untrainedBackbone(model, 5, cpu),
      modelKey: 'm',
      cacheDir: path.join(root, 'cache'),
      imageRoot: root,
      images,
    };
    const job = prelabel({ ...input, options: { threads, features: { shortSide: 140 } }, engine: { upsample: gone, upsampleMasks: gone } });
    const told: JobEvent[] = [];
    await assert.rejects(
      async () => {
        for await (const event of job) told.push(event);
      },
      (error: AppError) => error.code === 'engine-died' && error.message === 'The GPU stopped working.' && error.action === 'Start again.',
    );
    assert.ok(!told.some((e) => e.type === 'problem' || e.type === 'proposals'));
  }
});
