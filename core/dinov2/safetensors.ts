/**
 * The safetensors format (github.com/huggingface/safetensors): 8 bytes little-endian header length, a JSON header, raw
 * little-endian data. The only tensor file the product writes. Reads float32, uint8 and int32; nothing else is needed here.
 */
import { createHash } from 'node:crypto';
import { open } from 'node:fs/promises';

export interface NamedTensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly values: Float32Array;
}

export interface SafeTensorFile {
  readonly metadata: Readonly<Record<string, string>>;
  readonly tensors: ReadonlyMap<string, { readonly shape: readonly number[]; readonly values: Float32Array | Uint8Array | Int32Array }>;
}

const KINDS = { F32: Float32Array, U8: Uint8Array, I32: Int32Array } as const;

const bytesOf = (values: Float32Array): Uint8Array => new Uint8Array(values.buffer, values.byteOffset, values.byteLength);

/**
 * Writes and flushes a file. The metadata gains `sha256`, of the data behind the header, by which a damaged file is known.
 * The caller writes to a temporary place and renames.
 */
export async function writeSafetensors(
  path: string,
  tensors: readonly NamedTensor[],
  metadata: Readonly<Record<string, string>>,
): Promise<void> {
  const hash = createHash('sha256');
  const header: Record<string, unknown> = {};
  let offset = 0;
  for (const { name, shape, values } of tensors) {
    header[name] = { dtype: 'F32', shape, data_offsets: [offset, offset + values.byteLength] };
    offset += values.byteLength;
    hash.update(bytesOf(values));
  }
  header['__metadata__'] = { ...metadata, sha256: hash.digest('hex') };
  const json = new TextEncoder().encode(JSON.stringify(header));
  const head = new Uint8Array(Math.ceil((8 + json.length) / 8) * 8).fill(0x20); // padded with spaces: data starts aligned
  new DataView(head.buffer).setBigUint64(0, BigInt(head.length - 8), true);
  head.set(json, 8);
  const file = await open(path, 'w');
  try {
    await file.writeFile(head);
    for (const { values } of tensors) await file.writeFile(bytesOf(values));
    await file.sync();
  } finally {
    await file.close();
  }
}

/**
 * Reads a whole file, tensor by tensor, so that files of many gigabytes can be read.
 * @throws Error saying what is wrong when it is cut short, malformed, or its data do not have the recorded sha256
 */
export async function readSafetensors(path: string): Promise<SafeTensorFile> {
  const file = await open(path, 'r');
  try {
    const { size } = await file.stat();
    const read = async (position: number, length: number): Promise<Uint8Array<ArrayBuffer>> => {
      const bytes = new Uint8Array(length);
      const { bytesRead } = length > 0 ? await file.read(bytes, 0, length, position) : { bytesRead: 0 };
      if (bytesRead !== length) throw new Error(`it ends at byte ${position + bytesRead}, ${length - bytesRead} too early`);
      return bytes;
    };
    const headerLength = Number(new DataView((await read(0, 8)).buffer).getBigUint64(0, true));
    if (headerLength > size - 8) throw new Error(`its header should have ${headerLength} bytes, the whole file has ${size}`);
    const header = JSON.parse(new TextDecoder().decode(await read(8, headerLength))) as Record<string, unknown>;
    const metadata = (header['__metadata__'] ?? {}) as Record<string, string>;
    delete header['__metadata__'];
    const entries = Object.entries(header) as [string, { dtype: string; shape: number[]; data_offsets: [number, number] }][];
    entries.sort(([, a], [, b]) => a.data_offsets[0] - b.data_offsets[0]);

    const hash = createHash('sha256');
    const tensors = new Map<string, { shape: readonly number[]; values: Float32Array | Uint8Array | Int32Array }>();
    for (const [
      name,
      {
        dtype,
        shape,
        data_offsets: [from, to],
      },
    ] of entries) {
      const Kind = KINDS[dtype as keyof typeof KINDS];
      if (!Kind) throw new Error(`${name} has the type ${dtype}, which is not read here`);
      if (to - from !== shape.reduce((a, b) => a * b, 1) * Kind.BYTES_PER_ELEMENT) {
        throw new Error(`${name} of shape [${shape.join(', ')}] cannot fill bytes ${from} to ${to}`);
      }
      const bytes = await read(8 + headerLength + from, to - from);
      hash.update(bytes);
      tensors.set(name, { shape, values: new Kind(bytes.buffer) });
    }
    if (metadata['sha256'] !== undefined && hash.digest('hex') !== metadata['sha256']) {
      throw new Error('its data are not the ones that were written (the checksum differs)');
    }
    return { metadata, tensors };
  } finally {
    await file.close();
  }
}
