/** Several batches a step: their gradients are averaged, their draws differ, and one batch is what it was before. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import type { RunConfig } from '../../core/dinov2/config.ts';
import { parameterGroups } from '../../core/dinov2/optimizer.ts';
import { readSafetensors } from '../../core/dinov2/safetensors.ts';
import { clipGradients, computeGradients, readMeans, updateCenters, type Batch } from '../../core/dinov2/step.ts';
import type { Executor } from '../../core/nn/ops.ts';
import { executors } from './executors.ts';
import { relativeError } from './golden.ts';
import { collect, folder, goOn, metricsLines, run } from './runs.ts';
import { batchOf, stateOf, values } from './states.ts';
import { tinyRun } from './tiny-run.ts';

/** Everything that draws: drop path, separate heads. */
const SINKHORN: Partial<RunConfig> = {
  model: { ...tinyRun().model, dropPath: 0.3 },
  heads: { dino: { hidden: 16, bottleneck: 8, prototypes: 24 }, ibot: { hidden: 12, bottleneck: 6, prototypes: 20 } },
  teacher: { ...tinyRun().teacher, centering: 'sinkhorn' },
};

/** SHA-256 of the checkpoints' data after four steps on the reference executor; before batches could be accumulated they were the same, up to the arithmetic of crops and the order of sums over them. */
const BEFORE = [
  [
    'softmax centring',
    {},
    '6be4e18ae0838ca54d607d683403c4ba9262c8396d7fee0a18e2876d71ac466e',
    '21615a5ffd9c10ebce005e08ba05d15c2a7bad5c7fcae7a930cb8cef2968d63c',
  ],
  [
    'Sinkhorn, own iBOT head, drop path',
    SINKHORN,
    '694b31558e1b17688d713200707202cf17ac5b6bc192054807b241b9fa998cac',
    'dab5c96504cd98e7c56af193f930e1452ac069573d4893f558df12d6e2d0cbdb',
  ],
] as const;

for (const [variant, changes, training, teacher] of BEFORE) {
  test(`one batch a step gives the bytes it gave before, said or not (${variant})`, async (t) => {
    for (const accumulate of [{}, { accumulate: 1 }]) {
      const x = await executors[0]![1]();
      const runDir = await folder(t);
      await collect(run(x, runDir, tinyRun({ steps: 4, checkpointEvery: 4, ...changes, ...accumulate })));
      const sha256 = async (part: string): Promise<string | undefined> =>
        (await readSafetensors(join(runDir, 'checkpoints', '4', `${part}.safetensors`))).metadata['sha256'];
      assert.equal(await sha256('training'), training);
      assert.equal(await sha256('teacher'), teacher);
    }
  });
}

/** The images from..from+count-1 of a batch, crop-major as it is. */
function share(whole: Batch, from: number, count: number): Batch {
  const B = whole.images;
  const pick = <T extends Float32Array | Uint8Array>(values: T, crops: number): T => {
    const size = values.length / (crops * B);
    const parts = Array.from({ length: crops }, (_, crop) => values.slice((crop * B + from) * size, (crop * B + from + count) * size));
    const out = values.slice(0, crops * count * size) as T;
    parts.forEach((part, crop) => out.set(part, crop * count * size));
    return out;
  };
  return {
    ...whole,
    images: count,
    globalCrops: pick(whole.globalCrops, 2),
    localCrops: pick(whole.localCrops, 2),
    masks: pick(whole.masks, 2),
  };
}

/** Gradients as the update gets them, norms and centres of a step. */
async function step(x: Executor, config: RunConfig, batches: readonly Batch[]) {
  const state = stateOf(x, config);
  const means = [];
  for (const [part, batch] of batches.entries()) {
    means.push(await x.scope(async () => readMeans(x, computeGradients(x, config, state, batch, values, part).targets)));
  }
  updateCenters(config, state, means);
  const norms = await x.read(clipGradients(x, config, state, parameterGroups(config, state.student)));
  return { gradients: await x.readGradients(state.student), norms, means, centers: state.centers };
}

for (const [engine, create] of executors.slice(0, 2)) {
  test(`two half batches are one whole batch where a term is a mean over images (${engine})`, async () => {
    const x = await create();
    const clip = { ...tinyRun().optimizer, clipNorm: 0.05 }; // both parts are clipped
    const base = tinyRun({ optimizer: clip, lossWeights: { dino: 1, ibot: 1, koleo: 0 } });
    const whole = batchOf(base, 4, true);
    whole.masks.fill(0, 0, 9); // one crop without a mask, others with different counts
    const halves = [share(whole, 0, 2), share(whole, 2, 2)];
    const compare = async (config: RunConfig) => {
      const [one, two] = [await step(x, config, [whole]), await step(x, { ...config, accumulate: 2 }, halves)];
      return { one, two, error: relativeError(two.gradients, one.gradients) };
    };

    const { one, two, error } = await compare(base);
    assert.ok(error < 1e-5, `gradients differ by ${error}`);
    assert.ok(relativeError(two.norms, one.norms) < 1e-5);
    assert.ok(one.norms.every((norm) => norm > 0.05));
    // The DINO centre is that of the whole batch. The iBOT one is the mean of the batches' means, as over GPUs.
    assert.ok(relativeError(two.centers.dino, one.centers.dino) < 1e-5);
    const [left, right] = two.means.map((mean) => mean!.ibot!);
    const expected = Float32Array.from(left!, (value, k) => 0.1 * ((value + right![k]!) / 2));
    assert.ok(relativeError(two.centers.ibot, expected) < 1e-6);
    assert.ok(relativeError(two.centers.ibot, one.centers.ibot) > 1e-4, 'the batches have equally many masked patches');

    // What compares images with each other does so within a batch.
    const { error: sinkhorn } = await compare({ ...base, teacher: { ...base.teacher, centering: 'sinkhorn' } });
    const { error: koleo } = await compare({ ...base, lossWeights: { dino: 1, ibot: 1, koleo: 1 } });
    assert.ok(sinkhorn > 1e-3 && koleo > 1e-3, `Sinkhorn ${sinkhorn}, KoLeo ${koleo}`);
    await x.dispose();
  });

  test(`an accumulated run stopped and resumed repeats the never stopped one bit for bit (${engine})`, async (t) => {
    const x = await create();
    for (const changes of [{}, { ...SINKHORN, recompute: true }]) {
      const config = tinyRun({ steps: 5, checkpointEvery: 2, accumulate: 3, batch: 2, ...changes });
      const [whole, stopped] = [await folder(t), await folder(t)];
      const events = await collect(run(x, whole, config));
      assert.match((events.at(-1) as { summary: string }).summary, /^5 steps of 6 images/);
      const controller = new AbortController();
      await collect(run(x, stopped, config, controller.signal), { after: 3 }, controller);
      await collect(goOn(x, stopped));
      assert.deepEqual(await metricsLines(stopped), await metricsLines(whole));
      for (const file of ['teacher', 'training']) {
        const read = (dir: string): Promise<Buffer> => readFile(join(dir, 'checkpoints', '5', `${file}.safetensors`));
        assert.ok((await read(stopped)).equals(await read(whole)), `${file} of step 5 differs`);
      }
    }
    await x.dispose();
  });
}

test('metrics are means over the batches, which are those that single ones would be', async (t) => {
  const x = await executors[0]![1]();
  // Nothing learns, so that the same batches give the same numbers whichever step they are in.
  const still: Partial<RunConfig> = {
    ...SINKHORN,
    batch: 4,
    optimizer: { ...tinyRun().optimizer, learningRate: 0, finalLearningRate: 0 },
    teacher: { ...tinyRun().teacher, centering: 'sinkhorn', temperature: [0.05, 0.05] },
  };
  const [single, double] = [await folder(t), await folder(t)];
  await collect(run(x, single, tinyRun({ ...still, steps: 6 })));
  await collect(run(x, double, tinyRun({ ...still, steps: 3, accumulate: 2 })));
  const [ones, twos] = [await metricsLines(single), await metricsLines(double)];
  assert.equal(twos.length, 3);
  for (const [i, two] of twos.entries()) {
    const [a, b] = [ones[2 * i]!, ones[2 * i + 1]!];
    for (const name of ['total', 'dinoGlobal', 'dinoLocal', 'ibot', 'koleo', 'sampleEntropy', 'marginalEntropy'] as const) {
      const mean = (a[name] + b[name]) / 2;
      assert.ok(Math.abs(two[name] - mean) < 1e-5 * Math.abs(mean), `${name} of step ${i + 1}: ${two[name]}, not ${mean}`);
      assert.notEqual(a[name], b[name]);
    }
  }
  await x.dispose();
});
