/**
 * The batches of a run, made ahead: while a step computes, the pictures of the next two batches are decoded and, for an
 * executor that does not make crops itself, the next batch's crops are made, all on threads of their own. Everything is
 * drawn from (seed, number), so what is ahead never changes a batch.
 */
import { availableParallelism } from 'node:os';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { AppError } from '../contract/index.ts';
import { batchIndices } from '../images/index.ts';
import type { CropGroup, PixelImage } from '../nn/index.ts';
import { Random } from '../random.ts';
import { ThreadPool } from '../threads.ts';
import { drawCrops, type DrawnCrops } from './augment.ts';
import { batchesOfStep, STREAM, type RunConfig } from './config.ts';
import type { CropItem, CropReply } from './cropThread.ts';
import { drawMasks } from './masking.ts';
import type { Batch, DrawnBatch } from './step.ts';
import { drawDropPath } from './vit.ts';

/** Where a run gets its pixels; index into the run's list of images. ImageCache, or a test's own. */
export interface ImageSource {
  /** @throws AppError when the image cannot be read */
  get(index: number): Promise<PixelImage>;
  /** Starts reading what is needed next, instead of what the last call named. */
  prefetch(indices: Iterable<number>): void;
  /** Nothing is asked for any more. */
  close?(): Promise<void>;
}

/** Batches whose pictures are asked for ahead of the one that is made. */
const batchesAhead = 2;
/** Threads that make crops, at most: the executor wants the cores too. */
const mostThreads = 8;

export interface FeedOptions {
  readonly config: RunConfig;
  readonly source: ImageSource;
  /** Images in the run's list. */
  readonly count: number;
  /** The executor makes crops itself: batches come as numbers. */
  readonly drawn: boolean;
}

export class Feed {
  readonly #options: FeedOptions;
  readonly #total: number;
  readonly #threads: ThreadPool<CropItem, CropReply> | null;
  #ahead: { readonly number: number; readonly batch: Promise<Batch | DrawnBatch> } | null = null;

  constructor(options: FeedOptions) {
    this.#options = options;
    this.#total = options.config.steps * batchesOfStep(options.config);
    if (options.drawn) {
      this.#threads = null;
      return;
    }
    const threads = Math.max(1, Math.min(mostThreads, options.config.batch, Math.ceil(availableParallelism() / 2)));
    const entry = new URL(import.meta.url.endsWith('.ts') ? './cropThread.ts' : './cropThread.js', import.meta.url);
    this.#threads = new ThreadPool({ entry, name: 'patchwise-crops', settings: null, threads, does: 'makes crops' });
  }

  /**
   * Batch `number`, counted through all steps; the one after it is begun.
   * @throws AppError image-vanished and the like when no image can be read; engine-died
   */
  async take(number: number): Promise<Batch | DrawnBatch> {
    const batch = await (this.#ahead?.number === number ? this.#ahead.batch : this.#make(number));
    this.#ahead = null;
    if (number + 1 < this.#total) {
      const next = this.#make(number + 1);
      next.catch(() => undefined); // told when it is taken
      this.#ahead = { number: number + 1, batch: next };
      // The executor may hold this thread from now on: what is decoded already should be with the threads that crop it.
      await nextTurn();
    }
    return batch;
  }

  /** Ends the threads, and the source. */
  async close(): Promise<void> {
    await Promise.all([this.#threads?.end(), this.#options.source.close?.()]);
  }

  async #make(number: number): Promise<Batch | DrawnBatch> {
    const { config, source, count } = this.#options;
    const { seed, model, crops, batch: B } = config;
    const indices = (of: number): Int32Array => batchIndices(seed, of, B, count);
    const pictures = await readBatch(source, indices(number), count);
    const later = Array.from({ length: batchesAhead }, (_, i) => number + 1 + i).filter((next) => next < this.#total);
    source.prefetch(later.flatMap((next) => [...indices(next)]));
    const drawn = drawCrops(config, number, pictures);
    const dropPath = new Random(seed, STREAM.dropPath, number);
    const numbers = {
      images: B,
      masks: drawMasks(new Random(seed, STREAM.masks, number), config, 2 * B),
      globalDropPath: drawDropPath(dropPath, model, 2 * B),
      localDropPath: drawDropPath(dropPath, model, crops.localCount * B),
    };
    return this.#threads ? { ...numbers, ...(await makeOnThreads(this.#threads, drawn)) } : { ...numbers, drawn };
  }
}

/** Crops as arrays in shared memory, a thread a picture at a time. */
async function makeOnThreads(
  threads: ThreadPool<CropItem, CropReply>,
  { pictures, global, local }: DrawnCrops,
): Promise<Pick<Batch, 'globalCrops' | 'localCrops'>> {
  const room = ({ size, crops }: CropGroup): Float32Array =>
    new Float32Array(new SharedArrayBuffer(crops.length * 3 * size * size * Float32Array.BYTES_PER_ELEMENT));
  const [globalCrops, localCrops] = [room(global), room(local)];
  const items = pictures.map((picture, number): CropItem => {
    const of = ({ size, crops }: CropGroup, out: Float32Array): CropItem['crops'] =>
      crops.flatMap((crop, i) => (crop.picture === number ? [{ draw: crop.draw, size, out, place: i * 3 * size * size }] : []));
    return { picture, crops: [...of(global, globalCrops), ...of(local, localCrops)] };
  });
  for (const words of await Promise.all(items.map((item) => threads.ask(item)))) if (words !== null) throw new Error(words);
  return { globalCrops, localCrops };
}

/** The images of a batch; an unreadable one is replaced by the next readable in the list. */
async function readBatch(source: ImageSource, indices: Int32Array, count: number): Promise<PixelImage[]> {
  return Promise.all(
    Array.from(indices, async (index) => {
      for (let offset = 0; ; offset++) {
        try {
          return await source.get((index + offset) % count);
        } catch (error) {
          // Only a file can be replaced by another one; threads that have died cannot.
          if (!(error instanceof AppError) || !error.code.startsWith('image-') || offset + 1 >= count) throw error;
        }
      }
    }),
  );
}
