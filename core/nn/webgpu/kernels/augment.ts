/**
 * Crops of 8-bit pictures on the device: Pillow's operations as core/nn/pixels.ts has them, in four dispatches for
 * any number of crops of one size, whatever each of them drew. All is done in whole numbers and so equal to the byte
 * everywhere, but the blur. Between dispatches a pixel is one u32: red, green, blue from the lowest byte on.
 *
 * Every crop has a record of `RECORD.length` words (`packCrops` of ../augment.ts writes them); S is the side of a crop.
 */
import { program, type Capabilities, type Dispatch, type Element, type Program, type Region, type UniformSpec } from '../program.ts';
import type { Operand } from './kernel.ts';
import { wordAt } from './pictures.ts';

/** What a crop's record holds, a word each. */
export const RECORD = [
  /** Byte of its picture's first pixel; pixels in a row of that picture. */
  'source',
  'stride',
  'left',
  'top',
  'height',
  /** Where in `weights` those of the columns and of the rows begin, and how many an output position has room for. */
  'across',
  'acrossTaps',
  'down',
  'downTaps',
  /** Its first pixel in `rows`. */
  'rows',
  /** 1 where it is mirrored, gray, solarized, blurred. */
  'flip',
  'gray',
  'solarize',
  'blur',
  /** Operations of the jitter, two bits each, the first lowest; how many there are, and how many come before contrast. */
  'order',
  'operations',
  'before',
  /** Factors in steps of 1 / 65,536, and what they lack of 1 / 2^32. */
  'brightness',
  'brightnessLow',
  'contrast',
  'contrastLow',
  'saturation',
  'saturationLow',
  /** Turn of the hue, 0 to 255. */
  'hue',
  /** f32: weights of pixels at distances 0 to 4. */
  'blur0',
  'blur1',
  'blur2',
  'blur3',
  'blur4',
] as const;

export type RecordField = (typeof RECORD)[number];
export const recordPlace = Object.fromEntries(RECORD.map((name, i) => [name, i])) as Readonly<Record<RecordField, number>>;

const width = 256;
/** Side of the square that a workgroup of the last dispatch makes, and of what it reads. */
const tile = 16;
const radius = 4;
const reach = tile + 2 * radius;

const field = (name: RecordField): string => `crops[record + ${recordPlace[name]}u]`;
const whole = (name: RecordField): string => `i32(${field(name)})`;

const pixels = `fn pixel(word: u32) -> vec3i { return vec3i(vec3u(word, word >> 8u, word >> 16u) & vec3u(255u)); }
fn packed(p: vec3i) -> u32 { let q = vec3u(p); return q.x | (q.y << 8u) | (q.z << 16u); }
fn luma(p: vec3i) -> i32 { return (p.x * 19595 + p.y * 38470 + p.z * 7471 + 0x8000) >> 16u; }`;

/** Weighted sums of 22 fractional bits to bytes. */
const byte = `fn byte(sum: vec3i) -> vec3i { return clamp(sum >> vec3u(22u), vec3i(0), vec3i(255)); }`;

/**
 * One operation of the jitter. A blend is base + factor (value - base), rounded down and clipped: the factor comes in two
 * halves of 16 bits, whose products fit 32. A share of 2^-24 is added, so that 0.7 times 170 is 119.
 */
const colours = `fn blend(base: vec3i, value: vec3i, factor: i32, low: i32) -> vec3i {
  let d = value - base;
  return clamp(base + ((d * factor + ((d * low + 256) >> vec3u(16u))) >> vec3u(16u)), vec3i(0), vec3i(255));
}
fn turned(p: vec3i, turn: i32) -> vec3i {
  let v = max(p.x, max(p.y, p.z));
  let range = v - min(p.x, min(p.y, p.z));
  if (range == 0) { return p; }
  // 8-bit hue, saturation and value; the sector counts in sixths of the circle times range.
  var sector = select(select(4 * range + p.x - p.y, 2 * range + p.z - p.x, p.y == v), p.y - p.z, p.x == v);
  sector = select(sector, sector + 6 * range, sector < 0);
  let hue = (sector * 255 / (6 * range) + turn) & 255;
  let s = range * 255 / v;
  let side = hue * 6 / 255;
  let f = hue * 6 - side * 255;
  let low = (2 * v * (255 - s) + 255) / 510;
  let falling = (2 * v * (65025 - s * f) + 65025) / 130050;
  let rising = (2 * v * (65025 - s * (255 - f)) + 65025) / 130050;
  switch (side) {
    case 1: { return vec3i(falling, v, low); }
    case 2: { return vec3i(low, v, rising); }
    case 3: { return vec3i(low, falling, v); }
    case 4: { return vec3i(rising, low, v); }
    case 5: { return vec3i(v, low, falling); }
    default: { return vec3i(v, rising, low); }
  }
}
fn jitter(given: vec3i, record: u32, start_at: u32, end_at: u32, mean: i32) -> vec3i {
  var p = given;
  for (var i = start_at; i < end_at; i++) {
    switch ((${field('order')} >> (2u * i)) & 3u) {
      case 0u: { p = blend(vec3i(0), p, ${whole('brightness')}, ${whole('brightnessLow')}); }
      case 1u: { p = blend(vec3i(mean), p, ${whole('contrast')}, ${whole('contrastLow')}); }
      case 2u: { p = blend(vec3i(luma(p)), p, ${whole('saturation')}, ${whole('saturationLow')}); }
      default: { p = turned(p, ${whole('hue')}); }
    }
  }
  return p;
}`;

type Array_ = readonly [name: string, element: Element, access: 'read' | 'read_write', type?: string];

/** `main` knows `crop` (its number), `record` (where its record begins), `place` (workgroup within the crop) and `lane`. */
function text(name: string, arrays: readonly Array_[], outside: readonly string[], body: string): Program {
  const uniforms: UniformSpec[] = [
    { name: 'size', type: 'u32' },
    { name: 'first', type: 'u32' },
  ];
  return program({
    name,
    bindings: arrays.map(([array, element, access, type]) => ({ name: array, element, access, ...(type && { type }) })),
    uniforms,
    body: `${outside.join('\n')}
@compute @workgroup_size(${width})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let crop = u.first + group.y;
  let record = crop * ${RECORD.length}u;
  let place = group.x;
${body}
}`,
  });
}

const acrossText = text(
  'crop across',
  [
    ['pictures', 'u32', 'read'],
    ['crops', 'u32', 'read'],
    ['weights', 'i32', 'read'],
    ['rows', 'u32', 'read_write'],
    ['sums', 'u32', 'read_write'],
  ],
  [pixels, byte, wordAt],
  `  let index = place * ${width}u + lane;
  if (index == 0u) { sums[crop] = 0u; }
  let y = index / u.size;
  let x = index % u.size;
  if (y >= ${field('height')}) { return; }
  let table = ${field('across')};
  let count = u32(weights[table + u.size + x]);
  let weight = table + 2u * u.size + x * ${field('acrossTaps')};
  var at = ${field('source')} + 3u * ((${field('top')} + y) * ${field('stride')} + ${field('left')} + u32(weights[table + x]));
  var sum = vec3i(${1 << 21});
  for (var j = 0u; j < count; j++) {
    sum += weights[weight + j] * pixel(word_at(at));
    at += 3u;
  }
  rows[${field('rows')} + y * u.size + select(x, u.size - 1u - x, ${field('flip')} == 1u)] = packed(byte(sum));`,
);

const downText = text(
  'crop down',
  [
    ['crops', 'u32', 'read'],
    ['weights', 'i32', 'read'],
    ['rows', 'u32', 'read'],
    ['pixels', 'u32', 'read_write'],
    ['sums', 'u32', 'read_write', 'array<atomic<u32>>'],
  ],
  [pixels, byte, colours, `var<workgroup> lumas: array<u32, ${width}>;`],
  `  let index = place * ${width}u + lane;
  var gray = 0u;
  if (index < u.size * u.size) {
    let y = index / u.size;
    let x = index % u.size;
    let table = ${field('down')};
    let count = u32(weights[table + u.size + y]);
    let weight = table + 2u * u.size + y * ${field('downTaps')};
    let top_row = ${field('rows')} + u32(weights[table + y]) * u.size + x;
    var sum = vec3i(${1 << 21});
    for (var j = 0u; j < count; j++) { sum += weights[weight + j] * pixel(rows[top_row + j * u.size]); }
    let p = jitter(byte(sum), record, 0u, ${field('before')}, 0);
    pixels[crop * u.size * u.size + index] = packed(p);
    gray = u32(luma(p));
  }
  // Whole numbers: the order of the sum does not matter.
  lumas[lane] = gray;
  workgroupBarrier();
  for (var step = ${width / 2}u; step > 0u; step >>= 1u) {
    if (lane < step) { lumas[lane] += lumas[lane + step]; }
    workgroupBarrier();
  }
  if (lane == 0u) { atomicAdd(&sums[crop], lumas[0]); }`,
);

const colourText = text(
  'crop colours',
  [
    ['crops', 'u32', 'read'],
    ['sums', 'u32', 'read'],
    ['pixels', 'u32', 'read_write'],
  ],
  [pixels, colours],
  `  let index = place * ${width}u + lane;
  let plane = u.size * u.size;
  let before = ${field('before')};
  let operations = ${field('operations')};
  if (index >= plane || (before == operations && ${field('gray')} == 0u)) { return; }
  let mean = i32((2u * sums[crop] + plane) / (2u * plane));
  var p = jitter(pixel(pixels[crop * plane + index]), record, before, operations, mean);
  if (${field('gray')} == 1u) { p = vec3i(luma(p)); }
  pixels[crop * plane + index] = packed(p);`,
);

const finishText = (element: Element): Program =>
  text(
    `crop finish ${element}`,
    [
      ['crops', 'u32', 'read'],
      ['pixels', 'u32', 'read'],
      ['normalised', 'f32', 'read'],
      ['y', element, 'read_write'],
    ],
    [
      pixels,
      `var<workgroup> near: array<u32, ${reach * reach}>;
var<workgroup> blurred: array<vec3f, ${reach * tile}>;
fn weighed(record: u32, a0: vec3f, a1: vec3f, a2: vec3f, a3: vec3f, a4: vec3f) -> vec3f {
  return ${[0, 1, 2, 3, 4].map((k) => `bitcast<f32>(${field(`blur${k}` as RecordField)}) * a${k}`).join(' + ')};
}
fn across(record: u32, at: u32) -> vec3f {
  return weighed(record, vec3f(pixel(near[at])), ${[1, 2, 3, 4].map((k) => `vec3f(pixel(near[at - ${k}u]) + pixel(near[at + ${k}u]))`).join(', ')});
}
fn down(record: u32, at: u32) -> vec3f {
  return weighed(record, blurred[at], ${[1, 2, 3, 4].map((k) => `blurred[at - ${k * tile}u] + blurred[at + ${k * tile}u]`).join(', ')});
}
/** The edge pixel is not repeated. */
fn mirrored(position: i32) -> u32 {
  let last = i32(u.size) - 1;
  let p = abs(position);
  return u32(clamp(select(p, 2 * last - p, p > last), 0, last));
}`,
    ],
    `  let tiles = (u.size + ${tile - 1}u) / ${tile}u;
  let corner = vec2i(vec2u(place % tiles, place / tiles) * ${tile}u) - ${radius};
  let plane = u.size * u.size;
  for (var i = lane; i < ${reach * reach}u; i += ${width}u) {
    let x = mirrored(corner.x + i32(i % ${reach}u));
    let y = mirrored(corner.y + i32(i / ${reach}u));
    near[i] = pixels[crop * plane + y * u.size + x];
  }
  workgroupBarrier();
  let column = lane % ${tile}u;
  let row = lane / ${tile}u;
  var p = pixel(near[(row + ${radius}u) * ${reach}u + column + ${radius}u]);
  if (${field('blur')} == 1u) {
    for (var i = lane; i < ${reach * tile}u; i += ${width}u) {
      blurred[i] = across(record, (i / ${tile}u) * ${reach}u + i % ${tile}u + ${radius}u);
    }
    workgroupBarrier();
    p = vec3i(down(record, (row + ${radius}u) * ${tile}u + column) + 0.5);
  }
  if (${field('solarize')} == 1u) { p = select(p, 255 - p, p >= vec3i(128)); }
  let x = u32(corner.x + ${radius}) + column;
  let y_ = u32(corner.y + ${radius}) + row;
  if (x >= u.size || y_ >= u.size) { return; }
  let at = crop * 3u * plane + y_ * u.size + x;
  y[at] = ${element}(normalised[p.x]);
  y[at + plane] = ${element}(normalised[256 + p.y]);
  y[at + 2u * plane] = ${element}(normalised[512 + p.z]);`,
  );

const finishTexts = new Map<Element, Program>();

export interface AugmentArrays {
  /** Bytes of all pictures, [H,W,3] each, each from a multiple of 4 on. */
  readonly pictures: Region;
  /** [crops, RECORD.length] u32. */
  readonly crops: Region;
  /** Of resizes: for each [S] first inputs, [S] counts, [S,taps] weights of 22 fractional bits. */
  readonly weights: Region;
  /** [3,256] f32: what each byte of each channel becomes. */
  readonly normalised: Region;
  /** [sum of heights of the part's boxes, S] pixels; undefined contents. */
  readonly rows: Region;
  /** [crops,S,S] pixels; undefined contents. */
  readonly pixels: Region;
  /** [crops] u32; undefined contents. */
  readonly sums: Region;
  /** [crops,3,S,S] */
  readonly y: Operand;
}

/** Crops that go through `rows` together. */
export interface CropPart {
  readonly first: number;
  readonly count: number;
  /** Height of the highest of their boxes. */
  readonly tallest: number;
}

/** Fills y for the crops of a part. @param size S, at least 5; with at most `workgroupsPerDimension` crops to a part */
export function augment(caps: Capabilities, arrays: AugmentArrays, size: number, { first, count, tallest }: CropPart): Dispatch[] {
  const { pictures, crops, weights, normalised, rows, pixels: between, sums, y } = arrays;
  const chunks = Math.ceil((size * size) / width);
  const high = Math.ceil((tallest * size) / width);
  if (Math.max(chunks, high, count) > caps.workgroupsPerDimension)
    throw new Error(`augment: ${count} crops of ${size} px from boxes up to ${tallest} px high are more than the GPU takes at once.`);
  let finish = finishTexts.get(y.element);
  if (!finish) finishTexts.set(y.element, (finish = finishText(y.element)));
  const run = (program: Program, regions: Region[], groups: number): Dispatch => ({
    program,
    regions,
    uniforms: { size, first },
    workgroups: [groups, count, 1],
  });
  return [
    run(acrossText, [pictures, crops, weights, rows, sums], high),
    run(downText, [crops, weights, rows, between, sums], chunks),
    run(colourText, [crops, sums, between], chunks),
    run(finish, [crops, between, normalised, y.region], Math.ceil(size / tile) ** 2),
  ];
}
