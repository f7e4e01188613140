/**
 * PyTorch's file format since 1.6: a zip archive, nothing in it compressed, with <name>/data.pkl and the storages as
 * <name>/data/<key>. Zip and ZIP64 directories are read by yauzl; storages are read from their place in the file.
 */
import type { FileHandle } from 'node:fs/promises';
import { crc32 } from 'node:zlib';
import { fromFdPromise, type Entry, type ZipFile } from 'yauzl';
import { FileFault } from './fault.ts';
import { unpickle } from './pickle.ts';
import { stateDict } from './stateDict.ts';
import { readPieces, readRange, type StoredTensor, type TensorFile } from './tensorFile.ts';
import { readTensor, STORAGE_BYTES, TorchNames, type Storage } from './torch.ts';

/** The largest networks have some thousands. */
const MOST_ENTRIES = 100_000;
/** Of the description alone; a giant network's is under 200 kB. */
const MOST_PICKLE_BYTES = 64 * 2 ** 20;

/** @throws FileFault, and yauzl's errors for a directory that is cut off or malformed */
export async function openTorchZip(file: FileHandle): Promise<TensorFile> {
  const { size } = await file.stat();
  // The handle stays the caller's: without autoClose yauzl closes nothing unless asked to.
  const zip = await fromFdPromise(file.fd, { autoClose: false });
  const archive = new Archive(file, zip, await entriesOf(zip, size));
  const order = await archive.word('byteorder');
  if (order !== null && order !== 'little') throw new FileFault(`its numbers are ${order}-endian`, 'Save it again on an ordinary PC.');
  const pickle = archive.entry('data.pkl');
  if (pickle.uncompressedSize > MOST_PICKLE_BYTES)
    throw new FileFault(`its data.pkl of ${pickle.uncompressedSize} bytes is no list of tensors`);
  const names = new TorchNames();
  const { value } = unpickle(await archive.bytes(pickle), 0, names);

  const tensors = new Map<string, StoredTensor>();
  for (const [name, tensor] of stateDict(value)) {
    tensors.set(name, {
      shape: tensor.shape,
      type: tensor.storage.type,
      read: () => readTensor(tensor, (storage, from, to) => archive.storage(storage, from, to)),
    });
  }
  return { kind: 'PyTorch file', tensors };
}

/** @throws FileFault for entries that torch.save does not write */
async function entriesOf(zip: ZipFile, size: number): Promise<Map<string, Entry>> {
  if (zip.entryCount > MOST_ENTRIES) throw new FileFault(`its directory lists ${zip.entryCount} entries`);
  const entries = new Map<string, Entry>();
  let total = 0;
  for await (const entry of zip.eachEntry()) {
    const name = entry.fileName;
    if (entry.isEncrypted()) throw new FileFault(`its entry ${name} is encrypted`, 'Ask for the file without a password.');
    total += entry.compressedSize;
    // More than the file has: entries that lie over each other.
    if (total > size) throw new FileFault('its entries say they are larger than the file');
    if (entries.has(name)) throw new FileFault(`it has the entry ${name} twice`);
    entries.set(name, entry);
  }
  return entries;
}

class Archive {
  readonly #file: FileHandle;
  readonly #zip: ZipFile;
  readonly #entries: ReadonlyMap<string, Entry>;
  /** All of torch.save's entries lie in one folder, named after the file. */
  readonly #folder: string;
  /** Where the bytes of a checked storage start. */
  readonly #checked = new Map<string, number>();

  constructor(file: FileHandle, zip: ZipFile, entries: ReadonlyMap<string, Entry>) {
    this.#file = file;
    this.#zip = zip;
    this.#entries = entries;
    const pickle = [...entries.keys()].find((name) => /^[^/]+\/data\.pkl$/.test(name));
    if (pickle === undefined) {
      throw new FileFault(
        'it is a zip archive, but not one that torch.save wrote',
        'If the weights are inside, take them out and import those.',
      );
    }
    this.#folder = pickle.slice(0, -'data.pkl'.length);
    if (entries.has(`${this.#folder}constants.pkl`)) {
      throw new FileFault('it is a TorchScript program, which holds code', 'In Python, load it and save its state_dict() instead.');
    }
  }

  entry(name: string): Entry {
    const entry = this.#entries.get(this.#folder + name);
    if (!entry) throw new FileFault(`it lacks ${name}`);
    if (entry.compressionMethod !== 0) {
      throw new FileFault(
        `its entry ${name} is compressed, which torch.save never does`,
        'Unpack it and save the weights again with torch.save.',
      );
    }
    return entry;
  }

  /** A word in an entry of its own; null when it is not there. */
  async word(name: string): Promise<string | null> {
    if (!this.#entries.has(this.#folder + name)) return null;
    const entry = this.entry(name);
    if (entry.uncompressedSize > 64) throw new FileFault(`its entry ${name} of ${entry.uncompressedSize} bytes is no word`);
    return new TextDecoder().decode(await this.bytes(entry)).trim();
  }

  async bytes(entry: Entry): Promise<Uint8Array<ArrayBuffer>> {
    const start = await this.#start(entry);
    const bytes = await readRange(this.#file, start, start + entry.compressedSize);
    if (crc32(bytes) !== entry.crc32)
      throw new FileFault(`its entry ${entry.fileName} is not the one that was written (its checksum differs)`);
    return bytes;
  }

  async storage(storage: Storage, from: number, to: number): Promise<Uint8Array<ArrayBuffer>> {
    const start = this.#checked.get(storage.key) ?? (await this.#check(storage));
    return readRange(this.#file, start + from, start + to);
  }

  /** Reads a storage through once, before the first of its tensors. */
  async #check({ key, type, length }: Storage): Promise<number> {
    const entry = this.entry(`data/${key}`);
    const bytes = length * STORAGE_BYTES[type]!;
    if (entry.compressedSize !== bytes)
      throw new FileFault(`storage ${key} has ${entry.compressedSize} bytes where ${bytes} are described`);
    const start = await this.#start(entry);
    let sum = 0;
    for await (const piece of readPieces(this.#file, start, start + bytes)) sum = crc32(piece, sum);
    if (sum !== entry.crc32)
      throw new FileFault(`the numbers of storage ${key} are not the ones that were written (their checksum differs)`);
    this.#checked.set(key, start);
    return start;
  }

  async #start(entry: Entry): Promise<number> {
    return (await this.#zip.readLocalFileHeaderPromise(entry, { minimal: true })).fileDataStart;
  }
}
