/** The part of the driver's check that begins with bytes: pictures as the network takes them, crops, masks at edges. */
import type { Random } from '../../../random.ts';
import type { CropDraw, PixelImage } from '../../crops.ts';
import type { Executor } from '../../ops.ts';
import { applyCrop } from '../../pixels.ts';
import { BOX_LENGTH, mapOffsets, type PatchMaps, type UpsampleGuide } from '../../upsampling.ts';

const [width, height] = [13, 9];
const size = 16;

function drawPicture(random: Random): PixelImage {
  return { width, height, data: Uint8Array.from({ length: width * height * 3 }, () => random.uniform(0, 256)) };
}

/** Each part of so many values. */
function cut(values: Float32Array, length: number): Float32Array[] {
  return Array.from({ length: values.length / length }, (_, i) => values.subarray(i * length, (i + 1) * length));
}

/** [3,256]: evenly, so that a byte that is one off is off by little. */
const normalised = Float32Array.from({ length: 768 }, (_, i) => (1 + (i >> 8)) * ((i & 255) / 255 - 0.4));

/** [3,side,side] values of bytes [side,side,3]. */
function planes(data: Uint8Array): Float32Array {
  const pixels = data.length / 3;
  return Float32Array.from({ length: data.length }, (_, i) => {
    const channel = Math.floor(i / pixels);
    return normalised[channel * 256 + data[(i % pixels) * 3 + channel]!]!;
  });
}

/** Whole pictures, moved. */
export async function picturesOnDevice(e: Executor, random: Random): Promise<Float32Array[]> {
  const picture = drawPicture(random);
  const shifts = [
    [0, 0],
    [4, 3],
  ] as const;
  const { normalisePictures } = e;
  if (normalisePictures) {
    return e.scope(async () => cut(await e.read(normalisePictures.call(e, [picture], shifts, normalised)), 3 * width * height));
  }
  return shifts.map(([right, down]) => {
    const moved = picture.data.map((_, i) => {
      const [x, y] = [Math.floor(i / 3) % width, Math.floor(i / 3 / width)];
      return picture.data[(Math.min(height - 1, y + down) * width + Math.min(width - 1, x + right)) * 3 + (i % 3)]!;
    });
    return planes(moved);
  });
}

/** Crops with everything that can happen to them. Means of their rows: where a blur is rounded, a byte may be one off. */
export async function cropsOnDevice(e: Executor, random: Random): Promise<Float32Array[]> {
  const picture = drawPicture(random);
  const plain = { flip: false, jitter: null, grayscale: false, blurSigma: 0, solarize: false };
  const jitter = { brightness: 1.3, contrast: 0.7, saturation: 1.2, hue: 0.07 };
  const [whole, corner] = [
    { left: 0, top: 0, width, height },
    { left: 9, top: 4, width: 4, height: 5 },
  ];
  const draws: CropDraw[] = [
    { ...plain, box: whole, grayscale: true },
    { ...plain, box: corner, flip: true, solarize: true },
    { ...plain, box: whole, jitter: { ...jitter, order: Int32Array.of(0, 1, 2, 3) } },
    { ...plain, box: corner, jitter: { ...jitter, order: Int32Array.of(3, 2, 1, 0) }, blurSigma: 1.3 },
    { ...plain, box: whole, blurSigma: 0.4, solarize: true },
  ];
  const made = await (e.augment
    ? e.scope(async () => {
        const groups = [{ size, crops: draws.map((draw) => ({ picture: 0, draw })) }];
        return cut(await e.read(e.augment!([picture], groups, normalised)[0]!), 3 * size * size);
      })
    : draws.map((draw) => planes(applyCrop(picture, draw, size))));
  return made.map((values) => Float32Array.from(cut(values, size), (row) => row.reduce((sum, value) => sum + value, 0) / size));
}

/** Maps over the patches of a picture of dark and light patches, brought to its pixels; as values and as bits. */
export async function masksOnDevice(e: Executor, random: Random): Promise<Float32Array[]> {
  const [gridWidth, gridHeight] = [4, 3];
  const light = (x: number, y: number): number => (x + y) % 2;
  const shade = (lit: number): number => (lit ? 0.9 : 0.1) + random.uniform(-0.03, 0.03);
  const picture = { width, height, data: new Uint8Array(width * height * 3) };
  for (let i = 0; i < width * height; i++)
    picture.data.fill(255 * shade(light((i % width) >> 2, Math.floor(i / width) >> 2)), 3 * i, 3 * i + 3);
  /** For each pixel of an axis its first patch, then what the three around it weigh. */
  const axis = (pixels: number, patches: number): Float32Array => {
    const rows = Array.from({ length: pixels }, (_, i) => {
      const first = Math.floor(i / 4) - 1;
      const weights = [0, 1, 2].map((k) => (first + k >= 0 && first + k < patches ? random.uniform(0.5, 1) : 0));
      return [first, ...weights];
    });
    return Float32Array.from(rows.flat());
  };
  const grid = () => {
    const patches = Array.from({ length: gridWidth * gridHeight }, (_, i) => shade(light(i % gridWidth, Math.floor(i / gridWidth))));
    return {
      across: axis(width, gridWidth),
      down: axis(height, gridHeight),
      colours: Float32Array.from(patches.flatMap((value) => [value, value, value])),
    };
  };
  const range = Float32Array.from({ length: 65 }, (_, step) => Math.exp(-step / 4));
  const guide: UpsampleGuide = { picture, gridWidth, gridHeight, grids: [grid(), grid()], range, farthest: 3 };
  const mapsOf = (...boxes: readonly (readonly number[])[]): PatchMaps => {
    const values = boxes.flatMap(([x, y, across, down]) =>
      Array.from({ length: guide.grids.length * across! * down! }, (_, i) => {
        const lit = light(x! + (i % across!), y! + (Math.floor(i / across!) % down!));
        return lit * random.uniform(0.8, 1);
      }),
    );
    return { boxes: Int32Array.from(boxes.flat()), values: Float32Array.from(values) };
  };
  const inParts = mapsOf([0, 0, 4, 3, 0, 0, width, height], [1, 1, 3, 2, 3, 2, 9, 7]);
  // Where a map has all patches dark and light keep apart, and no value comes near one half.
  const whole = mapsOf([0, 0, 4, 3, 3, 2, 9, 7], [0, 0, 4, 3, 0, 0, width, height]);
  if (!e.upsample || !e.upsampleMasks) {
    return [upsampledByLoops(guide, inParts), upsampledByLoops(guide, whole).map((value) => Number(value > 0.5))];
  }
  const [values, bits] = [await e.upsample(guide, inParts), await e.upsampleMasks(guide, whole)];
  const between = outside(inParts);
  return [
    values.map((value, i) => (between[i] ? 0 : value)),
    Float32Array.from({ length: 32 * bits.length }, (_, i) => (bits[i >> 5]! >>> (i & 31)) & 1),
  ];
}

/** 1 between the maps of a result, whose values are undefined there. */
function outside(maps: PatchMaps): Uint8Array {
  const offsets = mapOffsets(maps);
  const between = new Uint8Array(offsets.at(-1)!).fill(1);
  offsets.slice(0, -1).forEach((start, map) => {
    const [w, h] = maps.boxes.subarray(map * BOX_LENGTH + 6) as unknown as [number, number];
    between.fill(0, start, start + w * h);
  });
  return between;
}

/** `Executor.upsample` by plain loops, 0 between maps. */
function upsampledByLoops({ picture, gridWidth, grids, range, farthest }: UpsampleGuide, maps: PatchMaps): Float32Array {
  const offsets = mapOffsets(maps);
  const out = new Float32Array(offsets.at(-1)!);
  let first = 0;
  for (let map = 0; map < offsets.length - 1; map++) {
    const [x0, y0, across, down, left, top, w, h] = maps.boxes.subarray(map * BOX_LENGTH, (map + 1) * BOX_LENGTH) as unknown as number[];
    for (let i = 0; i < w! * h!; i++) {
      const [px, py] = [left! + (i % w!), top! + Math.floor(i / w!)];
      let [sum, total] = [0, 0];
      for (const [g, { across: columns, down: rows, colours }] of grids.entries())
        for (let k = 0; k < 9; k++) {
          const near = columns[4 * px + 1 + (k % 3)]! * rows[4 * py + 1 + Math.floor(k / 3)]!;
          if (near === 0) continue;
          const [x, y] = [columns[4 * px]! + (k % 3), rows[4 * py]! + Math.floor(k / 3)];
          const distance = [0, 1, 2].reduce((square, c) => {
            const difference = colours[3 * (y * gridWidth + x) + c]! - picture.data[3 * (py * picture.width + px) + c]! / 255;
            return square + difference ** 2;
          }, 0);
          const steps = range.length - 1;
          const weight = near * range[Math.floor(Math.min((distance * steps) / farthest, steps))]!;
          total += weight;
          const [column, row] = [x - x0!, y - y0!];
          const inBox = column >= 0 && column < across! && row >= 0 && row < down!;
          if (inBox) sum += weight * maps.values[first + (g * down! + row) * across! + column]!;
        }
      out[offsets[map]! + i] = sum / total;
    }
    first += grids.length * across! * down!;
  }
  return out;
}
