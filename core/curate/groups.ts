/** Groups from pairs: disjoint sets (Tarjan 1975), and which member of a group is kept. */
import type { CopyPair } from './copies.ts';

/** Disjoint sets of 0..size-1, joined by size, with path halving. */
export class DisjointSets {
  readonly #parent: Int32Array;
  readonly #size: Int32Array;

  constructor(size: number) {
    this.#parent = Int32Array.from({ length: size }, (_, i) => i);
    this.#size = new Int32Array(size).fill(1);
  }

  find(i: number): number {
    while (this.#parent[i] !== i) {
      this.#parent[i] = this.#parent[this.#parent[i]];
      i = this.#parent[i];
    }
    return i;
  }

  join(i: number, j: number): void {
    let [a, b] = [this.find(i), this.find(j)];
    if (a === b) return;
    if (this.#size[a] < this.#size[b]) [a, b] = [b, a];
    this.#parent[b] = a;
    this.#size[a] += this.#size[b];
  }
}

/** What decides which of a group is kept. */
export interface Quality {
  readonly pixels: number;
  readonly sharpness: number;
}

export interface Group {
  /** Best first: most pixels, then sharpest, then first in the list. */
  readonly members: readonly number[];
  /** Of each member to the first, or to its nearest in the group where those two were not compared; 1 for the first. */
  readonly similarity: readonly number[];
}

/** Connected components with two members or more, in the order of their first member in the list. */
export function groupsOf(pairs: readonly CopyPair[], quality: readonly Quality[]): Group[] {
  const sets = new DisjointSets(quality.length);
  for (const { a, b } of pairs) sets.join(a, b);
  const nearest = new Float64Array(quality.length);
  for (const { a, b, similarity } of pairs) {
    nearest[a] = Math.max(nearest[a], similarity);
    nearest[b] = Math.max(nearest[b], similarity);
  }
  const members = new Map<number, number[]>();
  for (let i = 0; i < quality.length; i++) if (nearest[i] > 0) members.set(sets.find(i), [...(members.get(sets.find(i)) ?? []), i]);
  const groups = [...members.values()].map((own) =>
    own.sort((i, j) => quality[j].pixels - quality[i].pixels || quality[j].sharpness - quality[i].sharpness || i - j),
  );
  const first = new Map(groups.map((own) => [sets.find(own[0]), own[0]]));
  const toFirst = new Map<number, number>();
  for (const { a, b, similarity } of pairs) {
    const kept = first.get(sets.find(a));
    if (a === kept) toFirst.set(b, Math.max(similarity, toFirst.get(b) ?? 0));
    if (b === kept) toFirst.set(a, Math.max(similarity, toFirst.get(a) ?? 0));
  }
  return groups.map((own) => ({ members: own, similarity: own.map((i, at) => (at === 0 ? 1 : (toFirst.get(i) ?? nearest[i]))) }));
}
