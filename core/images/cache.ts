// Decoded images for training, kept in memory as far as a budget allows and decoded ahead of need.
import { availableParallelism } from 'node:os';
import path from 'node:path';
import type { AppError, ImageProblem, ScannedImage } from '../contract/index.ts';
import { readRgb, type RgbImage } from './decode.ts';
import { readError } from './formats.ts';

export interface ImageCacheOptions {
  /** The image folder that the paths of `images` are inside. */
  readonly root: string;
  readonly images: readonly ScannedImage[];
  /** Longest side to decode to; see readRgb. */
  readonly maxSide: number;
  /** Memory for decoded images, in bytes. */
  readonly maxBytes: number;
  /** Images decoded at the same time; default: as many as cores, at most 8. */
  readonly concurrency?: number;
  /** Told once for each image that cannot be read. */
  readonly onProblem?: (problem: ImageProblem, index: number) => void;
}

/**
 * Images by their place in the list. What is decoded first stays until the budget is full, then later ones are decoded at
 * each use: in shuffled passes every image is as likely to be next as any other, so nothing is gained by replacing.
 */
export class ImageCache {
  readonly #options: ImageCacheOptions;
  readonly #concurrency: number;
  readonly #kept = new Map<number, RgbImage>();
  #keptBytes = 0;
  /** Being decoded, or decoded ahead and not yet taken. */
  readonly #ahead = new Map<number, Promise<RgbImage>>();
  /** Indices to decode ahead, next first. */
  #queue: number[] = [];
  #decoding = 0;
  /** Calls of `get` waiting for a free place; served before the queue. */
  readonly #waiting: (() => void)[] = [];
  readonly #failed = new Map<number, AppError>();

  constructor(options: ImageCacheOptions) {
    this.#options = options;
    this.#concurrency = options.concurrency ?? Math.min(8, availableParallelism());
  }

  get keptBytes(): number {
    return this.#keptBytes;
  }

  /**
   * The image as readRgb gives it; shared, not to be changed.
   * An image that failed once fails for good in this cache, so that a run does not depend on when a file comes back.
   * @throws AppError image-vanished and the others of readRgb
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
    return this.#decode(index);
  }

  /**
   * Starts decoding what is needed next, in that order. Replaces the last call's list: what it left undone is dropped, so
   * at most one list of images is held beyond the budget.
   */
  prefetch(indices: Iterable<number>): void {
    const wanted = new Set(indices);
    for (const index of this.#ahead.keys()) if (!wanted.has(index)) this.#ahead.delete(index);
    this.#queue = [...wanted].filter((index) => !this.#kept.has(index) && !this.#failed.has(index) && !this.#ahead.has(index));
    this.#pump();
  }

  #pump(): void {
    while (this.#decoding < this.#concurrency && this.#queue.length > 0) {
      const index = this.#queue.shift()!;
      if (this.#kept.has(index) || this.#failed.has(index) || this.#ahead.has(index)) continue;
      const image = this.#decode(index);
      image.catch(() => undefined); // told by get, or by onProblem
      this.#ahead.set(index, image);
    }
  }

  async #decode(index: number): Promise<RgbImage> {
    const { root, images, maxSide, maxBytes, onProblem } = this.#options;
    const source = images[index];
    if (source === undefined) throw new RangeError(`image ${index} of ${images.length}`);
    await this.#enter();
    try {
      const image = await readRgb(path.join(root, source.path), { page: source.page, maxSide });
      if (!this.#kept.has(index) && this.#keptBytes + image.data.length <= maxBytes) {
        this.#kept.set(index, image);
        this.#keptBytes += image.data.length;
        this.#ahead.delete(index);
      }
      return image;
    } catch (error) {
      const failure = readError(source.path, error);
      this.#ahead.delete(index);
      if (!this.#failed.has(index)) {
        this.#failed.set(index, failure);
        onProblem?.({ ...failure.facts, path: source.path }, index);
      }
      throw failure;
    } finally {
      this.#leave();
    }
  }

  async #enter(): Promise<void> {
    if (this.#decoding >= this.#concurrency) return new Promise((resolve) => this.#waiting.push(resolve));
    this.#decoding++;
  }

  /** Hands the place on, or frees it. */
  #leave(): void {
    const next = this.#waiting.shift();
    if (next !== undefined) return next();
    this.#decoding--;
    this.#pump();
  }
}
