/** Curation through the host: the job with its lane, what the page asks, restarts, rescans, and the list a run is given. */
import assert from 'node:assert/strict';
import { copyFileSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import type { CurationResult } from '../../core/contract/index.ts';
import { drawConveyor } from '../../core/demo/conveyor.ts';
import { databaseName, Project } from '../../core/host/project.ts';
import { curationSummary, freshCuration, readCuration, saveCuration } from '../../core/host/store/curation.ts';
import { saveImage } from '../../core/host/store/images.ts';
import { startHost } from '../../core/host/index.ts';
import { encodePng } from '../../core/images/index.ts';
import { temporaryFolder } from '../fixtures/files.ts';
import { eventsOf, fakeJobs, hostWith, jobEnd, newProject, openPage, refusal, until, type Setting } from './helpers.ts';
import { scanned } from './shapes.ts';

const plain = { dedupe: true, balance: false, keep: null };
const first = { offset: 0, limit: 100 };

/** A host on nine scenes of the demo, the first of them under a second name. */
async function hostWithCopies(t: TestContext): Promise<Setting> {
  const setting = await hostWith(t, 0);
  for (let i = 0; i < 9; i++) {
    const bytes = await encodePng(drawConveyor(9, i + 80, 160, 120).image);
    writeFileSync(join(setting.images, `scene-${i}.png`), bytes);
    if (i === 0) writeFileSync(join(setting.images, 'again.png'), bytes);
  }
  return setting;
}

test('before the first look there is nothing to show, and that is said', async (t) => {
  const { page } = await hostWithCopies(t);
  await newProject(page);
  assert.equal(await page.call.curation.query(), null);
  for (const call of [
    page.call.duplicateGroups.query(first),
    page.call.trainingList.query(plain),
    page.call.leftOut.query({ ...plain, ...first }),
    page.call.similarImages.query({ imageIds: [1], limit: 5 }),
  ])
    assert.equal((await refusal(call)).code, 'no-curation');
});

test('copies are found, kept over a restart, out of date after a rescan; similar images are found', async (t) => {
  const { page, host, folder, images } = await hostWithCopies(t);
  const project = await newProject(page);
  const listening = eventsOf(page);
  assert.equal((await page.call.startCuration.mutate({ from: 'pictures', runId: null, step: null })).kind, 'curate');
  assert.equal((await refusal(page.call.rescan.mutate())).code, 'job-running');
  assert.equal((await jobEnd(page, 'curate')).state, 'finished');
  await until('the page to hear of it', () => listening.events.some((event) => event.type === 'changed' && event.what === 'curation'));
  listening.stop();

  const summary = (await page.call.curation.query())!;
  assert.deepEqual(
    [summary.features, summary.images, summary.groups, summary.copies, summary.exact, summary.changed, summary.gone],
    ['pictures', 10, 1, 1, 1, 0, 0],
  );
  const { total, rows } = await page.call.duplicateGroups.query(first);
  assert.deepEqual(
    [total, rows[0]!.images.map(({ path, exact, similarity }) => [path, exact, similarity])],
    [1, [['again.png', true, 1], ['scene-0.png', true, 1]]], // prettier-ignore
  );
  const preview = await page.call.trainingList.query(plain);
  assert.deepEqual([preview.images, preview.kept, preview.copies, preview.overShare], [10, 9, 1, 0]);
  assert.equal(
    preview.clusters.reduce((sum, cluster) => sum + cluster.images, 0),
    10,
  );
  const leftOut = await page.call.leftOut.query({ ...plain, ...first });
  assert.deepEqual(
    [leftOut.total, leftOut.rows[0]!.path, leftOut.rows[0]!.ofPath, leftOut.rows[0]!.reason.kind],
    [1, 'scene-0.png', 'again.png', 'duplicate'],
  );
  const balanced = await page.call.trainingList.query({ ...plain, balance: true, keep: 5 });
  assert.deepEqual([balanced.kept, balanced.copies, balanced.overShare], [5, 1, 4]);
  assert.deepEqual((await page.call.leftOut.query({ ...plain, balance: true, keep: 5, offset: 4, limit: 100 })).rows.length, 1);

  const idOf = async (path: string): Promise<number> =>
    (await page.call.imagesPage.query({ offset: 0, limit: 10, filter: 'all', search: path })).rows[0]!.id;
  const asked = await idOf('scene-3.png');
  const similar = await page.call.similarImages.query({ imageIds: [asked], limit: 3 });
  assert.deepEqual([similar.length, similar.some(({ imageId }) => imageId === asked)], [3, false]);
  assert.ok(similar[0]!.similarity >= similar[1]!.similarity && similar[1]!.similarity >= similar[2]!.similarity);
  assert.equal((await refusal(page.call.similarImages.query({ imageIds: [999], limit: 3 }))).code, 'no-curation');

  // A second host, as after a restart.
  await host.close();
  const again = await startHost({
    project: join(folder, 'projects', 'Leaves'),
    configDir: join(folder, 'config'),
    worker: { jobsModule: fakeJobs },
  });
  t.after(() => again.close());
  const later = await openPage(again.url);
  assert.deepEqual(await later.call.curation.query(), summary);
  assert.equal((await later.call.currentProject.query())!.id, project.id);
  assert.deepEqual(await later.call.similarImages.query({ imageIds: [asked], limit: 3 }), similar);

  // The folder changes: one image is new, one has other pixels, the kept copy is gone.
  copyFileSync(join(images, 'scene-1.png'), join(images, 'new.png'));
  writeFileSync(join(images, 'scene-2.png'), await encodePng(drawConveyor(9, 200, 160, 120).image));
  rmSync(join(images, 'again.png'));
  await later.call.rescan.mutate();
  await jobEnd(later, 'scan');
  const stale = (await later.call.curation.query())!;
  assert.deepEqual([stale.changed, stale.gone, stale.copies], [2, 1, 1]);
  assert.equal((await later.call.duplicateGroups.query(first)).total, 0, 'a group of one is none');
  assert.equal((await later.call.trainingList.query(plain)).copies, 0, 'the last of its group stays');
  await later.call.startCuration.mutate({ from: 'pictures', runId: null, step: null });
  await jobEnd(later, 'curate');
  const renewed = (await later.call.curation.query())!;
  assert.deepEqual([renewed.images, renewed.copies, renewed.changed, renewed.gone], [10, 1, 0, 0]);

  // The cache may be deleted at any time: the rest still answers.
  rmSync(join(folder, 'projects', 'Leaves', 'cache'), { recursive: true });
  const emptied = await refusal(later.call.similarImages.query({ imageIds: [asked], limit: 3 }));
  assert.deepEqual([emptied.code, /cache was emptied/.test(emptied.message)], ['no-curation', true]);
  assert.equal((await later.call.curation.query())!.copies, 1);
});

test('a run is given its list, what is known while that is fresh, and copies are left out unless asked for', async (t) => {
  const { page, folder, images } = await hostWithCopies(t);
  await newProject(page);
  const train = async (more: object): Promise<{ list: unknown; exclude: unknown; curationOf: number | null }> => {
    const { id } = await page.call.startTraining.mutate({ presetId: 'quick', steps: 1, batch: 2, seed: 1, ...more });
    await jobEnd(page, 'pretrain');
    return JSON.parse(readFileSync(join(folder, 'projects', 'Leaves', 'runs', id, 'config.json'), 'utf8')) as Awaited<
      ReturnType<typeof train>
    >;
  };
  const before = await train({});
  assert.deepEqual([before.list, before.exclude, before.curationOf], [plain, [], null]);
  await page.call.startCuration.mutate({ from: 'pictures', runId: null, step: null });
  await jobEnd(page, 'curate');
  const list = { dedupe: false, balance: true, keep: 8 };
  const after = await train({ list, exclude: ['scene-4'] });
  assert.deepEqual([after.list, after.exclude, after.curationOf], [list, ['scene-4'], 10]);
  copyFileSync(join(images, 'scene-1.png'), join(images, 'new.png'));
  await page.call.rescan.mutate();
  await jobEnd(page, 'scan');
  assert.equal((await train({})).curationOf, null, 'out of date');
  assert.equal((await refusal(page.call.startCuration.mutate({ from: 'network', runId: '9', step: null }))).code, 'run-not-found');
  assert.equal((await refusal(page.call.startCuration.mutate({ from: 'network', runId: '1', step: 7 }))).code, 'no-checkpoint');
  assert.equal((await refusal(page.call.trainingList.query({ ...plain, keep: 0 }))).code, 'bad-input');
});

test('a curation is read as it was saved, replaced as a whole, and a project from before it is brought up to it', (t) => {
  const folder = temporaryFolder(t);
  const project = Project.create(join(folder, 'p'), 'p', folder);
  t.after(() => project.close());
  const ids = project.write((w) => ['a.png', 'b.png', 'c.png', 'd.png'].map((path) => saveImage(w, scanned(path))));
  const [a, b, c, d] = ids as [number, number, number, number];
  const curation: CurationResult = {
    features: 'run-1-step-5',
    groups: [
      { members: [{ imageId: c, similarity: 1, exact: true }, { imageId: a, similarity: 0.93, exact: false }] }, // prettier-ignore
    ],
    clusters: [
      { compactness: 0.7, examples: [b, a] },
      { compactness: 0.4, examples: [c] },
    ],
    images: [
      { imageId: a, cluster: 0 },
      { imageId: b, cluster: 0 },
      { imageId: c, cluster: 1 },
    ],
  };
  project.write((w) => saveCuration(w, curation, ids));
  assert.deepEqual(readCuration(project), curation);
  assert.deepEqual(freshCuration(project), curation, 'the unreadable d.png does not make it out of date');
  const none: CurationResult = { features: 'pictures', groups: [], clusters: [], images: [] };
  project.write((w) => saveCuration(w, none, [a, b, c]));
  assert.deepEqual(readCuration(project), none);
  assert.deepEqual([curationSummary(project)!.changed, freshCuration(project)], [1, null], `${d} is not known to it`);

  // The same file as an older version left it.
  const old = Project.create(join(folder, 'old'), 'old', folder);
  old.write((w) => {
    for (const table of ['curation_images', 'curation_examples', 'curation_clusters', 'curation']) w.run(`DROP TABLE ${table}`);
    w.run('DROP INDEX proposals_waiting');
    w.run('PRAGMA user_version = 3');
  });
  old.close();
  const opened = Project.open(join(folder, 'old'));
  t.after(() => opened.close());
  assert.equal(curationSummary(opened), null);
  assert.ok(readFileSync(join(folder, 'old', databaseName)).length > 0);
});
