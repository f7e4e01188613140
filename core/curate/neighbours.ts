/** Nearest images by descriptor: brute force in blocks, exact, without a table of all pairs. */

/** Rows and their cosines, nearest first. */
export interface Neighbours {
  /** [n * k] index of each neighbour, -1 where there are fewer than k. */
  readonly index: Int32Array;
  /** [n * k] */
  readonly cosine: Float32Array;
}

/** Rows that are compared with all others before the next: they and a block of others stay in the processor's cache. */
const block = 128;

/**
 * The k nearest of every row among the others (DINOv2, section 3: k = 64 for removing copies). n * n * dim products.
 * @param rows [n, dim], length 1 each
 * @param breathe awaited between blocks with the share done, for progress and stopping
 */
export async function nearestOfAll(
  rows: Float32Array,
  dim: number,
  k: number,
  breathe: (done: number) => Promise<void> = async () => {},
): Promise<Neighbours> {
  const n = rows.length / dim;
  const index = new Int32Array(n * k).fill(-1);
  const cosine = new Float32Array(n * k).fill(-2);
  const cosines = new Float64Array(block);
  for (let from = 0; from < n; from += block) {
    const to = Math.min(n, from + block);
    // Each pair once, for both of its rows.
    for (let other = from; other < n; other += block) {
      const end = Math.min(n, other + block);
      for (let i = from; i < to; i++) {
        const first = Math.max(other, i + 1);
        dots(rows, i, first, end, dim, cosines);
        for (let j = first; j < end; j++) {
          insert(index, cosine, i * k, k, j, cosines[j - first]);
          insert(index, cosine, j * k, k, i, cosines[j - first]);
        }
      }
    }
    // The work left falls with the square of the rows left.
    await breathe(1 - (1 - to / n) ** 2);
  }
  return { index, cosine };
}

export interface Retrieved {
  readonly index: number;
  /** To the nearest of the queries. */
  readonly cosine: number;
}

/**
 * Sample-based retrieval (DINOv2, section 3): the k nearest of each query, all together, nearest first; queries are not
 * among them.
 * @param rows [n, dim], length 1 each
 */
export function retrieve(rows: Float32Array, dim: number, queries: readonly number[], k: number): Retrieved[] {
  const n = rows.length / dim;
  const asked = new Set(queries);
  const found = new Map<number, number>();
  const index = new Int32Array(k);
  const cosine = new Float32Array(k);
  for (const query of asked) {
    index.fill(-1);
    cosine.fill(-2);
    for (let j = 0; j < n; j++) if (!asked.has(j)) insert(index, cosine, 0, k, j, dot(rows, query * dim, rows, j * dim, dim));
    for (let at = 0; at < k && index[at] >= 0; at++) found.set(index[at], Math.max(cosine[at], found.get(index[at]) ?? -2));
  }
  return [...found].map(([i, value]) => ({ index: i, cosine: value })).sort((a, b) => b.cosine - a.cosine || a.index - b.index);
}

/** Puts a row into a list of k, which stays in falling order; the earlier row first where two are equal. */
function insert(index: Int32Array, cosine: Float32Array, at: number, k: number, row: number, value: number): void {
  const rounded = Math.fround(value);
  if (rounded <= cosine[at + k - 1]) return;
  let place = at + k - 1;
  for (; place > at && cosine[place - 1] < rounded; place--) {
    cosine[place] = cosine[place - 1];
    index[place] = index[place - 1];
  }
  cosine[place] = rounded;
  index[place] = row;
}

/** Products of row i with rows [from, to), four at a time: one sum alone would wait for each of its additions. */
function dots(rows: Float32Array, i: number, from: number, to: number, dim: number, out: Float64Array): void {
  const p = i * dim;
  let j = from;
  for (; j + 4 <= to; j += 4) {
    const [q0, q1, q2, q3] = [j * dim, (j + 1) * dim, (j + 2) * dim, (j + 3) * dim];
    let [s0, s1, s2, s3] = [0, 0, 0, 0];
    for (let k = 0; k < dim; k++) {
      const v = rows[p + k];
      s0 += v * rows[q0 + k];
      s1 += v * rows[q1 + k];
      s2 += v * rows[q2 + k];
      s3 += v * rows[q3 + k];
    }
    out[j - from] = s0;
    out[j - from + 1] = s1;
    out[j - from + 2] = s2;
    out[j - from + 3] = s3;
  }
  for (; j < to; j++) out[j - from] = dot(rows, p, rows, j * dim, dim);
}

function dot(a: Float32Array, p: number, b: Float32Array, q: number, dim: number): number {
  let sum = 0;
  for (let k = 0; k < dim; k++) sum += a[p + k] * b[q + k];
  return sum;
}
