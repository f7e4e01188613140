/**
 * Maps over patches brought to pixels, many of one picture together: by the executor where it can (`Executor.upsample`), else on
 * this thread by refine.ts. A thread without an engine asks the one that has it.
 */
import type { Transferable } from 'node:worker_threads';
import type { RgbImage } from '../images/index.ts';
import { BOX_LENGTH, mapOffsets, type Executor, type PatchMaps, type UpsampleGuide } from '../nn/index.ts';
import { askOwner, type Owned, type OwnedWork } from '../threads.ts';
import type { BoxMask } from './grid.ts';
import { JointUpsampler, threshold, upsampleGuide, type GridPlacement, type PixelBox } from './refine.ts';

/** The operations of an executor that bring maps to pixels. */
export type EdgeEngine = Pick<Required<Executor>, 'upsample' | 'upsampleMasks'>;

/** Null where the executor leaves it to its callers. */
export function edgeEngine(x: Executor): EdgeEngine | null {
  const { upsample, upsampleMasks } = x;
  return upsample && upsampleMasks ? { upsample: upsample.bind(x), upsampleMasks: upsampleMasks.bind(x) } : null;
}

/** Patches of one grid that are above 0, the rest being 0. */
export interface PatchShares {
  readonly cells: readonly number[];
  /** 0..1 */
  readonly shares: readonly number[];
}

export interface MaskRequest {
  /** One for each grid. */
  readonly maps: readonly PatchShares[];
  /** Pixels that are wanted. */
  readonly box: PixelBox;
}

/** Where maps of a picture are above one half. @param grids the first is the one without shift, all are of one size */
export async function upsampledMasks(
  picture: RgbImage,
  grids: readonly GridPlacement[],
  requests: readonly MaskRequest[],
  engine: EdgeEngine | null,
): Promise<BoxMask[]> {
  const { gridWidth, gridHeight } = grids[0];
  if (engine === null) {
    const upsampler = new JointUpsampler(picture, grids);
    const whole = grids.map(() => new Float32Array(gridWidth * gridHeight));
    return requests.map(({ maps, box }) => {
      maps.forEach(({ cells, shares }, g) => cells.forEach((q, i) => (whole[g][q] = shares[i])));
      const mask = threshold(upsampler.upsample(whole, box), box);
      maps.forEach(({ cells }, g) => cells.forEach((q) => (whole[g][q] = 0)));
      return mask;
    });
  }
  const maps = packed(requests, gridWidth);
  const words = await engine.upsampleMasks(upsampleGuide(picture, grids), maps);
  const offsets = mapOffsets(maps);
  return requests.map(({ box }, i) => maskOfBits(words.subarray(offsets[i] / 32, offsets[i + 1] / 32), box));
}

/** Values of whole maps at every pixel of a picture. @param maps for each [grid][gridHeight * gridWidth] */
export async function upsampledMaps(
  picture: RgbImage,
  grids: readonly GridPlacement[],
  maps: readonly (readonly Float32Array[])[],
  engine: EdgeEngine | null,
): Promise<Float32Array[]> {
  if (maps.length === 0) return [];
  if (engine === null) {
    const upsampler = new JointUpsampler(picture, grids);
    return maps.map((values) => upsampler.upsample(values));
  }
  const { gridWidth, gridHeight } = grids[0];
  const patches = gridWidth * gridHeight;
  const values = new Float32Array(maps.length * grids.length * patches);
  maps.flat().forEach((map, i) => values.set(map, i * patches));
  const boxes = Int32Array.from(maps.flatMap(() => [0, 0, gridWidth, gridHeight, 0, 0, picture.width, picture.height]));
  const wanted: PatchMaps = { boxes, values };
  const pixels = await engine.upsample(upsampleGuide(picture, grids), wanted);
  const offsets = mapOffsets(wanted);
  return maps.map((_, i) => pixels.subarray(offsets[i], offsets[i] + picture.width * picture.height));
}

/** Each map in the least box of patches that holds it. */
function packed(requests: readonly MaskRequest[], gridWidth: number): PatchMaps {
  const boxes = new Int32Array(requests.length * BOX_LENGTH);
  let length = 0;
  for (const [i, { maps, box }] of requests.entries()) {
    let [x0, y0, x1, y1] = [Infinity, Infinity, -1, -1];
    for (const { cells } of maps) {
      for (const q of cells) {
        const x = q % gridWidth;
        const y = (q - x) / gridWidth;
        x0 = Math.min(x0, x);
        y0 = Math.min(y0, y);
        x1 = Math.max(x1, x);
        y1 = Math.max(y1, y);
      }
    }
    const extent = x1 < 0 ? [0, 0, 0, 0] : [x0, y0, x1 - x0 + 1, y1 - y0 + 1];
    boxes.set([...extent, box.x, box.y, box.width, box.height], i * BOX_LENGTH);
    length += maps.length * extent[2] * extent[3];
  }
  const values = new Float32Array(length);
  let at = 0;
  for (const [i, { maps }] of requests.entries()) {
    const [x0, y0, across, down] = boxes.subarray(i * BOX_LENGTH, i * BOX_LENGTH + 4);
    for (const { cells, shares } of maps) {
      cells.forEach((q, k) => (values[at + (Math.floor(q / gridWidth) - y0) * across + (q % gridWidth) - x0] = shares[k]));
      at += across * down;
    }
  }
  return { boxes, values };
}

/** Four bits as four bytes, the lowest bit first in memory. */
const bytesOfBits = Uint32Array.from({ length: 16 }, (_, bits) => {
  const bytes = Uint8Array.from({ length: 4 }, (_byte, i) => (bits >> i) & 1);
  return new Uint32Array(bytes.buffer)[0];
});
const onesOfBits = Uint8Array.from({ length: 16 }, (_, bits) => (bits & 1) + ((bits >> 1) & 1) + ((bits >> 2) & 1) + (bits >> 3));

/** @param words bits of the box's pixels in rows, 0 behind the last */
function maskOfBits(words: Uint32Array, box: PixelBox): BoxMask {
  const quads = new Uint32Array(words.length * 8);
  let area = 0;
  for (const [i, word] of words.entries()) {
    if (word === 0) continue;
    for (let k = 0; k < 8; k++) {
      const bits = (word >>> (4 * k)) & 15;
      quads[i * 8 + k] = bytesOfBits[bits];
      area += onesOfBits[bits];
    }
  }
  return { ...box, data: new Uint8Array(quads.buffer, 0, box.width * box.height), area };
}

// --- threads ----------------------------------------------------------------------------------------------------------

interface EdgeQuestion {
  readonly wants: 'upsample' | 'upsampleMasks';
  readonly guide: UpsampleGuide;
  readonly maps: PatchMaps;
}

/** What the thread that holds the engine answers to `ownersEngine`. */
export function edgeAnswers(engine: EdgeEngine | null): OwnedWork['answer'] {
  if (engine === null) return undefined;
  return async ({ wants, guide, maps }: EdgeQuestion) => {
    const reply = await engine[wants](guide, maps);
    return { reply, transfer: [reply.buffer as Transferable] };
  };
}

/** The engine of the thread that started this one; null where it has none. @param settings of this thread */
export function ownersEngine({ owner }: Owned): EdgeEngine | null {
  if (owner === undefined) return null;
  const ask = askOwner<EdgeQuestion, unknown>(owner);
  const through =
    <R>(wants: EdgeQuestion['wants']) =>
    (guide: UpsampleGuide, maps: PatchMaps): Promise<R> =>
      ask({ wants, guide, maps }, [maps.values.buffer as Transferable]) as Promise<R>;
  return { upsample: through<Float32Array>('upsample'), upsampleMasks: through<Uint32Array>('upsampleMasks') };
}
