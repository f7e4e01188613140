/**
 * A golden set drawn by plain float64 loops, through the golden checks on every executor: the step is proven where nothing
 * recorded lies beside the project. Then what the checks and the command say of sets that are wrong.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { cp, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, test, type TestContext } from 'node:test';
import { nodeFlags, projectRoot } from '../../build/bootstrap.mjs';
import { readSafetensors } from '../../core/dinov2/safetensors.ts';
import { createExecutor, type Executor } from '../../core/nn/index.ts';
import { executors } from '../dinov2/executors.ts';
import { goldenPath, noGolden } from '../dinov2/golden.ts';
import { temporaryFolder } from '../fixtures/files.ts';
import { writeTypedTensors, type TypedTensor } from '../fixtures/safetensors.ts';
import { noAdapter } from '../nn/webgpu-device.ts';
import { checkFolder, passes, type FolderReport } from './folder.ts';
import { makeGolden } from './make.ts';
import { assertWithin, isOut } from './rows.ts';
import type { RecordedSteps } from './train.ts';

const VIT = 'vit-patch16';
const TRAIN = 'train-centering-tied-registers-swiglu-droppath';

let drawn: string;
before(async () => {
  drawn = await mkdtemp(path.join(tmpdir(), 'patchwise-'));
  await makeGolden(drawn, 1);
});
after(() => rm(drawn, { recursive: true }));

describe('a drawn golden set', () => {
  for (const [engine, create] of executors) {
    test(`is repeated on ${engine}`, async (t) => {
      const x = await create();
      const { rows, problems } = await checkFolder(drawn, x);
      t.diagnostic(assertWithin(rows));
      assert.deepEqual(problems, []);
      const files = (await readdir(drawn)).filter((name) => name.endsWith('.safetensors')).map((name) => path.parse(name).name);
      assert.deepEqual([...new Set(rows.map(({ file }) => file))].sort(), files.sort());
      await x.dispose();
    });
  }

  // A program that acts as a GPU compiles and runs slowly: the backbone and the training with the most kinds of work.
  test('is repeated in part on webgpu', { skip: noAdapter }, async (t) => {
    const part = temporaryFolder(t);
    for (const name of ['vit-registers-swiglu.safetensors', `${TRAIN}.safetensors`, `${TRAIN}.json`])
      await cp(path.join(drawn, name), path.join(part, name));
    const x = await createExecutor({ engine: 'webgpu' });
    const { rows, problems } = await checkFolder(part, x);
    t.diagnostic(assertWithin(rows));
    assert.deepEqual(problems, []);
    assert.equal(new Set(rows.map(({ file }) => file)).size, 2);
    await x.dispose();
  });
});

describe('golden checks find', () => {
  let x: Executor;
  before(async () => {
    x = await executors[1]![1]();
  });
  after(() => x.dispose());

  /** A folder with copies of one backbone and one training, and what is found in it after a change. */
  async function afterChange(t: TestContext, change: (folder: string) => Promise<unknown>): Promise<FolderReport & { out: string[] }> {
    const folder = temporaryFolder(t);
    for (const name of [`${VIT}.safetensors`, `${TRAIN}.safetensors`, `${TRAIN}.json`]) {
      await cp(path.join(drawn, name), path.join(folder, name));
    }
    await change(folder);
    const report = await checkFolder(folder, x);
    return { ...report, out: report.rows.filter(isOut).map(({ file, what, which }) => `${file} ${what} ${which}`) };
  }

  async function changeTensors(folder: string, stem: string, change: (tensors: Map<string, TypedTensor>) => void): Promise<void> {
    const file = path.join(folder, `${stem}.safetensors`);
    const tensors = new Map([...(await readSafetensors(file)).tensors].map(([name, tensor]) => [name, { name, ...tensor }]));
    change(tensors);
    await writeTypedTensors(file, [...tensors.values()]);
  }

  async function changeJson(folder: string, change: (facts: RecordedSteps) => void): Promise<void> {
    const file = path.join(folder, `${TRAIN}.json`);
    const facts = JSON.parse(await readFile(file, 'utf8')) as RecordedSteps;
    change(facts);
    await writeFile(file, JSON.stringify(facts));
  }

  const scale =
    (name: string, factor: number) =>
    (tensors: Map<string, TypedTensor>): void => {
      const { values } = tensors.get(name)!;
      for (let i = 0; i < values.length; i++) values[i]! *= factor;
    };

  test('nothing in the copies', async (t) => {
    const report = await afterChange(t, async () => {});
    assert.ok(passes(report));
  });

  for (const [what, change, expected] of [
    ['an output', (f) => changeTensors(f, VIT, scale('64x32.masked.cls', 1 + 2e-5)), [`${VIT} masked.cls 64x32`]],
    ['a NaN', (f) => changeTensors(f, VIT, scale('48x48.patch', NaN)), [`${VIT} patch 48x48`]],
    ['a target', (f) => changeTensors(f, TRAIN, scale('step2.teacher_ibot_targets', 1.002)), [`${TRAIN} step 2: targets ibot`]],
    [
      'a gradient',
      (f) => changeTensors(f, TRAIN, scale('grad0.backbone.mask_token', 1 + 2e-4)),
      [`${TRAIN} step 0: gradients backbone.mask_token`],
    ],
    [
      'a final weight',
      (f) => changeTensors(f, TRAIN, scale('student3.backbone.norm.bias', 1.0001)),
      [`${TRAIN} final student backbone.norm.bias`],
    ],
    ['a loss', (f) => changeJson(f, ({ steps }) => (steps[1]!.koleo *= 1 + 3e-5)), [`${TRAIN} step 1: losses koleo`]],
    [
      'a norm',
      (f) => changeJson(f, ({ steps }) => (steps[0]!.grad_norm['dino_head']! *= 1.001)),
      [`${TRAIN} step 0: gradient norm dino_head`],
    ],
    [
      'a multiplier',
      (f) => changeJson(f, (facts) => (facts.param_groups['backbone.blocks.1.ls1.gamma']!.wd = 1)),
      [`${TRAIN} multiplier of the decay backbone.blocks.1.ls1.gamma`],
    ],
  ] as const satisfies readonly (readonly [string, (folder: string) => Promise<void>, readonly string[]])[]) {
    test(`${what} that is a little off`, async (t) => {
      const report = await afterChange(t, change);
      assert.deepEqual(report.problems, []);
      assert.deepEqual(report.out, expected);
      assert.ok(!passes(report));
    });
  }

  for (const [what, change, file, words] of [
    ['a name of no kind', (f) => writeFile(path.join(f, 'notes.bin'), ''), 'notes.bin', /no kind of golden file/],
    ['a folder', (f) => mkdir(path.join(f, 'vit-more')), 'vit-more', /no kind of golden file/],
    [
      'a file cut short',
      async (f) => writeFile(path.join(f, `${VIT}.safetensors`), (await readFile(path.join(f, `${VIT}.safetensors`))).subarray(0, -9)),
      `${VIT}.safetensors`,
      /too early/,
    ],
    ['a file that is something else', (f) => writeFile(path.join(f, 'vit-x.safetensors'), 'PK and so on'), 'vit-x.safetensors', /header/],
    ['a missing json', (f) => rm(path.join(f, `${TRAIN}.json`)), `${TRAIN}.safetensors`, /\.json cannot be read: ENOENT/],
    ['a broken json', (f) => writeFile(path.join(f, `${TRAIN}.json`), '{"batch": 4,'), `${TRAIN}.safetensors`, /\.json cannot be read/],
    [
      'a json without what it must say',
      (f) => changeJson(f, (facts) => Reflect.deleteProperty(facts.steps[1]!, 'teacher_temp')),
      `${TRAIN}.safetensors`,
      /steps\[1\]\.teacher_temp/,
    ],
    ['missing tensors', (f) => rm(path.join(f, `${TRAIN}.safetensors`)), `${TRAIN}.json`, /safetensors is missing/],
    [
      'a missing tensor',
      (f) => changeTensors(f, TRAIN, (tensors) => tensors.delete('grad0.backbone.norm.weight')),
      `${TRAIN}.safetensors`,
      /no tensor grad0\.backbone\.norm\.weight/,
    ],
    [
      'samples kept by drop path that are not recorded',
      (f) => changeTensors(f, TRAIN, (tensors) => tensors.delete('step0.drop_path.local.1.ffn')),
      `${TRAIN}.safetensors`,
      /no tensor step0\.drop_path\.local\.1\.ffn/,
    ],
    [
      'a parameter without multipliers',
      (f) => changeJson(f, (facts) => Reflect.deleteProperty(facts.param_groups, 'backbone.norm.bias')),
      `${TRAIN}.safetensors`,
      /no multipliers of backbone\.norm\.bias/,
    ],
    [
      'tokens of a width that no DINOv2 has',
      (f) =>
        changeTensors(f, VIT, (tensors) => tensors.set('weights.cls_token', { ...tensors.get('weights.cls_token')!, shape: [1, 2, 32] })),
      `${VIT}.safetensors`,
      /32 wide/,
    ],
  ] as const satisfies readonly (readonly [string, (folder: string) => Promise<unknown>, string, RegExp])[]) {
    test(`${what}, and name the file`, async (t) => {
      const report = await afterChange(t, change);
      assert.deepEqual(
        report.problems.map((problem) => problem.file),
        [file],
      );
      assert.match(report.problems[0]!.text, words);
      assert.ok(!passes(report));
      assert.deepEqual(report.out, []);
      if (file.startsWith(TRAIN))
        assert.ok(
          report.rows.some((row) => row.file === VIT),
          'the other file is still checked',
        );
    });
  }

  test('no comparison at all in an empty folder', async (t) => {
    assert.ok(!passes(await checkFolder(temporaryFolder(t), x)));
  });

  test('in float16, losses coarsely, gradients by part, no final weights', async () => {
    const { rows } = await checkFolder(drawn, x, { precision: 'f16' });
    assertWithin(rows);
    assert.ok(!rows.some(({ what }) => what.startsWith('final') || what.endsWith(': gradients')));
    assert.ok(rows.some(({ what, tolerance }) => what.endsWith(': losses') && tolerance === 1e-2));
    assert.ok(
      rows.some(({ what, which, tolerance }) => what.endsWith(': gradients, pooled') && which === 'dino_head' && tolerance === 5e-2),
    );
  });
});

describe('npm run golden', () => {
  const golden = (...args: string[]) =>
    spawnSync(process.execPath, [...nodeFlags, path.join(projectRoot, 'test/golden/main.ts'), ...args], {
      encoding: 'utf8',
      timeout: 120_000,
    });

  test('prints a table and ends with 0 on a set that is right', () => {
    const { status, stdout } = golden(drawn, '--engine', 'cpu');
    assert.equal(status, 0, stdout);
    assert.match(stdout, /on cpu \(/);
    assert.match(stdout, /^file +what +error +tolerance$/m);
    assert.match(stdout, /^vit-registers-swiglu +reg, worst of 2: \d+x\d+ +\d\.\de-\d +1\.0e-5 +ok$/m);
    assert.match(stdout, /^\d+ comparisons, 0 out of tolerance; 0 files failed$/m);
  });

  test('says what is out and which file it cannot read, and ends with 1', async (t) => {
    const folder = temporaryFolder(t);
    await cp(path.join(drawn, 'augment.safetensors'), path.join(folder, 'augment.safetensors'));
    const crops = JSON.parse(await readFile(path.join(drawn, 'augment.json'), 'utf8')) as { left: number }[];
    crops[1]!.left++;
    await writeFile(path.join(folder, 'augment.json'), JSON.stringify(crops));
    await writeFile(path.join(folder, 'vit-broken.safetensors'), 'no tensors');
    await writeFile(path.join(folder, 'import-official.pth'), '');
    const { status, stdout } = golden(folder);
    assert.equal(status, 1, stdout);
    assert.match(stdout, /^augment +mean difference, 0\.crop1 +\d\.\de\+\d +1\.0e\+0 +OUT$/m);
    assert.match(stdout, /^vit-broken\.safetensors: FAILED: /m);
    assert.match(stdout, /^import-official\.pth: FAILED: .*import-expected/m);
  });

  test('refuses in words what it does not know, and ends with 2', () => {
    for (const [args, words] of [
      [[drawn, '--engine', 'abacus'], /no engine abacus/],
      [[drawn, '--precision', 'f8'], /not f8/],
      [['--seed', 'x'], /not x/],
      [[drawn, drawn], /One folder at a time/],
      [[path.join(drawn, 'nowhere')], /The folder .*nowhere cannot be read/],
    ] as const) {
      const { status, stderr } = golden(...args);
      assert.equal(status, 2);
      assert.match(stderr, words);
      assert.doesNotMatch(stderr, /\n\s+at /);
    }
  });
});

test('every recorded file beside the project is of a kind that is known', { skip: noGolden }, async () => {
  const names = await readdir(goldenPath('.'));
  assert.deepEqual(
    names.filter((name) => !/^(vit-|train-|augment|import-)|\.md$/.test(name)),
    [],
  );
});

test('what the drawn set is made of shares no code with what it checks', async () => {
  for (const file of [
    'golden/plain-step.ts',
    'golden/plain-update.ts',
    'golden/plain-pixels.ts',
    'nn/plain.ts',
    'nn/reference-executor.ts',
  ]) {
    const text = await readFile(path.join(projectRoot, 'test', file), 'utf8');
    const imported = [...text.matchAll(/^import (?!type )[^;]*from '([^']+)'/gm)].map((match) => match[1]);
    assert.deepEqual(
      imported.filter((from) => from !== '../nn/plain.ts'),
      [],
      file,
    );
  }
});
