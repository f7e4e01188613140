/** Measures of features without labels, each on cases whose value is known. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { bestAssignment } from '../../core/evaluate/assignment.ts';
import {
  clusterStability,
  correspondence,
  effectiveRank,
  meanCosineBetween,
  outlierShare,
  unitVectors,
  viewRetrieval,
} from '../../core/evaluate/index.ts';
import { Random } from '../../core/random.ts';

const near = (actual: number, expected: number, tolerance: number, what = ''): void =>
  assert.ok(Math.abs(actual - expected) <= tolerance, `${what} ${actual}, expected ${expected} ± ${tolerance}`);

function normals(random: Random, count: number): Float32Array {
  return Float32Array.from({ length: count }, () => random.normal());
}

// --- assignment -------------------------------------------------------------------------------------------------------

function permutations(n: number): number[][] {
  if (n === 0) return [[]];
  return permutations(n - 1).flatMap((rest) => Array.from({ length: n }, (_, at) => rest.toSpliced(at, 0, n - 1)));
}

test('the assignment has the largest sum there is: against every permutation', () => {
  const random = new Random(11);
  for (let n = 1; n <= 7; n++) {
    for (let round = 0; round < 12; round++) {
      // Whole numbers: many ties; negative ones among them.
      const gains = Float64Array.from({ length: n * n }, () => (round % 2 === 0 ? random.int(5) - 1 : random.normal()));
      const sum = (columns: ArrayLike<number>): number =>
        Array.from(columns).reduce((total, column, row) => total + gains[row * n + column]!, 0);
      const found = bestAssignment(gains, n);
      assert.deepEqual(
        [...found].sort((a, b) => a - b),
        Array.from({ length: n }, (_, i) => i),
        'each column once',
      );
      near(sum(found), Math.max(...permutations(n).map(sum)), 1e-9, `n ${n} round ${round}`);
    }
  }
});

// --- RankMe -----------------------------------------------------------------------------------------------------------

/** An orthonormal set of `count` vectors of length n, by Gram-Schmidt. */
function orthonormal(random: Random, count: number, n: number): number[][] {
  const found: number[][] = [];
  while (found.length < count) {
    const v = Array.from({ length: n }, () => random.normal());
    for (const u of [...found, ...found]) {
      const dot = u.reduce((sum, value, i) => sum + value * v[i]!, 0);
      u.forEach((value, i) => (v[i]! -= dot * value));
    }
    const length = Math.hypot(...v);
    found.push(v.map((value) => value / length));
  }
  return found;
}

test('RankMe of known spectra: exp of the entropy of the singular values, with more rows than columns and fewer', () => {
  const random = new Random(3);
  for (const [n, dim] of [
    [40, 9],
    [9, 40],
  ] as const) {
    for (const singular of [[5], [1, 1, 1, 1], [8, 4, 2, 1, 1], [3, 1e-4]]) {
      const left = orthonormal(random, singular.length, n);
      const right = orthonormal(random, singular.length, dim);
      const rows = new Float32Array(n * dim);
      singular.forEach((s, k) => {
        for (let i = 0; i < n; i++) for (let j = 0; j < dim; j++) rows[i * dim + j]! += s * left[k]![i]! * right[k]![j]!;
      });
      const sum = singular.reduce((a, b) => a + b, 0);
      const expected = Math.exp(-singular.reduce((total, s) => total + (s / sum) * Math.log(s / sum), 0));
      near(effectiveRank(rows, dim), expected, 2e-4 * expected, `${n} x ${dim}, ${singular}`);
    }
  }
  assert.equal(effectiveRank(new Float32Array(60), 6), 0);
});

// --- between images ---------------------------------------------------------------------------------------------------

test('the mean cosine between images is that of every pair of different images', () => {
  const random = new Random(4);
  const [images, perImage, dim] = [5, 3, 7];
  const unit = unitVectors(
    normals(random, images * perImage * dim).map((value) => value + 0.8),
    dim,
  );
  let sum = 0;
  let pairs = 0;
  for (let a = 0; a < images * perImage; a++) {
    for (let b = 0; b < images * perImage; b++) {
      if (Math.floor(a / perImage) === Math.floor(b / perImage)) continue;
      for (let k = 0; k < dim; k++) sum += unit[a * dim + k]! * unit[b * dim + k]!;
      pairs++;
    }
  }
  near(meanCosineBetween(unit, images, dim), sum / pairs, 1e-6);
  // All alike, and at right angles.
  near(
    meanCosineBetween(
      Float32Array.from({ length: 12 }, (_, i) => (i % 3 === 1 ? 1 : 0)),
      4,
      3,
    ),
    1,
    1e-12,
  );
  near(meanCosineBetween(Float32Array.from([1, 0, 0, 1]), 2, 2), 0, 1e-12);
});

test('view retrieval: all, none, by chance, and a collapsed network', () => {
  const [n, dim] = [60, 8];
  const a = unitVectors(normals(new Random(5), n * dim), dim);
  assert.equal(viewRetrieval(a, a, dim), 1);
  const shifted = new Float32Array(a.length);
  for (let i = 0; i < n; i++) shifted.set(a.subarray(i * dim, (i + 1) * dim), ((i + 1) % n) * dim);
  assert.equal(viewRetrieval(a, shifted, dim), 0);
  const other = unitVectors(normals(new Random(6), n * dim), dim);
  assert.ok(viewRetrieval(a, other, dim) < 0.12); // 1 / 60 by chance; 7 of 60 lies 6 deviations above
  near(viewRetrieval(new Float32Array(n * dim).fill(0.3), new Float32Array(n * dim).fill(0.3), dim), 1 / n, 1e-12);
});

test('abnormal norms: as many as were put in, none in a Gaussian and none where all are equal', () => {
  const random = new Random(7);
  const norms = Float32Array.from({ length: 2000 }, () => 10 + 0.5 * random.normal());
  assert.ok(outlierShare(norms) <= 1 / 2000); // 6 MAD are 4 deviations
  for (let i = 0; i < 50; i++) norms[i * 37] = 80;
  near(outlierShare(norms), 50 / 2000, 1 / 2000);
  assert.equal(outlierShare(new Float32Array(100).fill(3)), 0);
});

// --- dense correspondence ---------------------------------------------------------------------------------------------

const side = 8;

/** Patch features that say where on the image the patch lies: a smooth code of its centre, in pixels of the image. */
function placeCode(place: { left: number; top: number; width: number; height: number }, dim: number): Float32Array {
  const random = new Random(8);
  const waves = Array.from({ length: dim }, () => ({ fx: random.normal() / 40, fy: random.normal() / 40, shift: random.uniform(0, 7) }));
  return Float32Array.from({ length: side * side * dim }, (_, i) => {
    const patch = Math.floor(i / dim);
    const { fx, fy, shift } = waves[i % dim]!;
    const x = place.left + (((patch % side) + 0.5) * place.width) / side;
    const y = place.top + ((Math.floor(patch / side) + 0.5) * place.height) / side;
    return Math.cos(fx * x + fy * y + shift);
  });
}

test('features that name their place correspond fully, whatever the crops; shuffled ones by chance', () => {
  const random = new Random(9);
  const dim = 32;
  let shuffledHits = 0;
  let shuffledAsked = 0;
  let chance = 0;
  for (let round = 0; round < 40; round++) {
    const draw = () => ({ left: random.int(40), top: random.int(40), width: 120 + random.int(80), height: 120 + random.int(80) });
    const [from, to] = [draw(), draw()];
    const asked = { patches: placeCode(from, dim), place: from };
    const searched = { patches: placeCode(to, dim), place: to };
    const whole = correspondence(asked, searched, side, dim, 64);
    // As many as have their centre inside the other crop, counted here pixel by pixel.
    let inside = 0;
    const near9: number[] = [];
    for (let p = 0; p < side * side; p++) {
      const x = ((from.left + (((p % side) + 0.5) * from.width) / side - to.left) / to.width) * side;
      const y = ((from.top + ((Math.floor(p / side) + 0.5) * from.height) / side - to.top) / to.height) * side;
      if (x < 0 || y < 0 || x >= side || y >= side) continue;
      inside++;
      let reachable = 0;
      for (let q = 0; q < side * side; q++) if (Math.hypot((q % side) + 0.5 - x, Math.floor(q / side) + 0.5 - y) <= 1.5) reachable++;
      near9.push(reachable / (side * side));
    }
    assert.deepEqual(whole, { hits: inside, asked: inside });
    const few = correspondence(asked, searched, side, dim, 10);
    assert.deepEqual(few, { hits: 10, asked: 10 });

    const order = random.permutation(side * side);
    const shuffled = new Float32Array(searched.patches.length);
    order.forEach((p, at) => shuffled.set(searched.patches.subarray(p * dim, (p + 1) * dim), at * dim));
    const lost = correspondence(asked, { patches: shuffled, place: to }, side, dim, 64);
    shuffledHits += lost.hits;
    shuffledAsked += lost.asked;
    chance += near9.reduce((a, b) => a + b, 0);
  }
  near(shuffledHits / shuffledAsked, chance / shuffledAsked, 0.03); // about 0.09; 40 shuffles of some 50 patches each
});

test('features that say where in the crop a patch lies, not what it shows, do not correspond', () => {
  const dim = 32;
  const code = placeCode({ left: 0, top: 0, width: 160, height: 160 }, dim);
  const from = { left: 0, top: 0, width: 100, height: 100 };
  const to = { left: 40, top: 40, width: 100, height: 100 }; // 3.2 patches off
  assert.equal(correspondence({ patches: code, place: from }, { patches: code, place: to }, side, dim, 64).hits, 0);
});

// --- cluster stability ------------------------------------------------------------------------------------------------

/** n rows around `kinds` far centres. */
function blobs(random: Random, n: number, kinds: number, dim: number, spread: number): Float32Array {
  const centres = normals(new Random(10), kinds * dim);
  return Float32Array.from(
    { length: n * dim },
    (_, i) => centres[(Math.floor(i / dim) % kinds) * dim + (i % dim)]! + spread * random.normal(),
  );
}

test('cluster stability: 1 where groups are real, near 0 where there are none, 0 when the network has collapsed', () => {
  const random = new Random(12);
  const dim = 16;
  const real = clusterStability(blobs(random, 400, 5, dim, 0.05), blobs(random, 400, 5, dim, 0.05), dim, 5, new Random(1));
  near(real, 1, 1e-12);
  const none = clusterStability(normals(random, 600 * dim), normals(random, 600 * dim), dim, 12, new Random(1));
  assert.ok(none < 0.4, String(none));
  const some = clusterStability(blobs(random, 400, 5, dim, 0.9), blobs(random, 400, 5, dim, 0.9), dim, 5, new Random(1));
  assert.ok(some > none && some < real, `${none} < ${some} < ${real}`);
  const same = new Float32Array(200 * dim).fill(0.25);
  assert.equal(clusterStability(same, same.slice(), dim, 4, new Random(1)), 0);
});
