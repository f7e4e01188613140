// COCO instance segmentation, one JSON file: writing, warning of what a format loses, and reading back what was written.
// Which annotations go in is the caller's choice. Source: cocodataset.org/#format-data.
import { randomUUID } from 'node:crypto';
import { open, readFile, rename, rm, type FileHandle } from 'node:fs/promises';
import path from 'node:path';
import { AppError, type Box, type Rle } from '../contract/index.ts';
import { emptyMask, type Mask } from './masks.ts';
import { fillRing, outlinePixelEdges, ringArea } from './outlines.ts';
import { decodeRle, encodeRle, rleArea, rleBox, rleFromRuns } from './rle.ts';

/** rle: exact. polygons: outer outlines along pixel edges, for readers without run lengths; holes are filled. */
export type CocoSegmentation = 'rle' | 'polygons';

export interface CocoImage {
  /** From 1, unique. */
  readonly id: number;
  /** Inside the image folder, forward slashes. */
  readonly path: string;
  /** 0 but for later pages of a TIFF. */
  readonly page: number;
  /** Upright. */
  readonly width: number;
  readonly height: number;
}

export interface CocoCategory {
  /** From 1; the project's class id, so that a later export has the same numbers. */
  readonly id: number;
  readonly name: string;
}

export interface CocoAttributes {
  /** accepted: a proposal taken as it was · edited: taken with other pixels · drawn: by hand · proposed: nobody has decided. */
  readonly origin: 'accepted' | 'edited' | 'drawn' | 'proposed';
  readonly reviewer?: string;
  /** Time a person spent on it. */
  readonly seconds?: number;
  /** Of the proposal: run and step. */
  readonly model?: string;
}

export interface CocoObject {
  readonly imageId: number;
  readonly categoryId: number;
  readonly rle: Rle;
  /** 0..1, of machine proposals. */
  readonly score?: number;
  readonly attributes?: CocoAttributes;
}

export interface CocoContent {
  /** All images of the project, also those without objects. */
  readonly images: Iterable<CocoImage> | AsyncIterable<CocoImage>;
  readonly categories: Iterable<CocoCategory>;
  readonly objects: Iterable<CocoObject> | AsyncIterable<CocoObject>;
  readonly segmentation: CocoSegmentation;
  /** Goes to `info.description`. */
  readonly description?: string;
  /** ISO 8601; default: now. */
  readonly createdAt?: string;
}

export interface CocoWritten {
  readonly images: number;
  readonly objects: number;
  /** Objects without a pixel, left out. */
  readonly empty: number;
  readonly bytes: number;
}

/**
 * Writes a COCO file: to a temporary name, then renamed, so a file of that name is always whole. Images and objects are
 * drawn one by one; memory does not grow with the project.
 *
 * - `area` is the mask's pixels and `bbox` its integer box, in both segmentations; `iscrowd` is 0; ids count from 1.
 * - COCO knows no pages: page 1 and up of `a.tif` are listed as `a.tif#page=1`, with `page`, so that a reader that takes
 *   the first page for all stops instead of pairing masks with the wrong picture.
 *
 * @throws AppError mask-invalid when an object's mask has another size than its image, or names an image or category that
 *   is not listed; system errors (ENOSPC, EROFS, EACCES), after which no file is left behind
 */
export async function writeCoco(file: string, content: CocoContent): Promise<CocoWritten> {
  const temporary = `${file}.${randomUUID()}.tmp`;
  try {
    const handle = await open(temporary, 'wx');
    let written: CocoWritten;
    try {
      written = await writeAll(handle, content);
      await handle.sync(); // the name must not come before the bytes
    } finally {
      await handle.close();
    }
    await rename(temporary, file);
    return written;
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}

async function writeAll(handle: FileHandle, content: CocoContent): Promise<CocoWritten> {
  const out = new Writer(handle);
  const createdAt = content.createdAt ?? new Date().toISOString();
  const info = {
    description: content.description ?? 'Exported by Patchwise',
    version: '1.0',
    year: new Date(createdAt).getUTCFullYear(),
    contributor: '',
    url: '',
    date_created: createdAt,
  };
  await out.text(`{"info":${JSON.stringify(info)},\n"licenses":[],\n"images":[`);
  const sizes = new Map<number, readonly [height: number, width: number]>();
  for await (const image of content.images) {
    await out.item(sizes.size, imageRecord(image));
    sizes.set(image.id, [image.height, image.width]);
  }
  await out.text('\n],\n"categories":[');
  const categories = new Set<number>();
  for (const { id, name } of content.categories) {
    await out.item(categories.size, { id, name, supercategory: '' });
    categories.add(id);
  }
  await out.text('\n],\n"annotations":[');
  let objects = 0;
  let empty = 0;
  for await (const object of content.objects) {
    const size = sizes.get(object.imageId);
    if (size === undefined) throw notListed(`image ${object.imageId}`);
    if (!categories.has(object.categoryId)) throw notListed(`class ${object.categoryId}`);
    if (size[0] !== object.rle.size[0] || size[1] !== object.rle.size[1]) {
      throw new AppError(
        'mask-invalid',
        `A mask of ${object.rle.size[1]} x ${object.rle.size[0]} pixels belongs to image ${object.imageId} of ${size[1]} x ${size[0]}.`,
        'Scan the folder again: the image may have been replaced by one of another size.',
      );
    }
    const record = objectRecord(object, objects + 1, content.segmentation);
    if (record === null) empty++;
    else await out.item(objects++, record);
  }
  await out.text('\n]}\n');
  await out.flush();
  return { images: sizes.size, objects, empty, bytes: out.bytes };
}

function notListed(what: string): AppError {
  return new AppError(
    'mask-invalid',
    `An object names ${what}, which is not in the export.`,
    'Export again; if it comes back, please report it with this text.',
  );
}

function imageRecord({ id, path: file, page, width, height }: CocoImage): object {
  const name = file.replaceAll('\\', '/');
  return page === 0 ? { id, file_name: name, width, height } : { id, file_name: `${name}#page=${page}`, width, height, page };
}

/** Null for a mask without a pixel. */
function objectRecord(
  { imageId, categoryId, rle, score, attributes }: CocoObject,
  id: number,
  segmentation: CocoSegmentation,
): object | null {
  const area = rleArea(rle);
  if (area === 0) return null;
  return {
    id,
    image_id: imageId,
    category_id: categoryId,
    segmentation: segmentation === 'rle' ? { size: rle.size, counts: rle.counts } : cocoPolygons(rle),
    area,
    bbox: rleBox(rle),
    iscrowd: 0,
    ...(score === undefined ? {} : { score }),
    ...(attributes === undefined ? {} : { attributes }),
  };
}

/** Outer outlines as COCO polygons [x1, y1, x2, y2, ...] in image pixels, one a part; holes are lost. */
export function cocoPolygons(rle: Rle): number[][] {
  const box = rleBox(rle);
  return outlinePixelEdges(decodeRle(rle, box))
    .filter((ring) => ringArea(ring) > 0)
    .map((ring) => ring.flatMap(([x, y]) => [x + box[0], y + box[1]]));
}

export interface CocoLoss {
  readonly objects: number;
  readonly empty: number;
  readonly withHoles: number;
  readonly severalParts: number;
  /** Sentences for a person; empty when nothing is lost. */
  readonly warnings: readonly string[];
}

/** What a segmentation would lose of these masks, told before writing. */
export async function cocoPreflight(masks: Iterable<Rle> | AsyncIterable<Rle>, segmentation: CocoSegmentation): Promise<CocoLoss> {
  let objects = 0;
  let empty = 0;
  let withHoles = 0;
  let severalParts = 0;
  for await (const rle of masks) {
    objects++;
    const box = rleBox(rle);
    if (box[2] === 0) {
      empty++;
      continue;
    }
    if (segmentation === 'rle') continue;
    const areas = outlinePixelEdges(decodeRle(rle, box)).map(ringArea);
    if (areas.some((area) => area < 0)) withHoles++;
    if (areas.filter((area) => area > 0).length > 1) severalParts++;
  }
  const some = (count: number, one: string, many: string): string[] =>
    count === 0 ? [] : [`${count.toLocaleString('en-US')} ${count === 1 ? one : many}`];
  const warnings = [
    ...some(withHoles, 'object has holes; COCO polygons fill them.', 'objects have holes; COCO polygons fill them.'),
    ...some(
      severalParts,
      'object has several parts; it becomes several polygons of one annotation.',
      'objects have several parts; each becomes several polygons of one annotation.',
    ),
    ...some(empty, 'object has no pixel and is left out.', 'objects have no pixel and are left out.'),
  ];
  return { objects, empty, withHoles, severalParts, warnings };
}

export interface CocoFile {
  readonly images: readonly {
    readonly id: number;
    readonly fileName: string;
    readonly width: number;
    readonly height: number;
    readonly page: number;
  }[];
  readonly categories: readonly CocoCategory[];
  readonly objects: readonly (CocoObject & { readonly id: number; readonly area: number; readonly box: Box })[];
}

/**
 * Reads a COCO file as writeCoco makes them: run lengths, compressed or not, or polygons along pixel edges. It is the
 * check of our own files, not an import: other polygons are refused.
 * @throws AppError mask-invalid, bad-input; system errors
 */
export async function readCoco(file: string): Promise<CocoFile> {
  const refuse = (what: string): AppError =>
    new AppError('bad-input', `${path.basename(file)} is not a COCO file of ours: ${what}.`, 'Choose a file that was exported here.');
  let root: { images?: RawImage[]; categories?: CocoCategory[]; annotations?: RawAnnotation[] };
  try {
    root = JSON.parse(await readFile(file, 'utf8'));
  } catch (error) {
    if (error instanceof SyntaxError) throw refuse(error.message);
    throw error;
  }
  const { images, categories, annotations } = root;
  if (!Array.isArray(images) || !Array.isArray(categories) || !Array.isArray(annotations))
    throw refuse('images, categories or annotations are missing');
  const sizes = new Map(images.map((image) => [image.id, image]));
  return {
    images: images.map(({ id, file_name, width, height, page }) => ({ id, fileName: file_name, width, height, page: page ?? 0 })),
    categories: categories.map(({ id, name }) => ({ id, name })),
    objects: annotations.map(({ id, image_id, category_id, segmentation, area, bbox, score, attributes }) => {
      const image = sizes.get(image_id);
      if (image === undefined) throw refuse(`annotation ${id} names image ${image_id}`);
      let rle: Rle;
      if (Array.isArray(segmentation)) {
        const mask: Mask = emptyMask(image.width, image.height);
        for (const polygon of segmentation) {
          const ring = Array.from({ length: polygon.length / 2 }, (_, i) => [polygon[2 * i]!, polygon[2 * i + 1]!] as const);
          if (ring.length < 4 || !fillRing(mask, ring)) throw refuse(`a polygon of annotation ${id} does not follow pixel edges`);
        }
        rle = encodeRle(mask);
      } else {
        rle =
          typeof segmentation.counts === 'string'
            ? { size: segmentation.size, counts: segmentation.counts }
            : rleFromRuns(segmentation.counts, segmentation.size);
        rleArea(rle); // refuses what does not add up
      }
      return {
        id,
        imageId: image_id,
        categoryId: category_id,
        rle,
        area,
        box: bbox,
        ...(score === undefined ? {} : { score }),
        ...(attributes === undefined ? {} : { attributes }),
      };
    }),
  };
}

interface RawImage {
  readonly id: number;
  readonly file_name: string;
  readonly width: number;
  readonly height: number;
  readonly page?: number;
}

interface RawAnnotation {
  readonly id: number;
  readonly image_id: number;
  readonly category_id: number;
  readonly segmentation: number[][] | { readonly size: readonly [number, number]; readonly counts: string | readonly number[] };
  readonly area: number;
  readonly bbox: Box;
  readonly score?: number;
  readonly attributes?: CocoAttributes;
}

/** Gathers text into large writes. */
class Writer {
  static readonly CHUNK = 2 ** 20;
  readonly #handle: FileHandle;
  #pending: string[] = [];
  #length = 0;
  bytes = 0;

  constructor(handle: FileHandle) {
    this.#handle = handle;
  }

  async text(text: string): Promise<void> {
    this.#pending.push(text);
    this.#length += text.length;
    if (this.#length >= Writer.CHUNK) await this.flush();
  }

  /** One element of an array, on its own line. */
  async item(index: number, value: object): Promise<void> {
    await this.text(`${index === 0 ? '\n' : ',\n'}${JSON.stringify(value)}`);
  }

  async flush(): Promise<void> {
    const chunk = Buffer.from(this.#pending.join(''));
    this.#pending = [];
    this.#length = 0;
    let done = 0;
    while (done < chunk.length) done += (await this.#handle.write(chunk, done)).bytesWritten;
    this.bytes += chunk.length;
  }
}
