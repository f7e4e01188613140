/** The mask under the brush as pictures: tiles of the image, redrawn only where a stroke went. */
import { rgb } from '../logic/colors.ts';
import { contentRect, type Bitmap, type Rect } from '../logic/bitmap.ts';
import type { Viewport } from '../logic/viewport.ts';

const side = 512;

export class MaskTiles {
  readonly #tiles = new Map<number, CanvasRenderingContext2D>();
  readonly #bitmap: Bitmap;
  readonly #columns: number;
  #color: string;

  constructor(bitmap: Bitmap, color: string) {
    this.#bitmap = bitmap;
    this.#columns = Math.ceil(bitmap.width / side);
    this.#color = color;
    this.#updateAll();
  }

  recolor(color: string): void {
    if (color === this.#color) return;
    this.#color = color;
    this.#updateAll();
  }

  /** Large images are mostly empty: only the part with pixels is gone through. */
  #updateAll(): void {
    const rect = contentRect(this.#bitmap);
    if (rect) this.update(rect);
  }

  /** Draws the pixels of a rectangle anew. */
  update(rect: Rect): void {
    const { width, data } = this.#bitmap;
    const [r, g, b] = rgb(this.#color);
    for (let row = Math.floor(rect.top / side); row * side < rect.bottom; row++) {
      for (let column = Math.floor(rect.left / side); column * side < rect.right; column++) {
        const x0 = Math.max(rect.left, column * side);
        const x1 = Math.min(rect.right, (column + 1) * side);
        const y0 = Math.max(rect.top, row * side);
        const y1 = Math.min(rect.bottom, (row + 1) * side);
        const pixels = new ImageData(x1 - x0, y1 - y0);
        let any = false;
        for (let y = y0, at = 0; y < y1; y++) {
          for (let x = x0; x < x1; x++, at += 4) {
            if (!data[y * width + x]) continue;
            any = true;
            pixels.data[at] = r;
            pixels.data[at + 1] = g;
            pixels.data[at + 2] = b;
            pixels.data[at + 3] = 255;
          }
        }
        const tile = this.#tile(row * this.#columns + column, any);
        tile?.putImageData(pixels, x0 - column * side, y0 - row * side);
      }
    }
  }

  /** A tile is made when it first holds a pixel. */
  #tile(index: number, wanted: boolean): CanvasRenderingContext2D | null {
    const found = this.#tiles.get(index);
    if (found || !wanted) return found ?? null;
    const canvas = document.createElement('canvas');
    canvas.width = canvas.height = side;
    const made = canvas.getContext('2d')!;
    this.#tiles.set(index, made);
    return made;
  }

  /** Draws all tiles; their edges are rounded to device pixels alike, so that no seam shows. */
  draw(context: CanvasRenderingContext2D, view: Viewport, pixelRatio: number): void {
    const at = (tile: number, offset: number): number => Math.round((tile * side * view.scale + offset) * pixelRatio);
    context.save();
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.imageSmoothingEnabled = view.scale * pixelRatio < 1;
    for (const [index, tile] of this.#tiles) {
      const column = index % this.#columns;
      const row = Math.floor(index / this.#columns);
      const [x, y] = [at(column, view.x), at(row, view.y)];
      context.drawImage(tile.canvas, x, y, at(column + 1, view.x) - x, at(row + 1, view.y) - y);
    }
    context.restore();
  }
}
