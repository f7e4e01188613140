/** One checkpoint's numbers: the teacher looks at the views, evaluate's measures look at the tokens. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { MonitorLine } from '../contract/index.ts';
import type { Backbone } from '../dinov2/index.ts';
import { Random } from '../random.ts';
import type { Views } from './views.ts';

type Measures = Omit<MonitorLine, 'step' | 'totalSteps' | 'loss' | 'dinoLoss' | 'sampleEntropy' | 'marginalEntropy' | 'seconds'>;

const STREAM = 0x40b6;

/** Images that pass through the network together. */
const AT_ONCE = 32;
/** Patches of a crop that ask for their place in the other: 64 images of 32 know the share to a hundredth. */
const ASKED = 32;
/** Patches of a crop, and of all, whose directions and clusters are looked at. */
const PATCHES_PER_VIEW = 16;
const MOST_PATCHES = 8192;
/** Patches in either half that are clustered, and clusters: 64 where there are at least 20 patches for each. */
const MOST_IN_HALF = 2048;
const CLUSTERS = 64;
const PATCHES_PER_CLUSTER = 20;

/** @param views of at least 4 images */
export async function measure(teacher: Backbone, views: Views, seed: number): Promise<Measures> {
  const { normalisePixels } = await import('../dinov2/index.ts');
  const evaluate = await import('../evaluate/index.ts');
  const { size, pairs } = views;
  const images = pairs.length;
  const { embedDim: D, patchSize } = teacher.config;
  const side = size / patchSize;
  const P = side * side;
  const perView = Math.max(1, Math.min(PATCHES_PER_VIEW, P, Math.floor(MOST_PATCHES / (2 * images))));

  const classes = [new Float32Array(images * D), new Float32Array(images * D)] as const; // by crop: [images,D]
  const patches = new Float32Array(images * 2 * perView * D); // [images,2,perView,D]
  const norms = new Float32Array(images * 2 * P);
  let hits = 0;
  let asked = 0;
  for (let from = 0; from < images; from += AT_ONCE) {
    const batch = pairs.slice(from, from + AT_ONCE);
    const input = new Float32Array(batch.length * 2 * 3 * size * size); // [batch,2,3,size,size]
    batch.flat().forEach(({ pixels }, at) => normalisePixels(pixels, input, at * pixels.length));
    const tokens = await teacher.features(input, batch.length * 2, size, size, { norms: true });
    norms.set(tokens.norms, from * 2 * P);
    for (const [i, pair] of batch.entries()) {
      const crops = pair.map(({ place }, c) => ({ place, patches: tokens.patches.subarray((2 * i + c) * P * D, (2 * i + c + 1) * P * D) }));
      for (const [a, b] of [crops, crops.toReversed()]) {
        const found = evaluate.correspondence(a, b, side, D, ASKED);
        hits += found.hits;
        asked += found.asked;
      }
      for (const [c, crop] of crops.entries()) {
        classes[c].set(tokens.cls.subarray((2 * i + c) * D, (2 * i + c + 1) * D), (from + i) * D);
        const picked = new Random(seed, STREAM, from + i, c).permutation(P).subarray(0, perView);
        picked.forEach((patch, at) =>
          patches.set(crop.patches.subarray(patch * D, (patch + 1) * D), ((2 * (from + i) + c) * perView + at) * D),
        );
      }
    }
    await nextTurn(); // a stop can arrive
  }

  const unitClasses = classes.map((rows) => evaluate.unitVectors(rows, D));
  const allClasses = new Float32Array(2 * images * D);
  classes.forEach((rows, c) => allClasses.set(rows, c * images * D));
  const half = (images >> 1) * 2 * perView * D;
  const most = MOST_IN_HALF * D;
  const clusters = Math.max(2, Math.min(CLUSTERS, Math.floor(Math.min(half, most) / D / PATCHES_PER_CLUSTER)));
  return {
    images,
    width: D,
    denseCorrespondence: asked === 0 ? 0 : hits / asked,
    clusterStability: evaluate.clusterStability(
      patches.subarray(0, Math.min(half, most)),
      patches.subarray(half, half + most),
      D,
      clusters,
      new Random(seed, STREAM),
    ),
    viewRetrieval: evaluate.viewRetrieval(unitClasses[0], unitClasses[1], D),
    classRank: evaluate.effectiveRank(allClasses, D),
    patchRank: evaluate.effectiveRank(patches, D),
    classCosine: evaluate.meanCosineBetween(unitClasses[0], images, D),
    patchCosine: evaluate.meanCosineBetween(evaluate.unitVectors(patches, D), images, D),
    outlierShare: evaluate.outlierShare(norms),
  };
}
