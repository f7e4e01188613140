/**
 * The 64-bit DCT hash of a picture: the signs of its lowest frequencies. Survives other compression, sizes and
 * brightness; changes with crops and turns.
 */

/** Side of the square that the picture is reduced to. */
export const hashSide = 32;
const lowest = 8;

/** cosines[k * hashSide + x] = cos(pi k (2x + 1) / (2 hashSide)) */
const cosines = Float64Array.from({ length: lowest * hashSide }, (_, at) => {
  const k = Math.floor(at / hashSide);
  return Math.cos((Math.PI * k * (2 * (at % hashSide) + 1)) / (2 * hashSide));
});

/**
 * The lowest 8 x 8 coefficients of the two-dimensional DCT-II of a gray square, each against the median of the 63 that
 * are not the mean: bit 8 v + u is 1 when coefficient (v down, u across) is larger.
 * @param gray [32 * 32] row-major
 * @returns two words of 32 bits: rows 0 to 3, rows 4 to 7
 */
export function dctHash(gray: Float32Array): readonly [number, number] {
  // Rows first: [32, 8], then columns: [8, 8].
  const across = new Float64Array(hashSide * lowest);
  for (let y = 0; y < hashSide; y++) {
    for (let u = 0; u < lowest; u++) {
      let sum = 0;
      for (let x = 0; x < hashSide; x++) sum += gray[y * hashSide + x] * cosines[u * hashSide + x];
      across[y * lowest + u] = sum;
    }
  }
  const coefficients = new Float64Array(lowest * lowest);
  for (let v = 0; v < lowest; v++) {
    for (let u = 0; u < lowest; u++) {
      let sum = 0;
      for (let y = 0; y < hashSide; y++) sum += across[y * lowest + u] * cosines[v * hashSide + y];
      coefficients[v * lowest + u] = sum;
    }
  }
  const median = coefficients.slice(1).sort()[31];
  const words: [number, number] = [0, 0];
  for (let i = 0; i < 64; i++) if (coefficients[i] > median) words[i >> 5] |= 1 << (i & 31);
  return [words[0] >>> 0, words[1] >>> 0];
}

/** Bits in which two words differ. */
export function differingBits(a: number, b: number): number {
  let x = a ^ b;
  x -= (x >>> 1) & 0x55555555;
  x = (x & 0x33333333) + ((x >>> 2) & 0x33333333);
  x = (x + (x >>> 4)) & 0x0f0f0f0f;
  return Math.imul(x, 0x01010101) >>> 24;
}
