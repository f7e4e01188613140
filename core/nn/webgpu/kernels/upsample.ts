/**
 * Joint bilateral upsampling of many maps of one picture in one dispatch: the weights of a pixel's 3 x 3 patches in every
 * grid are made where they are needed (a few dozen numbers, from tables that stay in cache) and never stored.
 *
 * `records` holds for each map its box of patches and of pixels, where its values and its result begin, and for each
 * workgroup its map and its first pixel there.
 */
import { spread, type Capabilities, type Dispatch, type Region } from '../program.ts';
import { kernel, type Operand } from './kernel.ts';
import { rgbAt } from './pictures.ts';

/** Pixels of a workgroup. */
export const upsampleWidth = 256;
/** Words of a map in `records`, and of a workgroup. */
export const MAP_WORDS = 10;
export const GROUP_WORDS = 2;

const value = `fn upsampled(map: u32, px: u32, py: u32) -> f32 {
  let corner = vec2u(records[map], records[map + 1u]);
  let extent = vec2u(records[map + 2u], records[map + 3u]);
  let first = records[map + 8u];
  let colour = vec3f(rgb_at(3u * (py * u.width + px))) / 255.0;
  var sum = 0.0;
  var total = 0.0;
  for (var g = 0u; g < u.grids; g++) {
    let column = 4u * (g * (u.width + u.height) + px);
    let row = 4u * (g * (u.width + u.height) + u.width + py);
    for (var k = 0u; k < 9u; k++) {
      let near = axes_at(column + 1u + k % 3u) * axes_at(row + 1u + k / 3u);
      if (near == 0.0) { continue; }
      let patch_x = u32(i32(axes_at(column)) + i32(k % 3u));
      let patch_y = u32(i32(axes_at(row)) + i32(k / 3u));
      let at = 3u * ((g * u.grid_height + patch_y) * u.grid_width + patch_x);
      let d = vec3f(colours_at(at), colours_at(at + 1u), colours_at(at + 2u)) - colour;
      let w = near * range_at(u32(min(dot(d, d) * u.scale, u.steps)));
      total += w;
      // Left of the box or above it the difference wraps around: it is no smaller than any extent.
      let cell = vec2u(patch_x, patch_y) - corner;
      if (all(cell < extent)) { sum += w * values_at(first + (g * extent.y + cell.y) * extent.x + cell.x); }
    }
  }
  return sum / total;
}`;

const uniforms = {
  width: 'u32',
  height: 'u32',
  grids: 'u32',
  grid_width: 'u32',
  grid_height: 'u32',
  scale: 'f32',
  steps: 'f32',
  groups: 'u32',
  first_group: 'u32',
} as const;

const body = `  if (group >= u.groups) { return; }
  let own = u.first_group + group * ${GROUP_WORDS}u;
  let map = records[own] * ${MAP_WORDS}u;
  let start = records[own + 1u];
  let across = records[map + 6u];
  let count = across * records[map + 7u];
  let i = start + lane;
  var value = 0.0;
  if (i < count) { value = upsampled(map, records[map + 4u] + i % across, records[map + 5u] + i / across); }`;

const shared = {
  reads: ['axes', 'colours', 'range', 'values'],
  writes: ['y'],
  lists: ['pictures', 'records'],
  uniforms,
  width: upsampleWidth,
} as const;

const valuesText = kernel({
  ...shared,
  name: 'upsample',
  outside: `${rgbAt}\n${value}`,
  body: `${body}
  if (i < count) { y_put(records[map + 9u] + i, value); }`,
});

const masksText = kernel({
  ...shared,
  name: 'upsample to masks',
  outside: `var<workgroup> above: array<u32, ${upsampleWidth}>;\n${rgbAt}\n${value}`,
  body: `${body}
  above[lane] = select(0u, 1u, value > 0.5);
  workgroupBarrier();
  if (lane >= ${upsampleWidth / 32}u || start + 32u * lane >= count) { return; }
  var word = 0u;
  for (var bit = 0u; bit < 32u; bit++) { word |= above[32u * lane + bit] << bit; }
  y[(records[map + 9u] + start) / 32u + lane] = word;`,
});

export interface UpsampleArrays {
  /** The picture's bytes, [H,W,3]. */
  readonly pictures: Region;
  /** [grids, W + H, 4] and the rest as in `UpsampleGuide`. */
  readonly axes: Operand;
  readonly colours: Operand;
  readonly range: Operand;
  readonly values: Operand;
  /** [maps, MAP_WORDS] then [groups, GROUP_WORDS] */
  readonly records: Region;
  /** f32: a value a pixel; u32: a bit a pixel, 1 above 0.5. */
  readonly y: Operand;
}

export interface UpsampleSizes {
  readonly width: number;
  readonly height: number;
  readonly grids: number;
  readonly gridWidth: number;
  readonly gridHeight: number;
  /** Steps of `range` to a unit of squared distance, and how many there are. */
  readonly scale: number;
  readonly steps: number;
  readonly maps: number;
  readonly groups: number;
}

export function upsample(caps: Capabilities, arrays: UpsampleArrays, sizes: UpsampleSizes): Dispatch[] {
  const { maps, groups, gridWidth, gridHeight, ...rest } = sizes;
  const given = { ...rest, grid_width: gridWidth, grid_height: gridHeight, groups, first_group: maps * MAP_WORDS };
  const run = arrays.y.element === 'u32' ? masksText : valuesText;
  return [run({ ...arrays }, given, spread(groups, caps))];
}
