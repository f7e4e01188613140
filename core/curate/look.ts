/**
 * What curation keeps of one image: small enough that 50,000 fit into memory, read from a reduced picture once and kept on
 * disk under the file's hash. Comparing two of them is copies.ts.
 */
import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { threadId } from 'node:worker_threads';
import { crc32 } from 'node:zlib';
import { readRgb, type RgbImage } from '../images/index.ts';
import { gridPlacements, patchColours, type PrelabelImage } from '../prelabel/index.ts';
import { smallSide } from './agreement.ts';
import { dctHash, hashSide } from './dctHash.ts';
import { descriptorDim, keypointsOf, type Keypoints } from './keypoints.ts';

export interface Look {
  /** 64-bit DCT hash. */
  readonly hash: readonly [number, number];
  /** Variance of the Laplacian of the reduced gray picture: larger is sharper. */
  readonly sharpness: number;
  /** [64 * 64] gray, the whole picture stretched to a square. */
  readonly small: Uint8Array;
  /** [appearanceDim] plain appearance: colours and directions of edges in a grid of 4 x 4. */
  readonly appearance: Float32Array;
  readonly keypoints: Keypoints;
}

/** Longest side of the picture that is looked at. */
const side = 320;
const grid = 4;
const edgeDirections = 4;
export const appearanceDim = grid * grid * (6 + edgeDirections);

/** Looks at a picture of at most 320 pixels a side (larger ones are not reduced here). */
export function lookAt(picture: RgbImage): Look {
  const { width, height } = picture;
  const gray = grayOf(picture);
  const small = reduce(gray, width, height, smallSide);
  return {
    hash: dctHash(reduce(gray, width, height, hashSide)),
    sharpness: laplacianVariance(gray, width, height),
    small: Uint8Array.from(small, (v) => Math.round(v)),
    appearance: appearanceOf(picture, gray),
    keypoints: keypointsOf(gray, width, height),
  };
}

/** Luma of Rec. 601. @returns [height * width], 0..255 */
export function grayOf({ width, height, data }: RgbImage): Float32Array {
  const gray = new Float32Array(width * height);
  for (let i = 0; i < gray.length; i++) gray[i] = 0.299 * data[3 * i] + 0.587 * data[3 * i + 1] + 0.114 * data[3 * i + 2];
  return gray;
}

/** Means over equal areas, so that pictures of different sizes come to the same square. @returns [size * size] */
export function reduce(gray: Float32Array, width: number, height: number, size: number): Float32Array {
  const columns = spans(width, size);
  const across = new Float32Array(height * size);
  for (let y = 0; y < height; y++) {
    columns.forEach((span, x) => {
      let sum = 0;
      for (const { at, share } of span) sum += share * gray[y * width + at];
      across[y * size + x] = sum;
    });
  }
  const out = new Float32Array(size * size);
  spans(height, size).forEach((span, y) => {
    for (const { at, share } of span) for (let x = 0; x < size; x++) out[y * size + x] += share * across[at * size + x];
  });
  return out;
}

/** Which of `from` samples make up each of `to` equal parts, and their shares. */
function spans(from: number, to: number): { at: number; share: number }[][] {
  return Array.from({ length: to }, (_, i) => {
    const [low, high] = [(i * from) / to, ((i + 1) * from) / to];
    const span: { at: number; share: number }[] = [];
    for (let at = Math.floor(low); at < Math.min(from, Math.ceil(high)); at++)
      span.push({ at, share: ((Math.min(high, at + 1) - Math.max(low, at)) * to) / from });
    return span;
  });
}

function laplacianVariance(gray: Float32Array, width: number, height: number): number {
  let [sum, square, count] = [0, 0, 0];
  for (let y = 1; y < height - 1; y++) {
    for (let x = 1; x < width - 1; x++) {
      const at = y * width + x;
      const value = gray[at - 1] + gray[at + 1] + gray[at - width] + gray[at + width] - 4 * gray[at];
      sum += value;
      square += value * value;
      count++;
    }
  }
  return count === 0 ? 0 : square / count - (sum / count) ** 2;
}

function appearanceOf(picture: RgbImage, gray: Float32Array): Float32Array {
  const { width, height } = picture;
  const out = new Float32Array(appearanceDim);
  out.set(patchColours(picture, gridPlacements(grid, grid, 1)[0]));
  const edges = out.subarray(grid * grid * 6);
  for (let y = 1; y < height - 1; y++) {
    for (let x = 1; x < width - 1; x++) {
      const at = y * width + x;
      const gx = gray[at + 1] - gray[at - 1];
      const gy = gray[at + width] - gray[at - width];
      // A direction and its opposite are one: light on dark is the same edge as dark on light.
      const turn = (Math.atan2(gy, gx) / Math.PI + 1) * edgeDirections;
      const cell = Math.floor((y * grid) / height) * grid + Math.floor((x * grid) / width);
      edges[cell * edgeDirections + (Math.round(turn) % edgeDirections)] += Math.sqrt(gx * gx + gy * gy) / (width * height);
    }
  }
  return out;
}

// --- on disk ----------------------------------------------------------------------------------------------------------

/** Bytes: 'PWLOOK01', uint32 CRC-32 of the rest, float32 numbers, small picture, places, descriptors (little-endian). */
const magic = Buffer.from('PWLOOK01', 'latin1');
const headNumbers = 6;

export function encodeLook({ hash, sharpness, small, appearance, keypoints }: Look): Buffer {
  const { count, places, descriptors } = keypoints;
  // Words of 32 bits as halves of 16: exact in float32.
  const head = [hash[0] & 0xffff, hash[0] >>> 16, hash[1] & 0xffff, hash[1] >>> 16, sharpness, count];
  const numbers = Float32Array.from([...head, ...appearance, ...places]);
  const body = Buffer.concat([Buffer.from(numbers.buffer), small, descriptors]);
  const crc = Buffer.alloc(4);
  crc.writeUInt32LE(crc32(body));
  return Buffer.concat([magic, crc, body]);
}

/** Null for anything but a whole look: then it is made again. */
export function decodeLook(bytes: Buffer): Look | null {
  const start = magic.length + 4;
  if (bytes.length < start + 4 * headNumbers || !bytes.subarray(0, magic.length).equals(magic)) return null;
  const body = bytes.subarray(start);
  if (crc32(body) !== bytes.readUInt32LE(magic.length)) return null;
  const number = (i: number): number => body.readFloatLE(4 * i);
  const count = number(5);
  const placesAt = headNumbers + appearanceDim;
  const smallAt = 4 * (placesAt + 2 * count);
  const descriptorsAt = smallAt + smallSide * smallSide;
  if (body.length !== descriptorsAt + count * descriptorDim) return null;
  return {
    hash: [(number(0) + 65536 * number(1)) >>> 0, (number(2) + 65536 * number(3)) >>> 0],
    sharpness: number(4),
    small: Uint8Array.from(body.subarray(smallAt, descriptorsAt)),
    appearance: Float32Array.from({ length: appearanceDim }, (_, i) => number(headNumbers + i)),
    keypoints: {
      count,
      places: Float32Array.from({ length: 2 * count }, (_, i) => number(placesAt + i)),
      descriptors: Uint8Array.from(body.subarray(descriptorsAt)),
    },
  };
}

function fileOf(image: PrelabelImage, cacheDir: string): string {
  return path.join(cacheDir, 'looks', image.hash.slice(0, 2), `${image.hash}-${image.page}.look`);
}

/** The look that is kept of an image; null when there is none that can be trusted. */
export async function keptLook(image: PrelabelImage, cacheDir: string): Promise<Look | null> {
  return decodeLook(await readFile(fileOf(image, cacheDir)).catch(() => Buffer.alloc(0)));
}

/**
 * Makes and keeps the look of an image, unless it is there already.
 * @returns whether it was made now
 * @throws what readRgb throws; what writing throws (disk full)
 */
export async function keepLook(image: PrelabelImage, imageRoot: string, cacheDir: string): Promise<boolean> {
  if ((await keptLook(image, cacheDir)) !== null) return false;
  const look = lookAt(await readRgb(path.join(imageRoot, image.path), { page: image.page, maxSide: side }));
  const file = fileOf(image, cacheDir);
  const temporary = `${file}.${process.pid}-${threadId}.tmp`; // copies share a file, and threads work on them at once
  try {
    await mkdir(path.dirname(file), { recursive: true });
    await writeFile(temporary, encodeLook(look));
    await rename(temporary, file);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
  return true;
}
