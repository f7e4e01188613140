/**
 * Seeded random numbers: every draw in the product comes from here, addressed by (seed, stream), so any step of a run
 * can be replayed alone. Not cryptographic.
 */

/** SplitMix32: spreads a small integer over 32 bits; used to derive independent states from (seed, stream). */
function splitMix32(state: number): () => number {
  let a = state >>> 0;
  return () => {
    a = (a + 0x9e3779b9) >>> 0;
    let t = a ^ (a >>> 16);
    t = Math.imul(t, 0x21f0aaad);
    t ^= t >>> 15;
    t = Math.imul(t, 0x735a2d97);
    return (t ^ (t >>> 15)) >>> 0;
  };
}

/**
 * One stream of random numbers. `new Random(seed, ...stream)` with equal arguments gives equal draws.
 * Generator: sfc32 (Doty-Humphrey, PractRand), 128 bits of state.
 */
export class Random {
  #a: number;
  #b: number;
  #c: number;
  #d: number;
  #spareNormal: number | null = null;

  /**
   * @param seed any integer; its low 32 bits count
   * @param stream integers naming the use (step, crop, ...): different lists give independent streams
   */
  constructor(seed: number, ...stream: number[]) {
    let mixed = splitMix32(seed | 0)();
    for (const s of stream) mixed = splitMix32(mixed ^ Math.imul((s | 0) + 1, 0x85ebca6b))();
    const next = splitMix32(mixed);
    this.#a = next();
    this.#b = next();
    this.#c = next();
    this.#d = 1;
    for (let i = 0; i < 12; i++) this.uint32();
  }

  /** Uniform integer in [0, 2^32). */
  uint32(): number {
    const t = (((this.#a + this.#b) | 0) + this.#d) | 0;
    this.#d = (this.#d + 1) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = (this.#c << 21) | (this.#c >>> 11);
    this.#c = (this.#c + t) | 0;
    return t >>> 0;
  }

  /** Uniform in [low, high), 32 bits fine. Defaults to [0, 1). */
  uniform(low = 0, high = 1): number {
    return low + ((high - low) * this.uint32()) / 4294967296;
  }

  /** Uniform integer in [0, count); count at least 1. */
  int(count: number): number {
    return Math.floor(this.uniform() * count);
  }

  /** True with probability p. */
  chance(p: number): boolean {
    return this.uniform() < p;
  }

  /** Standard normal by the polar Box-Muller method. */
  normal(): number {
    if (this.#spareNormal !== null) {
      const spare = this.#spareNormal;
      this.#spareNormal = null;
      return spare;
    }
    for (;;) {
      const u = this.uniform(-1, 1);
      const v = this.uniform(-1, 1);
      const s = u * u + v * v;
      if (s > 0 && s < 1) {
        const scale = Math.sqrt((-2 * Math.log(s)) / s);
        this.#spareNormal = v * scale;
        return u * scale;
      }
    }
  }

  /** Integers 0..count-1 in random order (Fisher-Yates). */
  permutation(count: number): Int32Array {
    const order = new Int32Array(count);
    for (let i = 0; i < count; i++) order[i] = i;
    this.shuffle(order);
    return order;
  }

  /** Shuffles in place (Fisher-Yates). */
  shuffle<T>(items: { length: number; [index: number]: T }): void {
    for (let i = items.length - 1; i > 0; i--) {
      const j = this.int(i + 1);
      const kept = items[i]!;
      items[i] = items[j]!;
      items[j] = kept;
    }
  }
}
