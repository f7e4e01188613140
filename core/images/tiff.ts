// The directories (pages) of a TIFF or BigTIFF file: sizes and where their pixels lie. Not a decoder: pixels are sharp's.
// Source: TIFF 6.0 (Adobe 1992), section 2; BigTIFF by LibTIFF.
import { damaged, truncated, type StoredPage } from './formats.ts';
import type { ByteSource } from './bytes.ts';

/** `page` is the place in the file's chain of directories: what a decoder is asked for. */
export interface TiffPage extends StoredPage {
  /** Smaller copy of another page, or its transparency mask: not a picture of its own. */
  readonly auxiliary: boolean;
  /** The last sample of a pixel is declared to be alpha; undeclared extra samples are further channels. */
  readonly alpha: boolean;
}

const MAX_PAGES = 100_000;
/** Bytes of a value by its type's number; the unsigned integers among them are all that is read here. */
const TYPE_BYTES: Readonly<Record<number, number>> = {
  1: 1,
  2: 1,
  3: 2,
  4: 4,
  5: 8,
  6: 1,
  7: 1,
  8: 2,
  9: 4,
  10: 8,
  11: 4,
  12: 8,
  13: 4,
  16: 8,
  17: 8,
  18: 8,
};
const UNSIGNED = new Set([1, 3, 4, 13, 16, 18]);

const tags = {
  subfile: 254,
  width: 256,
  height: 257,
  bits: 258,
  stripOffsets: 273,
  orientation: 274,
  samples: 277,
  stripBytes: 279,
  tileOffsets: 324,
  tileBytes: 325,
  extraSamples: 338,
};
const wanted = new Set(Object.values(tags));

/**
 * All pages, each checked to have its pixels inside the file.
 * @throws AppError image-truncated when pixels or directories lie past the end, image-unreadable on nonsense
 */
export async function readTiffPages(name: string, source: ByteSource): Promise<TiffPage[]> {
  const head = await source.read(0, 16);
  const little = head[0] === 0x49;
  const big = head[little ? 2 : 3] === 43;
  const number = (bytes: Buffer, at: number, width: number): number => {
    if (width === 1) return bytes.readUInt8(at);
    if (width === 2) return little ? bytes.readUInt16LE(at) : bytes.readUInt16BE(at);
    if (width === 4) return little ? bytes.readUInt32LE(at) : bytes.readUInt32BE(at);
    return Number(little ? bytes.readBigUInt64LE(at) : bytes.readBigUInt64BE(at));
  };
  const read = async (position: number, length: number): Promise<Buffer> => {
    const bytes = position + length > source.size ? null : await source.read(position, length);
    if (bytes === null || bytes.length < length) throw truncated(name, source.size, position + length);
    return bytes;
  };

  const word = big ? 8 : 4;
  if (head.length < (big ? 16 : 8)) throw truncated(name, source.size, big ? 16 : 8);
  let next = number(head, big ? 8 : 4, word);
  const pages: TiffPage[] = [];
  const seen = new Set<number>();
  while (next !== 0) {
    if (seen.has(next) || seen.size >= MAX_PAGES) throw damaged(name, 'its list of pages does not end');
    seen.add(next);
    const entries = number(await read(next, big ? 8 : 2), 0, big ? 8 : 2);
    if (entries === 0 || entries > 65_535) throw damaged(name, `page ${pages.length + 1} has ${entries} fields`);
    const entryBytes = big ? 20 : 12;
    const directory = await read(next + (big ? 8 : 2), entries * entryBytes + word);

    const fields = new Map<number, number[]>();
    for (let at = 0; at < entries * entryBytes; at += entryBytes) {
      const tag = number(directory, at, 2);
      const type = number(directory, at + 2, 2);
      const width = TYPE_BYTES[type];
      if (width === undefined) continue;
      const length = number(directory, at + 4, word);
      const inline = length * width <= word;
      const position = inline ? 0 : number(directory, at + 4 + word, word);
      if (position + length * width > source.size) throw truncated(name, source.size, position + length * width);
      if (!wanted.has(tag) || !UNSIGNED.has(type)) continue;
      const values = inline ? directory.subarray(at + 4 + word) : await read(position, length * width);
      fields.set(
        tag,
        Array.from({ length }, (_, i) => number(values, i * width, width)),
      );
    }
    next = number(directory, entries * entryBytes, word);

    const first = (tag: number, otherwise: number): number => fields.get(tag)?.[0] ?? otherwise;
    const offsets = fields.get(tags.stripOffsets) ?? fields.get(tags.tileOffsets);
    const lengths = fields.get(tags.stripBytes) ?? fields.get(tags.tileBytes);
    const width = first(tags.width, 0);
    const height = first(tags.height, 0);
    if (width === 0 || height === 0 || offsets === undefined) throw damaged(name, `page ${pages.length + 1} has no size or no pixels`);
    // Old files may leave out the byte counts; then at least the first byte of each strip must be there.
    offsets.forEach((offset, i) => {
      const end = offset + (lengths?.[i] ?? 1);
      if (end > source.size) throw truncated(name, source.size, end);
    });
    const orientation = first(tags.orientation, 1);
    pages.push({
      page: pages.length,
      width,
      height,
      bitDepth: first(tags.bits, 1),
      channels: first(tags.samples, 1),
      orientation: orientation >= 1 && orientation <= 8 ? orientation : 1,
      auxiliary: (first(tags.subfile, 0) & 5) !== 0,
      alpha: [1, 2].includes(fields.get(tags.extraSamples)?.at(-1) ?? 0),
    });
  }
  return pages;
}
