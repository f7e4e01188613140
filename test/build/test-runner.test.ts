/** `npm test` itself: what it counts, what it prints, how it ends. Runs build/test.ts on small test folders. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test, type TestContext } from 'node:test';

const runner = path.resolve(import.meta.dirname, '../../build/test.ts');
const head = `import { test, describe, it, before } from 'node:test'; import assert from 'node:assert/strict';\n`;

function runTests(t: TestContext, files: Record<string, string>, ...args: string[]) {
  const root = mkdtempSync(path.join(tmpdir(), 'patchwise-runner-'));
  t.after(() => rmSync(root, { recursive: true }));
  writeFileSync(path.join(root, 'package.json'), '{"type":"module"}');
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(path.dirname(path.join(root, name)), { recursive: true });
    writeFileSync(path.join(root, name), head + text);
  }
  // A test run inside a test would otherwise report to the outer one and run nothing.
  const env = { ...process.env };
  delete env['NODE_TEST_CONTEXT'];
  const { status, stdout, stderr } = spawnSync(process.execPath, [runner, '--root', root, ...args], { env, encoding: 'utf8' });
  const lines = stdout.trimEnd().split('\n');
  return { status, stdout, stderr, last: lines.at(-1) };
}

test('leaf tests count once; suites and parents do not; reasons for skipping are printed', (t) => {
  const { status, stdout, last } = runTests(t, {
    'test/a/a.test.ts': `
      test('plain', () => {});
      test('parent', async (t) => { await t.test('child 1', () => {}); await t.test('child 2', async (t) => { await t.test('grandchild', () => {}); }); });
      describe('suite', () => { it('one', () => {}); it('two', { skip: 'no browser found' }, () => {}); it.todo('three'); });
      describe.skip('left out', () => { it('x', () => {}); });
      test('chooses', (t) => t.skip('no browser found'));`,
    'test/e2e/b.test.ts': `test('alone', () => {});`,
    'test/bench/c.test.ts': `test('never run', () => { throw new Error(); });`,
  });
  assert.equal(last, '5 passed, 0 failed, 4 skipped', stdout);
  assert.equal(status, 0);
  assert.match(stdout, /Skipped: no browser found\n {2}test\/a\/a\.test\.ts › suite › two\n {2}test\/a\/a\.test\.ts › chooses\n/);
});

test('failures are printed in full with file and parents, each once', (t) => {
  const { status, stdout, last } = runTests(t, {
    'test/a.test.ts': `
      test('ok', () => {});
      test('parent', async (t) => { await t.test('child', () => assert.deepEqual({ mask: [1, 2] }, { mask: [1, 3] })); });
      describe('suite', () => { before(() => { throw new Error('no disk'); }); it('never reached', () => {}); });`,
    'test/dies.test.ts': `test('dies', () => { process.kill(process.pid, 'SIGKILL'); });`,
    'test/empty.test.ts': ``,
    'test/late.test.ts': `test('fine', () => {}); setTimeout(() => { throw new Error('after the end'); }, 20);`,
    'test/load.test.ts': `await import('./nowhere.ts');`,
  });
  assert.equal(status, 1);
  assert.equal(last, '2 passed, 7 failed, 0 skipped', stdout);
  assert.match(stdout, /✖ test\/a\.test\.ts › parent › child\n {4}AssertionError.*\n(?:.*\n)*? {4}\+ +2\n {4}- +3\n/);
  assert.match(stdout, /✖ test\/a\.test\.ts › suite\n {4}Error: no disk/);
  assert.match(stdout, /✖ test\/dies\.test\.ts\n {4}The process was ended by SIGKILL\./);
  assert.match(stdout, /✖ test\/empty\.test\.ts\n {4}The file holds no test\./);
  assert.match(stdout, /✖ test\/late\.test\.ts\n(?: {4}.*\n)* {4}.*after the end/);
  assert.match(stdout, /✖ test\/load\.test\.ts\n {4}The process ended with exit code 1/);
  assert.doesNotMatch(stdout, /node:internal/);
});

test('a part of a path chooses files; no file, or nothing but skips, is a failure', (t) => {
  const files = {
    'test/images/scan.test.ts': `test('a', () => {});`,
    'test/labels/rle.test.ts': `test('b', { skip: 'not here' }, () => {});`,
  };
  assert.deepEqual(pick(runTests(t, files, 'images')), [0, '1 passed, 0 failed, 0 skipped']);
  assert.deepEqual(pick(runTests(t, files, 'labels')), [1, '0 passed, 0 failed, 1 skipped']);
  assert.deepEqual(pick(runTests(t, files, 'images', 'labels')), [0, '1 passed, 0 failed, 1 skipped']);
  const none = runTests(t, files, 'nothing');
  assert.deepEqual(pick(none), [1, '0 passed, 0 failed, 0 skipped']);
  assert.match(none.stdout, /No test file's path contains nothing\./);
});

function pick({ status, last }: ReturnType<typeof runTests>) {
  return [status, last];
}
