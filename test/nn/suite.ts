/**
 * Tests that any executor of ops.ts must pass: each operation against plain float64 loops, each gradient against central
 * differences of those loops, the golden numbers of the specification, updates, scopes and memory.
 */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { Random } from './draw.ts';
import type { Executor, ParameterSet, TargetKind, Tensor } from '../../core/nn/index.ts';
import * as plain from './plain.ts';
import { cases, type Case } from './cases.ts';
import { targetsOf, wholeTargets } from './targets.ts';

export type ExecutorFactory = () => Promise<Executor>;

export interface SuiteOptions {
  /** Largest allowed error relative to the largest magnitude of the array compared. Default: float32's. */
  readonly tolerance?: number;
  /** What an operation is given in place of an input, e.g. the same values rounded; on the tape. */
  readonly given?: (input: Tensor, name: string) => Tensor;
}

/** |a - b| <= tolerance * max|b| + tolerance * |b| for each element. */
export function assertClose(actual: ArrayLike<number>, expected: ArrayLike<number>, tolerance: number, what: string): void {
  assert.equal(actual.length, expected.length, `${what}: number of values`);
  const largest = Array.from(expected).reduce((most, v) => Math.max(most, Math.abs(v)), 0);
  for (let i = 0; i < expected.length; ++i) {
    const allowed = tolerance * (largest + Math.abs(expected[i]!)) + 1e-30;
    const error = Math.abs(actual[i]! - expected[i]!);
    assert.ok(error <= allowed, `${what}[${i}]: ${actual[i]} instead of ${expected[i]} (off by ${error}, allowed ${allowed})`);
  }
}

/** Rows of a result as the tail sees them; enough directions that every element of the result matters. */
const tailPrototypes = 5;

/**
 * Any result becomes a scalar through prototypeLoss on its rows, with random prototypes and targets: each operation is
 * differentiated under uneven, dense gradients.
 */
class Tail {
  readonly v: Float32Array;
  readonly g: Float32Array;
  readonly targets: Float32Array;
  readonly rowWeights: Float32Array;
  readonly targetRows: Int32Array;
  readonly rows: number;
  readonly n: number;

  constructor(shape: readonly number[], random: Random) {
    this.n = shape.at(-1)!;
    this.rows = plain.count(shape) / this.n;
    this.v = random.normals(tailPrototypes * this.n);
    this.g = random.normals(tailPrototypes);
    this.rowWeights = random.normals(this.rows);
    this.targetRows = Int32Array.from({ length: this.rows }, (_, r) => r % 3);
    this.targets = new Float32Array(3 * tailPrototypes);
    for (let q = 0; q < 3; ++q) this.targets.set(plain.softmax(random.normals(tailPrototypes)), q * tailPrototypes);
  }

  run(executor: Executor, result: Tensor): Tensor {
    return executor.prototypeLoss({
      rows: executor.gatherRows(
        result,
        Int32Array.from({ length: this.rows }, (_, r) => r),
      ),
      weightV: executor.tensor(this.v, [tailPrototypes, this.n]),
      weightG: executor.tensor(this.g, [tailPrototypes, 1]),
      targets: executor.tensor(this.targets, [3, tailPrototypes]),
      targetRows: this.targetRows,
      rowWeights: this.rowWeights,
      temperature: 1,
    });
  }

  plain(result: plain.Value): number {
    const rows = plain.value([this.rows, this.n], result.data);
    const v = plain.value([tailPrototypes, this.n], this.v);
    const g = plain.value([tailPrototypes, 1], this.g);
    const targets = plain.value([3, tailPrototypes], this.targets);
    const { targetRows, rowWeights } = this;
    return plain.prototypeLoss(rows, v, g, { targets, targetRows, rowWeights, temperature: 1 }).data[0]!;
  }
}

/** Central difference of `loss` by one element. */
function slope(data: Float64Array, i: number, loss: () => number): number {
  const h = 1e-5 * Math.max(1, Math.abs(data[i]!));
  const kept = data[i]!;
  data[i] = kept + h;
  const above = loss();
  data[i] = kept - h;
  const below = loss();
  data[i] = kept;
  return (above - below) / (2 * h);
}

/** A case with drawn inputs and what the plain loops make of them. */
interface Wanted {
  readonly inputs: readonly { readonly name: string; readonly shape: readonly number[]; readonly values: Float32Array }[];
  readonly result: plain.Value;
  /** Absent where the result is a scalar itself. */
  readonly tail: Tail | null;
  readonly loss: number;
  /** By input: elements, and the slopes of the loss by them. */
  readonly gradients: ReadonlyMap<string, { readonly places: readonly number[]; readonly slopes: readonly number[] }>;
}

/** The same for every executor, and dearer than what most of them do: kept. */
const known = new Map<Case, Wanted>();

function wantedOf(test: Case): Wanted {
  const before = known.get(test);
  if (before) return before;
  const random = new Random(test.name.length * 7919 + 17);
  const inputs = Object.entries(test.inputs).map(([name, shape]) => ({ name, shape, values: random.normals(plain.count(shape)) }));
  if (test.adjust) for (const { name, values } of inputs) test.adjust(name, values);
  const reference = Object.fromEntries(inputs.map(({ name, shape, values }) => [name, plain.value(shape, values)]));
  const result = test.plain(reference);
  const tail = result.shape.length > 0 ? new Tail(result.shape, random) : null;
  const loss = (): number => {
    const value = test.plain(reference);
    return tail ? tail.plain(value) : value.data[0]!;
  };
  const gradients = new Map(
    inputs.map(({ name, values: { length } }) => {
      // All elements of small inputs, a spread of large ones.
      const step = Math.max(1, Math.floor(length / test.samples));
      const places = Array.from({ length: Math.ceil(length / step) }, (_, i) => i * step);
      return [name, { places, slopes: places.map((i) => slope(reference[name]!.data, i, loss)) }];
    }),
  );
  const wanted = { inputs, result, tail, loss: loss(), gradients };
  known.set(test, wanted);
  return wanted;
}

async function checkCase(executor: Executor, test: Case, tolerance: number, given: (input: Tensor, name: string) => Tensor): Promise<void> {
  const { inputs, result: expected, tail, loss: expectedLoss, gradients: slopes } = wantedOf(test);
  const set = executor.createParameters(inputs);
  await executor.scope(async () => {
    let result: Tensor | null = null;
    executor.zeroGradients(set);
    const { loss } = executor.gradients(set, () => {
      result = test.run(executor, (name) => given(set.get(name), name));
      return tail ? tail.run(executor, result) : result;
    });
    assert.deepEqual([...result!.shape], [...expected.shape], 'shape of the result');
    assertClose(await executor.read(result!), expected.data, tolerance, 'result');
    assertClose(await executor.read(loss), [expectedLoss], tolerance * 4, 'loss');
    const gradients = await executor.readGradients(set);
    for (const { name, offset } of set.specs) {
      const { places, slopes: wanted } = slopes.get(name)!;
      const got = places.map((i) => gradients[offset + i]!);
      assertClose(got, wanted, tolerance * 4, `gradient by ${name}`);
    }
    // Without a tape the result is the same.
    const again = test.run(executor, (name) => given(set.get(name), name));
    assertClose(await executor.read(again), expected.data, tolerance, 'result outside gradients');
  });
  set.dispose();
}

export function operationSuite(title: string, factory: ExecutorFactory, options: SuiteOptions = {}): void {
  const { tolerance = 2e-6, given = (input) => input } = options;
  describe(title, () => {
    let executor: Executor;
    before(async () => {
      executor = await factory();
    });
    after(() => executor.dispose());

    describe('operations and gradients', () => {
      for (const test of cases) it(test.name, () => checkCase(executor, test, tolerance, given));
    });
    describe('targets', () => targetTests(() => executor, tolerance));
    describe('goldens', () => goldenTests(() => executor, tolerance));
    describe('updates', () => updateTests(() => executor, tolerance));
    describe('gradients', () => gradientTests(() => executor, tolerance));
    describe('scopes and errors', () => scopeTests(() => executor));
  });
}

function readTargets(e: Executor, logits: Float32Array, shape: readonly [number, number], how: TargetKind): Promise<Float32Array> {
  return e.scope(() => e.read(wholeTargets(e, targetsOf(e, logits, shape, how))));
}

function targetTests(executor: () => Executor, tolerance: number): void {
  const random = new Random(3);
  for (const [n, K] of [
    [1, 5],
    [7, 9],
    [33, 260],
    [150, 1024],
  ] as const) {
    const rows = plain.l2Normalize(plain.value([n, 11], random.normals(n * 11)), 1e-12);
    const v = random.normals(K * 11);
    const g = random.normals(K);
    const center = random.normals(K);
    const logits = plain.prototypeLogits(rows, plain.value([K, 11], v), plain.value([K, 1], g));
    const softmax = Array.from({ length: n }, (_, r) =>
      plain.softmax(Array.from(logits.data.subarray(r * K, (r + 1) * K), (value, k) => (value - center[k]!) / 0.5)),
    );
    const sinkhorn = plain.sinkhornKnopp(logits, 0.06, 3).data;

    it(`targets of ${n} x ${K}, of both kinds, and some of their rows`, async () => {
      await executor().scope(async () => {
        const e = executor();
        const from = [e.tensor(Float32Array.from(rows.data), [n, 11]), e.tensor(v, [K, 11]), e.tensor(g, [K, 1])] as const;
        const balanced = e.prototypeTargets(...from, { kind: 'sinkhorn', temperature: 0.06, iterations: 3 });
        assert.deepEqual([balanced.rows, balanced.prototypes], [n, K]);
        assertClose(await e.read(wholeTargets(e, balanced)), sinkhorn, 40 * tolerance, 'Sinkhorn-Knopp');
        const centered = e.prototypeTargets(...from, { kind: 'softmax', temperature: 0.5, center: e.tensor(center, [K]) });
        assertClose(await e.read(wholeTargets(e, centered)), softmax.flat(), 8 * tolerance, 'softmax');
        const plainly = e.prototypeTargets(...from, { kind: 'softmax', temperature: 0.5, center: null });
        const some = await e.read(e.gatherTargets(plainly, Int32Array.of(n - 1, 0, n - 1)));
        const [last, first] = [n - 1, 0].map((r) => plain.softmax(Array.from(logits.data.subarray(r * K, (r + 1) * K), (l) => l / 0.5)));
        assertClose(some, [last!, first!, last!].flat(), 8 * tolerance, 'rows of softmax without a center');
        assert.throws(() => e.gatherTargets(plainly, Int32Array.of(n)), /gatherTargets/);
      });
    });
    it(`prototypeLogits of ${n} x ${K}, and their mean as those of the mean row`, async () => {
      await executor().scope(async () => {
        const e = executor();
        const x = e.tensor(Float32Array.from(rows.data), [n, 11]);
        const prototypes = [e.tensor(v, [K, 11]), e.tensor(g, [K, 1])] as const;
        assertClose(await e.read(e.prototypeLogits(x, ...prototypes)), logits.data, tolerance, 'logits');
        const means = Array.from({ length: K }, (_, k) => {
          let sum = 0;
          for (let r = 0; r < n; ++r) sum += logits.data[r * K + k]!;
          return sum / n;
        });
        const mean = e.meanRows(x);
        assert.deepEqual([...mean.shape], [1, 11]);
        assertClose(await e.read(e.prototypeLogits(mean, ...prototypes)), means, 4 * tolerance, 'means');
      });
    });
  }
  it('Sinkhorn-Knopp stays finite where a prototype is far from every sample', async () => {
    const logits = Float32Array.from([9, -9, 8, 9, -9, 9]);
    const got = await readTargets(executor(), logits, [2, 3], { kind: 'sinkhorn', temperature: 0.04, iterations: 3 });
    for (const row of [got.subarray(0, 3), got.subarray(3)]) assertClose([row[0]! + row[1]! + row[2]!], [1], 1e-5, 'sum of a row');
  });
}

function goldenTests(executor: () => Executor, tolerance: number): void {
  it('position tables: rows of 16 to 7 and 37 to 16 with offset 0.1 (PyTorch)', async () => {
    const goldens = [
      { from: 16, to: 7, row: 0, weights: { 0: 0.358413, 1: 0.751552, 2: -0.109964 } },
      { from: 16, to: 7, row: 3, weights: { 6: -0.109043, 7: 0.735088, 8: 0.44289, 9: -0.068935 } },
      { from: 37, to: 16, row: 0, weights: { 0: 0.333954, 1: 0.776929, 2: -0.110883 } },
      { from: 37, to: 16, row: 8, weights: { 18: -0.023901, 19: 0.997424, 20: 0.027322, 21: -0.000845 } },
    ];
    for (const { from, to, row, weights } of goldens) {
      // A table that is the identity along y and constant along x, whose weights sum to 1.
      const table = new Float32Array((1 + from * from) * from);
      for (let y = 0; y < from; ++y) for (let x = 0; x < from; ++x) table[(1 + y * from + x) * from + y] = 1;
      const resized = await executor().scope(async () => {
        const resize = { gridHeight: to, gridWidth: to, offset: 0.1, antialias: false };
        return executor().read(executor().resizePositions(executor().tensor(table, [1, 1 + from * from, from]), resize));
      });
      const got = resized.subarray((1 + row * to) * from, (2 + row * to) * from);
      for (let i = 0; i < from; ++i) {
        const wanted = (weights as Record<number, number>)[i] ?? 0;
        assert.ok(Math.abs(got[i]! - wanted) < 2e-6, `${from} to ${to}, row ${row}, tap ${i}: ${got[i]} instead of ${wanted}`);
      }
    }
  });
  it('Sinkhorn-Knopp (spec 5.2)', async () => {
    const logits = Float32Array.from([0.1, 0.2, -0.1, 0, 0.3, 0.1, 0.05, -0.2, 0.12, 0.21, -0.05, 0.02]);
    const wanted = [
      0.08267787, 0.40060012, 0.12674939, 0.38997262, 0.54563103, 0.03638804, 0.40949184, 0.00848909, 0.08149696, 0.34231121, 0.19178924,
      0.38440258,
    ];
    const got = await readTargets(executor(), logits, [3, 4], { kind: 'sinkhorn', temperature: 0.07, iterations: 3 });
    assertClose(got, wanted, 4 * tolerance, 'targets');
  });
  it('KoLeo (spec 5.5), and finite for equal rows', async () => {
    await executor().scope(async () => {
      const e = executor();
      const rows = Float32Array.from([1, 0, 0, 0.8, 0.6, 0, 0, 0, 2, 0.1, 0.2, 1.9]);
      assertClose(await e.read(e.koleo(e.tensor(rows, [4, 3]))), [1.3015132548606418], tolerance, 'loss');
      const equal = await e.read(e.koleo(e.tensor(Float32Array.from([1, 2, 3, 1, 2, 3]), [2, 3])));
      assert.ok(equal[0]! > 17 && equal[0]! < 18.5, `two equal rows: ${equal[0]}`);
    });
  });
}

function updateTests(executor: () => Executor, tolerance: number): void {
  /** A parameter set whose gradients are exactly `wanted`: the loss is linear in it through a weighted sum of scalars. */
  const setGradients = (e: Executor, set: ParameterSet, wanted: readonly number[]): void => {
    e.zeroGradients(set);
    e.gradients(set, () =>
      e.weightedSum(
        wanted.map((_, i) => set.get(set.specs[i]!.name)),
        wanted,
      ),
    );
  };
  const scalars = (values: readonly number[]): { name: string; shape: number[]; values: Float32Array }[] =>
    values.map((v, i) => ({ name: `p${i}`, shape: [], values: Float32Array.of(v) }));

  it('AdamW (spec 6): two updates', async () => {
    const e = executor();
    const set = e.createParameters(scalars([1, -2]));
    const state = e.createAdamState(set);
    const options = {
      learningRates: Float32Array.of(1e-3, 1e-3),
      weightDecays: Float32Array.of(0.04, 0.04),
      beta1: 0.9,
      beta2: 0.999,
      epsilon: 1e-8,
    };
    await e.scope(async () => {
      setGradients(e, set, [0.5, -1]);
      e.adamW(set, state, { ...options, updateNumber: 1 });
      assertClose(await e.readParameters(set), [0.99896000002, -1.99892000001], 1e-7, 'after one');
      setGradients(e, set, [0.1, 0.2]);
      e.adamW(set, state, { ...options, updateNumber: 2 });
      assertClose(await e.readParameters(set), [0.9981170006638, -1.9983290171399], 1.5e-7, 'after two');
      const { m, v } = await e.readAdamState(state);
      assertClose(m, [0.9 * 0.05 + 0.01, -0.9 * 0.1 + 0.02], tolerance, 'm');
      assertClose(v, [0.999 * 0.00025 + 1e-5, 0.999 * 0.001 + 4e-5], 20 * tolerance, 'v');
    });
    state.dispose();
    set.dispose();
  });
  it('AdamW: rate 0 leaves a parameter alone while its moments move; states are written and read back', async () => {
    const e = executor();
    const set = e.createParameters(scalars([3, 4]));
    const state = e.createAdamState(set);
    e.writeAdamState(state, Float32Array.of(0.5, 0.25), Float32Array.of(0.125, 0.0625));
    await e.scope(async () => {
      setGradients(e, set, [1, 1]);
      const options = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, updateNumber: 7 };
      e.adamW(set, state, { ...options, learningRates: Float32Array.of(0, 0.1), weightDecays: Float32Array.of(0.5, 0) });
    });
    const m = [0.9 * 0.5 + 0.1, 0.9 * 0.25 + 0.1];
    const v = [0.999 * 0.125 + 0.001, 0.999 * 0.0625 + 0.001];
    const moved = 4 - (0.1 * (m[1]! / (1 - 0.9 ** 7))) / (Math.sqrt(v[1]! / (1 - 0.999 ** 7)) + 1e-8);
    assertClose(await e.readParameters(set), [3, moved], 1e-6, 'parameters');
    assertClose((await e.readAdamState(state)).m, m, tolerance, 'm');
    state.dispose();
    set.dispose();
  });
  it('clipping takes each part alone, reports norms before it, and undoes the loss scale', async () => {
    const e = executor();
    const set = e.createParameters(scalars([0, 0, 0]));
    await e.scope(async () => {
      setGradients(e, set, [6, 8, 2]);
      const norms = await e.read(e.clipGradients(set, Int32Array.of(0, 0, 1), 3, 0.5));
      assertClose(norms, [5, 1], tolerance, 'norms');
      assertClose(await e.readGradients(set), [(3 * 3) / 5, (4 * 3) / 5, 1], tolerance, 'gradients');
      setGradients(e, set, [6, 8, 2]);
      assertClose(await e.read(e.clipGradients(set, Int32Array.of(0, 0, 1), 0)), [10, 2], tolerance, 'norms, not clipped');
      assertClose(await e.readGradients(set), [6, 8, 2], tolerance, 'gradients, not clipped');
    });
    set.dispose();
  });
  it('gradients that overflowed are gone with zeroGradients, and what they guarded did not move', async () => {
    const e = executor();
    const set = e.createParameters([...scalars([1, 2]), { name: 'w', shape: [3], values: Float32Array.of(1, 2, 3) }]);
    const state = e.createAdamState(set);
    const rates = { learningRates: new Float32Array(3).fill(0.1), weightDecays: new Float32Array(3).fill(0.1) };
    const parts = Int32Array.of(0, 1, 1);
    const teacher = e.createParameters([...scalars([4, 5]), { name: 'w', shape: [3], values: new Float32Array(3) }]);
    for (const overflow of [NaN, Infinity]) {
      await e.scope(async () => {
        setGradients(e, set, [overflow, 2]);
        const guard = e.clipGradients(set, parts, 3);
        assert.ok(!Number.isFinite((await e.read(guard))[0]));
        e.adamW(set, state, { ...rates, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, updateNumber: 1, guard });
        e.emaUpdate(teacher, set, 0.5, guard);
        assert.deepEqual([...(await e.readParameters(set)), ...(await e.readParameters(teacher))], [1, 2, 1, 2, 3, 4, 5, 0, 0, 0]);
        setGradients(e, set, [6, 2]);
        assertClose(await e.read(e.clipGradients(set, parts, 3)), [6, 2], tolerance, 'norms');
        assertClose(await e.readGradients(set), [3, 2, 0, 0, 0], tolerance, 'gradients');
      });
    }
    teacher.dispose();
    state.dispose();
    set.dispose();
  });
  it('clipping and moving average of long parameters', async () => {
    const e = executor();
    const random = new Random(8);
    const shape = [203, 331];
    const a = random.normals(203 * 331);
    const b = random.normals(203 * 331);
    const student = e.createParameters([{ name: 'w', shape, values: a }]);
    const teacher = e.createParameters([{ name: 'w', shape, values: b }]);
    e.emaUpdate(teacher, student, 0.99);
    assertClose(
      await e.readParameters(teacher),
      a.map((v, i) => 0.01 * v + 0.99 * b[i]!),
      tolerance,
      'teacher',
    );
    e.writeParameters(teacher, b);
    e.emaUpdate(teacher, student, 1);
    assert.deepEqual(await e.readParameters(teacher), b);
    // What stands still in the student stands still in the teacher: equal values must not drift by rounding.
    e.writeParameters(student, b);
    for (const momentum of [0.9, 0.98, 0.99, 0.992, 0.9961, 0.999]) e.emaUpdate(teacher, student, momentum);
    assert.deepEqual(await e.readParameters(teacher), b);
    student.dispose();
    teacher.dispose();
  });
}

function gradientTests(executor: () => Executor, tolerance: number): void {
  const random = new Random(21);
  const w = random.normals(4 * 6);
  const x = random.normals(5 * 6);
  const run = (e: Executor, set: ParameterSet, factor: number): Tensor =>
    e.weightedSum([e.koleo(e.linear(e.tensor(x, [5, 6]), set.get('w'), null))], [factor]);

  it('of frozen parameters stay 0, and those of the others are as if nothing were frozen', async () => {
    const e = executor();
    const { qkv, bias, norm, gamma, other } = { qkv: [24, 8], bias: [24], norm: [8], gamma: [8], other: [8, 8] };
    const shapes = Object.entries({ qkv, bias, norm, gamma, other });
    const values = shapes.map(([, shape]) => random.normals(shape.reduce((a, b) => a * b, 1)));
    const input = random.normals(2 * 3 * 8);
    const gradientsOf = async (frozen: readonly string[]): Promise<Map<string, Float32Array>> => {
      const set = e.createParameters(
        shapes.map(([name, shape], i) => ({ name, shape, values: values[i]!, frozen: frozen.includes(name) })),
      );
      await e.scope(() => {
        e.zeroGradients(set);
        e.gradients(set, () => {
          const first = e.linear(e.tensor(input, [2, 3, 8]), set.get('other'), null, 'gelu');
          const normal = e.layerNorm(first, set.get('norm'), set.get('gamma'), 1e-6);
          const seen = e.attention(e.linear(normal, set.get('qkv'), set.get('bias')), 2);
          return e.weightedSum([e.koleo(e.gatherRows(e.addResidual(first, seen, set.get('gamma')), Int32Array.of(0, 2, 5)))], [1]);
        });
      });
      const gradients = await e.readGradients(set);
      const named = new Map(set.specs.map(({ name, offset, size }) => [name, gradients.slice(offset, offset + size)]));
      set.dispose();
      return named;
    };
    const all = await gradientsOf([]);
    for (const frozen of [['qkv'], ['norm', 'gamma'], ['other'], ['qkv', 'bias', 'norm', 'gamma'], ['other', 'norm', 'gamma', 'bias']]) {
      for (const [name, gradient] of await gradientsOf(frozen)) {
        if (frozen.includes(name))
          assert.ok(
            gradient.every((value) => value === 0),
            `${name} of ${frozen.join()}`,
          );
        else assertClose(gradient, all.get(name)!, tolerance, `${name} beside frozen ${frozen.join()}`);
      }
    }
  });
  it('add up over calls until zeroed, scale with lossScale, and are zero where the loss does not reach', async () => {
    const e = executor();
    const specs = [
      { name: 'w', shape: [4, 6], values: w },
      { name: 'idle', shape: [3], values: Float32Array.of(1, 2, 3) },
    ];
    const set = e.createParameters(specs);
    await e.scope(async () => {
      e.zeroGradients(set);
      e.gradients(set, () => run(e, set, 1));
      const once = await e.readGradients(set);
      assert.ok(once.subarray(0, 24).some((v) => v !== 0));
      assert.deepEqual([...once.subarray(24)], [0, 0, 0]);
      const { loss } = e.gradients(set, () => run(e, set, 2), 8);
      assertClose(
        await e.readGradients(set),
        once.map((v) => v * 17),
        2 * tolerance,
        'sum of two calls',
      );
      assertClose(await e.read(loss), await e.read(run(e, set, 2)), tolerance, 'the loss itself is not scaled');
      e.zeroGradients(set);
      assert.ok((await e.readGradients(set)).every((v) => v === 0));
    });
    set.dispose();
  });
  it('do not reach parameters of another set', async () => {
    const e = executor();
    const student = e.createParameters([{ name: 'w', shape: [4, 6], values: w }]);
    const teacher = e.createParameters([{ name: 'w', shape: [4, 6], values: w }]);
    await e.scope(async () => {
      e.zeroGradients(student);
      e.zeroGradients(teacher);
      e.gradients(student, () => e.weightedSum([run(e, student, 1), run(e, teacher, 1)], [1, 1]));
      assert.ok((await e.readGradients(teacher)).every((v) => v === 0));
      assert.ok((await e.readGradients(student)).some((v) => v !== 0));
    });
    student.dispose();
    teacher.dispose();
  });
  it('of blocks that are computed again are the same to the bit, and less is held', async () => {
    const e = executor();
    const shapes = { x: [3, 5, 16], norm: [16], up: [16, 16], down: [16, 16], bias: [16], gamma: [16] };
    const values = Object.entries(shapes).map(([name, shape]) => ({
      name,
      shape,
      values: random.normals(shape.reduce((a, b) => a * b, 1)),
    }));
    const subset = [{ samples: 3, tokens: 5, rows: Int32Array.of(2, 0), scale: 1.5 }];
    const run = async (frozen: readonly string[], wrap: Executor['recompute']): Promise<{ found: Float32Array[]; held: number }> => {
      const set = e.createParameters(values.map((spec) => ({ ...spec, frozen: frozen.includes(spec.name) })));
      const p = (name: keyof typeof shapes): Tensor => set.get(name);
      const block = (input: Tensor): Tensor => {
        const hidden = e.linear(e.layerNorm(input, p('norm'), p('bias'), 1e-6), p('up'), p('bias'), 'gelu');
        const y = e.linearResidual(input, hidden, p('down'), p('bias'), p('gamma'));
        const z = e.linearResidual(y, e.gatherSamples(y, subset), p('down'), p('norm'), p('gamma'), subset);
        return e.addResidual(z, e.linear(e.gatherSamples(z, subset), p('up'), null), p('gamma'), subset);
      };
      let held = 0;
      const found = await e.scope(async () => {
        e.zeroGradients(set);
        const forward = (): Tensor => {
          const before = e.memoryBytes();
          let y = p('x');
          for (let i = 0; i < 3; i++) {
            const input = y;
            y = wrap([input], () => block(input));
          }
          held = e.memoryBytes() - before;
          return e.koleo(e.gatherRows(y, Int32Array.of(0, 4, 7, 11, 14)));
        };
        const { loss } = e.gradients(set, forward, 4);
        e.gradients(set, forward);
        return [await e.read(loss), await e.readGradients(set)];
      });
      set.dispose();
      return { found, held };
    };
    // What goes wrong on the way back is thrown as it is, and the executor goes on.
    let calls = 0;
    const failing: Executor['recompute'] = (inputs, body) =>
      e.recompute(inputs, () => {
        if (++calls > 3) throw new Error('the second time');
        return body();
      });
    if (e.name !== 'tensorflow') {
      await assert.rejects(run([], failing), /the second time/);
      const unsaid = run([], (_, body) => e.recompute([], body));
      await assert.rejects(unsaid, /recompute: .* not among its inputs/);
    }
    for (const frozen of [[], ['x'], ['up', 'norm'], ['bias', 'gamma', 'down']]) {
      const kept = await run(frozen, (_, body) => body());
      const again = await run(frozen, (inputs, body) => e.recompute(inputs, body));
      assert.deepEqual(again.found, kept.found, `frozen: ${frozen.join()}`);
      if (e.name !== 'tensorflow') assert.ok(again.held < kept.held / 2, `${again.held} bytes held, ${kept.held} with everything kept`);
    }
  });
  it('flow through a value used twice and through a residual chain', async () => {
    const e = executor();
    const gamma = random.normals(6);
    const weight = random.normals(36);
    const start = random.normals(2 * 3 * 6);
    const set = e.createParameters([
      { name: 'x', shape: [2, 3, 6], values: start },
      { name: 'w', shape: [6, 6], values: weight },
      { name: 'gamma', shape: [6], values: gamma },
    ]);
    const p = { x: plain.value([2, 3, 6], start), w: plain.value([6, 6], weight), gamma: plain.value([6], gamma) };
    const subset = [{ samples: 2, tokens: 3, rows: Int32Array.of(1), scale: 2 }];
    const plainLoss = (): number => {
      let y = p.x;
      for (let block = 0; block < 2; ++block) {
        y = plain.addResidual(y, plain.linear(y, p.w, null, 'gelu'), p.gamma);
        y = plain.addResidual(y, plain.linear(plain.gatherSamples(y, subset), p.w, null), p.gamma, subset);
      }
      return plain.koleo(plain.value([6, 6], y.data)).data[0]!;
    };
    await e.scope(async () => {
      e.zeroGradients(set);
      const { loss } = e.gradients(set, () => {
        let y = set.get('x');
        for (let block = 0; block < 2; ++block) {
          y = e.addResidual(y, e.linear(y, set.get('w'), null, 'gelu'), set.get('gamma'));
          y = e.addResidual(y, e.linear(e.gatherSamples(y, subset), set.get('w'), null), set.get('gamma'), subset);
        }
        return e.koleo(e.gatherRows(y, Int32Array.of(0, 1, 2, 3, 4, 5)));
      });
      assertClose(await e.read(loss), [plainLoss()], 4 * tolerance, 'loss');
      const got = await e.readGradients(set);
      const wanted = [p.x, p.w, p.gamma].flatMap(({ data }) => Array.from(data, (_, i) => slope(data, i, plainLoss)));
      assertClose(got, wanted, 10 * tolerance, 'gradients');
    });
    set.dispose();
  });
}

function scopeTests(executor: () => Executor): void {
  it('frees what a scope made and keeps what it returns', async () => {
    const e = executor();
    await e.scope(async () => {
      const held = e.memoryBytes();
      const values = new Random(5).normals(3000);
      const kept = await e.scope(() => {
        e.tensor(new Float32Array(50_000), [50_000]);
        const inner = e.tensor(values, [3000]);
        e.tensor(new Float32Array(70_000), [70_000]);
        return inner;
      });
      assert.deepEqual(await e.read(kept), values);
      e.tensor(new Float32Array(60_000), [60_000]);
      assert.deepEqual(await e.read(kept), values);
      assert.ok(e.memoryBytes() < held + 4 * 64_000 + 4096, `${e.memoryBytes() - held} bytes more`);
    });
  });
  it('frees what a body that does not wait made and keeps what it returns', async () => {
    const e = executor();
    await e.scope(async () => {
      const held = e.memoryBytes();
      const values = new Random(6).normals(3000);
      const [kept] = e.within(() => {
        e.tensor(new Float32Array(50_000), [50_000]);
        const inner = e.within(() => e.tensor(values, [3000]));
        e.tensor(new Float32Array(70_000), [70_000]);
        return [inner];
      });
      e.tensor(new Float32Array(60_000), [60_000]);
      assert.deepEqual(await e.read(kept!), values);
      assert.ok(e.memoryBytes() < held + 4 * 64_000 + 4096, `${e.memoryBytes() - held} bytes more`);
      assert.throws(() =>
        e.within(() => {
          throw new Error('the model failed');
        }),
      );
    });
  });
  it('refuses tensors of an ended scope and of another executor', async () => {
    const e = executor();
    const x = await e.scope(() => ({ inside: e.tensor(Float32Array.of(1, 2), [1, 2]), nothing: null }));
    assert.deepEqual([...(await e.read(x.inside))], [1, 2]);
    let lost: Tensor | null = null;
    await e.scope(() => {
      lost = e.tensor(Float32Array.of(1), [1]);
    });
    await assert.rejects(e.read(lost!), /freed when its scope ended/);
    assert.throws(() => e.l2Normalize({ shape: [1] }, 1), /l2Normalize.*not one of this executor/);
  });
  it('holds the same memory after each of many steps', async () => {
    const e = executor();
    const random = new Random(9);
    const set = e.createParameters([{ name: 'w', shape: [64, 64], values: random.normals(4096) }]);
    const sizes: number[] = [];
    for (let step = 0; step < 4; ++step) {
      await e.scope(() => {
        const x = e.tensor(random.normals(64 * 300), [300, 64]);
        e.zeroGradients(set);
        e.gradients(set, () => e.koleo(e.linear(e.linear(x, set.get('w'), null, 'gelu'), set.get('w'), null)));
      });
      sizes.push(e.memoryBytes());
    }
    assert.deepEqual(
      sizes,
      sizes.map(() => sizes[0]),
    );
    const before = e.memoryBytes();
    set.dispose();
    assert.ok(e.memoryBytes() < before, 'disposed parameters are given back');
  });
  it('says which operation got which shapes', async () => {
    const e = executor();
    await e.scope(() => {
      const x = e.tensor(new Float32Array(6), [2, 3]);
      const w = e.tensor(new Float32Array(8), [2, 4]);
      assert.throws(() => e.linear(x, w, null), /linear.*\[2,3\].*\[2,4\]/);
      assert.throws(() => e.tensor(new Float32Array(5), [2, 3]), /5/);
    });
    const set = e.createParameters([{ name: 'known', shape: [1], values: Float32Array.of(1) }]);
    assert.throws(() => set.get('unknown'), /unknown/);
    assert.equal(set.has('known'), true);
    assert.equal(set.has('unknown'), false);
    set.dispose();
  });
}
