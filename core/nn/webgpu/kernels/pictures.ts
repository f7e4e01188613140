/** Whole 8-bit pictures as the network takes them: bytes in, normalised planes out, moved by whole pixels. */
import { spread, type Capabilities, type Dispatch, type Region } from '../program.ts';
import { elementWidth, kernel, type Operand } from './kernel.ts';

/** WGSL of `word_at(at)`: the three bytes from byte `at` of `pictures` on, which may lie in two words; the lowest is red. */
export const wordAt = `fn word_at(at: u32) -> u32 {
  let bits = (at & 3u) * 8u;
  let word = pictures[at >> 2u] >> bits;
  if (bits > 8u) { return word | (pictures[(at >> 2u) + 1u] << (32u - bits)); }
  return word;
}`;

/** WGSL of `rgb_at(at)`: those bytes, red first. */
export const rgbAt = `${wordAt}
fn rgb_at(at: u32) -> vec3u {
  let word = word_at(at);
  return vec3u(word, word >> 8u, word >> 16u) & vec3u(255u);
}`;

const normaliseText = kernel({
  name: 'normalise pictures',
  reads: ['values'],
  writes: ['y'],
  lists: ['pictures'],
  uniforms: { count: 'u32', height: 'u32', width: 'u32', stride: 'u32', right: 'u32', down: 'u32', first: 'u32', step: 'u32' },
  width: elementWidth,
  outside: rgbAt,
  body: `  let i = group * ${elementWidth}u + lane;
  let plane = u.height * u.width;
  let picture = i / plane;
  if (picture >= u.count) { return; }
  let pixel = i % plane;
  let x = min(pixel % u.width + u.right, u.width - 1u);
  let y = min(pixel / u.width + u.down, u.height - 1u);
  let bytes = rgb_at(picture * u.stride + 3u * (y * u.width + x));
  let to = (u.first + picture * u.step) * 3u * plane + pixel;
  y_put(to, values_at(bytes.x));
  y_put(to + plane, values_at(256u + bytes.y));
  y_put(to + 2u * plane, values_at(512u + bytes.z));`,
});

export interface PictureArrays {
  /** [count][H,W,3] bytes, each picture from a multiple of `stride` on. */
  readonly pictures: Region;
  /** [3,256]: what each byte of each channel becomes. */
  readonly values: Operand;
  /** [count, shifts, 3,H,W] */
  readonly y: Operand;
}

/**
 * Fills y: each picture moved left and up by every shift, its border repeated.
 * @param stride bytes from picture to picture, a multiple of 4
 * @param shifts right and down, whole pixels
 */
export function normalisePictures(
  caps: Capabilities,
  arrays: PictureArrays,
  { count, height, width, stride }: { readonly count: number; readonly height: number; readonly width: number; readonly stride: number },
  shifts: readonly (readonly [number, number])[],
): Dispatch[] {
  const groups = spread(Math.ceil((count * height * width) / elementWidth), caps);
  return shifts.map(([right, down], first) =>
    normaliseText({ ...arrays }, { count, height, width, stride, right, down, first, step: shifts.length }, groups),
  );
}
