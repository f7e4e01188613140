/** Recorded crops and single colour operations of Pillow and torchvision, repeated on the same pixels. */
import * as z from 'zod';
import { applyCrop } from '../../core/nn/index.ts';
import type { CropDraw, PixelImage } from '../../core/nn/index.ts';
import type { SafeTensorFile } from '../../core/dinov2/safetensors.ts';
import { tensorOf, type Row } from './rows.ts';

/** The json beside the tensors: crop `K.cropI` is that box of `K.image`, resized to size x size. */
export const recordedCrops = z.array(
  z.object({
    name: z.string().regex(/^.+\.crop\d+$/),
    top: z.int(),
    left: z.int(),
    height: z.int().min(1),
    width: z.int().min(1),
    size: z.int().min(1),
  }),
);

export type RecordedCrop = z.infer<typeof recordedCrops>[number];

/** Grey levels on average. */
const MEAN_DIFFERENCE = 1;
/** Share of pixels that may be further off than FAR in a channel; hue goes through 8-bit steps that round apart. */
const FAR = 3;
const FAR_SHARE = 0.001;
const FAR_SHARE_HUE = 0.01;

/** What leaves a picture as it is. */
const NOTHING = { flip: false, jitter: null, grayscale: false, blurSigma: 0, solarize: false };

type Jitter = NonNullable<CropDraw['jitter']>;

const jitterOf = (operation: number, amount: Partial<Jitter>): Pick<CropDraw, 'jitter'> => ({
  jitter: { order: Int32Array.of(operation), brightness: 1, contrast: 1, saturation: 1, hue: 0, ...amount },
});

/** Single operations by their recorded names. */
const OPERATIONS: Readonly<Record<string, (amount: number) => Partial<CropDraw>>> = {
  brightness: (brightness) => jitterOf(0, { brightness }),
  contrast: (contrast) => jitterOf(1, { contrast }),
  saturation: (saturation) => jitterOf(2, { saturation }),
  hue: (hue) => jitterOf(3, { hue }),
  blur: (sigma) => ({ blurSigma: sigma }),
  grayscale: () => ({ grayscale: true }),
  solarize: (threshold) => {
    if (threshold !== 128) throw new Error(`it solarizes from ${threshold}; only 128 is known here`);
    return { solarize: true };
  },
  hflip: () => ({ flip: true }),
};

/** A recorded result and the crop that should give it. */
export interface RecordedCase {
  readonly name: string;
  readonly image: PixelImage;
  readonly draw: CropDraw;
  readonly size: number;
  readonly farShare: number;
}

const pixelsOf = (recorded: SafeTensorFile, name: string): PixelImage => {
  const { shape, values } = tensorOf(recorded, name);
  return { height: shape[0]!, width: shape[1]!, data: values as Uint8Array };
};

/**
 * @param recorded u8 [H,W,3]: `K.image`, `K.cropI`, `K.base`, and `K.base.OPERATION` followed by its amount
 * @throws Error naming what is missing or unknown
 */
export function recordedCases(recorded: SafeTensorFile, crops: readonly RecordedCrop[]): RecordedCase[] {
  const cases: RecordedCase[] = [];
  for (const { name, size, ...box } of crops) {
    const image = pixelsOf(recorded, `${name.slice(0, name.lastIndexOf('.'))}.image`);
    if (box.top < 0 || box.left < 0 || box.top + box.height > image.height || box.left + box.width > image.width) {
      throw new Error(`the box of ${name} is not inside the image`);
    }
    cases.push({ name, image, size, draw: { ...NOTHING, box }, farShare: FAR_SHARE });
  }
  for (const name of recorded.tensors.keys()) {
    const operation = /^(.+\.base)\.([a-z]+)(-?[\d.]+)?$/.exec(name);
    if (operation) {
      const [, base, kind, amount] = operation as unknown as [string, string, string, string | undefined];
      const draw = OPERATIONS[kind];
      if (!draw) throw new Error(`its operation ${kind} is not known`);
      const image = pixelsOf(recorded, base);
      const { width, height } = image;
      if (width !== height) throw new Error(`${base} is ${width} x ${height} pixels; operations are on squares`);
      // A box of the crop's own size is not resized: cubic convolution gives each pixel the weight 1.
      const box = { top: 0, left: 0, width, height };
      const farShare = kind === 'hue' ? FAR_SHARE_HUE : FAR_SHARE;
      cases.push({ name, image, size: width, draw: { ...NOTHING, box, ...draw(Number(amount)) }, farShare });
    } else if (!/\.(image|base)$/.test(name) && !crops.some((crop) => crop.name === name)) {
      throw new Error(`nothing says what its tensor ${name} is`);
    }
  }
  return cases;
}

/** @param made [size,size,3] of each case */
export function compareCrops(file: string, recorded: SafeTensorFile, cases: readonly RecordedCase[], made: readonly Uint8Array[]): Row[] {
  return cases.flatMap(({ name, farShare }, i) => {
    const { mean, far } = differenceOf(made[i]!, pixelsOf(recorded, name).data);
    return [
      { file, what: 'mean difference', which: name, error: mean, tolerance: MEAN_DIFFERENCE },
      { file, what: `pixels further off than ${FAR}`, which: name, error: far, tolerance: farShare },
    ];
  });
}

/**
 * As the processor makes them.
 * @throws Error naming what is missing or unknown
 */
export function checkAugment(file: string, recorded: SafeTensorFile, crops: readonly RecordedCrop[]): Row[] {
  const cases = recordedCases(recorded, crops);
  const made = cases.map(({ image, draw, size }) => applyCrop(image, draw, size));
  return compareCrops(file, recorded, cases, made);
}

/** Mean absolute difference in grey levels, and the share of pixels further off than FAR in any channel. */
function differenceOf(actual: Uint8Array, expected: Uint8Array): { mean: number; far: number } {
  if (actual.length !== expected.length) throw new Error(`${actual.length} bytes where ${expected.length} are expected`);
  let sum = 0;
  let far = 0;
  for (let i = 0; i < actual.length; i += 3) {
    let worst = 0;
    for (let c = 0; c < 3; c++) {
      const difference = Math.abs(actual[i + c]! - expected[i + c]!);
      sum += difference;
      worst = Math.max(worst, difference);
    }
    if (worst > FAR) far++;
  }
  return { mean: sum / actual.length, far: far / (actual.length / 3) };
}
