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

/** Values as they come back from a file of half-precision numbers. */
export function roundToHalf(values: Float32Array): Float32Array {
  return new Float32Array(new Float16Array(values));
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
    return Buffer.from(new Float16Array(values).buffer);
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
    arrays.set(name, new Float32Array(type === 'f32' ? copy : new Float16Array(copy)));
  }
  return { facts: header.facts, arrays };
}
