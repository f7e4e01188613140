/** A file of tensors, whichever format it is in: their names, shapes and types, and each one's values when asked for. */
import type { FileHandle } from 'node:fs/promises';
import { FileFault } from './fault.ts';

export interface StoredTensor {
  readonly shape: readonly number[];
  /** As in safetensors: F32, F16, I64, ... */
  readonly type: string;
  /** The values as float32, row-major. @throws FileFault */
  read(): Promise<Float32Array>;
}

export interface TensorFile {
  /** In words, for a person: "PyTorch file", "safetensors file". */
  readonly kind: string;
  /** By their names in the file; those of a training checkpoint's teacher start with "teacher.". */
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  /** Texts beside them, in safetensors. */
  readonly metadata?: Readonly<Record<string, string>>;
}

/** A read call takes less than 2 GiB. */
const MOST_AT_ONCE = 2 ** 30;

/** @throws FileFault when the file ends before `to` */
export async function readRange(file: FileHandle, from: number, to: number): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = new Uint8Array(to - from);
  for (let done = 0; done < bytes.length;) {
    const { bytesRead } = await file.read(bytes, done, Math.min(bytes.length - done, MOST_AT_ONCE), from + done);
    if (bytesRead === 0) throw new FileFault(`it ends at byte ${from + done}, ${bytes.length - done} too early`);
    done += bytesRead;
  }
  return bytes;
}

/** A range in pieces, so that it is never in memory whole. */
export async function* readPieces(file: FileHandle, from: number, to: number): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  const piece = 2 ** 22;
  for (let at = from; at < to; at += piece) yield readRange(file, at, Math.min(to, at + piece));
}
