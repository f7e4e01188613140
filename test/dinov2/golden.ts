/** Recorded numbers of the official code, and how far a result is from them. */
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { readSafetensors, type SafeTensorFile } from '../../core/dinov2/safetensors.ts';

const folder = new URL('../../../shared/golden/', import.meta.url);
export const goldenPath = (name: string): string => fileURLToPath(new URL(name, folder));

/** For node:test's `skip`: a reason when the recorded numbers are not beside the project. */
export const noGolden: string | false = existsSync(folder) ? false : 'the recorded numbers (../shared/golden) are not beside the project';

export const golden = (name: string): Promise<SafeTensorFile> => readSafetensors(goldenPath(`${name}.safetensors`));
export const goldenJson = async <T>(name: string): Promise<T> => JSON.parse(await readFile(goldenPath(`${name}.json`), 'utf8')) as T;

/** A recorded run of three steps. */
export interface RecordedSteps {
  readonly batch: number;
  readonly locals: number;
  readonly centering: 'centering' | 'sinkhorn_knopp';
  readonly layerwise_decay: number;
  readonly patch_embed_lr_mult: number;
  readonly clip: number;
  readonly student_temp: number;
  readonly koleo_weight: number;
  readonly steps: readonly ({
    readonly lr: number;
    readonly last_layer_lr: number;
    readonly wd: number;
    readonly momentum: number;
    readonly teacher_temp: number;
    readonly n_masked: number;
    readonly grad_norm: Readonly<Record<string, number>>;
  } & Readonly<Record<'dino_local' | 'dino_global' | 'koleo' | 'ibot' | 'total', number>>)[];
  readonly param_groups: Readonly<Record<string, { readonly lr: number; readonly wd: number; readonly last: boolean }>>;
}

/** One recorded crop. */
export interface RecordedCrop {
  readonly name: string;
  readonly top: number;
  readonly left: number;
  readonly width: number;
  readonly height: number;
  readonly size: number;
}

type Numbers = ArrayLike<number>;

/** Norm of the difference over norm of the expected. */
export function relativeError(actual: Numbers, expected: Numbers): number {
  if (actual.length !== expected.length) throw new Error(`${actual.length} values where ${expected.length} are expected`);
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < actual.length; i++) {
    difference += (actual[i]! - expected[i]!) ** 2;
    norm += expected[i]! ** 2;
  }
  return Math.sqrt(difference / norm);
}

/** Tensors whose name starts with the prefix, the prefix cut off, as parameters. */
export function weightsOf(file: SafeTensorFile, prefix: string): { name: string; shape: readonly number[]; values: Float32Array }[] {
  return [...file.tensors]
    .filter(([name]) => name.startsWith(prefix))
    .map(([name, { shape, values }]) => ({ name: name.slice(prefix.length), shape, values: values as Float32Array }));
}
