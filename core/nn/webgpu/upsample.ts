/** Maps over patches brought to pixels on the device: tables packed, one dispatch, the result on its way back. */
import { BOX_LENGTH, mapOffsets, type PatchMaps, type UpsampleGuide } from '../upsampling.ts';
import type { Operand } from './kernels/kernel.ts';
import { GROUP_WORDS, MAP_WORDS, upsample, upsampleWidth } from './kernels/upsample.ts';
import type { Region } from './program.ts';
import type { Runtime } from './runtime.ts';

/**
 * Values of all maps' pixels in f32, or bits that are 1 where they are above 0.5, where `mapOffsets` says. All work is
 * given when it returns.
 * @throws Error naming what does not fit
 */
export function upsampleMaps(runtime: Runtime, guide: UpsampleGuide, maps: PatchMaps, result: 'values' | 'bits'): Promise<ArrayBuffer> {
  const { picture, gridWidth, gridHeight, grids, range, farthest } = guide;
  const { width, height } = picture;
  check(guide, maps);
  const count = maps.boxes.length / BOX_LENGTH;
  const pixels = mapOffsets(maps).at(-1)!;
  const { records, groups } = pack(maps, grids.length);
  const taken: Region[] = [];
  const keep = (region: Region): Region => (taken.push(region), region);
  const floats = (values: Float32Array): Operand => ({ region: keep(runtime.upload(values)), element: 'f32' });
  const y = keep(runtime.take(Math.max(1, result === 'bits' ? pixels / 8 : pixels * 4)));
  const arrays = {
    pictures: keep(runtime.upload(picture.data)),
    axes: floats(joined(grids.flatMap(({ across, down }) => [across, down]))),
    colours: floats(joined(grids.map(({ colours }) => colours))),
    range: floats(range),
    values: floats(maps.values),
    records: keep(runtime.upload(records)),
    y: { region: y, element: result === 'bits' ? 'u32' : 'f32' },
  } as const;
  const steps = range.length - 1;
  const sizes = { width, height, grids: grids.length, gridWidth, gridHeight, scale: steps / farthest, steps, maps: count, groups };
  if (groups > 0) runtime.run(upsample(runtime.capabilities, arrays, sizes));
  const read = runtime.read(y, result === 'bits' ? pixels / 8 : pixels * 4);
  for (const region of taken) runtime.give(region);
  return read;
}

/** What the kernel knows of maps and workgroups. */
function pack(maps: PatchMaps, grids: number): { records: Uint32Array; groups: number } {
  const { boxes } = maps;
  const offsets = mapOffsets(maps);
  const count = boxes.length / BOX_LENGTH;
  const pixelsOf = (map: number): number => boxes[map * BOX_LENGTH + 6]! * boxes[map * BOX_LENGTH + 7]!;
  let groups = 0;
  for (let map = 0; map < count; map++) groups += Math.ceil(pixelsOf(map) / upsampleWidth);
  const records = new Uint32Array(count * MAP_WORDS + groups * GROUP_WORDS);
  let first = 0;
  let at = count * MAP_WORDS;
  for (let map = 0; map < count; map++) {
    const box = boxes.subarray(map * BOX_LENGTH, (map + 1) * BOX_LENGTH);
    records.set(box, map * MAP_WORDS);
    records.set([first, offsets[map]!], map * MAP_WORDS + BOX_LENGTH);
    first += grids * box[2]! * box[3]!;
    for (let start = 0; start < pixelsOf(map); start += upsampleWidth, at += GROUP_WORDS) records.set([map, start], at);
  }
  return { records, groups };
}

function joined(parts: readonly Float32Array[]): Float32Array {
  const all = new Float32Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

function check({ picture, gridWidth, gridHeight, grids }: UpsampleGuide, { boxes, values }: PatchMaps): void {
  const { width, height, data } = picture;
  const fits =
    grids.length > 0 &&
    data.length === width * height * 3 &&
    grids.every(
      ({ across, down, colours }) =>
        across.length === 4 * width && down.length === 4 * height && colours.length === 3 * gridWidth * gridHeight,
    );
  if (!fits) throw new Error(`upsample: the tables of ${grids.length} grids do not fit a picture of ${width} x ${height}.`);
  let wanted = 0;
  for (let at = 0; at < boxes.length; at += BOX_LENGTH) {
    const [x, y, across, down, left, top, w, h] = boxes.subarray(at, at + BOX_LENGTH) as unknown as number[];
    const inside = (from: number, length: number, all: number): boolean => from >= 0 && length >= 0 && from + length <= all;
    const good = inside(x!, across!, gridWidth) && inside(y!, down!, gridHeight) && inside(left!, w!, width) && inside(top!, h!, height);
    if (!good) throw new Error(`upsample: the box of map ${at / BOX_LENGTH} is not inside its grid or its picture.`);
    wanted += grids.length * across! * down!;
  }
  if (boxes.length % BOX_LENGTH !== 0 || values.length !== wanted)
    throw new Error(`upsample: ${values.length} values for boxes of ${wanted}.`);
}
