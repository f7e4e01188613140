/** Entry of a thread of feed.ts: a picture and its crops as numbers in, normalised pixels into shared memory. */
import { applyCrop, type CropDraw, type PixelImage } from '../nn/index.ts';
import { serve } from '../threads.ts';
import { normalisePixels } from './augment.ts';

export interface CropItem {
  readonly picture: PixelImage;
  /** `place`: the crop's first value in `out`. */
  readonly crops: readonly { readonly draw: CropDraw; readonly size: number; readonly out: Float32Array; readonly place: number }[];
}

/** The words of what went wrong, or null. */
export type CropReply = string | null;

serve(({ picture, crops }: CropItem): CropReply => {
  try {
    for (const { draw, size, out, place } of crops) normalisePixels(applyCrop(picture, draw, size), out, place);
    return null;
  } catch (error) {
    return (error as Error).message;
  }
});
