/** The TensorFlow.js executor: the suite on WebAssembly, and what only it promises. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { createRequire } from 'node:module';
import { after, before, describe, it } from 'node:test';
import { AppError } from '../../core/contract/index.ts';
import { createExecutor, describeEngines, type Tensor } from '../../core/nn/index.ts';
import type { WebgpuState } from '../../core/nn/webgpu/index.ts';
import type { TfTensor } from '../../core/nn/tensorflow/engine.ts';
import { createTensorflowExecutor, type TensorflowExecutor } from '../../core/nn/tensorflow/index.ts';
import { Random } from './draw.ts';
import { TinyStep } from './tiny-step.ts';
import { assertClose, operationSuite } from './suite.ts';
import { wholeTargets } from './targets.ts';

const wasm = (): Promise<TensorflowExecutor> => createTensorflowExecutor({ backend: 'wasm' });
operationSuite('TensorFlow.js on WebAssembly', wasm);
operationSuite('TensorFlow.js on WebAssembly, logits and targets tile by tile', () =>
  createTensorflowExecutor({ backend: 'wasm', limits: { kept: 0, tile: 400 } }),
);

describe('the TensorFlow.js executor', () => {
  let e: TensorflowExecutor;
  before(async () => {
    e = await wasm();
  });
  after(() => e.dispose());

  it('holds the same tensors and bytes after 500 steps as after 10', async () => {
    const step = new TinyStep(e);
    const { tf } = e.engine;
    const heap = (): number => (tf.backend() as unknown as { wasm: { HEAPU8: Uint8Array } }).wasm.HEAPU8.length;
    const held = (): number[] => [tf.memory().numTensors, tf.memory().numBytes, e.memoryBytes(), heap()];
    for (let i = 0; i < 10; ++i) await step.run();
    const start = held();
    for (let i = 10; i < 500; ++i) assert.ok(Number.isFinite(await step.run()), `step ${i}`);
    assert.deepEqual(held(), start);
  });

  it('gives the same loss and gradients when logits and targets are made tile by tile, and then never makes them whole', async () => {
    const random = new Random(4);
    const [R, K, n] = [19, 150, 14];
    const specs = [
      { name: 'x', shape: [R, n], values: random.normals(R * n) },
      { name: 'v', shape: [K, n], values: random.normals(K * n) },
      { name: 'g', shape: [K, 1], values: random.normals(K) },
    ];
    const seen = random.normals(R * n).map((value) => 0.3 * value);
    const targetRows = Int32Array.from({ length: R * 2 }, (_, i) => (i * 5) % R);
    const rowWeights = random.normals(R);
    const run = async (tile: number): Promise<{ loss: Float32Array; gradients: Float32Array; largest: number }> => {
      const executor = await createTensorflowExecutor({ backend: 'wasm', limits: { kept: tile === R * K ? R * K : 0, tile } });
      const set = executor.createParameters(specs);
      const result = await executor.scope(async () => {
        executor.zeroGradients(set);
        let loss: Tensor | null = null;
        const from = [executor.tensor(seen, [R, n]), set.get('v'), set.get('g')] as const;
        const { kernels } = await executor.engine.tf.profile(() => {
          const targets = executor.prototypeTargets(...from, { kind: 'sinkhorn', temperature: 0.5, iterations: 3 });
          const inputs = { rows: set.get('x'), weightV: set.get('v'), weightG: set.get('g'), targets };
          ({ loss } = executor.gradients(set, () => executor.prototypeLoss({ ...inputs, targetRows, rowWeights, temperature: 0.5 })));
          return loss as TfTensor;
        });
        const wide = kernels.flatMap(({ outputShapes }) => outputShapes.filter((shape) => shape[0] === R).map((shape) => shape[1] ?? 1));
        return { loss: await executor.read(loss!), gradients: await executor.readGradients(set), largest: Math.max(...wide) };
      });
      set.dispose();
      await executor.dispose();
      return result;
    };
    const whole = await run(R * K);
    const tiled = await run(R * 64);
    assertClose(tiled.loss, whole.loss, 2e-6, 'loss');
    assertClose(tiled.gradients, whole.gradients, 4e-6, 'gradients');
    assert.deepEqual([whole.largest, tiled.largest], [K, 64]);
  });

  it('copies what it is given', async () => {
    await e.scope(async () => {
      const values = Float32Array.of(1, 2);
      const x = e.tensor(values, [2]);
      const set = e.createParameters([{ name: 'w', shape: [2], values }]);
      values.fill(9);
      (await e.read(x)).fill(9);
      assert.deepEqual([...(await e.read(x)), ...(await e.readParameters(set))], [1, 2, 1, 2]);
      set.dispose();
    });
  });

  it('frees a scope that throws, also in the middle of a tape, and works on', async () => {
    const held = e.engine.tf.memory();
    await assert.rejects(
      e.scope(() => {
        e.tensor(new Float32Array(1000), [1000]);
        e.linear(e.tensor(new Float32Array(6), [2, 3]), e.tensor(new Float32Array(8), [2, 4]), null);
      }),
      /linear/,
    );
    const set = e.createParameters([{ name: 'w', shape: [2, 2], values: Float32Array.of(1, 2, 3, 4) }]);
    const broken = (): Promise<unknown> =>
      e.scope(() =>
        e.gradients(set, () => {
          e.layerNorm(
            e.linear(set.get('w'), set.get('w'), null, 'gelu'),
            e.tensor(new Float32Array(2), [2]),
            e.tensor(new Float32Array(2), [2]),
            1,
          );
          throw new Error('the model failed');
        }),
      );
    await assert.rejects(broken(), /the model failed/);
    await assert.rejects(
      e.scope(() => e.gradients(set, () => e.tensor(Float32Array.of(1, 2), [2]))),
      /shape \[2\]/,
    );
    await e.scope(() => {
      e.gradients(set, () => e.koleo(set.get('w')));
    });
    set.dispose();
    const { numTensors, numBytes } = e.engine.tf.memory();
    assert.deepEqual([numTensors, numBytes], [held.numTensors, held.numBytes]);
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
      const balanced = e.prototypeTargets(rows, ones([7, 12]), ones([7, 1]), { kind: 'sinkhorn', temperature: 0.1, iterations: 3 });
      assert.ok(await hit(wholeTargets(e, balanced)), 'prototypeTargets');
      const options = { targetRows: Int32Array.of(0, 1, 2, 3), rowWeights: new Float32Array(4).fill(0.25), temperature: 0.1 };
      assert.ok(
        await hit(e.prototypeLoss({ rows, weightV: ones([7, 12]), weightG: ones([7, 1]), targets: ones([4, 7]), ...options })),
        'loss',
      );
    });
  });

  it('says that memory ended instead of writing over it', () => {
    type Module = { _malloc(bytes: number): number; _free(address: number): void };
    const { wasm: module } = e.engine.tf.backend() as unknown as { wasm: Module };
    const taken: number[] = [];
    const take = (bytes: number): number => taken.push(module._malloc(bytes));
    const full = (error: unknown): boolean =>
      error instanceof AppError &&
      error.code === 'engine-out-of-memory' &&
      /ran out of memory: no room for \d+\.\d MiB more.*4 GiB/.test(error.message);
    // Asked for, not written to: the system gives nothing yet.
    assert.throws(() => Array.from({ length: 5 }, () => take(2 ** 30)), full);
    assert.ok(taken.length >= 1);
    for (const address of taken) module._free(address);
    assert.throws(() => take(2 ** 32 - 2 ** 16), full);
  });
});

describe('the choice of an engine', () => {
  const none = { gpu: false, installed: false };
  const noAdapter = { adapter: null, problem: 'no GPU was found' };
  const card = { adapter: { description: 'a card, Vulkan', driver: '', software: false }, problem: '' };
  const program = { adapter: { description: 'SwiftShader, Vulkan', driver: '', software: true }, problem: '' };

  async function choose(wish: Parameters<typeof describeEngines>[0], cuda: typeof none, webgpu: WebgpuState): Promise<string> {
    const { engine, gpu, details } = await describeEngines(wish, { facts: { cuda, webgpu } });
    return `${engine}${gpu ? ' on a GPU' : ''}, ${details}`.replace(/\d+ threads?/, 'n threads');
  }

  it('takes TensorFlow.js by itself only with a GPU and the package for it, and says what is missing', async () => {
    const both = { gpu: true, installed: true };
    assert.equal(await choose('auto', none, noAdapter), 'cpu, n threads (no GPU was found)');
    assert.match(
      await choose('auto', { gpu: true, installed: false }, noAdapter),
      /^cpu, n threads \(no GPU was found; for the NVIDIA GPU: npm run setup:cuda; needs CUDA 11\.2 and cuDNN 8\.1/,
    );
    assert.match(
      await choose('auto', { gpu: false, installed: true }, noAdapter),
      /^cpu, n threads \(no GPU was found; TensorFlow\.js for CUDA is installed, but there is no NVIDIA driver\)$/,
    );
    assert.equal(await choose('auto', both, noAdapter), 'tensorflow on a GPU, CUDA on an NVIDIA GPU');
    assert.equal(await choose('cpu', both, noAdapter), 'cpu, n threads (asked for)');
    assert.equal(await choose('tensorflow', none, card), 'tensorflow, without a GPU (no NVIDIA GPU was found)');
  });

  it('takes WebGPU before all others on a GPU, and a program that acts as one only when asked', async () => {
    const both = { gpu: true, installed: true };
    assert.equal(await choose('auto', none, card), 'webgpu on a GPU, a card, Vulkan');
    assert.equal(await choose('auto', both, card), 'webgpu on a GPU, a card, Vulkan');
    assert.equal(await choose('cpu', none, card), 'cpu, n threads (asked for)');
    assert.equal(await choose('auto', none, program), 'cpu, n threads (no GPU was found)');
    assert.equal(await choose('auto', both, program), 'tensorflow on a GPU, CUDA on an NVIDIA GPU');
    assert.equal(await choose('webgpu', none, program), 'webgpu, SwiftShader, Vulkan, a program that acts as a GPU: slow');
    assert.equal(await choose('webgpu', none, noAdapter), 'webgpu, without a GPU (no GPU was found)');
    const crashed = { adapter: null, problem: 'the graphics driver was tried in a process of its own and ended it (SIGSEGV)' };
    assert.equal(await choose('auto', none, crashed), `cpu, n threads (${crashed.problem})`);
  });

  it('starts the engine that is asked for and refuses one that is not there', async () => {
    const executor = await createExecutor({ engine: 'tensorflow' });
    assert.equal(executor.name, 'tensorflow');
    assert.match(executor.description, /^TensorFlow\.js 4\.22\.0 (on WebAssembly, 1 thread|with the native library)/);
    await executor.dispose();
    await assert.rejects(createExecutor({ engine: 'abacus' as 'cpu' }), /abacus.*cpu, tensorflow, webgpu or auto/);
    const { resolve } = createRequire(import.meta.url);
    const missing = ['@tensorflow/tfjs-node-gpu/package.json'].filter((file) => {
      try {
        return !resolve(file);
      } catch {
        return true;
      }
    });
    if (missing.length > 0) await assert.rejects(createTensorflowExecutor({ backend: 'cuda' }), /tfjs-node-gpu is not installed/);
  });

  it('loads nothing of TensorFlow.js and of Dawn for the cpu engine', () => {
    const door = new URL('../../core/nn/index.ts', import.meta.url).href;
    const script = `import { createRequire } from 'node:module';
      const { createExecutor, describeEngines } = await import(${JSON.stringify(door)});
      await describeEngines();
      await (await createExecutor({ engine: 'cpu', threads: 1 })).dispose();
      const loaded = () => Object.keys(createRequire(import.meta.url).cache).filter((file) => /@tensorflow|dawn\\.node/.test(file)).length;
      const before = loaded();
      await createExecutor({ engine: 'tensorflow' });
      console.log(before, loaded() > 0);`;
    const { stdout, stderr, status } = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
      encoding: 'utf8',
      cwd: import.meta.dirname,
    });
    assert.deepEqual([status, stdout], [0, '0 true\n'], stderr);
  });
});
