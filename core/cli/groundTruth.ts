/** Masks that lie beside a folder of images: found by stem, read as objects. For measuring only; never shown to training. */
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { AppError } from '../contract/index.ts';
import { objectsFromClasses, objectsFromInstances, type ImageObjects } from '../evaluate/index.ts';
import { readLabels, type LabelImage } from '../images/index.ts';

export interface TruthOptions {
  /** Folder of indexed or gray PNG files of class numbers; 255 is ignored. */
  readonly masks: string;
  /** Folder of 16-bit PNG files, 0 background, one number an object; null: components of one class. */
  readonly instances: string | null;
}

export class GroundTruth {
  readonly #options: TruthOptions;
  readonly #names: ReadonlyMap<number, string>;

  /** @throws AppError bad-input when a folder is missing or classes.json is not a map of numbers to names */
  constructor(options: TruthOptions) {
    for (const folder of [options.masks, options.instances]) {
      if (folder !== null && !existsSync(folder)) {
        throw new AppError('bad-input', `There is no folder ${folder}.`, 'Check --masks and --instances.');
      }
    }
    this.#options = options;
    this.#names = readClassNames(path.join(path.dirname(path.resolve(options.masks)), 'classes.json'));
  }

  /** Name of a class number, from classes.json beside the folder, else "class 3". */
  className(value: number): string {
    return this.#names.get(value) ?? `class ${value}`;
  }

  /** True when this image has a mask. @param imagePath inside the image folder */
  has(imagePath: string): boolean {
    return find(this.#options.masks, imagePath) !== null;
  }

  /** Class numbers of the pixels. @throws AppError masks-mismatch when the mask's size is not the image's (upright) size */
  async classes(imagePath: string, size: { width: number; height: number }): Promise<LabelImage> {
    return this.#read(this.#options.masks, imagePath, size);
  }

  /** Objects: instances where given, else connected components of one class over 16 pixels. */
  async objects(imagePath: string, size: { width: number; height: number }): Promise<ImageObjects> {
    const { instances, masks } = this.#options;
    return instances !== null && find(instances, imagePath) !== null
      ? objectsFromInstances(await this.#read(instances, imagePath, size))
      : objectsFromClasses(await this.#read(masks, imagePath, size));
  }

  async #read(folder: string, imagePath: string, size: { width: number; height: number }): Promise<LabelImage> {
    const file = find(folder, imagePath);
    if (file === null)
      throw new AppError('bad-input', `No mask for ${imagePath} in ${folder}.`, 'Masks carry the name of their image, with .png.');
    const labels = await readLabels(file);
    if (labels.width !== size.width || labels.height !== size.height) {
      throw new AppError(
        'masks-mismatch',
        `${file} is ${labels.width} x ${labels.height}, its image ${size.width} x ${size.height}.`,
        'Masks must have the size of the upright image.',
      );
    }
    return labels;
  }
}

/** masks/sub/a.png for sub/a.jpg, else masks/a.png. */
function find(folder: string, imagePath: string): string | null {
  const parsed = path.posix.parse(imagePath);
  for (const name of [path.join(parsed.dir, `${parsed.name}.png`), `${parsed.name}.png`]) {
    const file = path.join(folder, name);
    if (existsSync(file)) return file;
  }
  return null;
}

function readClassNames(file: string): Map<number, string> {
  const names = new Map<number, string>();
  if (!existsSync(file)) return names;
  let parsed: unknown;
  try {
    parsed = JSON.parse(readFileSync(file, 'utf8'));
  } catch (error) {
    throw new AppError(
      'bad-input',
      `${file} is not JSON: ${(error as Error).message}.`,
      'It should look like {"0": "background", "1": "leaf"}.',
    );
  }
  for (const [key, name] of Object.entries(parsed as Record<string, unknown>)) {
    if (!/^\d+$/.test(key) || typeof name !== 'string') {
      throw new AppError(
        'bad-input',
        `${file} has the entry ${JSON.stringify(key)}: ${JSON.stringify(name)}.`,
        'It should look like {"0": "background", "1": "leaf"}.',
      );
    }
    names.set(Number(key), name);
  }
  return names;
}
