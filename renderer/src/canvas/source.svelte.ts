/** The picture under the masks: asked of the host as large as the screen needs it, the smaller one shown meanwhile. */
import { fileUrl } from '../api/client.ts';

export class ImageSource {
  picture = $state.raw<HTMLImageElement | null>(null);
  failed = $state(false);
  #imageId = 0;
  #side = 0;

  /** Shows an image with at least `side` pixels on its longest side; a smaller request than before changes nothing. */
  want(imageId: number, side: number): void {
    if (imageId === this.#imageId && side <= this.#side) return;
    if (imageId !== this.#imageId) {
      this.picture = null;
      this.failed = false;
    }
    this.#imageId = imageId;
    this.#side = side;
    const picture = new Image();
    picture.src = fileUrl.image(imageId, side);
    picture.decode().then(
      () => {
        if (imageId === this.#imageId && (this.picture?.naturalWidth ?? 0) <= picture.naturalWidth) this.picture = picture;
      },
      () => {
        if (imageId === this.#imageId && !this.picture) this.failed = true;
      },
    );
  }

  /** Has the browser fetch an image that will be wanted next. */
  static prefetch(imageId: number, side: number): void {
    new Image().src = fileUrl.image(imageId, side);
  }
}
