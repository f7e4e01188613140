/**
 * Whether this machine has a GPU that the WebGPU engine can open. Asked in a short process, because loading a driver can
 * crash the one that does it, and both the process that holds the database and a job that would rather fall back to
 * another engine must survive that. The answer is kept for the life of this process.
 */
import { execFile } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { dawnLibrary, type AdapterFacts } from './device.ts';

export interface WebgpuState {
  /** The adapter that the engine would open, or null. */
  readonly adapter: AdapterFacts | null;
  /** Why there is none; empty where there is one. */
  readonly problem: string;
}

/** A healthy driver answers in well under a second, a sleeping laptop GPU in some. */
const patience = 15_000;

const entry = fileURLToPath(new URL(import.meta.url.endsWith('.ts') ? './adapterProcess.ts' : './adapterProcess.js', import.meta.url));

let known: Promise<WebgpuState> | null = null;

/** What the engine would run on. Never throws. */
export function webgpuState(): Promise<WebgpuState> {
  known ??= look();
  return known;
}

/**
 * On Linux a GPU shows as a device file; without one there is nothing to load a driver for, unless a driver is named by
 * hand. Elsewhere only the driver knows.
 */
function mayHaveAdapter(): boolean {
  if (process.platform !== 'linux') return true;
  if (process.env['VK_ICD_FILENAMES'] || process.env['VK_DRIVER_FILES']) return true;
  if (['/dev/nvidiactl', '/dev/dxg'].some((file) => existsSync(file))) return true;
  return existsSync('/dev/dri') && readdirSync('/dev/dri').some((name) => name.startsWith('renderD'));
}

async function look(): Promise<WebgpuState> {
  if (!dawnLibrary()) return { adapter: null, problem: `there is no WebGPU library for ${process.platform} on ${process.arch}` };
  if (!mayHaveAdapter()) return { adapter: null, problem: 'no GPU was found' };
  return new Promise((resolve) => {
    // Without this process's own flags: it may run under a test runner or an inspector.
    execFile(process.execPath, ['--no-warnings', entry], { timeout: patience, killSignal: 'SIGKILL' }, (error, output) => {
      try {
        const { adapter = null, problem = '' } = JSON.parse(output) as Partial<WebgpuState>;
        resolve({ adapter, problem });
      } catch {
        const how = error?.killed ? `did not answer in ${patience / 1000} s` : `ended it (${error?.signal ?? `code ${error?.code}`})`;
        resolve({ adapter: null, problem: `the graphics driver was tried in a process of its own and ${how}` });
      }
    });
  });
}
