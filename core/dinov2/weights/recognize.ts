/** Which kind of file it is, by its first bytes; never by its name. */
import type { FileHandle } from 'node:fs/promises';
import { isFloatType, toFloat32 } from '../floats.ts';
import { openSafetensors } from '../safetensors.ts';
import { FileFault } from './fault.ts';
import { readRange, type StoredTensor, type TensorFile } from './tensorFile.ts';
import { LEGACY_START, openTorchLegacy } from './torchLegacy.ts';
import { openTorchZip } from './torchZip.ts';

const DOWNLOAD_AGAIN = 'Download the weights themselves; a browser may have saved a page instead of the file.';

/** Files that people take for weights. */
const OTHERS: readonly { readonly start: string | readonly number[]; readonly what: string; readonly action: string }[] = [
  {
    start: 'version https://git-lfs',
    what: 'it is a Git LFS pointer, not the file it stands for',
    action: 'Fetch the file itself: git lfs pull.',
  },
  { start: '<', what: 'it is a web page', action: DOWNLOAD_AGAIN },
  { start: [0x1f, 0x8b], what: 'it is a gzip archive', action: 'Unpack it, then import the weights inside.' },
  { start: 'Rar!', what: 'it is a RAR archive', action: 'Unpack it, then import the weights inside.' },
  { start: '7z', what: 'it is a 7-Zip archive', action: 'Unpack it, then import the weights inside.' },
  { start: '\x89HDF', what: 'it is an HDF5 file', action: 'Patchwise reads DINOv2 weights as .pth or .safetensors.' },
  { start: '\x93NUMPY', what: 'it is a NumPy array', action: 'Patchwise reads DINOv2 weights as .pth or .safetensors.' },
];

/** @throws FileFault, and errors of the readers below */
export async function openTensorFile(file: FileHandle): Promise<TensorFile> {
  const { size } = await file.stat();
  if (size === 0) throw new FileFault('it is empty (0 bytes)');
  const start = Buffer.from(await readRange(file, 0, Math.min(size, 64)));
  // "{" behind a length of under 4 GiB; first, because that length may begin like anything.
  if (start[8] === 0x7b && start.readUInt32LE(4) === 0) return safetensors(file);
  if (start.toString('latin1', 0, 2) === 'PK') return openTorchZip(file);
  if (start.subarray(0, LEGACY_START.length).equals(LEGACY_START)) return openTorchLegacy(file);
  for (const { start: begin, what, action } of OTHERS) {
    const bytes = typeof begin === 'string' ? Buffer.from(begin, 'latin1') : Buffer.from(begin);
    if (start.subarray(0, bytes.length).equals(bytes)) throw new FileFault(what, action);
  }
  if (start[0] === 0x80 && start[1]! >= 2 && start[1]! <= 5) {
    throw new FileFault(
      'it is a Python pickle, but not one that torch.save wrote',
      'Save the weights with torch.save(model.state_dict(), ...).',
    );
  }
  throw new FileFault(
    'it is neither a PyTorch file nor a safetensors file',
    'Choose the file that holds the weights: .pth or .safetensors.',
  );
}

async function safetensors(file: FileHandle): Promise<TensorFile> {
  const { metadata, entries, bytes } = await openSafetensors(file);
  const tensors = new Map<string, StoredTensor>();
  for (const [name, entry] of entries) {
    const { type, shape } = entry;
    const read = async (): Promise<Float32Array> => {
      if (!isFloatType(type)) throw new FileFault(`${name} has values of the type ${type}, not 16- or 32-bit floating-point numbers`);
      return toFloat32(await bytes(entry), type);
    };
    tensors.set(name, { shape, type, read });
  }
  return { kind: 'safetensors file', tensors, metadata };
}
