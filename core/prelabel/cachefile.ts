/**
 * Cache files: named arrays behind a checked header. A file that is damaged, of another version or of another kind reads
 * as absent, never as data. Everything in them can be computed again.
 */
import { mkdir, open, readFile, rename, rm } from 'node:fs/promises';
import path from 'node:path';
import { threadId } from 'node:worker_threads';
import { crc32 } from 'node:zlib';

/** Bytes: 'PWCACHE1', uint32 header length, uint32 CRC-32 of all that follows, header (JSON), payload (little-endian arrays). */
const magic = Buffer.from('PWCACHE1', 'latin1');

interface Header {
  readonly kind: string;
  readonly version: number;
  readonly facts: unknown;
  readonly arrays: readonly { readonly name: string; readonly type: 'f16' | 'f32'; readonly length: number }[];
}

export interface CacheContent {
  readonly facts: unknown;
  readonly arrays: ReadonlyMap<string, Float32Array>;
}

const floatView = new Float32Array(1);
const intView = new Uint32Array(floatView.buffer);

/** Nearest half-precision number (round half to even), as its 16 bits. */
export function toHalf(value: number): number {
  floatView[0] = value;
  const bits = intView[0];
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00; // NaN
  if (magnitude >= 0x47800000) return sign | 0x7c00; // 65536 and more: infinity
  if (magnitude < 0x38800000) {
    // Below 2^-14 halves are fixed-point steps of 2^-24; the sum rounds as float32 does.
    floatView[0] = Math.abs(value) + 0.5;
    return sign | (intView[0] - 0x3f000000);
  }
  const rounded = magnitude + 0xfff + ((magnitude >>> 13) & 1) - 0x38000000;
  return sign | (rounded >>> 13);
}

/** The float32 value of every half-precision bit pattern. */
const halves = new Float32Array(65536);
for (let bits = 0; bits < 65536; bits++) {
  const exponent = (bits >>> 10) & 31;
  const fraction = bits & 1023;
  const size =
    exponent === 0
      ? fraction * 2 ** -24
      : exponent === 31
        ? fraction === 0
          ? Infinity
          : NaN
        : (1 + fraction / 1024) * 2 ** (exponent - 15);
  halves[bits] = bits & 0x8000 ? -size : size;
}

/** Values as they come back from a file of half-precision numbers. */
export function roundToHalf(values: Float32Array): Float32Array {
  return values.map((v) => halves[toHalf(v)]);
}

/** Writes to a temporary name in the same folder, then renames. Folders are made. */
export async function writeCache(
  file: string,
  kind: string,
  version: number,
  facts: unknown,
  arrays: readonly { readonly name: string; readonly type: 'f16' | 'f32'; readonly values: Float32Array }[],
): Promise<void> {
  const parts = arrays.map(({ type, values }) => {
    if (type === 'f32') return Buffer.from(values.buffer, values.byteOffset, values.byteLength);
    const bits = new Uint16Array(values.length);
    for (let i = 0; i < bits.length; i++) bits[i] = toHalf(values[i]);
    return Buffer.from(bits.buffer);
  });
  const payload = Buffer.concat(parts);
  const header: Header = { kind, version, facts, arrays: arrays.map(({ name, type, values }) => ({ name, type, length: values.length })) };
  const json = Buffer.from(JSON.stringify(header));
  const sizes = Buffer.alloc(8);
  sizes.writeUInt32LE(json.length, 0);
  sizes.writeUInt32LE(crc32(payload, crc32(json)), 4);
  await mkdir(path.dirname(file), { recursive: true });
  const temporary = `${file}.${process.pid}-${threadId}.tmp`; // copies of a picture share a file, and threads work on them at once
  try {
    const handle = await open(temporary, 'w');
    try {
      await handle.writeFile(Buffer.concat([magic, sizes, json, payload]));
    } finally {
      await handle.close();
    }
    await rename(temporary, file);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}

/** Content of a cache file, or null when there is none that can be trusted. @throws what reading throws, except a missing file */
export async function readCache(file: string, kind: string, version: number): Promise<CacheContent | null> {
  let bytes: Buffer;
  try {
    bytes = await readFile(file);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
  const start = magic.length + 8;
  if (bytes.length < start || !bytes.subarray(0, magic.length).equals(magic)) return null;
  const end = start + bytes.readUInt32LE(magic.length);
  if (end > bytes.length || crc32(bytes.subarray(start)) !== bytes.readUInt32LE(magic.length + 4)) return null;
  const header = JSON.parse(bytes.toString('utf8', start, end)) as Header;
  if (header.kind !== kind || header.version !== version) return null;
  const payload = bytes.subarray(end);
  let expected = 0;
  for (const { type, length } of header.arrays) expected += length * (type === 'f16' ? 2 : 4);
  if (payload.length !== expected) return null;
  const arrays = new Map<string, Float32Array>();
  let at = 0;
  for (const { name, type, length } of header.arrays) {
    const size = length * (type === 'f16' ? 2 : 4);
    const copy = payload.buffer.slice(payload.byteOffset + at, payload.byteOffset + at + size) as ArrayBuffer;
    at += size;
    if (type === 'f32') {
      arrays.set(name, new Float32Array(copy));
      continue;
    }
    const bits = new Uint16Array(copy);
    const values = new Float32Array(length);
    for (let i = 0; i < length; i++) values[i] = halves[bits[i]];
    arrays.set(name, values);
  }
  return { facts: header.facts, arrays };
}
