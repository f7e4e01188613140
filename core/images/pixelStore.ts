// Pixels of big images as training takes them, on disk: decoding 24 megapixels costs seventy times what reading the
// result does. Raw bytes, because they must come back as they were, at once: JPEG would change them, PNG has to be unpacked.
// Everything here can be deleted at any time.
import { mkdir, open, readdir, rename, rm, stat, statfs } from 'node:fs/promises';
import path from 'node:path';
import { threadId } from 'node:worker_threads';
import { crc32 } from 'node:zlib';
import type { ScannedImage } from '../contract/index.ts';
import type { RgbImage } from './decode.ts';
import { sharp } from './sharp.ts';

/** Bytes: 'PWPIXEL1', uint32 width, height, CRC-32 of the pixels, 12 unused; then [H,W,3]. */
const magic = 'PWPIXEL1';
const headerBytes = 32;

/** Raised when readRgb gives other pixels than before. */
const version = 1;

/** Images with fewer pixels than this for each one kept are decoded about as fast as they are read. */
const worthwhileShrinking = 4;

/** Most bytes on disk, and the share of what is free at most. */
const mostBytes = 32 * 2 ** 30;
const mostOfFree = 0.25;

/** What readRgb makes of an image; `withoutEnlargement`, rounded as libvips does, to a pixel. */
function sizeWithin({ width, height }: { width: number; height: number }, maxSide: number): { width: number; height: number } {
  const scale = Math.min(1, maxSide / Math.max(width, height));
  return { width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)) };
}

/**
 * The files of one folder, named by the image's content, page and size. Pixels of other images than the run's are removed,
 * oldest first, where they take room that the run's need. What is there stays: in shuffled passes every image is as likely
 * to be next as any other.
 */
export class PixelStore {
  readonly #folder: string;
  readonly #maxSide: number;
  readonly #present: Set<string>;
  #room: number;

  private constructor(folder: string, maxSide: number, present: Set<string>, room: number) {
    this.#folder = folder;
    this.#maxSide = maxSide;
    this.#present = present;
    this.#room = room;
  }

  /**
   * @param dir of all pixels of a project; other versions' are removed
   * @param budget bytes on disk; default: what the disk allows
   * @returns null where none of the images is worth it
   * @throws system errors when the folder cannot be made or read
   */
  static async open(dir: string, images: readonly ScannedImage[], maxSide: number, budget?: number): Promise<PixelStore | null> {
    const wanted = new Map<string, number>();
    for (const image of images) if (worthStoring(image, maxSide)) wanted.set(nameOf(image, maxSide), storedBytes(image, maxSide));
    if (wanted.size === 0) return null;
    // libvips decides the pixels, and may decide otherwise on another kind of processor.
    const current = `${version}-${sharp.versions.vips}-${process.arch}`;
    const folder = path.join(dir, current);
    await mkdir(folder, { recursive: true });
    for (const other of await readdir(dir)) if (other !== current) await rm(path.join(dir, other), { recursive: true, force: true });

    const present = new Set<string>();
    const others: { file: string; bytes: number; written: number }[] = [];
    let own = 0;
    let foreign = 0;
    for (const name of await readdir(folder)) {
      const file = path.join(folder, name);
      if (name.endsWith('.tmp')) {
        await rm(file, { force: true }); // of a process that was killed
        continue;
      }
      const { size, mtimeMs } = await stat(file);
      if (wanted.has(name)) {
        present.add(name);
        own += size;
      } else {
        others.push({ file, bytes: size, written: mtimeMs });
        foreign += size;
      }
    }
    if (budget === undefined) {
      const { bavail, bsize } = await statfs(folder);
      budget = Math.min(mostBytes, mostOfFree * (bavail * bsize + own + foreign));
    }
    const needed = [...wanted].reduce((sum, [name, bytes]) => sum + (present.has(name) ? 0 : bytes), own);
    others.sort((a, b) => a.written - b.written);
    for (const { file, bytes } of others) {
      if (foreign === 0 || needed + foreign <= budget) break;
      await rm(file, { force: true });
      foreign -= bytes;
    }
    return new PixelStore(folder, maxSide, present, budget - own - foreign);
  }

  /** The file that holds or may hold its pixels, for which room is reserved; null where they are not to be stored. */
  place(image: ScannedImage): string | null {
    if (!worthStoring(image, this.#maxSide)) return null;
    const name = nameOf(image, this.#maxSide);
    const file = path.join(this.#folder, name);
    if (this.#present.has(name)) return file;
    const bytes = storedBytes(image, this.#maxSide);
    if (bytes > this.#room) return null;
    this.#room -= bytes;
    this.#present.add(name);
    return file;
  }
}

function worthStoring(image: ScannedImage, maxSide: number): boolean {
  const { width, height } = sizeWithin(image, maxSide);
  return image.width * image.height >= worthwhileShrinking * width * height;
}

const nameOf = ({ hash, page }: ScannedImage, maxSide: number): string => `${hash}-${page}-${maxSide}`;

function storedBytes(image: ScannedImage, maxSide: number): number {
  const { width, height } = sizeWithin(image, maxSide);
  return headerBytes + width * height * 3;
}

/** Pixels as they were written, in shared memory; null when there are none or they are damaged. */
export async function readPixels(file: string): Promise<RgbImage | null> {
  let handle;
  try {
    handle = await open(file, 'r');
  } catch {
    return null;
  }
  try {
    const { size } = await handle.stat();
    if (size < headerBytes) return null;
    const bytes = new Uint8Array(new SharedArrayBuffer(size));
    for (let at = 0; at < size;) {
      const { bytesRead } = await handle.read(bytes, at, size - at, at);
      if (bytesRead === 0) return null;
      at += bytesRead;
    }
    const header = Buffer.from(bytes.buffer, 0, headerBytes);
    const [width, height, sum] = [8, 12, 16].map((at) => header.readUInt32LE(at)) as [number, number, number];
    const data = bytes.subarray(headerBytes);
    if (header.toString('latin1', 0, 8) !== magic || data.length !== width * height * 3 || crc32(data) !== sum) return null;
    return { width, height, data };
  } catch {
    return null;
  } finally {
    await handle.close();
  }
}

/** The file is there whole or not at all. @throws system errors */
export async function writePixels(file: string, { width, height, data }: RgbImage): Promise<void> {
  const header = Buffer.alloc(headerBytes);
  header.write(magic, 'latin1');
  header.writeUInt32LE(width, 8);
  header.writeUInt32LE(height, 12);
  header.writeUInt32LE(crc32(data), 16);
  // Copies of a picture share a file, and are decoded at once.
  const temporary = `${file}.${process.pid}-${threadId}-${count++}.tmp`;
  try {
    const handle = await open(temporary, 'wx');
    try {
      await handle.writev([header, data]);
    } finally {
      await handle.close();
    }
    await rename(temporary, file);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}

let count = 0;
