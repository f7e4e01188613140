/** Decoded masks of the shown image: a tinted picture to fill with and a path to outline with, made once per mask. */
import type { Rle } from '../../../core/contract/index.ts';
import { rgb } from '../logic/colors.ts';
import { outlineRings } from '../logic/outline.ts';
import { decodeRle, type Patch } from '../logic/rle.ts';

/** Pictures above this many pixels are drawn from every second, third ... pixel. */
const largestPicture = 4_000_000;

export class Sprite {
  readonly patch: Patch;
  #path: Path2D | null = null;
  #picture: HTMLCanvasElement | null = null;
  #color = '';

  constructor(rle: Rle) {
    this.patch = decodeRle(rle);
  }

  get path(): Path2D {
    return (this.#path ??= pathOf(this.patch));
  }

  /** The mask in one colour, to be drawn over the patch's rectangle. */
  picture(color: string): HTMLCanvasElement {
    if (this.#picture && this.#color === color) return this.#picture;
    const { width, height, data } = this.patch;
    const every = Math.max(1, Math.ceil(Math.sqrt((width * height) / largestPicture)));
    const canvas = document.createElement('canvas');
    canvas.width = Math.max(1, Math.ceil(width / every));
    canvas.height = Math.max(1, Math.ceil(height / every));
    const context = canvas.getContext('2d')!;
    const pixels = context.createImageData(canvas.width, canvas.height);
    const [r, g, b] = rgb(color);
    for (let y = 0, at = 0; y < canvas.height; y++) {
      for (let x = 0; x < canvas.width; x++, at += 4) {
        if (!data[y * every * width + x * every]) continue;
        pixels.data[at] = r;
        pixels.data[at + 1] = g;
        pixels.data[at + 2] = b;
        pixels.data[at + 3] = 255;
      }
    }
    context.putImageData(pixels, 0, 0);
    this.#picture = canvas;
    this.#color = color;
    return canvas;
  }
}

export function pathOf(patch: Patch): Path2D {
  const path = new Path2D();
  for (const ring of outlineRings(patch)) {
    path.moveTo(ring[0]!, ring[1]!);
    for (let i = 2; i < ring.length; i += 2) path.lineTo(ring[i]!, ring[i + 1]!);
    path.closePath();
  }
  return path;
}

/** Sprites by their run lengths, so that an answer of the host with the same masks decodes nothing. */
export class Sprites {
  #kept = new Map<string, Sprite>();

  of(rle: Rle): Sprite {
    const key = `${rle.size[0]}x${rle.size[1]}:${rle.counts}`;
    let sprite = this.#kept.get(key);
    if (!sprite) {
      sprite = new Sprite(rle);
      this.#kept.set(key, sprite);
    }
    return sprite;
  }

  clear(): void {
    this.#kept.clear();
  }
}
