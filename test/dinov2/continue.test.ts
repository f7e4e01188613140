/** Runs that start from weights: what they copy, what stands still, low-rank updates, and when they end early. */
import assert from 'node:assert/strict';
import { appendFile, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import type { AppError, JobEvent, TrainMetrics } from '../../core/contract/index.ts';
import { backboneOf } from '../../core/dinov2/backbone.ts';
import type { ContinuationConfig, RunConfig } from '../../core/dinov2/config.ts';
import { describeStart, listCheckpoints, loadBackbone } from '../../core/dinov2/index.ts';
import { loraParameters, loraScale, mergedWeight } from '../../core/dinov2/lora.ts';
import { parameterGroups, standsStill } from '../../core/dinov2/optimizer.ts';
import { outOfPatience } from '../../core/dinov2/patience.ts';
import { readSafetensors, writeSafetensors } from '../../core/dinov2/safetensors.ts';
import { pretrain, resume } from '../../core/dinov2/train.ts';
import { classTokens, vitForward, vitParameters } from '../../core/dinov2/vit.ts';
import { keepWeights, openWeights, readWeights, resizePositionTable } from '../../core/dinov2/weights/index.ts';
import type { Executor, ParameterSpec } from '../../core/nn/ops.ts';
import { Random } from '../../core/random.ts';
import { temporaryFolder } from '../fixtures/files.ts';
import { ReferenceExecutor } from '../nn/reference-executor.ts';
import { executors } from './executors.ts';
import { golden, goldenPath, noGolden, relativeError } from './golden.ts';
import { pictures, scanned } from './pictures.ts';
import { tinyRun } from './tiny-run.ts';
import { openedNetwork, smallHead, smallModel } from './weights-fixtures.ts';

const never = new AbortController().signal;
const gentle: ContinuationConfig = {
  headsOnlySteps: 2,
  backboneRate: 0.5,
  trainableBlocks: 1,
  lora: { rank: 3, alpha: 6 },
  patience: null,
};

/** A run on a network of 64 wide tokens and two blocks, from weights. */
function continued(changes: Partial<RunConfig> = {}): RunConfig {
  return tinyRun({
    start: 'weights',
    startedFrom: 'a test',
    model: smallModel({ registers: 4 }),
    continuation: gentle,
    steps: 6,
    checkpointEvery: 2,
    ...changes,
  });
}

async function run(x: Executor, runDir: string, config: RunConfig, startFile: string, signal = never): Promise<JobEvent[]> {
  return Array.fromAsync(
    pretrain({ runDir, imageRoot: '/nowhere', images: scanned, config, executor: x, signal, startFile, ...pictures() }),
  );
}

/** A network with heads as a run would keep it; the path of its file. */
async function startFile(t: TestContext, folder: string, heads: readonly ('dino_head' | 'ibot_head')[] = []): Promise<string> {
  await openedNetwork(t, folder, smallModel({ registers: 4 }), heads);
  return join(folder, 'teacher.safetensors');
}

const part = async (runDir: string, step: number, name: 'teacher' | 'training') =>
  (await readSafetensors(join(runDir, 'checkpoints', String(step), `${name}.safetensors`))).tensors;

async function metricsLines(runDir: string): Promise<unknown[]> {
  const text = await readFile(join(runDir, 'metrics.jsonl'), 'utf8');
  return text
    .trimEnd()
    .split('\n')
    .map((line) => ({ ...(JSON.parse(line) as TrainMetrics), imagesPerSecond: 0, secondsLeft: 0 }));
}

// --- low-rank updates -------------------------------------------------------------------------------------------------

const lora = { model: tinyRun().model, continuation: { ...gentle, trainableBlocks: 0 } };

/** A network of two blocks with updates that are not zero. */
function withUpdates(): ParameterSpec[] {
  const random = new Random(3);
  const official = vitParameters(lora.model, random);
  const updates = loraParameters(lora, random).map((spec) => ({ ...spec, values: spec.values.map(() => 0.3 * random.normal()) }));
  return [...official.map((spec) => ({ ...spec, values: spec.values.map((value) => value + 0.1 * random.normal()) })), ...updates];
}

const images = Float32Array.from({ length: 3 * 3 * 28 * 28 }, (_, i) => Math.sin(i * 0.73) + Math.cos(i * 0.011));

test('low-rank updates have the names, shapes and start values of the paper, in the blocks that stand still alone', () => {
  const specs = loraParameters({ ...lora, continuation: gentle }, new Random(1), 'backbone.');
  assert.deepEqual(
    specs.map(({ name, shape }) => [name, shape]),
    [
      ['backbone.blocks.0.attn.qkv.lora_a', [3, 16]],
      ['backbone.blocks.0.attn.qkv.lora_b', [48, 3]],
      ['backbone.blocks.0.attn.proj.lora_a', [3, 16]],
      ['backbone.blocks.0.attn.proj.lora_b', [16, 3]],
    ],
  );
  for (const { name, values } of specs)
    assert.equal(
      values.every((value) => value === 0),
      name.endsWith('lora_b'),
    );
  assert.deepEqual(loraParameters({ ...lora, continuation: { ...gentle, trainableBlocks: null } }, new Random(1)), []);
  assert.deepEqual(loraParameters({ ...lora, continuation: { ...gentle, lora: null } }, new Random(1)), []);
  assert.equal(loraScale({ continuation: gentle }), 2);
});

test('a merged weight is W + scale B A', () => {
  const merged = mergedWeight(Float32Array.of(1, 2, 3, 4, 5, 6), Float32Array.of(1, 0, 2, -1), Float32Array.of(1, 1, 0, 2, 0.5, 0), 2, 2);
  // B A by rows: [1 1] -> (3, -1), [0 2] -> (4, -2), [0.5 0] -> (0.5, 0)
  assert.deepEqual([...merged], [1 + 6, 2 - 2, 3 + 8, 4 - 4, 5 + 1, 6]);
  assert.throws(() => mergedWeight(new Float32Array(6), new Float32Array(4), new Float32Array(5), 2, 1), /5 values of B/);
});

test('the gradients of low-rank updates are the slopes of the loss', async () => {
  const x = new ReferenceExecutor();
  const specs = withUpdates();
  const set = x.createParameters(specs);
  const loss = () => {
    const tokens = vitForward(x, set, lora.model, x.tensor(images, [3, 3, 28, 28]), { loraScale: 2 });
    return x.weightedSum([x.koleo(classTokens(x, tokens))], [1]);
  };
  const valueOf = async (): Promise<number> => (await x.read(loss()))[0]!;
  x.zeroGradients(set);
  x.gradients(set, loss);
  const gradients = await x.readGradients(set);
  const values = await x.readParameters(set);
  const random = new Random(8);
  for (const { name, offset, size } of set.specs.filter((spec) => spec.name.includes('lora_'))) {
    for (let k = 0; k < 4; k++) {
      const at = offset + Math.floor(random.uniform(0, size));
      const step = 2 ** -6;
      const moved = async (by: number): Promise<number> => {
        x.writeParameters(
          set,
          values.map((value, i) => (i === at ? value + by : value)),
        );
        return valueOf();
      };
      // Five points: the error falls with the fourth power of the step, so that float32 results are far apart enough.
      const [near, far] = [(await moved(step)) - (await moved(-step)), (await moved(2 * step)) - (await moved(-2 * step))];
      const slope = (8 * near - far) / (12 * step);
      assert.ok(Math.abs(slope - gradients[at]!) < 2e-4 * Math.max(1, Math.abs(slope)), `${name}: ${gradients[at]}, slope ${slope}`);
      assert.ok(gradients[at] !== 0, name);
    }
  }
});

for (const [engine, create] of executors) {
  test(`low-rank updates: gradients as in float64, and merged weights give the same features (${engine})`, async () => {
    const [x, reference] = [await create(), new ReferenceExecutor()];
    const specs = withUpdates();
    const gradients = await Promise.all(
      [x, reference].map(async (e) => {
        const set = e.createParameters(specs);
        await e.scope(() => {
          e.zeroGradients(set);
          e.gradients(set, () => {
            const grid = vitForward(e, set, lora.model, e.tensor(images, [3, 3, 28, 28]), { loraScale: 2 });
            return e.weightedSum([e.koleo(classTokens(e, grid))], [1]);
          });
        });
        return e.readGradients(set);
      }),
    );
    assert.ok(relativeError(gradients[0]!, gradients[1]!) < 1e-4, String(relativeError(gradients[0]!, gradients[1]!)));

    const byName = new Map(specs.map((spec) => [spec.name, spec.values]));
    const official = specs
      .filter(({ name }) => !name.includes('lora_'))
      .map((spec) => {
        const a = byName.get(spec.name.replace(/weight$/, 'lora_a'));
        const b = byName.get(spec.name.replace(/weight$/, 'lora_b'));
        return a && b && spec.name.endsWith('weight') ? { ...spec, values: mergedWeight(spec.values, a, b, 3, 2) } : spec;
      });
    const features = async (parameters: ParameterSpec[], scale: number | null) =>
      (await backboneOf(x, x.createParameters(parameters), lora.model, '', true, scale).features(images, 3, 28, 28)).patches;
    const unmerged = await features(specs, 2);
    assert.ok(relativeError(await features(official, null), unmerged) < 1e-6);
    assert.ok(
      relativeError(
        await features(
          specs.filter(({ name }) => !name.includes('lora_')),
          null,
        ),
        unmerged,
      ) > 0.01,
    );
    await assert.rejects(features(specs, null), /blocks\.0\.attn\.qkv has a low-rank update/);
    await x.dispose();
  });
}

// --- what learns ------------------------------------------------------------------------------------------------------

test('rates: layer decay times the share of the backbone, 0 for what stands still, no decay of low-rank updates', () => {
  const config = continued({ continuation: { ...gentle, backboneRate: 0.02 } });
  const names = [
    ...['pos_embed', 'patch_embed.proj.weight', 'blocks.0.attn.qkv.weight', 'blocks.0.attn.qkv.lora_a', 'blocks.0.attn.proj.lora_b'],
    ...['blocks.1.attn.qkv.weight', 'blocks.1.norm1.weight', 'norm.weight'],
  ].map((name) => `backbone.${name}`);
  const specs = [...names, 'dino_head.mlp.0.weight', 'dino_head.last_layer.weight_v'].map((name) => ({
    name,
    shape: [1],
    offset: 0,
    size: 1,
  }));
  const groups = parameterGroups(config, { specs });
  const near = (actual: ArrayLike<number>, expected: number[]): void =>
    expected.forEach((value, i) => assert.ok(Math.abs(actual[i]! - value) < 1e-12, `${specs[i]!.name}: ${actual[i]}`));
  near(groups.rateMultipliers, [0, 0, 0, 0.02, 0.02, 0.018, 0.018, 0.02, 1, 1]);
  near(groups.decayMultipliers, [1, 1, 1, 0, 0, 1, 0, 0, 1, 1]);
  assert.deepEqual(groups.partNames, ['backbone', 'dino_head']);
  assert.deepEqual([...groups.parts], [0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
  assert.deepEqual(
    specs.map(({ name }) => standsStill(config, name)),
    [true, true, true, false, false, false, false, false, false, false],
  );
});

for (const [engine, create] of executors) {
  test(`what stands still does so bit for bit, in student and teacher; the rest learns in its time (${engine})`, async (t) => {
    const x = await create();
    const folder = temporaryFolder(t);
    const file = await startFile(t, folder);
    const runDir = join(folder, 'run');
    const config = continued();
    const events = await run(x, runDir, config, file);
    assert.equal(events.at(-1)!.type, 'done');
    const { tensors: start } = await readSafetensors(join(runDir, 'start.safetensors'));
    for (const step of [0, 2, 4, 6]) {
      const networks = [['teacher', await part(runDir, step, 'teacher')] as const];
      if (step >= 4) networks.push(['student', await part(runDir, step, 'training')] as never);
      for (const [network, tensors] of networks) {
        for (const [name, { values }] of start) {
          const now = tensors.get(name.replace('teacher', network))!.values;
          const learns = /backbone\.(blocks\.1\.|norm\.)/.test(name);
          if (!learns || step <= gentle.headsOnlySteps) assert.deepEqual(now, values, `${network} ${name} at ${step}`);
          else assert.notDeepEqual(now, values, `${network} ${name} at ${step}`);
        }
        const b = tensors.get(`${network}.backbone.blocks.0.attn.qkv.lora_b`)!.values as Float32Array;
        assert.equal(
          b.some((value) => value !== 0),
          step > gentle.headsOnlySteps,
          `${network} lora_b at ${step}`,
        );
      }
    }
    // The heads learn from the first step that has a rate.
    const head = 'teacher.dino_head.mlp.2.weight';
    assert.notDeepEqual((await part(runDir, 2, 'teacher')).get(head)!.values, (await part(runDir, 0, 'teacher')).get(head)!.values);
    await x.dispose();
  });

  test(`a continued run that is stopped and resumed repeats the never stopped one bit for bit (${engine})`, async (t) => {
    const x = await create();
    const folder = temporaryFolder(t);
    const file = await startFile(t, folder, ['dino_head']);
    const config = continued({ heads: { dino: smallHead, ibot: null }, steps: 6 });
    await run(x, join(folder, 'whole'), config, file);
    const stopped = join(folder, 'stopped');
    const controller = new AbortController();
    const events = pretrain({
      ...{ runDir: stopped, imageRoot: '/nowhere', images: scanned, config, executor: x, signal: controller.signal, startFile: file },
      ...pictures(),
    });
    for await (const event of events) if (event.type === 'metrics' && event.metrics.step === 3) controller.abort();
    await rm(file); // the run's folder stands alone
    const goOn = () => Array.fromAsync(resume({ runDir: stopped, imageRoot: '/nowhere', executor: x, signal: never, ...pictures() }));
    await goOn();
    assert.deepEqual(await metricsLines(stopped), await metricsLines(join(folder, 'whole')));
    for (const name of ['teacher', 'training']) {
      const bytes = (dir: string): Promise<Buffer> => readFile(join(folder, dir, 'checkpoints', '6', `${name}.safetensors`));
      assert.ok((await bytes('stopped')).equals(await bytes('whole')), name);
    }
    // From the beginning, when it ended before its first checkpoint.
    await rm(join(stopped, 'checkpoints'), { recursive: true });
    await goOn();
    assert.deepEqual(await metricsLines(stopped), await metricsLines(join(folder, 'whole')));
    await x.dispose();
  });
}

// --- the start --------------------------------------------------------------------------------------------------------

test("heads of the run's sizes are taken along, others are drawn; the position table is resized to the run's grid", async (t) => {
  const x = await executors[1]![1]();
  const folder = temporaryFolder(t);
  const { backbone, heads } = await openedNetwork(t, folder, smallModel({ registers: 4 }), ['dino_head', 'ibot_head']);
  const file = join(folder, 'teacher.safetensors');
  const config = continued({
    steps: 1,
    model: { ...smallModel({ registers: 4 }), positionGrid: 3 },
    heads: { dino: smallHead, ibot: { ...smallHead, prototypes: 41 } },
  });
  await run(x, join(folder, 'run'), config, file);
  const { tensors, metadata } = await readSafetensors(join(folder, 'run', 'start.safetensors'));
  assert.deepEqual(JSON.parse(metadata['model']!), config.model);
  const table = backbone.find(({ name }) => name === 'pos_embed')!.values;
  assert.deepEqual(tensors.get('teacher.backbone.pos_embed')!.values, resizePositionTable(table, smallModel({ registers: 4 }), 3));
  const first = await part(join(folder, 'run'), 0, 'teacher');
  for (const { name, values } of heads) {
    const now = first.get(`teacher.${name}`)!.values;
    if (name.startsWith('dino_head')) assert.deepEqual(now, values, name);
    else if (name.includes('mlp') && name.endsWith('weight')) assert.notDeepEqual(now, values, name);
  }
  assert.equal(first.get('teacher.ibot_head.last_layer.weight_v')!.shape[0], 41);
  assert.deepEqual(
    (await part(join(folder, 'run'), 0, 'training')).get('student.backbone.cls_token'),
    first.get('teacher.backbone.cls_token'),
  );
  await x.dispose();
});

test('a run goes on from a checkpoint of a continued one: updates are merged, for use, export and start alike', async (t) => {
  const x = await executors[1]![1]();
  const folder = temporaryFolder(t);
  const first = join(folder, 'first');
  const config = continued({ optimizer: { ...tinyRun().optimizer, learningRate: 0.02 } });
  await run(x, first, config, await startFile(t, folder));
  const file = join(first, 'checkpoints', '6', 'teacher.safetensors');
  const raw = await part(first, 6, 'teacher');
  const exported = await readWeights(file);
  assert.deepEqual({ ...exported.config, layerScale: 0 }, { ...config.model, layerScale: 0 });
  const [layer, a, b] = ['weight', 'lora_a', 'lora_b'].map(
    (name) => raw.get(`teacher.backbone.blocks.0.attn.proj.${name}`)!.values as Float32Array,
  );
  const proj = exported.backbone.find(({ name }) => name === 'blocks.0.attn.proj.weight')!.values;
  assert.deepEqual(proj, mergedWeight(layer!, a!, b!, 3, 2));
  assert.notDeepEqual(proj, layer);

  // The network in training, as it is loaded for features, and as it is exported see the same.
  const specs = [...raw]
    .filter(([name]) => name.startsWith('teacher.backbone.'))
    .map(([name, { shape, values }]) => ({ name: name.slice('teacher.backbone.'.length), shape, values: values as Float32Array }));
  const unmerged = await backboneOf(x, x.createParameters(specs), config.model, '', true, 2).features(images, 3, 28, 28);
  for (const merged of [
    await loadBackbone({ runDir: first, step: 6 }, x),
    backboneOf(x, x.createParameters(exported.backbone), exported.config, '', true),
  ]) {
    const error = relativeError((await merged.features(images, 3, 28, 28)).patches, unmerged.patches);
    assert.ok(error < 1e-6, String(error));
  }

  const { run: whole, ...facts } = await describeStart(file, 'run 1, step 6');
  assert.equal(whole?.steps, 6);
  assert.deepEqual(facts, { model: config.model, heads: config.heads, name: 'run 1, step 6' });
  await run(x, join(folder, 'second'), continued({ steps: 1 }), file);
  const { tensors } = await readSafetensors(join(folder, 'second', 'start.safetensors'));
  assert.deepEqual(tensors.get('teacher.backbone.blocks.0.attn.proj.weight')!.values, proj);
  assert.ok(![...tensors.keys()].some((name) => name.includes('lora_')));
  assert.deepEqual(tensors.get('teacher.dino_head.mlp.0.weight'), raw.get('teacher.dino_head.mlp.0.weight'));

  // Without the scale nobody can say what the sum is.
  await writeSafetensors(join(folder, 'bare.safetensors'), specs, {});
  await assert.rejects(readWeights(join(folder, 'bare.safetensors')), (error: AppError) =>
    /low-rank update of blocks\.0/.test(error.message),
  );
  await x.dispose();
});

test('an imported official file starts a run: its features at step 0 are the recorded ones', { skip: noGolden }, async (t) => {
  const x = await executors[1]![1]();
  const folder = temporaryFolder(t);
  const opened = await openWeights(goldenPath('import-official.pth'));
  const kept = join(folder, 'weights.safetensors');
  await keepWeights(opened, kept);
  await opened.close();
  const { model, heads } = await describeStart(kept, 'imported');
  assert.equal(heads, null);
  assert.equal(model.positionGrid, 37);
  const runDir = join(folder, 'run');
  await run(x, runDir, continued({ model, steps: 4 }), kept);
  const { tensors } = await golden('import-expected');
  const image = tensors.get('expect.image')!;
  const [n, , height, width] = image.shape as [number, number, number, number];
  const at = async (step: number) =>
    (await (await loadBackbone({ runDir, step }, x)).features(image.values as Float32Array, n, height, width)).patches;
  const recorded = tensors.get('expect.patch')!.values as Float32Array;
  assert.ok(relativeError(await at(0), recorded) < 1e-5);
  assert.ok(relativeError(await at(2), recorded) < 1e-5, 'the heads have learned alone');
  assert.ok(relativeError(await at(4), recorded) > 1e-5, 'nothing has been learned');
  await x.dispose();
});

test('weights that do not fit are refused by name, and leave no run behind', async (t) => {
  const x = await executors[0]![1]();
  const folder = temporaryFolder(t);
  const file = await startFile(t, folder);
  const runDir = join(folder, 'run');
  const deeper = continued({ model: { ...smallModel({ registers: 0 }), depth: 3 } });
  await assert.rejects(
    run(x, runDir, deeper, file),
    (error: AppError) =>
      error.code === 'weights-mismatch' &&
      /teacher\.safetensors does not fit this run: depth 2 instead of 3, registers 4 instead of 0/.test(error.message),
  );
  await assert.rejects(readFile(join(runDir, 'config.json')), /ENOENT/);
  await assert.rejects(run(x, runDir, continued(), join(folder, 'gone')), (error: AppError) => error.code === 'weights-unreadable');
  await assert.rejects(describeStart(join(folder, 'gone'), 'run 3, step 5'), (error: AppError) => /run 3, step 5/.test(error.message));

  // A start that was changed behind the run's back.
  await run(x, runDir, continued({ steps: 1 }), file);
  await rm(join(runDir, 'checkpoints'), { recursive: true });
  const { tensors } = await readSafetensors(join(runDir, 'start.safetensors'));
  const specs = [...tensors].map(([name, { shape, values }]) => ({ name, shape, values: values as Float32Array }));
  const again = () => Array.fromAsync(resume({ runDir, imageRoot: '/nowhere', executor: x, signal: never, ...pictures() }));
  const damaged = (words: RegExp) => (error: AppError) => error.code === 'run-damaged' && words.test(error.message);
  const norm = 'teacher.backbone.norm.weight';
  await writeSafetensors(
    join(runDir, 'start.safetensors'),
    specs.filter(({ name }) => name !== norm),
    {},
  );
  await assert.rejects(again(), damaged(/lacks backbone\.norm\.weight\./));
  await writeSafetensors(
    join(runDir, 'start.safetensors'),
    specs.map((spec) => (spec.name === norm ? { ...spec, shape: [8, 8] } : spec)),
    {},
  );
  await assert.rejects(again(), damaged(/holds backbone\.norm\.weight as \[8, 8\] instead of \[64\]/));
  await rm(join(runDir, 'start.safetensors'));
  await assert.rejects(again(), damaged(/cannot be read/));
});

// --- ending early -----------------------------------------------------------------------------------------------------

test('patience counts checkpoints on the schedule, after the heads alone, against the start', () => {
  const config = { checkpointEvery: 10, continuation: { ...gentle, headsOnlySteps: 20, patience: 2 } };
  const scores = (...values: [number, number][]) => values.map(([step, denseCorrespondence]) => ({ step, denseCorrespondence }));
  const start: [number, number][] = [
    [0, 0.7],
    [10, 0.7],
    [20, 0.7],
  ];
  assert.equal(outOfPatience(config, []), null);
  assert.equal(outOfPatience(config, scores(...start)), null);
  assert.equal(outOfPatience(config, scores(...start, [30, 0.65])), null);
  assert.equal(outOfPatience(config, scores(...start, [30, 0.65], [37, 0.6])), null); // a stop in between
  assert.match(
    outOfPatience(config, scores(...start, [30, 0.65], [40, 0.7]))!,
    /^no better .* at 2 checkpoints .* 70 % of the weights it started/,
  );
  assert.equal(outOfPatience(config, scores(...start, [30, 0.65], [40, 0.71], [50, 0.7])), null);
  assert.match(outOfPatience(config, scores(...start, [40, 0.71], [50, 0.7], [60, 0.71]))!, /71 % of step 40$/);
  assert.equal(
    outOfPatience({ ...config, continuation: { ...config.continuation, patience: null } }, scores(...start, [30, 0], [40, 0])),
    null,
  );
  assert.equal(outOfPatience({ checkpointEvery: 10 }, scores([0, 1], [10, 0], [20, 0], [30, 0])), null);
});

test('a continued run whose dense score falls ends early, stays ended, and repeats that after a stop', async (t) => {
  const x = await executors[0]![1]();
  const folder = temporaryFolder(t);
  const file = await startFile(t, folder);
  const config = continued({ steps: 40, checkpointEvery: 1, continuation: { ...gentle, headsOnlySteps: 1, patience: 3 } });
  const watch = (runDir: string) =>
    async function* (_teacher: unknown, step: number): AsyncGenerator<JobEvent> {
      const line = { step, denseCorrespondence: step === 3 ? 0.8 : 0.7 - step / 100 };
      await appendFile(join(runDir, 'monitors.jsonl'), `${JSON.stringify(line)}\n`);
      yield { type: 'log', level: 'info', text: `measured at ${step}` };
    };
  const common = (runDir: string, signal = never) => ({
    ...{ runDir, imageRoot: '/nowhere', executor: x, signal, onCheckpoint: watch(runDir) },
    ...pictures(),
  });
  const whole = join(folder, 'whole');
  const events = await Array.fromAsync(pretrain({ ...common(whole), images: scanned, config, startFile: file }));
  const summary = (seen: JobEvent[]): string => (seen.at(-1) as { summary: string }).summary;
  assert.match(
    summary(events),
    /^Ended early after 6 of 40 steps: no better dense correspondence at 3 checkpoints in a row than the 80 % of step 3, loss/,
  );
  assert.equal((await listCheckpoints(whole)).at(-1), 6);
  const again = await Array.fromAsync(resume(common(whole)));
  assert.match(summary(again), /^Ended early after 6 of 40/);
  assert.equal((await listCheckpoints(whole)).at(-1), 6);

  const stopped = join(folder, 'stopped');
  const controller = new AbortController();
  for await (const event of pretrain({ ...common(stopped, controller.signal), images: scanned, config, startFile: file })) {
    if (event.type === 'metrics' && event.metrics.step === 4) controller.abort();
  }
  await Array.fromAsync(resume(common(stopped)));
  assert.deepEqual(await listCheckpoints(stopped), await listCheckpoints(whole));
});
