/**
 * From candidates on the patch grid to the few masks of an image that are worth a person's time: soft coverage, pixels,
 * cues, a predicted overlap, and a choice that repeats nothing.
 */
import { fillHoles, removeSmall } from '../labels/index.ts';
import type { RgbImage } from '../images/index.ts';
import { discover, discoverDefaults } from './discover.ts';
import type { Candidate, DiscoverOptions, FeatureView, PatchGrid } from './discover.ts';
import { appearanceView } from './appearance.ts';
import { boxIou, trimBox } from './grid.ts';
import type { BoxMask } from './grid.ts';
import { JointUpsampler, threshold } from './refine.ts';

/** What is known of a candidate before it has pixels. */
export interface PatchCues {
  readonly stability: number;
  /** Mean calibrated cosine between its patches. */
  readonly homogeneity: number;
  /** 1 - calibrated cosine between its mean and the mean of the patches around it. */
  readonly contrast: number;
  /** The same for the most similar of the patches around it. */
  readonly weakest: number;
  /** Share of the grid, 0..1. */
  readonly share: number;
  /** Share of the grid's border patches that are its. */
  readonly border: number;
  /** Share of its box. */
  readonly fill: number;
  readonly object: number;
  /** Spread between region and surroundings over all spread (Fisher's ratio), 0..1. */
  readonly separation: number;
}

export interface PixelCues {
  /** Colour step across the outline, in standard deviations of the image's colours. */
  readonly edge: number;
  /** IoU of the mask with the whole patches it came from. */
  readonly agreement: number;
  /** 4 pi area / perimeter^2 (pixel edges), 0..0.8. */
  readonly roundness: number;
  /** Fisher's ratio of the colours inside against those just outside, 0..1. */
  readonly colour: number;
}

export interface Proposal {
  /** At the guide's resolution. */
  readonly mask: BoxMask;
  /** Its patches. */
  readonly cells: readonly number[];
  readonly source: 'region' | 'object';
  /** Predicted overlap with a true object, 0..1. */
  readonly score: number;
  /** How unlike its surroundings it is: 1 - calibrated cosine of the means, 0..1. */
  readonly margin: number;
}

export interface ProposeOptions extends DiscoverOptions {
  /** Most proposals an image. */
  readonly maxProposals: number;
  /** Candidates that are brought to pixels. */
  readonly refined: number;
  /** A proposal overlapping a better one by a larger IoU is left out. */
  readonly maxOverlap: number;
  /** Masks and parts of masks under this many pixels are left out. */
  readonly minPixels: number;
}

export const proposeDefaults: ProposeOptions = { ...discoverDefaults, maxProposals: 20, refined: 320, maxOverlap: 0.6, minPixels: 16 };

/**
 * What a candidate found by plain appearance is worth beside the network's own: it knows edges, not what belongs together.
 * Measured with a network trained for a few minutes, at most 20 proposals an image, best overlap in percent without the
 * appearance view and with it: nuclei 24.5 and 34.3, leaves 34.3 and 34.6; at full worth leaves had 31.8.
 */
const appearanceWorth = 0.8;

/**
 * Proposals of one image, most valuable first.
 * @param image the guide: the picture at the resolution the masks shall have
 * @param views the network's, at least one, all of the same grid; their candidates and those of plain appearance compete
 */
export function propose(image: RgbImage, views: readonly FeatureView[], options: ProposeOptions = proposeDefaults): Proposal[] {
  const { grid } = views[0];
  const { gridWidth, gridHeight } = grid;
  const inside = new Uint8Array(gridWidth * gridHeight);
  const worthOf = [
    ...views.map((view) => ({ view, worth: 1 })),
    { view: appearanceView(image, gridWidth, gridHeight), worth: appearanceWorth },
  ];
  const described = worthOf
    .flatMap(({ view, worth }) =>
      discover(view.grid, view.c0, options).map((candidate) => ({ d: describe(view.grid, view.c0, candidate, inside), worth })),
    )
    .map((one) => ({ ...one, promise: promiseOf(one.d.cues) }))
    .sort((a, b) => b.promise - a.promise);
  const refined: { readonly d: Described; readonly worth: number }[] = [];
  for (const one of described) {
    if (refined.length >= options.refined) break;
    // Nested versions of one region differ by a patch or two: pixels would make them the same.
    const { box } = one.d.candidate;
    if (!refined.some(({ d }) => similarArea(d.candidate.box, box) && boxIou(d.candidate.box, box) > samePatches)) refined.push(one);
  }
  const upsampler = new JointUpsampler(image, [{ gridWidth, gridHeight, shiftX: 0, shiftY: 0 }]);
  const scratch = new Float32Array(gridWidth * gridHeight);
  const spread = colourSpread(image);
  const reach = Math.max(1, Math.round((0.15 * image.width) / gridWidth));
  const pool: Proposal[] = [];
  for (const { d, worth } of refined) {
    const mask = refineCandidate(upsampler, grid, d, scratch, options.minPixels);
    if (mask === null || mask.area < options.minPixels || mask.area > options.maxShare * image.width * image.height) continue;
    const score = worth * predictedOverlap(d.cues, pixelCues(image, mask, d, grid, spread, reach));
    pool.push({ mask, cells: d.candidate.cells, source: d.candidate.source, score, margin: Math.min(1, Math.max(0, d.cues.contrast)) });
  }
  return choose(pool, options.maxProposals, options.maxOverlap);
}

/** Candidates whose patches overlap more than this are one. */
const samePatches = 0.85;

/** Whether two masks can overlap by samePatches at all. */
function similarArea(a: BoxMask, b: BoxMask): boolean {
  return Math.min(a.area, b.area) > samePatches * Math.max(a.area, b.area);
}

/**
 * Promise of a candidate before it has pixels. Weights: least squares on the overlap with true objects of candidates from
 * hand-made patch features, nuclei and coffee leaves counting alike; rounded.
 */
function promiseOf(cues: PatchCues): number {
  return (
    0.1 * Math.min(1.2, cues.contrast) +
    0.1 * Math.min(1, cues.weakest) +
    0.36 * cues.separation -
    0.26 * cues.border -
    0.17 * cues.fill +
    0.24 * cues.object -
    0.13 * (cues.share > 0.5 ? 1 : 0) -
    0.07 * (cues.share < 0.001 ? 1 : 0) -
    0.2 * Math.sqrt(cues.stability)
  );
}

/** Predicted overlap with a true object, 0..1; weights found as those of promiseOf, on the same candidates with pixels. */
export function predictedOverlap(patch: PatchCues, pixel: PixelCues): number {
  const value =
    0.11 * Math.min(1.2, patch.contrast) +
    0.04 * patch.separation -
    0.39 * patch.border -
    0.19 * patch.fill +
    0.07 * patch.object -
    0.11 * (patch.share > 0.5 ? 1 : 0) +
    0.08 * Math.sqrt(pixel.edge) +
    0.21 * pixel.agreement +
    0.17 * pixel.roundness +
    0.23 * pixel.colour +
    0.45 * pixel.colour * pixel.roundness -
    0.12;
  return Math.min(1, Math.max(0.001, value));
}

/**
 * Takes the best proposal again and again; what overlaps it too much is dropped, the rest loses by its overlap. So the list
 * spreads over the image and over sizes instead of repeating one object's nested versions.
 */
export function choose(pool: readonly Proposal[], count: number, maxOverlap: number): Proposal[] {
  const value = Float64Array.from(pool, (p) => p.score);
  const chosen: Proposal[] = [];
  while (chosen.length < count) {
    let best = -1;
    for (let i = 0; i < value.length; i++) if (value[i] > 0 && (best < 0 || value[i] > value[best])) best = i;
    if (best < 0) break;
    chosen.push(pool[best]);
    value[best] = 0;
    for (let i = 0; i < value.length; i++) {
      if (value[i] === 0) continue;
      const overlap = boxIou(pool[best].mask, pool[i].mask);
      value[i] = overlap > maxOverlap ? 0 : value[i] * (1 - overlap) ** 2;
    }
  }
  return chosen;
}

/** Patches within `reach` (8-neighbour steps) of a candidate but not its own. */
function ringOf(candidate: Candidate, inside: Uint8Array, gridWidth: number, gridHeight: number, reach: number): number[] {
  const { x, y, width, height } = candidate.box;
  const ring: number[] = [];
  for (let gy = Math.max(0, y - reach); gy < Math.min(gridHeight, y + height + reach); gy++) {
    for (let gx = Math.max(0, x - reach); gx < Math.min(gridWidth, x + width + reach); gx++) {
      if (inside[gy * gridWidth + gx] === 1) continue;
      let near = false;
      for (let ny = Math.max(0, gy - reach); ny <= Math.min(gridHeight - 1, gy + reach) && !near; ny++) {
        for (let nx = Math.max(0, gx - reach); nx <= Math.min(gridWidth - 1, gx + reach) && !near; nx++)
          near = inside[ny * gridWidth + nx] === 1;
      }
      if (near) ring.push(gy * gridWidth + gx);
    }
  }
  return ring;
}

function meanOf(unit: Float32Array, dim: number, cells: readonly number[]): Float64Array {
  const mean = new Float64Array(dim);
  for (const q of cells) for (let k = 0; k < dim; k++) mean[k] += unit[q * dim + k];
  for (let k = 0; k < dim; k++) mean[k] /= Math.max(1, cells.length);
  return mean;
}

function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let k = 0; k < a.length; k++) sum += a[k] * b[k];
  return sum;
}

/** Cues of one candidate and its soft coverage of the patches in and around it. */
export interface Described {
  readonly candidate: Candidate;
  readonly cues: PatchCues;
  /** Patches with coverage above 0: its own and those around. */
  readonly cells: Int32Array;
  /** Estimated share of each patch that the region covers: at least 0.4 inside, at most 0.6 around. */
  readonly coverage: Float32Array;
}

/**
 * Coverage is a linear unmixing: a patch's feature lies on the line from the mean around the region (0) to the mean of
 * the region (1). Mixed patches on the outline land between, which places the edge inside a patch.
 */
export function describe(grid: PatchGrid, c0: number, candidate: Candidate, inside: Uint8Array): Described {
  const { gridWidth, gridHeight, dim, unit } = grid;
  const calibrate = (cosine: number): number => (cosine - c0) / Math.max(1e-9, 1 - c0);
  const own = candidate.cells;
  for (const q of own) inside[q] = 1;
  const near = ringOf(candidate, inside, gridWidth, gridHeight, 1);
  const around = ringOf(candidate, inside, gridWidth, gridHeight, 2);
  const mean = meanOf(unit, dim, own);
  const other = meanOf(unit, dim, around);
  const length = Math.sqrt(dot(mean, mean)) || 1;
  const otherLength = Math.sqrt(dot(other, other)) || 1;

  let weakest = -1;
  for (const q of near) {
    let cosine = 0;
    for (let k = 0; k < dim; k++) cosine += unit[q * dim + k] * mean[k];
    weakest = Math.max(weakest, cosine / length);
  }
  let edgeCells = 0;
  for (const q of own) {
    const x = q % gridWidth;
    if (x === 0 || x === gridWidth - 1 || q < gridWidth || q >= gridWidth * (gridHeight - 1)) edgeCells++;
  }
  let between = 0;
  for (let k = 0; k < dim; k++) between += (mean[k] - other[k]) ** 2;
  const n = own.length;
  const pairs = (length * length * n - 1) / Math.max(1, n - 1);
  const cues: PatchCues = {
    stability: candidate.stability,
    homogeneity: n === 1 ? 1 : Math.max(0, calibrate(pairs)),
    contrast: around.length === 0 ? 0 : Math.min(2, 1 - calibrate(dot(mean, other) / (length * otherLength))),
    weakest: near.length === 0 ? 0 : Math.min(2, 1 - calibrate(weakest)),
    share: n / (gridWidth * gridHeight),
    border: edgeCells / Math.max(1, 2 * (gridWidth + gridHeight) - 4),
    fill: n / (candidate.box.width * candidate.box.height),
    object: candidate.source === 'object' ? 1 : 0,
    separation: between / (between + Math.max(0, 1 - length * length) + Math.max(0, 1 - otherLength * otherLength) + 1e-9),
  };

  const axis = new Float64Array(dim);
  let squared = 0;
  let zero = 0;
  for (let k = 0; k < dim; k++) {
    axis[k] = mean[k] - other[k];
    squared += axis[k] * axis[k];
    zero += axis[k] * other[k];
  }
  const cells = new Int32Array(n + near.length);
  const coverage = new Float32Array(n + near.length);
  for (let i = 0; i < cells.length; i++) {
    const q = i < n ? own[i] : near[i - n];
    let along = -zero;
    for (let k = 0; k < dim; k++) along += axis[k] * unit[q * dim + k];
    const share = squared > 1e-12 && around.length > 0 ? Math.min(1, Math.max(0, along / squared)) : 1;
    cells[i] = q;
    coverage[i] = i < n ? Math.max(0.4, share) : Math.min(0.6, share);
  }
  for (const q of own) inside[q] = 0;
  return { candidate, cues, cells, coverage };
}

/** Pixels of a described candidate: upsampled, cut at 0.5, small parts and holes gone. Null when nothing is left. */
export function refineCandidate(
  upsampler: JointUpsampler,
  grid: PatchGrid,
  described: Described,
  scratch: Float32Array,
  minPixels: number,
): BoxMask | null {
  const { box } = described.candidate;
  for (let i = 0; i < described.cells.length; i++) scratch[described.cells[i]] = described.coverage[i];
  const pixels = upsampler.pixelBox(
    Math.max(0, box.x - 1),
    Math.max(0, box.y - 1),
    Math.min(grid.gridWidth - 1, box.x + box.width),
    Math.min(grid.gridHeight - 1, box.y + box.height),
  );
  const rough = threshold(upsampler.upsample([scratch], pixels), pixels);
  for (let i = 0; i < described.cells.length; i++) scratch[described.cells[i]] = 0;
  if (rough.area === 0) return null;
  // Crumbs beside a region belong to its neighbours; a region of its own has at least 2 % of the mask.
  const least = Math.max(minPixels, Math.round(0.02 * rough.area));
  const clean = fillHoles(removeSmall(rough, least), Math.max(minPixels, Math.round(0.005 * rough.area)));
  return trimBox({ ...rough, data: clean.data });
}

/** Standard deviation of an image's colours (root of the mean over channels), 0..255; at least 1. */
export function colourSpread(image: RgbImage): number {
  const sums = [0, 0, 0];
  const squares = [0, 0, 0];
  const n = image.width * image.height;
  const step = Math.max(1, Math.floor(n / 20000));
  let counted = 0;
  for (let i = 0; i < n; i += step, counted++) {
    for (let c = 0; c < 3; c++) {
      const v = image.data[i * 3 + c];
      sums[c] += v;
      squares[c] += v * v;
    }
  }
  let variance = 0;
  for (let c = 0; c < 3; c++) variance += squares[c] / counted - (sums[c] / counted) ** 2;
  return Math.max(1, Math.sqrt(Math.max(0, variance / 3)));
}

/**
 * Cues of a mask's pixels.
 * @param spread from colourSpread
 * @param reach pixels on each side of the outline whose colours are compared
 */
export function pixelCues(image: RgbImage, mask: BoxMask, described: Described, grid: PatchGrid, spread: number, reach: number): PixelCues {
  const { width: imageWidth, height: imageHeight, data: rgb } = image;
  const { data, width, height } = mask;
  let step = 0;
  let compared = 0;
  let perimeter = 0;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (data[y * width + x] === 0) continue;
      for (let side = 0; side < 4; side++) {
        const dx = side === 0 ? 1 : side === 1 ? -1 : 0;
        const dy = side === 2 ? 1 : side === 3 ? -1 : 0;
        const nx = x + dx;
        const ny = y + dy;
        if (nx >= 0 && ny >= 0 && nx < width && ny < height && data[ny * width + nx] === 1) continue;
        perimeter++;
        const ix = mask.x + x - dx * (reach - 1);
        const iy = mask.y + y - dy * (reach - 1);
        const ox = mask.x + x + dx * reach;
        const oy = mask.y + y + dy * reach;
        if (ix < 0 || iy < 0 || ox < 0 || oy < 0 || ix >= imageWidth || ox >= imageWidth || iy >= imageHeight || oy >= imageHeight)
          continue;
        const a = (iy * imageWidth + ix) * 3;
        const b = (oy * imageWidth + ox) * 3;
        const dr = rgb[a] - rgb[b];
        const dg = rgb[a + 1] - rgb[b + 1];
        const db = rgb[a + 2] - rgb[b + 2];
        step += Math.sqrt((dr * dr + dg * dg + db * db) / 3);
        compared++;
      }
    }
  }
  const { gridWidth, gridHeight } = grid;
  const patchPixels = (imageWidth / gridWidth) * (imageHeight / gridHeight);
  let shared = 0;
  const own = new Uint8Array(gridWidth * gridHeight);
  for (const q of described.candidate.cells) own[q] = 1;
  for (let y = 0; y < height; y++) {
    const row = Math.floor(((mask.y + y) * gridHeight) / imageHeight) * gridWidth;
    for (let x = 0; x < width; x++) {
      if (data[y * width + x] === 1) shared += own[row + Math.floor(((mask.x + x) * gridWidth) / imageWidth)];
    }
  }
  const whole = described.candidate.cells.length * patchPixels;
  return {
    edge: compared === 0 ? 0 : Math.min(4, step / compared / spread),
    agreement: shared / Math.max(1, mask.area + whole - shared),
    roundness: (4 * Math.PI * mask.area) / (perimeter * perimeter),
    colour: colourSeparation(image, mask, Math.ceil(0.75 * Math.sqrt(patchPixels))),
  };
}

/** Fisher's ratio of colours: between / (between + within), mask against the rest of its box grown by `margin`. */
function colourSeparation(image: RgbImage, mask: BoxMask, margin: number): number {
  const x0 = Math.max(0, mask.x - margin);
  const y0 = Math.max(0, mask.y - margin);
  const x1 = Math.min(image.width, mask.x + mask.width + margin);
  const y1 = Math.min(image.height, mask.y + mask.height + margin);
  // A few thousand pixels settle a mean and a variance.
  const step = Math.max(1, Math.floor(Math.sqrt(((x1 - x0) * (y1 - y0)) / 4000)));
  const sums = new Float64Array(8); // count, r, g, b outside; the same inside
  const squares = new Float64Array(2);
  for (let y = y0; y < y1; y += step) {
    const row = y - mask.y;
    for (let x = x0; x < x1; x += step) {
      const column = x - mask.x;
      const inside = row >= 0 && column >= 0 && row < mask.height && column < mask.width ? mask.data[row * mask.width + column] : 0;
      const at = (y * image.width + x) * 3;
      const r = image.data[at];
      const g = image.data[at + 1];
      const b = image.data[at + 2];
      const to = inside * 4;
      sums[to]++;
      sums[to + 1] += r;
      sums[to + 2] += g;
      sums[to + 3] += b;
      squares[inside] += r * r + g * g + b * b;
    }
  }
  if (sums[0] === 0 || sums[4] === 0) return 0;
  let between = 0;
  let within = squares[0] / sums[0] + squares[1] / sums[4];
  for (let c = 1; c < 4; c++) {
    const outside = sums[c] / sums[0];
    const own = sums[4 + c] / sums[4];
    between += (own - outside) ** 2;
    within -= outside * outside + own * own;
  }
  return between / (between + Math.max(0, within) + 1);
}
