/** npm run setup:cuda where something fails: an npm that only notes what it was asked for. Nothing is installed. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test, type TestContext } from 'node:test';
import { projectRoot } from '../../build/bootstrap.mjs';
import { cudaFolder, cudaState } from '../../core/nn/index.ts';

const platform = `${process.platform}-${process.arch}`;
const { dependencies } = JSON.parse(readFileSync(path.join(projectRoot, 'package.json'), 'utf8')) as {
  dependencies: Record<string, string>;
};
const wanted = `@tensorflow/tfjs-node-gpu@${dependencies['@tensorflow/tfjs-core']}`;

/** @param failing the npm command that fails, none: '' */
function setUp(t: TestContext, failing: string) {
  const folder = mkdtempSync(path.join(tmpdir(), 'patchwise-cuda-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const log = path.join(folder, 'npm.log');
  writeFileSync(
    path.join(folder, 'npm-cli.js'),
    `const args = process.argv.slice(2);
     require('node:fs').appendFileSync(${JSON.stringify(log)}, args.join(' ') + '\\n');
     process.exitCode = args[0] === ${JSON.stringify(failing)} ? 1 : 0;`,
  );
  const { status, stdout, stderr } = spawnSync(process.execPath, [path.join(projectRoot, 'build/setup-cuda.ts')], {
    encoding: 'utf8',
    env: { ...process.env, npm_execpath: path.join(folder, 'npm-cli.js') },
  });
  return {
    status,
    stdout,
    stderr,
    asked: platform === 'linux-x64' || platform === 'win32-x64' ? readFileSync(log, 'utf8').trim().split('\n') : [],
  };
}

const skip = cudaState().installed
  ? 'the package is installed here'
  : platform !== 'linux-x64' && platform !== 'win32-x64' && `${platform} has no CUDA; the command says so`;

test('npm cannot install the package: what it needs, exit code 1, and nothing more is tried', { skip }, (t) => {
  const { status, stdout, stderr, asked } = setUp(t, 'install');
  assert.deepEqual([status, stdout], [1, '']);
  assert.match(stderr, /npm could not install @tensorflow\/tfjs-node-gpu 4\.22\.0.*needs the npm registry/);
  assert.deepEqual(asked, [`install --prefix ${cudaFolder} --ignore-scripts --no-audit --no-fund --loglevel=error ${wanted}`]);
});

test('its library cannot be fetched: from where, and what goes on without it', { skip }, (t) => {
  // The stand-in for npm leaves no package, so there is no script that could fetch anything.
  const { status, stdout, stderr, asked } = setUp(t, '');
  assert.deepEqual([status, stdout, asked.length], [1, '', 1]);
  assert.match(stderr, /libtensorflow 2\.9\.1 for CUDA.*could not be fetched from storage\.googleapis\.com.*\n.*training runs on the CPU/);
});
