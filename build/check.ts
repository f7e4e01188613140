/**
 * Everything that can be checked without running the app: types, Svelte components, lint, format. All four run even
 * when one fails, and each prints what it found; the last line says which failed.
 */
import { spawn } from 'node:child_process';
import path from 'node:path';
import { nodeFlags } from './bootstrap.mjs';

const root = path.resolve(import.meta.dirname, '..');

const checks = [
  { name: 'types', program: 'typescript/bin/tsc', args: ['-p', '.'] },
  { name: 'svelte', program: 'svelte-check/bin/svelte-check', args: ['--tsconfig', 'renderer/tsconfig.json', '--fail-on-warnings'] },
  { name: 'lint', program: 'eslint/bin/eslint.js', args: ['.', '--max-warnings', '0'] },
  { name: 'format', program: 'prettier/bin/prettier.cjs', args: ['--check', '.'] },
];

/** Runs one check and prints its output in one piece. True when it found nothing. */
async function passes({ name, program, args }: (typeof checks)[number]): Promise<boolean> {
  const started = performance.now();
  const child = spawn(process.execPath, [...nodeFlags, path.join(root, 'node_modules', program), ...args], {
    cwd: root,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const output: Buffer[] = [];
  child.stdout.on('data', (chunk: Buffer) => output.push(chunk));
  child.stderr.on('data', (chunk: Buffer) => output.push(chunk));
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  const text = Buffer.concat(output).toString().trimEnd();
  console.log(`${code === 0 ? '✔' : '✖'} ${name} (${seconds} s)${code === 0 ? '' : `\n${text}\n`}`);
  return code === 0;
}

const results = await Promise.all(checks.map(passes));
const failed = checks.filter((_, index) => !results[index]).map(({ name }) => name);
console.log(failed.length === 0 ? 'All checks passed.' : `Failed: ${failed.join(', ')}.`);
process.exitCode = failed.length === 0 ? 0 : 1;
