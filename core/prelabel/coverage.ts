/** Pixels of a candidate: how much of each patch it covers, and joint bilateral upsampling of that. */
import type { RgbImage } from '../images/index.ts';
import { fillHoles, removeSmall } from '../labels/index.ts';
import type { Described } from './cues.ts';
import type { FeatureView } from './discover.ts';
import { upsampledMasks, type EdgeEngine, type PatchShares } from './edges.ts';
import { trimBox, type BoxMask } from './grid.ts';
import { gridPlacements, gridShifts, pixelBox } from './refine.ts';

/**
 * Share of each patch that a region covers, for every grid of the view. A linear unmixing: a patch's feature lies on the
 * line from the mean around the region (0) to the mean of the region (1), and a mixed patch on the outline lands between,
 * which places the edge inside a patch. The region has the last word: a patch of its own is covered by at least 0.4, one
 * beside it by at most 0.6, a shifted patch by its part of both.
 */
export function coverageOf(view: FeatureView, { candidate, near, axis, origin }: Described): PatchShares[] {
  const { gridWidth, gridHeight, dim } = view.grid;
  const squared = axis.reduce((sum, a) => sum + a * a, 0);
  /** 1 for its own patches, 0 for those beside it. */
  const part = new Map<number, number>();
  for (const q of near) part.set(q, 0);
  for (const q of candidate.cells) part.set(q, 1);
  return [view.grid.unit, ...view.shifted].map((rows, pass) => {
    const [right, down] = gridShifts[pass].map((shift) => Math.ceil(shift));
    const touched = right + down === 0 ? part.keys() : touching(part, gridWidth, right, down);
    const cells: number[] = [];
    const shares: number[] = [];
    for (const q of touched) {
      // Of the up to four patches below it; those past the border do not count.
      const across = Math.min(right, gridWidth - 1 - (q % gridWidth));
      const below = Math.min(down, gridHeight - 1 - Math.floor(q / gridWidth));
      let own = 0;
      for (let dy = 0; dy <= below; dy++) for (let dx = 0; dx <= across; dx++) own += part.get(q + dy * gridWidth + dx) ?? 0;
      own /= (1 + across) * (1 + below);
      let along = -origin;
      for (let k = 0; k < dim; k++) along += axis[k] * rows[q * dim + k];
      const mixed = squared > 1e-12 ? along / squared : 1;
      cells.push(q);
      shares.push(Math.min(0.6 + 0.4 * own, Math.max(0.4 * own, mixed)));
    }
    return { cells, shares };
  });
}

/** Patches of a shifted grid that lie over any of the patches in `part`. */
function touching(part: ReadonlyMap<number, number>, gridWidth: number, right: number, down: number): Set<number> {
  const found = new Set<number>();
  for (const q of part.keys()) {
    for (let dy = 0; dy <= down; dy++) {
      for (let dx = 0; dx <= Math.min(right, q % gridWidth); dx++) if (q >= dy * gridWidth) found.add(q - dy * gridWidth - dx);
    }
  }
  return found;
}

/** A candidate and the view it was found in. */
export interface SeenCandidate {
  readonly view: FeatureView;
  readonly d: Described;
}

/**
 * Pixels of described candidates of one image, all views of the same grids: upsampled, cut at 0.5, small parts and holes
 * gone. Null where nothing is left.
 */
export async function refineCandidates(
  image: RgbImage,
  seen: readonly SeenCandidate[],
  minPixels: number,
  engine: EdgeEngine | null,
): Promise<(BoxMask | null)[]> {
  if (seen.length === 0) return [];
  const { grid, shifted } = seen[0].view;
  const { gridWidth, gridHeight } = grid;
  const grids = gridPlacements(gridWidth, gridHeight, 1 + shifted.length);
  const requests = seen.map(({ view, d }) => {
    const { x, y, width, height } = d.candidate.box;
    const [right, bottom] = [Math.min(gridWidth - 1, x + width), Math.min(gridHeight - 1, y + height)];
    return { maps: coverageOf(view, d), box: pixelBox(image, grids[0], Math.max(0, x - 1), Math.max(0, y - 1), right, bottom) };
  });
  return (await upsampledMasks(image, grids, requests, engine)).map((rough) => cleaned(rough, minPixels));
}

function cleaned(rough: BoxMask, minPixels: number): BoxMask | null {
  if (rough.area === 0) return null;
  // Crumbs beside a region belong to its neighbours; a region of its own has at least 2 % of the mask.
  const least = Math.max(minPixels, Math.round(0.02 * rough.area));
  const clean = fillHoles(removeSmall(rough, least), Math.max(minPixels, Math.round(0.005 * rough.area)));
  return trimBox({ ...rough, data: clean.data });
}
