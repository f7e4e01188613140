/** The canvas's view of an image: pan and zoom as arithmetic. Image coordinates in pixels, screen ones in CSS pixels. */
import type { Box } from '../../../core/contract/index.ts';
import type { Point } from './bitmap.ts';

export interface Viewport {
  /** CSS pixels per image pixel. */
  readonly scale: number;
  /** Screen position of the image's upper left corner. */
  readonly x: number;
  readonly y: number;
}

export interface Size {
  readonly width: number;
  readonly height: number;
}

export const maxScale = 40;

export function toImage(view: Viewport, screen: Point): Point {
  return { x: (screen.x - view.x) / view.scale, y: (screen.y - view.y) / view.scale };
}

export function toScreen(view: Viewport, image: Point): Point {
  return { x: image.x * view.scale + view.x, y: image.y * view.scale + view.y };
}

/** The whole box ([x, y, width, height]) centred, with `margin` CSS pixels around it. */
export function fitBox(box: Box, screen: Size, margin: number, limit = maxScale): Viewport {
  const width = Math.max(1, screen.width - 2 * margin);
  const height = Math.max(1, screen.height - 2 * margin);
  const scale = Math.min(limit, width / Math.max(1, box[2]), height / Math.max(1, box[3]));
  return { scale, x: screen.width / 2 - (box[0] + box[2] / 2) * scale, y: screen.height / 2 - (box[1] + box[3] / 2) * scale };
}

/** The whole image; small images are enlarged up to four times. */
export function fitImage(image: Size, screen: Size): Viewport {
  return fitBox([0, 0, image.width, image.height], screen, 24, 4);
}

/** An object with room around it: it fills at most 45 % of the view, so that its neighbourhood is seen. */
export function fitObject(box: Box, screen: Size): Viewport {
  const pad = Math.max(box[2], box[3]) * 0.6 + 4;
  return fitBox([box[0] - pad, box[1] - pad, box[2] + 2 * pad, box[3] + 2 * pad], screen, 0, 12);
}

/** Zooms by `factor`; the image point under the pointer stays there. The smallest scale shows the image at 40 CSS pixels. */
export function zoomAt(view: Viewport, pointer: Point, factor: number, image: Size): Viewport {
  const smallest = Math.min(1, 40 / Math.max(image.width, image.height));
  const scale = Math.min(maxScale, Math.max(smallest, view.scale * factor));
  const applied = scale / view.scale;
  return { scale, x: pointer.x - (pointer.x - view.x) * applied, y: pointer.y - (pointer.y - view.y) * applied };
}

/** Moves the view, keeping at least `keep` CSS pixels of the image on screen. */
export function panBy(view: Viewport, dx: number, dy: number, image: Size, screen: Size, keep = 48): Viewport {
  const clamp = (value: number, low: number, high: number): number => Math.min(Math.max(value, low), high);
  return {
    scale: view.scale,
    x: clamp(view.x + dx, keep - image.width * view.scale, screen.width - keep),
    y: clamp(view.y + dy, keep - image.height * view.scale, screen.height - keep),
  };
}

/** True when the box is fully inside the screen and not tiny: no need to move the view to show it. */
export function showsWell(view: Viewport, box: Box, screen: Size): boolean {
  return inSight(view, box, screen) && Math.max(box[2], box[3]) * view.scale >= 36;
}

/** Whether the whole box is on screen. */
export function inSight(view: Viewport, box: Box, screen: Size): boolean {
  const a = toScreen(view, { x: box[0], y: box[1] });
  const b = toScreen(view, { x: box[0] + box[2], y: box[1] + box[3] });
  return a.x >= 8 && a.y >= 8 && b.x <= screen.width - 8 && b.y <= screen.height - 8;
}

/** The box in the middle of the screen, at the same scale. */
export function centreOn({ scale }: Viewport, box: Box, screen: Size): Viewport {
  const middle = (from: number, length: number, all: number): number => all / 2 - (from + length / 2) * scale;
  return { scale, x: middle(box[0], box[2], screen.width), y: middle(box[1], box[3], screen.height) };
}

/** Longest side to ask the host for: the next power of two that covers the screen's pixels, at most `cap` and the image's own. */
export function imageSideFor(image: Size, view: Viewport, pixelRatio: number, cap = 8192): number {
  const side = Math.max(image.width, image.height);
  const wanted = 2 ** Math.ceil(Math.log2(Math.max(512, side * view.scale * pixelRatio)));
  return Math.min(wanted, cap, side);
}
