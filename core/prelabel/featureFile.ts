/** Features of an image from what the network gave to the file that keeps them, and back. Whose they are is features.ts. */
import { AppError } from '../contract/index.ts';
import { readCache, roundToHalf, writeCache } from './cachefile.ts';

/** Tokens of one image after the network's final norm. */
export interface PatchFeatures {
  readonly gridHeight: number;
  readonly gridWidth: number;
  readonly dim: number;
  /** [gridHeight * gridWidth, dim], row-major patches. */
  readonly patches: Float32Array;
  /** [dim] */
  readonly cls: Float32Array;
}

/** With the passes that place edges inside a patch (prelabel methods: half-patch shifts). */
export interface ImageFeatures extends PatchFeatures {
  /**
   * Patches of the same grid laid half a patch right, down, and both (`gridShifts` of refine.ts), [gridHeight * gridWidth,
   * dim] each; empty when one pass was made.
   */
  readonly shifted: readonly Float32Array[];
}

/** What a network makes of a batch of N images. */
export interface NetworkFeatures {
  /** [N, gridHeight * gridWidth, dim] */
  readonly patches: Float32Array;
  /** [N, dim] */
  readonly cls: Float32Array;
  readonly gridHeight: number;
  readonly gridWidth: number;
}

const version = 1;

/**
 * Replaces tokens of abnormal norm by the mean of their normal 8-neighbours (high-norm tokens of ViTs without registers,
 * Darcet et al. 2024). Abnormal: norm above median + 6 * 1.4826 * MAD. In place.
 * @returns number of tokens replaced
 */
export function repairOutliers(patches: Float32Array, gridWidth: number, gridHeight: number, dim: number): number {
  const n = gridWidth * gridHeight;
  const norms = new Float64Array(n);
  for (let i = 0; i < n; i++) {
    let sum = 0;
    for (let k = 0; k < dim; k++) sum += patches[i * dim + k] ** 2;
    norms[i] = Math.sqrt(sum);
  }
  const median = middle(norms);
  const deviation = middle(norms.map((r) => Math.abs(r - median)));
  const limit = median + 6 * 1.4826 * deviation;
  // With no spread at all every rounding error would be an outlier.
  if (deviation <= 1e-6 * median) return 0;
  const bad = norms.map((r) => (r > limit ? 1 : 0));
  const source = patches.slice();
  let replaced = 0;
  for (let i = 0; i < n; i++) {
    if (bad[i] === 0) continue;
    const x = i % gridWidth;
    const y = (i / gridWidth) | 0;
    const good: number[] = [];
    for (let dy = -1; dy <= 1; dy++) {
      for (let dx = -1; dx <= 1; dx++) {
        const nx = x + dx;
        const ny = y + dy;
        if (nx < 0 || ny < 0 || nx >= gridWidth || ny >= gridHeight) continue;
        if (bad[ny * gridWidth + nx] === 0) good.push(ny * gridWidth + nx);
      }
    }
    if (good.length === 0) continue;
    for (let k = 0; k < dim; k++) {
      let sum = 0;
      for (const j of good) sum += source[j * dim + k];
      patches[i * dim + k] = sum / good.length;
    }
    replaced++;
  }
  return replaced;
}

function middle(values: Float64Array): number {
  const sorted = values.slice().sort();
  const half = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

function allFinite(values: Float32Array): boolean {
  // 0 times what is not finite is not a number.
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i] * 0;
  return sum === 0;
}

/**
 * One image as the network gave it, [P, dim] and [dim]: outliers repaired, rounded as the file rounds. Changes `patches`.
 * @throws AppError not-finite
 */
export function finished(raw: PatchFeatures): PatchFeatures {
  const { gridHeight, gridWidth, dim, patches, cls } = raw;
  if (!allFinite(patches)) {
    throw new AppError(
      'not-finite',
      'The network gave features that are not numbers.',
      'Choose an earlier checkpoint, or train again with a lower learning rate.',
    );
  }
  repairOutliers(patches, gridWidth, gridHeight, dim);
  return { ...raw, patches: roundToHalf(patches), cls: roundToHalf(cls) };
}

/** The images of a batch by themselves, copied. */
export function imagesOf({ patches, cls, gridHeight, gridWidth }: NetworkFeatures, dim: number): PatchFeatures[] {
  const size = gridHeight * gridWidth * dim;
  return Array.from({ length: cls.length / dim }, (_, i) => ({
    gridHeight,
    gridWidth,
    dim,
    patches: patches.slice(i * size, (i + 1) * size),
    cls: cls.slice(i * dim, (i + 1) * dim),
  }));
}

/** An image's passes, each as the network gave it, ready and on disk. @throws AppError not-finite; what writing throws */
export async function keepFeatures(file: string, passes: readonly PatchFeatures[]): Promise<ImageFeatures> {
  const [first, ...rest] = passes.map(finished);
  const { gridHeight, gridWidth, dim, patches, cls } = first;
  const shifted = rest.map((pass) => pass.patches);
  await writeCache(file, 'features', version, { gridHeight, gridWidth, dim }, [
    { name: 'patches', type: 'f16', values: patches },
    { name: 'cls', type: 'f16', values: cls },
    ...shifted.map((values, s) => ({ name: `shifted${s + 1}`, type: 'f16' as const, values })),
  ]);
  return { ...first, shifted };
}

/** Features of so many passes, or null where the file does not hold them. @param dim of the network, if known */
export async function readFeatures(file: string, passes: number, dim: number | undefined): Promise<ImageFeatures | null> {
  const content = await readCache(file, 'features', version);
  if (content === null) return null;
  const facts = content.facts as { readonly gridHeight: number; readonly gridWidth: number; readonly dim: number };
  const patches = content.arrays.get('patches');
  const cls = content.arrays.get('cls');
  const fits = patches?.length === facts.gridHeight * facts.gridWidth * facts.dim && cls?.length === facts.dim;
  if (!fits || (dim !== undefined && facts.dim !== dim)) return null;
  const shifted: Float32Array[] = [];
  for (let s = 1; s < passes; s++) {
    const rows = content.arrays.get(`shifted${s}`);
    if (rows?.length !== patches.length) return null;
    shifted.push(rows);
  }
  return { ...facts, patches, cls, shifted };
}
