/** The CPU executor: the suite in all SIMD kinds on one and two threads, and what only it promises. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { after, before, describe, it } from 'node:test';
import { AppError } from '../../core/contract/index.ts';
import { createCpuExecutor, type CpuExecutor } from '../../core/nn/cpu/index.ts';
import { Arena, Heap } from '../../core/nn/cpu/memory.ts';
import { createExecutor, type Executor, type Tensor } from '../../core/nn/index.ts';
import { Random } from './draw.ts';
import { ReferenceExecutor } from './reference-executor.ts';
import { smallStep } from './small-step.ts';
import { assertClose, operationSuite } from './suite.ts';
import { wholeTargets } from './targets.ts';

before(async () => {
  const { buildWasm } = (await import('../../build/wasm.mjs' as string)) as { buildWasm(): Promise<string[]> };
  await buildWasm();
});

operationSuite('relaxed SIMD, 1 thread', () => createCpuExecutor({ threads: 1, simd: 'relaxed' }));
operationSuite('relaxed SIMD, 2 threads', () => createCpuExecutor({ threads: 2, simd: 'relaxed' }));
operationSuite('wide SIMD, 1 thread', () => createCpuExecutor({ threads: 1, simd: 'wide' }));
operationSuite('wide SIMD, 2 threads', () => createCpuExecutor({ threads: 2, simd: 'wide' }));
operationSuite('plain SIMD, 1 thread', () => createCpuExecutor({ threads: 1, simd: 'plain' }));
operationSuite('plain SIMD, 2 threads', () => createCpuExecutor({ threads: 2, simd: 'plain' }));
const tiny = { kept: 0, tile: 400 };
operationSuite('relaxed SIMD, 2 threads, logits and targets tile by tile', () => createCpuExecutor({ threads: 2, limits: tiny }));
operationSuite('plain SIMD, 1 thread, logits and targets tile by tile', () =>
  createCpuExecutor({ threads: 1, simd: 'plain', limits: tiny }),
);

const step = (executor: Executor): Promise<Float32Array[]> =>
  smallStep(executor, { samples: 6, tokens: 37, width: 48, heads: 4, prototypes: 200 });

describe('the CPU executor', () => {
  let two: CpuExecutor;
  before(async () => {
    two = await createCpuExecutor({ threads: 2 });
  });
  after(() => two.dispose());

  it('repeats a step bit for bit, with one, two and three threads', async () => {
    const first = await step(two);
    assert.ok(first.every((values) => values.every(Number.isFinite)));
    for (let again = 0; again < 5; ++again) assert.deepEqual(await step(two), first);
    for (const threads of [1, 3]) {
      const other = await createCpuExecutor({ threads });
      assert.deepEqual(await step(other), first, `${threads} threads`);
      await other.dispose();
    }
  });

  it('reserves nothing more after the first step', async () => {
    const executor = await createCpuExecutor({ threads: 1 });
    await step(executor);
    const { reserved } = executor.engine.heap;
    const held = executor.memoryBytes();
    for (let again = 0; again < 3; ++again) await step(executor);
    assert.equal(executor.engine.heap.reserved, reserved);
    assert.equal(executor.memoryBytes(), held);
    await executor.dispose();
  });

  it('repeats a step bit for bit with logits and targets made tile by tile, with one and two threads', async () => {
    const results: Float32Array[][] = [];
    for (const threads of [1, 2]) {
      const executor = await createCpuExecutor({ threads, limits: { kept: 0, tile: 600 } });
      results.push(await step(executor), await step(executor));
      await executor.dispose();
    }
    for (const result of results) assert.deepEqual(result, results[0]);
    const whole = await step(two);
    ['loss', 'gradients', 'norms', 'parameters'].forEach((what, i) => assertClose(results[0]![i]!, whole[i]!, 1e-5, what));
  });

  for (const kind of ['sinkhorn', 'softmax'] as const)
    it(`gives the float64 loss and gradients of the published head's 131,072 prototypes, tile by tile and whole (${kind})`, async () => {
      const random = new Random(4);
      const [R, K, n] = [3, 131_072, 6];
      const unit = (values: Float32Array): Float32Array =>
        values.map((value, i) => value / Math.hypot(...values.subarray(i - (i % n), i - (i % n) + n)));
      const specs = [
        { name: 'x', shape: [R, n], values: unit(random.normals(R * n)) },
        { name: 'v', shape: [K, n], values: random.normals(K * n) },
        { name: 'g', shape: [K, 1], values: random.normals(K).map((value) => 1 + 0.1 * value) },
      ];
      const seen = unit(random.normals(R * n));
      const v = random.normals(K * n);
      const g = random.normals(K).map((value) => 1 + 0.1 * value);
      const center = random.normals(K).map((value) => 0.1 * value);
      const rest = { targetRows: Int32Array.of(0, 1, 1, 2, 2, 0), rowWeights: Float32Array.of(0.5, 0.3, 0.2), temperature: 0.1 };
      const run = async (e: Executor): Promise<number[][]> => {
        const set = e.createParameters(specs);
        const results = await e.scope(async () => {
          e.zeroGradients(set);
          const how =
            kind === 'sinkhorn'
              ? ({ kind, temperature: 0.05, iterations: 3 } as const)
              : ({ kind, temperature: 0.05, center: e.tensor(center, [K]) } as const);
          const targets = e.prototypeTargets(e.tensor(seen, [R, n]), e.tensor(v, [K, n]), e.tensor(g, [K, 1]), how);
          const loss = (): Tensor =>
            e.prototypeLoss({ rows: set.get('x'), weightV: set.get('v'), weightG: set.get('g'), targets, ...rest });
          const value = await e.read(e.gradients(set, loss).loss);
          const gradients = await e.readGradients(set);
          return [[...value], ...set.specs.map(({ offset, size }) => [...gradients.subarray(offset, offset + size)])];
        });
        set.dispose();
        return results;
      };
      const expected = await run(new ReferenceExecutor());
      // Whole, one float32 sum runs over all prototypes; tile by tile it is shorter.
      for (const [kept, tolerance] of [
        [0, 2e-5],
        [R * K, 2e-4],
      ] as const) {
        const executor = await createCpuExecutor({ threads: 2, limits: { kept, tile: R * 5000 } });
        const actual = await run(executor);
        ['loss', 'rows', 'v', 'g'].forEach((what, i) => assertClose(actual[i]!, expected[i]!, tolerance, `${what}, ${kept} logits kept`));
        await executor.dispose();
      }
    });

  it('holds no more than tiles of the logits and targets beyond the limit', async () => {
    const executor = await createCpuExecutor({ threads: 1, limits: { kept: 100_000, tile: 20_000 } });
    const random = new Random(6);
    const [R, K, n] = [200, 3000, 16];
    const values = random.normals(K * n);
    const set = executor.createParameters([
      { name: 'v', shape: [K, n], values },
      { name: 'g', shape: [K, 1], values: new Float32Array(K).fill(1) },
    ]);
    const before = executor.memoryBytes();
    await executor.scope(async () => {
      const rows = executor.l2Normalize(executor.tensor(random.normals(R * n), [R, n]), 1e-12);
      const from = [rows, set.get('v'), set.get('g')] as const;
      const targets = executor.prototypeTargets(...from, { kind: 'sinkhorn', temperature: 0.1, iterations: 3 });
      const targetRows = Int32Array.from({ length: R }, (_, r) => r);
      const rest = { targets, targetRows, rowWeights: new Float32Array(R).fill(1 / R), temperature: 0.1 };
      executor.gradients(set, () => executor.prototypeLoss({ rows, weightV: set.get('v'), weightG: set.get('g'), ...rest }));
      // Whole, logits and targets would take 2 * 4 R K bytes.
      const held = executor.memoryBytes() - before;
      assert.ok(held < (4 * R * K) / 3, `${held} bytes`);
    });
    await executor.dispose();
  });

  it('frees a scope that throws, and works on', async () => {
    const held = two.memoryBytes();
    await assert.rejects(
      two.scope(() => {
        two.tensor(new Float32Array(1000), [1000]);
        two.linear(two.tensor(new Float32Array(6), [2, 3]), two.tensor(new Float32Array(8), [2, 4]), null);
      }),
      /linear/,
    );
    assert.equal(two.memoryBytes(), held);
    const set = two.createParameters([{ name: 'w', shape: [2, 2], values: Float32Array.of(1, 2, 3, 4) }]);
    assert.throws(() => two.gradients(set, () => two.tensor(Float32Array.of(1, 2), [2])), /shape \[2\]/);
    assert.throws(() =>
      two.gradients(set, () => {
        throw new Error('the model failed');
      }),
    );
    await two.scope(() => two.gradients(set, () => two.koleo(set.get('w'))));
    set.dispose();
  });

  it('lets a value that is not a number show in what comes of it, in all SIMD kinds', async () => {
    for (const simd of ['wide', 'relaxed', 'plain'] as const) {
      const e = await createCpuExecutor({ threads: 1, simd });
      await e.scope(async () => {
        const ones = (shape: readonly number[]): ReturnType<typeof e.tensor> =>
          e.tensor(new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(1), shape);
        const values = new Float32Array(48).fill(0.5);
        values[5] = NaN;
        const x = e.tensor(values, [1, 4, 12]);
        const rows = e.tensor(values, [4, 12]);
        const hit = async (tensor: ReturnType<typeof e.tensor>): Promise<boolean> => (await e.read(tensor)).some(Number.isNaN);
        assert.ok(await hit(e.linear(x, ones([5, 12]), ones([5]), 'gelu')), 'GELU');
        assert.ok(await hit(e.attention(x, 2)), 'attention');
        assert.ok(await hit(e.layerNorm(x, ones([12]), ones([12]), 1e-6)), 'layerNorm');
        const balanced = e.prototypeTargets(rows, ones([7, 12]), ones([7, 1]), { kind: 'sinkhorn', temperature: 0.1, iterations: 3 });
        assert.ok(await hit(wholeTargets(e, balanced)), 'prototypeTargets');
        const targetRows = Int32Array.of(0, 1, 2, 3);
        const rowWeights = new Float32Array(4).fill(0.25);
        const options = { targets: ones([4, 7]), targetRows, rowWeights, temperature: 0.1 };
        assert.ok(await hit(e.prototypeLoss({ rows, weightV: ones([7, 12]), weightG: ones([7, 1]), ...options })), 'prototypeLoss');
      });
      await e.dispose();
    }
  });

  it('gives the same bits with eight lanes as with four', async () => {
    const wide = await createCpuExecutor({ threads: 2, simd: 'wide' });
    const relaxed = await createCpuExecutor({ threads: 2, simd: 'relaxed' });
    assert.deepEqual(await step(wide), await step(relaxed));
    await Promise.all([wide.dispose(), relaxed.dispose()]);
  });

  it('chooses the fastest kernels that the runtime has and says what runs', async () => {
    assert.match(two.description, /^2 threads, WebAssembly with (relaxed SIMD|SIMD of eight lanes)$/);
    const executor = await createExecutor({ engine: 'cpu', threads: 1 });
    assert.equal(executor.name, 'cpu');
    await executor.dispose();
    await assert.rejects(createCpuExecutor({ threads: 0 }), /threads/);
    await assert.rejects(createExecutor({ engine: 'abacus' as 'cpu' }), /abacus/);
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
        const e = await createExecutor({ threads: 3 });
        await e.scope(() => e.l2Normalize(e.tensor(new Float32Array(90000).fill(1), [900, 100]), 1));
        ${end}`;
      const child = spawnSync(process.execPath, ['--input-type=module', '-e', script], { timeout: 20_000, encoding: 'utf8' });
      assert.equal(child.signal, null, `still running after: ${end || 'the last line'}`);
      assert.equal(child.status, code, child.stderr);
    }
  });
});

describe('memory', () => {
  it('the heap joins what is freed and uses it again', () => {
    const heap = new Heap();
    const blocks = [1000, 2000, 3000].map((bytes) => heap.allocate(bytes));
    const { used, reserved } = heap;
    for (const i of [0, 2, 1]) heap.free(blocks[i]!);
    assert.equal(heap.used, 0);
    assert.equal(heap.allocate(5900), blocks[0]);
    assert.ok(heap.used <= used);
    assert.equal(heap.reserved, reserved);
    assert.throws(() => heap.free(blocks[1]!), /nothing was allocated/);
  });

  it('past 4 GiB the error says how much was needed and what to do', () => {
    const heap = new Heap();
    assert.throws(
      () => heap.allocate(5 * 2 ** 30),
      (error) =>
        error instanceof AppError &&
        error.code === 'engine-out-of-memory' &&
        /5\.00 GiB/.test(error.message) &&
        /smaller batch/.test(error.action),
    );
    heap.allocate(1000);
  });

  it('the arena keeps survivors intact over several segments', () => {
    const heap = new Heap();
    const arena = new Arena(heap);
    const mark = arena.mark();
    const size = 3 * 2 ** 20;
    const addresses = Array.from({ length: 12 }, (_, i) => {
      const address = arena.allocate(size);
      heap.u8.fill(i, address, address + size);
      return address;
    });
    const kept = [11, 2, 7, 5];
    const moved = arena.compact(
      mark,
      kept.map((i) => ({ address: addresses[i]!, bytes: size })),
    );
    kept.forEach((i, at) =>
      assert.ok(
        heap.u8.subarray(moved[at]!, moved[at]! + size).every((byte) => byte === i),
        `block ${i}`,
      ),
    );
    assert.ok(arena.used < 5 * size);
    arena.dispose();
    assert.equal(heap.used, 0);
  });
});
