// Image files to pixels: one page, turned upright, sRGB, 8 bits, no alpha. Every picture that a person sees and every
// pixel that the network sees comes through here, so both mean the same place and the same colour.
import { open } from 'node:fs/promises';
import path from 'node:path';
import { AppError } from '../contract/index.ts';
import { decodeBmp } from './bmp.ts';
import { bufferSource, handleSource, readFully } from './bytes.ts';
import { SNIFF_BYTES, emptyFile, notAnImage, readError, sniff } from './formats.ts';
import { OPEN, sharp, type Sharp } from './sharp.ts';
import { readTiffPages } from './tiff.ts';
import { PLAIN_RANGE, applyTone, toneRange, type DeepSamples } from './tone.ts';

export interface RgbImage {
  readonly width: number;
  readonly height: number;
  /** [H,W,3] interleaved, sRGB, upright. */
  readonly data: Uint8Array;
}

export interface ReadOptions {
  /** Of a TIFF with several pages; default 0. Other formats give their first frame. */
  readonly page?: number;
  /** Longest side of the result, aspect kept (rounded to whole pixels); smaller images are not enlarged. */
  readonly maxSide?: number;
  /** Exact size of the result; wins over maxSide. */
  readonly size?: { readonly width: number; readonly height: number };
}

export interface TileOptions {
  readonly page?: number;
  /** In upright pixels of the full image; must lie inside it. */
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
  /** Of the result: 0.5 halves each side. */
  readonly scale: number;
}

/** Behind transparent pixels. Mid gray: on white a white part would vanish, on black a dark one. */
const BACKGROUND = 128;

/** Larger files are read by libvips from their path, so that one page of a big TIFF does not pull in all. */
const IN_MEMORY_BYTES = 128 * 2 ** 20;

/** Resampling everywhere: Catmull-Rom, widened when shrinking (antialiased). */
const KERNEL = 'cubic';

/**
 * Reads one page as upright 8-bit sRGB.
 *
 * - All 8 EXIF turns are applied; embedded colour profiles and CMYK are converted to sRGB.
 * - Samples of more than 8 bits (16-bit gray and RGB, integer and float TIFF) are mapped by the 0.5th to 99.5th
 *   percentile of the whole full-size page, all channels together, to 0..255. The mapping is a property of the page: a
 *   thumbnail, a tile and a training crop of it show the same gray for the same sample.
 * - Alpha is laid over mid gray (128). Extra channels of a TIFF that are not declared to be alpha are left out.
 * - JPEGs are decoded at a reduced scale where the result is small (libjpeg's shrink-on-load).
 *
 * @throws AppError image-vanished, image-unreadable, image-empty-file, image-truncated, image-not-an-image,
 *   image-unsupported, image-too-large
 */
export async function readRgb(file: string, options: ReadOptions = {}): Promise<RgbImage> {
  return guarded(file, async () => {
    const image = await openUpright(file, options.page ?? 0);
    const { size, maxSide } = options;
    if (size !== undefined) image.resize({ ...size, fit: 'fill', kernel: KERNEL });
    else if (maxSide !== undefined)
      image.resize({ width: maxSide, height: maxSide, fit: 'inside', withoutEnlargement: true, kernel: KERNEL });
    return pixels(image);
  });
}

/**
 * A part of a page at a scale, for showing big images. The same pixels as readRgb's.
 * @throws AppError bad-input when the part lies outside the image; else as readRgb
 */
export async function readTile(file: string, tile: TileOptions): Promise<RgbImage> {
  return guarded(file, async () => {
    const image = await openUpright(file, tile.page ?? 0);
    image.extract({ left: tile.x, top: tile.y, width: tile.width, height: tile.height });
    if (tile.scale !== 1) {
      const scaled = (side: number): number => Math.max(1, Math.round(side * tile.scale));
      image.resize({ width: scaled(tile.width), height: scaled(tile.height), fit: 'fill', kernel: KERNEL });
    }
    try {
      return await pixels(image);
    } catch (error) {
      if (!/extract/i.test((error as Error).message)) throw error;
      const part = `${tile.width} x ${tile.height} at ${tile.x}, ${tile.y}`;
      throw new AppError('bad-input', `The part ${part} does not lie inside ${path.basename(file)}.`, 'Ask for a part inside the image.');
    }
  });
}

/** Resamples (bicubic, antialiased) to exactly width x height. */
export async function resizeRgb(image: RgbImage, width: number, height: number): Promise<RgbImage> {
  if (image.width === width && image.height === height) return image;
  return pixels(fromRgb(image).resize({ width, height, fit: 'fill', kernel: KERNEL }));
}

/** @param quality 1-100 */
export async function encodeJpeg(image: RgbImage, quality = 85): Promise<Buffer> {
  return fromRgb(image).jpeg({ quality }).toBuffer();
}

/** @param quality 1-100 */
export async function encodeWebp(image: RgbImage, quality = 80): Promise<Buffer> {
  return fromRgb(image).webp({ quality, effort: 2 }).toBuffer();
}

export async function encodePng(image: RgbImage): Promise<Buffer> {
  return fromRgb(image).png({ compressionLevel: 6 }).toBuffer();
}

function fromRgb({ width, height, data }: RgbImage): Sharp {
  return sharp(data, { ...OPEN, raw: { width, height, channels: 3 } });
}

/** A pipeline that gives upright 8-bit sRGB without alpha; extract and resize may be added. */
async function openUpright(file: string, page: number): Promise<Sharp> {
  const name = path.basename(file);
  const { bytes, head } = await load(file, name);
  const format = sniff(head);
  if (format === null) throw notAnImage(name, head);
  if (format === 'bmp') {
    const { width, height, channels, data } = decodeBmp(name, bytes ?? (await readWhole(file)));
    return opaque(sharp(data, { ...OPEN, raw: { width, height, channels } }));
  }
  const options = format === 'tiff' ? { ...OPEN, page } : OPEN;
  const input = bytes ?? file;
  // JPEG, WebP and GIF have 8 bits and usual channels always; asking would cost a look at the header.
  if (format === 'png' || format === 'tiff') {
    const { depth, space, channels, hasAlpha } = await sharp(input, options).metadata();
    let alpha = hasAlpha;
    // libvips takes every second, fourth and further sample of a pixel for alpha; microscopes store channels there.
    if (format === 'tiff' && hasAlpha) alpha = await tiffAlpha(file, name, bytes, page);
    if (depth !== 'uchar' || (space !== 'cmyk' && (alpha !== hasAlpha || channels > 4)))
      return opaque(await fromSamples(sharp(input, options), depth, space, alpha));
  }
  return opaque(sharp(input, options).autoOrient());
}

function opaque(image: Sharp): Sharp {
  return image.flatten({ background: { r: BACKGROUND, g: BACKGROUND, b: BACKGROUND } }).toColourspace('srgb');
}

/**
 * A page taken sample by sample, turned upright: for more than 8 bits, and for channels that no colour space has. Of
 * three channels or more the first three are red, green and blue; of two the first is gray.
 */
async function fromSamples(image: Sharp, depth: string, space: string, alpha: boolean): Promise<Sharp> {
  const kind = depth === 'uchar' || depth === 'ushort' ? depth : 'float';
  image.autoOrient();
  // Without a wide output space sharp would reduce 16 bits to 8 and bend floats, which it takes for linear light.
  if (kind === 'ushort') image.toColourspace(space === 'grey16' || space === 'b-w' ? 'grey16' : 'rgb16');
  else if (space === 'scrgb' || space === 'b-w') image.toColourspace(space);
  const { data, info } = await image.raw({ depth: kind }).toBuffer({ resolveWithObject: true });
  const { width, height, channels } = info;
  // A copy where sharp's memory does not start at a multiple of the sample size.
  const { buffer, byteOffset } = data.byteOffset % 4 === 0 ? data : new Uint8Array(data);
  const count = width * height * channels;
  const colours = channels - (alpha ? 1 : 0) >= 3 ? 3 : 1;
  let mapped: Uint8Array;
  if (kind === 'uchar') {
    mapped = applyTone(data, channels, colours, PLAIN_RANGE, BACKGROUND, alpha);
  } else {
    const samples: DeepSamples =
      kind === 'ushort' ? new Uint16Array(buffer, byteOffset, count) : new Float32Array(buffer, byteOffset, count);
    mapped = applyTone(samples, channels, colours, toneRange(samples, channels, colours), BACKGROUND, alpha);
  }
  return sharp(mapped, { ...OPEN, raw: { width, height, channels: 3 } });
}

async function tiffAlpha(file: string, name: string, bytes: Buffer | null, page: number): Promise<boolean> {
  if (bytes !== null) return (await readTiffPages(name, bufferSource(bytes)))[page]?.alpha ?? false;
  const handle = await open(file, 'r');
  try {
    return (await readTiffPages(name, handleSource(handle, (await handle.stat()).size)))[page]?.alpha ?? false;
  } finally {
    await handle.close();
  }
}

async function pixels(image: Sharp): Promise<RgbImage> {
  const { data, info } = await image.raw().toBuffer({ resolveWithObject: true });
  if ((info.channels as number) !== 3) throw new Error(`expected 3 channels, got ${info.channels}`);
  return { width: info.width, height: info.height, data: new Uint8Array(data.buffer, data.byteOffset, data.length) };
}

/** The first bytes, and all bytes unless the file is big. */
async function load(file: string, name: string): Promise<{ bytes: Buffer | null; head: Buffer }> {
  const handle = await open(file, 'r');
  try {
    const { size } = await handle.stat();
    if (size === 0) throw emptyFile(name);
    const whole = size <= IN_MEMORY_BYTES;
    const buffer = Buffer.allocUnsafeSlow(whole ? size : SNIFF_BYTES);
    const filled = buffer.subarray(0, await readFully(handle, buffer, 0));
    return { bytes: whole ? filled : null, head: filled };
  } finally {
    await handle.close();
  }
}

async function readWhole(file: string): Promise<Buffer> {
  const handle = await open(file, 'r');
  try {
    return await handle.readFile();
  } finally {
    await handle.close();
  }
}

/** Words for whatever goes wrong while reading `file`. */
async function guarded<T>(file: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw readError(path.basename(file), error);
  }
}
