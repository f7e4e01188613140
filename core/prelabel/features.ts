/**
 * Patch features of the images, computed once for each network and kept on disk. Decoding is the images room's, the network
 * the backbone's; what the features mean for the set is statistics.ts.
 */
import { createHash } from 'node:crypto';
import path from 'node:path';
import { AppError } from '../contract/index.ts';
import { normalizeImage } from '../dinov2/index.ts';
import { readRgb, type RgbImage } from '../images/index.ts';
import { readCache, roundToHalf, writeCache } from './cachefile.ts';
import { gridShifts } from './refine.ts';

/** Tokens of one image after the network's final norm. */
export interface PatchFeatures {
  readonly gridHeight: number;
  readonly gridWidth: number;
  readonly dim: number;
  /** [gridHeight * gridWidth, dim], row-major patches. */
  readonly patches: Float32Array;
  /** [dim] */
  readonly cls: Float32Array;
}

/** With the passes that place edges inside a patch (prelabel methods: half-patch shifts). */
export interface ImageFeatures extends PatchFeatures {
  /**
   * Patches of the same grid laid half a patch right, down, and both (`gridShifts` of refine.ts), [gridHeight * gridWidth,
   * dim] each; empty when one pass was made.
   */
  readonly shifted: readonly Float32Array[];
}

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

/** What a network makes of a batch of N images. */
interface NetworkFeatures {
  /** [N, gridHeight * gridWidth, dim] */
  readonly patches: Float32Array;
  /** [N, dim] */
  readonly cls: Float32Array;
  readonly gridHeight: number;
  readonly gridWidth: number;
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

const version = 1;

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
 * Replaces tokens of abnormal norm by the mean of their normal 8-neighbours (high-norm tokens of ViTs without registers,
 * Darcet et al. 2024). Abnormal: norm above median + 6 * 1.4826 * MAD. In place.
 * @returns number of tokens replaced
 */
export function repairOutliers(patches: Float32Array, gridWidth: number, gridHeight: number, dim: number): number {
  const n = gridWidth * gridHeight;
  const norms = new Float64Array(n);
  for (let i = 0; i < n; i++) {
    let sum = 0;
    for (let k = 0; k < dim; k++) sum += patches[i * dim + k] ** 2;
    norms[i] = Math.sqrt(sum);
  }
  const median = middle(norms);
  const deviation = middle(norms.map((r) => Math.abs(r - median)));
  const limit = median + 6 * 1.4826 * deviation;
  // With no spread at all every rounding error would be an outlier.
  if (deviation <= 1e-6 * median) return 0;
  const bad = norms.map((r) => (r > limit ? 1 : 0));
  const source = patches.slice();
  let replaced = 0;
  for (let i = 0; i < n; i++) {
    if (bad[i] === 0) continue;
    const x = i % gridWidth;
    const y = (i / gridWidth) | 0;
    const good: number[] = [];
    for (let dy = -1; dy <= 1; dy++) {
      for (let dx = -1; dx <= 1; dx++) {
        const nx = x + dx;
        const ny = y + dy;
        if (nx < 0 || ny < 0 || nx >= gridWidth || ny >= gridHeight) continue;
        if (bad[ny * gridWidth + nx] === 0) good.push(ny * gridWidth + nx);
      }
    }
    if (good.length === 0) continue;
    for (let k = 0; k < dim; k++) {
      let sum = 0;
      for (const j of good) sum += source[j * dim + k];
      patches[i * dim + k] = sum / good.length;
    }
    replaced++;
  }
  return replaced;
}

function middle(values: Float64Array): number {
  const sorted = values.slice().sort();
  const half = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
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
  async cached(image: PrelabelImage): Promise<ImageFeatures | null> {
    const content = await readCache(this.file(image), 'features', version);
    if (content === null) return null;
    const { gridHeight, gridWidth, dim } = content.facts as { gridHeight: number; gridWidth: number; dim: number };
    const patches = content.arrays.get('patches');
    const cls = content.arrays.get('cls');
    if (patches === undefined || cls === undefined || patches.length !== gridHeight * gridWidth * dim || cls.length !== dim) return null;
    if (this.backbone !== null && dim !== this.backbone.config.embedDim) return null;
    const shifted: Float32Array[] = [];
    for (let s = 1; s < this.options.passes; s++) {
      const rows = content.arrays.get(`shifted${s}`);
      if (rows?.length !== patches.length) return null;
      shifted.push(rows);
    }
    return { gridHeight, gridWidth, dim, patches, cls, shifted };
  }

  /**
   * Features of one image.
   * @throws AppError no-checkpoint when they are not cached and there is no network; what decoding throws
   */
  async get(image: PrelabelImage): Promise<ImageFeatures> {
    const cached = await this.cached(image);
    if (cached !== null) return cached;
    const [made] = await this.#compute([{ image, picture: await this.#picture(image) }]);
    return made;
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
    const atOnce = this.backbone?.pictureFeatures ? 2 : 1;
    const give = (batch: readonly Decoded[]): void => {
      const made = this.#compute(batch);
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
    }
  }

  /** Images of a batch. */
  #batch(image: PrelabelImage): number {
    const { batch, passes } = this.options;
    const { pictureFeatures, tokensAtOnce } = this.backbone ?? {};
    if (!pictureFeatures || tokensAtOnce === undefined) return batch;
    const { width, height } = this.inputSize(image);
    return Math.max(batch, Math.floor(tokensAtOnce / (((width * height) / this.#patchSize ** 2) * passes)));
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
      while (next < images.length && ahead.length < 2 * this.#batch(image)) ahead.push(look(images[next++]));
      yield await ahead.shift()!;
    }
  }

  #picture(image: PrelabelImage): Promise<RgbImage> {
    return readRgb(path.join(this.#imageRoot, image.path), { page: image.page, size: this.inputSize(image) });
  }

  /** Runs the network on images of one input size and caches the result, as it will be read back. */
  async #compute(batch: readonly Decoded[]): Promise<ImageFeatures[]> {
    const { width, height } = batch[0].picture;
    const pictures = batch.map(({ picture }) => picture);
    const side = this.#patchSize;
    const shifts = gridShifts.slice(0, this.options.passes).map(([x, y]) => [side * x, side * y] as const);
    const backbone = this.#network();
    // [images * passes]
    const passes = backbone.pictureFeatures
      ? this.#finished(await backbone.pictureFeatures(pictures, shifts), pictures.length * shifts.length)
      : await this.forward(
          pictures.flatMap((picture) => {
            const input = normalizeImage(picture);
            return shifts.map(([x, y]) => shiftInput(input, height, width, x, y));
          }),
          height,
          width,
        );
    const all = batch.map((_, i): ImageFeatures => {
      const [first, ...rest] = passes.slice(i * shifts.length, (i + 1) * shifts.length);
      return { ...first, shifted: rest.map(({ patches }) => patches) };
    });
    for (const [i, { gridHeight, gridWidth, dim, patches, cls, shifted }] of all.entries()) {
      await writeCache(this.file(batch[i].image), 'features', version, { gridHeight, gridWidth, dim }, [
        { name: 'patches', type: 'f16', values: patches },
        { name: 'cls', type: 'f16', values: cls },
        ...shifted.map((values, s) => ({ name: `shifted${s + 1}`, type: 'f16' as const, values })),
      ]);
    }
    return all;
  }

  /** Features of ready inputs ([3, height, width] each), outliers repaired, rounded as the cache rounds. */
  async forward(inputs: readonly Float32Array[], height: number, width: number): Promise<PatchFeatures[]> {
    const stacked = new Float32Array(inputs.length * 3 * height * width);
    inputs.forEach((input, i) => stacked.set(input, i * 3 * height * width));
    return this.#finished(await this.#network().features(stacked, inputs.length, height, width), inputs.length);
  }

  #network(): FeatureBackbone {
    if (this.backbone !== null) return this.backbone;
    throw new AppError(
      'no-checkpoint',
      'The features of these images are not stored, and no network was given to compute them.',
      'Run the proposals again with a checkpoint.',
    );
  }

  /** A network's features by image, outliers repaired, rounded. */
  #finished({ patches, cls, gridHeight, gridWidth }: NetworkFeatures, n: number): PatchFeatures[] {
    const dim = this.#network().config.embedDim;
    const size = gridHeight * gridWidth * dim;
    return Array.from({ length: n }, (_, i) => {
      const own = patches.slice(i * size, (i + 1) * size);
      if (!allFinite(own)) {
        throw new AppError(
          'not-finite',
          'The network gave features that are not numbers.',
          'Choose an earlier checkpoint, or train again with a lower learning rate.',
        );
      }
      repairOutliers(own, gridWidth, gridHeight, dim);
      return { gridHeight, gridWidth, dim, patches: roundToHalf(own), cls: roundToHalf(cls.slice(i * dim, (i + 1) * dim)) };
    });
  }
}

function allFinite(values: Float32Array): boolean {
  // 0 times what is not finite is not a number.
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i] * 0;
  return sum === 0;
}

interface Decoded {
  readonly image: PrelabelImage;
  /** Of the network's input size. */
  readonly picture: RgbImage;
}

type Looked = Decoded | { readonly image: PrelabelImage; readonly error?: unknown };

/** Most images that wait for others of their input size. */
const mostDecoded = 64;

/** The largest batch with its key, of equals the one that began first. */
function fullest(waiting: ReadonlyMap<string, Decoded[]>): readonly [string, Decoded[]] {
  return [...waiting].reduce((a, b) => (b[1].length > a[1].length ? b : a));
}
