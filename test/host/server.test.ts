import assert from 'node:assert/strict';
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { readRgb } from '../../core/images/index.ts';
import { startHost } from '../../core/host/index.ts';
import { temporaryFolder } from '../fixtures/files.ts';
import { makePng } from '../fixtures/png.ts';
import {
  canMount,
  fakeJobs,
  folderOfDisks,
  hostWith,
  imageFolder,
  jobEnd,
  newProject,
  openPage,
  refusal,
  remountReadOnly,
  send,
} from './helpers.ts';
import { rectangle } from './shapes.ts';

function renderer(folder: string): string {
  const dir = join(folder, 'renderer');
  mkdirSync(join(dir, 'assets'), { recursive: true });
  writeFileSync(join(dir, 'index.html'), '<!doctype html><title>Patchwise</title>');
  writeFileSync(join(dir, 'assets', 'index-3f2a.js'), 'export {};');
  writeFileSync(join(folder, 'secret.txt'), 'secret');
  return dir;
}

test("only this launch's browser comes in", async (t) => {
  const folder = temporaryFolder(t);
  const { host, page } = await hostWith(t, 1, { rendererDir: renderer(folder) });
  const { address, cookie } = page;
  const own = new URL(address).host;

  const entry = await send(host.url);
  assert.deepEqual([entry.status, entry.headers.location], [303, '/']);
  assert.match(entry.headers['set-cookie']![0]!, /^patchwise-\d+=[\w-]{43}; HttpOnly; SameSite=Strict; Path=\/$/);
  assert.ok(!entry.headers['set-cookie']![0]!.includes(host.token), 'the cookie is not the token');
  assert.match(host.url, /^http:\/\/127\.0\.0\.1:\d+\/\?token=[\w-]{43}$/);

  const cases: [expected: number, path: string, options: Parameters<typeof send>[1]][] = [
    [401, '/', {}],
    [401, '/assets/index-3f2a.js', {}],
    [401, '/trpc/info', {}],
    [401, '/files/thumb/1', {}],
    [401, '/?token=wrong', {}],
    [401, '/', { headers: { cookie: `${cookie.split('=')[0]}=wrong` } }],
    [401, '/', { headers: { cookie: `${cookie.split('=')[0]}=${host.token}` } }],
    [200, '/', { headers: { cookie } }],
    [200, '/trpc/info', { headers: { cookie } }],
    [200, '/trpc/info', { headers: { cookie, origin: address, 'sec-fetch-site': 'same-origin' } }],
    [403, '/trpc/info', { headers: { cookie, host: 'patchwise.example' } }],
    [403, '/trpc/info', { headers: { cookie, host: `evil.example:${own.split(':')[1]}` } }],
    [403, '/trpc/info', { headers: { cookie, origin: 'http://evil.example' } }],
    [403, '/trpc/info', { headers: { cookie, origin: 'null' } }],
    [403, '/trpc/info', { headers: { cookie, origin: 'http://127.0.0.1:1' } }],
    [403, '/trpc/info', { headers: { cookie, 'sec-fetch-site': 'cross-site' } }],
    [403, '/trpc/info', { headers: { cookie, 'sec-fetch-site': 'same-site' } }],
    [403, new URL(host.url).search ? `/${new URL(host.url).search}` : '', { headers: { host: 'evil.example' } }],
    [405, '/', { method: 'POST', headers: { cookie } }],
    [405, '/files/thumb/1', { method: 'DELETE', headers: { cookie } }],
    [405, '/trpc/info', { method: 'PUT', headers: { cookie } }],
    [405, '/trpc/info', { method: 'OPTIONS', headers: { cookie } }],
    [415, '/trpc/undo', { method: 'POST', headers: { cookie, 'content-type': 'text/plain' }, body: '{}' }],
    [413, '/trpc/createClass', { method: 'POST', headers: { cookie, 'content-type': 'application/json' }, body: 'x'.repeat(33 * 2 ** 20) }],
  ];
  for (const [expected, path, options] of cases) {
    const { status } = await send(address + path, options);
    assert.equal(status, expected, `${options?.method ?? 'GET'} ${path} ${JSON.stringify(options?.headers ?? {})}`);
  }
});

test('it listens on the loopback only', async (t) => {
  const { networkInterfaces } = await import('node:os');
  const { host } = await hostWith(t, 1);
  const { port } = new URL(host.url);
  const outside = Object.values(networkInterfaces())
    .flat()
    .find((one) => one && !one.internal && one.family === 'IPv4');
  if (!outside) return t.skip('this machine has no address but the loopback');
  const reached = await new Promise<boolean>((resolve) => {
    const socket = connect(Number(port), outside.address, () => resolve(true)).on('error', () => resolve(false));
    t.after(() => socket.destroy());
  });
  assert.equal(reached, false);
});

test('the built page: headers, caching, and nothing beside it', async (t) => {
  const folder = temporaryFolder(t);
  const { page } = await hostWith(t, 1, { rendererDir: renderer(folder) });
  const index = await page.get('/');
  assert.match(index.body.toString(), /<title>Patchwise/);
  assert.equal(index.headers['cache-control'], 'no-store');
  assert.equal(index.headers['x-content-type-options'], 'nosniff');
  const policy = index.headers['content-security-policy'] as string;
  assert.match(policy, /default-src 'none'; script-src 'self'; /);
  assert.doesNotMatch(policy, /script-src[^;]*unsafe|https?:|\*/);
  assert.match((await page.get('/review')).body.toString(), /<title>Patchwise/, 'a place inside the page');
  const asset = await page.get('/assets/index-3f2a.js');
  assert.deepEqual(
    [asset.headers['content-type'], asset.headers['cache-control']],
    ['text/javascript; charset=utf-8', 'private, max-age=31536000, immutable'],
  );

  for (const path of [
    '/../secret.txt',
    '/%2e%2e/secret.txt',
    '/..%2fsecret.txt',
    '/assets/../../secret.txt',
    '/assets/%2e%2e%2f%2e%2e%2fsecret.txt',
    '//secret.txt',
    '/secret.txt',
  ]) {
    const { status, body } = await page.get(path);
    assert.ok(status === 404 && !body.includes('secret\n') && body.toString() !== 'secret', `${path}: ${status}`);
  }
});

test('pictures by ids only: upright pixels, kept, asked for again when the file changes', async (t) => {
  const { page, images, folder } = await hostWith(t, 1);
  // Samples of 16 bits: what is sent is 8-bit sRGB, not the file.
  const samples = Uint16Array.from({ length: 700 * 300 }, (_, i) => (i % 700) * 90);
  writeFileSync(join(images, 'wide.png'), makePng({ width: 700, height: 300, bits: 16, colourType: 0, samples }));
  await newProject(page);
  const { rows } = await page.call.imagesPage.query({ offset: 0, limit: 10, filter: 'all', search: 'wide' });
  const id = rows[0]!.id;
  const dir = join(folder, 'projects', 'Leaves', 'cache', 'thumbs');

  const thumb = await page.get(`/files/thumb/${id}`);
  assert.deepEqual([thumb.status, thumb.headers['content-type'], thumb.headers['cache-control']], [200, 'image/webp', 'private, no-cache']);
  assert.deepEqual([thumb.body.subarray(0, 4).toString(), thumb.body.subarray(8, 12).toString()], ['RIFF', 'WEBP']);
  assert.equal(readdirSync(dir, { recursive: true }).filter((name) => String(name).endsWith('.webp')).length, 1);
  const again = await page.get(`/files/thumb/${id}`, { 'if-none-match': thumb.headers.etag! });
  assert.deepEqual([again.status, again.body.length], [304, 0]);

  const whole = await page.get(`/files/image/${id}?max=4096`);
  assert.equal(whole.headers['content-type'], 'image/png');
  const file = join(folder, 'whole.png');
  writeFileSync(file, whole.body);
  assert.deepEqual(await readRgb(file), await readRgb(join(images, 'wide.png')));
  writeFileSync(file, (await page.get(`/files/image/${id}?max=100`)).body);
  const small = await readRgb(file);
  assert.deepEqual([small.width, small.height], [100, 43]);

  // Level 0: 512 and 188 wide; level 1: all of 350 x 150 in one tile.
  const tiles = ['0/0/0', '0/1/0', '1/0/0'];
  const sizes = [];
  for (const tile of tiles) {
    writeFileSync(join(folder, 'tile.jpg'), (await page.get(`/files/tile/${id}/${tile}`)).body);
    const { width, height } = await readRgb(join(folder, 'tile.jpg'));
    sizes.push([width, height]);
  }
  assert.deepEqual(sizes, [
    [512, 300],
    [188, 300],
    [350, 150],
  ]);

  utimesSync(join(images, 'wide.png'), new Date(), new Date());
  const touched = await page.get(`/files/image/${id}?max=100`, { 'if-none-match': whole.headers.etag! });
  assert.deepEqual([touched.status, touched.headers['cache-control'], touched.headers.etag], [200, 'no-store', undefined]);

  const nothing = [
    'thumb/99',
    'thumb/0',
    'thumb/-1',
    'thumb/1e1',
    'thumb/..%2f1',
    'thumb/%',
    'thumb/',
    'thumb/1/2',
    'image/1?max=x',
    'tile/1/0/9/9',
    'tile/1/99/0/0',
    'tile/1/0/0',
    'pca/1/5/0',
    'export/x/..%2fproject.sqlite',
    'project.sqlite',
    '',
  ];
  for (const path of nothing) {
    const { status, body } = await page.get(`/files/${path}`);
    assert.ok(status === 404 || (status === 409 && /run-not-found/.test(body.toString())), `${path}: ${status} ${body.toString()}`);
  }
});

test('an export is downloaded by its id, and holds the reviewed pixels', async (t) => {
  const { page, folder } = await hostWith(t, 3);
  await newProject(page);
  await page.call.startPrelabel.mutate({ runId: null, step: null });
  await jobEnd(page, 'prelabel');
  const leaf = await page.call.createClass.mutate({ name: 'leaf', color: '#00ff00' });
  await page.call.decide.mutate({ action: 'accept', proposalId: 1, classId: leaf.id, seconds: 1 });
  const drawn = rectangle({ width: 24, height: 16 }, 10, 10, 5, 5).rle;
  await page.call.decide.mutate({ action: 'draw', imageId: 2, classId: null, rle: drawn, seconds: 1 });
  const what = { format: 'coco-rle', scope: 'reviewed' } as const;
  assert.deepEqual(await page.call.exportPreflight.query(what), {
    images: 2,
    objects: 2,
    withoutClass: 1,
    warnings: ['1 mask has no class and becomes "unlabeled".'],
  });
  const row = await page.call.runExport.mutate(what);
  assert.deepEqual([row.images, row.objects, row.files.map((file) => file.name)], [2, 2, ['annotations.json']]);
  const answer = await page.get(row.files[0]!.url);
  assert.deepEqual(
    [answer.status, answer.headers['content-disposition'], answer.body.length],
    [200, 'attachment; filename="annotations.json"', row.files[0]!.bytes],
  );
  const coco = JSON.parse(answer.body.toString()) as {
    annotations: { image_id: number; category_id: number; segmentation: { counts: string }; bbox: number[] }[];
    categories: object[];
  };
  assert.deepEqual(coco.categories, [
    { id: 1, name: 'leaf', supercategory: '' },
    { id: 2, name: 'unlabeled', supercategory: '' },
  ]);
  assert.deepEqual(
    coco.annotations.map(({ image_id, category_id, bbox }) => [image_id, category_id, bbox]),
    [
      [1, 1, [1, 1, 4, 4]],
      [2, 2, [10, 10, 5, 5]],
    ],
  );
  assert.equal(coco.annotations[1]!.segmentation.counts, drawn.counts);
  assert.doesNotMatch(answer.body.toString(), /reviewer|seconds/, 'names and times stay in the project');

  const everything = await page.call.runExport.mutate({ format: 'coco-polygons', scope: 'everything' });
  assert.deepEqual([everything.images, everything.objects], [3, 10]);
  assert.deepEqual(
    (await page.call.exports.query()).map(({ id }) => id),
    [everything.id, row.id],
  );
  assert.deepEqual(readdirSync(join(folder, 'projects', 'Leaves', 'exports')).sort(), [row.id, everything.id].sort());
});

test('projects: names that are no folder names, twice the same name, inside the images', async (t) => {
  const { page, folder } = await hostWith(t, 1);
  const [root] = await page.call.folderRoots.query();
  const { children } = await page.call.folderChildren.query({ folderId: root!.id });
  const imagesId = children.find((child) => child.name === 'images')!.id;
  const create = (name: string, locationId: string | null = null) => page.call.createProject.mutate({ name, imagesId, locationId });
  await create('../../Blätter: "2026"/');
  assert.ok(
    existsSync(join(folder, 'projects', 'project--..-Blätter- -2026--', 'project.sqlite')),
    readdirSync(join(folder, 'projects')).join(),
  );
  await create('one');
  assert.equal((await refusal(create('one'))).code, 'project-exists');
  assert.equal((await page.call.currentProject.query())!.name, 'one', 'the open project stays open');
  assert.match((await refusal(create('two', imagesId))).message, /never writes to/);
  assert.deepEqual(
    (await page.call.recentProjects.query()).map((project) => project.name),
    ['one', '../../Blätter: "2026"/'],
  );
  await page.call.closeProject.mutate();
  assert.equal(await page.call.currentProject.query(), null);
  const opened = await page.call.openRecent.mutate({ recentId: (await page.call.recentProjects.query())[1]!.id });
  assert.equal(opened.name, '../../Blätter: "2026"/');
  await jobEnd(page, 'scan'); // its first scan was broken off when the next project was made
  assert.equal((await page.call.currentProject.query())!.images, 1);
  const kids = await page.call.folderChildren.query({ folderId: (await page.call.folderRoots.query())[0]!.id });
  const projects = await page.call.folderChildren.query({ folderId: kids.children.find((child) => child.name === 'projects')!.id });
  const byFolder = projects.children.find((child) => child.name === 'one')!;
  assert.ok(byFolder.isProject);
  assert.equal((await page.call.openProject.mutate({ folderId: byFolder.id })).name, 'one');
});

test("folders: what lies outside the roots is not handed out, not through links, not by the dialog's cancel", async (t) => {
  const folder = temporaryFolder(t);
  const outside = temporaryFolder(t);
  mkdirSync(join(outside, 'private'));
  mkdirSync(join(folder, 'root', 'inside', 'deeper'), { recursive: true });
  mkdirSync(join(folder, 'root-beside'));
  symlinkSync(outside, join(folder, 'root', 'link-out'));
  symlinkSync(join(folder, 'root-beside'), join(folder, 'root', 'link-beside'));
  symlinkSync(join(folder, 'root'), join(folder, 'root', 'inside', 'link-up'));
  symlinkSync('nowhere', join(folder, 'root', 'link-broken'));
  let choice: string | null = null;
  const host = await startHost({
    roots: [join(folder, 'root')],
    projectsDir: join(folder, 'projects'),
    configDir: join(folder, 'config'),
    chooseFolder: async () => choice,
  });
  t.after(() => host.close());
  const { call } = await openPage(host.url);
  const [root] = await call.folderRoots.query();
  const first = await call.folderChildren.query({ folderId: root!.id });
  assert.deepEqual([first.parentId, first.children.map((child) => child.name)], [null, ['inside']]);
  const inside = await call.folderChildren.query({ folderId: first.children[0]!.id });
  assert.deepEqual(
    [inside.parentId, inside.children.map((child) => [child.name, child.label])],
    [
      root!.id,
      [
        ['deeper', 'root / inside / deeper'],
        ['root', 'root'],
      ],
    ],
  );
  assert.equal(inside.children[1]!.id, root!.id, 'a link up is the folder it leads to');

  assert.equal(await call.chooseFolder.mutate({ purpose: 'images' }), null);
  choice = outside;
  const chosen = await call.chooseFolder.mutate({ purpose: 'images' });
  const found = await call.folderChildren.query({ folderId: chosen!.id });
  assert.deepEqual([found.parentId, found.children.map((child) => child.name)], [null, ['private']]);
  assert.ok((await call.info.query()).nativeDialogs);
  await assert.rejects(startHost({ roots: [join(folder, 'missing')], configDir: join(folder, 'config') }), { code: 'folder-unreadable' });
});

test('the next launch has the address of the last, as long as nobody else has it; its link is its own', async (t) => {
  const folder = temporaryFolder(t);
  const options = { roots: [folder], projectsDir: join(folder, 'projects'), configDir: join(folder, 'config') };
  const launch = async (more: { port?: number } = {}) => {
    const host = await startHost({ ...options, ...more });
    t.after(() => host.close());
    return { ...host, origin: new URL(host.url).origin };
  };
  const first = await launch();
  await first.close();
  const second = await launch();
  assert.equal(second.origin, first.origin);
  assert.notEqual(second.token, first.token);
  assert.equal((await send(first.url)).status, 401);
  // Taken: by the one that is running.
  const third = await launch();
  assert.notEqual(third.origin, second.origin);
  assert.equal((await send(third.url)).status, 303);
  // Asked for by number: that one or none.
  const port = Number(new URL(second.url).port);
  await assert.rejects(startHost({ ...options, port }), { code: 'EADDRINUSE' });
  await second.close();
  assert.equal((await launch({ port })).origin, second.origin);
});

test('a read-only project: everything can be looked at, nothing changed, and the reason is told', async (t) => {
  const { folder, mount } = folderOfDisks(t);
  if (!canMount(folder)) return t.skip('this process may not mount; test/host/project.test.ts has the stand-in');
  const disk = mount('disk', '8m');
  await imageFolder(disk, 2);
  const options = {
    roots: [disk],
    projectsDir: join(disk, 'projects'),
    configDir: join(folder, 'config'),
    worker: { jobsModule: fakeJobs },
  };
  const first = await startHost(options);
  const writing = await openPage(first.url);
  await newProject(writing);
  await writing.call.startPrelabel.mutate({ runId: null, step: null });
  await jobEnd(writing, 'prelabel');
  await first.close();
  remountReadOnly(disk);

  const host = await startHost({ ...options, project: join(disk, 'projects', 'Leaves') });
  t.after(() => host.close());
  const page = await openPage(host.url);
  const project = (await page.call.currentProject.query())!;
  assert.deepEqual([project.readOnly, project.images, project.counts.proposed], [true, 2, 6]);
  assert.equal((await page.call.reviewImage.query({ imageId: 1 })).objects.length, 3);
  assert.equal((await page.get('/files/thumb/1')).status, 200);
  const refused = await Promise.all(
    [
      page.call.decide.mutate({ action: 'accept', proposalId: 1, classId: null, seconds: 1 }),
      page.call.createClass.mutate({ name: 'leaf', color: null }),
      page.call.rescan.mutate(),
      page.call.startTraining.mutate({ presetId: 'quick', steps: 1, batch: 2, seed: 1 }),
      page.call.runExport.mutate({ format: 'coco-rle', scope: 'everything' }),
    ].map(refusal),
  );
  assert.deepEqual(
    refused.map(({ code }) => code),
    Array(5).fill('project-read-only'),
  );
});

test('a disk that fills up during a job: the job fails with the reason, what was there stays, and it goes on later', async (t) => {
  const { folder, mount } = folderOfDisks(t);
  if (!canMount(folder)) return t.skip('this process may not mount a small disk');
  const disk = mount('disk', '2m');
  await imageFolder(folder, 40);
  const host = await startHost({ roots: [folder], projectsDir: disk, configDir: join(folder, 'config'), worker: { jobsModule: fakeJobs } });
  t.after(() => host.close());
  const page = await openPage(host.url);
  await newProject(page);
  const [root] = await page.call.folderRoots.query();
  const imagesId = (await page.call.folderChildren.query({ folderId: root!.id })).children.find((child) => child.name === 'images')!.id;
  const filler = openSync(join(disk, 'filler'), 'w');
  assert.throws(() => {
    for (;;) writeSync(filler, Buffer.alloc(4096, 1));
  }, /ENOSPC/);
  closeSync(filler);
  await page.call.startPrelabel.mutate({ runId: null, step: null });
  const job = await jobEnd(page, 'prelabel');
  assert.deepEqual([job.state, job.error?.code], ['failed', 'disk-full']);
  assert.equal((await refusal(page.call.createProject.mutate({ name: 'other', imagesId, locationId: null }))).code, 'disk-full');
  rmSync(join(disk, 'filler'));
  await page.call.startPrelabel.mutate({ runId: null, step: null });
  assert.equal((await jobEnd(page, 'prelabel')).state, 'finished');
  assert.equal((await page.call.currentProject.query())!.counts.proposed, 120);
});
