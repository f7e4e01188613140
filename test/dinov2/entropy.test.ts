/** Entropies of the teacher in closed form, under both centrings, on either executor. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { teacherEntropy } from '../../core/dinov2/entropy.ts';
import type { Executor } from '../../core/nn/ops.ts';
import type { HeadRows } from '../../core/dinov2/step.ts';
import { axes } from '../nn/targets.ts';
import { executors } from './executors.ts';
import { tinyRun } from './tiny-run.ts';

const K = 16;
const near = (actual: number, expected: number): void => assert.ok(Math.abs(actual - expected) < 1e-4, `${actual}, expected ${expected}`);

/** Rows whose logits are the values given: the prototypes are the axes. */
function rowsOf(x: Executor, logits: Float32Array): HeadRows {
  const [weightV, weightG] = axes(x, K);
  return { rows: x.tensor(logits, [logits.length / K, K]), weightV, weightG };
}

/** Rows that spread their mass evenly over the named prototypes. */
function targets(x: Executor, spread: readonly (readonly number[])[]) {
  const logits = new Float32Array(spread.length * K).fill(-50);
  spread.forEach((prototypes, r) => prototypes.forEach((k) => (logits[r * K + k] = 0)));
  const dinoRows = rowsOf(x, logits);
  const { rows, weightV, weightG } = dinoRows;
  return { dino: x.prototypeTargets(rows, weightV, weightG, { kind: 'softmax', temperature: 1, center: null }), dinoRows };
}

const softmax = tinyRun();
const sinkhorn = tinyRun({ teacher: { ...softmax.teacher, centering: 'sinkhorn' } });

for (const [engine, create] of executors) {
  test(`one prototype each, all alike, uniform, and halves (${engine})`, async () => {
    const x = await create();
    const everything = Array.from({ length: K }, (_, k) => k);
    const cases = [
      { rows: everything.map((k) => [k]), sample: 0, marginal: 1 },
      { rows: everything.map(() => [3]), sample: 0, marginal: 0 },
      { rows: everything.map(() => everything), sample: 1, marginal: 1 },
      // Four prototypes each, from two sets of four: log 4 / log 16 and log 8 / log 16.
      { rows: everything.map((k) => (k % 2 === 0 ? [0, 1, 2, 3] : [8, 9, 10, 11])), sample: 0.5, marginal: 0.75 },
    ];
    for (const { rows, sample, marginal } of cases) {
      await x.scope(async () => {
        const { sampleEntropy, marginalEntropy } = await teacherEntropy(x, softmax, targets(x, rows), 0.05);
        near(sampleEntropy, sample);
        near(marginalEntropy, marginal);
      });
    }
    await x.dispose();
  });

  test(`under Sinkhorn the marginal is that of the plain softmax of the logits (${engine})`, async () => {
    const x = await create();
    await x.scope(async () => {
      const rows = 6;
      const temperature = 0.07;
      const logits = Float32Array.from({ length: rows * K }, (_, i) => 0.3 * Math.sin(i * 1.7) + (i % K === 2 ? 0.25 : 0));
      const mean = new Array<number>(K).fill(0);
      for (let r = 0; r < rows; r++) {
        const exps = Array.from({ length: K }, (_, k) => Math.exp(logits[r * K + k]! / temperature));
        const sum = exps.reduce((a, b) => a + b, 0);
        exps.forEach((value, k) => (mean[k]! += value / sum / rows));
      }
      const expected = -mean.reduce((sum, p) => sum + p * Math.log(p), 0) / Math.log(K);
      const dinoRows = rowsOf(x, logits);
      const { weightV, weightG } = dinoRows;
      const dino = x.prototypeTargets(dinoRows.rows, weightV, weightG, { kind: 'sinkhorn', temperature, iterations: 3 });
      const { sampleEntropy, marginalEntropy } = await teacherEntropy(x, sinkhorn, { dino, dinoRows }, temperature);
      near(marginalEntropy, expected);
      assert.ok(expected < 0.9 && sampleEntropy > 0 && sampleEntropy < 1);
      // The balanced targets would say nothing: their marginal is uniform, whatever the logits are.
      assert.ok((await teacherEntropy(x, softmax, { dino, dinoRows }, temperature)).marginalEntropy > 0.999);
    });
    await x.dispose();
  });
}
