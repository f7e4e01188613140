/** The canvas's view as state: where the image lies on screen. Arithmetic is in logic/viewport. */
import type { Box } from '../../../core/contract/index.ts';
import type { Point } from '../logic/bitmap.ts';
import { centreOn, fitImage, fitObject, inSight, panBy, showsWell, toImage, zoomAt, type Size, type Viewport } from '../logic/viewport.ts';

export class CanvasView {
  viewport = $state.raw<Viewport>({ scale: 1, x: 0, y: 0 });
  screen = $state.raw<Size>({ width: 0, height: 0 });
  image = $state.raw<Size>({ width: 1, height: 1 });
  #fitted = true;

  /** Takes the screen's size; an image that was fitted stays so. */
  resize(screen: Size): void {
    this.screen = screen;
    if (this.#fitted) this.fit();
  }

  show(image: Size): void {
    this.image = image;
    this.fit();
  }

  fit(): void {
    if (this.screen.width > 0) this.viewport = fitImage(this.image, this.screen);
    this.#fitted = true;
  }

  /** Never farther away than the whole image. */
  zoomTo(box: Box): void {
    const near = fitObject(box, this.screen);
    if (near.scale <= fitImage(this.image, this.screen).scale) return this.fit();
    this.viewport = near;
    this.#fitted = false;
  }

  /** Moves only when the object is out of sight; zooms only when it is larger than the screen. */
  moveTo(box: Box): void {
    if (inSight(this.viewport, box, this.screen)) return;
    const centred = centreOn(this.viewport, box, this.screen);
    if (!inSight(centred, box, this.screen)) return this.zoomTo(box);
    this.viewport = centred;
    this.#fitted = false;
  }

  /** Moves only when the object is out of sight or too small to judge. */
  bringIntoSight(box: Box): void {
    if (!showsWell(this.viewport, box, this.screen)) this.zoomTo(box);
  }

  zoomAt(pointer: Point, factor: number): void {
    this.viewport = zoomAt(this.viewport, pointer, factor, this.image);
    this.#fitted = false;
  }

  pan(dx: number, dy: number): void {
    this.viewport = panBy(this.viewport, dx, dy, this.image, this.screen);
    this.#fitted = false;
  }

  toImage(screen: Point): Point {
    return toImage(this.viewport, screen);
  }
}
