/** Joint bilateral upsampling on the GPU against that of the processor: values, masks, boxes at borders, odd sizes. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { noAdapter } from './webgpu-device.ts';
import { BOX_LENGTH, mapOffsets, type PatchMaps } from '../../core/nn/index.ts';
import { createWebgpuExecutor, type WebgpuExecutor } from '../../core/nn/webgpu/index.ts';
import { gridPlacements, JointUpsampler, upsampleGuide } from '../../core/prelabel/refine.ts';
import { Random } from './draw.ts';

let x: WebgpuExecutor;

/** Flat squares with noise on some of them: near colours, far ones, and equal ones. */
function picture(random: Random, width: number, height: number) {
  const data = new Uint8Array(width * height * 3);
  const shades = Array.from({ length: 64 }, () => [0, 1, 2].map(() => 255 * random.uniform()));
  for (let i = 0; i < width * height; i++) {
    const square = (Math.floor((i % width) / 9) + 5 * Math.floor(i / width / 7)) % 64;
    for (let c = 0; c < 3; c++) data[i * 3 + c] = shades[square]![c]! * (square % 3 === 0 ? 0.8 + 0.2 * random.uniform() : 1);
  }
  return { width, height, data };
}

interface Case {
  readonly size: readonly [number, number];
  readonly grid: readonly [number, number];
  readonly passes: 1 | 4;
}

const cases: readonly Case[] = [
  { size: [67, 45], grid: [7, 5], passes: 1 },
  { size: [131, 74], grid: [11, 6], passes: 4 },
  // Patches thinner than a pixel; one patch; one column of pixels.
  { size: [10, 23], grid: [14, 9], passes: 4 },
  { size: [33, 17], grid: [1, 1], passes: 1 },
  { size: [1, 300], grid: [2, 13], passes: 4 },
];

/** Boxes of patches with values in them, and of pixels, at all borders, of one pixel and of none. */
function drawMaps(random: Random, { size: [W, H], grid: [gw, gh], passes }: Case): PatchMaps {
  const boxes: number[] = [];
  const values: number[] = [];
  const part = (all: number): [number, number] => {
    const length = 1 + Math.floor(all * random.uniform());
    return [Math.floor((all - length + 1) * random.uniform()), length];
  };
  const add = (cells: readonly [number, number, number, number], pixels: readonly [number, number, number, number]): void => {
    boxes.push(...cells, ...pixels);
    for (let i = 0; i < passes * cells[2] * cells[3]; i++)
      values.push(random.uniform() < 0.3 ? Math.round(random.uniform()) : random.uniform());
  };
  add([0, 0, gw, gh], [0, 0, W, H]);
  add([0, 0, 0, 0], [0, 0, W, H]);
  add([gw - 1, gh - 1, 1, 1], [W - 1, H - 1, 1, 1]);
  add([0, 0, gw, gh], [0, 0, 0, 0]);
  for (let i = 0; i < 6; i++) {
    const [[cx, cw], [cy, ch], [px, pw], [py, ph]] = [part(gw), part(gh), part(W), part(H)];
    add([cx, cy, cw, ch], [px, py, pw, ph]);
  }
  return { boxes: Int32Array.from(boxes), values: Float32Array.from(values) };
}

/** The same by the processor, for each map the values of its pixels. */
function byProcessor(image: ReturnType<typeof picture>, { grid: [gridWidth, gridHeight], passes }: Case, maps: PatchMaps): Float32Array[] {
  const upsampler = new JointUpsampler(image, gridPlacements(gridWidth, gridHeight, passes));
  let from = 0;
  return Array.from({ length: maps.boxes.length / BOX_LENGTH }, (_, i) => {
    const [x0, y0, across, down, px, py, width, height] = maps.boxes.subarray(i * BOX_LENGTH, (i + 1) * BOX_LENGTH) as unknown as number[];
    const whole = Array.from({ length: passes }, () => {
      const map = new Float32Array(gridWidth * gridHeight);
      for (let y = 0; y < down!; y++)
        for (let column = 0; column < across!; column++) map[(y0! + y) * gridWidth + x0! + column] = maps.values[from++]!;
      return map;
    });
    return upsampler.upsample(whole, { x: px!, y: py!, width: width!, height: height! });
  });
}

describe('upsampling on the GPU', { skip: noAdapter }, () => {
  before(async () => {
    x = await createWebgpuExecutor({ precision: 'f32' });
  });
  after(() => x.dispose());

  it('gives the values and the masks of the processor, and holds nothing after', async (t) => {
    const random = new Random(3);
    const held = x.memoryBytes();
    let [pixels, apart, largest, flipped] = [0, 0, 0, 0];
    for (const one of cases) {
      const image = picture(random, ...one.size);
      const maps = drawMaps(random, one);
      const guide = upsampleGuide(image, gridPlacements(...one.grid, one.passes));
      // Given together: neither waits for the other.
      const [values, bits] = await Promise.all([x.upsample(guide, maps), x.upsampleMasks(guide, maps)]);
      const offsets = mapOffsets(maps);
      assert.deepEqual([values.length, bits.length], [offsets.at(-1)!, offsets.at(-1)! / 32]);
      byProcessor(image, one, maps).forEach((wanted, i) => {
        wanted.forEach((value, k) => {
          const at = offsets[i]! + k;
          const off = Math.abs(values[at]! - value);
          assert.ok(off < 0.02, `${JSON.stringify(one)}, map ${i}, pixel ${k}: ${values[at]}, wanted ${value}`);
          const bit = (bits[Math.floor(at / 32)]! >>> (at % 32)) & 1;
          assert.equal(bit, Number(values[at]! > 0.5));
          pixels++;
          largest = Math.max(largest, off);
          if (off > 1e-5) apart++;
          if (bit !== Number(value > 0.5)) flipped++;
        });
        for (let at = offsets[i]! + wanted.length; at < offsets[i + 1]!; at++)
          assert.equal((bits[Math.floor(at / 32)]! >>> (at % 32)) & 1, 0, 'a bit behind the last pixel');
      });
    }
    t.diagnostic(
      `${pixels} pixels: ${apart} more than 1e-5 apart, at most ${largest.toExponential(1)}; ${flipped} on the other side of 0.5`,
    );
    // Weights come from a table of 1,024 steps of colour distance: between two steps rounding decides, seldom.
    assert.ok(pixels > 20_000 && apart < 2e-3 * pixels && flipped < 1e-3 * pixels);
    assert.equal(x.memoryBytes(), held);
  });

  it('refuses boxes outside and tables that do not fit', async () => {
    const image = picture(new Random(4), 20, 10);
    const guide = upsampleGuide(image, gridPlacements(4, 2, 1));
    const maps = (boxes: readonly number[], values: number): PatchMaps => ({
      boxes: Int32Array.from(boxes),
      values: new Float32Array(values),
    });
    await assert.rejects(x.upsample(guide, maps([3, 0, 2, 1, 0, 0, 20, 10], 2)), /box of map 0 is not inside/);
    await assert.rejects(x.upsampleMasks(guide, maps([0, 0, 4, 2, 1, 0, 20, 10], 8)), /box of map 0 is not inside/);
    await assert.rejects(x.upsample(guide, maps([0, 0, 4, 2, 0, 0, 20, 10], 7)), /7 values for boxes of 8/);
    await assert.rejects(x.upsample({ ...guide, gridWidth: 5 }, maps([], 0)), /1 grids do not fit a picture of 20 x 10/);
    assert.equal((await x.upsample(guide, maps([], 0))).length, 0);
  });
});
