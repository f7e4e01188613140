/** What is built when: by content, not by time; and never seen half written. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test, type TestContext } from 'node:test';
import { isStale, replaceFolder, sourcesHash, stampName } from '../../build/outputs.ts';

const root = path.resolve(import.meta.dirname, '../..');

function folder(t: TestContext): string {
  const made = mkdtempSync(path.join(tmpdir(), 'patchwise-outputs-'));
  t.after(() => rmSync(made, { recursive: true }));
  return made;
}

test('the hash follows names and bytes of the sources, nothing else', (t) => {
  const base = folder(t);
  mkdirSync(path.join(base, 'page/deep'), { recursive: true });
  const write = (file: string, text: string) => writeFileSync(path.join(base, file), text);
  write('page/a.ts', 'a');
  write('page/deep/b.ts', 'b');
  write('lock.json', '{}');
  write('other.ts', 'x');
  const hash = () => sourcesHash(base, ['page', 'lock.json']);
  const first = hash();
  utimesSync(path.join(base, 'page/a.ts'), 1, 1);
  write('other.ts', 'y');
  assert.equal(hash(), first, 'neither time nor another file counts');
  const seen = new Set([first]);
  const differs = (what: string) => {
    assert.equal(seen.has(hash()), false, what);
    seen.add(hash());
  };
  write('page/deep/b.ts', 'c');
  differs('changed');
  rmSync(path.join(base, 'page/deep/b.ts'));
  differs('deleted');
  write('page/c.ts', 'c');
  differs('added');
  write('lock.json', '{"zod":1}');
  differs('another lock file');
});

test('a folder is replaced as a whole, and kept when the build fails', async (t) => {
  const out = path.join(folder(t), 'dist/page');
  assert.equal(isStale(out, 'h1'), true);
  await replaceFolder(out, 'h1', async (fresh) => writeFileSync(path.join(fresh, 'old.js'), ''));
  assert.deepEqual([isStale(out, 'h1'), isStale(out, 'h2')], [false, true]);
  await assert.rejects(
    replaceFolder(out, 'h2', async (fresh) => {
      writeFileSync(path.join(fresh, 'half.js'), '');
      throw new Error('does not compile');
    }),
    /does not compile/,
  );
  assert.deepEqual([readdirSync(out).sort(), isStale(out, 'h1')], [[stampName, 'old.js'], false]);
  await replaceFolder(out, 'h2', async (fresh) => writeFileSync(path.join(fresh, 'new.js'), ''));
  assert.deepEqual([readdirSync(out).sort(), readdirSync(path.dirname(out))], [[stampName, 'new.js'], ['page']]);
});

test(
  'the Electron shell: an ES module main, a CommonJS preload, imports that resolve',
  { skip: existsSync(path.join(root, 'dist/electron')) ? false : 'dist is not built; npm test builds it' },
  () => {
    const built = path.join(root, 'dist/electron');
    for (const name of readdirSync(built).filter((file) => /\.c?js$/.test(file))) {
      assert.equal(spawnSync(process.execPath, ['--check', path.join(built, name)]).status, 0, name);
      const text = readFileSync(path.join(built, name), 'utf8');
      for (const [, imported] of text.matchAll(/from ["'](\.[^"']+)["']/g))
        assert.ok(existsSync(path.join(built, imported!)), `${name} imports ${imported}`);
      if (name.endsWith('.cjs')) assert.doesNotMatch(text, /^(import|export) /m);
    }
    const { main, type, version } = JSON.parse(readFileSync(path.join(built, 'package.json'), 'utf8')) as Record<string, string>;
    const own = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8')) as { version: string; main: string };
    assert.deepEqual([main, type, version, own.main], ['main.js', 'module', own.version, 'dist/electron/main.js']);
  },
);
