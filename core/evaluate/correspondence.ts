/**
 * Dense correspondence: do patches know what they show? Two crops of one image overlap at known places; a patch should
 * find, by cosine, the patch of the other crop that lies where it lies. Needs no label.
 */
import { unitVectors } from './similarity.ts';

/** Where a crop was cut out of its image, in pixels of the image. */
export interface CropPlace {
  readonly left: number;
  readonly top: number;
  readonly width: number;
  readonly height: number;
}

/** A crop's patches. */
export interface CropPatches {
  /** [side * side, dim], row-major */
  readonly patches: Float32Array;
  readonly place: CropPlace;
}

/** How far from the true place, in patches of the crop searched, a match still counts. */
export const REACH = 1.5;

/**
 * Of the patches of `from` whose centre lies inside `to`: how many have their nearest neighbour among the patches of `to`
 * (cosine) with its centre within REACH patches of the true place, Euclidean.
 * @param side patches along each side of both crops
 * @param ask at most so many patches of `from` are asked, evenly spread over those inside: the cost is ask * side^2 * dim
 */
export function correspondence(
  from: CropPatches,
  to: CropPatches,
  side: number,
  dim: number,
  ask: number,
): { readonly hits: number; readonly asked: number } {
  const inside: { patch: number; x: number; y: number }[] = [];
  for (let patch = 0; patch < side * side; patch++) {
    const [x, y] = truePlace(patch, from.place, to.place, side);
    if (x >= 0 && x < side && y >= 0 && y < side) inside.push({ patch, x, y });
  }
  const asked = Math.min(ask, inside.length);
  const unit = unitVectors(to.patches, dim);
  let hits = 0;
  for (let i = 0; i < asked; i++) {
    const { patch, x, y } = inside[Math.floor((i * inside.length) / asked)];
    const found = nearest(from.patches, patch, unit, dim);
    if (Math.hypot((found % side) + 0.5 - x, Math.floor(found / side) + 0.5 - y) <= REACH) hits++;
  }
  return { hits, asked };
}

/** Centre of a patch of one crop, in patches of the other. */
function truePlace(patch: number, from: CropPlace, to: CropPlace, side: number): [x: number, y: number] {
  const x = from.left + (((patch % side) + 0.5) * from.width) / side;
  const y = from.top + ((Math.floor(patch / side) + 0.5) * from.height) / side;
  return [((x - to.left) * side) / to.width, ((y - to.top) * side) / to.height];
}

function nearest(rows: Float32Array, row: number, unit: Float32Array, dim: number): number {
  let best = 0;
  let most = -Infinity;
  for (let at = 0; at < unit.length; at += dim) {
    let dot = 0;
    for (let k = 0; k < dim; k++) dot += rows[row * dim + k] * unit[at + k];
    if (dot > most) {
      most = dot;
      best = at / dim;
    }
  }
  return best;
}
