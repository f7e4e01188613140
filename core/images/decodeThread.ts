// Entry of a thread of cache.ts: files in, pixels in shared memory out.
import { stat } from 'node:fs/promises';
import { workerData } from 'node:worker_threads';
import type { ErrorFacts } from '../contract/index.ts';
import { serve } from '../threads.ts';
import { readRgb, type RgbImage } from './decode.ts';
import { readError } from './formats.ts';
import { readPixels, writePixels } from './pixelStore.ts';

export interface DecodeItem {
  readonly file: string;
  /** For sentences. */
  readonly name: string;
  readonly page: number;
  readonly maxSide: number;
  /** Where its pixels are or may be kept, valid while the file has these facts; null: nowhere. */
  readonly stored: { readonly file: string; readonly bytes: number; readonly modifiedMs: number } | null;
}

export type DecodeReply = { readonly image: RgbImage } | { readonly error: ErrorFacts };

export interface DecodeSettings {
  readonly atOnce: number;
}

async function decode({ file, name, page, maxSide, stored }: DecodeItem): Promise<DecodeReply> {
  try {
    const unchanged = async (): Promise<boolean> => {
      const { size, mtimeMs } = await stat(file);
      return size === stored!.bytes && mtimeMs === stored!.modifiedMs;
    };
    // Also where pixels are stored: a file that is gone must be missing whatever the disk still holds of it.
    const known = stored !== null && (await unchanged());
    const kept = known ? await readPixels(stored.file) : null;
    if (kept) return { image: kept };
    const { width, height, data } = await readRgb(file, { page, maxSide });
    const image = { width, height, data: new Uint8Array(new SharedArrayBuffer(data.length)) };
    image.data.set(data);
    // Without room on the disk training goes on, only slower.
    if (known && (await unchanged())) await writePixels(stored.file, image).catch(() => undefined);
    return { image };
  } catch (error) {
    return { error: readError(name, error).facts };
  }
}

serve(decode, (workerData as DecodeSettings).atOnce);
