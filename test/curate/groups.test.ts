import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { CopyPair } from '../../core/curate/copies.ts';
import { DisjointSets, groupsOf } from '../../core/curate/groups.ts';
import { Random } from '../../core/random.ts';

test('disjoint sets are the connected components that a search finds', () => {
  for (let seed = 0; seed < 20; seed++) {
    const random = new Random(seed, 12);
    const n = 40;
    const edges = Array.from({ length: 5 + 3 * seed }, () => [random.int(n), random.int(n)] as const);
    const sets = new DisjointSets(n);
    for (const [a, b] of edges) sets.join(a, b);
    for (let start = 0; start < n; start++) {
      const reached = new Set([start]);
      for (let grown = true; grown;) {
        grown = false;
        for (const [a, b] of edges) {
          if (reached.has(a) === reached.has(b)) continue;
          reached.add(a).add(b);
          grown = true;
        }
      }
      for (let i = 0; i < n; i++) assert.equal(sets.find(i) === sets.find(start), reached.has(i), `seed ${seed}: ${start}, ${i}`);
    }
  }
});

test('of a group the largest is kept, of equals the sharpest, of those the first', () => {
  const quality = [
    { pixels: 100, sharpness: 9 },
    { pixels: 400, sharpness: 1 },
    { pixels: 400, sharpness: 5 },
    { pixels: 900, sharpness: 1 },
    { pixels: 50, sharpness: 1 },
    { pixels: 50, sharpness: 1 },
    { pixels: 70, sharpness: 1 },
  ];
  const pair = (a: number, b: number, similarity: number): CopyPair => ({ a, b, similarity, inPlace: true });
  const groups = groupsOf([pair(0, 1, 0.9), pair(1, 2, 0.95), pair(5, 4, 0.99), pair(0, 2, 0.8)], quality);
  assert.deepEqual(groups, [
    // 0 is compared with the kept 2 itself: that counts, not its nearer neighbour 1.
    { members: [2, 1, 0], similarity: [1, 0.95, 0.8] },
    { members: [4, 5], similarity: [1, 0.99] },
  ]);
  // A chain: 0 and 2 were never compared with each other.
  const chain = groupsOf([pair(0, 1, 0.9), pair(1, 2, 0.95)], quality);
  assert.deepEqual(chain, [{ members: [2, 1, 0], similarity: [1, 0.95, 0.9] }]);
  assert.deepEqual(groupsOf([], quality), []);
});
