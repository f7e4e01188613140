/** Regions of one image from its stored features: drafts to review and what clusters are made from. Which thread runs it is regionPool.ts. */
import type { ProposalDraft } from '../contract/index.ts';
import { unitRows } from './discover.ts';
import type { EdgeEngine } from './edges.ts';
import { FeatureStore } from './features.ts';
import type { PatchFeatures } from './featureFile.ts';
import type { FeatureOptions, PrelabelImage } from './features.ts';
import { draftOf, readGuide } from './job.ts';
import { findPool } from './pool.ts';
import { choose, scoreWithoutLabels } from './propose.ts';
import type { ProposeOptions } from './propose.ts';
import { withoutPosition } from './statistics.ts';
import type { SetStatistics } from './statistics.ts';

/** Dimensions of a region's descriptor: the leading principal axes of the set. */
export const descriptorSize = 64;

/** What is the same for every image of a job. Plain data: it is sent to threads. */
export interface RegionSettings {
  readonly modelKey: string;
  readonly cacheDir: string;
  readonly imageRoot: string;
  readonly features: Partial<FeatureOptions> | undefined;
  /** Of the network, in pixels: by it features are named. */
  readonly patchSize: number;
  readonly statistics: SetStatistics;
  readonly propose: ProposeOptions;
  readonly guidePixels: number;
}

export interface ImageRegions {
  readonly drafts: readonly ProposalDraft[];
  /** [drafts, descriptorSize] unit rows. */
  readonly rows: Float32Array<ArrayBuffer>;
}

/**
 * A function that finds the regions of one image after the other.
 * It throws AppError no-checkpoint when the image's features are not stored, and what decoding and the engine throw.
 * @param engine brings candidates to pixels; null: this thread
 */
export function regionFinder(settings: RegionSettings, engine: EdgeEngine | null): (image: PrelabelImage) => Promise<ImageRegions> {
  const { imageRoot, statistics, guidePixels } = settings;
  const store = new FeatureStore({ ...settings, backbone: null, options: settings.features });
  return async (image) => {
    const features = await store.get(image);
    const guide = await readGuide(imageRoot, image, guidePixels);
    const drafts: ProposalDraft[] = [];
    const descriptors: Float32Array[] = [];
    const pool = await findPool(store, image, features, guide, statistics, settings.propose, engine);
    const scored = pool.map((candidate) => ({ ...candidate, score: scoreWithoutLabels(candidate) }));
    const { maxProposals: most, maxOverlap } = settings.propose;
    for (const { mask, cells, score, margin, source } of choose(scored, { most, sure: most, leastScore: 0, maxOverlap })) {
      const draft = draftOf(mask, guide, image, { score, margin, classId: null, source });
      if (draft === null) continue;
      drafts.push(draft);
      descriptors.push(describeRegion(features, cells, statistics));
    }
    const rows = new Float32Array(drafts.length * descriptorSize);
    descriptors.forEach((row, i) => rows.set(row, i * descriptorSize));
    return { drafts, rows };
  };
}

/** Mean of a region's patches without place, in the set's leading principal axes, length 1: what regions are clustered by. */
function describeRegion(features: PatchFeatures, cells: readonly number[], statistics: SetStatistics): Float32Array {
  const { dim, axes, mean, position, variances } = statistics;
  const sum = new Float32Array(dim);
  for (const q of cells) for (let k = 0; k < dim; k++) sum[k] += features.patches[q * dim + k] / cells.length;
  const centred = withoutPosition(sum, dim, position);
  for (let k = 0; k < dim; k++) centred[k] -= mean[k];
  const out = new Float32Array(descriptorSize);
  for (let a = 0; a < Math.min(descriptorSize, variances.length); a++)
    for (let k = 0; k < dim; k++) out[a] += centred[k] * axes[a * dim + k];
  return unitRows(out, descriptorSize);
}
