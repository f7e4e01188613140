/** One mask under the brush: strokes and polygons on a bitmap, with their own undo, and a draft kept after each. */
import {
  bitmapFromRle,
  bitmapToRle,
  contentRect,
  cutPatch,
  emptyBitmap,
  fillPolygon,
  putPatch,
  strokeSegment,
  unionRect,
} from '../logic/bitmap.ts';
import type { Bitmap, Point, Rect } from '../logic/bitmap.ts';
import type { Draft, EditTarget } from '../logic/drafts.ts';
import { History } from '../logic/history.ts';
import type { Patch } from '../logic/rle.ts';
import type { Size } from '../logic/viewport.ts';
import type { Rle } from '../../../core/contract/index.ts';
import { pathOf } from './sprites.ts';
import { MaskTiles } from './tiles.ts';

export type Tool = 'brush' | 'eraser' | 'polygon';

export interface EditOptions {
  readonly imageId: number;
  readonly image: Size;
  readonly target: EditTarget;
  readonly rle: Rle | null;
  readonly classId: number | null;
  readonly color: string;
  /** True when the mask already differs from what the host has (a restored draft). */
  readonly changed: boolean;
  readonly keep: (draft: Draft) => void;
}

export class EditSession {
  readonly imageId: number;
  readonly target: EditTarget;
  readonly tiles: MaskTiles;
  tool = $state<Tool>('brush');
  classId = $state<number | null>(null);
  color = $state('#ffffff');
  /** Corners of the polygon being drawn, in image pixels. */
  corners = $state.raw<readonly Point[]>([]);
  /** Goes up with every change of pixels. */
  version = $state(0);
  /** Outline since the last finished stroke; null while one goes on. */
  outline = $state.raw<Path2D | null>(null);
  steps = $state(0);

  readonly #bitmap: Bitmap;
  /** The bitmap as it was after the last finished step: what a stroke is cut from to be undone. */
  readonly #settled: Uint8Array;
  readonly #history = new History<{ before: Patch; after: Patch }>();
  readonly #keep: (draft: Draft) => void;
  readonly #startedChanged: boolean;
  #stroke: { rect: Rect | null; last: Point } | null = null;

  constructor(options: EditOptions) {
    this.imageId = options.imageId;
    this.target = options.target;
    this.classId = options.classId;
    this.color = options.color;
    this.#bitmap = options.rle ? bitmapFromRle(options.rle) : emptyBitmap(options.image.width, options.image.height);
    this.#settled = this.#bitmap.data.slice();
    this.#startedChanged = options.changed;
    this.#keep = options.keep;
    this.tiles = new MaskTiles(this.#bitmap, options.color);
    this.#trace();
  }

  get changed(): boolean {
    return this.#startedChanged || this.steps > 0;
  }

  get drawing(): boolean {
    return this.#stroke !== null;
  }

  /** The mask as it is; null when empty. */
  rle(): Rle | null {
    return bitmapToRle(this.#bitmap);
  }

  draft(): Draft {
    return { imageId: this.imageId, target: this.target, classId: this.classId, rle: this.rle() };
  }

  /** @param radius image pixels */
  begin(at: Point, radius: number, subtract: boolean): void {
    this.#stroke = { rect: null, last: at };
    this.outline = null;
    this.extend(at, radius, subtract);
  }

  extend(to: Point, radius: number, subtract: boolean): void {
    if (!this.#stroke) return;
    const rect = strokeSegment(this.#bitmap, this.#stroke.last, to, radius, subtract || this.tool === 'eraser' ? 0 : 1);
    this.#stroke = { rect: unionRect(this.#stroke.rect, rect), last: to };
    if (rect) this.#paint(rect);
  }

  end(): void {
    const rect = this.#stroke?.rect ?? null;
    this.#stroke = null;
    this.#finish(rect);
  }

  addCorner(point: Point): void {
    this.corners = [...this.corners, point];
  }

  dropCorner(): void {
    this.corners = this.corners.slice(0, -1);
  }

  /** Fills (or with `subtract` empties) the polygon drawn so far. */
  closePolygon(subtract: boolean): void {
    const rect = fillPolygon(this.#bitmap, this.corners, subtract ? 0 : 1);
    this.corners = [];
    if (rect) this.#paint(rect);
    this.#finish(rect);
  }

  /** @returns false when there was nothing to take back */
  undo(): boolean {
    if (this.corners.length > 0) {
      this.dropCorner();
      return true;
    }
    const step = this.#history.undo();
    if (step) this.#put(step.before, -1);
    return step !== null;
  }

  redo(): boolean {
    const step = this.#history.redo();
    if (step) this.#put(step.after, 1);
    return step !== null;
  }

  setClass(classId: number | null, color: string): void {
    this.classId = classId;
    this.color = color;
    this.tiles.recolor(color);
    this.version++;
    if (this.changed) this.#keep(this.draft());
  }

  #put(patch: Patch, by: 1 | -1): void {
    putPatch(this.#bitmap, patch);
    this.#settle(patch);
    this.steps += by;
    this.#paint(rectOf(patch));
    this.#trace();
    this.#keep(this.draft());
  }

  #finish(rect: Rect | null): void {
    if (rect) {
      const before = cutPatch({ ...this.#bitmap, data: this.#settled }, rect);
      const after = cutPatch(this.#bitmap, rect);
      if (before.data.some((pixel, i) => pixel !== after.data[i])) {
        this.#history.push({ before, after });
        this.#settle(after);
        this.steps++;
        this.#keep(this.draft());
      }
    }
    this.#trace();
  }

  #settle(patch: Patch): void {
    putPatch({ ...this.#bitmap, data: this.#settled }, patch);
  }

  #paint(rect: Rect): void {
    this.tiles.update(rect);
    this.version++;
  }

  #trace(): void {
    const rect = contentRect(this.#bitmap);
    this.outline = rect && pathOf(cutPatch(this.#bitmap, rect));
  }
}

function rectOf(patch: Patch): Rect {
  return { left: patch.x, top: patch.y, right: patch.x + patch.width, bottom: patch.y + patch.height };
}
