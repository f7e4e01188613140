/** A file that says which images a probe learns from and which it is scored on. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { AppError } from '../contract/index.ts';
import { Random } from '../random.ts';

export interface Split {
  readonly train: readonly string[];
  readonly test: readonly string[];
}

/** Columns that may name the image, and what they hold: its path, its name, or its name without the ending. */
const NAME_COLUMNS = ['path', 'file', 'image', 'name', 'stem'];

/**
 * Reads a CSV file with a header: a column `split` that says train or test (others are left out), and one of path, file,
 * image, name or stem.
 * @param images paths inside their folder, of images that have masks
 * @throws AppError bad-input when a column is missing, or either side has no image
 */
export function readSplit(file: string, images: readonly string[]): Split {
  const [header = '', ...rows] = readFile(file)
    .split(/\r?\n/)
    .filter((line) => line.trim() !== '');
  const columns = cells(header).map((name) => name.toLowerCase());
  const name = columns.findIndex((column) => NAME_COLUMNS.includes(column));
  const side = columns.indexOf('split');
  if (name < 0 || side < 0) {
    const wanted = `a column "split" and one of ${NAME_COLUMNS.join(', ')}`;
    throw new AppError('bad-input', `${file} has the columns ${columns.join(', ')}; needed are ${wanted}.`, 'Name them in its first line.');
  }
  const sideOf = new Map(rows.map((row) => cells(row)).map((row) => [row[name], row[side]?.toLowerCase()]));
  const of = (wanted: string): string[] =>
    images.filter((image) => [image, path.posix.basename(image), path.posix.parse(image).name].some((key) => sideOf.get(key) === wanted));
  return refuseEmpty({ train: of('train'), test: of('test') }, `In ${file}`);
}

/** Half and half, the same for the same images and seed. @throws AppError bad-input with fewer than two images */
export function drawSplit(images: readonly string[], seed: number): Split {
  const order = new Random(seed, images.length).permutation(images.length);
  const half = images.length >> 1;
  const pick = (from: number, to: number): string[] => Array.from(order.subarray(from, to).toSorted(), (index) => images[index]);
  return refuseEmpty({ train: pick(0, half), test: pick(half, images.length) }, 'Here');
}

function refuseEmpty(split: Split, where: string): Split {
  if (split.train.length > 0 && split.test.length > 0) return split;
  const found = `${split.train.length} images with masks are for learning and ${split.test.length} for the test`;
  throw new AppError('bad-input', `${where} ${found}.`, 'A probe needs some of both.');
}

/** Quotes are taken off; no cell of such a file holds a comma. */
function cells(line: string): string[] {
  return line.split(',').map((cell) => cell.trim().replace(/^"(.*)"$/, '$1'));
}

function readFile(file: string): string {
  try {
    return readFileSync(file, 'utf8').replace(/^\uFEFF/, '');
  } catch (error) {
    throw new AppError('bad-input', `${file} cannot be read: ${(error as Error).message}.`, 'Check --split.', { cause: error });
  }
}
