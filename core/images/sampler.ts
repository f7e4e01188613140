// Which images make up a training batch: shuffled passes over the set without end, any step computable on its own.
import { Random } from '../random.ts';

/** Names this use among the streams of one seed. */
const STREAM = 0x5a3d;

/** Last order made: consecutive steps lie in the same epoch nearly always. */
let last: { seed: number; epoch: number; count: number; order: Int32Array } | null = null;

/** Indices 0..count-1 in the order of pass `epoch` (0, 1, ...). Equal arguments give equal orders. Do not change the result. */
export function epochOrder(seed: number, epoch: number, count: number): Int32Array {
  if (last === null || last.seed !== seed || last.epoch !== epoch || last.count !== count) {
    last = { seed, epoch, count, order: new Random(seed, STREAM, epoch).permutation(count) };
  }
  return last.order;
}

/**
 * The images of batch `step` (0, 1, ...): entries step x batchSize to (step + 1) x batchSize of all passes laid end to end,
 * so each image comes once a pass, and a batch may reach over the seam of two passes. No state: a resumed run asks for
 * the step it stopped at.
 * @param count images in the set, at least 1
 */
export function batchIndices(seed: number, step: number, batchSize: number, count: number): Int32Array {
  const indices = new Int32Array(batchSize);
  for (let i = 0; i < batchSize; i++) {
    const position = step * batchSize + i;
    indices[i] = epochOrder(seed, Math.floor(position / count), count)[position % count]!;
  }
  return indices;
}
