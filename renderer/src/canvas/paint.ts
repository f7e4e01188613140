/** Draws the layers of the review canvas. Functions of their arguments only; who calls when is ReviewCanvas's business. */
import type { ReviewObject } from '../../../core/contract/index.ts';
import type { Point } from '../logic/bitmap.ts';
import { isUndecided, keyOf } from '../logic/review.ts';
import type { Size, Viewport } from '../logic/viewport.ts';
import type { EditSession } from './edit.svelte.ts';
import type { Sprites } from './sprites.ts';

export type MaskLook = 'fill' | 'outline' | 'off';

type Context = CanvasRenderingContext2D;

function clear(context: Context): void {
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, context.canvas.width, context.canvas.height);
}

/** Image pixels to device pixels. */
function enter(context: Context, view: Viewport, ratio: number): void {
  context.setTransform(view.scale * ratio, 0, 0, view.scale * ratio, view.x * ratio, view.y * ratio);
}

export function paintImage(context: Context, picture: CanvasImageSource | null, image: Size, view: Viewport, ratio: number): void {
  clear(context);
  if (!picture) return;
  enter(context, view, ratio);
  // Single pixels are shown as such when they are large.
  context.imageSmoothingEnabled = view.scale * ratio < 3;
  context.imageSmoothingQuality = 'high';
  context.drawImage(picture, 0, 0, image.width, image.height);
}

export interface MaskOptions {
  readonly look: MaskLook;
  /** 0..1 */
  readonly opacity: number;
  readonly selected: string | null;
  readonly hovered: string | null;
  /** Not drawn: the one under the brush. */
  readonly edited: string | null;
  readonly colorOf: (object: ReviewObject) => string;
}

/** Masks from large to small, so that small ones stay on top; the selected one last. */
export function paintMasks(
  context: Context,
  objects: readonly ReviewObject[],
  sprites: Sprites,
  view: Viewport,
  ratio: number,
  options: MaskOptions,
): void {
  clear(context);
  if (options.look === 'off' && options.selected === null) return;
  const screen = context.canvas;
  const shown = objects
    .filter((o) => keyOf(o) !== options.edited && inSight(o, view, ratio, screen.width, screen.height))
    .sort((a, b) => Number(keyOf(a) === options.selected) - Number(keyOf(b) === options.selected) || b.area - a.area);
  const dim = options.edited === null ? 1 : 0.45;
  for (const object of shown) {
    const key = keyOf(object);
    const selected = key === options.selected && options.edited === null;
    if (options.look === 'off' && !selected) continue;
    const sprite = sprites.of(object.rle);
    const color = options.colorOf(object);
    const { x, y, width, height } = sprite.patch;
    enter(context, view, ratio);
    context.imageSmoothingEnabled = view.scale * ratio < 1;
    if (options.look === 'fill') {
      // Undecided masks are lighter than decided ones.
      context.globalAlpha = options.opacity * dim * (isUndecided(object) ? 0.72 : 1) * (key === options.hovered && !selected ? 1.3 : 1);
      context.drawImage(sprite.picture(color), x, y, width, height);
    }
    context.lineJoin = 'round';
    if (selected) {
      context.globalAlpha = 1;
      stroke(context, sprite.path, 'rgb(0 0 0 / 65%)', 4.5 / view.scale);
      stroke(context, sprite.path, '#ffffff', 2 / view.scale);
    } else {
      context.globalAlpha = (isUndecided(object) ? 0.8 : 1) * dim;
      stroke(context, sprite.path, color, (isUndecided(object) ? 1.25 : 2) / view.scale);
    }
  }
  context.globalAlpha = 1;
}

function stroke(context: Context, path: Path2D, color: string, width: number): void {
  context.strokeStyle = color;
  context.lineWidth = width;
  context.stroke(path);
}

function inSight(object: ReviewObject, view: Viewport, ratio: number, width: number, height: number): boolean {
  const [x, y, w, h] = object.box;
  const left = (x * view.scale + view.x) * ratio;
  const top = (y * view.scale + view.y) * ratio;
  return left < width && top < height && left + w * view.scale * ratio > 0 && top + h * view.scale * ratio > 0;
}

export interface OverlayOptions {
  readonly color: string;
  readonly opacity: number;
  /** The pointer in CSS pixels, when over the canvas. */
  readonly pointer: Point | null;
  /** Brush diameter in CSS pixels. */
  readonly brush: number;
  readonly subtract: boolean;
}

/** The mask under the brush, the brush's circle, the polygon being drawn. */
export function paintOverlay(context: Context, session: EditSession | null, view: Viewport, ratio: number, options: OverlayOptions): void {
  clear(context);
  if (!session) return;
  context.globalAlpha = Math.min(0.75, options.opacity + 0.12);
  session.tiles.draw(context, view, ratio);
  context.globalAlpha = 1;
  if (session.outline) {
    enter(context, view, ratio);
    stroke(context, session.outline, 'rgb(0 0 0 / 55%)', 3.5 / view.scale);
    stroke(context, session.outline, '#ffffff', 1.5 / view.scale);
  }
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  if (session.corners.length > 0) paintCorners(context, session.corners, view, options);
  if (options.pointer && session.tool !== 'polygon') {
    context.beginPath();
    context.arc(options.pointer.x, options.pointer.y, Math.max(2, options.brush / 2), 0, 2 * Math.PI);
    context.lineWidth = 3;
    context.strokeStyle = 'rgb(0 0 0 / 55%)';
    context.stroke();
    context.lineWidth = 1.25;
    context.strokeStyle = options.subtract ? '#ff8484' : '#ffffff';
    context.stroke();
  }
}

function paintCorners(context: Context, corners: readonly Point[], view: Viewport, options: OverlayOptions): void {
  const points = corners.map((p) => ({ x: p.x * view.scale + view.x, y: p.y * view.scale + view.y }));
  context.beginPath();
  for (const [i, p] of points.entries()) {
    if (i === 0) context.moveTo(p.x, p.y);
    else context.lineTo(p.x, p.y);
  }
  if (options.pointer) context.lineTo(options.pointer.x, options.pointer.y);
  context.lineWidth = 3.5;
  context.strokeStyle = 'rgb(0 0 0 / 55%)';
  context.stroke();
  context.lineWidth = 1.5;
  context.strokeStyle = options.subtract ? '#ff8484' : options.color;
  context.stroke();
  for (const [i, p] of points.entries()) {
    context.beginPath();
    context.arc(p.x, p.y, i === 0 ? 5 : 3.5, 0, 2 * Math.PI);
    context.fillStyle = i === 0 ? options.color : '#ffffff';
    context.fill();
    context.lineWidth = 1.25;
    context.strokeStyle = 'rgb(0 0 0 / 70%)';
    context.stroke();
  }
}
