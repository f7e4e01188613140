/**
 * Patch features of the images, computed once for each network and kept on disk. Decoding is the images room's, the network
 * the backbone's; what the features mean for the set is statistics.ts.
 */
import { createHash } from 'node:crypto';
import path from 'node:path';
import { AppError } from '../contract/index.ts';
import { normalizeImage } from '../dinov2/index.ts';
import { readRgb, type RgbImage } from '../images/index.ts';
import {
  finished,
  imagesOf,
  keepFeatures,
  readFeatures,
  type ImageFeatures,
  type NetworkFeatures,
  type PatchFeatures,
} from './featureFile.ts';
import { keepThreads } from './keepPool.ts';
import { gridShifts } from './refine.ts';

/** What prelabel needs of an image; `hash` and `page` name its features, so a moved file keeps them. */
export interface PrelabelImage {
  readonly id: number;
  /** Inside the image folder, forward slashes. */
  readonly path: string;
  readonly page: number;
  readonly hash: string;
  /** Oriented. */
  readonly width: number;
  readonly height: number;
}

/** The part of a backbone that features need; `Backbone` of the dinov2 room fits. */
export interface FeatureBackbone {
  readonly config: { readonly patchSize: number; readonly embedDim: number };
  features(images: Float32Array, n: number, height: number, width: number): Promise<NetworkFeatures>;
  /**
   * Takes pictures as bytes, each seen once for every shift (right and down, pixels), and computes beside this thread: work
   * has been given when it returns. Absent: inputs are made here, and computed when they are given.
   */
  readonly pictureFeatures?: (pictures: readonly RgbImage[], shifts: readonly (readonly [number, number])[]) => Promise<NetworkFeatures>;
  /** Tokens that it takes at once; absent: unknown. */
  readonly tokensAtOnce?: number;
}

export interface FeatureOptions {
  /** Shorter side of the network's input in pixels; larger finds smaller things and costs more. */
  readonly shortSide: number;
  /** Most patches an image; long images get a smaller short side instead. */
  readonly maxTokens: number;
  /** Images in one pass of the network, at least; of a network that computes beside this thread as many as it takes at once. */
  readonly batch: number;
  /** 4 looks at every image four times, shifted by half a patch: finer outlines for four times the time. */
  readonly passes: 1 | 4;
}

export const featureDefaults: FeatureOptions = { shortSide: 448, maxTokens: 1600, batch: 4, passes: 1 };

/**
 * Input size for an image: aspect kept, both sides multiples of the patch, at least two patches each.
 * @returns pixels
 */
export function inputSize(width: number, height: number, patchSize: number, options: FeatureOptions): { width: number; height: number } {
  let scale = options.shortSide / Math.min(width, height);
  const tokens = ((width * scale) / patchSize) * ((height * scale) / patchSize);
  if (tokens > options.maxTokens) scale *= Math.sqrt(options.maxTokens / tokens);
  const side = (length: number): number => Math.max(2, Math.round((length * scale) / patchSize));
  let across = side(width);
  let down = side(height);
  // Two patches at least on the short side can break the limit of very long images: the long side gives way.
  if (across * down > options.maxTokens) {
    if (across > down) across = Math.max(2, Math.floor(options.maxTokens / down));
    else down = Math.max(2, Math.floor(options.maxTokens / across));
  }
  return { width: across * patchSize, height: down * patchSize };
}

/**
 * The input as seen through a grid that lies `dx` right and `dy` down: moved left and up, the border pixels repeated.
 * @param input [3, height, width]
 * @param dx pixels, as dy
 */
export function shiftInput(input: Float32Array, height: number, width: number, dx: number, dy: number): Float32Array {
  if (dx === 0 && dy === 0) return input;
  const out = new Float32Array(input.length);
  for (let row = 0; row < 3 * height; row++) {
    const y = row % height;
    const from = (row - y + Math.min(height - 1, y + dy)) * width;
    for (let x = 0; x < width; x++) out[row * width + x] = input[from + Math.min(width - 1, x + dx)];
  }
  return out;
}

export interface FeatureStoreOptions {
  readonly backbone: FeatureBackbone | null;
  readonly modelKey: string;
  readonly cacheDir: string;
  readonly imageRoot: string;
  readonly options?: Partial<FeatureOptions> | undefined;
  /** Without a backbone: the side of its patches. Default 14. */
  readonly patchSize?: number | undefined;
}

/** Features of a set of images by one network: from the cache, else computed and cached. */
export class FeatureStore {
  readonly folder: string;
  readonly options: FeatureOptions;
  readonly backbone: FeatureBackbone | null;
  readonly #imageRoot: string;
  readonly #patchSize: number;

  constructor(from: FeatureStoreOptions) {
    this.options = { ...featureDefaults, ...from.options };
    this.backbone = from.backbone;
    this.#imageRoot = from.imageRoot;
    this.#patchSize = from.backbone?.config.patchSize ?? from.patchSize ?? 14;
    // A key that is no plain file name is replaced by its hash: no key may lead out of the cache.
    const key = /^[\w-][\w.-]{0,99}$/.test(from.modelKey)
      ? from.modelKey
      : createHash('sha256').update(from.modelKey).digest('hex').slice(0, 32);
    this.folder = path.join(from.cacheDir, 'features', key);
  }

  file(image: PrelabelImage): string {
    const { width, height } = this.inputSize(image);
    return path.join(this.folder, `${image.hash}-${image.page}-${height}x${width}.bin`);
  }

  inputSize(image: PrelabelImage): { width: number; height: number } {
    return inputSize(image.width, image.height, this.#patchSize, this.options);
  }

  /** Cached features, or null. */
  cached(image: PrelabelImage): Promise<ImageFeatures | null> {
    return readFeatures(this.file(image), this.options.passes, this.backbone?.config.embedDim);
  }

  /**
   * Features of one image.
   * @throws AppError no-checkpoint when they are not cached and there is no network; what decoding throws
   */
  async get(image: PrelabelImage): Promise<ImageFeatures> {
    const cached = await this.cached(image);
    if (cached !== null) return cached;
    const [passes] = await this.#look([{ image, picture: await this.#picture(image) }]);
    return keepFeatures(this.file(image), passes);
  }

  /**
   * Makes sure every image has its features on disk, in batches of equal input size. The next images are decoded, and
   * features are written, while the network computes.
   * Yields each image once: with `error` when its file could not be read (the others go on).
   */
  async *ensure(
    images: readonly PrelabelImage[],
    signal?: AbortSignal,
  ): AsyncGenerator<{ image: PrelabelImage; computed: boolean; error?: unknown }> {
    const waiting = new Map<string, Decoded[]>();
    /** Batches that the network was given, the oldest first. */
    const given: { readonly images: readonly PrelabelImage[]; readonly made: Promise<unknown> }[] = [];
    // Beside this thread: one that computes, one that is next, and one that is written.
    const atOnce = this.backbone?.pictureFeatures ? 3 : 1;
    const threads = atOnce > 1 ? keepThreads(images.length) : null;
    const give = (batch: readonly Decoded[]): void => {
      const made = this.#look(batch).then(async (looks) => {
        const kept = looks.map((passes, i) => [this.file(batch[i].image), passes] as const);
        if (threads) await Promise.all(kept.map((one) => threads.keep(...one)));
        else for (const one of kept) await keepFeatures(...one);
      });
      made.catch(() => {}); // told in its turn
      given.push({ images: batch.map(({ image }) => image), made });
    };
    const oldest = async function* (): AsyncGenerator<{ image: PrelabelImage; computed: boolean }> {
      const { images: done, made } = given.shift()!;
      await made;
      for (const image of done) yield { image, computed: true };
    };
    let decoded = 0;
    try {
      for await (const { image, ...found } of this.#decode(images)) {
        signal?.throwIfAborted();
        if (!('picture' in found)) {
          yield { image, computed: false, ...found };
          continue;
        }
        const { width, height } = found.picture;
        const key = `${height}x${width}`;
        const batch = waiting.get(key) ?? [];
        batch.push({ image, picture: found.picture });
        waiting.set(key, batch);
        decoded++;
        const full = batch.length >= this.#batch(image);
        // Of many sizes no batch may ever fill: the fullest goes then.
        if (!full && decoded <= mostDecoded) continue;
        const [ready, pictures] = full ? ([key, batch] as const) : fullest(waiting);
        waiting.delete(ready);
        decoded -= pictures.length;
        give(pictures);
        if (given.length >= atOnce) yield* oldest();
      }
      for (const batch of waiting.values()) {
        signal?.throwIfAborted();
        give(batch);
        if (given.length >= atOnce) yield* oldest();
      }
      while (given.length > 0) yield* oldest();
    } finally {
      // Whoever ends it early may take the network away: nothing is on its way then.
      await Promise.allSettled(given.map(({ made }) => made));
      await threads?.end();
    }
  }

  /** Images of a batch. */
  #batch(image: PrelabelImage): number {
    const { batch, passes } = this.options;
    const { pictureFeatures, tokensAtOnce } = this.backbone ?? {};
    if (!pictureFeatures || tokensAtOnce === undefined) return batch;
    const { width, height } = this.inputSize(image);
    const fill = Math.floor(tokensAtOnce / (((width * height) / this.#patchSize ** 2) * passes));
    return Math.max(batch, Math.min(mostDecoded, fill));
  }

  /** Each image with what is to be done: nothing, its pixels, or an error. In their order, looked for ahead. */
  async *#decode(images: readonly PrelabelImage[]): AsyncGenerator<Looked> {
    const look = async (image: PrelabelImage): Promise<Looked> => {
      try {
        return (await this.cached(image)) === null ? { image, picture: await this.#picture(image) } : { image };
      } catch (error) {
        return { image, error };
      }
    };
    const ahead: Promise<Looked>[] = [];
    let next = 0;
    for (const image of images) {
      while (next < images.length && ahead.length < Math.min(mostDecoded, 2 * this.#batch(image))) ahead.push(look(images[next++]));
      yield await ahead.shift()!;
    }
  }

  #picture(image: PrelabelImage): Promise<RgbImage> {
    return readRgb(path.join(this.#imageRoot, image.path), { page: image.page, size: this.inputSize(image) });
  }

  /** What the network gives for images of one input size: the passes of each. */
  async #look(batch: readonly Decoded[]): Promise<PatchFeatures[][]> {
    const { width, height } = batch[0].picture;
    const pictures = batch.map(({ picture }) => picture);
    const side = this.#patchSize;
    const shifts = gridShifts.slice(0, this.options.passes).map(([x, y]) => [side * x, side * y] as const);
    const backbone = this.#network();
    const inputs = (): Float32Array[] =>
      pictures.flatMap((picture) => {
        const input = normalizeImage(picture);
        return shifts.map(([x, y]) => shiftInput(input, height, width, x, y));
      });
    const made = await (backbone.pictureFeatures?.(pictures, shifts) ?? this.#features(inputs(), height, width));
    const views = imagesOf(made, backbone.config.embedDim); // [images * passes]
    return batch.map((_, i) => views.slice(i * shifts.length, (i + 1) * shifts.length));
  }

  #features(inputs: readonly Float32Array[], height: number, width: number): Promise<NetworkFeatures> {
    const stacked = new Float32Array(inputs.length * 3 * height * width);
    inputs.forEach((input, i) => stacked.set(input, i * 3 * height * width));
    return this.#network().features(stacked, inputs.length, height, width);
  }

  /** Features of ready inputs ([3, height, width] each), outliers repaired, rounded as the cache rounds. */
  async forward(inputs: readonly Float32Array[], height: number, width: number): Promise<PatchFeatures[]> {
    return imagesOf(await this.#features(inputs, height, width), this.#network().config.embedDim).map(finished);
  }

  #network(): FeatureBackbone {
    if (this.backbone !== null) return this.backbone;
    throw new AppError(
      'no-checkpoint',
      'The features of these images are not stored, and no network was given to compute them.',
      'Run the proposals again with a checkpoint.',
    );
  }
}

interface Decoded {
  readonly image: PrelabelImage;
  /** Of the network's input size. */
  readonly picture: RgbImage;
}

type Looked = Decoded | { readonly image: PrelabelImage; readonly error?: unknown };

/** Most images that are decoded ahead, and that wait for others of their input size. */
const mostDecoded = 64;

/** The largest batch with its key, of equals the one that began first. */
function fullest(waiting: ReadonlyMap<string, Decoded[]>): readonly [string, Decoded[]] {
  return [...waiting].reduce((a, b) => (b[1].length > a[1].length ? b : a));
}
