/**
 * Multi-crop augmentation (spec 2): every crop is first drawn as plain numbers from (seed, step, sample, crop), then
 * cut and coloured (`applyCrop` of core/nn). The same numbers give the same pixels on any machine.
 */
import { applyCrop, type CropBox, type CropDraw, type CropGroup, type Executor, type PixelImage, type Tensor } from '../nn/index.ts';
import { Random } from '../random.ts';
import { IMAGE_MEAN, IMAGE_STD, STREAM, type CropConfig, type RunConfig } from './config.ts';
import { roundHalfEven } from './masking.ts';

export type { CropDraw };

export type CropKind = 'global1' | 'global2' | 'local';

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

/** The crops of a step's images as numbers, crop-major: 2B globals, L*B locals. */
export interface DrawnCrops {
  readonly pictures: readonly PixelImage[];
  readonly global: CropGroup;
  readonly local: CropGroup;
}

/** Draws all crops of a step's images. */
export function drawCrops(config: Pick<RunConfig, 'crops' | 'seed'>, step: number, pictures: readonly PixelImage[]): DrawnCrops {
  const { globalSize, localSize, localCount } = config.crops;
  const draw = (crop: number): CropGroup['crops'] =>
    pictures.map(({ width, height }, picture) => {
      const random = new Random(config.seed, STREAM.crops, step, picture, crop);
      const kind = crop === 0 ? 'global1' : crop === 1 ? 'global2' : 'local';
      return { picture, draw: drawCrop(random, config.crops, kind, width, height) };
    });
  const locals = Array.from({ length: localCount }, (_, i) => draw(2 + i));
  return {
    pictures,
    global: { size: globalSize, crops: [0, 1].flatMap(draw) },
    local: { size: localSize, crops: locals.flat() },
  };
}

/** Normalised pixels of drawn crops, [n,3,size,size]. */
export function applyCrops(pictures: readonly PixelImage[], { size, crops }: CropGroup): Float32Array {
  const pixels = new Uint8Array(size * size * 3);
  const out = new Float32Array(crops.length * pixels.length);
  for (const [i, { picture, draw }] of crops.entries()) {
    applyCrop(pictures[picture]!, draw, size, pixels);
    normalisePixels(pixels, out, i * pixels.length);
  }
  return out;
}

/** [3,256]: the normalised value of each byte of each channel. */
export const normalisedTable = Float32Array.from(NORMALISED.flatMap((values) => [...values]));

/** The crops as tensors, made where the executor computes if it can, else here; local is null without local crops. */
export function makeCrops(x: Executor, { pictures, global, local }: DrawnCrops): { global: Tensor; local: Tensor | null } {
  const groups = local.crops.length > 0 ? [global, local] : [global];
  const [first, second] = x.augment
    ? x.augment(pictures, groups, normalisedTable)
    : groups.map((group) => x.tensor(applyCrops(pictures, group), [group.crops.length, 3, group.size, group.size]));
  return { global: first!, local: second ?? null };
}
