/** Crops on the device: pictures and drawn numbers in, the kernels' tables packed, tensors out. */
import { blurWeights, bicubicWeights, BLUR_RADIUS } from '../filters.ts';
import type { CropDraw, CropGroup, PixelImage } from '../crops.ts';
import { augment, RECORD, recordPlace, type CropPart, type RecordField } from './kernels/augment.ts';
import type { Operand } from './kernels/kernel.ts';
import type { Region } from './program.ts';
import { alignedBytes, part as regionPart } from './program.ts';
import type { Runtime } from './runtime.ts';

/** Most bytes of rows between the two passes of a resize: crops beyond go through in parts. */
const rowBytes = 2 ** 28;

export interface PackedCrops {
  /** [crops, RECORD.length] */
  readonly records: Uint32Array;
  readonly weights: Int32Array;
  readonly parts: readonly (CropPart & { /** Pixels of rows. */ readonly rows: number })[];
}

/**
 * Makes the crops of each group. Pictures go to the device once, as bytes.
 * @param normalised [3,256]: the value that each byte of each channel becomes
 * @param outputs [crops,3,size,size] of each group, float arrays
 * @throws Error naming what does not fit
 */
export function makeCrops(
  runtime: Runtime,
  pictures: readonly PixelImage[],
  groups: readonly CropGroup[],
  normalised: Float32Array,
  outputs: readonly Operand[],
): void {
  const { capabilities: caps } = runtime;
  const offsets = pictureOffsets(pictures);
  const packed = groups.map((group) => packCrops(pictures, group, offsets, caps.workgroupsPerDimension));
  // Memory is given back at once: work runs in the order it is given, so whoever takes it next comes after.
  const taken: Region[] = [];
  const keep = (region: Region): Region => (taken.push(region), region);
  const values = keep(runtime.upload(normalised));
  const bytes = keep(runtime.take(offsets.at(-1)!));
  for (const [i, { data }] of pictures.entries()) runtime.write(regionPart(bytes, offsets[i]!), data);
  for (const [i, { records, weights, parts }] of packed.entries()) {
    const { size, crops } = groups[i]!;
    const arrays = {
      pictures: bytes,
      crops: keep(runtime.upload(records)),
      weights: keep(runtime.upload(weights)),
      normalised: values,
      rows: keep(runtime.take(Math.max(0, ...parts.map(({ rows }) => rows)) * 4)),
      pixels: keep(runtime.take(crops.length * size * size * 4)),
      sums: keep(runtime.take(crops.length * 4)),
      y: outputs[i]!,
    };
    for (const part of parts) runtime.run(augment(caps, arrays, size, part));
    for (const region of taken.splice(2)) runtime.give(region);
  }
  for (const region of taken) runtime.give(region);
}

/** Where each picture begins in the buffer of all, then its end: multiples of what regions are aligned to. */
export function pictureOffsets(pictures: readonly PixelImage[]): number[] {
  const offsets = [0];
  for (const { data } of pictures) offsets.push(offsets.at(-1)! + alignedBytes(data.length));
  return offsets;
}

/**
 * The kernels' tables of a group of crops.
 * @param offsets of `pictureOffsets`
 * @param most crops of a part
 * @param room bytes of rows of a part, if one crop fits
 * @throws Error naming the crop whose numbers do not fit its picture or the kernels
 */
export function packCrops(
  pictures: readonly PixelImage[],
  { size, crops }: CropGroup,
  offsets: readonly number[],
  most: number,
  room = rowBytes,
): PackedCrops {
  if (!Number.isInteger(size) || size <= BLUR_RADIUS) throw new Error(`augment: crops of ${size} px; ${BLUR_RADIUS + 1} is the least.`);
  const records = new Uint32Array(crops.length * RECORD.length);
  const floats = new Float32Array(records.buffer);
  const tables = new WeightTables(size);
  const parts: { first: number; count: number; tallest: number; rows: number }[] = [];
  for (const [i, { picture, draw }] of crops.entries()) {
    const image = pictures[picture];
    if (!image) throw new Error(`augment: crop ${i} is of picture ${picture} of ${pictures.length}.`);
    const { top, left, width, height } = draw.box;
    const fits = top >= 0 && left >= 0 && width > 0 && height > 0 && left + width <= image.width && top + height <= image.height;
    if (!fits || image.data.length !== image.width * image.height * 3)
      throw new Error(
        `augment: the box ${width} x ${height} at ${left}, ${top} of crop ${i} is not inside its picture of ${image.width} x ${image.height}.`,
      );
    let part = parts.at(-1);
    if (!part || part.count === most || (part.rows + height * size) * 4 > room)
      parts.push((part = { first: i, count: 0, tallest: 0, rows: 0 }));
    const set = (name: RecordField, value: number): void => void (records[i * RECORD.length + recordPlace[name]] = value);
    const across = tables.place(width);
    const down = tables.place(height);
    set('source', offsets[picture]!);
    set('stride', image.width);
    set('left', left);
    set('top', top);
    set('height', height);
    set('across', across.start);
    set('acrossTaps', across.taps);
    set('down', down.start);
    set('downTaps', down.taps);
    set('rows', part.rows);
    set('flip', Number(draw.flip));
    set('gray', Number(draw.grayscale));
    set('solarize', Number(draw.solarize));
    if (draw.jitter) setJitter(set, draw.jitter);
    if (draw.blurSigma > 0) {
      set('blur', 1);
      floats.set(blurWeights(draw.blurSigma), i * RECORD.length + recordPlace.blur0);
    }
    part.count++;
    part.rows += height * size;
    part.tallest = Math.max(part.tallest, height);
  }
  return { records, weights: tables.all(), parts };
}

/** Largest factor whose products with a difference of bytes fit 32 bits. */
const largestFactor = 100;

function setJitter(set: (name: RecordField, value: number) => void, jitter: NonNullable<CropDraw['jitter']>): void {
  const { order, hue } = jitter;
  set(
    'order',
    order.reduce((packed, operation, i) => packed | (operation << (2 * i)), 0),
  );
  set('operations', order.length);
  const contrast = order.indexOf(1);
  set('before', contrast < 0 ? order.length : contrast);
  for (const name of ['brightness', 'contrast', 'saturation'] as const) {
    const factor = jitter[name];
    if (!(factor >= 0 && factor <= largestFactor)) throw new Error(`augment: ${name} by ${factor}; 0 to ${largestFactor} is possible.`);
    const fixed = Math.round(factor * 2 ** 32);
    set(name, Math.floor(fixed / 2 ** 16));
    set(`${name}Low`, fixed % 2 ** 16);
  }
  set('hue', Math.trunc(hue * 255) & 255);
}

/** The resize weights that the crops of one size need, each once, one behind the other. */
class WeightTables {
  readonly #size: number;
  readonly #known = new Map<number, { start: number; taps: number }>();
  #length = 0;

  constructor(size: number) {
    this.#size = size;
  }

  place(input: number): { start: number; taps: number } {
    let known = this.#known.get(input);
    if (!known) {
      const { taps } = bicubicWeights(input, this.#size);
      known = { start: this.#length, taps };
      this.#known.set(input, known);
      this.#length += this.#size * (2 + taps);
    }
    return known;
  }

  all(): Int32Array {
    const all = new Int32Array(this.#length);
    for (const [input, { start }] of this.#known) {
      const { first, count, weights } = bicubicWeights(input, this.#size);
      all.set(first, start);
      all.set(count, start + this.#size);
      all.set(weights, start + 2 * this.#size);
    }
    return all;
  }
}
