/** The WebGPU executor: the suite on the adapter of this machine, and what only it promises. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { before, describe, it } from 'node:test';
import { AppError } from '../../core/contract/index.ts';
import { listCheckpoints } from '../../core/dinov2/index.ts';
import type { Executor, ParameterSet, TargetKind, Tensor } from '../../core/nn/index.ts';
import { Engine } from '../../core/nn/webgpu/engine.ts';
import { WebgpuExecutor } from '../../core/nn/webgpu/executor.ts';
import { createWebgpuExecutor, webgpuState } from '../../core/nn/webgpu/index.ts';
import { Runtime } from '../../core/nn/webgpu/runtime.ts';
import { GpuParameterSet } from '../../core/nn/webgpu/tensor.ts';
import { tinyRun } from '../dinov2/tiny-run.ts';
import { collect, folder, goOn, metricsLines, run } from '../dinov2/runs.ts';
import { Random } from './draw.ts';
import { smallStep } from './small-step.ts';
import { assertClose, operationSuite } from './suite.ts';
import { wholeTargets } from './targets.ts';
import { TinyStep } from './tiny-step.ts';
import { noAdapter } from './webgpu-device.ts';

// A software adapter compiles for seconds: one executor serves all tests, and the suite, which comes last, ends it.
let shared: WebgpuExecutor;

if (noAdapter) it('the WebGPU executor', { skip: noAdapter });
else {
  before(async () => {
    shared = await createWebgpuExecutor();
  });
  describe('the WebGPU executor', executorTests);
  // WGSL lets divisions and roots be off by 2 to 3 units of the last place, where the other engines round to it.
  operationSuite('WebGPU', async () => shared, { tolerance: 4e-6 });
}

const step = (executor: Executor): Promise<Float32Array[]> =>
  smallStep(executor, { samples: 3, tokens: 21, width: 24, heads: 3, prototypes: 70 });

function executorTests(): void {
  let e: WebgpuExecutor;
  before(() => {
    e = shared;
  });

  it('repeats a step bit for bit, also on a device opened anew', async () => {
    const first = await step(e);
    assert.ok(first.every((values) => values.every(Number.isFinite)));
    assert.deepEqual(await step(e), first);
    const other = await createWebgpuExecutor();
    assert.deepEqual(await step(other), first);
    await other.dispose();
  });

  it('spreads parameters over several arrays where the device binds little at once, and computes the same', async () => {
    // On the device of the others, which stays open. All parameters together are 37 KiB.
    const { device, capabilities } = e.engine.runtime;
    const narrow = new Runtime({ ...device, capabilities: { ...capabilities, bindingBytes: 2 ** 15 } });
    const x = new WebgpuExecutor(new Engine(narrow, e.precision));
    const specs = [4000, 3000, 2000, 70].map((size, i) => ({ name: `${i}`, shape: [size], values: new Float32Array(size).fill(i) }));
    const set = x.createParameters(specs);
    assert(set instanceof GpuParameterSet && set.values.pieces.length === 2);
    assert.deepEqual(await x.readParameters(set), Float32Array.from(specs.flatMap(({ values }) => [...values])));
    assert.deepEqual(await step(x), await step(e));
  });

  it('holds and reserves the same memory after 30 steps as after 5', async () => {
    const tiny = new TinyStep(e);
    const held = (): number[] => [e.memoryBytes(), e.engine.runtime.pool.reserved];
    for (let i = 0; i < 5; ++i) await tiny.run();
    const start = held();
    for (let i = 5; i < 30; ++i) assert.ok(Number.isFinite(await tiny.run()), `step ${i}`);
    assert.deepEqual(held(), start);
  });

  it('gives the same loss and gradients when logits and targets are made tile by tile', async () => {
    const [R, Q, K, n] = [19, 7, 300, 14];
    // On the device of the others, which stays open and has compiled most of it.
    const tiled = new WebgpuExecutor(new Engine(new Runtime(e.engine.runtime.device), e.precision, { kept: 0, tile: R * 128 }));
    const losses = async (x: Executor, how: TargetKind): Promise<[Float32Array, Float32Array, Float32Array]> => {
      const random = new Random(4);
      const set = x.createParameters([
        { name: 'x', shape: [R, n], values: random.normals(R * n) },
        { name: 'v', shape: [K, n], values: random.normals(K * n) },
        { name: 'g', shape: [K, 1], values: random.normals(K) },
      ]);
      const [weightV, weightG] = [set.get('v'), set.get('g')];
      const targetRows = Int32Array.from({ length: R * 2 }, (_, i) => i % Q);
      const rowWeights = random.normals(R);
      const results = await x.scope(async () => {
        const teacher = x.tensor(random.normals(Q * n), [Q, n]);
        const center = how.kind === 'softmax' ? x.tensor(random.normals(K), [K]) : null;
        const targets = x.prototypeTargets(teacher, weightV, weightG, { ...how, ...(center && { center }) } as TargetKind);
        const { loss } = x.gradients(set, () =>
          x.prototypeLoss({ rows: set.get('x'), weightV, weightG, targets, targetRows, rowWeights, temperature: 0.5 }),
        );
        const some = x.gatherTargets(targets, Int32Array.of(6, 0, 6));
        return [await x.read(loss), await x.readGradients(set), await x.read(some)] as [Float32Array, Float32Array, Float32Array];
      });
      set.dispose();
      return results;
    };
    const kinds: TargetKind[] = [
      { kind: 'sinkhorn', temperature: 0.7, iterations: 3 },
      { kind: 'softmax', temperature: 0.7, center: null },
    ];
    for (const how of kinds) {
      const whole = await losses(e, how);
      const parts = await losses(tiled, how);
      ['loss', 'gradients', 'targets'].forEach((what, i) => assertClose(parts[i]!, whole[i]!, 4e-6, `${how.kind}: ${what}`));
    }
  });

  it('goes on bit for bit where a run was stopped', async (t) => {
    const config = tinyRun({ steps: 4, checkpointEvery: 4 });
    const whole = await folder(t);
    await collect(run(e, whole, config));
    const stopped = await folder(t);
    const controller = new AbortController();
    await collect(run(e, stopped, config, controller.signal), { after: 2 }, controller);
    // Step 3 was given before the numbers of step 2 were there to be told.
    assert.equal((await metricsLines(stopped)).length, 3);
    await collect(goOn(e, stopped));
    assert.deepEqual(await metricsLines(stopped), await metricsLines(whole));
  });

  it('ends a run at the step in which a weight is not a number, and names it, though the next step runs already', async (t) => {
    const sets: ParameterSet[] = [];
    const { createParameters } = e;
    e.createParameters = (specs) => {
      sets.push(createParameters.call(e, specs));
      return sets.at(-1)!;
    };
    const runDir = await folder(t);
    await assert.rejects(
      async () => {
        for await (const event of run(e, runDir, tinyRun({ steps: 9, checkpointEvery: 3 }))) {
          if (event.type !== 'metrics' || event.metrics.step !== 4) continue;
          const set = sets[0]!;
          const values = await e.readParameters(set);
          values[set.specs.at(-1)!.offset] = NaN;
          e.writeParameters(set, values);
        }
      },
      (error: AppError) => {
        // Step 5 was given before.
        assert.match(error.message, /^At step 6 the student's parameter dino_head.last_layer.weight_v holds NaN\.$/);
        return error.code === 'not-finite';
      },
    );
    assert.deepEqual(await listCheckpoints(runDir), [0, 3]);
    Object.assign(e, { createParameters });
  });

  it('copies what it is given, large and small', async () => {
    await e.scope(async () => {
      for (const count of [2, 100_000]) {
        const values = new Float32Array(count).fill(7);
        const x = e.tensor(values, [count]);
        const set = e.createParameters([{ name: 'w', shape: [count], values }]);
        values.fill(9);
        (await e.read(x)).fill(9);
        for (const seen of [await e.read(x), await e.readParameters(set)]) assert.ok(seen.length === count && seen.every((v) => v === 7));
        set.dispose();
      }
    });
  });

  it('keeps uploads apart that share a buffer, over scopes and submits', async () => {
    const kept: Tensor[] = [];
    const random = new Random(6);
    const all: Float32Array[] = [];
    await e.scope(async () => {
      for (let i = 0; i < 40; ++i) {
        // Lists that are freed at once, between values that live on.
        await e.scope(async () => {
          const rows = Int32Array.from({ length: 3000 }, (_, r) => (r * 7 + i) % 50);
          const x = e.tensor(random.normals(50), [50, 1]);
          const picked = await e.read(e.gatherRows(x, rows));
          const values = await e.read(x);
          assert.ok(picked.every((value, r) => value === values[rows[r]!]));
        });
        all.push(random.normals(20_000));
        kept.push(e.tensor(all[i]!, [20_000]));
      }
      for (const [i, tensor] of kept.entries()) assert.deepEqual(await e.read(tensor), all[i]);
    });
  });

  it('frees a scope that throws, also in the middle of a tape, and works on', async () => {
    const held = e.memoryBytes();
    const set = e.createParameters([{ name: 'w', shape: [2, 2], values: Float32Array.of(1, 2, 3, 4) }]);
    const broken = e.scope(() =>
      e.gradients(set, () => {
        e.linear(set.get('w'), set.get('w'), null, 'gelu');
        throw new Error('the model failed');
      }),
    );
    await assert.rejects(broken, /the model failed/);
    await assert.rejects(
      e.scope(() => e.gradients(set, () => e.tensor(Float32Array.of(1, 2), [2]))),
      /shape \[2\]/,
    );
    await e.scope(() => {
      e.gradients(set, () => e.koleo(set.get('w')));
    });
    set.dispose();
    assert.equal(e.memoryBytes(), held);
  });

  it('lets a value that is not a number show in what comes of it', async () => {
    await e.scope(async () => {
      const ones = (shape: readonly number[]): Tensor => e.tensor(new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(1), shape);
      const values = new Float32Array(48).fill(0.5);
      values[5] = NaN;
      const x = e.tensor(values, [1, 4, 12]);
      const rows = e.tensor(values, [4, 12]);
      const hit = async (tensor: Tensor): Promise<boolean> => (await e.read(tensor)).some(Number.isNaN);
      assert.ok(await hit(e.linear(x, ones([5, 12]), ones([5]), 'gelu')), 'GELU');
      assert.ok(await hit(e.attention(x, 2)), 'attention');
      assert.ok(await hit(e.layerNorm(x, ones([12]), ones([12]), 1e-6)), 'layerNorm');
      assert.ok(await hit(e.l2Normalize(rows, 1e-12)), 'l2Normalize');
      assert.ok(await hit(e.koleo(rows)), 'koleo');
      const hows: TargetKind[] = [
        { kind: 'sinkhorn', temperature: 0.1, iterations: 3 },
        { kind: 'softmax', temperature: 0.1, center: null },
      ];
      for (const how of hows) {
        assert.ok(await hit(wholeTargets(e, e.prototypeTargets(rows, ones([7, 12]), ones([7, 1]), how))), how.kind);
      }
      const options = { targetRows: Int32Array.of(0, 1, 2, 3), rowWeights: new Float32Array(4).fill(0.25), temperature: 0.1 };
      assert.ok(
        await hit(e.prototypeLoss({ rows, weightV: ones([7, 12]), weightG: ones([7, 1]), targets: ones([4, 7]), ...options })),
        'prototypeLoss',
      );
    });
  });

  it('says in words that an array is too large, and that the device is gone', async () => {
    const other = await createWebgpuExecutor();
    const { capabilities, device } = other.engine.runtime;
    const code =
      (wanted: string, words: RegExp) =>
      (error: unknown): boolean =>
        error instanceof AppError && error.code === wanted && words.test(error.message);
    const tooMany = capabilities.bindingBytes / 4 + 64;
    assert.throws(
      () => other.engine.make([tooMany]),
      code('engine-out-of-memory', /An array of \d+ MiB is needed; the GPU \(.+\) takes \d+ MiB/),
    );
    device.gpu.destroy();
    const gone = code('engine-died', /The GPU \(.+\) stopped working/);
    await assert.rejects(async () => {
      for (let i = 0; i < 3; ++i) await other.read(other.tensor(Float32Array.of(1), [1]));
    }, gone);
    assert.throws(() => other.tensor(Float32Array.of(1), [1]), gone);
    await other.dispose();
  });

  it('names what it runs on, and finds the same adapter from a process of its own', async () => {
    const { adapter, problem } = await webgpuState();
    assert.equal(problem, '');
    assert.ok(e.description.startsWith(adapter!.description), e.description);
    assert.equal(adapter!.software, e.engine.runtime.device.software);
  });

  it('keeps no process alive: neither idle, nor after an uncaught error, nor after dispose', () => {
    const door = new URL('../../core/nn/index.ts', import.meta.url).href;
    const ends: [string, number][] = [
      ['', 0],
      ['await e.dispose();', 0],
      ["throw new Error('on purpose');", 1],
    ];
    for (const [end, code] of ends) {
      const script = `import { createExecutor } from ${JSON.stringify(door)};
        const e = await createExecutor({ engine: 'webgpu' });
        await e.scope(() => e.read(e.l2Normalize(e.tensor(new Float32Array(900).fill(1), [9, 100]), 1)));
        ${end}`;
      const child = spawnSync(process.execPath, ['--input-type=module', '-e', script], { timeout: 60_000, encoding: 'utf8' });
      assert.equal(child.signal, null, `still running after: ${end || 'the last line'}`);
      assert.equal(child.status, code, child.stderr);
    }
  });
}
