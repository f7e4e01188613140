/** What the recorded steps do not cover: drop path above 0, 16 px patches, crops without locals or masks, loss by hand. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { modelConfig, type RunConfig } from '../../core/dinov2/config.ts';
import { computeGradients, studentLoss, teacherTargets, uploadCrops } from '../../core/dinov2/step.ts';
import { classTokens, vitForward, vitParameters, type DropPath } from '../../core/dinov2/vit.ts';
import { Random } from '../../core/random.ts';
import { wholeTargets } from '../nn/targets.ts';
import { executors } from './executors.ts';
import { relativeError } from './golden.ts';
import { batchOf, stateOf, values } from './states.ts';
import { tinyRun } from './tiny-run.ts';

/** 16 px patches, registers, drop path 0.4: nothing that the recorded steps have. */
function patch16(): RunConfig {
  const base = tinyRun();
  const model = {
    ...modelConfig('nano', { patchSize: 16, registers: 4, positionGrid: 4, layerScale: 0.5, dropPath: 0.4 }),
    embedDim: 8,
    depth: 2,
    heads: 2,
  };
  return {
    ...base,
    model,
    heads: { dino: { hidden: 12, bottleneck: 6, prototypes: 10 }, ibot: { hidden: 10, bottleneck: 5, prototypes: 9 } },
    crops: { ...base.crops, globalSize: 48, localSize: 32, localCount: 2 },
  };
}

test('gradients with drop path and 16 px patches are the slopes of the loss (float64 reference)', async () => {
  const x = await executors[0]![1]();
  const config = patch16();
  const state = stateOf(x, config);
  const batch = batchOf(config, 3, true);
  computeGradients(x, config, state, batch, values);
  const gradients = await x.readGradients(state.student);
  const start = await x.readParameters(state.student);

  const crops = uploadCrops(x, config, batch);
  const targets = teacherTargets(x, config, state, crops, batch.masks, values.teacherTemperature);
  const loss = async (at: Float32Array): Promise<number> => {
    x.writeParameters(state.student, at);
    const term = studentLoss(x, config, state.student, crops, batch, targets).total as unknown as { data: Float64Array };
    return term.data[0]!; // float64: x.read would round to float32
  };
  const random = new Random(21);
  let worst = 0;
  for (const { name, offset, size } of state.student.specs) {
    const index = offset + random.int(size);
    const width = 1e-3;
    const [above, below] = [start.slice(), start.slice()];
    above[index]! += width;
    below[index]! -= width;
    const slope = ((await loss(above)) - (await loss(below))) / (above[index]! - below[index]!);
    const error = Math.abs(slope - gradients[index]!) / Math.max(1e-2, Math.abs(slope));
    worst = Math.max(worst, error);
    assert.ok(error < 1e-3, `${name}[${index - offset}]: slope ${slope}, gradient ${gradients[index]}`);
  }
  assert.ok(worst > 0);
});

test('both executors agree where nothing is recorded', async () => {
  for (const masked of [true, false]) {
    const config = patch16();
    const batch = batchOf(config, 3, masked);
    const results = [];
    for (const [, create] of executors) {
      const x = await create();
      const state = stateOf(x, config);
      results.push(
        await x.scope(async () => {
          const { terms } = computeGradients(x, config, state, batch, values);
          assert.equal(terms.ibot === null, !masked);
          return { total: await x.read(terms.total), gradients: await x.readGradients(state.student) };
        }),
      );
      await x.dispose();
    }
    for (const result of results.slice(1)) {
      assert.ok(relativeError(result.total, results[0]!.total) < 1e-5);
      assert.ok(relativeError(result.gradients, results[0]!.gradients) < 1e-4);
    }
  }
});

test('a sample left out of every branch passes the blocks unchanged', async () => {
  const x = await executors[0]![1]();
  const config = patch16();
  const parameters = x.createParameters(vitParameters(config.model, new Random(3)));
  const images = x.tensor(
    Float32Array.from({ length: 3 * 3 * 32 * 32 }, (_, i) => Math.cos(i)),
    [3, 3, 32, 32],
  );
  const kept = { rows: Int32Array.of(2, 0), scale: 1.5 };
  const dropPath: DropPath = [0, 1].map(() => ({ attention: kept, ffn: kept }));
  const dropped = await x.read(classTokens(x, vitForward(x, parameters, config.model, images, { dropPath })));
  const none = await x.read(classTokens(x, vitForward(x, parameters, config.model, images, { blocks: 0 })));
  const all = await x.read(classTokens(x, vitForward(x, parameters, config.model, images)));
  const D = config.model.embedDim;
  assert.deepEqual(dropped.slice(D, 2 * D), none.slice(D, 2 * D));
  assert.ok(relativeError(dropped.slice(0, D), none.slice(0, D)) > 1e-3);
  assert.ok(relativeError(dropped.slice(0, D), all.slice(0, D)) > 1e-3); // its branches count 1.5 times
});

test('without local crops the DINO term is normalised by 3, as in the official code', async () => {
  const x = await executors[0]![1]();
  const base = tinyRun();
  const config = { ...base, crops: { ...base.crops, localCount: 0 } };
  const state = stateOf(x, config);
  const batch = batchOf(config, 2, false);
  const { terms, targets } = computeGradients(x, config, state, batch, values);
  assert.equal(terms.dinoLocal, null);
  assert.equal(targets.ibot, null);
  const crops = uploadCrops(x, config, batch);
  // by hand: (1/3) * sum over the two crops of the mean over images of H(teacher's other crop, student's crop)
  const grid = vitForward(x, state.student, config.model, crops.global, { prefix: 'backbone.', mask: batch.masks });
  const { headForward, prototypesOf } = await import('../../core/dinov2/heads.ts');
  const prototypes = prototypesOf(state.student, 'dino_head');
  const logits = await x.read(
    x.prototypeLogits(headForward(x, state.student, 'dino_head', classTokens(x, grid)), prototypes.weightV, prototypes.weightG),
  );
  const q = await x.read(wholeTargets(x, targets.dino));
  const K = config.heads.dino.prototypes;
  let expected = 0;
  for (let r = 0; r < 4; r++) {
    const row = Array.from(logits.subarray(r * K, (r + 1) * K), (value) => value / 0.1);
    const logSum = Math.log(row.reduce((sum, value) => sum + Math.exp(value), 0));
    const target = (r + 2) % 4; // rows: crop 0 of both images, then crop 1
    for (let k = 0; k < K; k++) expected -= (q[target * K + k]! * (row[k]! - logSum)) / (3 * 2);
  }
  assert.ok(relativeError(await x.read(terms.dinoGlobal), [expected]) < 1e-6);
});
