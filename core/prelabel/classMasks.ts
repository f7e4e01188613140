/** Masks of the classes in one image, from class prototypes. */
import type { RgbImage } from '../images/index.ts';
import { connectedComponents, fillHoles, removeSmall } from '../labels/index.ts';
import { upsampledMaps, type EdgeEngine } from './edges.ts';
import type { ImageFeatures, PatchFeatures } from './featureFile.ts';
import { trimBox, type BoxMask } from './grid.ts';
import { splitInstances } from './instances.ts';
import { classProbabilities, type ClassPrototypes } from './prototypes.ts';
import { gridPlacements, threshold } from './refine.ts';

export interface ClassProposal {
  /** At the guide's resolution. */
  readonly mask: BoxMask;
  readonly classId: number;
  /** Mean probability of the class inside the mask. */
  readonly score: number;
  /** Mean lead over the runner-up inside the mask. */
  readonly margin: number;
}

/**
 * Masks of every class in one image: probabilities brought to pixels, the likeliest class at each pixel, connected parts,
 * touching instances split.
 * @param options.medianArea typical pixels of an object of the class at the guide's resolution; 0 when unknown
 * @param engine brings probabilities to pixels; null: this thread
 */
export async function proposeClasses(
  features: ImageFeatures,
  guide: RgbImage,
  prototypes: ClassPrototypes,
  options: { readonly minPixels: number; readonly medianArea: (classId: number) => number },
  engine: EdgeEngine | null,
): Promise<ClassProposal[]> {
  const { gridWidth, gridHeight } = features;
  const passes = [features.patches, ...features.shifted].map((rows) => classProbabilities(prototypes, rows)); // [pass][class][patch]
  const [patches] = passes;
  // Where nothing is near a class anywhere no pixel can reach one half.
  const likely = prototypes.classes.flatMap(({ classId }, index) =>
    classId !== null && patches[index].some((p) => p > 0.5) ? [{ classId, index }] : [],
  );
  const maps = likely.map(({ index }) => passes.map((classes) => classes[index]));
  const probabilities = await upsampledMaps(guide, gridPlacements(gridWidth, gridHeight, passes.length), maps, engine);
  const whole = { x: 0, y: 0, width: guide.width, height: guide.height };
  const out: ClassProposal[] = [];
  likely.forEach(({ classId, index }, at) => {
    const probability = probabilities[at];
    const median = options.medianArea(classId);
    const least = Math.max(options.minPixels, Math.round(0.05 * median));
    const rough = threshold(probability, whole);
    const clean = fillHoles(removeSmall({ width: guide.width, height: guide.height, data: rough.data }, least), least);
    const parts = connectedComponents(clean, 8);
    for (let part = 1; part <= parts.count; part++) {
      const [x, y, width, height] = parts.boxes[part - 1];
      const data = new Uint8Array(width * height);
      for (let row = 0; row < height; row++) {
        for (let column = 0; column < width; column++) {
          if (parts.labels[(y + row) * guide.width + x + column] === part) data[row * width + column] = 1;
        }
      }
      const component: BoxMask = { x, y, width, height, data, area: parts.areas[part - 1] };
      const pieces = splitInstances(component, { depth: 0.15, minArea: Math.max(least, 0.25 * median), gain: 0.05 });
      for (const piece of pieces) {
        const trimmed = trimBox(piece);
        if (trimmed === null || trimmed.area < least) continue;
        const score = meanInside(trimmed, probability, guide.width);
        // With the others together at 1 - p, the lead is at least 2 p - 1; with two classes it is exactly that.
        out.push({ mask: trimmed, classId, score, margin: Math.max(0, score - runnerUp(trimmed, patches, index, features, guide)) });
      }
    }
  });
  return out;
}

function meanInside(mask: BoxMask, probability: Float32Array, width: number): number {
  let sum = 0;
  for (let y = 0; y < mask.height; y++) {
    for (let x = 0; x < mask.width; x++) if (mask.data[y * mask.width + x] === 1) sum += probability[(mask.y + y) * width + mask.x + x];
  }
  return sum / mask.area;
}

/** Largest mean probability of another class over the mask's patches. */
function runnerUp(mask: BoxMask, patches: readonly Float32Array[], index: number, features: PatchFeatures, guide: RgbImage): number {
  const sums = new Float64Array(patches.length);
  for (let y = 0; y < mask.height; y++) {
    const row = Math.floor(((mask.y + y + 0.5) * features.gridHeight) / guide.height) * features.gridWidth;
    for (let x = 0; x < mask.width; x++) {
      if (mask.data[y * mask.width + x] === 0) continue;
      const q = row + Math.floor(((mask.x + x + 0.5) * features.gridWidth) / guide.width);
      for (let c = 0; c < sums.length; c++) sums[c] += patches[c][q];
    }
  }
  sums[index] = 0;
  return Math.max(...sums) / mask.area;
}
