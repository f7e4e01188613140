/**
 * Writes PyTorch's file format (`torchZip.ts` reads it): what torch.save writes for a dictionary of float32 tensors, loadable
 * with torch.load(..., weights_only=True). Tensors are read and written one by one. Zip and ZIP64 are yazl's.
 */
import { createWriteStream } from 'node:fs';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { ZipFile } from 'yazl';
import type { LazyTensor } from '../safetensors.ts';

/** Folder of the archive; torch.load takes any. */
const FOLDER = 'weights';
/** The same weights give the same bytes: zip's earliest time for all entries. */
const ENTRY = { compress: false, mtime: new Date(1980, 0, 1), forceDosTimestamp: true } as const;
const PIECE = 2 ** 20;

/**
 * Writes and flushes a file. The caller writes to a temporary place and renames.
 * @param key null: the tensors are the dictionary; else they are a dictionary under that key
 */
export async function writeTorch(path: string, tensors: readonly LazyTensor[], key: string | null): Promise<void> {
  const zip = new ZipFile();
  zip.on('error', (error: Error) => (zip.outputStream as Readable).destroy(error));
  const written = pipeline(zip.outputStream, createWriteStream(path, { flush: true }));
  zip.addBuffer(pickled(tensors, key), `${FOLDER}/data.pkl`, ENTRY);
  zip.addBuffer(Buffer.from('little'), `${FOLDER}/byteorder`, ENTRY);
  for (const [i, { shape, read }] of tensors.entries()) {
    zip.addReadStreamLazy(`${FOLDER}/data/${i}`, { ...ENTRY, size: 4 * count(shape) }, (answer) => {
      read().then(
        (values) => answer(null, Readable.from(pieces(values), { objectMode: false })),
        (error: unknown) => answer(error, Readable.from([])),
      );
    });
  }
  zip.addBuffer(Buffer.from('3\n'), `${FOLDER}/version`, ENTRY);
  zip.end();
  await written;
}

const count = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

function* pieces(values: Float32Array): Generator<Buffer> {
  const bytes = Buffer.from(values.buffer, values.byteOffset, values.byteLength);
  for (let at = 0; at < bytes.length; at += PIECE) yield bytes.subarray(at, at + PIECE);
}

/** Protocol 2. Each tensor is _rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict()). */
function pickled(tensors: readonly LazyTensor[], key: string | null): Buffer {
  const out = new PickleWriter();
  out.bytes(0x80, 2, 0x7d); // PROTO 2, EMPTY_DICT
  if (key !== null) {
    out.text(key);
    out.bytes(0x7d); // EMPTY_DICT
  }
  out.bytes(0x28); // MARK
  for (const [i, { name, shape }] of tensors.entries()) {
    out.text(name);
    out.global('torch._utils', '_rebuild_tensor_v2');
    out.bytes(0x28); // MARK of the arguments
    out.bytes(0x28); // MARK of the storage's id
    out.text('storage');
    out.global('torch', 'FloatStorage');
    out.text(String(i));
    out.text('cpu');
    out.integer(count(shape));
    out.bytes(0x74, 0x51); // TUPLE, BINPERSID
    out.integer(0);
    out.integers(shape);
    out.integers(shape.map((_, axis) => count(shape.slice(axis + 1))));
    out.bytes(0x89); // NEWFALSE
    out.global('collections', 'OrderedDict');
    out.bytes(0x29, 0x52); // EMPTY_TUPLE, REDUCE
    out.bytes(0x74, 0x52); // TUPLE, REDUCE
  }
  out.bytes(0x75); // SETITEMS
  if (key !== null) out.bytes(0x73); // SETITEM
  out.bytes(0x2e); // STOP
  return out.buffer();
}

class PickleWriter {
  readonly #parts: Buffer[] = [];

  bytes(...bytes: number[]): void {
    this.#parts.push(Buffer.from(bytes));
  }

  /** BINUNICODE */
  text(text: string): void {
    const utf8 = Buffer.from(text);
    const head = Buffer.from([0x58, 0, 0, 0, 0]);
    head.writeUInt32LE(utf8.length, 1);
    this.#parts.push(head, utf8);
  }

  /** GLOBAL */
  global(module: string, name: string): void {
    this.#parts.push(Buffer.from(`c${module}\n${name}\n`));
  }

  /** BININT, or LONG1 of eight bytes beyond 32 bits. */
  integer(value: number): void {
    const small = value < 2 ** 31;
    const bytes = Buffer.alloc(small ? 5 : 10);
    bytes[0] = small ? 0x4a : 0x8a;
    if (small) bytes.writeInt32LE(value, 1);
    else {
      bytes[1] = 8;
      bytes.writeBigInt64LE(BigInt(value), 2);
    }
    this.#parts.push(bytes);
  }

  integers(values: readonly number[]): void {
    this.bytes(0x28); // MARK
    for (const value of values) this.integer(value);
    this.bytes(0x74); // TUPLE
  }

  buffer(): Buffer {
    return Buffer.concat(this.#parts);
  }
}
