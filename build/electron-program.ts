/** Where Electron's program is in a checkout, and fetching it. npm brings only the package: `electron` 45 installs nothing. */
import { spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';

/** A download that takes longer is given up; the next start tries again. */
const fetchLimitMs = 5 * 60_000;

const programs: Partial<Record<NodeJS.Platform, string>> = {
  linux: 'electron',
  win32: 'electron.exe',
  darwin: 'Electron.app/Contents/MacOS/Electron',
};

export function electronVersion(root: string): string {
  return (JSON.parse(readFileSync(path.join(root, 'node_modules/electron/package.json'), 'utf8')) as { version: string }).version;
}

/** Path of Electron's program, or null when it is not there, of another version or half unpacked. Looks only; fetches nothing. */
export function electronProgram(root: string, platform: NodeJS.Platform = process.platform): string | null {
  const name = programs[platform];
  if (!name) return null;
  const own = process.env['ELECTRON_OVERRIDE_DIST_PATH'];
  if (own) return existsSync(path.join(own, name)) ? path.join(own, name) : null;
  const folder = path.join(root, 'node_modules/electron');
  // electron's installer writes path.txt last, when everything is unpacked.
  const installed =
    textOf(path.join(folder, 'path.txt')) === name && textOf(path.join(folder, 'dist/version')).replace(/^v/, '') === electronVersion(root);
  const program = path.join(folder, 'dist', name);
  return installed && existsSync(program) ? program : null;
}

/**
 * Runs electron's own installer: the one thing that `npm start` fetches, once. Says why when Electron cannot be had;
 * ELECTRON_SKIP_BINARY_DOWNLOAD says not to try.
 */
export async function fetchElectron(
  root: string,
  limitMs = fetchLimitMs,
): Promise<{ program: string } | { program: null; reason: string }> {
  if (process.env['ELECTRON_SKIP_BINARY_DOWNLOAD']) return { program: null, reason: 'ELECTRON_SKIP_BINARY_DOWNLOAD is set' };
  if (!programs[process.platform]) return { program: null, reason: `there is none for ${process.platform}` };
  console.error(`Fetching Electron ${electronVersion(root)} (about 120 MB, once) ...`);
  const child = spawn(process.execPath, [path.join(root, 'node_modules/electron/install.js')], { stdio: ['ignore', 'ignore', 'pipe'] });
  let words = '';
  child.stderr.on('data', (chunk: Buffer) => (words += chunk.toString()));
  let late = false;
  const timer = setTimeout(() => (late = child.kill()), limitMs);
  const code = await new Promise<number | null>((resolve) => {
    child.once('error', () => resolve(null));
    child.once('close', resolve);
  });
  clearTimeout(timer);
  const program = code === 0 ? electronProgram(root) : null;
  if (program !== null) return { program };
  const reason = late ? 'it took too long to fetch' : /fetch failed/.test(words) ? 'no connection to fetch it' : firstLine(words);
  return { program: null, reason };
}

function textOf(file: string): string {
  return existsSync(file) ? readFileSync(file, 'utf8').trim() : '';
}

function firstLine(text: string): string {
  return text.trim().split('\n', 1)[0] || 'its installer gave no reason';
}
