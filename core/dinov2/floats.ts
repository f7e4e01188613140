/** Floating-point numbers as tensor files store them, little-endian, and as float32. Not what a file is or where they lie in it. */

/** Types that weights come in. Names as in safetensors. */
export type FloatType = 'F32' | 'F16' | 'BF16';

export const FLOAT_BYTES: Readonly<Record<FloatType, number>> = { F32: 4, F16: 2, BF16: 2 };

export const isFloatType = (type: string): type is FloatType => Object.hasOwn(FLOAT_BYTES, type);

/**
 * The float32 values of stored numbers; every half and bfloat16 number is one exactly.
 * @param bytes from the start of their buffer, a whole number of values; float32 values share the buffer
 */
export function toFloat32(bytes: Uint8Array<ArrayBuffer>, type: FloatType): Float32Array<ArrayBuffer> {
  const count = bytes.byteLength / FLOAT_BYTES[type];
  if (type === 'F32') return new Float32Array(bytes.buffer, 0, count);
  if (type === 'F16') return new Float32Array(new Float16Array(bytes.buffer, 0, count));
  // bfloat16 is the upper half of a float32.
  return new Float32Array(Uint32Array.from(new Uint16Array(bytes.buffer, 0, count), (bits) => bits << 16).buffer);
}
