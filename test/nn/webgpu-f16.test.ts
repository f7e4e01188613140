/** The WebGPU executor in mixed precision: the suite with activations in f16, and the rounded copies of parameters. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { before, describe, it } from 'node:test';
import { createExecutor, type Tensor } from '../../core/nn/index.ts';
import { copyRows } from '../../core/nn/webgpu/kernels/elementwise.ts';
import { stored } from '../../core/nn/webgpu/kernels/kernel.ts';
import { createWebgpuExecutor, type WebgpuExecutor } from '../../core/nn/webgpu/index.ts';
import type { GpuTensor } from '../../core/nn/webgpu/tensor.ts';
import { collect, folder, goOn, metricsLines, run } from '../dinov2/runs.ts';
import { overflowing } from '../dinov2/scaled.ts';
import { tinyRun } from '../dinov2/tiny-run.ts';
import { Random } from './draw.ts';
import { operationSuite } from './suite.ts';
import { wholeTargets } from './targets.ts';
import { noF16 } from './webgpu-device.ts';

/** Inputs that are activations in a network; the others are parameters or what is made of them. */
const activations: readonly string[] = ['x', 'qkv', 'branch', 'patches', 'a', 'c'];

let e: WebgpuExecutor;

/** The tensor in f16, on the tape. */
function rounded(tensor: Tensor): Tensor {
  const { engine } = e;
  const x = tensor as GpuTensor;
  const y = engine.make(x.shape, 'f16');
  engine.run(copyRows(engine.caps, x, stored(y), { rows: 1, n: x.size }));
  engine.record(y, [x], (dy) => engine.passOn(x, dy));
  return y;
}

it('float16 is refused where there is none', async () => {
  await assert.rejects(createExecutor({ engine: 'cpu', precision: 'f16' }), /f16 is for the webgpu engine/);
  await assert.rejects(createExecutor({ engine: 'tensorflow', precision: 'f16' }), /f16 is for the webgpu engine/);
  if (noF16) await assert.rejects(createExecutor({ engine: 'webgpu', precision: 'f16' }), Error);
});

if (noF16) it('the WebGPU executor in f16', { skip: noF16 });
else {
  before(async () => {
    e = await createWebgpuExecutor({ precision: 'f16' });
  });
  describe('the WebGPU executor in f16', tests);
  // Results and what they were made from have 11 bits, 5e-4: the rest is for losses, whose terms cancel.
  operationSuite('WebGPU in f16', async () => e, {
    tolerance: 2e-3,
    given: (input, name) => (activations.includes(name) ? rounded(input) : input),
  });
}

function tests(): void {
  it('products take the copy of a weight that every writer of weights keeps up', async () => {
    const random = new Random(5);
    const [rows, I, O] = [7, 48, 72];
    const specs = [
      { name: 'odd', shape: [3], values: random.normals(3) },
      { name: 'w', shape: [O, I], values: random.normals(O * I) },
    ];
    const set = e.createParameters(specs);
    const teacher = e.createParameters(specs);
    const state = e.createAdamState(set);
    const x = Float32Array.from(random.normals(rows * I), Math.f16round);
    const check = async (when: string): Promise<void> => {
      for (const parameters of [set, teacher]) {
        const w = (await e.readParameters(parameters)).subarray(3);
        const [got, plain] = await e.scope(async () => {
          const input = e.tensor(x, [rows, I]);
          const weight = parameters.get('w');
          return [await e.read(e.linear(rounded(input), weight, null)), await e.read(e.linear(input, weight, null))];
        });
        for (let i = 0; i < rows * O; ++i) {
          let exact = 0;
          let rough = 0;
          for (let k = 0; k < I; ++k) {
            exact += x[Math.floor(i / O) * I + k]! * w[(i % O) * I + k]!;
            rough += x[Math.floor(i / O) * I + k]! * Math.f16round(w[(i % O) * I + k]!);
          }
          assert.ok(Math.abs(got[i]! - Math.f16round(rough)) <= 2 ** -10 * Math.abs(rough) + 1e-4, `${when}, f16`);
          assert.ok(Math.abs(plain[i]! - exact) < 1e-4, `${when}, f32: of the parameters themselves`);
        }
      }
    };
    await check('created');
    e.writeParameters(set, random.normals(set.size));
    await check('written');
    await e.scope(async () => {
      e.zeroGradients(set);
      e.gradients(set, () => e.koleo(e.linear(e.tensor(x, [rows, I]), set.get('w'), null)));
      const rates = { learningRates: new Float32Array(2).fill(0.3), weightDecays: new Float32Array(2).fill(0.1) };
      e.adamW(set, state, { ...rates, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, updateNumber: 1 });
      e.emaUpdate(teacher, set, 0.4);
    });
    await check('updated');
    // A norm that is not finite: nothing moves.
    const before = [await e.readParameters(set), await e.readParameters(teacher), (await e.readAdamState(state)).m];
    await e.scope(async () => {
      const guard = e.tensor(Float32Array.of(3, Infinity), [2]);
      const rates = { learningRates: new Float32Array(2).fill(0.3), weightDecays: new Float32Array(2).fill(0.1) };
      e.adamW(set, state, { ...rates, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, updateNumber: 2, guard });
      e.emaUpdate(teacher, set, 0.4, guard);
    });
    assert.deepEqual([await e.readParameters(set), await e.readParameters(teacher), (await e.readAdamState(state)).m], before);
    await check('guarded');
    for (const one of [state, set, teacher]) one.dispose();
  });

  it('a run whose gradients overflow skips that step on the device, and repeats bit for bit where it was stopped', async (t) => {
    const { scales, from } = overflowing(e, [9]);
    const config = tinyRun({ steps: 12, checkpointEvery: 12 });
    const whole = await folder(t);
    const events = await collect(run(e, whole, config));
    assert.match(events.map((event) => (event.type === 'log' ? event.text : '')).join(), /f16.*Step 9 changed nothing/s);
    // A network so small overflows of itself at first; what step 9 does to the scale shows at step 11.
    assert.ok(scales[0] === 65536 && scales[9] === scales[8] && scales[10] === scales[8]! / 2, scales.join());
    const expected = await metricsLines(whole);
    const norms = expected.map(({ gradNorm }) => Object.keys(gradNorm).length);
    assert.deepEqual(norms.slice(6), [2, 2, 0, 2, 2, 2]);
    from(0);
    const stopped = await folder(t);
    const controller = new AbortController();
    await collect(run(e, stopped, config, controller.signal), { after: 8 }, controller);
    from((await metricsLines(stopped)).length);
    const again = await collect(goOn(e, stopped));
    assert.equal(again.filter((event) => event.type === 'log' && event.level === 'warn').length, 0);
    assert.deepEqual(await metricsLines(stopped), expected);
    const last = (runDir: string): Promise<Buffer> => readFile(join(runDir, 'checkpoints', '12', 'training.safetensors'));
    assert.ok((await last(stopped)).equals(await last(whole)));
  });

  it('tokens and what follows them are f16, targets and losses f32', async () => {
    const random = new Random(6);
    const specs = { w: [8, 3, 2, 2], b: [8], v: [12, 8], g: [12, 1] };
    const set = e.createParameters(
      Object.entries(specs).map(([name, shape]) => ({ name, shape, values: random.normals(shape.reduce((a, b) => a * b, 1)) })),
    );
    await e.scope(() => {
      const tokens = e.patchEmbed(e.tensor(random.normals(2 * 3 * 16), [2, 3, 4, 4]), set.get('w'), set.get('b'));
      const rows = e.l2Normalize(e.gatherRows(tokens, Int32Array.of(0, 3, 5)), 1e-12);
      const logits = e.prototypeLogits(rows, set.get('v'), set.get('g'));
      const how = { kind: 'sinkhorn', temperature: 0.04, iterations: 3 } as const;
      const targets = wholeTargets(e, e.prototypeTargets(rows, set.get('v'), set.get('g'), how));
      const elements = [tokens, rows, logits, targets, e.koleo(rows)].map((x) => (x as GpuTensor).element);
      assert.deepEqual(elements, ['f16', 'f16', 'f32', 'f32', 'f32']);
    });
    set.dispose();
  });
}
