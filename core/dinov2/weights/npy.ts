/** NumPy's array file, version 1.0 (numpy.org/doc/stable/reference/generated/numpy.lib.format.html), written in pieces. */
import { open } from 'node:fs/promises';

/**
 * Writes and flushes a one-dimensional array.
 * @param descr as Python writes it: `'<U3'`, or a list of (name, type) for a structured array
 * @param rows bytes of the rows, in any number of pieces
 */
export async function writeNpy(path: string, descr: string, length: number, rows: Iterable<Uint8Array>): Promise<void> {
  const text = `{'descr': ${descr}, 'fortran_order': False, 'shape': (${length},), }`;
  const before = 10; // magic, version, length of the header
  const header = Buffer.from(`${text.padEnd(Math.ceil((before + text.length + 1) / 64) * 64 - before - 1)}\n`, 'latin1');
  const head = Buffer.from('\x93NUMPY\x01\x00\x00\x00', 'latin1');
  head.writeUInt16LE(header.length, 8);
  const file = await open(path, 'w');
  try {
    await file.writeFile(head);
    await file.writeFile(header);
    for (const piece of rows) await file.writeFile(piece);
    await file.sync();
  } finally {
    await file.close();
  }
}

/** Text of a fixed number of characters, as NumPy's U type has it: UTF-32, filled up with zeros. */
export function fixedText(text: string, characters: number): Buffer {
  const bytes = Buffer.alloc(4 * characters);
  for (const [i, character] of [...text].entries()) bytes.writeUInt32LE(character.codePointAt(0)!, 4 * i);
  return bytes;
}
