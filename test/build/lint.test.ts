/** The import rules catch what they are for: violations planted in a small tree, read with the project's own settings. */
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { ESLint, type Linter } from 'eslint';

const projectRoot = path.resolve(import.meta.dirname, '../..');

/** What each file's imports should be told; null: nothing. */
const planted: Record<string, Record<string, string | null>> = {
  'core/nn/index.ts': {
    './cpu/index.ts': null,
    './ops.ts': null,
    './cpu/tape.ts': 'Enter core/nn/cpu through its index.ts.',
    'node:sqlite': 'core/nn may not import node:sqlite: this room knows no database and no server.',
    'node:fs': null,
  },
  'core/nn/cpu/tape.ts': { '../ops.ts': null, './pool.ts': null, '../../random.ts': null },
  'core/images/scan.ts': {
    http: 'core/images may not import node:http: this room knows no database and no server.',
    '../host/index.ts': 'core/images may not import core/host/index.ts: this room knows no database and no server.',
    '../nn/index.ts': null,
    sharp: null,
  },
  'core/prelabel/learn.ts': {
    '../nn/cpu/tape.ts': 'Enter core/nn/cpu through its index.ts.',
    '../nn/ops.ts': 'Enter core/nn through its index.ts.',
  },
  'core/host/index.ts': {
    'node:sqlite': null,
    '../images/scan.ts': 'Enter core/images through its index.ts.',
    electron: 'core/host may not import electron: core runs without a window.',
    '../../renderer/src/page.ts': 'core/host may not import renderer/src/page.ts: core runs without a window.',
  },
  'core/contract/index.ts': {
    '../images/index.ts': 'core/contract may not import core/images/index.ts: the contract is what both sides can load.',
  },
  'core/cli.ts': { './images/index.ts': null, './images/scan.ts': 'Enter core/images through its index.ts.' },
  'renderer/src/page.ts': {
    '../../core/contract/index.ts': null,
    '../../core/contract/model.ts': 'Enter core/contract through its index.ts.',
    '../../core/images/index.ts': 'renderer/src may not import core/images/index.ts: the page knows core by its contract only.',
    'node:path': 'renderer/src may not import node:path: the page knows core by its contract only.',
    electron: 'renderer/src may not import electron: the page knows core by its contract only.',
    svelte: null,
  },
  'electron/main.ts': { electron: null, '../core/host/index.ts': 'electron/main.ts may not import core/host/index.ts: the shell is thin.' },
  'test/nn/tape.test.ts': { '../../core/nn/cpu/tape.ts': null },
};

/** The ways to import something. */
const forms = [
  (from: string) => `import { a } from '${from}';`,
  (from: string) => `import type { A } from '${from}';`,
  (from: string) => `export * from '${from}';`,
  (from: string) => `export { b } from '${from}';`,
  (from: string) => `await import('${from}');`,
  (from: string) => `type T = import('${from}').A;`,
];

async function lint(t: { after(work: () => void): void }, files: Record<string, string>) {
  const root = mkdtempSync(path.join(tmpdir(), 'patchwise-lint-'));
  t.after(() => rmSync(root, { recursive: true }));
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(path.dirname(path.join(root, name)), { recursive: true });
    writeFileSync(path.join(root, name), text);
  }
  const own = (await new ESLint({ cwd: projectRoot }).calculateConfigForFile(path.join(projectRoot, 'core/nn/index.ts'))) as Linter.Config;
  assert.deepEqual(
    [own.rules?.['patchwise/rooms'], own.rules?.['patchwise/no-cycle']].map((rule) => [rule].flat(2)[0]),
    [2, 2],
    'both are errors in the project',
  );
  const eslint = new ESLint({
    cwd: root,
    overrideConfigFile: true,
    overrideConfig: {
      files: ['**/*.ts'],
      languageOptions: { parser: own.languageOptions?.['parser'] as Linter.Parser },
      plugins: own.plugins ?? {},
      rules: { 'patchwise/rooms': ['error', { root }], 'patchwise/no-cycle': 'error' },
    },
  });
  const results = await eslint.lintFiles('**/*.ts');
  return Object.fromEntries(results.map(({ filePath, messages }) => [path.relative(root, filePath).replaceAll(path.sep, '/'), messages]));
}

test('layers and doors, in every form of import', async (t) => {
  const files = Object.fromEntries(
    Object.entries(planted).map(([file, imports]) => [
      file,
      Object.keys(imports)
        .flatMap((from) => forms.map((form) => form(from)))
        .join('\n'),
    ]),
  );
  for (const room of ['core/images', 'core/nn/cpu']) files[`${room}/index.ts`] ??= '';
  const found = await lint(t, files);
  for (const [file, imports] of Object.entries(planted)) {
    const expected = Object.values(imports).flatMap((message) => forms.map(() => message));
    const messages = found[file]!.filter(({ ruleId }) => ruleId === 'patchwise/rooms');
    assert.deepEqual(
      expected.map((_, line) => messages.find((message) => message.line === line + 1)?.message ?? null),
      expected,
      file,
    );
  }
});

test('import cycles, across files; types and import() close none', async (t) => {
  const found = await lint(t, {
    'core/a.ts': `import { b } from './b.ts'; export const a = () => b;`,
    'core/b.ts': `export * from './c.ts'; export const b = 1;`,
    'core/c.ts': `import { a } from './a.ts'; export const c = () => a;`,
    'core/d.ts': `import { a } from './a.ts'; import { e } from './e.ts'; export const d = () => [a, e];`,
    'core/e.ts': `import type { d } from './d.ts'; export const e = () => import('./d.ts'); export type D = typeof d;`,
    'core/f.ts': `import './f.ts';`,
  });
  const cycles = Object.entries(found).map(([file, messages]) => [file, messages.map(({ message }) => message)]);
  assert.deepEqual(Object.fromEntries(cycles), {
    'core/a.ts': ['Import cycle: a.ts → b.ts → c.ts → a.ts.'],
    'core/b.ts': ['Import cycle: b.ts → c.ts → a.ts → b.ts.'],
    'core/c.ts': ['Import cycle: c.ts → a.ts → b.ts → c.ts.'],
    'core/d.ts': [],
    'core/e.ts': [],
    'core/f.ts': ['Import cycle: f.ts → f.ts.'],
  });
});
