/** What the benches of training steps have in common: flags, the median, and PyTorch's step in the same call. */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import type { StepSettings } from './step.ts';

const text = { type: 'string' } as const;
/** For parseArgs. */
export const stepFlags = {
  arch: text,
  batch: text,
  gsize: text,
  lsize: text,
  locals: text,
  protos: text,
  steps: text,
  peer: text,
  python: text,
} as const;

export type StepFlags = Partial<Record<keyof typeof stepFlags, string>>;

/** One setting where --arch is given, what is not given taken from the standard one of that network; else all of them. */
export function settingsOf(flags: StepFlags, standard: readonly StepSettings[]): readonly StepSettings[] {
  const { arch } = flags;
  if (!arch) return standard;
  const like = standard.find((setting) => setting.arch === arch) ?? standard[1]!;
  const number = (name: Exclude<keyof StepSettings, 'arch'>): number => (flags[name] === undefined ? like[name] : Number(flags[name]));
  const [batch, gsize, lsize, locals, protos] = (['batch', 'gsize', 'lsize', 'locals', 'protos'] as const).map(number);
  return [{ arch, batch: batch!, gsize: gsize!, lsize: lsize!, locals: locals!, protos: protos! }];
}

export const flagsOf = (setting: StepSettings): string[] => Object.entries(setting).flatMap(([key, value]) => [`--${key}`, String(value)]);

export const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)]!;

/** What the peer's script prints. */
export interface PeerResult {
  readonly img_s: number;
}

/**
 * PyTorch's step with the setting, or why it could not run. Null where there is no script, or --peer none.
 * @param how what the script is told beside the setting
 */
export function runPeer(
  setting: StepSettings,
  { peer, python = 'python3' }: StepFlags,
  how: readonly string[],
): PeerResult | string | null {
  const script = peer ?? fileURLToPath(new URL('../../../shared/bench/torch_dinov2_step.py', import.meta.url));
  if (script === 'none' || !existsSync(script)) return null;
  const result = spawnSync(python, [path.resolve(script), ...how, ...flagsOf(setting)], { encoding: 'utf8' });
  const line = result.stdout?.split('\n').find((candidate) => candidate.startsWith('{'));
  if (line) return JSON.parse(line) as PeerResult;
  const reason = (result.error?.message ?? result.stderr.trim().split('\n').at(-1)) || 'no output';
  return `PyTorch could not run (${python}): ${reason}`;
}
