// The host as its own process, killed in the middle of training and of a review.
import assert from 'node:assert/strict';
import { fork, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { temporaryFolder } from '../fixtures/files.ts';
import { seeds } from './fakeJobs.ts';
import { hostProcess, imageFolder, jobEnd, killHard, newProject, openPage, refusal, until } from './helpers.ts';

/** Pids of the workers of a host, from /proc. */
function workersOf(pid: number): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((candidate) => {
      try {
        return Number(readFileSync(`/proc/${candidate}/stat`, 'utf8').split(') ')[1]!.split(' ')[1]) === pid;
      } catch {
        return false;
      }
    });
}

function isAlive(pid: number): boolean {
  try {
    return !/^\d+ \(.*\) Z/.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return false;
  }
}

test(
  'kill -9 of the host in the middle of a review and of training: every answered decision is there, once',
  { skip: process.platform !== 'linux' && 'reads /proc' },
  async (t) => {
    const folder = temporaryFolder(t);
    await imageFolder(folder, 12);
    let host = await hostProcess(t, folder);
    await newProject(host.page);
    await host.page.call.startPrelabel.mutate({ runId: null, step: null });
    await jobEnd(host.page, 'prelabel');
    const proposals: number[] = [];
    for (const { imageId } of await host.page.call.queue.query({ order: 'review', classId: null, clusterId: null }))
      proposals.push(...(await host.page.call.reviewImage.query({ imageId })).objects.map((object) => object.id));
    assert.equal(proposals.length, 36);

    const answered = new Map<number, string>();
    let next = 0;
    for (const decisionsBeforeKill of [4, 9]) {
      const { id: runId } = await host.page.call.startTraining.mutate({ presetId: 'quick', steps: 100_000, batch: 4, seed: seeds.slow });
      await until('a checkpoint', async () => (await host.page.call.runs.query()).find((run) => run.id === runId)!.checkpoints.length > 0);
      const workers = workersOf(host.child.pid!);
      assert.equal(workers.length, 1);
      // Decisions one after the other, as a person makes them; the kill comes while one is on its way.
      const stopAt = next + decisionsBeforeKill;
      const reviewing = (async () => {
        for (; ; next++) {
          const proposalId = proposals[next]!;
          const action = next % 3 === 2 ? 'reject' : 'accept';
          await host.page.call.decide.mutate(
            action === 'accept' ? { action, proposalId, classId: null, seconds: 1 } : { action, proposalId, seconds: 1 },
          );
          answered.set(proposalId, action);
        }
      })().catch(() => {});
      await until('some decisions', () => next >= stopAt);
      await killHard(host.child);
      await reviewing;
      await until('the end of the worker', () => workers.every((pid) => !isAlive(pid)));

      host = await hostProcess(t, folder, ['--project', join(folder, 'projects', 'Leaves')]);
      const run = (await host.page.call.runs.query()).find((one) => one.id === runId)!;
      assert.equal(run.state, 'stopped');
      const stats = await host.page.call.reviewStats.query();
      // At most the one on its way is there beyond those answered: it was written, its answer was lost.
      assert.ok(
        stats.decided === answered.size || stats.decided === answered.size + 1,
        `${stats.decided} there, ${answered.size} answered`,
      );
      next = stats.decided;
      if (stats.decided > answered.size) answered.set(proposals[next - 1]!, (next - 1) % 3 === 2 ? 'reject' : 'accept');

      await host.page.call.resumeTraining.mutate({ runId });
      const resumed = await until('the resumed run to go on', async () => {
        const now = (await host.page.call.runs.query()).find((one) => one.id === runId)!;
        return now.checkpoints.at(-1)! > run.checkpoints.at(-1)! && now;
      });
      assert.equal(resumed.state, 'running');
      await host.page.call.stopTraining.mutate();
      await jobEnd(host.page, 'pretrain');
      const steps = (await host.page.call.trainMetrics.query({ runId, afterStep: -1 })).map((line) => line.step);
      assert.deepEqual(
        steps,
        Array.from({ length: steps.length }, (_, i) => i + 1),
        'every step once, in order',
      );
    }

    // Each once, object by object; then undo walks back through all of it, across the restarts.
    const states = new Map<number, string>();
    for (let imageId = 1; imageId <= 12; imageId++) {
      for (const object of (await host.page.call.reviewImage.query({ imageId })).objects) {
        if (object.kind === 'proposal' && object.state === 'rejected') states.set(object.id, 'reject');
      }
    }
    assert.deepEqual(
      [...states.keys()].sort((a, b) => a - b),
      [...answered]
        .filter(([, action]) => action === 'reject')
        .map(([id]) => id)
        .sort((a, b) => a - b),
    );
    const { counts } = (await host.page.call.currentProject.query())!;
    assert.deepEqual([counts.accepted, counts.rejected], [[...answered.values()].filter((a) => a === 'accept').length, states.size]);
    for (let left = answered.size; left > 0; left--) {
      const change = await host.page.call.undo.mutate();
      assert.equal(change.canUndo, left > 1);
    }
    assert.equal((await refusal(host.page.call.undo.mutate())).code, 'nothing-to-undo');
    assert.equal((await host.page.call.currentProject.query())!.counts.proposed, 36);
    await killHard(host.child);

    const db = new DatabaseSync(join(folder, 'projects', 'Leaves', 'project.sqlite'));
    const rows = db
      .prepare(
        "SELECT c.object_id AS id, count(*) AS n FROM decisions d JOIN decision_changes c ON c.decision_id = d.id WHERE c.object = 'proposal' GROUP BY c.object_id",
      )
      .all();
    db.close();
    assert.deepEqual(
      rows.map((row) => row['n']),
      Array(answered.size).fill(1),
    );
  },
);

test(
  'kill -9 of the worker: the run failed for a reason, review goes on, and it resumes',
  { skip: process.platform !== 'linux' && 'reads /proc' },
  async (t) => {
    const folder = temporaryFolder(t);
    await imageFolder(folder, 8);
    const { child, page } = await hostProcess(t, folder);
    await newProject(page);
    await page.call.startTraining.mutate({ presetId: 'quick', steps: 200, batch: 4, seed: seeds.slow });
    await until('a checkpoint', async () => (await page.call.runs.query())[0]!.checkpoints.length > 0);
    for (const pid of workersOf(child.pid!)) process.kill(pid, 'SIGKILL');
    const job = await jobEnd(page, 'pretrain');
    assert.deepEqual([job.state, job.error?.code], ['failed', 'engine-died']);
    assert.match(job.error!.message, /SIGKILL/);
    await page.call.startPrelabel.mutate({ runId: null, step: null });
    await jobEnd(page, 'prelabel');
    await page.call.resumeTraining.mutate({ runId: '1' });
    await until('more checkpoints', async () => (await page.call.runs.query())[0]!.checkpoints.length > 1);
    await page.call.stopTraining.mutate();
    assert.equal((await jobEnd(page, 'pretrain')).state, 'stopped');
  },
);

test(
  'SIGTERM ends the host and its worker in order; a second host is told who has the project',
  { skip: process.platform === 'win32' && 'signals' },
  async (t) => {
    const folder = temporaryFolder(t);
    await imageFolder(folder, 8);
    const first = await hostProcess(t, folder);
    await newProject(first.page);
    const second = await hostProcess(t, folder);
    const [recent] = await second.page.call.recentProjects.query();
    assert.equal(recent!.name, 'Leaves');
    const refused = await refusal(second.page.call.openRecent.mutate({ recentId: recent!.id }));
    assert.equal(refused.code, 'project-in-use');

    await first.page.call.startTraining.mutate({ presetId: 'quick', steps: 100_000, batch: 4, seed: seeds.slow });
    await until('a step', async () => (await first.page.call.runs.query())[0]!.step > 0);
    first.child.kill('SIGTERM');
    await until('its end', () => first.child.exitCode !== null);
    assert.equal(first.child.exitCode, 0);
    await sleep(20);
    const summary = await second.page.call.openRecent.mutate({ recentId: recent!.id });
    assert.equal(summary.name, 'Leaves');
    assert.equal((await second.page.call.runs.query())[0]!.state, 'stopped');
  },
);

test('as a child of the desktop app: ready, the dialog over IPC, and its end when the parent goes', async (t) => {
  const folder = temporaryFolder(t);
  const env = { ...process.env, PATCHWISE_CONFIG_DIR: join(folder, 'config') };
  const child = fork(new URL('../../core/host/main.ts', import.meta.url), ['--projects', join(folder, 'projects')], { env, silent: true });
  t.after(() => child.kill('SIGKILL'));
  const [ready] = (await once(child, 'message')) as [{ type: string; url: string }];
  assert.equal(ready.type, 'ready');
  const page = await openPage(ready.url);
  const choosing = page.call.chooseFolder.mutate({ purpose: 'project' });
  const [asked] = (await once(child, 'message')) as [{ type: string; purpose: string; requestId: number }];
  assert.deepEqual(asked, { type: 'chooseFolder', purpose: 'project', requestId: 1 });
  child.send({ type: 'folderChosen', requestId: 1, path: folder });
  assert.equal((await choosing)!.name, basename(folder));
  child.disconnect();
  const [code] = (await once(child, 'exit')) as [number];
  assert.equal(code, 0);
});

test('a call that cannot be understood: exit code 2 and the usage; a project that is not there: 1 and the reason', () => {
  const run = (...args: string[]) =>
    spawnSync(process.execPath, [fileURLToPath(new URL('../../core/host/main.ts', import.meta.url)), ...args], { encoding: 'utf8' });
  for (const args of [
    ['--prot', '1'],
    ['--port', '99999'],
  ]) {
    const { status, stderr } = run(...args);
    assert.equal(status, 2);
    assert.match(stderr, /Usage: host/);
  }
  const missing = run('--project', '/nowhere/at/all');
  assert.equal(missing.status, 1);
  assert.match(missing.stderr, /\/nowhere\/at\/all has no project\.sqlite\. Choose the folder/);
});
