/** Whole runs that learn from a frozen, larger network: what is written, resuming, and teachers that do not fit. */
import assert from 'node:assert/strict';
import { appendFile, readFile, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { test, type TestContext } from 'node:test';
import type { AppError } from '../../core/contract/index.ts';
import { modelConfig, type HeadConfig, type ModelConfig, type RunConfig } from '../../core/dinov2/config.ts';
import { headParameters } from '../../core/dinov2/heads.ts';
import { readSafetensors, writeSafetensors } from '../../core/dinov2/safetensors.ts';
import { pretrain } from '../../core/dinov2/train.ts';
import { vitParameters } from '../../core/dinov2/vit.ts';
import type { Executor } from '../../core/nn/ops.ts';
import { Random } from '../../core/random.ts';
import { executors } from './executors.ts';
import { pictures, scanned } from './pictures.ts';
import { collect, folder, goOn, metricsLines, never } from './runs.ts';
import { tinyRun } from './tiny-run.ts';

const LARGE: ModelConfig = { ...modelConfig('small', { positionGrid: 5 }), name: 'custom', embedDim: 64, depth: 2, heads: 1 };
const HEAD: HeadConfig = { hidden: 32, bottleneck: 12, prototypes: 24 };
const OWN: HeadConfig = { hidden: 24, bottleneck: 10, prototypes: 20 };

/** A training checkpoint of the large network, as a run writes its teacher. */
async function teacherFile(t: TestContext, model: ModelConfig = LARGE, heads: Partial<RunConfig['heads']> = { dino: HEAD }) {
  const random = new Random(5);
  const specs = [
    ...vitParameters(model, random, 'backbone.'),
    ...(heads.dino ? headParameters(heads.dino, model.embedDim, random, 'dino_head') : []),
    ...(heads.ibot ? headParameters(heads.ibot, model.embedDim, random, 'ibot_head') : []),
  ];
  const path = `${await folder(t)}.safetensors`;
  const values = (spec: (typeof specs)[number]) => spec.values.map((value) => value + 0.05 * random.normal());
  await writeSafetensors(
    path,
    specs.map((spec) => ({ ...spec, name: `teacher.${spec.name}`, values: values(spec) })),
    {},
  );
  return path;
}

const distilled = (changes: Partial<RunConfig> = {}): RunConfig => tinyRun({ distillation: { model: LARGE }, ...changes });
const run = (x: Executor, runDir: string, config: RunConfig, file: string, signal: AbortSignal = never) =>
  pretrain({ runDir, imageRoot: '/nowhere', images: scanned, config, executor: x, signal, teacherFile: file, ...pictures() });

for (const [engine, create] of executors.slice(0, 2)) {
  for (const [variant, changes] of Object.entries<Partial<RunConfig>>({
    'softmax centring, tied heads': {},
    'Sinkhorn, own iBOT heads, two batches a step': {
      heads: { dino: { hidden: 16, bottleneck: 8, prototypes: 24 }, ibot: { hidden: 12, bottleneck: 6, prototypes: 20 } },
      teacher: { ...tinyRun().teacher, centering: 'sinkhorn' },
      accumulate: 2,
      batch: 2,
    },
  })) {
    test(`a distillation stopped and resumed repeats the never stopped one bit for bit (${engine}, ${variant})`, async (t) => {
      const x = await create();
      const held = x.memoryBytes();
      const file = await teacherFile(t, LARGE, changes.heads?.ibot ? { dino: HEAD, ibot: OWN } : { dino: HEAD });
      const config = distilled({ steps: 5, checkpointEvery: 2, ...changes });
      const [whole, stopped] = [await folder(t), await folder(t)];
      await collect(run(x, whole, config, file));
      const kept = await readFile(join(whole, 'teacher.safetensors'));
      const controller = new AbortController();
      await collect(run(x, stopped, config, file, controller.signal), { after: 3 }, controller);
      await rm(dirname(file), { recursive: true }); // the run's folder stands alone
      await collect(goOn(x, stopped));
      assert.deepEqual(await metricsLines(stopped), await metricsLines(whole));
      for (const part of ['teacher', 'training']) {
        const read = (dir: string): Promise<Buffer> => readFile(join(dir, 'checkpoints', '5', `${part}.safetensors`));
        assert.ok((await read(stopped)).equals(await read(whole)), `${part} of step 5 differs`);
      }
      assert.ok(kept.equals(await readFile(join(stopped, 'teacher.safetensors'))), 'the frozen teacher changed');
      // Checkpoints hold the student and what follows it, of the student's size.
      const { tensors } = await readSafetensors(join(whole, 'checkpoints', '5', 'teacher.safetensors'));
      assert.deepEqual(tensors.get('teacher.backbone.cls_token')!.shape, [1, 1, 16]);
      if (engine !== 'reference') assert.equal(x.memoryBytes(), held); // the reference leaves that to garbage collection
      await x.dispose();
    });
  }
}

test('a student comes nearer to its teacher', async (t) => {
  const x = await executors[1]![1]();
  const optimizer = { ...tinyRun().optimizer, learningRate: 5e-3, layerDecay: 1, patchEmbedMultiplier: 1 };
  const config = distilled({
    steps: 80,
    logEvery: 20,
    checkpointEvery: 80,
    optimizer,
    teacher: { ...tinyRun().teacher, centering: 'sinkhorn' },
  });
  const runDir = await folder(t);
  await collect(run(x, runDir, config, await teacherFile(t)));
  const lines = await metricsLines(runDir);
  const loss = (i: number): number => lines.at(i)!.dinoGlobal + lines.at(i)!.dinoLocal;
  t.diagnostic(`DINO loss ${loss(0).toFixed(4)} after 20 steps, ${loss(-1).toFixed(4)} after 80`);
  assert.ok(loss(-1) < 0.95 * loss(0));
  await x.dispose();
});

test('teachers that do not fit are refused by name, and leave no run behind', async (t) => {
  const x = await executors[0]![1]();
  const refused = async (file: string, words: RegExp, config = distilled()): Promise<void> => {
    const runDir = await folder(t);
    await assert.rejects(
      collect(run(x, runDir, config, file)),
      (error: AppError) => error.code === 'weights-mismatch' && words.test(error.message) && error.action !== '',
    );
    await assert.rejects(collect(goOn(x, runDir)), (error: AppError) => error.code === 'run-not-found');
  };
  await refused(await teacherFile(t, LARGE, {}), /no DINO head/);
  const other = { ...HEAD, prototypes: 32 };
  await refused(await teacherFile(t, LARGE, { dino: other }), /dino_head has 32 prototypes, that of the student 24 prototypes/);
  await refused(await teacherFile(t, LARGE, { dino: HEAD, ibot: OWN }), /ibot_head has 20 prototypes, that of the student none/);
  const own = distilled({ heads: { dino: HEAD, ibot: OWN } });
  await refused(await teacherFile(t), /ibot_head has none, that of the student 20 prototypes/, own);
  await refused(await teacherFile(t, { ...LARGE, patchSize: 16 }), /patches have 16 px, those of the student 14 px/);
  await refused(await teacherFile(t, { ...LARGE, depth: 3 }), /another network/);
});

test('a teacher that is gone or damaged ends the resumed run with its name', async (t) => {
  const x = await executors[0]![1]();
  const runDir = await folder(t);
  const controller = new AbortController();
  await collect(run(x, runDir, distilled(), await teacherFile(t), controller.signal), { after: 1 }, controller);
  const path = join(runDir, 'teacher.safetensors');
  const bytes = await readFile(path);
  const damaged = (error: AppError): boolean => error.code === 'run-damaged' && /teacher\.safetensors/.test(error.message);
  await rm(path);
  await assert.rejects(collect(goOn(x, runDir)), damaged);
  await appendFile(path, bytes.subarray(0, bytes.length - 100));
  await assert.rejects(collect(goOn(x, runDir)), damaged);
  const { tensors } = await readSafetensors(await teacherFile(t, LARGE, { dino: { ...HEAD, prototypes: 25 } }));
  await writeSafetensors(
    path,
    [...tensors].map(([name, { shape, values }]) => ({ name, shape, values: values as Float32Array })),
    {},
  );
  await assert.rejects(
    collect(goOn(x, runDir)),
    (error: AppError) => damaged(error) && /weight_g as \[25, 1\] instead of \[24, 1\]/.test(error.message),
  );
});
