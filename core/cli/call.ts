/** What a command of the command line is given, and its options read: numbers, choices, networks. */
import type { LocalService } from '../host/index.ts';
import type { Stop } from './drive.ts';
import type { Terminal } from './terminal.ts';

/** A call that cannot be understood: exit code 2. */
export class UsageError extends Error {}

export interface Call {
  readonly local: LocalService;
  readonly terminal: Terminal;
  readonly stop: Stop;
  /** The folder after the command's name, and the file before it where the command takes one. */
  readonly folder: string;
  readonly file: string;
  readonly values: Readonly<Record<string, string | undefined>>;
  /** Options without a value that were given. */
  readonly flags: ReadonlySet<string>;
}

/** What a run shall start from or learn from; null: random weights, no one. */
export function sourcesOf(values: Call['values']): { from: NetworkOption | null; distillFrom: NetworkOption | null } {
  const networkOf = (before: string): NetworkOption | null => {
    const [weightsId, runId] = [values[`${before}-weights`], values[`${before}-run`]];
    if (weightsId !== undefined && runId !== undefined) throw new UsageError(`--${before}-weights takes the place of --${before}-run.`);
    if (weightsId !== undefined) return { weightsId };
    return runId === undefined ? null : { runId, step: count(values, 'step', 0) };
  };
  const [from, distillFrom] = [networkOf('from'), networkOf('distill-from')];
  if (from && distillFrom) throw new UsageError('A run that learns from a network starts from random weights: leave --from-* out.');
  if (values['step'] !== undefined && !('runId' in (from ?? distillFrom ?? {})))
    throw new UsageError('--step names a checkpoint of the run in --from-run or --distill-from-run.');
  return { from, distillFrom };
}

type NetworkOption = { readonly weightsId: string } | { readonly runId: string; readonly step: number | null };

/** --run and --step; --weights takes their place. */
export function checkpoint(values: Call['values']): { runId: string | null; step: number | null } {
  if (values['weights'] !== undefined && (values['run'] !== undefined || values['step'] !== undefined)) {
    throw new UsageError('--weights takes the place of --run and --step.');
  }
  return { runId: values['run'] ?? null, step: count(values, 'step', 0) };
}

/** A whole number; null: not given. @throws UsageError */
export function count(values: Call['values'], name: string, least: number): number | null {
  const text = values[name];
  if (text === undefined) return null;
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < least || !Number.isSafeInteger(value))
    throw new UsageError(`--${name} takes a whole number from ${least} on, not "${text}".`);
  return value;
}

/** One of some words. @throws UsageError */
export function choice<T extends string>(values: Call['values'], name: string, allowed: readonly T[], otherwise: T): T {
  const text = values[name] ?? otherwise;
  if (!(allowed as readonly string[]).includes(text)) throw new UsageError(`--${name} takes ${allowed.join(' or ')}, not "${text}".`);
  return text as T;
}

/** --engine and --precision, where they are given. */
export function engineOf(values: Call['values']): { engine?: 'auto' | 'cpu' | 'tensorflow' | 'webgpu'; precision?: 'f32' | 'f16' } {
  return {
    ...(values['engine'] !== undefined && { engine: choice(values, 'engine', ['auto', 'cpu', 'tensorflow', 'webgpu'], 'auto') }),
    ...(values['precision'] !== undefined && { precision: choice(values, 'precision', ['f32', 'f16'], 'f32') }),
  };
}
