/**
 * Crops and colour operations a second time, in float64 from their definitions (spec 2.1, 2.2): no fixed point, no tables,
 * rounded once at the end. Hue alone keeps its 8-bit steps, which are part of its meaning.
 */
import type { Random } from '../../core/random.ts';
import type { TypedTensor } from '../fixtures/safetensors.ts';
import type { RecordedCrop } from './augment.ts';

/** Values of 0 to 255, [H,W,3]. */
interface Picture {
  readonly height: number;
  readonly width: number;
  readonly values: Float64Array;
}

type Pixel = readonly [r: number, g: number, b: number];

const clip = (value: number): number => Math.min(255, Math.max(0, value));
const blend = (base: number, value: number, factor: number): number => clip(base + factor * (value - base));
const luma = ([r, g, b]: Pixel): number => 0.299 * r + 0.587 * g + 0.114 * b;

function eachPixel(picture: Picture, change: (pixel: Pixel) => Pixel): Picture {
  const values = new Float64Array(picture.values.length);
  for (let i = 0; i < values.length; i += 3) {
    const [r, g, b] = picture.values.subarray(i, i + 3) as unknown as Pixel;
    values.set(change([r!, g!, b!]), i);
  }
  return { ...picture, values };
}

/** Weights of `input` positions in output position i: antialiased cubic convolution, a = -0.5 (Keys 1981). */
function cubicRow(input: number, output: number, i: number): { from: number; weights: number[] } {
  const stretch = Math.max(1, input / output);
  const center = ((i + 0.5) * input) / output;
  const from = Math.max(0, Math.floor(center - 2 * stretch + 0.5));
  const to = Math.min(input, Math.floor(center + 2 * stretch + 0.5));
  const weights = Array.from({ length: to - from }, (_, j) => {
    const t = Math.abs(from + j + 0.5 - center) / stretch;
    if (t >= 2) return 0;
    return t < 1 ? 1.5 * t ** 3 - 2.5 * t ** 2 + 1 : -0.5 * t ** 3 + 2.5 * t ** 2 - 4 * t + 2;
  });
  const sum = weights.reduce((a, b) => a + b, 0);
  return { from, weights: weights.map((w) => w / sum) };
}

/** The box resized to size x size; what shoots over the range is cut after each axis, as 8-bit pixels do. */
function crop(picture: Picture, { top, left, height, width, size }: Omit<RecordedCrop, 'name'>): Picture {
  const columns = Array.from({ length: size }, (_, x) => cubicRow(width, size, x));
  const rows = Array.from({ length: size }, (_, y) => cubicRow(height, size, y));
  const across = new Float64Array(height * size * 3);
  for (let y = 0; y < height; y++)
    for (const [x, { from, weights }] of columns.entries())
      for (let c = 0; c < 3; c++) {
        const start = ((top + y) * picture.width + left + from) * 3 + c;
        across[(y * size + x) * 3 + c] = clip(weights.reduce((sum, w, j) => sum + w * picture.values[start + j * 3]!, 0));
      }
  const values = new Float64Array(size * size * 3);
  for (const [y, { from, weights }] of rows.entries())
    for (let i = 0; i < size * 3; i++) {
      values[y * size * 3 + i] = clip(weights.reduce((sum, w, j) => sum + w * across[(from + j) * size * 3 + i]!, 0));
    }
  return { height: size, width: size, values };
}

function contrast(picture: Picture, factor: number): Picture {
  let sum = 0;
  eachPixel(picture, (pixel) => {
    sum += luma(pixel);
    return pixel;
  });
  const mean = sum / (picture.values.length / 3);
  return eachPixel(picture, (pixel) => pixel.map((v) => blend(mean, v, factor)) as unknown as Pixel);
}

/** HSV with 8-bit hue and saturation, the hue turned by a share of the circle in whole steps. */
function hue(picture: Picture, shift: number): Picture {
  return eachPixel(picture, ([r, g, b]) => {
    const high = Math.max(r, g, b);
    const range = high - Math.min(r, g, b);
    if (range === 0) return [r, g, b];
    const sixths = high === r ? (g - b) / range : high === g ? 2 + (b - r) / range : 4 + (r - g) / range;
    const steps = Math.floor((((sixths + 6) % 6) / 6) * 255) + Math.trunc(shift * 255);
    const turned = (((steps + 256) % 256) / 255) * 6;
    const saturation = Math.floor((range / high) * 255) / 255;
    const channel = (n: number): number => {
      const k = (n + turned) % 6;
      return high - high * saturation * Math.max(0, Math.min(k, 4 - k, 1));
    };
    return [channel(5), channel(3), channel(1)];
  });
}

/** The whole 9 x 9 kernel at every pixel; outside, the picture is mirrored about its edge pixels. */
function blur(picture: Picture, sigma: number): Picture {
  const { height, width } = picture;
  const mirror = (i: number, n: number): number => (i < 0 ? -i : i >= n ? 2 * n - 2 - i : i);
  const values = new Float64Array(picture.values.length);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      let total = 0;
      for (let dy = -4; dy <= 4; dy++)
        for (let dx = -4; dx <= 4; dx++) {
          const weight = Math.exp(-(dx * dx + dy * dy) / (2 * sigma * sigma));
          total += weight;
          const from = (mirror(y + dy, height) * width + mirror(x + dx, width)) * 3;
          for (let c = 0; c < 3; c++) values[(y * width + x) * 3 + c]! += weight * picture.values[from + c]!;
        }
      for (let c = 0; c < 3; c++) values[(y * width + x) * 3 + c]! /= total;
    }
  return { ...picture, values };
}

function mirrored(picture: Picture): Picture {
  const { height, width } = picture;
  const values = new Float64Array(picture.values.length);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++)
      for (let c = 0; c < 3; c++) values[(y * width + x) * 3 + c] = picture.values[(y * width + width - 1 - x) * 3 + c]!;
  return { ...picture, values };
}

const OPERATIONS: readonly (readonly [name: string, (picture: Picture) => Picture])[] = [
  ...[0.6, 1.4].map(
    (f) => [`brightness${f}`, (p: Picture) => eachPixel(p, (x) => x.map((v) => blend(0, v, f)) as unknown as Pixel)] as const,
  ),
  ...[0.6, 1.4].map((f) => [`contrast${f}`, (p: Picture) => contrast(p, f)] as const),
  ...[0.8, 1.2].map(
    (f) => [`saturation${f}`, (p: Picture) => eachPixel(p, (x) => x.map((v) => blend(luma(x), v, f)) as unknown as Pixel)] as const,
  ),
  ...[-0.1, 0.05].map((s) => [`hue${s}`, (p: Picture) => hue(p, s)] as const),
  ...[0.1, 0.8, 2].map((s) => [`blur${s}`, (p: Picture) => blur(p, s)] as const),
  ['grayscale', (p) => eachPixel(p, (x) => [luma(x), luma(x), luma(x)])],
  ['solarize128', (p) => eachPixel(p, (x) => x.map((v) => (v >= 128 ? 255 - v : v)) as unknown as Pixel)],
  ['hflip', mirrored],
];

/** Waves of colour with noise of up to so many levels, cut to the range. */
function drawPicture(random: Random, height: number, width: number, noise: number): Picture {
  const waves = Array.from({ length: 3 }, () => [random.uniform(0.02, 0.3), random.uniform(0.02, 0.3), random.uniform(0, 6)]);
  const values = new Float64Array(height * width * 3);
  for (let i = 0; i < values.length; i++) {
    const [fx, fy, phase] = waves[i % 3]!;
    const [x, y] = [Math.floor(i / 3) % width, Math.floor(i / 3 / width)];
    values[i] = Math.round(clip(120 + 110 * Math.sin(fx! * x + fy! * y + phase!) + random.uniform(-noise, noise)));
  }
  return { height, width, values };
}

/** A recorded file of two pictures: boxes from stretched to shrunk, and every operation once or more. */
export function drawPictures(random: Random): { tensors: TypedTensor[]; crops: RecordedCrop[] } {
  const tensors: TypedTensor[] = [];
  const crops: RecordedCrop[] = [];
  const add = (name: string, { height, width, values }: Picture): void => {
    tensors.push({ name, shape: [height, width, 3], values: Uint8Array.from(values, Math.round) });
  };
  for (const [k, [height, width]] of [
    [150, 190],
    [96, 64],
  ].entries()) {
    const image = drawPicture(random, height!, width!, 150); // hard on the shape of the resize's kernel
    add(`${k}.image`, image);
    const boxes = [
      { top: 0, left: 0, height: height!, width: width!, size: 56 },
      { top: 7, left: 11, height: 31, width: 40, size: 98 },
      { top: height! - 60, left: width! - 50, height: 60, width: 50, size: 42 },
    ];
    for (const [i, box] of boxes.entries()) {
      crops.push({ name: `${k}.crop${i}`, ...box });
      add(`${k}.crop${i}`, crop(image, box));
    }
    const base = drawPicture(random, 48, 48, 30);
    add(`${k}.base`, base);
    for (const [name, operation] of OPERATIONS) add(`${k}.base.${name}`, operation(base));
  }
  return { tensors, crops };
}
