// Samples of more than 8 bits (16-bit, integer or float) brought to 0..255 by robust percentiles.

export type DeepSamples = Uint16Array | Float32Array;
/** Of 8 bits: as they are. */
export const PLAIN_RANGE: ToneRange = { low: 0, high: 255 };

/** The range that is spread over 0..255. */
export interface ToneRange {
  readonly low: number;
  readonly high: number;
}

/** Shares of the samples below `low` and up to `high`: hot and dead pixels do not set the range. */
const LOW_SHARE = 0.005;
const HIGH_SHARE = 0.995;

/**
 * The 0.5th and 99.5th percentile (nearest rank) of the colour samples of a whole page, all channels together so that
 * colours keep their hue. Exact; NaN and infinities do not count; a page without finite samples gives 0..0.
 * @param data [pixels, channels]; the first `colours` of each pixel count
 */
export function toneRange(data: DeepSamples, channels: number, colours: number): ToneRange {
  return data instanceof Uint16Array ? rangeOfIntegers(data, channels, colours) : rangeOfFloats(data, channels, colours);
}

/**
 * 0..255 of one sample's place between low and high, clipped. A page of one value is mid gray; NaN is black.
 * @returns [pixels, 3]; one colour is repeated; alpha, the last channel if there is one, is laid over `background` (0..255)
 */
export function applyTone(
  data: DeepSamples | Uint8Array,
  channels: number,
  colours: number,
  range: ToneRange,
  background: number,
  hasAlpha: boolean,
): Uint8Array<ArrayBuffer> {
  const pixels = data.length / channels;
  const out = new Uint8Array(pixels * 3);
  const scale = range.high > range.low ? 255 / (range.high - range.low) : 0;
  const flat = scale === 0 ? 128 : 0;
  const alphaAt = hasAlpha ? channels - 1 : -1;
  const opaque = data instanceof Float32Array ? 1 : 2 ** (8 * data.BYTES_PER_ELEMENT) - 1;
  for (let i = 0; i < pixels; i++) {
    const alpha = alphaAt < 0 ? 1 : Math.min(1, Math.max(0, data[i * channels + alphaAt]! / opaque));
    for (let c = 0; c < 3; c++) {
      const value = data[i * channels + (colours === 1 ? 0 : c)]!;
      const level = Math.min(255, Math.max(0, flat + (value - range.low) * scale)) || 0;
      out[i * 3 + c] = Math.round(level * alpha + background * (1 - alpha));
    }
  }
  return out;
}

function rangeOfIntegers(data: Uint16Array, channels: number, colours: number): ToneRange {
  const histogram = new Uint32Array(65_536);
  for (let i = 0; i < data.length; i += channels) {
    for (let c = 0; c < colours; c++) histogram[data[i + c]!]!++;
  }
  const total = (data.length / channels) * colours;
  return { low: rank(histogram, lowRank(total)).bin, high: rank(histogram, highRank(total)).bin };
}

/** Two passes over the bits in sortable order: the upper 16 find the bin, the lower 16 the value within it. */
function rangeOfFloats(data: Float32Array, channels: number, colours: number): ToneRange {
  const bits = new Uint32Array(data.buffer, data.byteOffset, data.length);
  const key = (i: number): number => (bits[i]! >>> 31 ? ~bits[i]! : bits[i]! | 0x80000000) >>> 0;
  const upper = new Uint32Array(65_536);
  let total = 0;
  for (let i = 0; i < data.length; i += channels) {
    for (let c = 0; c < colours; c++) {
      if (!Number.isFinite(data[i + c])) continue;
      upper[key(i + c) >>> 16]!++;
      total++;
    }
  }
  if (total === 0) return { low: 0, high: 0 };
  const value = (at: number): number => {
    const found = rank(upper, at);
    const lower = new Uint32Array(65_536);
    for (let i = 0; i < data.length; i += channels) {
      for (let c = 0; c < colours; c++) {
        if (Number.isFinite(data[i + c]) && key(i + c) >>> 16 === found.bin) lower[key(i + c) & 0xffff]!++;
      }
    }
    const sortable = ((found.bin << 16) | rank(lower, at - found.before).bin) >>> 0;
    return new Float32Array(Uint32Array.of(sortable >>> 31 ? sortable & 0x7fffffff : ~sortable).buffer)[0]!;
  };
  return { low: value(lowRank(total)), high: value(highRank(total)) };
}

/** Ranks count from 0. */
const lowRank = (total: number): number => Math.max(0, Math.ceil(LOW_SHARE * total) - 1);
const highRank = (total: number): number => Math.max(0, Math.ceil(HIGH_SHARE * total) - 1);

/** The bin that holds the sample of that rank, and the samples before the bin. */
function rank(histogram: Uint32Array, at: number): { bin: number; before: number } {
  let before = 0;
  for (let bin = 0; bin < histogram.length; bin++) {
    if (before + histogram[bin]! > at) return { bin, before };
    before += histogram[bin]!;
  }
  return { bin: histogram.length - 1, before };
}
