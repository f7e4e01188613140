// Eigenproblems against Jacobi rotations; normalised cuts against the dense generalised problem.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { lanczos, symmetricEigen } from '../../core/prelabel/linalg.ts';
import { maskCut, secondEigenvector } from '../../core/prelabel/ncut.ts';
import { jacobi, randomSymmetric, unitField } from './peers.ts';

const close = (actual: number, expected: number, tolerance: number, what: string): void =>
  assert.ok(Math.abs(actual - expected) <= tolerance, `${what}: ${actual} is not ${expected}`);

test('symmetric eigenpairs agree with Jacobi rotations', () => {
  for (const n of [1, 2, 3, 7, 24]) {
    const matrix = randomSymmetric(n, n);
    const { values, vectors } = symmetricEigen(matrix, n);
    const peer = jacobi(matrix, n);
    for (let k = 0; k < n; k++) {
      close(values[k], peer.values[k], 1e-10, `value ${k} of ${n}`);
      let dot = 0;
      for (let i = 0; i < n; i++) dot += vectors[k * n + i] * peer.vectors[k][i];
      close(Math.abs(dot), 1, 1e-8, `vector ${k} of ${n}`);
    }
  }
});

test('eigenpairs of matrices with repeated and zero values are orthonormal and exact', () => {
  const n = 12;
  const matrix = new Float64Array(n * n);
  for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) matrix[i * n + j] = i < 6 === j < 6 ? 1 : 0; // two blocks of ones
  const { values, vectors } = symmetricEigen(matrix, n);
  [6, 6, ...Array<number>(10).fill(0)].forEach((expected, k) => close(values[k], expected, 1e-12, `value ${k}`));
  for (let a = 0; a < n; a++) {
    for (let b = 0; b < n; b++) {
      let dot = 0;
      for (let i = 0; i < n; i++) dot += vectors[a * n + i] * vectors[b * n + i];
      close(dot, a === b ? 1 : 0, 1e-12, `rows ${a}, ${b}`);
    }
  }
});

test('Lanczos finds the largest pairs, and those beside a known one', () => {
  const n = 60;
  const matrix = randomSymmetric(9, n);
  const peer = symmetricEigen(matrix, n);
  const multiply = (x: Float64Array, out: Float64Array): void => {
    for (let i = 0; i < n; i++) {
      out[i] = 0;
      for (let j = 0; j < n; j++) out[i] += matrix[i * n + j] * x[j];
    }
  };
  const found = lanczos(n, multiply, n, 3);
  for (let k = 0; k < 3; k++) close(found.values[k], peer.values[k], 1e-9, `value ${k}`);
  const beside = lanczos(n, multiply, n, 1, [peer.vectors.slice(0, n)]);
  close(beside.values[0], peer.values[1], 1e-9, 'second value');
  let dot = 0;
  for (let i = 0; i < n; i++) dot += beside.vectors[i] * peer.vectors[n + i];
  close(Math.abs(dot), 1, 1e-7, 'second vector');
});

test('the normalised cut is the second generalised eigenvector of the dense problem', () => {
  // Two noisy groups on a 6 x 5 grid.
  const n = 30;
  const labels = Array.from({ length: n }, (_, i) => (i % 6 < 2 ? 1 : 0));
  const unit = unitField(4, labels, 8, 0.45);
  const similarity = new Float32Array(n * n);
  for (let i = 0; i < n; i++)
    for (let j = 0; j < n; j++) for (let k = 0; k < 8; k++) similarity[i * n + j] += unit[i * 8 + k] * unit[j * 8 + k];
  const active = new Uint8Array(n).fill(1);
  active[3] = 0; // taken by an object before
  const found = secondEigenvector(similarity, n, 0.3, active)!;
  // D^-1/2 A D^-1/2 written out.
  const affinity = (i: number, j: number): number => (active[i] && active[j] && similarity[i * n + j] > 0.3 ? 1 : 1e-5);
  const degree = Array.from({ length: n }, (_, i) => Array.from({ length: n }, (_, j) => affinity(i, j)).reduce((a, b) => a + b));
  const normal = new Float64Array(n * n);
  for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) normal[i * n + j] = affinity(i, j) / Math.sqrt(degree[i] * degree[j]);
  const peer = jacobi(normal, n);
  close(peer.values[0], 1, 1e-10, 'trivial value');
  close(found.value, 1 - peer.values[1], 1e-6, 'cut value');
  const expected = peer.vectors[1].map((v, i) => v / Math.sqrt(degree[i]));
  const sign = Math.sign(expected.reduce((sum, v, i) => sum + v * found.vector[i] * degree[i], 0));
  for (let i = 0; i < n; i++) close(found.vector[i] * sign, expected[i], 1e-4 * Math.max(...expected.map(Math.abs)), `entry ${i}`);
});

test('repeated cuts take two objects out of a scene, exactly', () => {
  const width = 14;
  const height = 10;
  const labels = Array.from({ length: width * height }, (_, i) => {
    const x = i % width;
    const y = Math.floor(i / width);
    if (x >= 2 && x < 6 && y >= 2 && y < 7) return 1;
    if (x >= 9 && x < 12 && y >= 5 && y < 9) return 2;
    return 0;
  });
  const n = labels.length;
  const unit = unitField(2, labels, 16, 0.15);
  const similarity = new Float32Array(n * n);
  for (let i = 0; i < n; i++)
    for (let j = 0; j < n; j++) for (let k = 0; k < 16; k++) similarity[i * n + j] += unit[i * 16 + k] * unit[j * 16 + k];
  const objects = maskCut(similarity, width, height, { threshold: 0.5, maxObjects: 6, maxCut: 0.9, minShare: 0.01 });
  for (const group of [1, 2]) {
    const expected = Uint8Array.from(labels, (l) => (l === group ? 1 : 0));
    assert.ok(
      objects.some((o) => o.mask.every((v, i) => v === expected[i])),
      `object ${group} is not among ${objects.length}`,
    );
  }
});
