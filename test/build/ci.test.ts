/** What CI runs is what the README tells people to run. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, statSync } from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';

const root = path.resolve(import.meta.dirname, '../..');
const script = path.join(root, '.ci/run');
const readme = path.join(root, 'README.md');

test(
  '.ci/run ends with the README’s test command, and hides no failure',
  { skip: existsSync(readme) ? false : 'there is no README.md yet' },
  () => {
    const command = /^\s*(npm (?:run )?test\b[^\n`#]*)/m.exec(readFileSync(readme, 'utf8'))?.[1]?.trim();
    assert.ok(command, 'the README has a line with the test command');
    const lines = readFileSync(script, 'utf8').trim().split('\n');
    assert.deepEqual(lines.slice(-2), ['npm run check', command]);
    assert.doesNotMatch(lines.slice(-2).join(), /\|/, 'no `|| true`, no pipe');
  },
);

test(
  '.ci/run is a valid, executable script that stops at the first failure',
  { skip: process.platform === 'win32' ? 'a bash script' : false },
  () => {
    assert.equal(statSync(script).mode & 0o111, 0o111);
    assert.match(readFileSync(script, 'utf8'), /^set -euo pipefail$/m);
    assert.equal(spawnSync('bash', ['-n', script]).status, 0);
  },
);
