/**
 * Pictures and exports over HTTP, by ids only:
 *
 *   /files/thumb/<imageId>                    WebP, longer side up to 320
 *   /files/image/<imageId>?max=N              upright 8-bit sRGB, longer side up to N (64 to 8192, default 2048): PNG up to 2 megapixels, else JPEG
 *   /files/tile/<imageId>/<level>/<x>/<y>     JPEG of up to 512 x 512; level n is the image halved n times, x and y count tiles
 *   /files/pca/<runId>/<step>/<position>      PNG, one pixel a patch
 *   /files/export/<exportId>/<name>           a file of an export, as download
 *
 * An id is looked up in the project before anything becomes a path; never the raw file.
 */
import { createReadStream } from 'node:fs';
import { mkdir, readFile, rename, stat, unlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { AppError } from '../contract/index.ts';
import { encodeJpeg, encodePng, encodeWebp, readRgb, readTile, type RgbImage } from '../images/index.ts';
import { exportFile } from './exports.ts';
import type { Project } from './project.ts';
import { imageFile, type ImageFile } from './store/images.ts';
import { pcaSteps, runDir } from './store/runs.ts';

export const thumbSide = 320;
export const tileSide = 512;
const losslessPixels = 2_000_000;
/** Decoding is the host's only heavy work: two at a time keep it answering. */
const maxDecoding = 2;
/** A decoded level is kept while a person looks around in it. */
const levelBytes = 256 * 2 ** 20;

export interface FileAnswer {
  readonly type: string;
  /** Null: the same bytes may not be kept (the image has changed since the scan). */
  readonly etag: string | null;
  /** Only when they are wanted: not for a match of the ETag. */
  readonly body: () => Promise<Buffer> | NodeJS.ReadableStream;
  readonly download?: string;
}

export class Files {
  #decoding = 0;
  readonly #waiting: (() => void)[] = [];
  /** The last decoded level, for its next tiles. */
  #level: { key: string; picture: Promise<RgbImage> } | null = null;

  /**
   * @param parts of the path behind /files/
   * @returns null for an address that names nothing
   * @throws AppError when it names something that cannot be had
   */
  async answer(project: Project, parts: readonly string[], query: URLSearchParams): Promise<FileAnswer | null> {
    const [kind, ...ids] = parts;
    switch (kind) {
      case 'thumb':
        return ids.length === 1 ? this.#image(project, ids[0], (image) => this.#thumb(project, image)) : null;
      case 'image':
        return ids.length === 1 ? this.#image(project, ids[0], (image) => this.#whole(project, image, query.get('max'))) : null;
      case 'tile': {
        const [level, x, y] = ids.slice(1).map(natural);
        if (ids.length !== 4 || level == null || x == null || y == null) return null;
        return this.#image(project, ids[0], (image) => this.#tile(project, image, level, x, y));
      }
      case 'pca':
        return ids.length === 3 ? pcaPicture(project, ids[0], natural(ids[1]), natural(ids[2])) : null;
      case 'export':
        return ids.length === 2 ? exported(project, ids[0], ids[1]) : null;
      default:
        return null;
    }
  }

  /** Looks the image up; without an ETag when its file is no longer the one that was scanned. */
  async #image(project: Project, id: string, draw: (image: ImageFile) => FileAnswer | null): Promise<FileAnswer | null> {
    const imageId = natural(id);
    const image = imageId === null ? undefined : imageFile(project, imageId);
    const answer = image ? draw(image) : null;
    if (!image || !answer) return null;
    const now = await stat(sourceOf(project, image)).catch(() => null);
    return now?.size === image.bytes && now.mtimeMs === image.modifiedMs ? answer : { ...answer, etag: null };
  }

  #thumb(project: Project, image: ImageFile): FileAnswer {
    const etag = tag(image, `thumb${thumbSide}`);
    const body = async () => {
      const dir = join(project.dir, 'cache', 'thumbs', image.hash.slice(0, 2));
      const file = join(dir, `${image.hash}-${image.page}-${thumbSide}.webp`);
      const cached = await readFile(file).catch(() => null);
      if (cached) return cached;
      const bytes = await this.#limited(async () =>
        encodeWebp(await readRgb(sourceOf(project, image), { page: image.page, maxSide: thumbSide })),
      );
      if (!project.readOnly) await keep(dir, file, bytes);
      return bytes;
    };
    return { type: 'image/webp', etag, body };
  }

  #whole(project: Project, image: ImageFile, max: string | null): FileAnswer | null {
    const asked = max === null ? 2048 : natural(max);
    if (asked === null) return null;
    const maxSide = Math.min(8192, Math.max(64, asked));
    const scale = Math.min(1, maxSide / Math.max(image.width, image.height));
    const exact = image.width * image.height * scale * scale <= losslessPixels;
    const body = () =>
      this.#limited(async () => {
        const picture = await readRgb(sourceOf(project, image), { page: image.page, maxSide });
        return exact ? encodePng(picture) : encodeJpeg(picture, 92);
      });
    return { type: exact ? 'image/png' : 'image/jpeg', etag: tag(image, `image${maxSide}`), body };
  }

  #tile(project: Project, image: ImageFile, level: number, x: number, y: number): FileAnswer | null {
    const scale = 2 ** -level;
    const [width, height] = [Math.max(1, Math.round(image.width * scale)), Math.max(1, Math.round(image.height * scale))];
    const [left, top] = [x * tileSide, y * tileSide];
    if (level > 16 || left >= width || top >= height) return null;
    const size = { width: Math.min(tileSide, width - left), height: Math.min(tileSide, height - top) };
    const source = sourceOf(project, image);
    const body = () =>
      this.#limited(async () => {
        if (width * height * 3 <= levelBytes) {
          const key = `${image.hash}-${image.page}-${level}`;
          if (this.#level?.key !== key) this.#level = { key, picture: readRgb(source, { page: image.page, size: { width, height } }) };
          const { picture } = this.#level;
          try {
            return await encodeJpeg(cut(await picture, left, top, size), 92);
          } catch (error) {
            if (this.#level.picture === picture) this.#level = null;
            throw error;
          }
        }
        const part = { x: Math.floor(left / scale), y: Math.floor(top / scale) };
        const full = {
          width: Math.min(image.width - part.x, Math.round(size.width / scale)),
          height: Math.min(image.height - part.y, Math.round(size.height / scale)),
        };
        return encodeJpeg(await readTile(source, { page: image.page, ...part, ...full, scale }), 92);
      });
    return { type: 'image/jpeg', etag: tag(image, `tile${level}-${x}-${y}`), body };
  }

  async #limited<T>(work: () => Promise<T>): Promise<T> {
    if (this.#decoding >= maxDecoding) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    else this.#decoding++;
    try {
      return await work();
    } finally {
      // The newest first: it is what the person has just scrolled to.
      const next = this.#waiting.pop();
      if (next) next();
      else this.#decoding--;
    }
  }
}

const sourceOf = (project: Project, image: ImageFile) => join(project.facts.image_folder, image.path);
const tag = (image: ImageFile, what: string) => `"${image.hash.slice(0, 32)}-${image.page}-${what}"`;

/** A number of digits only, else null. */
function natural(text: string | undefined): number | null {
  return text !== undefined && /^\d{1,10}$/.test(text) ? Number(text) : null;
}

/** The cache is a help, not a promise: a full disk does not keep a picture from being shown. */
async function keep(dir: string, file: string, bytes: Buffer): Promise<void> {
  const temporary = `${file}.${process.pid}.tmp`;
  try {
    await mkdir(dir, { recursive: true });
    await writeFile(temporary, bytes);
    await rename(temporary, file);
  } catch {
    await unlink(temporary).catch(() => {});
  }
}

function cut({ width, data }: RgbImage, left: number, top: number, size: { width: number; height: number }): RgbImage {
  const part = new Uint8Array(size.width * size.height * 3);
  for (let row = 0; row < size.height; row++) {
    const from = ((top + row) * width + left) * 3;
    part.set(data.subarray(from, from + size.width * 3), row * size.width * 3);
  }
  return { ...size, data: part };
}

async function pcaPicture(project: Project, runId: string, step: number | null, position: number | null): Promise<FileAnswer | null> {
  const known = pcaSteps(project, runId).find((one) => one.step === step);
  if (!known || position === null || position >= known.pictures.length) return null;
  return stored(join(runDir(project, runId), 'pca', String(step), `${position}.png`), 'image/png');
}

async function exported(project: Project, exportId: string, name: string): Promise<FileAnswer | null> {
  const file = exportFile(project, exportId, name);
  return file === null ? null : { ...(await stored(file, 'application/json')), download: name };
}

async function stored(file: string, type: string): Promise<FileAnswer> {
  const facts = await stat(file).catch((error: unknown) => {
    throw new AppError('bad-input', `${file} is no longer there.`, 'It was removed outside Patchwise; make it again.', { cause: error });
  });
  return { type, etag: `"${facts.size.toString(36)}-${Math.round(facts.mtimeMs).toString(36)}"`, body: () => createReadStream(file) };
}
