/** Descriptors on disk, beside the features they came from: what "show similar" reads without any network. */
import path from 'node:path';
import { FeatureStore, readCache, writeCache } from '../prelabel/index.ts';

/** Names descriptors of plain appearance, where a network's key names a network's. */
export const picturesKey = 'pictures';
const version = 1;

export interface Descriptors {
  /** [n, dim], length 1 each. */
  readonly rows: Float32Array;
  readonly dim: number;
  /** Row of each image, by "<hash>-<page>": files with the same bytes share one. */
  readonly rowOf: ReadonlyMap<string, number>;
}

function fileOf(cacheDir: string, features: string): string {
  return path.join(new FeatureStore({ backbone: null, modelKey: features, cacheDir, imageRoot: '' }).folder, 'descriptors.bin');
}

/** @param names "<hash>-<page>" of each row; of rows with one name the first is kept */
export async function writeDescriptors(
  cacheDir: string,
  features: string,
  dim: number,
  rows: Float32Array,
  names: readonly string[],
): Promise<void> {
  const first = [...new Map(names.map((name, row) => [name, row] as const).reverse()).values()].reverse();
  const values = new Float32Array(first.length * dim);
  first.forEach((row, at) => values.set(rows.subarray(row * dim, (row + 1) * dim), at * dim));
  const facts = { dim, names: first.map((row) => names[row]) };
  await writeCache(fileOf(cacheDir, features), 'descriptors', version, facts, [{ name: 'rows', type: 'f16', values }]);
}

/** Null when there are none: the cache may be deleted at any time. */
export async function readDescriptors(cacheDir: string, features: string): Promise<Descriptors | null> {
  const content = await readCache(fileOf(cacheDir, features), 'descriptors', version);
  const rows = content?.arrays.get('rows');
  if (!content || !rows) return null;
  const { dim, names } = content.facts as { dim: number; names: string[] };
  return { rows, dim, rowOf: new Map(names.map((name, row) => [name, row])) };
}
