/**
 * What the monitors look at: some images of the run, two overlapping crops of each, the same at every checkpoint. Drawn
 * from the run's seed; cut once and kept.
 */
import { AppError, type ScannedImage } from '../contract/index.ts';
import type { PixelImage, RunConfig } from '../dinov2/index.ts';
import type { CropPlace } from '../evaluate/index.ts';
import { Random } from '../random.ts';

/** Names this use among the streams of a run's seed. */
const STREAM = 0x40b5;

/**
 * Share of the training's own arithmetic that the monitors may add. Counted in tokens through the network, not in seconds:
 * so the sample is the same on every machine, and it grows with the steps between checkpoints.
 */
const SHARE_OF_TRAINING = 0.04;
/** Below this a share of images is known to a tenth at best; above, the memory of the crops and plain loops over pairs of images would tell. */
const FEWEST_IMAGES = 64;
const MOST_IMAGES = 1024;
/** Of the crops kept. */
const MOST_BYTES = 256 * 2 ** 20;

/** Of two crops, at least this share of the smaller lies in the other. */
const LEAST_OVERLAP = 0.3;
/** Decoded side by side. */
const AT_ONCE = 8;

export interface Views {
  /** Side of a crop in pixels, the run's global crop. */
  readonly size: number;
  /** Of each image both crops, [size, size, 3], and where they lie. */
  readonly pairs: readonly (readonly [View, View])[];
}

export interface View {
  readonly place: CropPlace;
  readonly pixels: Uint8Array;
}

/** How many images of the run are looked at. */
export function sampleSize(config: RunConfig, images: number): number {
  const { globalSize, localSize, localCount } = config.crops;
  const tokens = (size: number): number => (size / config.model.patchSize) ** 2 + 1 + config.model.registers;
  const seen = 2 * tokens(globalSize);
  // The teacher sees the global crops once; forward and backward of the student count three times.
  const trained = 4 * seen + 3 * localCount * tokens(localSize);
  const trainedOn = config.checkpointEvery * config.batch * (config.accumulate ?? 1);
  const affordable = Math.round((SHARE_OF_TRAINING * trainedOn * trained) / seen);
  const held = Math.floor(MOST_BYTES / (2 * 3 * globalSize ** 2));
  return Math.min(images, held, MOST_IMAGES, Math.max(FEWEST_IMAGES, affordable));
}

/** Reads one image as the training reads it. @throws AppError when it cannot be read */
export type OpenImage = (image: ScannedImage) => Promise<PixelImage>;

/**
 * Cuts the crops. They are plain pixels, without jitter, blur or flip: what is measured is what proposals are made from.
 * Images that cannot be read are left out; the training names them.
 */
export async function cutViews(config: RunConfig, images: readonly ScannedImage[], open: OpenImage): Promise<Views> {
  const { applyCrop } = await import('../dinov2/index.ts');
  const size = config.crops.globalSize;
  const chosen = new Random(config.seed, STREAM).permutation(images.length).subarray(0, sampleSize(config, images.length));
  const pairs: [View, View][] = [];
  for (let from = 0; from < chosen.length; from += AT_ONCE) {
    const opened = await Promise.all(
      Array.from(chosen.subarray(from, from + AT_ONCE), async (index) => ({ index, image: await readable(open, images[index]) })),
    );
    for (const { index, image } of opened) {
      if (image === null) continue;
      const places = await drawPlaces(new Random(config.seed, STREAM, index), config, image.width, image.height);
      const cut = (place: CropPlace): View => {
        const draw = { box: place, flip: false, jitter: null, grayscale: false, blurSigma: 0, solarize: false };
        return { place, pixels: applyCrop(image, draw, size) };
      };
      pairs.push([cut(places[0]), cut(places[1])]);
    }
  }
  return { size, pairs };
}

async function readable(open: OpenImage, image: ScannedImage): Promise<PixelImage | null> {
  try {
    return await open(image);
  } catch (error) {
    if (error instanceof AppError) return null;
    throw error;
  }
}

/** Two crops as the global crops are drawn, the second again until they overlap enough; at last the whole image. */
async function drawPlaces(random: Random, config: RunConfig, width: number, height: number): Promise<[CropPlace, CropPlace]> {
  const { drawCrop } = await import('../dinov2/index.ts');
  const first = drawCrop(random, config.crops, 'global1', width, height).box;
  for (let attempt = 0; attempt < 20; attempt++) {
    const second = drawCrop(random, config.crops, 'global1', width, height).box;
    if (overlap(first, second) >= LEAST_OVERLAP * Math.min(first.width * first.height, second.width * second.height))
      return [first, second];
  }
  return [first, { left: 0, top: 0, width, height }];
}

function overlap(a: CropPlace, b: CropPlace): number {
  const across = Math.min(a.left + a.width, b.left + b.width) - Math.max(a.left, b.left);
  const down = Math.min(a.top + a.height, b.top + b.height) - Math.max(a.top, b.top);
  return Math.max(0, across) * Math.max(0, down);
}
