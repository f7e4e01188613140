// Vectors: prototypes against discriminant analysis written out, clusters, statistics, principal components, review orders.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { clusterRegions } from '../../core/prelabel/cluster.ts';
import { pcaPictures, procrustes } from '../../core/prelabel/pca.ts';
import { classProbabilities, classScores, fitPrototypes, prototypeDefaults, whiten } from '../../core/prelabel/prototypes.ts';
import { learnOrder, mixedOrder, reviewOrder } from '../../core/prelabel/rank.ts';
import type { LearnFacts } from '../../core/prelabel/rank.ts';
import { covarianceAxes, meanCosine, positionDirections, unitMean, withoutPosition } from '../../core/prelabel/statistics.ts';
import { Random } from '../../core/random.ts';
import { jacobi, unitField } from './peers.ts';

const close = (actual: number, expected: number, tolerance: number, what: string): void =>
  assert.ok(Math.abs(actual - expected) <= tolerance, `${what}: ${actual} is not ${expected}`);

function normalRows(seed: number, n: number, dim: number, scales: (k: number) => number): Float32Array {
  const random = new Random(seed);
  return Float32Array.from({ length: n * dim }, (_, i) => 1 + scales(i % dim) * random.normal());
}

test('the zero of the calibrated cosine is the mean over all pairs of patches of different images', () => {
  const images = [3, 5, 4].map((n, seed) => ({
    gridWidth: n,
    gridHeight: 1,
    dim: 6,
    patches: normalRows(seed, n, 6, () => 1),
    cls: new Float32Array(6),
  }));
  let sum = 0;
  let pairs = 0;
  images.forEach((a, i) =>
    images.forEach((b, j) => {
      if (i === j) return;
      let own = 0;
      for (let p = 0; p < a.gridWidth; p++) {
        for (let q = 0; q < b.gridWidth; q++) {
          const x = a.patches.subarray(p * 6, p * 6 + 6);
          const y = b.patches.subarray(q * 6, q * 6 + 6);
          own += x.reduce((s, v, k) => s + v * y[k], 0) / (Math.hypot(...x) * Math.hypot(...y));
        }
      }
      sum += own / (a.gridWidth * b.gridWidth);
      pairs++;
    }),
  );
  close(meanCosine(images.map(unitMean)), sum / pairs, 1e-6, 'c0');
});

test('whitened pool features have unit variance where the ridge is small', () => {
  const dim = 6;
  const rows = normalRows(1, 4000, dim, (k) => 3 / (k + 1));
  const statistics = { dim, c0: 0, viewZeros: [0, 0], position: new Float32Array(0), ...covarianceAxes(rows, dim, 1) };
  const white = whiten(rows, statistics, 1e-9);
  for (let a = 0; a < dim; a++) {
    for (let b = 0; b <= a; b++) {
      let sum = 0;
      for (let i = 0; i < 4000; i++) sum += (white[i * dim + a] * white[i * dim + b]) / 4000;
      close(sum, a === b ? 1 : 0, 2e-3, `covariance ${a}, ${b}`);
    }
  }
});

test('prototype scores are linear discriminant analysis with the pool’s covariance', () => {
  const dim = 5;
  const pool = normalRows(2, 600, dim, (k) => 1 + k / 2);
  const random = new Random(3);
  const position = Float32Array.from([0.6, 0.8, 0, 0, 0]);
  const clean = withoutPosition(pool, dim, position);
  const statistics = { dim, c0: 0, viewZeros: [0, 0], position, ...covarianceAxes(clean, dim, 1) };
  const group = (classId: number | null, shift: number, n: number) => ({
    classId,
    rows: Float32Array.from({ length: n * dim }, (_, i) => shift * ((i % dim) + 1) + random.normal()),
    weights: Float32Array.from({ length: n }, () => random.uniform(0.2, 1)),
  });
  const labelled = [group(7, 1, 9), group(9, -1, 6), group(null, 0, 12)];
  const prototypes = fitPrototypes(labelled, statistics);
  const test = normalRows(5, 8, dim, () => 2);
  const scores = classScores(prototypes, test);

  // Written out: S + eps I inverted on the space without place, through Jacobi's eigenvectors.
  const mean = Array.from(
    { length: dim },
    (_, k) => Array.from({ length: 600 }, (_, i) => clean[i * dim + k]).reduce((a, b) => a + b) / 600,
  );
  const S = new Float64Array(dim * dim);
  for (let i = 0; i < 600; i++)
    for (let a = 0; a < dim; a++)
      for (let b = 0; b < dim; b++) S[a * dim + b] += ((clean[i * dim + a] - mean[a]) * (clean[i * dim + b] - mean[b])) / 600;
  const { values, vectors } = jacobi(S, dim);
  const epsilon = (0.1 * values.reduce((a, b) => a + b)) / dim;
  const kept = statistics.variances.length;
  const phi = (row: ArrayLike<number>): number[] => {
    const flat = withoutPosition(Float32Array.from(row), dim, position);
    return values.slice(0, kept).map((v, k) => vectors[k].reduce((s, u, j) => s + u * (flat[j] - mean[j]), 0) / Math.sqrt(v + epsilon));
  };
  const totals = labelled.map((l) => l.weights.reduce((a, b) => a + b));
  const all = totals.reduce((a, b) => a + b);
  for (const { classId } of prototypes.classes) {
    const own = labelled.findIndex((l) => l.classId === classId);
    const m = new Array<number>(kept).fill(0);
    labelled[own].weights.forEach((w, i) =>
      phi(labelled[own].rows.subarray(i * dim, (i + 1) * dim)).forEach((v, k) => (m[k] += (w * v) / (totals[own] + 1))),
    );
    const share = classId === null ? Math.max(totals[own], all / 2) / all : totals[own] / all;
    for (let i = 0; i < 8; i++) {
      const x = phi(test.subarray(i * dim, (i + 1) * dim));
      const expected = x.reduce((s, v, k) => s + v * m[k], 0) - m.reduce((s, v) => s + v * v, 0) / 2 + Math.log(Math.max(0.02, share));
      close(scores[prototypes.classes.findIndex((c) => c.classId === classId)][i], expected, 2e-3, `class ${classId}, patch ${i}`);
    }
  }
  const p = classProbabilities(prototypes, test);
  for (let i = 0; i < 8; i++) close(p[0][i] + p[1][i] + p[2][i], 1, 1e-6, 'sum of probabilities');
});

test('a class of two looks needs its sub-prototypes: both looks are recognised, what lies between is not', () => {
  const dim = 8;
  const axis = (k: number, n: number, seed: number): Float32Array => {
    const random = new Random(seed);
    return Float32Array.from({ length: n * dim }, (_, i) => (i % dim === k ? 4 : 0) + 0.4 * random.normal());
  };
  const join = (...parts: Float32Array[]): Float32Array => Float32Array.from(parts.flatMap((p) => [...p]));
  const looks = join(axis(0, 80, 1), axis(1, 80, 2));
  const other = join(axis(2, 200, 3), axis(3, 200, 4));
  const statistics = { dim, c0: 0, viewZeros: [0, 0], position: new Float32Array(0), ...covarianceAxes(join(looks, other), dim, 1) };
  const labelled = [
    { classId: 1, rows: looks, weights: new Float32Array(160).fill(1) },
    { classId: null, rows: other, weights: new Float32Array(400).fill(1) },
  ];
  const fitted = fitPrototypes(labelled, statistics, prototypeDefaults);
  assert.equal(fitted.classes[1].planes.length > 1, true);
  const unseen = classProbabilities(fitted, join(axis(0, 20, 5), axis(1, 20, 6), axis(2, 20, 7)));
  for (let i = 0; i < 40; i++) assert.ok(unseen[1][i] > 0.5, `patch ${i}: ${unseen[1][i]}`);
  for (let i = 40; i < 60; i++) assert.ok(unseen[1][i] < 0.5, `patch ${i}: ${unseen[1][i]}`);
});

test('one accepted region is enough to find its like', () => {
  const labels = Array.from({ length: 120 }, (_, i) => (i % 10 < 3 ? 1 : i % 10 < 6 ? 2 : 0));
  const rows = unitField(12, labels, 20, 0.3);
  const statistics = { dim: 20, c0: 0, viewZeros: [0, 0], position: new Float32Array(0), ...covarianceAxes(rows, 20) };
  const shown = [0, 1, 2, 10, 11, 12];
  const group = {
    classId: 4,
    rows: Float32Array.from(shown.flatMap((i) => [...rows.subarray(i * 20, i * 20 + 20)])),
    weights: new Float32Array(6).fill(1),
  };
  const p = classProbabilities(fitPrototypes([group], statistics), rows)[1];
  const right = [0, 1, 2].map((kind) => {
    const own = labels.flatMap((label, i) => (label === kind ? [p[i]] : []));
    return own.filter((v) => v > 0.5 === (kind === 1)).length / own.length;
  });
  assert.ok(right[0] === 1 && right[1] >= 0.9 && right[2] === 1, `shares right: ${right.join(', ')}`);
});

test('directions of place are what both halves share, not their noise', () => {
  const dim = 32;
  const n = 64;
  const random = new Random(6);
  const truth = Float64Array.from({ length: dim }, (_, k) => (k < 2 ? Math.SQRT1_2 : 0));
  const half = (): Float64Array =>
    Float64Array.from({ length: n * dim }, (_, i) => 3 * Math.sin(Math.floor(i / dim) / 9) * truth[i % dim] + 0.3 * random.normal());
  const found = positionDirections([half(), half()], dim);
  assert.ok(found.length >= dim && found.length <= 2 * dim);
  close(Math.abs(truth.reduce((s, v, k) => s + v * found[k], 0)), 1, 0.02, 'first direction');
  const cleaned = withoutPosition(Float32Array.from(truth), dim, found);
  assert.ok(Math.hypot(...cleaned) < 0.2);
});

test('clusters are the groups that are there, largest first, most compact where tight', () => {
  const labels = Int32Array.from({ length: 300 }, (_, i) => (i < 150 ? 0 : i < 240 ? 1 : 2));
  const rows = unitField(21, labels, 16, 0.12);
  const weights = Float32Array.from({ length: 300 }, (_, i) => 1 + (i % 3));
  const found = clusterRegions(rows, weights, 16, 0, { start: 12 });
  assert.equal(found.count, 3);
  for (let i = 0; i < 300; i++) assert.equal(found.labels[i], labels[i]);
  for (let c = 0; c < 3; c++) {
    let sum = 0;
    let size = 0;
    for (let i = 0; i < 300; i++) {
      if (labels[i] !== c) continue;
      let dot = 0;
      for (let k = 0; k < 16; k++) dot += rows[i * 16 + k] * found.centres[c * 16 + k];
      close(found.typicality[i], dot, 1e-5, `typicality ${i}`);
      sum += dot;
      size++;
    }
    close(found.compactness[c], sum / size, 1e-5, `compactness ${c}`);
  }
  assert.equal(clusterRegions(rows, weights, 16, 0, { start: 12, mergeAt: 0.999, most: 2 }).count, 2);
  assert.equal(clusterRegions(new Float32Array(0), new Float32Array(0), 16, 0).count, 0);
  assert.deepEqual(clusterRegions(rows, weights, 16, 0), clusterRegions(rows, weights, 16, 0));
});

test('principal components agree with Jacobi, and keep their colours when the network turns', () => {
  const dim = 10;
  const shapes = [
    [6, 4],
    [5, 5],
  ];
  const rows = normalRows(30, 49, dim, (k) => 4 / (k + 1));
  const features = (source: Float32Array) =>
    shapes.map(([gridWidth, gridHeight], i) => ({
      gridWidth,
      gridHeight,
      dim,
      patches: source.slice(i === 0 ? 0 : 240, i === 0 ? 240 : 490),
      cls: new Float32Array(dim),
    }));
  const first = pcaPictures(features(rows), null);
  const mean = Array.from({ length: dim }, (_, k) => Array.from({ length: 49 }, (_, i) => rows[i * dim + k]).reduce((a, b) => a + b) / 49);
  const S = new Float64Array(dim * dim);
  for (let i = 0; i < 49; i++)
    for (let a = 0; a < dim; a++)
      for (let b = 0; b < dim; b++) S[a * dim + b] += ((rows[i * dim + a] - mean[a]) * (rows[i * dim + b] - mean[b])) / 49;
  const { values, vectors } = jacobi(S, dim);
  close(first.explained, (values[0] + values[1] + values[2]) / values.reduce((a, b) => a + b), 1e-9, 'explained');
  close(first.explainedFirst, values[0] / values.reduce((a, b) => a + b), 1e-9, 'explained by the first');
  for (let c = 0; c < 3; c++) {
    const largest = vectors[c].reduce((best, v, k) => (Math.abs(v) > Math.abs(vectors[c][best]) ? k : best), 0);
    for (let i = 0; i < 49; i++) {
      let y = 0;
      for (let k = 0; k < dim; k++) y += vectors[c][k] * (rows[i * dim + k] - mean[k]);
      y *= Math.sign(vectors[c][largest]) / Math.sqrt(values[c]);
      const picture = first.pictures[i < 24 ? 0 : 1];
      close(picture.data[(i < 24 ? i : i - 24) * 3 + c], 255 / (1 + Math.exp(-2 * y)), 0.51, `patch ${i}, channel ${c}`);
    }
  }
  assert.deepEqual(
    first.pictures.map((p) => [p.width, p.height]),
    shapes,
  );

  // The same features in a turned and mirrored space: alone the colours may differ, aligned they are the same.
  const turned = new Float32Array(rows.length);
  for (let i = 0; i < 49; i++) for (let k = 0; k < dim; k++) turned[i * dim + k] = -rows[i * dim + ((k + 3) % dim)];
  const second = pcaPictures(features(turned), first.basis);
  second.pictures.forEach((p, j) => p.data.forEach((v, i) => assert.ok(Math.abs(v - first.pictures[j].data[i]) <= 1)));
  // Other images: the basis before says nothing.
  assert.deepEqual(pcaPictures(features(rows).slice(0, 1), first.basis).pictures, pcaPictures(features(rows).slice(0, 1), null).pictures);
});

test('features without variance give flat gray, not noise', () => {
  const flat = { gridWidth: 3, gridHeight: 2, dim: 4, patches: new Float32Array(24).fill(0.5), cls: new Float32Array(4) };
  const { pictures, explained } = pcaPictures([flat], null);
  assert.deepEqual([...pictures[0].data], Array<number>(18).fill(128));
  assert.equal(explained, 1);
});

test('Procrustes recovers a rotation, and stays orthogonal on flat data', () => {
  const random = new Random(8);
  const from = Float64Array.from({ length: 60 }, () => random.normal());
  const angle = 0.7;
  const R = [Math.cos(angle), -Math.sin(angle), 0, Math.sin(angle), Math.cos(angle), 0, 0, 0, -1];
  const to = new Float64Array(60);
  for (let i = 0; i < 20; i++) for (let b = 0; b < 3; b++) for (let a = 0; a < 3; a++) to[i * 3 + b] += from[i * 3 + a] * R[a * 3 + b];
  procrustes(from, to).forEach((v, i) => close(v, R[i], 1e-9, `entry ${i}`));
  const line = from.map((v, i) => (i % 3 === 0 ? v : 0));
  const Q = procrustes(line, line);
  for (let a = 0; a < 3; a++)
    for (let b = 0; b < 3; b++)
      close(Q[a * 3] * Q[b * 3] + Q[a * 3 + 1] * Q[b * 3 + 1] + Q[a * 3 + 2] * Q[b * 3 + 2], a === b ? 1 : 0, 1e-9, 'orthogonal');
});

const facts = (changes: Partial<LearnFacts>): LearnFacts => ({
  score: 0.5,
  margin: 0.5,
  area: 900,
  classId: null,
  clusterId: 1,
  imageId: 1,
  clusterSize: 10,
  clusterDecided: 0,
  typicality: 0.5,
  ...changes,
});

test('review order: groups together, classes before clusters, the best first', () => {
  const list = [
    facts({ clusterId: 1, score: 0.9 }),
    facts({ classId: 3, score: 0.4 }),
    facts({ clusterId: 2, score: 0.95 }),
    facts({ clusterId: 1, score: 0.2 }),
    facts({ classId: 3, score: 0.6 }),
    facts({ clusterId: null, score: 1 }),
    facts({ clusterId: 2, score: 0.7 }),
  ];
  assert.deepEqual(reviewOrder(list), [4, 1, 2, 6, 0, 3, 5]);
});

test('learn order: typical before odd while nothing is decided, uncertain after, clusters and images in turn', () => {
  assert.deepEqual(learnOrder([facts({ typicality: 0.2 }), facts({ typicality: 0.9, imageId: 2 })]), [1, 0]);
  const decided = { clusterDecided: 30 };
  assert.deepEqual(
    learnOrder([facts({ ...decided, margin: 0.9, typicality: 0.9 }), facts({ ...decided, margin: 0.1, typicality: 0.4 })]),
    [1, 0],
  );
  const many = [0, 1, 2, 3]
    .map((i) => facts({ typicality: 0.9 - i / 100, imageId: i }))
    .concat(facts({ clusterId: 2, typicality: 0.6, imageId: 9 }));
  const order = learnOrder(many);
  assert.equal(order[0], 0);
  assert.equal(order[1], 4, 'the other cluster comes second');
  assert.deepEqual([...order].sort(), [0, 1, 2, 3, 4]);
  const mixed = mixedOrder(many);
  assert.deepEqual([...mixed].sort(), [0, 1, 2, 3, 4]);
});
