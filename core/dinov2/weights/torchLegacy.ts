/**
 * PyTorch's file format before 1.6: five pickles in a row (a magic number, the protocol, facts of the machine, the object,
 * the keys of its storages), then each storage as an int64 length and its numbers.
 */
import type { FileHandle } from 'node:fs/promises';
import { FileFault } from './fault.ts';
import { unpickle } from './pickle.ts';
import { stateDict } from './stateDict.ts';
import { readRange, type StoredTensor, type TensorFile } from './tensorFile.ts';
import { readTensor, STORAGE_BYTES, TorchNames } from './torch.ts';

/** The first pickle: protocol 2, a long of ten bytes. */
export const LEGACY_START = Uint8Array.from([0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, 0x2e]);
const PROTOCOL = 1001;
/** Of the pickles alone; a giant network's take under 300 kB. */
const MOST_PICKLE_BYTES = 64 * 2 ** 20;

/** @throws FileFault */
export async function openTorchLegacy(file: FileHandle): Promise<TensorFile> {
  const { size } = await file.stat();
  const head = await readRange(file, 0, Math.min(size, MOST_PICKLE_BYTES));
  const names = new TorchNames();
  let at = LEGACY_START.length;
  const next = (): unknown => {
    const { value, end } = unpickle(head, at, names);
    at = end;
    return value;
  };
  const protocol = next();
  if (protocol !== PROTOCOL)
    throw new FileFault(`it is of protocol ${String(protocol)}, not ${PROTOCOL}`, 'Load and save it again with a newer PyTorch.');
  const machine = next();
  if (machine instanceof Map && machine.get('little_endian') === false)
    throw new FileFault('its numbers are big-endian', 'Save it again on an ordinary PC.');
  const root = next();
  const keys = next();
  if (!Array.isArray(keys)) throw new FileFault('its list of storages is malformed');

  const starts = await storageStarts(file, size, at, keys, names);
  const tensors = new Map<string, StoredTensor>();
  for (const [name, tensor] of stateDict(root)) {
    const start = starts.get(tensor.storage.key);
    if (start === undefined) throw new FileFault(`it lacks storage ${tensor.storage.key}`);
    tensors.set(name, {
      shape: tensor.shape,
      type: tensor.storage.type,
      read: () => readTensor(tensor, (_, from, to) => readRange(file, start + from, start + to)),
    });
  }
  return { kind: 'PyTorch file of before 1.6', tensors };
}

async function storageStarts(
  file: FileHandle,
  size: number,
  from: number,
  keys: readonly unknown[],
  names: TorchNames,
): Promise<Map<string, number>> {
  const starts = new Map<string, number>();
  let at = from;
  for (const key of keys) {
    const storage = typeof key === 'string' ? names.storages.get(key) : undefined;
    if (!storage || starts.has(storage.key))
      throw new FileFault(`its list of storages names ${String(key)}, which is not described or came before`);
    const length = new DataView((await readRange(file, at, at + 8)).buffer).getBigInt64(0, true);
    if (length !== BigInt(storage.length))
      throw new FileFault(`storage ${storage.key} has ${length} values where ${storage.length} are described`);
    starts.set(storage.key, at + 8);
    at += 8 + storage.length * STORAGE_BYTES[storage.type]!;
    if (at > size) throw new FileFault(`it ends at byte ${size}, ${at - size} too early`);
  }
  return starts;
}
