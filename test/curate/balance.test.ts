import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { CurationResult, TrainingListOptions } from '../../core/contract/index.ts';
import { clusterCount, clusterImages, shares } from '../../core/curate/balance.ts';
import { excludedBy } from '../../core/curate/exclude.ts';
import { trainingList } from '../../core/curate/trainingList.ts';
import { Random } from '../../core/random.ts';

test('clusters of small sets have the least inertia of all partitions', () => {
  for (let seed = 0; seed < 8; seed++) {
    const [n, dim, k] = [9, 3, 2 + (seed % 2)];
    const random = new Random(seed, 50);
    const rows = Float32Array.from({ length: n * dim }, () => random.normal());
    for (let i = 0; i < n; i++) {
      const norm = Math.hypot(...rows.subarray(i * dim, (i + 1) * dim));
      for (let d = 0; d < dim; d++) rows[i * dim + d]! /= norm;
    }
    // On the sphere the best centre of a part is its sum's direction: inertia = members - |sum|.
    const inertia = (labels: ArrayLike<number>): number => {
      const sums = Array.from({ length: k }, () => new Float64Array(dim));
      for (let i = 0; i < n; i++) for (let d = 0; d < dim; d++) sums[labels[i]!]![d]! += rows[i * dim + d]!;
      return n - sums.reduce((total, sum) => total + Math.hypot(...sum), 0);
    };
    let least = Infinity;
    for (let code = 0; code < k ** n; code++) {
      const labels = Array.from({ length: n }, (_, i) => Math.floor(code / k ** i) % k);
      least = Math.min(least, inertia(labels));
    }
    const found = clusterImages(rows, dim, k, 1);
    // k-means stops in local minima; of these sets the best of three starts is within a tenth of the least, mostly equal.
    assert.ok(inertia(found.labels) <= 1.1 * least + 1e-9, `seed ${seed}: ${inertia(found.labels)} against ${least}`);
    const sizes = Array.from({ length: found.count }, (_, c) => found.labels.filter((label) => label === c).length);
    assert.deepEqual(
      sizes,
      sizes.toSorted((a, b) => b - a),
      'larger clusters first',
    );
    assert.deepEqual(clusterImages(rows, dim, k, 1), found, 'the same seed gives the same clusters');
  }
  assert.deepEqual([1, 3, 32, 200, 1747, 50_000, 1e7].map(clusterCount), [1, 3, 4, 10, 30, 158, 256]);
});

test('shares of clusters, worked by hand', () => {
  // Twice the median, 2 x 10: only what is above loses.
  assert.deepEqual(shares([100, 30, 10, 8, 1], null), [20, 20, 10, 8, 1]);
  // An even set loses nothing; of an even number of clusters the median lies between, and half an image is one.
  assert.deepEqual(shares([10, 10, 9], null), [10, 10, 9]);
  assert.deepEqual(shares([20, 4, 3, 1], null), [7, 4, 3, 1]);
  // 60 of 100 + 30 + 10: 10 all, (60 - 10) / 2 each of the others.
  assert.deepEqual(shares([100, 30, 10], 60), [25, 25, 10]);
  // What does not divide goes to the largest, one each.
  assert.deepEqual(shares([100, 30, 10], 63), [27, 26, 10]);
  assert.deepEqual(shares([3, 5, 4], 7), [2, 3, 2]);
  assert.deepEqual(shares([3, 5, 4], 2), [0, 1, 1]);
  assert.deepEqual(shares([3, 5, 4], 12), [3, 5, 4]);
  assert.deepEqual(shares([3, 5, 4], 99), [3, 5, 4]);
  assert.deepEqual(shares([3, 0, 4], 0), [0, 0, 0]);
  assert.deepEqual(shares([], 5), []);
  for (let seed = 0; seed < 40; seed++) {
    const random = new Random(seed, 7);
    const sizes = Array.from({ length: 1 + random.int(12) }, () => random.int(30));
    const total = sizes.reduce((a, b) => a + b, 0);
    const keep = random.int(total + 5);
    const given = shares(sizes, keep);
    assert.equal(
      given.reduce((a, b) => a + b, 0),
      Math.min(keep, total),
    );
    const most = Math.max(0, ...given);
    given.forEach((share, c) => assert.ok(share === sizes[c] || share >= most - 1, `${sizes} ${keep}: ${given}`));
  }
});

const plain: TrainingListOptions = { dedupe: true, balance: false, keep: null };
const member = (imageId: number, similarity = 0.9) => ({ imageId, similarity, exact: similarity === 1 });

/** Images 1 to 20: {1, 2, 3} and {10, 11} are copies; cluster 0 holds 1 to 14, cluster 1 15 to 19; 20 could not be read. */
const curation: CurationResult = {
  features: 'pictures',
  groups: [{ members: [member(2, 1), member(1, 1), member(3)] }, { members: [member(11, 1), member(10)] }],
  clusters: [
    { compactness: 0.5, examples: [1] },
    { compactness: 0.6, examples: [15] },
  ],
  images: Array.from({ length: 19 }, (_, i) => ({ imageId: i + 1, cluster: i < 14 ? 0 : 1 })),
};
const ids = Array.from({ length: 20 }, (_, i) => i + 1);

test('a training list without copies: the first of a group that is there stays, each other says of whom it is one', () => {
  const { kept, leftOut } = trainingList(ids, curation, plain, 1);
  assert.deepEqual(
    kept,
    ids.filter((id) => ![1, 3, 10].includes(id)),
  );
  const of = (imageId: number, kept: number, similarity: number) => ({
    imageId,
    reason: { kind: 'duplicate' as const, of: kept, similarity, exact: similarity === 1, ofExcluded: false },
  });
  assert.deepEqual(leftOut, [of(1, 2, 1), of(3, 2, 0.9), of(10, 11, 0.9)]);
  // 2 is gone from the folder: the next of its group stays in its stead.
  const without = trainingList(
    ids.filter((id) => id !== 2),
    curation,
    plain,
    1,
  );
  assert.deepEqual([without.kept.includes(1), without.kept.includes(3)], [true, false]);
  assert.deepEqual(trainingList(ids, curation, { ...plain, dedupe: false }, 1), { kept: ids, leftOut: [] });
  assert.deepEqual(trainingList(ids, null, { ...plain, balance: true }, 1).kept, ids);
});

test('whoever is left out takes its copies along; without looking for copies, only itself', () => {
  const excluded = new Map([
    [3, 'test/*.jpg'],
    [99, 'gone.jpg'],
  ]);
  const { leftOut } = trainingList(ids, curation, plain, 1, excluded);
  assert.deepEqual(
    leftOut.map(({ imageId, reason }) => [imageId, reason.kind, 'of' in reason && reason.of, 'ofExcluded' in reason && reason.ofExcluded]),
    [
      [1, 'duplicate', 3, true],
      [2, 'duplicate', 3, true],
      [3, 'excluded', false, false],
      [10, 'duplicate', 11, false],
    ],
  );
  const only = trainingList(ids, curation, { ...plain, dedupe: false }, 1, excluded);
  assert.deepEqual(only.leftOut, [{ imageId: 3, reason: { kind: 'excluded', line: 'test/*.jpg' } }]);
});

test('a balanced list: shares of what copies have left, drawn by the seed; what could not be read stays', () => {
  // 11 of cluster 0 and 5 of cluster 1 remain, and image 20: 12 wanted are 20, 5 and 6.
  const { kept, leftOut } = trainingList(ids, curation, { dedupe: true, balance: true, keep: 12 }, 1);
  assert.equal(kept.length, 12);
  assert.deepEqual(
    kept.filter((id) => id > 14),
    [15, 16, 17, 18, 19, 20],
  );
  const over = leftOut.filter(({ reason }) => reason.kind === 'over-share');
  assert.equal(over.length, 5);
  for (const { reason } of over) assert.deepEqual(reason, { kind: 'over-share', cluster: 0, size: 11, share: 6 });
  const again = trainingList(ids, curation, { dedupe: true, balance: true, keep: 12 }, 1);
  assert.deepEqual(again.kept, kept);
  const lists = new Set(
    [1, 2, 3, 4].map((seed) => trainingList(ids, curation, { dedupe: true, balance: true, keep: 12 }, seed).kept.join()),
  );
  assert.ok(lists.size > 1, 'another seed draws others');
});

test('lines that leave images out: paths, stems, globs; what names nothing is told', () => {
  const images = ['1001.jpg', 'leaf_1001.jpg', 'sub/1001.png', 'sub/a b.tif', 'x.test/12.jpg', '12.jpg'].map((path) => ({ path }));
  const named = (...lines: string[]): string[] => [...excludedBy(lines, images).excluded.keys()].map(({ path }) => path);
  assert.deepEqual(named('1001'), ['1001.jpg', 'sub/1001.png']);
  assert.deepEqual(named('1001.jpg'), ['1001.jpg']);
  assert.deepEqual(named('sub/a b.tif'), ['sub/a b.tif']);
  assert.deepEqual(named('*_1001.*'), ['leaf_1001.jpg']);
  assert.deepEqual(named('sub/*'), ['sub/1001.png', 'sub/a b.tif']);
  assert.deepEqual(named('1[0-9].jpg'), ['x.test/12.jpg', '12.jpg']);
  assert.deepEqual(named('**/12.jpg', '# 1001', '', '   '), ['x.test/12.jpg', '12.jpg']);
  const { excluded, unused } = excludedBy(['nobody', '12', '*.bmp', '12.jpg'], images);
  assert.deepEqual(unused, ['nobody', '*.bmp']);
  assert.equal(excluded.get(images[5]!), '12');
});
