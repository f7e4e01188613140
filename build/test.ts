/**
 * Runs the tests: node build/test.ts [PART_OF_A_PATH ...]. Two files at a time, then the browser ones alone. Failures
 * and reasons for skipping are printed in full; the last line is always `N passed, N failed, N skipped`.
 */
import { globSync, rmSync } from 'node:fs';
import path from 'node:path';
import { run } from 'node:test';
import { parseArgs } from 'node:util';
import { nodeFlags } from './bootstrap.mjs';
import { TestTally } from './test-tally.ts';

/** When nothing ended for so long, something hangs. Generous: a slow, loaded machine is no failure. */
const silenceMs = 15 * 60_000;

/** Parts of the paths of files that take longest: they begin first, so that none of them runs on alone at the end. */
const longest = ['cli/cli', 'renderer/page', 'cli/weights', 'nn/webgpu.test', 'dinov2/train', 'golden/golden'];

// Hundreds of processes load the same modules: Node keeps them, compiled, for the length of this run.
if (!process.env['NODE_COMPILE_CACHE']) {
  process.env['NODE_COMPILE_CACHE'] = path.resolve(import.meta.dirname, '../.cache/compiled');
  rmSync(process.env['NODE_COMPILE_CACHE'], { recursive: true, force: true });
}

const { values, positionals: filters } = parseArgs({ allowPositionals: true, options: { root: { type: 'string' } } });
// --root runs the tests of another folder: how this runner is itself tested.
const root = path.resolve(values.root ?? path.resolve(import.meta.dirname, '..'));

const files = globSync('test/**/*.test.ts', { cwd: root })
  .map((file) => file.replaceAll(path.sep, '/'))
  .filter((file) => !file.startsWith('test/bench/'))
  .filter((file) => filters.length === 0 || filters.some((filter) => file.includes(filter)))
  .sort()
  .sort((a, b) => rank(a) - rank(b));

function rank(file: string): number {
  const place = longest.findIndex((part) => file.includes(part));
  return place < 0 ? longest.length : place;
}

const tally = new TestTally(root);
const started = performance.now();
const inBrowser = (file: string) => file.startsWith('test/e2e/');
const parallel = files.filter((file) => !inBrowser(file));
const alone = files.filter(inBrowser);
// Browser tests start a host, a worker and Chromium each: side by side they would only wait for each other.
const finished = (await runFiles(parallel, 2)) && (await runFiles(alone, 1));

if (files.length === 0) console.log(filters.length ? `No test file's path contains ${filters.join(' or ')}.` : 'There are no test files.');
console.log(`\n${tally.summary()}`.trimEnd());
console.log(`${files.length} files in ${Math.round((performance.now() - started) / 1000)} s`);
// Something that the runner itself still holds open must not keep a finished run waiting.
process.stdout.write(`${tally.lastLine()}\n`, () => process.exit(finished && tally.failed === 0 && tally.passed > 0 ? 0 : 1));

/** False when the run was given up because nothing ended any more. */
async function runFiles(names: readonly string[], concurrency: number): Promise<boolean> {
  if (names.length === 0) return true;
  const hanging = new AbortController();
  const open = new Set<string>();
  const giveUp = () => {
    console.log(`✖ Nothing ended for ${silenceMs / 60_000} minutes; given up while running ${[...open].join(', ')}.`);
    hanging.abort();
  };
  let silence = setTimeout(giveUp, silenceMs);
  const events = run({
    files: names.map((name) => path.join(root, name)),
    cwd: root,
    concurrency,
    execArgv: nodeFlags,
    signal: hanging.signal,
  });
  for await (const event of events) {
    clearTimeout(silence);
    silence = setTimeout(giveUp, silenceMs);
    if (event.type === 'test:start') {
      tally.start(event.data);
      open.add(path.relative(root, event.data.file ?? ''));
    } else if (event.type === 'test:pass' || event.type === 'test:fail') {
      const failure = tally.end(event.type === 'test:pass', event.data);
      if (failure) console.log(failure);
    } else if (event.type === 'test:diagnostic') {
      tally.diagnostic(event.data.file, event.data.message);
    } else if (event.type === 'test:summary' && event.data.file !== undefined) {
      open.delete(path.relative(root, event.data.file));
      console.log(tally.fileLine(event.data.file, event.data.duration_ms));
    } else if (event.type === 'test:stdout' || event.type === 'test:stderr') {
      process.stderr.write(event.data.message);
    }
  }
  clearTimeout(silence);
  return !hanging.signal.aborted;
}
