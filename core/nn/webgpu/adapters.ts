/**
 * Whether this machine has a GPU that the WebGPU engine can open. Asked in a short process, because loading a driver can
 * crash the one that does it, and both the process that holds the database and a job that would rather fall back to
 * another engine must survive that. The answer is kept for the life of this process.
 */
import { execFile } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { GpuMemory } from './cardMemory.ts';
import type { Fault } from './check/index.ts';
import { dawnLibrary, type AdapterFacts } from './device.ts';
import { backendVariable, dawnOptions } from './quirks.ts';
import type { CheckedWay, Survey } from './survey.ts';

export interface WebgpuState {
  /** The adapter that the engine would open, or null. */
  readonly adapter: AdapterFacts | null;
  /** Why there is none; empty where there is one. */
  readonly problem: string;
  /** The adapter's memory, where the system tells. */
  readonly memory?: GpuMemory | null;
}

/** A healthy driver answers in well under a second, a sleeping laptop GPU in some, a server with many cards in half a minute. */
const patience = 60_000;
/** Measuring and checking, on the slowest device that anyone would ask about. */
const surveyPatience = 600_000;

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

/** Why there cannot be an adapter, or null. */
function noneBecause(): string | null {
  if (!dawnLibrary()) return `there is no WebGPU library for ${process.platform} on ${process.arch}`;
  return mayHaveAdapter() ? null : 'no GPU was found';
}

async function look(): Promise<WebgpuState> {
  const reason = noneBecause();
  if (reason !== null) return { adapter: null, problem: reason };
  let { lines, ended } = await ask([], patience);
  const last = dawnOptions[process.platform]?.at(-1)?.backend;
  if (ended && last && !process.env[backendVariable] && dawnOptions[process.platform]!.length > 1) {
    // A driver that crashes is left alone by this process and all that it starts.
    process.env[backendVariable] = last;
    ({ lines, ended } = await ask([], patience));
  }
  const { adapter = null, problem = apart(ended), memory = null } = (lines[0] ?? {}) as Partial<WebgpuState>;
  return { adapter, problem: adapter ? '' : problem, memory };
}

/**
 * Adapters, measured speed and the driver's check, found out in a process of its own: seconds on a GPU.
 * @param check a program that acts as a GPU too, which takes minutes for it
 */
export async function surveyGpus(check: boolean): Promise<Survey> {
  const reason = noneBecause();
  if (reason !== null) return { problem: reason };
  const { lines, ended } = await ask(['survey', ...(check ? ['check'] : [])], surveyPatience);
  const found = Object.assign({}, ...lines) as Survey;
  return ended ? { ...found, problem: apart(ended) } : found;
}

/** What is wrong with the driver when it computes so, found out in a process that it may crash; null when nothing is. */
export async function checkApart(way: CheckedWay): Promise<Fault | null> {
  const { lines, ended, crashed } = await ask(['check', JSON.stringify(way)], surveyPatience);
  if (ended) return { wrong: `was checked in a process of its own and ${ended}`, certain: crashed };
  const { check, problem } = (lines[0] ?? {}) as { readonly check?: string; readonly problem?: string };
  if (check === undefined) return { wrong: `could not be checked: ${problem ?? 'it gave no answer'}`, certain: false };
  return check ? { wrong: check, certain: true } : null;
}

const apart = (ended: string): string => (ended ? `the graphics driver was tried in a process of its own and ${ended}` : '');

/** The objects that the process printed, and how the driver ended it, in words that follow it; empty when it did not. */
function ask(words: readonly string[], timeout: number): Promise<{ lines: object[]; ended: string; crashed: boolean }> {
  return new Promise((resolve) => {
    // Without this process's own flags: it may run under a test runner or an inspector.
    execFile(process.execPath, ['--no-warnings', entry, ...words], { timeout, killSignal: 'SIGKILL' }, (error, output) => {
      const lines = output.split('\n').filter((line) => line.startsWith('{') && line.endsWith('}'));
      const how = error?.killed ? `did not answer in ${timeout / 1000} s` : `ended it (${error?.signal ?? `code ${error?.code}`})`;
      resolve({
        lines: lines.map((line) => JSON.parse(line) as object),
        ended: error ? how : '',
        crashed: error !== null && !error.killed,
      });
    });
  });
}
