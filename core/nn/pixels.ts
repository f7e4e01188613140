/**
 * Crops made by the processor: operations on 8-bit RGB pixels with Pillow's meaning, the one DINOv2 was trained with:
 * antialiased bicubic crops, blends that truncate, hue in 8-bit HSV. Buffers are interleaved [H,W,3]; all but the resize work
 * in place.
 */
import type { CropBox, CropDraw, PixelImage } from './crops.ts';
import { BLUR_RADIUS, blurWeights, bicubicWeights, RESIZE_PRECISION } from './filters.ts';

/**
 * Pixels of a drawn crop.
 * @returns [size, size, 3]
 */
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

// --- resize -----------------------------------------------------------------------------------------------------------

/** Half of the last place that is cut off. */
const HALF = 1 << (RESIZE_PRECISION - 1);

let rowScratch = new Uint8Array(0);

/**
 * Cuts the box out of the image and resizes it to size x size, mirrored left to right if `flip`. Only pixels of the box
 * are read, as when the crop is cut before resizing.
 * @param out [size, size, 3]
 */
function resizeCrop(image: PixelImage, box: CropBox, size: number, flip: boolean, out: Uint8Array): void {
  const across = bicubicWeights(box.width, size);
  const down = bicubicWeights(box.height, size);
  const rowLength = size * 3;
  if (rowScratch.length < box.height * rowLength) rowScratch = new Uint8Array(box.height * rowLength);
  const rows = rowScratch; // [box.height, size, 3]
  const data = image.data;
  for (let y = 0; y < box.height; y++) {
    const source = ((box.top + y) * image.width + box.left) * 3;
    for (let x = 0; x < size; x++) {
      let at = source + across.first[x]! * 3;
      let r = HALF;
      let g = HALF;
      let b = HALF;
      const end = x * across.taps + across.count[x]!;
      for (let w = x * across.taps; w < end; w++, at += 3) {
        const weight = across.weights[w]!;
        r = (r + Math.imul(weight, data[at]!)) | 0;
        g = (g + Math.imul(weight, data[at + 1]!)) | 0;
        b = (b + Math.imul(weight, data[at + 2]!)) | 0;
      }
      const target = y * rowLength + (flip ? size - 1 - x : x) * 3;
      rows[target] = clip(r >> RESIZE_PRECISION);
      rows[target + 1] = clip(g >> RESIZE_PRECISION);
      rows[target + 2] = clip(b >> RESIZE_PRECISION);
    }
  }
  const sums = new Int32Array(rowLength);
  for (let y = 0; y < size; y++) {
    sums.fill(HALF);
    for (let j = 0; j < down.count[y]!; j++) {
      const weight = down.weights[y * down.taps + j]!;
      const source = (down.first[y]! + j) * rowLength;
      for (let i = 0; i < rowLength; i++) sums[i] = (sums[i]! + Math.imul(weight, rows[source + i]!)) | 0;
    }
    for (let i = 0; i < rowLength; i++) out[y * rowLength + i] = clip(sums[i]! >> RESIZE_PRECISION);
  }
}

function clip(value: number): number {
  return value < 0 ? 0 : value > 255 ? 255 : value;
}

// --- colour -----------------------------------------------------------------------------------------------------------

/** ITU-R 601 luma as Pillow rounds it. */
function luma(r: number, g: number, b: number): number {
  return (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16;
}

/** So that 0.7 times 170 is 119, as in Pillow's float32 and in whole numbers on a GPU. */
const BLEND_SHARE = 2 ** -24;

/** Pillow's blend of a value towards a base: cut off, clipped. */
function blend(base: number, value: number, factor: number): number {
  return clip(Math.floor(base + factor * (value - base) + BLEND_SHARE));
}

const table = new Uint8Array(256);

function throughTable(pixels: Uint8Array): void {
  for (let i = 0; i < pixels.length; i++) pixels[i] = table[pixels[i]!]!;
}

/** Blend with black. */
function adjustBrightness(pixels: Uint8Array, factor: number): void {
  for (let v = 0; v < 256; v++) table[v] = blend(0, v, factor);
  throughTable(pixels);
}

/** Blend with the mean of the luma. */
function adjustContrast(pixels: Uint8Array, factor: number): void {
  let sum = 0;
  for (let i = 0; i < pixels.length; i += 3) sum += luma(pixels[i]!, pixels[i + 1]!, pixels[i + 2]!);
  const mean = Math.trunc(sum / (pixels.length / 3) + 0.5);
  for (let v = 0; v < 256; v++) table[v] = blend(mean, v, factor);
  throughTable(pixels);
}

/** Blend of each pixel with its own luma. */
function adjustSaturation(pixels: Uint8Array, factor: number): void {
  for (let i = 0; i < pixels.length; i += 3) {
    const r = pixels[i]!;
    const g = pixels[i + 1]!;
    const b = pixels[i + 2]!;
    const gray = luma(r, g, b);
    pixels[i] = blend(gray, r, factor);
    pixels[i + 1] = blend(gray, g, factor);
    pixels[i + 2] = blend(gray, b, factor);
  }
}

/**
 * Turns the hue by a share of the circle, -0.5 to 0.5, through 8-bit HSV: hue and saturation are truncated to bytes on
 * the way, which is visible and part of the meaning.
 */
function adjustHue(pixels: Uint8Array, shift: number): void {
  const turn = Math.trunc(shift * 255);
  for (let i = 0; i < pixels.length; i += 3) {
    const r = pixels[i]!;
    const g = pixels[i + 1]!;
    const b = pixels[i + 2]!;
    const v = r > g ? (r > b ? r : b) : g > b ? g : b;
    const low = r < g ? (r < b ? r : b) : g < b ? g : b;
    if (v === low) continue; // gray has no hue
    const range = v - low;
    // Whole numbers over 6 range: halves of bytes must not depend on how a sixth is rounded.
    const sector = r === v ? g - b : g === v ? 2 * range + b - r : 4 * range + r - g; // -range .. 5 range
    const hue = (Math.trunc(((sector < 0 ? sector + 6 * range : sector) * 255) / (6 * range)) + turn) & 255;
    const s = Math.trunc((range / v) * 255) / 255;
    const h = (hue * 6) / 255;
    const side = Math.trunc(h);
    const f = h - side;
    const p = (v * (1 - s) + 0.5) | 0;
    const q = (v * (1 - s * f) + 0.5) | 0;
    const t = (v * (1 - s * (1 - f)) + 0.5) | 0;
    switch (side % 6) {
      case 0:
        write(pixels, i, v, t, p);
        break;
      case 1:
        write(pixels, i, q, v, p);
        break;
      case 2:
        write(pixels, i, p, v, t);
        break;
      case 3:
        write(pixels, i, p, q, v);
        break;
      case 4:
        write(pixels, i, t, p, v);
        break;
      default:
        write(pixels, i, v, p, q);
    }
  }
}

function write(pixels: Uint8Array, at: number, r: number, g: number, b: number): void {
  pixels[at] = r;
  pixels[at + 1] = g;
  pixels[at + 2] = b;
}

/** All three channels become the luma. */
function toGrayscale(pixels: Uint8Array): void {
  for (let i = 0; i < pixels.length; i += 3) {
    const gray = luma(pixels[i]!, pixels[i + 1]!, pixels[i + 2]!);
    pixels[i] = gray;
    pixels[i + 1] = gray;
    pixels[i + 2] = gray;
  }
}

/** Inverts values of 128 and above. */
function solarize(pixels: Uint8Array): void {
  for (let i = 0; i < pixels.length; i++) if (pixels[i]! >= 128) pixels[i] = 255 - pixels[i]!;
}

// --- blur -------------------------------------------------------------------------------------------------------------

let paddedRow = new Float32Array(0);
let blurScratch = new Float32Array(0);

/** 9 x 9 Gaussian with mirrored borders (the edge pixel is not repeated). Sides must exceed 4 pixels. */
function gaussianBlur(pixels: Uint8Array, width: number, height: number, sigma: number): void {
  const [w0, w1, w2, w3, w4] = blurWeights(sigma) as [number, number, number, number, number];
  const length = width * 3;
  if (paddedRow.length < length + 24) paddedRow = new Float32Array(length + 24);
  if (blurScratch.length < height * length) blurScratch = new Float32Array(height * length);
  const row = paddedRow;
  const across = blurScratch; // [height, width, 3]
  for (let y = 0; y < height; y++) {
    for (let i = 0; i < length; i++) row[12 + i] = pixels[y * length + i]!;
    for (let k = 1; k <= BLUR_RADIUS; k++) {
      for (let c = 0; c < 3; c++) {
        row[12 - 3 * k + c] = row[12 + 3 * k + c]!;
        row[12 + length - 3 + 3 * k + c] = row[12 + length - 3 - 3 * k + c]!;
      }
    }
    for (let i = 0; i < length; i++) {
      across[y * length + i] =
        w0 * row[i + 12]! +
        w1 * (row[i + 9]! + row[i + 15]!) +
        w2 * (row[i + 6]! + row[i + 18]!) +
        w3 * (row[i + 3]! + row[i + 21]!) +
        w4 * (row[i]! + row[i + 24]!);
    }
  }
  const mirrored = (y: number): number => (y < 0 ? -y : y >= height ? 2 * height - 2 - y : y) * length;
  for (let y = 0; y < height; y++) {
    const c = y * length;
    const [a1, b1, a2, b2] = [mirrored(y - 1), mirrored(y + 1), mirrored(y - 2), mirrored(y + 2)];
    const [a3, b3, a4, b4] = [mirrored(y - 3), mirrored(y + 3), mirrored(y - 4), mirrored(y + 4)];
    for (let i = 0; i < length; i++) {
      const value =
        w0 * across[c + i]! +
        w1 * (across[a1 + i]! + across[b1 + i]!) +
        w2 * (across[a2 + i]! + across[b2 + i]!) +
        w3 * (across[a3 + i]! + across[b3 + i]!) +
        w4 * (across[a4 + i]! + across[b4 + i]!);
      pixels[c + i] = (value + 0.5) | 0;
    }
  }
}
