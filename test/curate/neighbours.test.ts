import assert from 'node:assert/strict';
import { test } from 'node:test';
import { standardised, tokenDescriptors } from '../../core/curate/descriptors.ts';
import { nearestOfAll, retrieve } from '../../core/curate/neighbours.ts';
import { Random } from '../../core/random.ts';

function unitRows(n: number, dim: number, seed: number): Float32Array {
  const random = new Random(seed, n, dim);
  const rows = Float32Array.from({ length: n * dim }, () => random.normal());
  for (let i = 0; i < n; i++) {
    const norm = Math.hypot(...rows.subarray(i * dim, (i + 1) * dim));
    for (let k = 0; k < dim; k++) rows[i * dim + k]! /= norm;
  }
  return rows;
}

const cosine = (rows: Float32Array, dim: number, i: number, j: number): number => {
  let sum = 0;
  for (let k = 0; k < dim; k++) sum += rows[i * dim + k]! * rows[j * dim + k]!;
  return sum;
};

test('nearest of all: those of a full sort, over several blocks', async () => {
  const [n, dim, k] = [301, 7, 5];
  const rows = unitRows(n, dim, 3);
  const shares: number[] = [];
  const { index, cosine: found } = await nearestOfAll(rows, dim, k, async (share) => void shares.push(share));
  for (let i = 0; i < n; i++) {
    const order = Array.from({ length: n }, (_, j) => j)
      .filter((j) => j !== i)
      .sort((p, q) => cosine(rows, dim, i, q) - cosine(rows, dim, i, p));
    assert.deepEqual([...index.subarray(i * k, (i + 1) * k)], order.slice(0, k), `row ${i}`);
    assert.ok(Math.abs(found[i * k]! - cosine(rows, dim, i, order[0]!)) < 1e-6);
  }
  assert.deepEqual([shares.length, shares.at(-1)], [3, 1]);
  const few = await nearestOfAll(unitRows(3, dim, 4), dim, k);
  assert.deepEqual([...few.index.subarray(2, k)], [-1, -1, -1], 'three rows have two neighbours each');
});

test('retrieval: the k nearest of each query together, nearest first, without the queries', () => {
  const [n, dim, k] = [120, 6, 4];
  const rows = unitRows(n, dim, 9);
  const queries = [5, 17, 17, 90];
  const expected = new Map<number, number>();
  for (const query of new Set(queries)) {
    const others = Array.from({ length: n }, (_, j) => j).filter((j) => !queries.includes(j));
    others.sort((p, q) => cosine(rows, dim, query, q) - cosine(rows, dim, query, p));
    for (const j of others.slice(0, k)) expected.set(j, Math.max(expected.get(j) ?? -2, cosine(rows, dim, query, j)));
  }
  const found = retrieve(rows, dim, queries, k);
  assert.deepEqual(
    found.map(({ index }) => index),
    [...expected].sort((a, b) => b[1] - a[1]).map(([j]) => j),
  );
  for (const { index, cosine: value } of found) assert.ok(Math.abs(value - expected.get(index)!) < 1e-6);
  assert.deepEqual(retrieve(unitRows(2, dim, 1), dim, [0, 1], k), []);
});

test('descriptors: plain appearance by mean and deviation, tokens centred and side by side', () => {
  // Two images, two numbers: +1 and -1 deviations; a number that all share says nothing.
  assert.deepEqual([...standardised(Float32Array.from([1, 5, 3, 5]), 2)], [-1, 0, 1, 0]);
  const cls = Float32Array.from([1, 0, 0, 1]);
  const means = Float32Array.from([2, 2, 2, 4]);
  const root = Math.SQRT1_2;
  const got = [...tokenDescriptors(cls, means, 2)];
  // Class tokens lie half their difference from their mean (0.5, 0.5), mean patches above and below (2, 3).
  const expected = [root * root, -root * root, 0, -root, -root * root, root * root, 0, root];
  got.forEach((value, i) => assert.ok(Math.abs(value - expected[i]!) < 1e-6, `${got.join(' ')} is not ${expected.join(' ')}`));
});
