/** The part of the driver's check that begins with bytes: crops and whole pictures as the network takes them. */
import type { Random } from '../../random.ts';
import type { PixelImage } from '../crops.ts';
import type { Executor } from '../ops.ts';

/** What a channel of a pixel becomes, by plain loops. */
type Shade = (pixel: readonly [number, number, number], channel: number) => number;
const own: Shade = (pixel, channel) => pixel[channel]!;
const solarized: Shade = (pixel, channel) => (pixel[channel]! < 128 ? pixel[channel]! : 255 - pixel[channel]!);
const gray: Shade = ([r, g, b]) => (19595 * r + 38470 * g + 7471 * b + 0x8000) >> 16;

/** [3,height,width]: the pixels that `at` names, as bytes of the picture. */
function planes(
  { width, data }: PixelImage,
  size: { readonly width: number; readonly height: number },
  normalised: Float32Array,
  at: (x: number, y: number) => readonly [x: number, y: number],
  shade = own,
): Float32Array {
  const out = new Float32Array(3 * size.width * size.height);
  for (let i = 0; i < out.length; i++) {
    const channel = Math.floor(i / (size.width * size.height));
    const place = i % (size.width * size.height);
    const [x, y] = at(place % size.width, Math.floor(place / size.width));
    const pixel = [0, 1, 2].map((c) => data[(y * width + x) * 3 + c]!) as [number, number, number];
    out[i] = normalised[channel * 256 + shade(pixel, channel)]!;
  }
  return out;
}

/**
 * Pictures and crops made where the engine computes, by plain loops where the engine makes none; of crops what needs no
 * resizing.
 * @param normalised [3,256]
 */
export async function picturesOnDevice(e: Executor, random: Random, normalised: Float32Array): Promise<Float32Array[]> {
  const [width, height, size] = [13, 9, 7];
  const picture = { width, height, data: Uint8Array.from({ length: width * height * 3 }, () => random.uniform(0, 256)) };
  const shifts = [
    [0, 0],
    [4, 3],
  ] as const;
  const box = { left: 3, top: 1, width: size, height: size };
  const draw = { box, flip: false, jitter: null, grayscale: false, blurSigma: 0, solarize: false };
  const draws = [draw, { ...draw, flip: true, solarize: true }, { ...draw, grayscale: true }];
  if (!e.normalisePictures || !e.augment) {
    const moved = shifts.map(([right, down]) =>
      planes(picture, picture, normalised, (x, y) => [Math.min(width - 1, x + right), Math.min(height - 1, y + down)]),
    );
    const cropped = [own, solarized, gray].map((shade, i) =>
      planes(picture, box, normalised, (x, y) => [box.left + (draws[i]!.flip ? size - 1 - x : x), box.top + y], shade),
    );
    return [...moved, ...cropped];
  }
  const { normalisePictures, augment } = e;
  return e.scope(async () => {
    const moved = await e.read(normalisePictures.call(e, [picture], shifts, normalised));
    const crops = draws.map((one) => ({ picture: 0, draw: one }));
    const cropped = await e.read(augment.call(e, [picture], [{ size, crops }], normalised)[0]!);
    const cut = (values: Float32Array, length: number): Float32Array[] =>
      Array.from({ length: values.length / length }, (_, i) => values.subarray(i * length, (i + 1) * length));
    return [...cut(moved, 3 * width * height), ...cut(cropped, 3 * size * size)];
  });
}
