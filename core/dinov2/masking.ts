/** Which patches of the student's global crops are masked: BEiT's block masks and DINOv2's batch scheme (spec 3). */
import type { Random } from '../random.ts';
import type { RunConfig } from './config.ts';

/** Fewest patches a block may have, and how elongated it may be. */
const SMALLEST_BLOCK = 4;
const ASPECT = [0.3, 1 / 0.3] as const;
/** Attempts to place a block before the mask is left short of its target. */
const ATTEMPTS = 10;

/** Python's round: halves go to the even neighbour. */
export function roundHalfEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

/** Most patches of one block: half the crop, with the official code's floor divisions from left to right. */
export function largestBlock(cropSize: number, patchSize: number): number {
  return Math.floor((Math.floor((0.5 * cropSize) / patchSize) * cropSize) / patchSize);
}

/**
 * Sets about `target` bytes of `mask` to 1 in rectangular blocks.
 * @param mask [grid*grid], zeros
 * @returns the number set; short of the target when ten attempts in a row placed nothing
 */
export function drawBlockMask(random: Random, mask: Uint8Array, grid: number, target: number, largest: number): number {
  let count = 0;
  while (count < target) {
    const limit = Math.min(target - count, largest);
    let added = 0;
    for (let attempt = 0; attempt < ATTEMPTS && added === 0; attempt++) {
      const area = random.uniform(SMALLEST_BLOCK, limit);
      const aspect = Math.exp(random.uniform(Math.log(ASPECT[0]), Math.log(ASPECT[1])));
      const h = roundHalfEven(Math.sqrt(area * aspect));
      const w = roundHalfEven(Math.sqrt(area / aspect));
      if (h >= grid || w >= grid) continue;
      const top = random.int(grid - h + 1);
      const left = random.int(grid - w + 1);
      let fresh = 0;
      for (let y = top; y < top + h; y++) for (let x = left; x < left + w; x++) fresh += 1 - mask[y * grid + x]!;
      if (fresh === 0 || fresh > limit) continue;
      for (let y = top; y < top + h; y++) mask.fill(1, y * grid + left, y * grid + left + w);
      added = fresh;
    }
    if (added === 0) break;
    count += added;
  }
  return count;
}

/**
 * Masks of a batch of global crops, [crops * grid * grid]. A share `probability` of the crops is masked, crop i of them by
 * a ratio from the i-th slice of the range; which crops these are is shuffled, so an image can have 0, 1 or 2.
 */
export function drawMasks(random: Random, config: Pick<RunConfig, 'masking' | 'crops' | 'model'>, crops: number): Uint8Array {
  const grid = config.crops.globalSize / config.model.patchSize;
  const patches = grid * grid;
  const largest = largestBlock(config.crops.globalSize, config.model.patchSize);
  const [low, high] = config.masking.ratio;
  const masked = Math.trunc(crops * config.masking.probability);
  const edge = (i: number): number => low + ((high - low) * i) / masked;
  const drawn: Uint8Array[] = [];
  for (let i = 0; i < crops; i++) {
    const mask = new Uint8Array(patches);
    if (i < masked) drawBlockMask(random, mask, grid, Math.trunc(patches * random.uniform(edge(i), edge(i + 1))), largest);
    drawn.push(mask);
  }
  random.shuffle(drawn);
  const masks = new Uint8Array(crops * patches);
  for (const [i, mask] of drawn.entries()) masks.set(mask, i * patches);
  return masks;
}
