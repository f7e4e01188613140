// Which files are images: told by their first bytes, never by their names. Names only choose the words of a problem.
import path from 'node:path';
import { AppError } from '../contract/index.ts';

export type ImageFormat = 'jpg' | 'png' | 'webp' | 'tiff' | 'bmp' | 'gif';

/** A page as it lies in the file, not turned. */
export interface StoredPage {
  readonly page: number;
  readonly width: number;
  readonly height: number;
  /** Bits a sample. */
  readonly bitDepth: number;
  readonly channels: number;
  /** EXIF orientation, 1-8. */
  readonly orientation: number;
}

/** For sentences. */
export const READABLE = 'jpg, png, webp, tiff, bmp and gif';

/** Bytes that `sniff` and `notAnImage` want to see. */
export const SNIFF_BYTES = 132;

/** Most pixels of one page: 2^28, about 268 megapixels (16,384 x 16,384, or 30,000 x 8,947); 0.8 GB when fully decoded. */
export const MAX_PIXELS = 2 ** 28;

const IMAGE_EXTENSIONS = new Set(['.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.webp', '.tif', '.tiff', '.bmp', '.dib', '.gif']);

/** The format of a file by its first bytes, or null when it is none that we read. */
export function sniff(head: Uint8Array): ImageFormat | null {
  const text = (from: number, to: number): string => String.fromCharCode(...head.subarray(from, to));
  if (head[0] === 0xff && head[1] === 0xd8 && head[2] === 0xff) return 'jpg';
  if (text(0, 8) === '\x89PNG\r\n\x1a\n') return 'png';
  if (text(0, 4) === 'RIFF' && text(8, 12) === 'WEBP') return 'webp';
  if (text(0, 6) === 'GIF87a' || text(0, 6) === 'GIF89a') return 'gif';
  // 42 is TIFF, 43 is BigTIFF
  if (text(0, 4) === 'II*\0' || text(0, 4) === 'MM\0*' || text(0, 4) === 'II+\0' || text(0, 4) === 'MM\0+') return 'tiff';
  if (text(0, 2) === 'BM') return 'bmp';
  return null;
}

/** Pictures of other kinds, to be called by their name: where the signature is, and what it looks like. */
const FOREIGN: readonly (readonly [name: string, at: number, signature: RegExp])[] = [
  ['HEIC', 4, /^ftyp(hei|hev|mif1|msf1)/],
  ['AVIF', 4, /^ftypavi/],
  ['JPEG XL', 0, /^(\xff\n|\0\0\0\fJXL )/],
  ['JPEG 2000', 0, /^(\0\0\0\fjP {2}|\xffO\xffQ)/],
  ['Photoshop', 0, /^8BPS/],
  ['PDF', 0, /^%PDF/],
  ['SVG', 0, /^\s*(<\?xml[^]*)?<svg/],
  ['OpenEXR', 0, /^v\/1./],
  ['FITS', 0, /^SIMPLE {2}=/],
  ['DICOM', 128, /^DICM/],
  ['Netpbm', 0, /^P[1-7]\s/],
];

/** Why a file without one of our signatures is left out: other picture formats and renamed text are told apart. */
export function notAnImage(name: string, head: Uint8Array): AppError {
  const text = String.fromCharCode(...head.subarray(0, SNIFF_BYTES));
  const foreign = FOREIGN.find(([, at, signature]) => signature.test(text.slice(at)))?.[0];
  if (foreign !== undefined) {
    return new AppError(
      'image-unsupported',
      `${name} is in ${foreign} format; Patchwise reads ${READABLE}.`,
      'Save it as JPEG, PNG or TIFF.',
    );
  }
  if (IMAGE_EXTENSIONS.has(path.extname(name).toLowerCase())) {
    return new AppError(
      'image-not-an-image',
      `${name} is named like an image, but its content is none.`,
      'Copy the file again from its source, or take it out of the folder.',
    );
  }
  return new AppError(
    'image-unsupported',
    `${name} is not in a format that Patchwise reads (${READABLE}).`,
    'Save it as PNG or TIFF if it should be labeled; else nothing is to be done.',
  );
}

/** A number for a sentence: 12,345. */
export function count(value: number): string {
  return value.toLocaleString('en-US');
}

/** @throws AppError image-too-large */
export function checkPixels(name: string, width: number, height: number): void {
  if (width * height > MAX_PIXELS) throw tooLarge(name, `${count(width)} x ${count(height)} pixels`);
}

export function tooLarge(name: string, size: string): AppError {
  return new AppError(
    'image-too-large',
    `${name} has ${size}; Patchwise reads up to ${count(Math.floor(MAX_PIXELS / 1e6))} megapixels a page.`,
    'Cut the image into smaller pieces, or scale it down.',
  );
}

export function emptyFile(name: string): AppError {
  return new AppError('image-empty-file', `${name} has 0 bytes.`, 'Copy the file again from its source.');
}

/** @param needed bytes that the file's own structure asks for; null when it only shows that the end is missing */
export function truncated(name: string, bytes: number, needed: number | null): AppError {
  const ends =
    needed === null ? `${count(bytes)} bytes, before the end of its picture` : `${count(bytes)} of at least ${count(needed)} bytes`;
  return new AppError('image-truncated', `${name} ends after ${ends}.`, 'Copy the file again from its source.');
}

export function damaged(name: string, what: string): AppError {
  return new AppError('image-unreadable', `${name} is damaged: ${what}.`, 'Copy the file again from its source.');
}

/** Words for what the file system or the decoder threw while reading `name`; an AppError passes through. */
export function readError(name: string, error: unknown): AppError {
  if (error instanceof AppError) return error;
  const { code, message } = error as NodeJS.ErrnoException;
  const cause = { cause: error };
  if (code === 'ENOENT' || code === 'ENOTDIR') {
    const words = name.includes('\ufffd')
      ? [`The name of ${name} is not valid Unicode.`, 'Rename the file.']
      : [`${name} was there and is gone.`, 'Put the file back and scan again, or go on without it.'];
    return new AppError('image-vanished', words[0]!, words[1]!, cause);
  }
  if (code === 'EACCES' || code === 'EPERM') {
    return new AppError(
      'image-unreadable',
      `No permission to read ${name}.`,
      'Change the permissions of the file, then scan again.',
      cause,
    );
  }
  if (code !== undefined && /^E[A-Z0-9]+$/.test(code)) {
    return new AppError('image-unreadable', `${name} cannot be read: ${message}.`, 'Check the disk and the path, then scan again.', cause);
  }
  if (/pixel limit/i.test(message)) return tooLarge(name, 'too many pixels');
  if (/premature|truncat|unexpected end|not enough data|bad strip|end of (file|stream|data)|read past/i.test(message)) {
    return new AppError('image-truncated', `${name} ends before its picture does.`, 'Copy the file again from its source.', cause);
  }
  return new AppError(
    'image-unreadable',
    `${name} cannot be decoded: ${message.trim()}.`,
    'Open and save it again as PNG or TIFF, or take it out of the folder.',
    cause,
  );
}
