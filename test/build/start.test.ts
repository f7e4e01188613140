/** `npm start`: Electron when it is there, else the browser, with the real host. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test, type TestContext } from 'node:test';
import { nodeFlags } from '../../build/bootstrap.mjs';
import { electronProgram, fetchElectron } from '../../build/electron-program.ts';

const root = path.resolve(import.meta.dirname, '../..');
const noPage = existsSync(path.join(root, 'dist/renderer/index.html')) ? false : 'dist is not built; npm test builds it';
const noStandIn = process.platform === 'linux' ? false : 'the stand-in for Electron is a Linux one';

function folder(t: TestContext): string {
  const made = mkdtempSync(path.join(tmpdir(), 'patchwise-start-'));
  t.after(() => rmSync(made, { recursive: true }));
  return made;
}

/** Starts build/start.ts with a home folder of its own and nothing to fetch. */
function start(home: string, args: string[], env: Record<string, string> = {}) {
  const child = spawn(process.execPath, [...nodeFlags, path.join(root, 'build/start.ts'), ...args], {
    env: {
      ...process.env,
      HOME: home,
      ELECTRON_SKIP_BINARY_DOWNLOAD: '1',
      ELECTRON_OVERRIDE_DIST_PATH: path.join(home, 'no-electron'),
      DISPLAY: '',
      WAYLAND_DISPLAY: '',
      ...env,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let text = '';
  let look = () => {};
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      text += chunk.toString();
      look();
    });
  }
  const ended = new Promise<number | null>((resolve) => child.once('close', (code) => resolve(code)));
  const said = (pattern: RegExp) =>
    new Promise<RegExpExecArray>((resolve, reject) => {
      look = () => {
        const match = pattern.exec(text);
        if (match) resolve(match);
      };
      look();
      void ended.then(() => reject(new Error(`ended without saying ${pattern}:\n${text}`)));
    });
  return { child, ended, said, output: () => text };
}

/** A program where Electron's would be. */
function standInElectron(dist: string, script: string): string {
  mkdirSync(dist, { recursive: true });
  writeFileSync(path.join(dist, 'electron'), `#!/bin/sh\n${script}\n`);
  chmodSync(path.join(dist, 'electron'), 0o755);
  return dist;
}

test('without Electron: one line says why and where; the page is there; Ctrl+C ends everything', { skip: noPage }, async (t) => {
  const app = start(folder(t), ['--no-open']);
  const [, url] = await app.said(
    /^Electron is not installed here \(ELECTRON_SKIP_BINARY_DOWNLOAD is set\), opening in your browser: (http:\S+)$/m,
  );
  const answer = await fetch(url!, { redirect: 'manual' });
  assert.ok(answer.headers.getSetCookie().length > 0, 'the token is taken');
  app.child.kill('SIGINT');
  assert.equal(await app.ended, 0);
  assert.equal(app.output().trim().split('\n').length, 1, app.output());
  await assert.rejects(fetch(url!), 'the host has ended with it');
});

test('--browser opens no Electron', { skip: noPage }, async (t) => {
  const home = folder(t);
  const dist = standInElectron(path.join(home, 'electron'), 'touch "$HOME/started"');
  const app = start(home, ['--browser', '--no-open', '--root', home], { ELECTRON_OVERRIDE_DIST_PATH: dist, DISPLAY: ':9' });
  await app.said(/^As asked, opening in your browser: http/m);
  app.child.kill('SIGTERM');
  assert.equal(await app.ended, 0);
  assert.equal(existsSync(path.join(home, 'started')), false);
});

test('with Electron: it gets the checkout, the project and our Node, and its end is ours', { skip: noStandIn }, async (t) => {
  const home = folder(t);
  const project = path.join(home, 'my project');
  mkdirSync(project);
  const dist = standInElectron(path.join(home, 'electron'), 'printf "%s|" "$@" "$PATCHWISE_NODE"');
  const app = start(home, [project], { ELECTRON_OVERRIDE_DIST_PATH: dist, DISPLAY: ':9' });
  assert.equal(await app.ended, 0);
  assert.equal(app.output(), `${[root, '--project', project, process.execPath].join('|')}|`);
});

test('an Electron that cannot start here is no dead end', { skip: noStandIn || noPage }, async (t) => {
  const home = folder(t);
  const dist = standInElectron(path.join(home, 'electron'), 'echo "The SUID sandbox helper is not configured" >&2; exit 5');
  const app = start(home, ['--no-open'], { ELECTRON_OVERRIDE_DIST_PATH: dist, DISPLAY: ':9' });
  await app.said(/^Electron \S+ could not start \(exit code 5; its words are above\), opening in your browser: http/m);
  assert.match(app.output(), /SUID sandbox/);
  app.child.kill('SIGINT');
  assert.equal(await app.ended, 0);
});

test('wrong arguments are told before anything starts', async (t) => {
  const home = folder(t);
  for (const [args, words] of [
    [[path.join(home, 'nowhere')], /There is no folder .*nowhere\. Give the folder of a Patchwise project/],
    [['a', 'b'], /One project at a time: a, b\./],
    [['--brwoser'], /Unknown option '--brwoser'[\s\S]*Usage: npm start/],
  ] as const) {
    const app = start(home, [...args]);
    assert.equal(await app.ended, 2);
    assert.match(app.output(), words);
  }
});

test('Electron’s program counts when it is whole and of the locked version', async (t) => {
  const own = process.env['ELECTRON_OVERRIDE_DIST_PATH'];
  delete process.env['ELECTRON_OVERRIDE_DIST_PATH'];
  t.after(() => {
    if (own !== undefined) process.env['ELECTRON_OVERRIDE_DIST_PATH'] = own;
  });
  const checkout = folder(t);
  const electron = path.join(checkout, 'node_modules/electron');
  mkdirSync(path.join(electron, 'dist'), { recursive: true });
  const write = (file: string, text: string) => writeFileSync(path.join(electron, file), text);
  write('package.json', '{"version":"45.4.1"}');
  const found = () => electronProgram(checkout, 'linux');
  assert.equal(found(), null);
  write('dist/electron', '');
  write('dist/version', '45.4.1');
  assert.equal(found(), null, 'still unpacking: path.txt is written last');
  write('path.txt', 'electron');
  assert.equal(found(), path.join(electron, 'dist/electron'));
  write('dist/version', 'v44.0.0');
  assert.equal(found(), null, 'left from another version');
  assert.equal(electronProgram(checkout, 'aix'), null);
});

test('fetching Electron: done by its own installer, given up in words', async (t) => {
  const own = process.env['ELECTRON_SKIP_BINARY_DOWNLOAD'];
  delete process.env['ELECTRON_SKIP_BINARY_DOWNLOAD'];
  t.after(() => {
    if (own !== undefined) process.env['ELECTRON_SKIP_BINARY_DOWNLOAD'] = own;
  });
  const checkout = folder(t);
  const electron = path.join(checkout, 'node_modules/electron');
  mkdirSync(path.join(electron, 'dist'), { recursive: true });
  writeFileSync(path.join(electron, 'package.json'), '{"version":"45.4.1"}');
  const installer = (script: string) => writeFileSync(path.join(electron, 'install.js'), script);
  const reasons: unknown[] = [];
  for (const script of [
    `console.error(new TypeError('fetch failed').stack); process.exit(1);`,
    `console.error('HTTPError: Response code 404'); process.exit(1);`,
    `setInterval(() => {}, 1000);`,
  ]) {
    installer(script);
    reasons.push(await fetchElectron(checkout, script.startsWith('set') ? 600 : 60_000));
  }
  assert.deepEqual(reasons, [
    { program: null, reason: 'no connection to fetch it' },
    { program: null, reason: 'HTTPError: Response code 404' },
    { program: null, reason: 'it took too long to fetch' },
  ]);
  if (process.platform !== 'linux') return;
  installer(
    `const fs = require('fs'); for (const [f, t] of [['dist/electron', ''], ['dist/version', '45.4.1'], ['path.txt', 'electron']]) fs.writeFileSync(__dirname + '/' + f, t);`,
  );
  assert.deepEqual(await fetchElectron(checkout), { program: path.join(electron, 'dist/electron') });
});
