/** When a driver is checked: once, and what came of it is remembered. */
import { AppError } from '../../../contract/index.ts';
import type { AdapterFacts } from '../device.ts';
import type { WebgpuExecutor } from '../executor.ts';
import { readVerdicts, verdictKey, writeVerdicts } from './verdicts.ts';

type Adapter = Pick<AdapterFacts, 'description' | 'driver'>;

export interface Fault {
  /** In words to follow "the driver". */
  readonly wrong: string;
  /** It computes wrongly or crashes; else it could not be checked, this time. */
  readonly certain: boolean;
}

export interface CheckOptions {
  /** Where checks are remembered; null: nowhere. A file that is damaged is replaced. */
  readonly file: string | null;
  /** What is wrong, or null. Asked only when it is not known that the driver passes. */
  readonly check: () => Promise<Fault | null>;
}

/** Checks the driver unless it has passed with these kernels, in this precision, with or without matrix units. */
export async function checkDriver({ precision, engine }: WebgpuExecutor, { file, check }: CheckOptions): Promise<Fault | null> {
  const { device } = engine.runtime;
  const key = verdictKey(device, precision, engine.caps.matrices.length > 0);
  if (file !== null && readVerdicts(file).passed[key] !== undefined) return null;
  const fault = await check();
  if (fault || file === null) return fault;
  const { passed, failed } = readVerdicts(file);
  writeVerdicts(file, { passed: { ...passed, [key]: new Date().toISOString() }, failed: without(failed, verdictKey(device)) });
  return null;
}

function without(all: Readonly<Record<string, string>>, key: string): Record<string, string> {
  return Object.fromEntries(Object.entries(all).filter(([own]) => own !== key));
}

export function faultError({ description, driver }: Adapter, { wrong }: Fault): AppError {
  return new AppError(
    'engine-unavailable',
    `The driver of the GPU (${description}${driver ? `; ${driver}` : ''}) ${wrong}.`,
    'Update the graphics driver, or use the cpu engine.',
  );
}

/** What was wrong with the adapter's driver in every way of computing, or null where that is not known. */
export function failedBefore(file: string, adapter: Adapter): string | null {
  return readVerdicts(file).failed[verdictKey(adapter)] ?? null;
}

/** @param wrong null: the adapter is tried again */
export function rememberFailure(file: string, adapter: Adapter, wrong: string | null): void {
  const { passed, failed } = readVerdicts(file);
  const others = without(failed, verdictKey(adapter));
  writeVerdicts(file, { passed, failed: wrong === null ? others : { ...others, [verdictKey(adapter)]: wrong } });
}
