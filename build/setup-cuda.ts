/**
 * npm run setup:cuda: installs TensorFlow.js for CUDA, which nothing else does: its install script fetches a library of
 * several hundred MB from Google's storage, so it is never a dependency. It gets a folder of its own, which `npm ci` leaves
 * alone. Ends by starting it once and saying what it found.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { createExecutor, cudaFolder, cudaState } from '../core/nn/index.ts';
import { projectRoot } from './bootstrap.mjs';

const name = '@tensorflow/tfjs-node-gpu';

/** A failure with words for the person at the keyboard. */
class SetupFailure extends Error {}

/** Runs npm, as it was run for us, for the folder's own packages. @returns its exit code was 0 */
function npm(args: readonly string[]): boolean {
  const fromNpm = process.env['npm_execpath'];
  const [program, first, shell] =
    fromNpm && /npm-cli\.[cm]?js$/.test(fromNpm)
      ? ([process.execPath, [fromNpm], false] as const)
      : (['npm', [], process.platform === 'win32'] as const);
  return spawnSync(program, [...first, ...args], { cwd: cudaFolder, stdio: ['ignore', 2, 2], shell }).status === 0;
}

/**
 * The package's own install script. Not through npm, which may be told to run none; it calls node-pre-gyp by name.
 * @returns its exit code was 0
 */
function fetchLibrary(folder: string): boolean {
  const found = [path.dirname(process.execPath), path.join(cudaFolder, 'node_modules/.bin'), process.env['PATH'] ?? ''].join(
    path.delimiter,
  );
  const args = [path.join(folder, 'scripts/install.js'), 'gpu', 'download'];
  return spawnSync(process.execPath, args, { cwd: folder, stdio: ['ignore', 2, 2], env: { ...process.env, PATH: found } }).status === 0;
}

async function setUp(): Promise<string> {
  const platform = `${process.platform}-${process.arch}`;
  if (platform !== 'linux-x64' && platform !== 'win32-x64')
    throw new SetupFailure(
      `TensorFlow.js has CUDA for linux-x64 and win32-x64; this machine is ${platform}. Training runs on the CPU here.`,
    );
  const { dependencies } = JSON.parse(readFileSync(path.join(projectRoot, 'package.json'), 'utf8')) as {
    dependencies: Record<string, string>;
  };
  const version = dependencies['@tensorflow/tfjs-core']!; // the two come out together
  mkdirSync(cudaFolder, { recursive: true });
  writeFileSync(path.join(cudaFolder, 'package.json'), '{ "private": true }\n');
  if (!npm(['install', '--prefix', cudaFolder, '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error', `${name}@${version}`]))
    throw new SetupFailure(`npm could not install ${name} ${version}; its own words are above. It needs the npm registry for this.`);
  const folder = path.join(cudaFolder, 'node_modules', name);
  if (!fetchLibrary(folder) || !cudaState().installed) {
    const library = existsSync(path.join(folder, 'deps/lib')) ? 'addon' : 'library (libtensorflow 2.9.1 for CUDA)';
    throw new SetupFailure(
      `The ${library} of ${name} could not be fetched from storage.googleapis.com; the reason is above.\n` +
        'Try again with a connection that reaches it. Until then training runs on the CPU, as before.',
    );
  }
  const executor = await createExecutor({ engine: 'tensorflow' });
  if (executor.description.endsWith('on CUDA'))
    return `${executor.description}. --engine tensorflow uses it; so does auto where WebGPU finds no GPU.`;
  throw new SetupFailure(`${name} is installed, but does not run on a GPU yet: ${executor.description}`);
}

try {
  console.log(await setUp());
} catch (error) {
  if (!(error instanceof SetupFailure)) throw error;
  console.error(error.message);
  process.exitCode = 1;
}
