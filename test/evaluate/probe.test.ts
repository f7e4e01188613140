/** Probes against second implementations, perfect and constant predictors, and real masks where they are there. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { FeatureProbe } from '../../core/evaluate/index.ts';
import { predictLinear, RidgeFit } from '../../core/evaluate/ridge.ts';
import { Confusion, patchLabels } from '../../core/evaluate/segmentation.ts';
import { readLabels } from '../../core/images/index.ts';
import { Random } from '../../core/random.ts';

const near = (actual: number, expected: number, tolerance: number, what = ''): void =>
  assert.ok(Math.abs(actual - expected) <= tolerance, `${what} ${actual}, expected ${expected} ± ${tolerance}`);

/** Rows a times rows b, transposed, by plain loops. */
const products = async (a: Float32Array, b: Float32Array, dim: number): Promise<Float32Array> => {
  const [n, m] = [a.length / dim, b.length / dim];
  const out = new Float32Array(n * m);
  for (let i = 0; i < n; i++)
    for (let j = 0; j < m; j++) {
      let sum = 0;
      for (let k = 0; k < dim; k++) sum += a[i * dim + k]! * b[j * dim + k]!;
      out[i * m + j] = sum;
    }
  return out;
};

// --- ridge ------------------------------------------------------------------------------------------------------------

/** Solves A x = b by elimination with pivots. */
function solve(a: number[][], b: number[]): number[] {
  const rows = a.map((row, i) => [...row, b[i]!]);
  const n = rows.length;
  for (let k = 0; k < n; k++) {
    const pivot = rows.slice(k).reduce((best, row, i) => (Math.abs(row[k]!) > Math.abs(rows[best]![k]!) ? i + k : best), k);
    [rows[k], rows[pivot]] = [rows[pivot]!, rows[k]!];
    for (let i = 0; i < n; i++) {
      if (i === k) continue;
      const factor = rows[i]![k]! / rows[k]![k]!;
      for (let j = k; j <= n; j++) rows[i]![j]! -= factor * rows[k]![j]!;
    }
  }
  return rows.map((row, i) => row[n]! / row[i]!);
}

test('ridge regression is the minimum of its penalised squares: against normal equations on standardised rows', () => {
  const random = new Random(1);
  const [n, dim, outputs] = [300, 6, 3];
  // Unequal scales, an offset, two columns nearly alike, one that never varies.
  const rows = Float32Array.from(
    { length: n * dim },
    (_, i) => [1, 40, 0.02, 3, 3, 0][i % dim]! * random.normal() + [0, 500, -1, 0, 0, 7][i % dim]!,
  );
  for (let i = 0; i < n; i++) rows[i * dim + 4] = rows[i * dim + 3]! + 1e-3 * random.normal();
  const targets = Float32Array.from({ length: n * outputs }, () => random.uniform());
  const weights = Float32Array.from({ length: n }, (_, i) => (i % 7 === 0 ? 0 : random.uniform()));
  const fit = new RidgeFit(dim, outputs);
  for (const [from, to] of [
    [0, 100],
    [100, 101],
    [101, n],
  ] as const)
    fit.add(rows.subarray(from * dim, to * dim), targets.subarray(from * outputs, to * outputs), weights.subarray(from, to));
  const predicted = predictLinear(fit.solve(), rows);

  const total = weights.reduce((a, b) => a + b, 0);
  const column = Array.from({ length: dim }, (_, k) => Array.from({ length: n }, (__, i) => rows[i * dim + k]!));
  const mean = column.map((values) => values.reduce((sum, value, i) => sum + weights[i]! * value, 0) / total);
  const deviation = column.map(
    (values, k) => Math.sqrt(values.reduce((sum, value, i) => sum + weights[i]! * (value - mean[k]!) ** 2, 0) / total) || 1,
  );
  const z = (i: number): number[] => column.map((values, k) => (values[i]! - mean[k]!) / deviation[k]!);
  for (let c = 0; c < outputs; c++) {
    const gram = Array.from({ length: dim }, (_, k) => Array.from({ length: dim }, (__, j) => (k === j ? 1e-3 : 0)));
    const right = new Array<number>(dim).fill(0);
    const average = Array.from({ length: n }, (_, i) => weights[i]! * targets[i * outputs + c]!).reduce((a, b) => a + b, 0) / total;
    for (let i = 0; i < n; i++) {
      const row = z(i);
      for (let k = 0; k < dim; k++) {
        right[k]! += (weights[i]! / total) * row[k]! * (targets[i * outputs + c]! - average);
        for (let j = 0; j < dim; j++) gram[k]![j]! += (weights[i]! / total) * row[k]! * row[j]!;
      }
    }
    const solution = solve(gram, right);
    for (let i = 0; i < n; i += 13) {
      const expected = average + z(i).reduce((sum, value, k) => sum + value * solution[k]!, 0);
      near(predicted[i * outputs + c]!, expected, 2e-5, `row ${i} output ${c}`);
    }
  }
});

// --- masks and patches ------------------------------------------------------------------------------------------------

test('patch labels are shares of pixels, ignored ones apart, whatever the grid', () => {
  const [width, height] = [10, 6];
  const random = new Random(2);
  const data = Uint8Array.from({ length: width * height }, () => [0, 3, 255, 9][random.int(4)]!);
  for (const [gridWidth, gridHeight] of [
    [5, 3],
    [3, 4],
    [10, 6],
  ] as const) {
    const { shares, weights } = patchLabels({ width, height, data }, gridWidth, gridHeight, [0, 3]);
    for (let gy = 0; gy < gridHeight; gy++) {
      for (let gx = 0; gx < gridWidth; gx++) {
        const inside: number[] = [];
        for (let y = 0; y < height; y++)
          for (let x = 0; x < width; x++) {
            const [cx, cy] = [(x + 0.5) / width, (y + 0.5) / height];
            if (cx >= gx / gridWidth && cx < (gx + 1) / gridWidth && cy >= gy / gridHeight && cy < (gy + 1) / gridHeight)
              inside.push(data[y * width + x]!);
          }
        const known = inside.filter((value) => value === 0 || value === 3);
        const patch = gy * gridWidth + gx;
        near(weights[patch]!, known.length / inside.length, 1e-6);
        if (known.length > 0) near(shares[patch * 2 + 1]!, known.filter((value) => value === 3).length / known.length, 1e-6);
      }
    }
  }
});

test('enlarged scores are bilinear between patch centres and held at the edges', () => {
  // Two patches across 8 pixels: class 1 wins where its share is over a half, from pixel 4 on; scores 0.2 and 0.8 move that.
  const data = Uint8Array.from([0, 0, 0, 0, 1, 1, 1, 1]);
  const score = (left: number, right: number): number[] => {
    const confusion = new Confusion([0, 1]);
    confusion.add(Float32Array.from([1 - left, left, 1 - right, right]), 2, 1, { width: 8, height: 1, data });
    return confusion.iou();
  };
  assert.deepEqual(score(0, 1), [1, 1]);
  // Shares along the pixels with left 0.3, right 1: 0.3 0.3 0.3875 0.5625 ...: the fourth pixel turns.
  assert.deepEqual(score(0.3, 1), [3 / 4, 4 / 5]);
  assert.deepEqual(score(1, 1), [0, 4 / 8]);
});

test('IoU counts pixels of all images together and leaves ignored ones out', () => {
  const confusion = new Confusion([0, 5]);
  const one = { width: 4, height: 1, data: Uint8Array.from([0, 5, 255, 5]) };
  confusion.add(Float32Array.from([1, 0, 0, 1, 1, 0, 1, 0]), 4, 1, one); // right, right, ignored, missed
  confusion.add(Float32Array.from([0, 1, 1, 0, 1, 0, 1, 0]), 4, 1, { width: 4, height: 1, data: new Uint8Array(4) }); // one too many
  assert.deepEqual(confusion.iou(), [4 / 6, 1 / 3]);
  assert.throws(() => confusion.add(new Float32Array(6), 4, 1, one), /6 scores for 4 x 1 patches of 2 classes/);
});

// --- both probes ------------------------------------------------------------------------------------------------------

test('features that hold the answer are read perfectly by both probes; features without it name one class everywhere', async () => {
  const random = new Random(3);
  const side = 12;
  const pixels = side * 4;
  const image = () => {
    const blocks = Array.from({ length: side * side }, () => (random.uniform() < 0.25 ? 2 : random.uniform() < 0.3 ? 7 : 0));
    const data = Uint8Array.from(
      { length: pixels * pixels },
      (_, i) => blocks[(Math.floor(i / pixels) >> 2) * side + ((i % pixels) >> 2)]!,
    );
    const told = Float32Array.from({ length: side * side * 4 }, (_, i) => {
      const value = blocks[i >> 2]!;
      return [value === 0 ? 1 : 0, value === 2 ? 5 : 0, value === 7 ? -3 : 0, random.normal()][i & 3]!;
    });
    return { labels: { width: pixels, height: pixels, data }, told, blocks };
  };
  const train = Array.from({ length: 6 }, image);
  const tested = Array.from({ length: 3 }, image);
  const grid = { gridWidth: side, gridHeight: side };
  const told = new FeatureProbe(4, [0, 2, 7], train.length, products);
  const silent = new FeatureProbe(4, [0, 2, 7], train.length, products);
  for (const { labels, told: patches } of train) {
    told.learn({ patches, ...grid }, labels);
    silent.learn({ patches: patches.map(() => 0.5), ...grid }, labels);
  }
  // Bilinear enlarging of perfect patches: what the borders of blocks cost is computed here from the true shares.
  const ceiling = new Confusion([0, 2, 7]);
  const share = [0, 0, 0];
  for (const { labels, told: patches, blocks } of tested) {
    await told.score({ patches, ...grid }, labels);
    await silent.score({ patches: patches.map(() => 0.5), ...grid }, labels);
    ceiling.add(
      Float32Array.from({ length: side * side * 3 }, (_, i) => (blocks[Math.floor(i / 3)] === [0, 2, 7][i % 3] ? 1 : 0)),
      side,
      side,
      labels,
    );
    [0, 2, 7].forEach(
      (value, c) => (share[c]! += labels.data.filter((other) => other === value).length / (pixels * pixels) / tested.length),
    );
  }
  const best = ceiling.iou();
  const { linear, nearest } = told.result();
  best.forEach((iou, c) => {
    assert.ok(iou > 0.8);
    near(linear[c]!, iou, 0.01, `linear ${c}`);
    near(nearest[c]!, iou, 0.01, `nearest ${c}`);
  });
  // Classes weigh alike, so which one is a matter of rounding.
  for (const ious of Object.values(silent.result()) as number[][]) {
    const named = ious.findIndex((iou) => iou > 0);
    near(ious[named]!, share[named]!, 1e-6);
    assert.equal(ious.filter((iou) => iou > 0).length, 1);
  }
});

test('a rare class is found where its features lean its way: classes weigh alike in the regression', async () => {
  // One feature, two classes that overlap: 1 around 0 in 97 of 100 patches, 3 around 1.5. Weighed by frequency the common
  // class wins up to where it has died out; weighed alike the border lies half-way, at 0.75.
  const random = new Random(4);
  const side = 40;
  const draw = () => {
    const data = Uint8Array.from({ length: side * side }, () => (random.uniform() < 0.03 ? 3 : 1));
    return {
      labels: { width: side, height: side, data },
      patches: Float32Array.from(data, (value) => (value === 3 ? 1.5 : 0) + 0.5 * random.normal()),
    };
  };
  const probe = new FeatureProbe(1, [1, 3], 8, products);
  const grid = { gridWidth: side, gridHeight: side };
  for (let i = 0; i < 8; i++) {
    const { labels, patches } = draw();
    probe.learn({ patches, ...grid }, labels);
  }
  const { labels, patches } = draw();
  await probe.score({ patches, ...grid }, labels);
  const expected = new Confusion([1, 3]);
  expected.add(
    Float32Array.from({ length: 2 * side * side }, (_, i) => ((i & 1) === 1 ? patches[i >> 1]! - 0.75 : 0)),
    side,
    side,
    labels,
  );
  const { linear } = probe.result();
  near(linear[1]!, expected.iou()[1]!, 0.03);
  assert.ok(linear[1]! > 0.2, String(linear[1]));
});

const data = fileURLToPath(new URL('../../../shared/data/coffee_leaf', import.meta.url));

test(
  'on real masks: a predictor that knows the shares of patches is nearly perfect, a constant one is not',
  { skip: existsSync(data) ? false : 'no coffee_leaf beside the project' },
  async () => {
    const perfect = new Confusion([0, 1, 2]);
    const constant = new Confusion([0, 1, 2]);
    const counts = [0, 0, 0];
    let all = 0;
    for (const stem of ['1001', '1002', '1006', '1007', '1037', '1066']) {
      const labels = await readLabels(path.join(data, 'masks', `${stem}.png`));
      for (const value of labels.data) if (value < 3) counts[value]!++;
      all += labels.data.length;
      const [gridWidth, gridHeight] = [128, 64]; // patches of 8 pixels
      const { shares, weights } = patchLabels(labels, gridWidth, gridHeight, [0, 1, 2]);
      assert.ok(weights.every((weight) => weight === 1));
      perfect.add(shares, gridWidth, gridHeight, labels);
      constant.add(
        Float32Array.from({ length: shares.length }, (_, i) => (i % 3 === 1 ? 1 : 0)),
        gridWidth,
        gridHeight,
        labels,
      );
    }
    const [background, leaf, symptom] = perfect.iou();
    assert.ok(background! > 0.97 && leaf! > 0.95 && symptom! > 0.7, `${background} ${leaf} ${symptom}`);
    assert.deepEqual(constant.iou(), [0, counts[1]! / all, 0]);
  },
);
