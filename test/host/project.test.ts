import assert from 'node:assert/strict';
import { fork } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  closeSync,
  existsSync,
  fstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statfsSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { test, type TestContext } from 'node:test';
import { AppError } from '../../core/contract/index.ts';
import { migrations } from '../../core/host/migrations/index.ts';
import { Project } from '../../core/host/project.ts';
import { reviewImage } from '../../core/host/store/objects.ts';
import { decide } from '../../core/host/store/review.ts';
import { saveImage } from '../../core/host/store/images.ts';
import { presentModel } from '../../core/host/store/overview.ts';
import { weightsRows } from '../../core/host/store/weights.ts';
import { temporaryFolder } from '../fixtures/files.ts';
import { canMount, folderOfDisks, remountReadOnly } from './helpers.ts';
import { imageSize, rectangle, scanned } from './shapes.ts';

/** The code of what a call throws. */
function thrown(body: () => unknown): AppError {
  try {
    body();
  } catch (error) {
    assert.ok(error instanceof AppError, String(error));
    return error;
  }
  throw new Error('nothing was thrown');
}

const draw = (project: Project, x: number) =>
  project.write((w) => decide(w, { action: 'draw', imageId: 1, classId: null, rle: rectangle(imageSize, x, 1, 2, 2).rle, seconds: 1 }, ''));

function projectWithImage(dir: string): Project {
  const project = Project.create(dir, 'Test', '/images');
  project.write((w) => saveImage(w, scanned('a.png')));
  return project;
}

/** Another process that opens a project, tells what came of it, and keeps it open until it is killed. */
async function otherProcess(t: TestContext, dir: string, drawing = 0) {
  const child = fork(new URL('./holdProject.ts', import.meta.url), [dir, String(drawing)]);
  t.after(() => child.kill('SIGKILL'));
  const [told] = (await once(child, 'message')) as [string];
  return { child, told };
}

test('one project, one process: a second is refused, a killed one leaves no lock', async (t) => {
  const dir = join(temporaryFolder(t), 'p');
  const mine = projectWithImage(dir);
  assert.equal(thrown(() => Project.open(dir)).code, 'project-in-use');
  const refused = await otherProcess(t, dir);
  assert.equal(refused.told, 'project-in-use');
  mine.close();

  const holder = await otherProcess(t, dir, 3);
  assert.equal(holder.told, 'open');
  const error = thrown(() => Project.open(dir));
  assert.deepEqual([error.code, error.message], ['project-in-use', `${dir} is open in another Patchwise.`]);
  holder.child.kill('SIGKILL');
  await once(holder.child, 'exit');
  assert.ok(existsSync(join(dir, 'project.sqlite-wal')), 'the kill left the last decisions in the WAL');
  const again = Project.open(dir);
  assert.equal(reviewImage(again, 1).objects.length, 3, 'the decisions that were answered before the kill');
  again.close();
  assert.deepEqual(readdirSync(dir), ['project.sqlite']);
});

test('newer, foreign, damaged, missing: refused in words and left untouched', (t) => {
  const folder = temporaryFolder(t);
  const dir = join(folder, 'p');
  projectWithImage(dir).close();
  const file = join(dir, 'project.sqlite');
  const edited = (sql: string) => {
    const db = new DatabaseSync(file);
    db.exec(sql);
    db.close();
  };

  edited('PRAGMA user_version = 99');
  const before = readFileSync(file);
  const newer = thrown(() => Project.open(dir));
  assert.deepEqual([newer.code, newer.message.includes(`version 99; this one knows up to ${migrations.length})`)], ['project-newer', true]);
  assert.deepEqual(readFileSync(file), before);
  edited(`PRAGMA user_version = ${migrations.length}; PRAGMA application_id = 7`);
  assert.equal(thrown(() => Project.open(dir)).code, 'project-damaged');
  edited(`PRAGMA application_id = ${0x50746368}`);
  Project.open(dir).close();

  // A page in the middle overwritten, as a failing disk leaves it; then cut short; then something else altogether.
  const whole = readFileSync(file);
  const descriptor = openSync(file, 'r+');
  writeSync(descriptor, Buffer.alloc(4096, 0xa5), 0, 4096, Math.floor(fstatSync(descriptor).size / 8192) * 4096);
  closeSync(descriptor);
  assert.equal(thrown(() => Project.open(dir)).code, 'project-damaged');
  writeFileSync(file, whole.subarray(0, whole.length / 2));
  assert.equal(thrown(() => Project.open(dir)).code, 'project-damaged');
  writeFileSync(file, 'not a database, but long enough to be taken for one'.repeat(20));
  const damaged = thrown(() => Project.open(dir));
  assert.deepEqual([damaged.code, damaged.message.startsWith(file)], ['project-damaged', true]);
  writeFileSync(file, whole);
  Project.open(dir).close();

  rmSync(file);
  assert.equal(thrown(() => Project.open(dir)).code, 'project-not-found');
  assert.equal(thrown(() => Project.create(dir, 'x', '/images')).code, 'project-exists');
});

/** A project as the first version of Patchwise left it. */
function firstVersion(dir: string): void {
  mkdirSync(dir);
  const db = new DatabaseSync(join(dir, 'project.sqlite'));
  db.exec(`PRAGMA journal_mode = WAL; ${migrations[0]}; PRAGMA application_id = ${0x50746368}; PRAGMA user_version = 1`);
  db.exec(`INSERT INTO settings (id, project_id, name, image_folder, created_at, model_key, model_run_id, model_step)
    VALUES (1, 'p', 'Old', '/images', '2026-01-01T00:00:00Z', 'run-1-step-20', '1', 20)`);
  db.close();
}

test('a project of the first version gains what is new and keeps the rest, also where it may not be written', async (t) => {
  const folder = temporaryFolder(t);
  const dir = join(folder, 'old');
  firstVersion(dir);
  const check = (project: Project) => {
    assert.deepEqual(presentModel(project), { modelKey: 'run-1-step-20', choice: { runId: '1', step: 20 }, passes: 1 });
    assert.deepEqual([project.facts.name, weightsRows(project)], ['Old', []]);
    project.close();
  };
  const { folder: disks, mount } = folderOfDisks(t);
  if (canMount(disks)) {
    const disk = mount('disk', '4m');
    firstVersion(join(disk, 'old'));
    remountReadOnly(disk);
    const before = readFileSync(join(disk, 'old', 'project.sqlite'));
    const project = Project.open(join(disk, 'old'));
    assert.equal(project.readOnly, true);
    assert.equal(thrown(() => project.write(() => {})).code, 'project-read-only');
    check(project);
    assert.deepEqual(readFileSync(join(disk, 'old', 'project.sqlite')), before);
  } else t.diagnostic('mounting is not allowed here: only the writable project was opened');
  check(Project.open(dir));
  check(Project.open(dir));
});

test('a read-only project opens for reading, with the decisions of a killed host, and says so when written', async (t) => {
  const { folder, mount } = folderOfDisks(t);
  const real = canMount(folder);
  t.diagnostic(real ? 'a tmpfs mounted read-only' : 'permission bits as stand-in: this process may not mount');
  if (!real && process.getuid?.() === 0) return t.skip('root defeats permission bits, and this root may not mount');
  for (const killed of [false, true]) {
    const name = killed ? 'killed' : 'closed';
    const disk = real ? mount(name, '4m') : join(folder, name);
    if (!real) mkdirSync(disk);
    const dir = join(disk, 'p');
    projectWithImage(dir).close();
    const holder = await otherProcess(t, dir, 2);
    if (killed) holder.child.kill('SIGKILL');
    else holder.child.send('close');
    await once(holder.child, 'exit');
    assert.equal(existsSync(join(dir, 'project.sqlite-wal')), killed);
    if (real) remountReadOnly(disk);
    else chmodSync(dir, 0o500);

    const project = Project.open(dir);
    assert.equal(project.readOnly, true);
    assert.equal(reviewImage(project, 1).objects.length, 2);
    const error = thrown(() => draw(project, 9));
    assert.deepEqual([error.code, error.message.includes(dir)], ['project-read-only', true]);
    project.close();
    if (!real) chmodSync(dir, 0o700);
  }
});

test('a full disk: the decision is refused, those before are kept, and work goes on once there is space', (t) => {
  const { folder, mount } = folderOfDisks(t);
  if (!canMount(folder)) return t.skip('this process may not mount a small disk');
  t.diagnostic('a tmpfs of 1 MB, filled by a file');
  const disk = mount('disk', '1m');
  const dir = join(disk, 'p');
  const project = projectWithImage(dir);
  draw(project, 1);
  const filler = join(disk, 'filler');
  const descriptor = openSync(filler, 'w');
  assert.throws(() => {
    for (;;) writeSync(descriptor, Buffer.alloc(4096, 1));
  }, /ENOSPC/);
  let answered = 1;
  const error = thrown(() => {
    for (;;) {
      draw(project, 3);
      answered++;
    }
  });
  assert.equal(error.code, 'disk-full');
  assert.equal(reviewImage(project, 1).objects.length, answered);
  closeSync(descriptor);
  rmSync(filler);
  draw(project, 5);
  project.close();
  const again = Project.open(dir);
  assert.equal(reviewImage(again, 1).objects.length, answered + 1);
  again.close();
  // Less than an empty project needs.
  const { bavail, bsize } = statfsSync(disk);
  const free = bavail * bsize;
  assert.equal(
    thrown(() => (writeFileSync(filler, Buffer.alloc(free - 40_000)), Project.create(join(disk, 'q'), 'q', '/images'))).code,
    'disk-full',
  );
  assert.ok(!existsSync(join(disk, 'q')), 'nothing half made is left');
});
