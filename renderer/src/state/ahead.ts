/** The next image, asked for while this one is looked at. */
import { api } from '../api/client.ts';
import type { ReviewImage } from '../../../core/contract/index.ts';
import { ImageSource } from '../canvas/source.svelte.ts';
import { imageSideFor } from '../logic/viewport.ts';

export class LookAhead {
  #ahead: { imageId: number; answer: Promise<ReviewImage> } | null = null;

  /** The answer under way for that image; null: it was not asked for, or is out of date. */
  answerFor(imageId: number): Promise<ReviewImage> | null {
    return this.#ahead?.imageId === imageId ? this.#ahead.answer : null;
  }

  forget(): void {
    this.#ahead = null;
  }

  /** @param screen in CSS pixels: the picture is loaded as large as it will be shown */
  ask(imageId: number, screen: { readonly width: number; readonly height: number }): void {
    if (this.#ahead?.imageId === imageId) return;
    const answer = api.reviewImage.query({ imageId, ahead: true });
    this.#ahead = { imageId, answer };
    answer.then(
      ({ image }) => {
        const scale = Math.min(4, screen.width / image.width, screen.height / image.height);
        ImageSource.prefetch(imageId, imageSideFor(image, { scale, x: 0, y: 0 }, window.devicePixelRatio));
      },
      () => this.forget(),
    );
  }
}
