/** What is remembered of drivers: the ways of computing that they passed in, and those that failed in every way. */
import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import type { AdapterFacts } from '../device.ts';

export interface Verdicts {
  /** When, by `verdictKey` of adapter and way. */
  readonly passed: Readonly<Record<string, string>>;
  /** What was wrong, in words to follow "the driver", by `verdictKey` of the adapter alone. */
  readonly failed: Readonly<Record<string, string>>;
}

let kernels: string | null = null;

/** The files of this room: another version of them asks for another check. */
function kernelsHash(): string {
  if (kernels !== null) return kernels;
  const hash = createHash('sha256');
  const room = fileURLToPath(new URL('..', import.meta.url));
  for (const name of readdirSync(room, { recursive: true, encoding: 'utf8' }).sort())
    if (/\.[jt]s$/.test(name)) hash.update(`\0${name}\0`).update(readFileSync(path.join(room, name)));
  return (kernels = hash.digest('hex'));
}

/** Names the adapter, its driver, the kernels, and how it computes. */
export function verdictKey(
  { description, driver }: Pick<AdapterFacts, 'description' | 'driver'>,
  ...way: readonly (string | boolean)[]
): string {
  const facts = JSON.stringify([process.platform, description, driver, kernelsHash(), ...way]);
  return createHash('sha256').update(facts).digest('hex').slice(0, 32);
}

const version = 1;
/** Drivers are updated a few times a year. */
const remembered = 20;

/** None where the file is absent, damaged or of another version. */
export function readVerdicts(file: string): Verdicts {
  try {
    const { version: found, passed, failed } = JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown>;
    return found === version ? { passed: textsOf(passed), failed: textsOf(failed) } : { passed: {}, failed: {} };
  } catch {
    return { passed: {}, failed: {} };
  }
}

function textsOf(value: unknown): Record<string, string> {
  if (typeof value !== 'object' || value === null) return {};
  return Object.fromEntries(Object.entries(value).filter((entry): entry is [string, string] => typeof entry[1] === 'string'));
}

/** A file that cannot be written costs the next start a check, nothing more. */
export function writeVerdicts(file: string, { passed, failed }: Verdicts): void {
  const temporary = `${file}.${process.pid}.tmp`;
  const newest = (all: Verdicts['passed']): object => Object.fromEntries(Object.entries(all).slice(-remembered));
  try {
    mkdirSync(path.dirname(file), { recursive: true });
    const text = JSON.stringify({ version, passed: newest(passed), failed: newest(failed) }, null, 2);
    writeFileSync(temporary, `${text}\n`, { mode: 0o600 });
    renameSync(temporary, file);
  } catch {
    rmSync(temporary, { force: true });
  }
}
