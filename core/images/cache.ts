// Decoded images for training, kept in memory as far as a budget allows and decoded ahead of need by threads of their own:
// decoding goes on while the thread that trains computes.
import { availableParallelism } from 'node:os';
import path from 'node:path';
import { AppError, type ImageProblem, type ScannedImage } from '../contract/index.ts';
import { ThreadPool } from '../threads.ts';
import type { RgbImage } from './decode.ts';
import type { DecodeItem, DecodeReply, DecodeSettings } from './decodeThread.ts';
import { PixelStore } from './pixelStore.ts';

export interface ImageCacheOptions {
  /** The image folder that the paths of `images` are inside. */
  readonly root: string;
  readonly images: readonly ScannedImage[];
  /** Longest side to decode to; see readRgb. */
  readonly maxSide: number;
  /** Memory for decoded images, in bytes. */
  readonly maxBytes: number;
  /** Where the pixels of big images are kept for later; absent: nowhere. */
  readonly storeDir?: string;
  /** Bytes in storeDir; default: what the disk allows. */
  readonly storeBytes?: number;
  /** Images decoded at the same time; default: as many as cores, at most 32. */
  readonly concurrency?: number;
  /** Told once for each image that cannot be read. */
  readonly onProblem?: (problem: ImageProblem, index: number) => void;
}

/** Decodes that one thread can see to: the decoding itself runs on libuv's threads, UV_THREADPOOL_SIZE of them. */
const decodesOfThread = 8;

/**
 * Images by their place in the list. What is decoded first stays until the budget is full, then later ones are decoded at
 * each use: in shuffled passes every image is as likely to be next as any other, so nothing is gained by replacing. The
 * pixels are the same whether they come from memory, from storeDir or from the file.
 */
export class ImageCache {
  readonly #options: ImageCacheOptions;
  readonly #threads: ThreadPool<DecodeItem, DecodeReply>;
  readonly #store: Promise<PixelStore | null>;
  readonly #kept = new Map<number, RgbImage>();
  #keptBytes = 0;
  /** Being decoded ahead, or decoded ahead and not yet taken. */
  readonly #ahead = new Map<number, Promise<RgbImage>>();
  readonly #failed = new Map<number, AppError>();

  constructor(options: ImageCacheOptions) {
    this.#options = options;
    const concurrency = options.concurrency ?? Math.min(32, availableParallelism());
    const threads = Math.ceil(concurrency / decodesOfThread);
    const settings: DecodeSettings = { atOnce: Math.ceil(concurrency / threads) };
    const entry = new URL(import.meta.url.endsWith('.ts') ? './decodeThread.ts' : './decodeThread.js', import.meta.url);
    this.#threads = new ThreadPool({ entry, name: 'patchwise-decode', settings, threads, does: 'decodes images' });
    const { storeDir, images, maxSide, storeBytes } = options;
    // A folder that cannot be written costs time only.
    this.#store = storeDir === undefined ? Promise.resolve(null) : PixelStore.open(storeDir, images, maxSide, storeBytes).catch(() => null);
  }

  get keptBytes(): number {
    return this.#keptBytes;
  }

  /**
   * The image as readRgb gives it, in shared memory; not to be changed.
   * An image that failed once fails for good in this cache, so that a run does not depend on when a file comes back.
   * @throws AppError image-vanished and the others of readRgb; engine-died
   */
  async get(index: number): Promise<RgbImage> {
    const kept = this.#kept.get(index);
    if (kept !== undefined) return kept;
    const failed = this.#failed.get(index);
    if (failed !== undefined) throw failed;
    const ahead = this.#ahead.get(index);
    if (ahead !== undefined) {
      this.#ahead.delete(index);
      return ahead;
    }
    return this.#decode(index, true);
  }

  /**
   * Starts decoding what is needed next, in that order. Replaces the last call's list: what it left untaken is dropped, so
   * at most one list of images is held beyond the budget.
   */
  prefetch(indices: Iterable<number>): void {
    const wanted = new Set(indices);
    for (const index of this.#ahead.keys()) if (!wanted.has(index)) this.#ahead.delete(index);
    for (const index of wanted) {
      if (this.#kept.has(index) || this.#failed.has(index) || this.#ahead.has(index)) continue;
      const image = this.#decode(index, false);
      image.catch(() => undefined); // told by get, or by onProblem
      this.#ahead.set(index, image);
    }
  }

  /** Ends the threads; nothing can be asked for afterwards. */
  async close(): Promise<void> {
    await this.#threads.end();
  }

  async #decode(index: number, urgent: boolean): Promise<RgbImage> {
    const { root, images, maxSide, maxBytes, onProblem } = this.#options;
    const source = images[index];
    if (source === undefined) throw new RangeError(`image ${index} of ${images.length}`);
    const place = (await this.#store)?.place(source) ?? null;
    const reply = await this.#threads.ask(
      {
        file: path.join(root, source.path),
        name: source.path,
        page: source.page,
        maxSide,
        stored: place === null ? null : { file: place, bytes: source.bytes, modifiedMs: source.modifiedMs },
      },
      urgent,
    );
    if ('error' in reply) {
      const { code, message, action } = reply.error;
      this.#ahead.delete(index);
      if (!this.#failed.has(index)) {
        this.#failed.set(index, new AppError(code, message, action));
        onProblem?.({ ...reply.error, path: source.path }, index);
      }
      throw this.#failed.get(index)!;
    }
    const { image } = reply;
    if (!this.#kept.has(index) && this.#keptBytes + image.data.length <= maxBytes) {
      this.#kept.set(index, image);
      this.#keptBytes += image.data.length;
      this.#ahead.delete(index);
    }
    return image;
  }
}
