/**
 * The safetensors format (github.com/huggingface/safetensors): 8 bytes little-endian header length, a JSON header, raw
 * little-endian data. The only tensor file the product writes for itself. Writes float32; reads float32, float16 and
 * bfloat16 (both as float32), uint8 and int32.
 */
import { createHash } from 'node:crypto';
import { open, type FileHandle } from 'node:fs/promises';
import { isFloatType, toFloat32 } from './floats.ts';

export interface NamedTensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly values: Float32Array;
}

/** A tensor that is read when it is written, so that a file of many gigabytes is never in memory. */
export interface LazyTensor {
  readonly name: string;
  readonly shape: readonly number[];
  /** Row-major values; as many as the shape says. */
  read(): Promise<Float32Array>;
}

export type TensorValues = Float32Array | Uint8Array | Int32Array;

export interface SafeTensorFile {
  readonly metadata: Readonly<Record<string, string>>;
  readonly tensors: ReadonlyMap<string, { readonly shape: readonly number[]; readonly values: TensorValues }>;
}

/** Where a tensor lies: bytes from..to behind the header. */
export interface SafeTensorEntry {
  /** As the file names it: F32, I64, ... */
  readonly type: string;
  readonly shape: readonly number[];
  readonly from: number;
  readonly to: number;
}

/** The header of a file, and its tensors one by one. */
export interface OpenSafetensors {
  readonly metadata: Readonly<Record<string, string>>;
  /** In the order of their bytes. */
  readonly entries: ReadonlyMap<string, SafeTensorEntry>;
  /** Where the data start in the file. */
  readonly dataStart: number;
  bytes(entry: SafeTensorEntry): Promise<Uint8Array<ArrayBuffer>>;
}

const BYTES: Readonly<Record<string, number>> = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  I16: 2,
  U16: 2,
  F16: 2,
  BF16: 2,
  I32: 4,
  U32: 4,
  F32: 4,
  F64: 8,
  I64: 8,
  U64: 8,
};

/** As the format's own reader has it; a header beyond is no header. */
const MOST_HEADER_BYTES = 100_000_000;

const bytesOf = (values: Float32Array): Uint8Array => new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
const sizeOf = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

/**
 * Writes and flushes a file. The metadata gains `sha256`, of the data behind the header, by which a damaged file is known.
 * The caller writes to a temporary place and renames.
 */
export async function writeSafetensors(
  path: string,
  tensors: readonly (NamedTensor | LazyTensor)[],
  metadata: Readonly<Record<string, string>>,
): Promise<void> {
  const header: Record<string, unknown> = {};
  let offset = 0;
  for (const { name, shape } of tensors) {
    const size = 4 * sizeOf(shape);
    header[name] = { dtype: 'F32', shape, data_offsets: [offset, offset + size] };
    offset += size;
  }
  const head = (sha256: string): Uint8Array => {
    const json = new TextEncoder().encode(JSON.stringify({ ...header, __metadata__: { ...metadata, sha256 } }));
    const bytes = new Uint8Array(Math.ceil((8 + json.length) / 8) * 8).fill(0x20); // padded with spaces: data starts aligned
    new DataView(bytes.buffer).setBigUint64(0, BigInt(bytes.length - 8), true);
    bytes.set(json, 8);
    return bytes;
  };
  const hash = createHash('sha256');
  const file = await open(path, 'w');
  try {
    await file.writeFile(head('0'.repeat(64))); // as long as the true one, which the data have to tell first
    for (const tensor of tensors) {
      const values = 'values' in tensor ? tensor.values : await tensor.read();
      if (values.length !== sizeOf(tensor.shape)) throw new Error(`${tensor.name} has ${values.length} values, not those of its shape`);
      hash.update(bytesOf(values));
      await file.writeFile(bytesOf(values));
    }
    const whole = head(hash.digest('hex'));
    await file.write(whole, 0, whole.length, 0);
    await file.sync();
  } finally {
    await file.close();
  }
}

/**
 * Reads the header of an open file.
 * @throws Error saying what is wrong when it is cut short or malformed
 */
export async function openSafetensors(file: FileHandle): Promise<OpenSafetensors> {
  const { size } = await file.stat();
  const read = async (position: number, length: number): Promise<Uint8Array<ArrayBuffer>> => {
    const bytes = new Uint8Array(length);
    for (let done = 0; done < length;) {
      const { bytesRead } = await file.read(bytes, done, Math.min(length - done, 2 ** 30), position + done);
      done += bytesRead;
      if (bytesRead === 0) throw new Error(`it ends at byte ${position + done}, ${length - done} too early`);
    }
    return bytes;
  };
  const headerLength = Number(new DataView((await read(0, 8)).buffer).getBigUint64(0, true));
  if (headerLength > size - 8) throw new Error(`its header should have ${headerLength} bytes, the whole file has ${size}`);
  if (headerLength > MOST_HEADER_BYTES) throw new Error(`its header of ${headerLength} bytes is too long`);
  const { metadata, entries } = parseHeader(new TextDecoder().decode(await read(8, headerLength)));
  const dataStart = 8 + headerLength;
  let end = 0;
  for (const [name, { from, to }] of entries) {
    if (from < end) throw new Error(`${name} lies over the tensor before it`);
    end = to;
  }
  if (dataStart + end > size) throw new Error(`it ends at byte ${size}, ${dataStart + end - size} too early`);
  return { metadata, entries, dataStart, bytes: ({ from, to }) => read(dataStart + from, to - from) };
}

function parseHeader(text: string): Pick<OpenSafetensors, 'metadata' | 'entries'> {
  let header: unknown;
  try {
    header = JSON.parse(text);
  } catch (error) {
    throw new Error(`its header is not JSON (${(error as Error).message})`, { cause: error });
  }
  if (typeof header !== 'object' || header === null) throw new Error('its header is not a list of tensors');
  const { __metadata__: metadata = {}, ...tensors } = header as Record<string, unknown>;
  const entries = Object.entries(tensors).map(([name, entry]) => [name, parseEntry(name, entry)] as const);
  return { metadata: metadata as Record<string, string>, entries: new Map(entries.sort(([, a], [, b]) => a.from - b.from)) };
}

function parseEntry(name: string, entry: unknown): SafeTensorEntry {
  const { dtype, shape, data_offsets: offsets } = (entry ?? {}) as Record<string, unknown>;
  const naturals = (list: unknown): list is number[] => Array.isArray(list) && list.every((n) => Number.isSafeInteger(n) && n >= 0);
  if (typeof dtype !== 'string' || !naturals(shape) || !naturals(offsets) || offsets.length !== 2) {
    throw new Error(`its entry for ${name} is malformed`);
  }
  const [from, to] = offsets as [number, number];
  const bytes = BYTES[dtype];
  if (bytes === undefined) throw new Error(`${name} has the type ${dtype}, which is not read here`);
  if (to - from !== sizeOf(shape) * bytes) throw new Error(`${name} of shape [${shape.join(', ')}] cannot fill bytes ${from} to ${to}`);
  return { type: dtype, shape, from, to };
}

/**
 * Reads a whole file, tensor by tensor, so that files of many gigabytes can be read.
 * @throws Error saying what is wrong when it is cut short, malformed, or its data do not have the recorded sha256
 */
export async function readSafetensors(path: string): Promise<SafeTensorFile> {
  const file = await open(path, 'r');
  try {
    const opened = await openSafetensors(file);
    const hash = createHash('sha256');
    const tensors = new Map<string, { shape: readonly number[]; values: TensorValues }>();
    for (const [name, entry] of opened.entries) {
      const bytes = await opened.bytes(entry);
      hash.update(bytes);
      tensors.set(name, { shape: entry.shape, values: valuesOf(name, entry.type, bytes) });
    }
    const { sha256 } = opened.metadata;
    if (sha256 !== undefined && hash.digest('hex') !== sha256) {
      throw new Error('its data are not the ones that were written (the checksum differs)');
    }
    return { metadata: opened.metadata, tensors };
  } finally {
    await file.close();
  }
}

function valuesOf(name: string, type: string, bytes: Uint8Array<ArrayBuffer>): TensorValues {
  if (isFloatType(type)) return toFloat32(bytes, type);
  if (type === 'U8') return bytes;
  if (type === 'I32') return new Int32Array(bytes.buffer);
  throw new Error(`${name} has the type ${type}, which is not read here`);
}
