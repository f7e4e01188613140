/**
 * The candidates of an image with pixels and cues, kept beside its features: learning scores all of them again, not only
 * those that were shown.
 */
import type { RgbImage } from '../images/index.ts';
import { decodeRle, encodeRle } from '../labels/index.ts';
import { readCache, writeCache } from './cachefile.ts';
import type { PatchCues, PixelCues } from './cues.ts';
import type { EdgeEngine } from './edges.ts';
import type { ImageFeatures } from './featureFile.ts';
import type { FeatureStore, PrelabelImage } from './features.ts';
import { boxOfCells, type BoxMask } from './grid.ts';
import { candidates, type ProposeOptions, type RefinedCandidate } from './propose.ts';
import { featureViews, type SetStatistics } from './statistics.ts';

export interface CandidatePool {
  /** Of the guide, whose pixels the masks are. */
  readonly width: number;
  readonly height: number;
  readonly gridWidth: number;
  readonly gridHeight: number;
  readonly candidates: readonly RefinedCandidate[];
}

const version = 1;

const patchNames = [
  'stability',
  'homogeneity',
  'contrast',
  'weakest',
  'share',
  'border',
  'fill',
  'object',
  'separation',
] as const satisfies (keyof PatchCues)[];
const pixelNames = ['edge', 'agreement', 'roundness', 'colour'] as const satisfies (keyof PixelCues)[];
const cueCount = patchNames.length + pixelNames.length;

/** A mask in its box, as run lengths of the box. */
type StoredMask = readonly [x: number, y: number, width: number, height: number, counts: string];

interface Facts {
  readonly width: number;
  readonly height: number;
  readonly gridWidth: number;
  readonly gridHeight: number;
  readonly candidates: readonly {
    readonly mask: StoredMask;
    readonly cells: StoredMask;
    readonly source: RefinedCandidate['source'];
    readonly plain: boolean;
    readonly margin: number;
  }[];
}

/** Some 400 bytes a candidate. */
export async function writePool(store: FeatureStore, image: PrelabelImage, pool: CandidatePool): Promise<void> {
  const { candidates, ...sizes } = pool;
  const facts: Facts = {
    ...sizes,
    candidates: candidates.map(({ mask, cells, source, plain, margin }) => ({
      mask: pack(mask),
      cells: pack(boxOfCells(cells, pool.gridWidth, pool.gridHeight)),
      source,
      plain,
      margin,
    })),
  };
  const cues = new Float32Array(candidates.length * cueCount);
  candidates.forEach(({ patch, pixel }, i) => {
    cues.set([...patchNames.map((name) => patch[name]), ...pixelNames.map((name) => pixel[name])], i * cueCount);
  });
  await writeCache(poolFile(store, image), 'pool', version, facts, [{ name: 'cues', type: 'f32', values: cues }]);
}

/**
 * Finds an image's candidates and keeps them.
 * @param guide the picture at the resolution the masks shall have
 * @param engine brings them to pixels; null: this thread
 */
export async function findPool(
  store: FeatureStore,
  image: PrelabelImage,
  features: ImageFeatures,
  guide: RgbImage,
  statistics: SetStatistics,
  options: ProposeOptions,
  engine: EdgeEngine | null,
): Promise<readonly RefinedCandidate[]> {
  // As they will be read back: scores must not depend on whether a pool was found or read.
  const made = await candidates(guide, featureViews(features, statistics), options, engine);
  const found = made.map(({ patch, pixel, ...rest }) => ({
    ...rest,
    patch: rounded(patch),
    pixel: rounded(pixel),
  }));
  const { width, height } = guide;
  const { gridWidth, gridHeight } = features;
  await writePool(store, image, { width, height, gridWidth, gridHeight, candidates: found });
  return found;
}

/** The pool last found in an image with this network; null when there is none. */
export async function readPool(store: FeatureStore, image: PrelabelImage): Promise<CandidatePool | null> {
  const content = await readCache(poolFile(store, image), 'pool', version);
  const cues = content?.arrays.get('cues');
  if (content === null || cues === undefined) return null;
  const { candidates, ...sizes } = content.facts as Facts;
  if (cues.length !== candidates.length * cueCount) return null;
  return {
    ...sizes,
    candidates: candidates.map(({ mask, cells, ...rest }, i) => {
      const own = cues.subarray(i * cueCount, (i + 1) * cueCount);
      const named = (names: readonly string[], from: number) => Object.fromEntries(names.map((name, k) => [name, own[from + k]]));
      return {
        ...rest,
        mask: unpack(mask),
        cells: cellsOf(unpack(cells), sizes.gridWidth),
        patch: named(patchNames, 0) as unknown as PatchCues,
        pixel: named(pixelNames, patchNames.length) as unknown as PixelCues,
      };
    }),
  };
}

/** Cues in float32. */
function rounded<T extends PatchCues | PixelCues>(cues: T): T {
  return Object.fromEntries(Object.entries(cues).map(([name, value]) => [name, Math.fround(value as number)])) as unknown as T;
}

function poolFile(store: FeatureStore, image: PrelabelImage): string {
  return store.file(image).replace(/\.bin$/, '.pool');
}

function pack({ x, y, width, height, data }: BoxMask): StoredMask {
  return [x, y, width, height, encodeRle({ width, height, data }).counts];
}

function unpack([x, y, width, height, counts]: StoredMask): BoxMask {
  const { data } = decodeRle({ size: [height, width], counts });
  return { x, y, width, height, data, area: data.reduce((sum, v) => sum + v, 0) };
}

function cellsOf({ x, y, width, height, data }: BoxMask, gridWidth: number): number[] {
  const cells: number[] = [];
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) if (data[row * width + column] === 1) cells.push((y + row) * gridWidth + x + column);
  }
  return cells;
}
