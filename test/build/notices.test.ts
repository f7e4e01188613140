/** THIRD_PARTY_NOTICES.md says what the installers carry, today. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import { build } from 'vite';
import { notices, pagePackages } from '../../build/notices.ts';

const root = path.resolve(import.meta.dirname, '../..');
const read = (file: string) => readFileSync(path.join(root, file), 'utf8');
const whyNot = existsSync(path.join(root, 'node_modules/@img/sharp-libvips-linux-x64'))
  ? false
  : 'the list of libvips’s libraries is read from the Linux x64 package';

test('the file is what build/notices.ts writes', { skip: whyNot }, () => {
  assert.equal(
    read('THIRD_PARTY_NOTICES.md') === notices(root),
    true,
    'THIRD_PARTY_NOTICES.md is out of date: run `node build/notices.ts` with Node 24',
  );
});

test('the whole licence texts are there: ours, and the LGPL with the GPL', () => {
  assert.match(read('LICENSE'), /Apache License\s+Version 2\.0, January 2004[\s\S]+END OF TERMS AND CONDITIONS/);
  assert.match(
    read('build/licenses/LGPL-3.0.txt'),
    /GNU LESSER GENERAL PUBLIC LICENSE\s+Version 3[\s\S]+permanent authorization for you to choose that version/,
  );
  assert.match(read('build/licenses/GPL-3.0.txt'), /GNU GENERAL PUBLIC LICENSE\s+Version 3[\s\S]+END OF TERMS AND CONDITIONS/);
});

test('the page holds no package that the notices leave out', async () => {
  const built = await build({ configFile: path.join(root, 'renderer/vite.config.ts'), logLevel: 'silent', build: { write: false } });
  const outputs = [built].flat().flatMap((result) => ('output' in result ? result.output : []));
  const modules = outputs.flatMap((output) => (output.type === 'chunk' ? output.moduleIds : []));
  const packages = modules.flatMap((id) => /.*node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(id.replaceAll('\\', '/'))?.[1] ?? []);
  assert.deepEqual([...new Set(packages)].sort(), pagePackages);
});
