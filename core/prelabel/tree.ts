/**
 * Region tree of one image: average linkage on the cosine of patch features, first between 4-neighbours, then between
 * any two regions. Knows features and the grid, no pixels.
 *
 * Average linkage needs no pairwise matrix: the mean cosine between two sets of unit vectors is the dot product of their
 * sums over the product of their sizes.
 */

export interface RegionTree {
  /** Number of leaves (patches). Nodes 0..leaves-1 are patches, node leaves+k is the k-th merge; the last is the root. */
  readonly leaves: number;
  /** Children of merge k: left[k], right[k]. */
  readonly left: Int32Array;
  readonly right: Int32Array;
  /** Mean cosine between the two sides of merge k, made non-increasing towards the root (constraints can invert it). */
  readonly level: Float64Array;
  /** Parent of each node, -1 for roots. */
  readonly parent: Int32Array;
  /** Patches below each node. */
  readonly size: Int32Array;
}

/** Max-heap of candidate merges, as parallel arrays; stale pairs are dropped when popped. */
class MergeHeap {
  #key: number[] = [];
  #a: number[] = [];
  #b: number[] = [];

  get length(): number {
    return this.#key.length;
  }

  push(key: number, a: number, b: number): void {
    const keys = this.#key;
    let i = keys.length;
    keys.push(key);
    this.#a.push(a);
    this.#b.push(b);
    while (i > 0) {
      const up = (i - 1) >> 1;
      if (keys[up] >= key) break;
      this.#swap(i, up);
      i = up;
    }
  }

  pop(): { key: number; a: number; b: number } {
    const top = { key: this.#key[0], a: this.#a[0], b: this.#b[0] };
    const last = this.#key.length - 1;
    this.#swap(0, last);
    this.#key.pop();
    this.#a.pop();
    this.#b.pop();
    const keys = this.#key;
    let i = 0;
    for (;;) {
      const l = 2 * i + 1;
      if (l >= last) break;
      const r = l + 1;
      const child = r < last && keys[r] > keys[l] ? r : l;
      if (keys[child] <= keys[i]) break;
      this.#swap(i, child);
      i = child;
    }
    return top;
  }

  #swap(i: number, j: number): void {
    const k = this.#key[i];
    this.#key[i] = this.#key[j];
    this.#key[j] = k;
    const a = this.#a[i];
    this.#a[i] = this.#a[j];
    this.#a[j] = a;
    const b = this.#b[i];
    this.#b[i] = this.#b[j];
    this.#b[j] = b;
  }
}

/**
 * Average linkage over an arbitrary neighbour graph, until nothing is connected.
 * @param sums [n, dim] sum of unit vectors of each starting element
 * @param counts [n] unit vectors in each starting element
 * @param neighbours neighbour elements of each element (symmetric)
 */
export function linkage(sums: Float32Array, counts: Int32Array, dim: number, neighbours: readonly Iterable<number>[]): RegionTree {
  const n = counts.length;
  const most = Math.max(0, 2 * n - 1);
  const all = new Float32Array(most * dim);
  all.set(sums);
  const size = new Int32Array(most);
  size.set(counts);
  const parent = new Int32Array(most).fill(-1);
  const left: number[] = [];
  const right: number[] = [];
  const level: number[] = [];
  const near: (Set<number> | null)[] = Array.from({ length: n }, (_, i) => new Set(neighbours[i]));
  const heap = new MergeHeap();
  const meanCosine = (a: number, b: number): number => {
    let dot = 0;
    const offsetA = a * dim;
    const offsetB = b * dim;
    for (let k = 0; k < dim; k++) dot += all[offsetA + k] * all[offsetB + k];
    return dot / (size[a] * size[b]);
  };
  for (let i = 0; i < n; i++) for (const j of near[i]!) if (j > i) heap.push(meanCosine(i, j), i, j);
  while (heap.length > 0) {
    const { key, a, b } = heap.pop();
    if (parent[a] >= 0 || parent[b] >= 0) continue;
    const node = n + left.length;
    left.push(a);
    right.push(b);
    const below = Math.min(a < n ? Infinity : level[a - n], b < n ? Infinity : level[b - n]);
    level.push(Math.min(key, below));
    parent[a] = node;
    parent[b] = node;
    size[node] = size[a] + size[b];
    for (let k = 0; k < dim; k++) all[node * dim + k] = all[a * dim + k] + all[b * dim + k];
    const nearA = near[a]!;
    const nearB = near[b]!;
    const merged = nearA.size >= nearB.size ? nearA : nearB;
    for (const j of merged === nearA ? nearB : nearA) merged.add(j);
    merged.delete(a);
    merged.delete(b);
    near[a] = null;
    near[b] = null;
    near.push(merged);
    for (const j of merged) {
      const others = near[j]!;
      others.delete(a);
      others.delete(b);
      others.add(node);
      heap.push(meanCosine(node, j), node, j);
    }
  }
  const nodes = n + left.length;
  return {
    leaves: n,
    left: Int32Array.from(left),
    right: Int32Array.from(right),
    level: Float64Array.from(level),
    parent: parent.slice(0, nodes),
    size: size.slice(0, nodes),
  };
}

/** Tree of a patch grid with 4-neighbour connectivity. @param unit [gridHeight * gridWidth, dim], rows of length 1 */
export function regionTree(unit: Float32Array, dim: number, gridWidth: number, gridHeight: number): RegionTree {
  const n = gridWidth * gridHeight;
  const neighbours: number[][] = [];
  for (let i = 0; i < n; i++) {
    const x = i % gridWidth;
    const list: number[] = [];
    if (x > 0) list.push(i - 1);
    if (x + 1 < gridWidth) list.push(i + 1);
    if (i >= gridWidth) list.push(i - gridWidth);
    if (i + gridWidth < n) list.push(i + gridWidth);
    neighbours.push(list);
  }
  return linkage(unit, new Int32Array(n).fill(1), dim, neighbours);
}

/** Tree over the groups of a labelling without connectivity: every group may join every other. @param labels 0..count-1 per row of unit */
export function groupTree(unit: Float32Array, dim: number, labels: Int32Array, count: number): RegionTree {
  const sums = new Float32Array(count * dim);
  const counts = new Int32Array(count);
  for (let i = 0; i < labels.length; i++) {
    const g = labels[i];
    if (g < 0) continue;
    counts[g]++;
    for (let k = 0; k < dim; k++) sums[g * dim + k] += unit[i * dim + k];
  }
  const everyone = Array.from({ length: count }, (_, i) => i);
  return linkage(
    sums,
    counts,
    dim,
    everyone.map((i) => everyone.filter((j) => j !== i)),
  );
}

/** Cluster of each leaf when merging stops below `level` cosine. Labels 0..count-1 in order of first leaf. */
export function cutTree(tree: RegionTree, level: number): { labels: Int32Array; count: number } {
  const nodes = tree.parent.length;
  const owner = new Int32Array(nodes).fill(-1);
  let count = 0;
  const labels = new Int32Array(tree.leaves);
  // Parents have higher numbers than children, so a downward pass sees each parent first.
  for (let node = nodes - 1; node >= 0; node--) {
    const up = tree.parent[node];
    const joined = up >= 0 && tree.level[up - tree.leaves] >= level;
    owner[node] = joined ? owner[up] : node;
  }
  const number = new Map<number, number>();
  for (let i = 0; i < tree.leaves; i++) {
    let label = number.get(owner[i]);
    if (label === undefined) {
      label = count++;
      number.set(owner[i], label);
    }
    labels[i] = label;
  }
  return { labels, count };
}

/** The leaves below one node. */
export function leavesOf(tree: RegionTree, node: number): number[] {
  const out: number[] = [];
  const stack = [node];
  while (stack.length > 0) {
    const at = stack.pop()!;
    if (at < tree.leaves) out.push(at);
    else stack.push(tree.left[at - tree.leaves], tree.right[at - tree.leaves]);
  }
  return out;
}
