/** Weights through the host: found without a path, imported once, proposed with, written for other programs. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { DatabaseSync } from 'node:sqlite';
import type { ModelConfig, RunConfig } from '../../core/dinov2/config.ts';
import { headParameters } from '../../core/dinov2/heads.ts';
import { writeSafetensors } from '../../core/dinov2/safetensors.ts';
import { readWeights } from '../../core/dinov2/weights/index.ts';
import { Random } from '../../core/random.ts';
import { drawn, smallHead, smallModel } from '../dinov2/weights-fixtures.ts';
import { tinyRun } from '../dinov2/tiny-run.ts';
import { temporaryFolder } from '../fixtures/files.ts';
import { learnRequests } from './fakeJobs.ts';
import { hostWith, jobEnd, newProject, refusal, until, type Page } from './helpers.ts';
import { scanned } from './shapes.ts';

const config = smallModel({ registers: 4 });

/** A file of weights in a folder that the page may look into. */
async function placed(folder: string): Promise<{ sha256: string; dir: string }> {
  const dir = join(folder, 'downloads');
  mkdirSync(dir);
  const file = join(dir, 'dinov2_small.safetensors');
  await writeSafetensors(file, drawn(config), {});
  return { dir, sha256: createHash('sha256').update(readFileSync(file)).digest('hex') };
}

async function filesOf(page: Page, name = 'downloads') {
  const [root] = await page.call.folderRoots.query();
  const { children } = await page.call.folderChildren.query({ folderId: root!.id });
  return page.call.folderFiles.query({ folderId: children.find((child) => child.name === name)!.id });
}

test('files of weights are listed by id, inside the roots only, and no path is taken', async (t) => {
  const { page, folder } = await hostWith(t, 1);
  const { dir } = await placed(folder);
  const outside = temporaryFolder(t);
  writeFileSync(join(outside, 'secret.pth'), 'secret');
  symlinkSync(join(outside, 'secret.pth'), join(dir, 'link-out.pth'));
  symlinkSync('dinov2_small.safetensors', join(dir, 'alias.safetensors'));
  writeFileSync(join(dir, 'notes.txt'), 'no weights');
  writeFileSync(join(dir, '.hidden.pth'), 'no');
  mkdirSync(join(dir, 'folder.pth'));
  await newProject(page);
  const files = await filesOf(page);
  assert.deepEqual(
    files.map(({ name }) => name),
    ['alias.safetensors', 'dinov2_small.safetensors'],
  );
  assert.equal(files[0]!.bytes, readFileSync(join(dir, 'dinov2_small.safetensors')).length);
  for (const id of [join(outside, 'secret.pth'), join(dir, 'dinov2_small.safetensors'), '../secret.pth', '']) {
    assert.equal((await refusal(page.call.importWeights.mutate({ fileId: id, sha256: null }))).code, 'bad-input');
  }
  // A folder's id is none of a file.
  const [root] = await page.call.folderRoots.query();
  assert.equal((await refusal(page.call.importWeights.mutate({ fileId: root!.id, sha256: null }))).code, 'bad-input');
  assert.equal((await refusal(page.call.folderFiles.query({ folderId: files[0]!.id }))).code, 'bad-input');
  assert.equal((await refusal(page.call.chooseWeightsFile.mutate())).code, 'not-allowed');
});

test('the native dialog gives a file, anywhere, or nothing', async (t) => {
  const outside = temporaryFolder(t);
  const file = join(outside, 'w.safetensors');
  await writeSafetensors(file, drawn(config), {});
  const answers: (string | null)[] = [null, file, join(outside, 'gone.pth')];
  const asked: string[] = [];
  const { page } = await hostWith(t, 1, { chooseFolder: async (purpose) => (asked.push(purpose), answers.shift() ?? null) });
  await newProject(page);
  assert.equal(await page.call.chooseWeightsFile.mutate(), null);
  const chosen = await page.call.chooseWeightsFile.mutate();
  assert.equal(chosen!.name, 'w.safetensors');
  assert.equal((await page.call.importWeights.mutate({ fileId: chosen!.id, sha256: null })).network.embedDim, 64);
  assert.equal((await refusal(page.call.chooseWeightsFile.mutate())).code, 'weights-unreadable');
  assert.deepEqual(asked, ['weights', 'weights', 'weights']);
});

test('a file is imported once, compared with the SHA-256 that was given, and its network kept whole', async (t) => {
  const { page, folder } = await hostWith(t, 1);
  const { dir, sha256 } = await placed(folder);
  writeFileSync(join(dir, 'broken.pth'), '<html>');
  await newProject(page);
  const project = join(folder, 'projects', 'Leaves');
  const files = await filesOf(page);
  const fileId = files.find(({ name }) => name === 'dinov2_small.safetensors')!.id;

  const other = await refusal(page.call.importWeights.mutate({ fileId, sha256: 'a'.repeat(64) }));
  assert.deepEqual(
    [other.code, other.message],
    ['weights-mismatch', `dinov2_small.safetensors has the SHA-256 ${sha256}, not ${'a'.repeat(64)}.`],
  );
  const broken = await refusal(
    page.call.importWeights.mutate({ fileId: files.find(({ name }) => name === 'broken.pth')!.id, sha256: null }),
  );
  assert.deepEqual([broken.code, broken.message], ['weights-unreadable', 'broken.pth: it is a web page.']);
  assert.deepEqual(await page.call.weights.query(), []);
  assert.equal(existsSync(join(project, 'weights')), false);

  const row = await page.call.importWeights.mutate({ fileId, sha256: null });
  assert.deepEqual(
    { ...row, importedAt: '' },
    {
      id: sha256.slice(0, 16),
      fileName: 'dinov2_small.safetensors',
      bytes: readFileSync(join(dir, 'dinov2_small.safetensors')).length,
      sha256,
      checked: false,
      importedAt: '',
      layout: 'safetensors file, official names',
      type: 'F32',
      network: {
        name: 'custom',
        embedDim: 64,
        depth: 2,
        patchSize: 14,
        registers: 4,
        positionGrid: 8,
        parameters: drawn(config).reduce((n, { values }) => n + values.length, 0),
      },
      heads: [],
      notes: [],
    },
  );
  const again = await page.call.importWeights.mutate({ fileId, sha256: ` ${sha256.toUpperCase()} ` });
  assert.deepEqual(again, { ...row, checked: true });
  assert.deepEqual(await page.call.weights.query(), [again]);
  assert.deepEqual(readdirSync(join(project, 'weights')), [row.id]);
  assert.deepEqual((await readWeights(join(project, 'weights', row.id, 'weights.safetensors'))).backbone, drawn(config));

  await page.call.removeWeights.mutate({ weightsId: row.id });
  assert.deepEqual([await page.call.weights.query(), readdirSync(join(project, 'weights'))], [[], []]);
  assert.equal((await refusal(page.call.removeWeights.mutate({ weightsId: row.id }))).code, 'weights-not-found');

  // Asked for several times at once, it is written once.
  const rows = await Promise.all([1, 2, 3].map(() => page.call.importWeights.mutate({ fileId, sha256: null })));
  assert.deepEqual([rows[1], rows[2]], [rows[0], rows[0]]);
  assert.deepEqual((await readWeights(join(project, 'weights', row.id, 'weights.safetensors'))).backbone, drawn(config));
});

test('proposals come from imported weights without a run, learning goes on with them, and they are kept meanwhile', async (t) => {
  const { page, folder } = await hostWith(t, 2);
  const { sha256 } = await placed(folder);
  await newProject(page);
  const [file] = await filesOf(page);
  const { id } = await page.call.importWeights.mutate({ fileId: file!.id, sha256: null });
  assert.equal(
    (await refusal(page.call.startPrelabel.mutate({ runId: null, step: null, weightsId: 'nothing' }))).code,
    'weights-not-found',
  );
  await page.call.startPrelabel.mutate({ runId: null, step: null, weightsId: id });
  assert.equal((await jobEnd(page, 'prelabel')).state, 'finished');
  const used = await refusal(page.call.removeWeights.mutate({ weightsId: id }));
  assert.deepEqual([used.code, /dinov2_small\.safetensors/.test(used.message)], ['weights-in-use', true]);

  const leaf = await page.call.createClass.mutate({ name: 'leaf', color: null });
  const [first] = (await page.call.reviewImage.query({ imageId: 1 })).objects;
  await page.call.decide.mutate({ action: 'accept', proposalId: first!.id, classId: leaf.id, seconds: 1 });
  const project = join(folder, 'projects', 'Leaves');
  await until('learning', () => existsSync(join(project, 'cache', learnRequests)));
  await jobEnd(page, 'learn');
  await page.call.closeProject.mutate();
  const db = new DatabaseSync(join(project, 'project.sqlite'), { readOnly: true });
  const keys = db
    .prepare('SELECT DISTINCT model_key FROM proposals')
    .all()
    .map((row) => row['model_key']);
  const settings = db.prepare('SELECT model_key, model_run_id, model_weights_id FROM settings').get()!;
  db.close();
  assert.deepEqual(keys, [`weights-${sha256}`]);
  assert.deepEqual({ ...settings }, { model_key: `weights-${sha256}`, model_run_id: null, model_weights_id: id });
});

test('networks are written for other programs, listed, and refused in words', async (t) => {
  const { page, folder } = await hostWith(t, 2);
  await placed(folder);
  await newProject(page);
  const project = join(folder, 'projects', 'Leaves');
  const [file] = await filesOf(page);
  const { id } = await page.call.importWeights.mutate({ fileId: file!.id, sha256: null });
  const network = { weightsId: id };
  for (const [format, expected] of [
    ['official', ['README.md', 'dinov2_vit_custom14_reg4.pth']],
    ['huggingface', ['README.md', 'config.json', 'model.safetensors', 'preprocessor_config.json']],
    ['trainer-checkpoint', ['README.md', 'teacher_checkpoint.pth']],
  ] as const) {
    const row = await page.call.exportNetwork.mutate({ network, format });
    assert.deepEqual([row.source, row.format, [...row.files].sort()], ['imported dinov2_small.safetensors', format, expected]);
    assert.deepEqual(readdirSync(row.location).sort(), expected);
    const weights = await readWeights(
      join(
        row.location,
        row.files.find((name) => /\.(pth|safetensors)$/.test(name))!,
      ),
    );
    assert.deepEqual(
      weights.backbone.filter(({ name }) => name !== 'pos_embed'),
      drawn(config).filter(({ name }) => name !== 'pos_embed'),
    );
  }
  assert.deepEqual((await page.call.networkExports.query()).map(({ format }) => format).sort(), [
    'huggingface',
    'official',
    'trainer-checkpoint',
  ]);
  const without = await refusal(page.call.exportNetwork.mutate({ network, format: 'hand-over' }));
  assert.deepEqual([without.code, /imported weights have none/.test(without.message)], ['bad-input', true]);
  assert.equal(
    (await refusal(page.call.exportNetwork.mutate({ network: { runId: '7', step: null }, format: 'official' }))).code,
    'run-not-found',
  );

  // A run of the stand-in has no network in its checkpoints: refused, and nothing is left.
  await page.call.startTraining.mutate({ presetId: 'quick', steps: 5, batch: 4, seed: 1 });
  await jobEnd(page, 'pretrain');
  const exports = join(project, 'exports');
  const before = readdirSync(exports);
  assert.equal(
    (await refusal(page.call.exportNetwork.mutate({ network: { runId: '1', step: null }, format: 'official' }))).code,
    'weights-unreadable',
  );
  assert.equal(
    (await refusal(page.call.exportNetwork.mutate({ network: { runId: '1', step: 3 }, format: 'official' }))).code,
    'no-checkpoint',
  );
  assert.deepEqual(readdirSync(exports), before);

  // With a real one in its place, it is handed over with the images of the run, first pages only.
  const run = join(project, 'runs', '1');
  await writeSafetensors(
    join(run, 'checkpoints', '5', 'teacher.safetensors'),
    drawn(config).map((spec) => ({ ...spec, name: `teacher.backbone.${spec.name}` })),
    {},
  );
  writeFileSync(join(run, 'config.json'), JSON.stringify(tinyRun({ model: config })));
  const images = [scanned('b/c.tif'), { ...scanned('b/c.tif'), page: 1 }, scanned('d.png')];
  writeFileSync(join(run, 'images.jsonl'), images.map((image) => `${JSON.stringify(image)}\n`).join(''));
  const handed = await page.call.exportNetwork.mutate({ network: { runId: '1', step: 5 }, format: 'hand-over' });
  assert.match(handed.source, /^run 1 \(.+\), step 5$/);
  assert.equal(readFileSync(join(handed.location, 'images.txt'), 'utf8'), 'b/c.tif\nd.png\n');
  assert.match(readFileSync(join(handed.location, 'README.md'), 'utf8'), /the Patchwise project "Leaves", run 1/);
});

test('a run starts from imported weights or a checkpoint, by the preset for them, and says so', async (t) => {
  const { page, folder } = await hostWith(t, 2);
  await placed(folder);
  await newProject(page);
  const project = join(folder, 'projects', 'Leaves');
  const [file] = await filesOf(page);
  const { id: weightsId } = await page.call.importWeights.mutate({ fileId: file!.id, sha256: null });
  const from = { weightsId };
  const offered = await page.call.trainPresets.query({ from });
  assert.deepEqual([offered.presets.map(({ id }) => id), offered.presets[0]!.model], [['continue'], 'custom']);
  assert.match(offered.warning!, /under 1,000 images/);
  assert.equal((await page.call.trainPresets.query()).presets.length, 3);
  assert.equal((await page.call.trainPresets.query({ from: null })).warning, null);

  const numbers = { steps: 5, batch: 4, seed: 1 };
  const started = await page.call.startTraining.mutate({ from, presetId: 'continue', ...numbers });
  await jobEnd(page, 'pretrain');
  const written = (runId: string) =>
    JSON.parse(readFileSync(join(project, 'runs', runId, 'config.json'), 'utf8')) as RunConfig & { startFile?: string };
  const told = (await page.call.runs.query()).find(({ id }) => id === started.id)!;
  assert.deepEqual([told.presetTitle, told.model, told.startedFrom], ['Continue', 'custom', 'imported dinov2_small.safetensors']);
  const { model, start, startFile } = written(started.id);
  assert.deepEqual([start, model.embedDim, model.registers], ['weights', 64, 4]);
  assert.equal(startFile, join(project, 'weights', weightsId, 'weights.safetensors'));

  // A checkpoint: of the stand-in it is none; with a real one in its place it is read, with its heads.
  const ofRun = { from: { runId: started.id, step: null }, presetId: 'continue', ...numbers };
  assert.equal((await refusal(page.call.startTraining.mutate(ofRun))).code, 'weights-unreadable');
  const checkpoint = (runId: string, trained: ModelConfig): Promise<void> => {
    const heads = headParameters(smallHead, trained.embedDim, new Random(1), 'dino_head');
    return writeSafetensors(
      join(project, 'runs', runId, 'checkpoints', '5', 'teacher.safetensors'),
      [...drawn(trained).map((spec) => ({ ...spec, name: `backbone.${spec.name}` })), ...heads].map((spec) => ({
        ...spec,
        name: `teacher.${spec.name}`,
      })),
      { config: JSON.stringify(tinyRun({ model: trained, heads: { dino: smallHead, ibot: null } })) },
    );
  };
  await checkpoint(started.id, config);
  const second = await page.call.startTraining.mutate(ofRun);
  await jobEnd(page, 'pretrain');
  assert.equal(second.presetTitle, 'Continue');
  assert.equal(written(second.id).startedFrom, `run ${started.id} (Continue), step 5`);

  // A checkpoint as the frozen teacher of a smaller student, whose step has several batches; this one is too small to teach.
  const small = { from: null, distillFrom: { runId: started.id, step: 5 } };
  const { code: tooSmall, message } = await refusal(page.call.trainPresets.query(small));
  assert.equal(tooSmall, 'bad-input');
  assert.match(message, /64 wide .* no smaller network that it could teach/);
  const distillFrom = { runId: second.id, step: 5 };
  await checkpoint(second.id, { ...config, embedDim: 384, heads: 6 });
  const taught = await page.call.trainPresets.query({ from: null, distillFrom });
  assert.deepEqual(
    taught.presets.map(({ id, accumulate }) => [id, accumulate]),
    [['distill', 1]],
  );
  const third = await page.call.startTraining.mutate({ distillFrom, presetId: 'distill', ...numbers, accumulate: 3 });
  await jobEnd(page, 'pretrain');
  const { distillation, accumulate } = written(third.id);
  assert.deepEqual([distillation?.taughtBy, accumulate], [`run ${second.id} (Continue), step 5`, 3]);
  assert.equal((await page.call.runs.query()).find(({ id }) => id === third.id)!.taughtBy, distillation!.taughtBy);
  assert.equal((await refusal(page.call.startTraining.mutate({ ...numbers, from, distillFrom, presetId: 'distill' }))).code, 'bad-input');

  for (const [input, code] of [
    [{ ...numbers, from, presetId: 'quick' }, 'bad-input'],
    [{ ...numbers, from: null, presetId: 'continue' }, 'bad-input'],
    [{ ...numbers, from: { weightsId: 'other' }, presetId: 'continue' }, 'weights-not-found'],
    [{ ...numbers, from: { runId: '99', step: null }, presetId: 'continue' }, 'run-not-found'],
    [{ ...numbers, from: { runId: started.id, step: 4 }, presetId: 'continue' }, 'no-checkpoint'],
  ] as const)
    assert.equal((await refusal(page.call.startTraining.mutate(input))).code, code, JSON.stringify(input));
  assert.equal((await page.call.runs.query()).length, 3);
});

test('what is published is told, with where it is', async (t) => {
  const { page } = await hostWith(t, 1);
  const published = await page.call.publishedWeights.query();
  assert.equal(published.length, 8);
  const [small] = published;
  assert.deepEqual(
    [small!.url, small!.derivedBytes],
    ['https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/dinov2_vits14_pretrain.pth', 88_226_304],
  );
});
