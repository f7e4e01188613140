/** Recorded numbers of the official code beside the project, and how far a result is from recorded numbers. */
import { existsSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { readSafetensors, type SafeTensorFile } from '../../core/dinov2/safetensors.ts';

const folder = new URL('../../../shared/golden/', import.meta.url);
export const goldenPath = (name: string): string => fileURLToPath(new URL(name, folder));

/** For node:test's `skip`: a reason when the recorded numbers are not beside the project. */
export const noGolden: string | false = existsSync(folder) ? false : 'the recorded numbers (../shared/golden) are not beside the project';

export const golden = (name: string): Promise<SafeTensorFile> => readSafetensors(goldenPath(`${name}.safetensors`));

/** Names of the recorded files that begin so; when there is no folder one stands for all of them, to be skipped. */
export const goldenNames = (prefix: string): string[] =>
  noGolden
    ? [`${prefix}*`]
    : readdirSync(folder)
        .filter((name) => name.startsWith(prefix) && name.endsWith('.safetensors'))
        .map((name) => path.parse(name).name)
        .sort();

type Numbers = ArrayLike<number>;

/** Norm of the difference over norm of the expected; infinite where something is there instead of nothing. */
export function relativeError(actual: Numbers, expected: Numbers): number {
  if (actual.length !== expected.length) throw new Error(`${actual.length} values where ${expected.length} are expected`);
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < actual.length; i++) {
    difference += (actual[i]! - expected[i]!) ** 2;
    norm += expected[i]! ** 2;
  }
  return difference === 0 ? 0 : Math.sqrt(difference / norm);
}

/** Tensors whose name starts with the prefix, the prefix cut off, as parameters. */
export function weightsOf(file: SafeTensorFile, prefix: string): { name: string; shape: readonly number[]; values: Float32Array }[] {
  return [...file.tensors]
    .filter(([name]) => name.startsWith(prefix))
    .map(([name, { shape, values }]) => ({ name: name.slice(prefix.length), shape, values: values as Float32Array }));
}
