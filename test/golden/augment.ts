/** Recorded crops and single colour operations of Pillow and torchvision, repeated on the same pixels. */
import * as z from 'zod';
import {
  adjustBrightness,
  adjustContrast,
  adjustHue,
  adjustSaturation,
  gaussianBlur,
  resizeCrop,
  solarize,
  toGrayscale,
  type PixelImage,
} from '../../core/dinov2/pixels.ts';
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

type Operation = (image: PixelImage, amount: number) => void;

/** Those that work in place, by their recorded names. */
const OPERATIONS: Readonly<Record<string, Operation>> = {
  brightness: ({ data }, factor) => adjustBrightness(data, factor),
  contrast: ({ data }, factor) => adjustContrast(data, factor),
  saturation: ({ data }, factor) => adjustSaturation(data, factor),
  hue: ({ data }, shift) => adjustHue(data, shift),
  blur: ({ data, width, height }, sigma) => gaussianBlur(data, width, height, sigma),
  grayscale: ({ data }) => toGrayscale(data),
  solarize: ({ data }, threshold) => {
    if (threshold !== 128) throw new Error(`it solarizes from ${threshold}; only 128 is known here`);
    solarize(data);
  },
  hflip: ({ data, width, height }) => {
    if (width !== height) throw new Error(`it mirrors ${width} x ${height} pixels; here only squares are mirrored`);
    resizeCrop({ data: data.slice(), width, height }, { top: 0, left: 0, width, height }, width, true, data);
  },
};

/**
 * @param recorded u8 [H,W,3]: `K.image`, `K.cropI`, `K.base`, and `K.base.OPERATION` followed by its amount
 * @throws Error naming what is missing or unknown
 */
export function checkAugment(file: string, recorded: SafeTensorFile, crops: readonly RecordedCrop[]): Row[] {
  const pixels = (name: string): PixelImage => {
    const { shape, values } = tensorOf(recorded, name);
    return { height: shape[0]!, width: shape[1]!, data: values as Uint8Array };
  };
  const rows: Row[] = [];
  const compare = (name: string, actual: Uint8Array, farShare: number): void => {
    const { mean, far } = differenceOf(actual, pixels(name).data);
    rows.push({ file, what: 'mean difference', which: name, error: mean, tolerance: MEAN_DIFFERENCE });
    rows.push({ file, what: `pixels further off than ${FAR}`, which: name, error: far, tolerance: farShare });
  };

  for (const { name, size, ...box } of crops) {
    const image = pixels(`${name.slice(0, name.lastIndexOf('.'))}.image`);
    if (box.top < 0 || box.left < 0 || box.top + box.height > image.height || box.left + box.width > image.width) {
      throw new Error(`the box of ${name} is not inside the image`);
    }
    const out = new Uint8Array(size * size * 3);
    resizeCrop(image, box, size, false, out);
    compare(name, out, FAR_SHARE);
  }
  for (const name of recorded.tensors.keys()) {
    const operation = /^(.+\.base)\.([a-z]+)(-?[\d.]+)?$/.exec(name);
    if (operation) {
      const [, base, kind, amount] = operation as unknown as [string, string, string, string | undefined];
      const apply = OPERATIONS[kind];
      if (!apply) throw new Error(`its operation ${kind} is not known`);
      const image = pixels(base);
      const after = { ...image, data: image.data.slice() };
      apply(after, Number(amount));
      compare(name, after.data, kind === 'hue' ? FAR_SHARE_HUE : FAR_SHARE);
    } else if (!/\.(image|base)$/.test(name) && !crops.some((crop) => crop.name === name)) {
      throw new Error(`nothing says what its tensor ${name} is`);
    }
  }
  return rows;
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
