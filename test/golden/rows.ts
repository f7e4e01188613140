/** What a golden check hands back: comparisons with recorded numbers, and how close each has to be. */
import assert from 'node:assert/strict';
import type { SafeTensorFile } from '../../core/dinov2/safetensors.ts';

/** One comparison. */
export interface Row {
  /** File name without its folder and ending. */
  readonly file: string;
  readonly what: string;
  /** The one compared, where `what` says the same of many: a parameter, a crop. */
  readonly which: string | null;
  readonly error: number;
  readonly tolerance: number;
}

/** True also of a NaN. */
export const isOut = ({ error, tolerance }: Row): boolean => !(error <= tolerance);

/** Fails naming every comparison that is out. @returns the error nearest to its tolerance, in words */
export function assertWithin(rows: readonly Row[]): string {
  assert.ok(rows.length > 0, 'nothing was compared');
  assert.deepEqual(rows.filter(isOut), []);
  const nearest = rows.reduce((most, row) => (row.error * most.tolerance > most.error * row.tolerance ? row : most));
  return `${rows.length} comparisons; ${nearest.what} ${nearest.which ?? ''}: ${nearest.error.toExponential(1)} of ${nearest.tolerance}`;
}

/** Storage and products of the engine; float16 rounds 8,000 times coarser. */
export type Precision = 'f32' | 'f16';

/**
 * Largest relative errors. Targets are softmax at a temperature of 0.04, which magnifies the errors of logits 25 times.
 * In f16, gradients are compared pooled by part of the network (backbone, heads), and final weights are not, because
 * Adam turns the noise of small gradients into whole steps.
 */
export const TOLERANCE = {
  f32: { outputs: 1e-5, targets: 1e-3, losses: 1e-5, gradients: 1e-4, norms: 1e-4, pooledWeights: 1e-3, weights: 5e-3 },
  f16: { outputs: 5e-3, targets: 5e-2, losses: 1e-2, gradients: 5e-2, norms: 5e-2, pooledWeights: null, weights: null },
} as const satisfies Record<Precision, Record<string, number | null>>;

/** Values of a tensor. @throws Error naming it when the file does not have it */
export function valuesOf<T extends Float32Array | Uint8Array | Int32Array>(recorded: SafeTensorFile, name: string): T {
  return tensorOf(recorded, name).values as T;
}

/** @throws Error naming the tensor when the file does not have it */
export function tensorOf(recorded: SafeTensorFile, name: string): { shape: readonly number[]; values: ArrayLike<number> } {
  const tensor = recorded.tensors.get(name);
  if (!tensor) throw new Error(`it has no tensor ${name}`);
  return tensor;
}
