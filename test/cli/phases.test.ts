/** Runs that follow others, by the command line: accumulation, a high-resolution phase, distillation from imported weights. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { RunRow, WeightsRow } from '../../core/contract/index.ts';
import { drawConveyor } from '../../core/demo/conveyor.ts';
import { headParameters } from '../../core/dinov2/heads.ts';
import { modelConfig, type RunConfig } from '../../core/dinov2/index.ts';
import { writeSafetensors } from '../../core/dinov2/safetensors.ts';
import { vitParameters } from '../../core/dinov2/vit.ts';
import { encodeJpeg } from '../../core/images/index.ts';
import { Random } from '../../core/random.ts';

const cli = fileURLToPath(new URL('../../core/cli.ts', import.meta.url));

function patchwise(args: readonly string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    execFile(process.execPath, [cli, ...args], { maxBuffer: 1e8 }, (error, stdout, stderr) =>
      resolve({ code: typeof error?.code === 'number' ? error.code : error ? -1 : 0, stdout, stderr }),
    );
  });
}

test('a run of two batches a step, a phase after it, and a student of it', async (t) => {
  const place = await mkdtemp(path.join(tmpdir(), 'patchwise-phases-'));
  t.after(() => rm(place, { recursive: true, force: true }));
  const [images, project] = [path.join(place, 'pictures'), path.join(place, 'project')];
  await mkdir(images);
  for (let i = 0; i < 8; i++) await writeFile(path.join(images, `part-${i}.jpg`), await encodeJpeg(drawConveyor(4, i, 160, 120).image, 90));
  const train = async (...options: string[]): Promise<{ run: RunRow; config: RunConfig; dir: string }> => {
    const { code, stdout, stderr } = await patchwise(['pretrain', project, ...options, '--no-dedupe', '--json']);
    assert.equal(code, 0, stdout + stderr);
    const { run } = (JSON.parse(stdout.trimEnd().split('\n').at(-1)!) as { result: { run: RunRow } }).result;
    const dir = path.join(project, 'runs', run.id);
    return { run, dir, config: JSON.parse(await readFile(path.join(dir, 'config.json'), 'utf8')) as RunConfig };
  };

  const first = await train('--images', images, '--preset', 'quick', '--steps', '1', '--batch', '2', '--accumulate', '2');
  assert.deepEqual([first.run.state, first.config.batch, first.config.accumulate, first.config.model.name], ['finished', 2, 2, 'nano']);

  const phase = await train('--preset', 'high-resolution', '--from-run', first.run.id, '--step', '1', '--size', '140', '--steps', '1');
  assert.deepEqual([phase.run.state, phase.run.presetTitle], ['finished', 'High resolution']);
  assert.equal(phase.config.startedFrom, `run ${first.run.id} (Quick look), step 1`);
  assert.deepEqual([phase.config.crops.globalSize, phase.config.model.positionGrid, phase.config.batch], [140, 10, 2]);
  assert.ok((await stat(path.join(phase.dir, 'start.safetensors'))).size > 0);

  // A training checkpoint of another program's making, with separate heads, larger than any student here.
  const model = { ...modelConfig('small', { patchSize: 16, positionGrid: 4 }), embedDim: 256, depth: 2, heads: 4 };
  const heads = { dino: { hidden: 64, bottleneck: 32, prototypes: 96 }, ibot: { hidden: 64, bottleneck: 24, prototypes: 80 } };
  const random = new Random(6);
  const tensors = [
    ...vitParameters(model, random, 'teacher.backbone.'),
    ...[headParameters(heads.dino, 256, random, 'dino_head'), headParameters(heads.ibot, 256, random, 'ibot_head')]
      .flat()
      .map((spec) => ({ ...spec, name: `teacher.${spec.name}` })),
  ];
  const file = path.join(place, 'large.safetensors');
  await writeSafetensors(file, tensors, {});
  const imported = await patchwise(['import-weights', file, project, '--json']);
  assert.equal(imported.code, 0, imported.stderr);
  const { id } = (JSON.parse(imported.stdout.trimEnd().split('\n').at(-1)!) as { result: WeightsRow }).result;

  const student = await train('--distill-from-weights', id, '--steps', '1', '--batch', '2');
  assert.deepEqual([student.run.state, student.config.presetId, student.config.model.name], ['finished', 'distill', 'nano']);
  const { distillation, model: small, crops } = student.config;
  assert.deepEqual(
    [distillation!.model.embedDim, distillation!.model.depth, distillation!.taughtBy],
    [256, 2, 'imported large.safetensors'],
  );
  assert.deepEqual([student.config.heads.dino.prototypes, student.config.heads.ibot!.prototypes], [96, 80]);
  assert.deepEqual([small.patchSize, crops.globalSize % 16, crops.localSize % 16], [16, 0, 0]);
  assert.ok((await stat(path.join(student.dir, 'teacher.safetensors'))).size > 0);

  const refusals: [options: string[], code: number, words: RegExp][] = [
    [['--distill-from-run', student.run.id], 1, /no smaller network/],
    [['--distill-from-weights', 'none'], 1, /no imported weights "none"/],
    [['--from-run', first.run.id, '--preset', 'quick'], 2, /no preset "quick"/],
    [['--size', '140'], 2, /--size/],
    [['--from-run', first.run.id, '--distill-from-run', first.run.id], 2, /random weights/],
  ];
  for (const [options, code, words] of refusals) {
    const ended = await patchwise(['pretrain', project, ...options]);
    assert.equal(ended.code, code, ended.stderr);
    assert.match(ended.stderr, words);
  }
});
