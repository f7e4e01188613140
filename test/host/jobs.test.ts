import assert from 'node:assert/strict';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { bestStep, checkpointEvery, learnRequests, seeds } from './fakeJobs.ts';
import { eventsOf, fakeJobs, hostWith, imageFolder, jobEnd, newProject, refusal, until, type Page } from './helpers.ts';
import { imageSize, rectangle } from './shapes.ts';

const train = (page: Page, steps: number, seed: number) => page.call.startTraining.mutate({ presetId: 'quick', steps, batch: 4, seed });

test('a new project is scanned; a second scan sees what changed', async (t) => {
  const { page, images } = await hostWith(t, 3);
  const project = await newProject(page);
  assert.deepEqual([project.name, project.images, project.problems, project.readOnly], ['Leaves', 3, 0, false]);
  const { rows, total } = await page.call.imagesPage.query({ offset: 1, limit: 1, filter: 'all', search: '' });
  assert.equal(total, 3);
  assert.deepEqual(rows, [
    {
      id: 2,
      path: 'image-001.png',
      width: 24,
      height: 16,
      bytes: rows[0]!.bytes,
      format: 'png',
      page: 0,
      state: 'new',
      proposed: 0,
      annotations: 0,
    },
  ]);

  const mask = rectangle(imageSize, 2, 2, 4, 4);
  await page.call.decide.mutate({ action: 'draw', imageId: 1, classId: null, rle: mask.rle, seconds: 1 });
  writeFileSync(join(images, 'broken.jpg'), '');
  rmSync(join(images, 'image-000.png'));
  await page.call.rescan.mutate();
  await jobEnd(page, 'scan');
  const after = await page.call.imagesPage.query({ offset: 0, limit: 10, filter: 'all', search: '' });
  assert.deepEqual(
    after.rows.map((row) => row.path),
    ['image-001.png', 'image-002.png'],
  );
  const [problem] = await page.call.problems.query();
  assert.deepEqual([problem!.path, problem!.code], ['broken.jpg', 'image-empty-file']);

  // The empty file is a problem, image-000 is gone; what was decided on it comes back with it.
  const { gone, counts } = (await page.call.currentProject.query())!;
  assert.deepEqual([gone, counts.drawn], [1, 1]);
  await imageFolder(join(images, '..'), 1);
  rmSync(join(images, 'broken.jpg'));
  await page.call.rescan.mutate();
  await jobEnd(page, 'scan');
  assert.deepEqual(await page.call.problems.query(), []);
  assert.equal((await page.call.currentProject.query())!.gone, 0);
  const { objects } = await page.call.reviewImage.query({ imageId: 1 });
  assert.deepEqual(
    objects.map(({ state, rle }) => [state, rle]),
    [['drawn', mask.rle]],
  );

  // An image that cannot be read any more has a problem; it is not gone.
  writeFileSync(join(images, 'image-002.png'), '');
  await page.call.rescan.mutate();
  await jobEnd(page, 'scan');
  const last = (await page.call.currentProject.query())!;
  assert.deepEqual([last.images, last.problems, last.gone], [2, 1, 0]);
});

test('a run trains, stops and resumes; metrics, checkpoints and pictures are there', async (t) => {
  const { page } = await hostWith(t, 8);
  await newProject(page);
  const listening = eventsOf(page);
  const run = await train(page, 40, seeds.slow);
  assert.deepEqual([run.id, run.state, run.totalSteps], ['1', 'running', 40]);
  assert.equal((await refusal(train(page, 10, 1))).code, 'job-running');
  await until('the first checkpoint', async () => (await page.call.runs.query())[0]!.checkpoints.includes(checkpointEvery));
  await page.call.stopTraining.mutate();
  assert.equal((await jobEnd(page, 'pretrain')).state, 'stopped');

  const [stopped] = await page.call.runs.query();
  assert.equal(stopped!.state, 'stopped');
  assert.ok(stopped!.step >= 5 && stopped!.step < 40, `stopped at ${stopped!.step}`);
  await page.call.resumeTraining.mutate({ runId: '1' });
  assert.equal((await jobEnd(page, 'pretrain')).state, 'finished');
  const [finished] = await page.call.runs.query();
  assert.deepEqual([finished!.state, finished!.step, finished!.checkpoints], ['finished', 40, [5, 10, 15, 20, 25, 30, 35, 40]]);
  const metrics = await page.call.trainMetrics.query({ runId: '1', afterStep: 37 });
  assert.deepEqual(
    metrics.map((line) => line.step),
    [38, 39, 40],
  );

  const pca = await page.call.pcaSteps.query({ runId: '1' });
  assert.deepEqual(pca[0], { step: 5, explained: 0.5, pictures: [{ imageId: 1, url: '/files/pca/1/5/0' }] });
  const picture = await page.get(pca[0]!.pictures[0]!.url);
  assert.deepEqual([picture.status, picture.headers['content-type'], picture.body.subarray(1, 4).toString()], [200, 'image/png', 'PNG']);
  assert.equal((await page.get('/files/pca/1/6/0')).status, 404);

  listening.stop();
  const kinds = new Set(listening.events.map((event) => (event.type === 'jobEvent' ? event.event.type : event.type)));
  assert.deepEqual([...kinds].sort(), ['changed', 'checkpoint', 'job', 'log', 'metrics', 'monitors', 'pca', 'progress']);
  const seen = listening.events.filter((event) => event.type === 'job').map((event) => event.job.state);
  assert.deepEqual(seen.slice(-5), ['running', 'stopping', 'stopped', 'running', 'finished']);
  // 40 steps in about a second: at most five messages a second, and the last one is never lost.
  const progress = listening.events.filter((event) => event.type === 'jobEvent' && event.event.type === 'progress');
  assert.ok(progress.length < 20, `${progress.length} progress messages`);
});

test('monitors choose the checkpoint that is proposed with; a person may choose another', async (t) => {
  const { folder, page } = await hostWith(t, 3);
  await newProject(page);
  await train(page, 40, 1);
  await jobEnd(page, 'pretrain');
  const { lines, alarms } = await page.call.trainMonitors.query({ runId: '1' });
  assert.deepEqual(
    lines.map(({ step }) => step),
    [5, 10, 15, 20, 25, 30, 35, 40],
  );
  assert.deepEqual(alarms, []);
  const [run] = await page.call.runs.query();
  assert.equal(run!.chosen!.step, bestStep);
  assert.match(run!.chosen!.reason, /60 %, the highest.*the newest, step 40/);

  const listening = eventsOf(page);
  for (const step of [null, 40]) {
    await page.call.startPrelabel.mutate({ runId: null, step });
    await jobEnd(page, 'prelabel');
  }
  listening.stop();
  const sources = listening.events.flatMap((event) =>
    event.type === 'jobEvent' && event.kind === 'prelabel' && event.event.type === 'log' ? [JSON.parse(event.event.text) as unknown] : [],
  );
  const runDir = join(folder, 'projects', 'Leaves', 'runs', '1');
  assert.deepEqual(sources, [
    { runDir, step: bestStep },
    { runDir, step: 40 },
  ]);

  assert.equal(await page.call.trainProbe.query({ runId: '1' }), null);
  const score = { linear: [0.9, 0.4], nearest: [0.8, 0.3] };
  const report = {
    createdAt: '2026-11-22T18:02:00Z',
    classes: ['background', 'leaf'],
    trainImages: 2,
    testImages: 1,
    side: 448,
    colour: score,
    untrained: score,
    checkpoints: [{ step: 40, score }],
  };
  writeFileSync(join(runDir, 'probe.json'), JSON.stringify(report));
  assert.deepEqual(await page.call.trainProbe.query({ runId: '1' }), report);
  assert.equal((await refusal(page.call.trainMonitors.query({ runId: '../1' }))).code, 'run-not-found');
});

test('why a worker ended is told in words, and its run can be resumed', async (t) => {
  const { page } = await hostWith(t, 8, { worker: { jobsModule: fakeJobs, execArgv: ['--max-old-space-size=48'], graceMs: 300 } });
  await newProject(page);
  const expected = [
    [seeds.exits, 'engine-died', /exit code 7/],
    [seeds.throws, 'not-finite', /not a number at step 8/],
    [seeds.runsOutOfMemory, 'engine-out-of-memory', /ran out of memory/],
  ] as const;
  for (const [seed, code, words] of expected) {
    const { id } = await train(page, 20, seed);
    const job = await jobEnd(page, 'pretrain');
    const run = (await page.call.runs.query()).find((one) => one.id === id)!;
    assert.deepEqual([job.state, run.state, run.error?.code, run.checkpoints], ['failed', 'failed', code, [5]]);
    assert.match(run.error!.message, words);
    assert.deepEqual(run.error, job.error);
  }
  // Resumed after step 5, it meets step 8 again; a run without a fault goes through.
  await page.call.resumeTraining.mutate({ runId: '1' });
  assert.equal((await jobEnd(page, 'pretrain')).error?.code, 'engine-died');

  const { id } = await train(page, 100_000, seeds.hearsNoStop);
  await until('a checkpoint', async () => (await page.call.runs.query()).find((one) => one.id === id)!.checkpoints.length > 0);
  await page.call.stopTraining.mutate();
  assert.equal((await jobEnd(page, 'pretrain')).state, 'stopped');
  assert.equal((await refusal(page.call.resumeTraining.mutate({ runId: '../../etc' }))).code, 'run-not-found');
});

test('proposals, clusters and live learning; nothing decided is replaced', async (t) => {
  const { page, host } = await hostWith(t, 3);
  await newProject(page);
  assert.equal((await page.call.startPrelabel.mutate({ runId: null, step: null })).kind, 'prelabel');
  assert.equal((await jobEnd(page, 'prelabel')).state, 'finished');
  assert.equal((await page.call.currentProject.query())!.counts.proposed, 9);
  const cards = await page.call.clusters.query();
  assert.deepEqual(
    cards.map(({ proposals, images, compactness, examples }) => [proposals, images, compactness, examples.length]),
    [
      [6, 3, 0.9, 6],
      [3, 3, 0.5, 3],
    ],
  );
  const { rle } = (await page.call.reviewImage.query({ imageId: 1 })).objects[0]!;
  assert.deepEqual(cards[0]!.examples[0], { proposalId: 1, imageId: 1, box: [1, 1, 4, 4], rle });

  const leaf = await page.call.createClass.mutate({ name: 'leaf', color: null });
  const named = await page.call.nameCluster.mutate({ clusterId: cards[0]!.id, classId: leaf.id });
  assert.equal(named.classId, leaf.id);
  await page.call.discardCluster.mutate({ clusterId: cards[1]!.id, discarded: true });
  assert.equal((await page.call.currentProject.query())!.counts.proposed, 6);
  assert.deepEqual(
    (await page.call.queue.query({ order: 'review', classId: leaf.id, clusterId: null })).map(({ imageId, left }) => [imageId, left]),
    [
      [1, 2],
      [2, 2],
      [3, 2],
    ],
  );

  // Accepting one starts learning a moment later; image 1 is on screen and stays as it is.
  const accepted = await page.call.decide.mutate({ action: 'accept', proposalId: 1, classId: null, seconds: 2 });
  assert.equal(accepted.label, 'Accepted as leaf');
  // What is read ahead is not on screen.
  await page.call.reviewImage.query({ imageId: 2, ahead: true });
  assert.equal((await jobEnd(page, 'learn')).state, 'finished');
  const second = await page.call.reviewImage.query({ imageId: 2 });
  // The first object again with its cluster; the second inherits that its cluster was discarded; the third was not found again.
  assert.deepEqual(
    second.objects.map(({ classId, clusterId, box }) => [classId, clusterId, box]),
    [[leaf.id, cards[0]!.id, [1, 1, 5, 4]]],
  );
  const first = await page.call.reviewImage.query({ imageId: 1 });
  assert.deepEqual(
    first.objects.map(({ kind, id, state }) => [kind, id, state]),
    [
      ['annotation', 1, 'accepted'],
      ['proposal', 3, 'proposed'],
    ],
  );

  // A new pre-label job by another network: the accepted object is not proposed again, names and discards outlive the masks.
  await train(page, 5, 1);
  await jobEnd(page, 'pretrain');
  await page.call.startPrelabel.mutate({ runId: null, step: null });
  await jobEnd(page, 'prelabel');
  const again = await page.call.reviewImage.query({ imageId: 1 });
  assert.deepEqual(
    again.objects.map(({ kind, state, classId, box }) => [kind, state, classId, box]),
    [
      ['annotation', 'accepted', leaf.id, [1, 1, 4, 4]],
      ['proposal', 'proposed', leaf.id, [1, 8, 6, 4]],
    ],
  );
  assert.deepEqual((await page.call.clusters.query()).map(({ id, classId, discarded }) => [id, classId, discarded]).slice(0, 1), [
    [cards[0]!.id, leaf.id, false],
  ]);
  void host;
});

test('learning leaves the image alone that a person looks at, also one that was read ahead', async (t) => {
  const { page } = await hostWith(t, 3);
  await newProject(page);
  await page.call.startPrelabel.mutate({ runId: null, step: null });
  await jobEnd(page, 'prelabel');
  const leaf = await page.call.createClass.mutate({ name: 'leaf', color: null });
  const idsOf = async (imageId: number) =>
    (await page.call.reviewImage.query({ imageId, ahead: true })).objects.filter(({ kind }) => kind === 'proposal').map(({ id }) => id);
  const [second, third] = [await idsOf(2), await idsOf(3)];
  await page.call.decide.mutate({ action: 'accept', proposalId: 1, classId: leaf.id, seconds: 2 });
  await page.call.lookAt.mutate({ imageId: 2 });
  assert.equal((await jobEnd(page, 'learn')).state, 'finished');
  assert.deepEqual(await idsOf(2), second);
  assert.notDeepEqual(await idsOf(3), third);
});

test('an image that is done teaches background, and nothing more is proposed in it', async (t) => {
  const { page, folder } = await hostWith(t, 3);
  await newProject(page);
  await page.call.startPrelabel.mutate({ runId: null, step: null });
  await jobEnd(page, 'prelabel');
  const leaf = await page.call.createClass.mutate({ name: 'leaf', color: null });
  const before = (await page.call.reviewImage.query({ imageId: 2 })).objects;
  await page.call.setImageDone.mutate({ imageId: 2, done: true });
  await page.call.decide.mutate({ action: 'accept', proposalId: 1, classId: leaf.id, seconds: 2 });
  await jobEnd(page, 'learn');
  const requests = () =>
    readFileSync(join(folder, 'projects', 'Leaves', 'cache', learnRequests), 'utf8')
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as { accepted: number[]; reviewed: number[]; first: number[] });
  // Next in review, so proposed for first: the surest undecided proposal is in image 3. A done image is not among them.
  const { first, ...decided } = requests().at(-1)!;
  assert.deepEqual(decided, { accepted: [1], reviewed: [2] });
  assert.deepEqual(first, [3, 1]);
  // The stand-in proposes for every image; only the open ones take it.
  const objects = async (imageId: number) => (await page.call.reviewImage.query({ imageId })).objects;
  assert.deepEqual(await objects(2), before);
  assert.deepEqual(
    (await objects(3)).map(({ box }) => box),
    [
      [1, 1, 5, 4],
      [8, 1, 5, 4],
    ],
  );
  await page.call.startPrelabel.mutate({ runId: null, step: null });
  await jobEnd(page, 'prelabel');
  assert.deepEqual(
    (await objects(2)).map(({ id }) => id),
    before.map(({ id }) => id),
  );
  // Open again: the next lesson, which that alone begins, no longer counts it, and proposes there.
  const lessons = requests().length;
  await page.call.reviewImage.query({ imageId: 3 }); // the one on screen stays as it is
  await page.call.setImageDone.mutate({ imageId: 2, done: false });
  await until('another lesson', () => requests().length > lessons && requests().at(-1)!.reviewed.length === 0);
  await jobEnd(page, 'learn');
  assert.deepEqual(
    (await objects(2)).map(({ box }) => box),
    [
      [1, 1, 5, 4],
      [8, 1, 5, 4],
    ],
  );
});

test('no checkpoint, no project, unknown ids: each refused in words', async (t) => {
  const { page } = await hostWith(t, 2);
  assert.equal((await refusal(page.call.runs.query())).code, 'project-not-found');
  assert.equal(await page.call.currentProject.query(), null);
  await newProject(page);
  const unknown = await Promise.all(
    [
      page.call.reviewImage.query({ imageId: 99 }),
      page.call.decide.mutate({ action: 'reject', proposalId: 99, seconds: 1 }),
      page.call.nameCluster.mutate({ clusterId: 99, classId: null }),
      page.call.removeClass.mutate({ classId: 99 }),
      page.call.setImageDone.mutate({ imageId: 99, done: true }),
      page.call.folderChildren.query({ folderId: '/etc' }),
    ].map(refusal),
  );
  assert.deepEqual(
    unknown.map(({ code }) => code),
    ['bad-input', 'object-gone', ...Array<string>(4).fill('bad-input')],
  );
  assert.match(unknown[0]!.message, /image 99/);
  assert.equal((await refusal(page.call.trainMetrics.query({ runId: '7', afterStep: -1 }))).code, 'run-not-found');
  assert.equal((await refusal(page.call.openRecent.mutate({ recentId: 'x' }))).code, 'project-not-found');
  assert.equal((await refusal(page.call.chooseFolder.mutate({ purpose: 'images' }))).code, 'not-allowed');
  assert.equal((await refusal(page.call.undo.mutate())).code, 'nothing-to-undo');
  assert.equal((await refusal(page.call.imagesPage.query({ offset: -1, limit: 1, filter: 'all', search: '' }))).code, 'bad-input');
  assert.equal((await refusal(page.call.runExport.mutate({ format: 'coco-rle', scope: 'reviewed' }))).code, 'nothing-to-export');
});

test("presets name this machine, and the version is the installation's", async (t) => {
  const { page } = await hostWith(t, 8);
  await newProject(page);
  const presets = await page.call.trainPresets.query();
  assert.match(presets.reason, /^8 images/);
  assert.ok(presets.presets.some((preset) => preset.id === presets.recommendedId));
  const info = await page.call.info.query();
  const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string };
  assert.deepEqual(
    [info.version, info.nativeDialogs, info.settings],
    [version, false, { reviewer: '', perReviewerFigures: false, theme: 'system' }],
  );
  assert.equal(info.engine, presets.engine);
});
