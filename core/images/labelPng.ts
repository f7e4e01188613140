// Label pictures: PNG files whose samples are numbers (classes, instances), read without palette, gamma or scaling.
// General decoders turn indices into colours, so this reads the few kinds that labels come in, strictly, and no others.
// Source: PNG Specification, 3rd edition (W3C), sections 5, 7 and 9.
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import { crc32, inflate } from 'node:zlib';
import { AppError } from '../contract/index.ts';
import { checkPixels, damaged, emptyFile, notAnImage, readError, sniff, truncated } from './formats.ts';

const inflateAsync = promisify(inflate);

export interface LabelImage {
  readonly width: number;
  readonly height: number;
  /** [H,W] as stored: palette indices, or gray samples of 1 to 16 bits, unscaled. */
  readonly data: Uint16Array;
}

/**
 * Reads an indexed or gray PNG of 1, 2, 4, 8 or 16 bits a sample.
 * @throws AppError image-unsupported for colour, alpha or interlaced files; image-truncated, image-unreadable,
 *   image-not-an-image, image-empty-file, image-vanished
 */
export async function readLabels(file: string): Promise<LabelImage> {
  const name = path.basename(file);
  try {
    return await decodeLabels(name, await readFile(file));
  } catch (error) {
    throw readError(name, error);
  }
}

async function decodeLabels(name: string, bytes: Buffer): Promise<LabelImage> {
  if (bytes.length === 0) throw emptyFile(name);
  const unsupported = (what: string): AppError =>
    new AppError(
      'image-unsupported',
      `${name} cannot hold labels: ${what}.`,
      'Save it as an indexed or gray PNG without alpha and interlacing.',
    );

  const format = sniff(bytes);
  if (format === null) throw notAnImage(name, bytes);
  if (format !== 'png') throw unsupported(`it is a ${format} file`);

  let header: { width: number; height: number; bits: number } | null = null;
  const parts: Buffer[] = [];
  for (let at = 8; ;) {
    if (at + 12 > bytes.length) throw truncated(name, bytes.length, at + 12);
    const length = bytes.readUInt32BE(at);
    const end = at + 12 + length;
    if (end > bytes.length) throw truncated(name, bytes.length, end);
    const type = bytes.toString('latin1', at + 4, at + 8);
    const body = bytes.subarray(at + 8, at + 8 + length);
    // Upper case first letter: a part that no reader may skip.
    const critical = (bytes[at + 4]! & 0x20) === 0;
    if (critical && crc32(bytes.subarray(at + 4, at + 8 + length)) !== bytes.readUInt32BE(end - 4))
      throw damaged(name, `the check sum of its ${type} part is wrong`);
    at = end;
    if (type === 'IHDR' && length === 13) {
      header = { width: body.readUInt32BE(0), height: body.readUInt32BE(4), bits: body[8]! };
      const colour = body[9];
      const kinds: Readonly<Record<number, string>> = { 2: 'it has colours', 4: 'it has an alpha channel', 6: 'it has colours and alpha' };
      if (colour !== 0 && colour !== 3) throw unsupported(kinds[colour!] ?? `its colour type is ${colour}`);
      if (body[12] !== 0) throw unsupported('it is interlaced');
      if (![1, 2, 4, 8, 16].includes(header.bits)) throw damaged(name, `${header.bits} bits a sample`);
      if (header.width === 0 || header.height === 0) throw damaged(name, `its size is ${header.width} x ${header.height}`);
      checkPixels(name, header.width, header.height);
    } else if (type === 'IDAT') {
      parts.push(body);
    } else if (type === 'IEND') {
      break;
    } else if (critical && type !== 'PLTE') {
      throw damaged(name, `it has an unknown part ${type}`);
    }
  }
  if (header === null || parts.length === 0) throw damaged(name, 'it has no picture');

  const { width, height, bits } = header;
  const rowBytes = Math.ceil((width * bits) / 8);
  const expected = (1 + rowBytes) * height;
  let rows: Buffer;
  try {
    rows = await inflateAsync(Buffer.concat(parts), { maxOutputLength: expected });
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === 'Z_BUF_ERROR') throw truncated(name, bytes.length, null);
    throw damaged(name, code === 'ERR_BUFFER_TOO_LARGE' ? 'it holds more pixels than its size' : 'its pixels do not decompress');
  }
  if (rows.length < expected) throw truncated(name, bytes.length, null);
  unfilter(name, rows, height, rowBytes, Math.max(1, bits / 8));
  return { width, height, data: samples(rows, width, height, bits, rowBytes) };
}

/** Undoes the filter of each row in place. `pixel` = bytes between a sample and its left neighbour. */
function unfilter(name: string, rows: Buffer, height: number, rowBytes: number, pixel: number): void {
  for (let y = 0; y < height; y++) {
    const start = y * (rowBytes + 1) + 1;
    const filter = rows[start - 1]!;
    const up = start - (rowBytes + 1);
    const above = (i: number): number => (y > 0 ? rows[up + i]! : 0);
    if (filter === 0) continue;
    if (filter > 4) throw damaged(name, `row ${y} has filter ${filter}`);
    for (let i = 0; i < rowBytes; i++) {
      const left = i >= pixel ? rows[start + i - pixel]! : 0;
      let predicted: number;
      if (filter === 1) predicted = left;
      else if (filter === 2) predicted = above(i);
      else if (filter === 3) predicted = (left + above(i)) >> 1;
      else predicted = paeth(left, above(i), i >= pixel ? above(i - pixel) : 0);
      rows[start + i] = rows[start + i]! + predicted; // wraps at 256, as the format wants
    }
  }
}

function paeth(left: number, above: number, corner: number): number {
  const estimate = left + above - corner;
  const a = Math.abs(estimate - left);
  const b = Math.abs(estimate - above);
  const c = Math.abs(estimate - corner);
  return a <= b && a <= c ? left : b <= c ? above : corner;
}

function samples(rows: Buffer, width: number, height: number, bits: number, rowBytes: number): Uint16Array {
  const data = new Uint16Array(width * height);
  const perByte = 8 / bits;
  const mask = 2 ** bits - 1;
  for (let y = 0; y < height; y++) {
    const start = y * (rowBytes + 1) + 1;
    for (let x = 0; x < width; x++) {
      const to = y * width + x;
      if (bits === 8) data[to] = rows[start + x]!;
      else if (bits === 16) data[to] = (rows[start + 2 * x]! << 8) | rows[start + 2 * x + 1]!;
      else data[to] = (rows[start + Math.floor(x / perByte)]! >> (8 - bits * ((x % perByte) + 1))) & mask;
    }
  }
  return data;
}
