// Writing pictures of our own, never into the image folder: a temporary file beside the target, then a rename.
import { randomUUID } from 'node:crypto';
import { open, rename, rm } from 'node:fs/promises';
import { encodePng, type RgbImage } from './decode.ts';

/** Writes an 8-bit RGB PNG. The file is there whole or not at all. @throws system errors (ENOSPC, EACCES, EROFS, ENOENT) */
export async function writePng(file: string, image: RgbImage): Promise<void> {
  const bytes = await encodePng(image);
  const temporary = `${file}.${randomUUID()}.tmp`;
  try {
    const handle = await open(temporary, 'wx');
    try {
      await handle.writeFile(bytes);
    } finally {
      await handle.close();
    }
    await rename(temporary, file);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}
