/** runs/<id>/monitors.jsonl: one line a checkpoint, ascending, never a step twice. */
import { readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { MonitorLine } from '../contract/index.ts';

/** The lines there are; none for a run that was never watched. A last line that was cut off is left out. */
export function parseMonitors(text: string): MonitorLine[] {
  const whole = text.slice(0, text.lastIndexOf('\n') + 1);
  return whole
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as MonitorLine);
}

/** The lines of a run's folder. */
export async function readMonitors(runDir: string): Promise<MonitorLine[]> {
  const text = await readFile(join(runDir, 'monitors.jsonl'), 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return '';
    throw error;
  });
  return parseMonitors(text);
}

/** Adds a line; lines of its step and later ones, left by a run that was killed, go. @returns all lines now */
export async function addMonitors(runDir: string, line: MonitorLine): Promise<MonitorLine[]> {
  const file = join(runDir, 'monitors.jsonl');
  const lines = [...(await readMonitors(runDir)).filter(({ step }) => step < line.step), line];
  await writeFile(`${file}.tmp`, lines.map((one) => `${JSON.stringify(one)}\n`).join(''), { flush: true });
  await rename(`${file}.tmp`, file);
  return lines;
}
