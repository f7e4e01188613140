/** When a driver is checked: once, and what it passed is remembered. */
import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { AppError } from '../../../contract/index.ts';
import type { WebgpuExecutor } from '../executor.ts';

export interface CheckOptions {
  /** Where passed checks are remembered; null: nowhere. A file that is damaged is replaced. */
  readonly file: string | null;
  /** What the driver does wrongly, in words; empty when all is right. Asked only when that is not known. */
  readonly check: () => Promise<string>;
}

/**
 * Checks the driver unless it has passed with these kernels. A failure is not remembered: measuring again costs a second
 * or two, a wrong verdict the GPU.
 * @throws AppError engine-unavailable naming what comes out wrong
 */
export async function checkDriver(executor: WebgpuExecutor, { file, check }: CheckOptions): Promise<void> {
  const key = checkKey(executor);
  const passed = file === null ? {} : readPassed(file);
  if (passed[key] !== undefined) return;
  const wrong = await check();
  if (wrong) {
    const { description, driver } = executor.engine.runtime.device;
    throw new AppError(
      'engine-unavailable',
      `The driver of the GPU (${description}${driver ? `; ${driver}` : ''}) ${wrong}.`,
      'Update the graphics driver, or use the cpu engine.',
    );
  }
  if (file !== null) writePassed(file, { ...passed, [key]: new Date().toISOString() });
}

/** Names the adapter, its driver, what it computes in and with, and the kernels. */
function checkKey({ precision, engine }: WebgpuExecutor): string {
  const { description, driver } = engine.runtime.device;
  const facts = [process.platform, description, driver, precision, engine.caps.matrices.length > 0];
  const hash = createHash('sha256').update(JSON.stringify(facts));
  const room = fileURLToPath(new URL('..', import.meta.url));
  for (const name of readdirSync(room, { recursive: true, encoding: 'utf8' }).sort())
    if (/\.[jt]s$/.test(name)) hash.update(`\0${name}\0`).update(readFileSync(path.join(room, name)));
  return hash.digest('hex').slice(0, 32);
}

const version = 1;
/** Drivers are updated a few times a year. */
const remembered = 20;

/** Times of passing by key; none where the file is absent, damaged or of another version. */
function readPassed(file: string): Record<string, string> {
  try {
    const { version: found, passed } = JSON.parse(readFileSync(file, 'utf8')) as { version?: unknown; passed?: unknown };
    if (found !== version || typeof passed !== 'object' || passed === null) return {};
    return Object.fromEntries(Object.entries(passed).filter((entry): entry is [string, string] => typeof entry[1] === 'string'));
  } catch {
    return {};
  }
}

/** A file that cannot be written costs the next start a check, nothing more. */
function writePassed(file: string, passed: Readonly<Record<string, string>>): void {
  const temporary = `${file}.${process.pid}.tmp`;
  try {
    mkdirSync(path.dirname(file), { recursive: true });
    const newest = Object.entries(passed).slice(-remembered);
    writeFileSync(temporary, `${JSON.stringify({ version, passed: Object.fromEntries(newest) }, null, 2)}\n`, { mode: 0o600 });
    renameSync(temporary, file);
  } catch {
    rmSync(temporary, { force: true });
  }
}
