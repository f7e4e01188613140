// BMP files, which sharp does not read. Pixels come from bmp-ts, given only the three shapes that it decodes right (8-bit
// indexed, 24 and 32 bits, uncompressed, pixels right behind the header). Everything else is brought to one of them here:
// bmp-ts 1.0.9 mixes up the channels of run lengths, stops after the first row of 4-bit files of odd width, ignores the
// offset of the pixels, has no OS/2 headers and turns 5-bit white into 248.
import { decode } from 'bmp-ts';
import { AppError } from '../contract/index.ts';
import { checkPixels, damaged, truncated } from './formats.ts';

export interface BmpHeader {
  readonly width: number;
  readonly height: number;
  readonly topDown: boolean;
  readonly bitsPerPixel: number;
  readonly compression: 'none' | 'rle8' | 'rle4' | 'masks';
  /** Red, green, blue, alpha; 0 where there is none. Of 16 and 32 bits. */
  readonly masks: readonly [number, number, number, number];
  /** First byte of the palette, its entries and bytes an entry. */
  readonly palette: { readonly at: number; readonly entries: number; readonly entryBytes: number };
  /** First byte of the pixels. */
  readonly pixels: number;
  /** Bytes of a row, padded to 4. */
  readonly stride: number;
  /** The file must have at least so many bytes. */
  readonly end: number;
}

/** @throws AppError image-truncated, image-unsupported, image-unreadable */
export function readBmpHeader(name: string, bytes: Buffer): BmpHeader {
  if (bytes.length < 26) throw truncated(name, bytes.length, 26);
  const pixels = bytes.readUInt32LE(10);
  const headerBytes = bytes.readUInt32LE(14);
  if (bytes.length < 14 + headerBytes) throw truncated(name, bytes.length, 14 + headerBytes);
  const unsupported = (what: string): AppError =>
    new AppError('image-unsupported', `${name} is a BMP file with ${what}.`, 'Save it as PNG.');
  const os2 = headerBytes === 12;
  if (!os2 && ![40, 52, 56, 108, 124].includes(headerBytes)) throw unsupported(`a header of ${headerBytes} bytes`);

  const width = os2 ? bytes.readUInt16LE(18) : bytes.readInt32LE(18);
  const signedHeight = os2 ? bytes.readUInt16LE(20) : bytes.readInt32LE(22);
  const height = Math.abs(signedHeight);
  const bitsPerPixel = bytes.readUInt16LE(os2 ? 24 : 28);
  const code = os2 ? 0 : bytes.readUInt32LE(30);
  const compression = ({ 0: 'none', 1: 'rle8', 2: 'rle4', 3: 'masks', 6: 'masks' } as const)[code];
  if (width <= 0 || height === 0) throw damaged(name, `its size is ${width} x ${height}`);
  checkPixels(name, width, height);
  const bits = { none: [1, 4, 8, 16, 24, 32], rle8: [8], rle4: [4], masks: [16, 32] };
  if (compression === undefined || !bits[compression].includes(bitsPerPixel))
    throw unsupported(`${bitsPerPixel} bits a pixel and compression ${code}`);

  // Masks follow the 40 bytes, inside the header (52 bytes and more) or behind it.
  let masks: [number, number, number, number] = bitsPerPixel === 16 ? [0x7c00, 0x03e0, 0x001f, 0] : [0xff0000, 0xff00, 0xff, 0];
  let paletteAt = 14 + headerBytes;
  if (compression === 'masks') {
    const alpha = headerBytes >= 56 || code === 6;
    if (headerBytes === 40) paletteAt += alpha ? 16 : 12;
    if (bytes.length < 54 + (alpha ? 16 : 12)) throw truncated(name, bytes.length, 70);
    masks = [bytes.readUInt32LE(54), bytes.readUInt32LE(58), bytes.readUInt32LE(62), alpha ? bytes.readUInt32LE(66) : 0];
  }
  const stated = os2 ? 0 : bytes.readUInt32LE(46);
  const entries = bitsPerPixel > 8 ? 0 : Math.min(stated || 2 ** bitsPerPixel, 2 ** bitsPerPixel);
  const rowBytes = Math.ceil((width * bitsPerPixel) / 8);
  const stride = Math.ceil(rowBytes / 4) * 4;
  const coded = compression === 'rle8' || compression === 'rle4';
  // The padding of the last row may be missing; the coded size may be left out.
  const end = pixels + (coded ? bytes.readUInt32LE(34) : stride * (height - 1) + rowBytes);
  return {
    width,
    height,
    topDown: signedHeight < 0,
    bitsPerPixel,
    compression,
    masks,
    palette: { at: paletteAt, entries, entryBytes: os2 ? 3 : 4 },
    pixels,
    stride,
    end,
  };
}

export interface BmpPixels {
  readonly width: number;
  readonly height: number;
  /** 4 only where a pixel is not opaque. */
  readonly channels: 3 | 4;
  /** [H,W,channels] */
  readonly data: Buffer;
}

/** @throws AppError as readBmpHeader */
export function decodeBmp(name: string, bytes: Buffer): BmpPixels {
  const header = readBmpHeader(name, bytes);
  if (header.end > bytes.length) throw truncated(name, bytes.length, header.end);
  // bmp-ts gives alpha, blue, green, red
  const { data: abgr } = decode(
    header.bitsPerPixel === 32
      ? rewrite32(header, bytes)
      : header.bitsPerPixel > 8
        ? rewrite24(header, bytes)
        : rewrite8(name, header, bytes),
  );
  const { width, height } = header;
  const hasAlpha = header.bitsPerPixel === 32 && header.masks[3] !== 0 && anyBetween(abgr);
  const channels = hasAlpha ? 4 : 3;
  const data = Buffer.allocUnsafe(width * height * channels);
  for (let from = 0, to = 0; from < abgr.length; from += 4, to += channels) {
    data[to] = abgr[from + 3]!;
    data[to + 1] = abgr[from + 2]!;
    data[to + 2] = abgr[from + 1]!;
    if (hasAlpha) data[to + 3] = abgr[from]!;
  }
  return { width, height, channels, data };
}

/** Some transparent and some visible pixel. Files that say 0 everywhere mean "no alpha". */
function anyBetween(abgr: Buffer): boolean {
  let visible = false;
  let transparent = false;
  for (let i = 0; i < abgr.length; i += 4) {
    if (abgr[i]! > 0) visible = true;
    if (abgr[i]! < 255) transparent = true;
  }
  return visible && transparent;
}

/** A plain file: header of 40 bytes (56 with masks), palette, pixels. */
function assemble(header: BmpHeader, bitsPerPixel: number, extra: Buffer, pixels: Buffer): Buffer {
  const withMasks = bitsPerPixel === 32;
  const head = Buffer.alloc(54);
  head.write('BM', 'latin1');
  head.writeUInt32LE(54 + extra.length + pixels.length, 2);
  head.writeUInt32LE(54 + extra.length, 10);
  head.writeUInt32LE(withMasks ? 56 : 40, 14);
  head.writeInt32LE(header.width, 18);
  head.writeInt32LE(header.topDown ? -header.height : header.height, 22);
  head.writeUInt16LE(1, 26);
  head.writeUInt16LE(bitsPerPixel, 28);
  head.writeUInt32LE(withMasks ? 3 : 0, 30);
  if (bitsPerPixel === 8) head.writeUInt32LE(extra.length / 4, 46);
  return Buffer.concat([head, extra, pixels]);
}

/** The pixels as they lie, with the padding of the last row added if missing. */
function paddedPixels(header: BmpHeader, bytes: Buffer): Buffer {
  const size = header.stride * header.height;
  const pixels = bytes.subarray(header.pixels, header.pixels + size);
  return pixels.length === size ? pixels : Buffer.concat([pixels, Buffer.alloc(size - pixels.length)]);
}

function rewrite32(header: BmpHeader, bytes: Buffer): Buffer {
  const masks = Buffer.alloc(16);
  header.masks.forEach((mask, i) => masks.writeUInt32LE(mask, 4 * i));
  return assemble(header, 32, masks, paddedPixels(header, bytes));
}

/** 24 bits as they are; 16 bits spread over the full 0..255 of each channel. */
function rewrite24(header: BmpHeader, bytes: Buffer): Buffer {
  if (header.bitsPerPixel === 24) return assemble(header, 24, Buffer.alloc(0), paddedPixels(header, bytes));
  const from = paddedPixels(header, bytes);
  const { width, height, stride } = header;
  const toStride = Math.ceil((width * 3) / 4) * 4;
  const to = Buffer.alloc(toStride * height);
  const channels = [header.masks[2], header.masks[1], header.masks[0]].map((mask) => {
    const low = mask & -mask || 1; // lowest bit of the mask
    return { mask, low, scale: mask === 0 ? 0 : 255 / (mask / low) };
  });
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const value = from.readUInt16LE(y * stride + x * 2);
      channels.forEach(({ mask, low, scale }, c) => (to[y * toStride + x * 3 + c] = Math.round(((value & mask) / low) * scale)));
    }
  }
  return assemble(header, 24, Buffer.alloc(0), to);
}

/** Indexed files of 1, 4 or 8 bits, plain or in run lengths, as 8 bits uncompressed. */
function rewrite8(name: string, header: BmpHeader, bytes: Buffer): Buffer {
  const { width, height, bitsPerPixel } = header;
  const { at, entries, entryBytes } = header.palette;
  const palette = Buffer.alloc(256 * 4);
  for (let i = 0; i < entries; i++) bytes.copy(palette, 4 * i, at + i * entryBytes, at + i * entryBytes + 3);
  const stride = Math.ceil(width / 4) * 4;
  const to = Buffer.alloc(stride * height);
  if (header.compression !== 'none') {
    expandRuns(name, header, bytes, to, stride);
  } else {
    const from = paddedPixels(header, bytes);
    const perByte = 8 / bitsPerPixel;
    const mask = 2 ** bitsPerPixel - 1;
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const byte = from[y * header.stride + Math.floor(x / perByte)]!;
        to[y * stride + x] = (byte >> (8 - bitsPerPixel * ((x % perByte) + 1))) & mask;
      }
    }
  }
  return assemble(header, 8, palette, to);
}

/**
 * BI_RLE8 and BI_RLE4: pairs (count, value), or 0 and: 0 end of line, 1 end of picture, 2 dx dy, n >= 3 literal values
 * padded to 16 bits. In RLE4 a value byte holds two pixels, high half first. Skipped pixels are index 0.
 */
function expandRuns(name: string, header: BmpHeader, bytes: Buffer, to: Buffer, stride: number): void {
  const { width, height } = header;
  const four = header.compression === 'rle4';
  let at = header.pixels;
  let x = 0;
  let y = 0;
  const byte = (): number => {
    if (at >= bytes.length) throw truncated(name, bytes.length, at + 1);
    return bytes[at++]!;
  };
  const put = (value: number): void => {
    if (x < width && y < height) to[y * stride + x] = value;
    x++;
  };
  const half = (pair: number, i: number): number => (i % 2 === 0 ? pair >> 4 : pair & 15);
  while (y < height) {
    const run = byte();
    const value = byte();
    if (run > 0) {
      for (let i = 0; i < run; i++) put(four ? half(value, i) : value);
    } else if (value === 0) {
      x = 0;
      y++;
    } else if (value === 1) {
      return;
    } else if (value === 2) {
      x += byte();
      y += byte();
    } else {
      const length = four ? Math.ceil(value / 2) : value;
      for (let i = 0, pair = 0; i < value; i++) {
        if (!four || i % 2 === 0) pair = byte();
        put(four ? half(pair, i) : pair);
      }
      at += length % 2;
    }
  }
}
