/** Whole pictures on the device: bytes in, the network's inputs out. */
import type { PixelImage } from '../crops.ts';
import type { Operand } from './kernels/kernel.ts';
import { normalisePictures } from './kernels/pictures.ts';
import { alignedBytes, part } from './program.ts';
import type { Runtime } from './runtime.ts';

/** @throws Error naming what does not fit @returns the size of all pictures */
export function checkPictures(
  pictures: readonly PixelImage[],
  shifts: readonly (readonly [number, number])[],
): { readonly width: number; readonly height: number } {
  const { width = 0, height = 0 } = pictures[0] ?? {};
  if (width < 1 || height < 1) throw new Error('normalisePictures: there is no picture.');
  for (const [i, picture] of pictures.entries())
    if (picture.width !== width || picture.height !== height || picture.data.length !== width * height * 3)
      throw new Error(
        `normalisePictures: picture ${i} has ${picture.data.length} bytes for ${picture.width} x ${picture.height}; all must be RGB of ${width} x ${height}.`,
      );
  for (const shift of shifts)
    if (!shift.every((by) => Number.isInteger(by) && by >= 0)) throw new Error(`normalisePictures: a shift by ${shift.join(', ')} pixels.`);
  return { width, height };
}

/** @param output [pictures * shifts,3,H,W]; what else as in `Executor.normalisePictures`, checked */
export function placePictures(
  runtime: Runtime,
  pictures: readonly PixelImage[],
  shifts: readonly (readonly [number, number])[],
  normalised: Float32Array,
  output: Operand,
): void {
  const { width, height } = pictures[0]!;
  const stride = alignedBytes(width * height * 3);
  const values = runtime.upload(normalised);
  const bytes = runtime.take(stride * pictures.length);
  for (const [i, { data }] of pictures.entries()) runtime.write(part(bytes, i * stride), data);
  const sizes = { count: pictures.length, height, width, stride };
  const arrays = { pictures: bytes, values: { region: values, element: 'f32' }, y: output } as const;
  runtime.run(normalisePictures(runtime.capabilities, arrays, sizes, shifts));
  // Work runs in the order it is given, so whoever takes this memory next comes after.
  for (const region of [values, bytes]) runtime.give(region);
}
