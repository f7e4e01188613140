/** Weights on the command line: a real short run goes out in every format, comes back, and proposes without a run. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { ErrorFacts, NetworkExportRow, RunRow, WeightsRow } from '../../core/contract/index.ts';
import { drawConveyor } from '../../core/demo/conveyor.ts';
import type { RunConfig } from '../../core/dinov2/index.ts';
import { readWeights, type ImportedWeights } from '../../core/dinov2/weights/index.ts';
import { encodeJpeg } from '../../core/images/index.ts';
import { temporaryFolder } from '../fixtures/files.ts';

const cli = fileURLToPath(new URL('../../core/cli.ts', import.meta.url));
const pictures = 8;

function patchwise(place: string, ...args: string[]): { code: number | null; stdout: string; stderr: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, ['--disable-warning=ExperimentalWarning', cli, ...args], {
    cwd: place,
    encoding: 'utf8',
    env: { ...process.env, PATCHWISE_CONFIG_DIR: join(place, 'config') },
  });
  return { code: status, stdout, stderr };
}

/** The answer of a call with --json that goes through. */
function answer<T>(place: string, ...args: string[]): T {
  const { code, stdout, stderr } = patchwise(place, ...args, '--json');
  assert.equal(code, 0, stdout + stderr);
  return (JSON.parse(stdout.trimEnd().split('\n').at(-1)!) as { result: T }).result;
}

/** The error of a call with --json that fails. */
function failure(place: string, ...args: string[]): ErrorFacts {
  const { code, stdout, stderr } = patchwise(place, ...args, '--json');
  assert.equal(code, 1, stdout + stderr);
  return (JSON.parse(stdout.trimEnd().split('\n').at(-1)!) as { error: ErrorFacts }).error;
}

test('calls about weights that cannot be understood', (t) => {
  const place = temporaryFolder(t);
  const cases: [string[], RegExp][] = [
    [['import-weights', 'project'], /takes a file and a folder: patchwise import-weights FILE DIR/],
    [['import-weights', 'a.pth', 'project', '--sha256', 'abc'], /64 hexadecimal digits/],
    [['export-weights', 'project'], /--format: official, huggingface, trainer-checkpoint, hand-over/],
    [['export-weights', 'project', '--format', 'onnx'], /--format takes official or .*"onnx"/],
    [['prelabel', 'project', '--weights', 'a', '--run', '1'], /takes the place of --run/],
    [['pretrain', 'project', '--from-weights', 'a', '--from-run', '1'], /--from-weights takes the place of --from-run/],
    [['pretrain', 'project', '--step', '5'], /--step names a checkpoint of the run in --from-run/],
  ];
  for (const [args, words] of cases) {
    const { code, stdout, stderr } = patchwise(place, ...args);
    assert.deepEqual([code, stdout], [2, ''], stderr);
    assert.match(stderr, words);
  }
  const { stdout } = patchwise(place, '--help');
  for (const command of ['import-weights FILE DIR', 'export-weights DIR'])
    assert.match(stdout, new RegExp(`^ +patchwise ${command} `, 'm'));
});

test('a run goes out in every format and comes back; imported weights propose', async (t) => {
  const place = temporaryFolder(t);
  const images = join(place, 'pictures');
  mkdirSync(images);
  for (let i = 0; i < pictures; i++) writeFileSync(join(images, `part-${i}.jpg`), await encodeJpeg(drawConveyor(3, i, 120, 90).image, 90));
  answer(place, 'scan', images, '--project', 'project');
  assert.equal(failure(place, 'export-weights', 'project', '--format', 'official').code, 'run-not-found');
  answer(place, 'pretrain', 'project', '--preset', 'quick', '--steps', '2', '--batch', '2', '--seed', '7');
  const teacher = await readWeights(join(place, 'project', 'runs', '1', 'checkpoints', '2', 'teacher.safetensors'));
  assert.deepEqual([teacher.config.name, teacher.config.registers, teacher.config.positionGrid], ['nano', 4, 8]);

  const official = answer<NetworkExportRow>(place, 'export-weights', 'project', '--format', 'official');
  assert.deepEqual([official.source, official.files], ['run 1 (Quick look), step 2', ['dinov2_vit_nano14_reg4.pth', 'README.md']]);
  assert.equal(official.location, join(place, 'project', 'exports', official.id));
  assert.equal((await readWeights(join(official.location, official.files[0]!))).config.positionGrid, 37);
  const folder = answer<NetworkExportRow>(place, 'export-weights', 'project', '--format', 'huggingface', '--out', 'hf');
  assert.deepEqual([folder.location, readdirSync(join(place, 'hf')).sort()], [join(place, 'hf'), [...folder.files].sort()]);
  assert.deepEqual((await readWeights(join(place, 'hf', 'model.safetensors'))).backbone, teacher.backbone);

  const handed = answer<NetworkExportRow>(place, 'export-weights', 'project', '--step', '2', '--format', 'hand-over', '--out', 'out/new');
  assert.ok(handed.files.includes('train.py'), 'nano has no official name');
  assert.equal(
    readFileSync(join(handed.location, 'images.txt'), 'utf8'),
    Array.from({ length: pictures }, (_, i) => `part-${i}.jpg\n`).join(''),
  );
  assert.match(readFileSync(join(handed.location, 'config.yaml'), 'utf8'), /^ {2}arch: "vit_nano"$/m);
  assert.deepEqual((await readWeights(join(handed.location, 'weights.pth'))).backbone, teacher.backbone);

  const filled = failure(place, 'export-weights', 'project', '--format', 'official', '--out', 'hf');
  assert.deepEqual([filled.code, /hf is not empty/.test(filled.message)], ['bad-input', true]);
  symlinkSync(images, join(place, 'link'));
  for (const out of [join(images, 'weights'), join('link', 'new', 'weights')]) {
    const inside = failure(place, 'export-weights', 'project', '--format', 'official', '--out', out);
    assert.deepEqual([inside.code, /never writes to/.test(inside.message)], ['bad-input', true]);
  }
  assert.equal(failure(place, 'export-weights', 'project', '--step', '9', '--format', 'official').code, 'no-checkpoint');
  assert.deepEqual(readdirSync(images).length, pictures);

  const checkpoint = answer<NetworkExportRow>(place, 'export-weights', 'project', '--format', 'trainer-checkpoint', '--out', 'checkpoint');
  const file = join(checkpoint.location, 'teacher_checkpoint.pth');
  const wrong = failure(place, 'import-weights', file, 'project', '--sha256', '0'.repeat(64));
  assert.equal(wrong.code, 'weights-mismatch');
  assert.equal(failure(place, 'import-weights', 'nowhere.pth', 'project').code, 'weights-unreadable');
  const row = answer<WeightsRow>(place, 'import-weights', file, 'project');
  assert.deepEqual([row.fileName, row.network.name, row.heads, row.checked], ['teacher_checkpoint.pth', 'nano', ['dino'], false]);
  const kept = await readWeights(join(place, 'project', 'weights', row.id, 'weights.safetensors'));
  assert.deepEqual([kept.config, kept.backbone, kept.heads], [teacher.config, teacher.backbone, teacher.heads]);
  const told = patchwise(place, 'import-weights', file, 'project', '--sha256', row.sha256);
  assert.match(told.stdout, /ViT nano, 128 wide, 6 blocks, patches of 14 px, 4 registers\n/);
  assert.match(told.stdout, new RegExp(`SHA-256 ${row.sha256}, as given`));

  // The same network under another name: proposals like those of the run.
  const ofRun = answer<{ proposed: number }>(place, 'prelabel', 'project').proposed;
  const ofWeights = answer<{ proposed: number }>(place, 'prelabel', 'project', '--weights', row.id).proposed;
  assert.ok(ofRun > 0);
  assert.equal(ofWeights, ofRun);
  assert.equal(failure(place, 'prelabel', 'project', '--weights', 'other').code, 'weights-not-found');
});

test('runs go on from a checkpoint and from imported weights; each folder stands alone, and merged weights go out', async (t) => {
  const place = temporaryFolder(t);
  const images = join(place, 'pictures');
  mkdirSync(images);
  for (let i = 0; i < pictures; i++) writeFileSync(join(images, `part-${i}.jpg`), await encodeJpeg(drawConveyor(4, i, 120, 90).image, 90));
  answer(place, 'scan', images, '--project', 'project');
  const few = ['--batch', '2', '--seed', '7'];
  answer(place, 'pretrain', 'project', '--preset', 'quick', '--steps', '2', ...few);
  const first = join(place, 'project', 'runs', '1', 'checkpoints', '2', 'teacher.safetensors');

  // With heads of its own a checkpoint needs no steps of the heads alone.
  const second = patchwise(place, 'pretrain', 'project', '--from-run', '1', '--step', '2', '--steps', '8', ...few);
  assert.equal(second.code, 0, second.stderr);
  assert.match(second.stderr, /Preset continue: 8 images/);
  assert.match(second.stderr, /Note: With under 1,000 images training rarely makes good weights better/);
  assert.match(
    patchwise(place, 'presets', 'project', '--from-run', '2').stdout,
    /\* continue: Continue[^]*Blocks that learn +the last 2 of 6/,
  );
  const dir = join(place, 'project', 'runs', '2');
  const { start, startedFrom, continuation } = JSON.parse(readFileSync(join(dir, 'config.json'), 'utf8')) as RunConfig;
  assert.deepEqual([start, startedFrom, continuation!.headsOnlySteps], ['weights', 'run 1 (Quick look), step 2', 0]);
  const [begun, from] = [await readWeights(join(dir, 'start.safetensors')), await readWeights(first)];
  assert.deepEqual([begun.backbone, begun.heads], [from.backbone, from.heads]);
  assert.deepEqual((await readWeights(join(dir, 'checkpoints', '0', 'teacher.safetensors'))).backbone, from.backbone);

  // It may have ended early; its last checkpoint has learned in any case.
  const last = readdirSync(join(dir, 'checkpoints'))
    .map(Number)
    .sort((a, b) => b - a)[0]!;
  assert.ok(last >= 3, String(last));
  if (last < 8) assert.match(second.stderr, new RegExp(`Ended early after ${last} of 8 steps: no better dense correspondence`));
  // What goes out has no low-rank updates, and they are in its weights.
  const out = answer<NetworkExportRow>(
    place,
    'export-weights',
    'project',
    '--run',
    '2',
    '--step',
    String(last),
    '--format',
    'trainer-checkpoint',
  );
  const trained = await readWeights(join(out.location, 'teacher_checkpoint.pth'));
  const valuesOf = ({ backbone }: ImportedWeights, name: string) => backbone.find((spec) => spec.name === name)!.values;
  assert.notDeepEqual(valuesOf(trained, 'blocks.0.attn.qkv.weight'), valuesOf(from, 'blocks.0.attn.qkv.weight'));
  assert.deepEqual(valuesOf(trained, 'blocks.0.mlp.fc1.weight'), valuesOf(from, 'blocks.0.mlp.fc1.weight'));
  assert.notDeepEqual(valuesOf(trained, 'blocks.5.mlp.fc1.weight'), valuesOf(from, 'blocks.5.mlp.fc1.weight'));
  const row = answer<WeightsRow>(place, 'import-weights', join(out.location, 'teacher_checkpoint.pth'), 'project');

  const third = answer<{ run: RunRow }>(place, 'pretrain', 'project', '--from-weights', row.id, '--steps', '1', ...few);
  assert.deepEqual([third.run.presetTitle, third.run.startedFrom], ['Continue', 'imported teacher_checkpoint.pth']);
  assert.equal(failure(place, 'pretrain', 'project', '--from-weights', 'other').code, 'weights-not-found');
  assert.ok(answer<{ proposed: number }>(place, 'prelabel', 'project', '--run', '2', '--step', String(last)).proposed > 0);
});
