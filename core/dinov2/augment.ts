/**
 * Multi-crop augmentation (spec 2): every crop is first drawn as plain numbers from (seed, step, sample, crop), then
 * cut and coloured. The same numbers give the same pixels on any machine. The operations themselves are in `pixels.ts`.
 */
import { Random } from '../random.ts';
import { IMAGE_MEAN, IMAGE_STD, STREAM, type CropConfig, type RunConfig } from './config.ts';
import { roundHalfEven } from './masking.ts';
import {
  adjustBrightness,
  adjustContrast,
  adjustHue,
  adjustSaturation,
  gaussianBlur,
  resizeCrop,
  solarize,
  toGrayscale,
  type CropBox,
  type PixelImage,
} from './pixels.ts';

export type CropKind = 'global1' | 'global2' | 'local';

/** One crop as numbers. */
export interface CropDraw {
  readonly box: CropBox;
  readonly flip: boolean;
  /** `order` holds 0 brightness, 1 contrast, 2 saturation, 3 hue; null leaves the colours alone. */
  readonly jitter: {
    readonly order: Int32Array;
    readonly brightness: number;
    readonly contrast: number;
    readonly saturation: number;
    readonly hue: number;
  } | null;
  readonly grayscale: boolean;
  /** Pixels; 0 is no blur. */
  readonly blurSigma: number;
  readonly solarize: boolean;
}

/** Draws a crop of an image of that size. */
export function drawCrop(random: Random, config: CropConfig, kind: CropKind, width: number, height: number): CropDraw {
  const box = drawBox(random, width, height, kind === 'local' ? config.localScale : config.globalScale, config.aspect);
  const flip = random.chance(config.flipProbability);
  const { probability, brightness, contrast, saturation, hue } = config.jitter;
  const around = (amount: number): number => random.uniform(1 - amount, 1 + amount);
  const jitter = random.chance(probability)
    ? {
        order: random.permutation(4),
        brightness: around(brightness),
        contrast: around(contrast),
        saturation: around(saturation),
        hue: random.uniform(-hue, hue),
      }
    : null;
  const grayscale = random.chance(config.grayscaleProbability);
  const blurred = random.chance(config.blurProbability[kind === 'global1' ? 0 : kind === 'global2' ? 1 : 2]);
  const blurSigma = blurred ? random.uniform(...config.blurSigma) : 0;
  return { box, flip, jitter, grayscale, blurSigma, solarize: kind === 'global2' && random.chance(config.solarizeProbability) };
}

/** torchvision's RandomResizedCrop: ten attempts, then the largest centred box of an allowed aspect. */
function drawBox(
  random: Random,
  width: number,
  height: number,
  scale: readonly [number, number],
  aspect: readonly [number, number],
): CropBox {
  for (let attempt = 0; attempt < 10; attempt++) {
    const area = width * height * random.uniform(...scale);
    const ratio = Math.exp(random.uniform(Math.log(aspect[0]), Math.log(aspect[1])));
    const w = roundHalfEven(Math.sqrt(area * ratio));
    const h = roundHalfEven(Math.sqrt(area / ratio));
    if (w < 1 || h < 1 || w > width || h > height) continue;
    return { top: random.int(height - h + 1), left: random.int(width - w + 1), width: w, height: h };
  }
  const ratio = Math.min(aspect[1], Math.max(aspect[0], width / height));
  const w = Math.max(1, Math.min(width, roundHalfEven(height * ratio)));
  const h = Math.max(1, Math.min(height, roundHalfEven(width / ratio)));
  return { top: Math.floor((height - h) / 2), left: Math.floor((width - w) / 2), width: w, height: h };
}

/** Pixels of a drawn crop, [size, size, 3]. */
export function applyCrop(image: PixelImage, draw: CropDraw, size: number, pixels = new Uint8Array(size * size * 3)): Uint8Array {
  resizeCrop(image, draw.box, size, draw.flip, pixels);
  if (draw.jitter) {
    const { order, brightness, contrast, saturation, hue } = draw.jitter;
    for (const operation of order) {
      if (operation === 0) adjustBrightness(pixels, brightness);
      else if (operation === 1) adjustContrast(pixels, contrast);
      else if (operation === 2) adjustSaturation(pixels, saturation);
      else adjustHue(pixels, hue);
    }
  }
  if (draw.grayscale) toGrayscale(pixels);
  if (draw.blurSigma > 0) gaussianBlur(pixels, size, size, draw.blurSigma);
  if (draw.solarize) solarize(pixels);
  return pixels;
}

/** (value / 255 - mean) / std of every byte, by channel. */
const NORMALISED = [0, 1, 2].map((c) => Float32Array.from({ length: 256 }, (_, v) => (v / 255 - IMAGE_MEAN[c]!) / IMAGE_STD[c]!));

/** [H,W,3] bytes to [3,H,W] normalised values, written from `offset` on. */
export function normalisePixels(pixels: Uint8Array, out: Float32Array, offset = 0): void {
  const plane = pixels.length / 3;
  for (let c = 0; c < 3; c++) {
    const values = NORMALISED[c]!;
    let at = c;
    for (let i = offset + c * plane; i < offset + (c + 1) * plane; i++, at += 3) out[i] = values[pixels[at]!]!;
  }
}

/** Normalised [3,H,W] input of an image as it is (ImageNet mean and standard deviation). */
export function normalizeImage(image: PixelImage): Float32Array {
  const out = new Float32Array(image.data.length);
  normalisePixels(image.data, out);
  return out;
}

/** All crops of a step's images, crop-major: globals [2B,3,G,G], locals [L*B,3,l,l]. */
export function drawCrops(
  config: Pick<RunConfig, 'crops' | 'seed'>,
  step: number,
  images: readonly PixelImage[],
): { globalCrops: Float32Array; localCrops: Float32Array } {
  const { globalSize, localSize, localCount } = config.crops;
  const B = images.length;
  const globalCrops = new Float32Array(2 * B * 3 * globalSize * globalSize);
  const localCrops = new Float32Array(localCount * B * 3 * localSize * localSize);
  const globalPixels = new Uint8Array(globalSize * globalSize * 3);
  const localPixels = new Uint8Array(localSize * localSize * 3);
  for (const [sample, image] of images.entries()) {
    for (let crop = 0; crop < 2 + localCount; crop++) {
      const random = new Random(config.seed, STREAM.crops, step, sample, crop);
      const kind = crop === 0 ? 'global1' : crop === 1 ? 'global2' : 'local';
      const draw = drawCrop(random, config.crops, kind, image.width, image.height);
      if (kind === 'local') {
        applyCrop(image, draw, localSize, localPixels);
        normalisePixels(localPixels, localCrops, ((crop - 2) * B + sample) * localPixels.length);
      } else {
        applyCrop(image, draw, globalSize, globalPixels);
        normalisePixels(globalPixels, globalCrops, (crop * B + sample) * globalPixels.length);
      }
    }
  }
  return { globalCrops, localCrops };
}
