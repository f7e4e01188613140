// The region tree against average linkage written out on the full pairwise matrix.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { discover, discoverDefaults } from '../../core/prelabel/discover.ts';
import { cutTree, groupTree, leavesOf, regionTree } from '../../core/prelabel/tree.ts';
import { unitField } from './peers.ts';

/** Merges until nothing is connected; returns the merged sets in order with their mean cosine. */
function bruteForce(unit: Float32Array, dim: number, width: number, height: number): { members: number[]; level: number }[] {
  const n = width * height;
  const cosine = (i: number, j: number): number => {
    let sum = 0;
    for (let k = 0; k < dim; k++) sum += unit[i * dim + k] * unit[j * dim + k];
    return sum;
  };
  let sets = Array.from({ length: n }, (_, i) => [i]);
  const touching = (a: number[], b: number[]): boolean =>
    a.some((i) => b.some((j) => Math.abs((i % width) - (j % width)) + Math.abs(Math.floor(i / width) - Math.floor(j / width)) === 1));
  const merges: { members: number[]; level: number }[] = [];
  while (sets.length > 1) {
    let best = { level: -Infinity, a: -1, b: -1 };
    for (let a = 0; a < sets.length; a++) {
      for (let b = a + 1; b < sets.length; b++) {
        if (!touching(sets[a], sets[b])) continue;
        let sum = 0;
        for (const i of sets[a]) for (const j of sets[b]) sum += cosine(i, j);
        const level = sum / (sets[a].length * sets[b].length);
        if (level > best.level) best = { level, a, b };
      }
    }
    const members = [...sets[best.a], ...sets[best.b]].sort((x, y) => x - y);
    sets = sets.filter((_, i) => i !== best.a && i !== best.b);
    sets.push(members);
    merges.push({ members, level: best.level });
  }
  return merges;
}

test('connected average linkage merges the same sets at the same levels', () => {
  const width = 6;
  const height = 5;
  const dim = 5;
  const labels = Array.from({ length: width * height }, (_, i) => (i % width < 3 ? 0 : i < 15 ? 1 : 2));
  for (const noise of [0.2, 0.8]) {
    const unit = unitField(3, labels, dim, noise);
    const tree = regionTree(unit, dim, width, height);
    const peer = bruteForce(unit, dim, width, height);
    assert.equal(tree.left.length, peer.length);
    let lowest = Infinity;
    peer.forEach((merge, k) => {
      const node = tree.leaves + k;
      assert.deepEqual(
        leavesOf(tree, node).sort((a, b) => a - b),
        merge.members,
        `merge ${k}`,
      );
      assert.equal(tree.size[node], merge.members.length);
      // Levels are reported non-increasing along each path; here along the whole sequence's paths.
      const below = [tree.left[k], tree.right[k]].map((c) => (c < tree.leaves ? Infinity : tree.level[c - tree.leaves]));
      assert.ok(Math.abs(tree.level[k] - Math.min(merge.level, ...below)) < 1e-5);
      lowest = Math.min(lowest, tree.level[k]);
    });
    assert.ok(lowest < 1);
  }
});

test('a cut gives the groups of a clean field, and joins distant twins only without connectivity', () => {
  const width = 8;
  const height = 6;
  // Two blobs of kind 1 apart from each other on background 0.
  const labels = Array.from({ length: width * height }, (_, i) => {
    const x = i % width;
    const y = Math.floor(i / width);
    return y >= 2 && y < 4 && (x === 1 || x === 2 || x === 5 || x === 6) ? 1 : 0;
  });
  const unit = unitField(8, labels, 12, 0.1);
  const { labels: connected, count } = cutTree(regionTree(unit, 12, width, height), 0.6);
  assert.equal(count, 3);
  assert.equal(connected[2 * width + 1], connected[3 * width + 2]);
  assert.notEqual(connected[2 * width + 1], connected[2 * width + 5]);
  const groups = cutTree(groupTree(unit, 12, connected, count), 0.6);
  assert.equal(groups.count, 2);
  assert.equal(groups.labels[connected[2 * width + 1]], groups.labels[connected[2 * width + 5]]);
});

test('discovery offers every true region of a field: small, large and touching', () => {
  const width = 20;
  const height = 16;
  const truth = [
    (x: number, y: number) => x >= 2 && x < 12 && y >= 2 && y < 12, // a leaf
    (x: number, y: number) => x >= 4 && x < 6 && y >= 4 && y < 6, // a spot on it
    (x: number, y: number) => x === 9 && y === 8, // a spot of one patch
    (x: number, y: number) => x >= 15 && x < 18 && y >= 5 && y < 9, // a thing of its own
  ];
  const labels = Array.from({ length: width * height }, (_, i) => {
    const x = i % width;
    const y = Math.floor(i / width);
    for (const k of [2, 1, 3, 0]) if (truth[k](x, y)) return k + 1;
    return 0;
  });
  const unit = unitField(6, labels, 24, 0.2);
  const candidates = discover({ gridWidth: width, gridHeight: height, dim: 24, unit }, 0, discoverDefaults);
  for (const k of [0, 1, 2, 3]) {
    const cells = new Set(labels.flatMap((l, i) => (l === k + 1 ? [i] : [])));
    const best = Math.max(
      ...candidates.map((c) => {
        const both = c.cells.filter((q) => cells.has(q)).length;
        return both / (c.cells.length + cells.size - both);
      }),
    );
    assert.equal(best, 1, `region ${k} is covered by ${best}`);
  }
  assert.ok(candidates.every((c) => c.cells.length <= 0.8 * width * height));
});
