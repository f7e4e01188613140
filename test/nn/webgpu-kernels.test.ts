/** What the suite does not reach of the GPU kernels: more workgroups than one dimension takes, strides, adding to what is there. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { rowGroups, sumRows } from '../../core/nn/webgpu/kernels/columns.ts';
import { copyRows, fill, scale, swiglu } from '../../core/nn/webgpu/kernels/elementwise.ts';
import { padHeads, unpadHeads } from '../../core/nn/webgpu/kernels/heads.ts';
import { kernel, logarithm, type Operand, type Target } from '../../core/nn/webgpu/kernels/kernel.ts';
import { crossEntropy, crossEntropySum, prototypeScales } from '../../core/nn/webgpu/kernels/loss.ts';
import { l2Normalize, layerNorm, layerNormBackward } from '../../core/nn/webgpu/kernels/normalize.ts';
import { centeredSoftmax, sinkhornKnopp } from '../../core/nn/webgpu/kernels/targets.ts';
import { gather, scatter } from '../../core/nn/webgpu/kernels/tokens.ts';
import { adamW, blockSize, clipGradients, clipScratch, movingAverage } from '../../core/nn/webgpu/kernels/update.ts';
import type { Capabilities } from '../../core/nn/webgpu/program.ts';
import { Runtime } from '../../core/nn/webgpu/runtime.ts';
import { Random } from './draw.ts';
import * as plain from './plain.ts';
import { assertClose } from './suite.ts';
import { noAdapter } from './webgpu-device.ts';

describe('GPU kernels', { skip: noAdapter }, () => {
  let runtime: Runtime;
  /** A device that takes seven workgroups in a dimension: work of all sizes is spread over two. */
  let narrow: Capabilities;
  before(async () => {
    runtime = await Runtime.open();
    narrow = { ...runtime.capabilities, workgroupsPerDimension: 7 };
  });
  after(() => runtime.dispose());

  const put = (values: ArrayLike<number>): Target => {
    const region = runtime.take(values.length * 4);
    runtime.write(region, Float32Array.from(values));
    return { region, element: 'f32', accumulate: false };
  };
  const adding = (target: Target): Target => ({ ...target, accumulate: true });
  const list = (values: readonly number[]) => runtime.upload(Uint32Array.from(values));
  const get = async ({ region }: Operand, count: number): Promise<Float32Array> => new Float32Array(await runtime.read(region, count * 4));

  it('large arrays arrive whole through buffers that are used in turns', async () => {
    // As on a GPU with memory of its own; the device stays that of the others.
    const staged = new Runtime({ ...runtime.device, software: false });
    for (let round = 0; round < 3; round++) {
      const arrays = [300_001, 9_000_000, 2 ** 24, 2 ** 24 + 4, 7].map((length, i) => new Uint8Array(length).fill(1 + i + 10 * round));
      const regions = arrays.map((array) => staged.take(array.length));
      arrays.forEach((array, i) => staged.write(regions[i]!, array));
      // What is written later must not overtake what waits.
      staged.write(regions[0]!, arrays[0]!.fill(200, 0, 100));
      const found = await Promise.all(regions.map((region, i) => staged.read(region, arrays[i]!.length)));
      found.forEach((bytes, i) => assert.equal(Buffer.compare(Buffer.from(bytes), arrays[i]!), 0, `${arrays[i]!.length} bytes, ${round}`));
      for (const region of regions) staged.give(region);
    }
  });

  it('element by element over two dimensions of workgroups', async () => {
    const random = new Random(1);
    const count = 256 * 7 * 3 + 91;
    const x = random.normals(count);
    const [a, y] = [put(x), put(new Float32Array(count).fill(3))];
    runtime.run([...scale(narrow, a, adding(y), -2, count)]);
    assertClose(
      await get(y, count),
      x.map((v) => 3 - 2 * v),
      1e-6,
      'scale',
    );
    runtime.run(fill(narrow, y, 0.5, count - 1));
    const filled = await get(y, count);
    assert.ok(filled.subarray(0, count - 1).every((v) => v === 0.5) && filled[count - 1] === Math.fround(3 - 2 * x[count - 1]!));
    const half = (count - 1) / 2;
    const out = put(new Float32Array(half));
    runtime.run(swiglu(narrow, a, out, 1, half));
    assertClose(await get(out, half), plain.swiglu(plain.value([1, 2 * half], x.subarray(0, 2 * half))).data, 2e-6, 'swiglu');
  });

  it('copies and sums of rows between layouts, stored and added', async () => {
    const x = new Random(2).normals(40 * 50);
    const y = put(new Float32Array(30 * 60).fill(1));
    runtime.run(copyRows(narrow, put(x), adding(y), { rows: 29, n: 13, startX: 7, strideX: 50, startY: 5, strideY: 60 }));
    const copied = new Float32Array(30 * 60).fill(1);
    for (let r = 0; r < 29; ++r) for (let i = 0; i < 13; ++i) copied[5 + r * 60 + i]! += x[7 + r * 50 + i]!;
    assertClose(await get(y, copied.length), copied, 1e-7, 'copy');

    const sums = put(new Float32Array(200).fill(2));
    const long = new Random(3).normals(1000 * 150);
    runtime.run(sumRows(narrow, put(long), adding(sums), { rows: 999, n: 141, startX: 9, strideX: 150, startY: 3, factor: 0.5 }));
    const expected = new Float64Array(200).fill(2);
    for (let r = 0; r < 999; ++r) for (let i = 0; i < 141; ++i) expected[3 + i]! += 0.5 * long[9 + r * 150 + i]!;
    assertClose(await get(sums, 200), expected, 2e-6, 'sums');
  });

  it('groups of rows cover every row once, whatever their number', () => {
    for (const rows of [1, 31, 32, 33, 16_383, 16_384, 16_385, 1_000_003]) {
      const { per, groups } = rowGroups(rows);
      assert.ok(per * groups >= rows && per * (groups - 1) < rows && groups <= 512, `${rows} rows: ${groups} of ${per}`);
    }
  });

  it('row by row over two dimensions of workgroups, for each width of a workgroup', async () => {
    for (const n of [5, 100, 300, 1100]) {
      const random = new Random(n);
      const rows = 23;
      const [x, w, b] = [random.normals(rows * n), random.normals(n), random.normals(n)];
      const [y, stats, inverses] = [put(new Float32Array(rows * n)), put(new Float32Array(rows * 2)), put(new Float32Array(rows))];
      const [a, weight, bias] = [put(x), put(w), put(b)];
      runtime.run(layerNorm(narrow, { x: a, weight, bias, y, stats }, rows, n, 1e-6));
      const value = plain.value([rows, n], x);
      assertClose(
        await get(y, rows * n),
        plain.layerNorm(value, plain.value([n], w), plain.value([n], b), 1e-6).data,
        2e-6,
        `layerNorm ${n}`,
      );
      // dx is orthogonal to ones and to xhat when the weight is 1: the two directions that LayerNorm removes.
      const [ones, dx] = [put(new Float32Array(n).fill(1)), put(new Float32Array(rows * n).fill(1))];
      runtime.run(layerNormBackward(narrow, { x: a, dy: put(random.normals(rows * n)), stats, weight: ones, dx: adding(dx) }, rows, n));
      const slopes = (await get(dx, rows * n)).map((v) => v - 1);
      const hat = plain.layerNorm(value, plain.value([n], new Float32Array(n).fill(1)), plain.value([n]), 1e-6).data;
      for (let r = 0; r < rows; ++r) {
        const [own, unit] = [slopes.subarray(r * n, (r + 1) * n), hat.subarray(r * n, (r + 1) * n)];
        const size = own.reduce((sum, v) => sum + Math.abs(v), 0);
        assert.ok(
          Math.abs(own.reduce((sum, v) => sum + v, 0)) < 1e-5 * size &&
            Math.abs(own.reduce((sum, v, i) => sum + v * unit[i]!, 0)) < 1e-5 * size,
        );
      }
      runtime.run(l2Normalize(narrow, a, y, inverses, rows, n, 1e-12));
      assertClose(await get(y, rows * n), plain.l2Normalize(value, 1e-12).data, 2e-6, `l2Normalize ${n}`);
    }
  });

  it('losses and targets over two dimensions of workgroups', async () => {
    const random = new Random(5);
    const [R, K, n] = [23, 130, 9];
    const [x, v, g] = [random.normals(R * n), random.normals(K * n), random.normals(K)];
    const targets = [0, 1, 2].flatMap(() => plain.softmax(random.normals(K)));
    const values = [plain.value([R, n], x), plain.value([K, n], v), plain.value([K, 1], g)] as const;
    const logits = plain.prototypeLogits(...values).data;
    const scales = put(new Float32Array(K));
    runtime.run(prototypeScales(narrow, put(v), put(g), scales, K, n, 0.5));
    const lengths = Array.from({ length: K }, (_, k) => g[k]! / (Math.hypot(...v.subarray(k * n, (k + 1) * n)) * 0.5));
    assertClose(await get(scales, K), lengths, 1e-6, 'scales');

    const targetRows = Array.from({ length: R }, (_, r) => r % 3);
    const rowWeights = random.normals(R);
    const [state, loss] = [put(new Float32Array(4 * R)), put([0])];
    const tiles = [
      [0, 64],
      [64, 66],
    ] as const;
    for (const [k0, count] of tiles) {
      const tile = Array.from({ length: R }, (_, r) => [...logits.subarray(r * K + k0, r * K + k0 + count)]).flat();
      runtime.run(
        crossEntropy(
          narrow,
          { logits: put(tile), targets: put(targets), targetRows: list(targetRows), state },
          { rows: R, count, k0, K, m: 1 },
          k0 === 0,
        ),
      );
    }
    runtime.run(crossEntropySum(state, put(rowWeights), loss, R));
    const expected = plain.prototypeLoss(...values, {
      targets: plain.value([3, K], targets),
      targetRows: Int32Array.from(targetRows),
      rowWeights,
      temperature: 1,
    });
    assertClose(await get(loss, 1), expected.data, 4e-6, 'loss');

    const y = put(logits);
    runtime.run(centeredSoftmax(narrow, { center: put(new Float32Array(K)), y }, { rows: R, K, temperature: 0.7 }));
    const soft = Array.from({ length: R }, (_, r) => plain.softmax(logits.subarray(r * K, (r + 1) * K).map((s) => s / 0.7))).flat();
    assertClose(await get(y, R * K), soft, 4e-6, 'centeredSoftmax');
    const scratch = { factors: put(new Float32Array(R)), scales };
    const balanced = put(logits);
    runtime.run(sinkhornKnopp(narrow, { y: balanced, ...scratch }, { rows: R, K, temperature: 0.7, iterations: 3 }));
    assertClose(await get(balanced, R * K), plain.sinkhornKnopp(plain.value([R, K], logits), 0.7, 3).data, 2e-5, 'sinkhornKnopp');
  });

  it('gathers and their inverse over two dimensions of workgroups', async () => {
    const n = 301;
    const x = new Random(6).normals(9 * n);
    const rows = [8, 3, 3, 0, 8, 8, 1];
    const y = put(new Float32Array(7 * n));
    runtime.run(gather(narrow, put(x), list(rows), y, 7, n));
    const picked = await get(y, 7 * n);
    rows.forEach((row, r) => assert.deepEqual(picked.subarray(r * n, (r + 1) * n), x.subarray(row * n, (row + 1) * n)));
    const dx = put(new Float32Array(9 * n).fill(1));
    const lists = { starts: list([0, 1, 2, 2, 4, 4, 4, 4, 4, 7]), sources: list([3, 6, 1, 2, 0, 4, 5]) };
    const counts = [1, 1, 0, 2, 0, 0, 0, 0, 3];
    const expected = (start: number): number[] =>
      counts.flatMap((count, row) => Array.from(x.subarray(row * n, (row + 1) * n), (v) => start + count * v));
    runtime.run(scatter(narrow, { dy: y, ...lists, dx: adding(dx) }, 9, n));
    assertClose(await get(dx, 9 * n), expected(1), 1e-6, 'added');
    runtime.run(scatter(narrow, { dy: y, ...lists, dx }, 9, n));
    assertClose(await get(dx, 9 * n), expected(0), 1e-6, 'stored');
  });

  it('updates of many parameters over two dimensions of workgroups', async () => {
    const sizes = [3, 2000, 64, 1, 900];
    const blocks = sizes.map((size) => Math.ceil(size / blockSize));
    const count = blocks.reduce((sum, b) => sum + b, 0) * blockSize;
    const owner = blocks.flatMap((b, i) => new Array<number>(b * blockSize).fill(i));
    const random = new Random(7);
    const [p, g, m, v] = [random.normals(count), random.normals(count), random.normals(count), random.normals(count).map((s) => s * s)];
    const layout = { count, segments: list(owner.filter((_, i) => i % blockSize === 0)) };
    const parts = [0, 1, 0, 2, 1];
    const scratch = clipScratch(count, 3);
    const gradients = put(g);
    const norms = put([0, 0, 0]);
    const rooms = {
      factors: put([0, 0, 0]),
      squares: put(new Float32Array(scratch.squares)),
      partials: put(new Float32Array(scratch.partials)),
    };
    const lists = { segments: layout.segments, parts: list(parts) };
    const pieces = [{ ...layout, g: gradients }];
    runtime.run(clipGradients(narrow, pieces, { ...lists, norms, ...rooms }, { partCount: 3, factor: 0.25, maxNorm: 5 }));
    const squares = [0, 0, 0];
    g.forEach((value, i) => (squares[parts[owner[i]!]!]! += (value / 4) ** 2));
    const wanted = squares.map(Math.sqrt);
    assertClose(await get(norms, 3), wanted, 1e-6, 'norms');
    const clipped = g.map((value, i) => (value / 4) * Math.min(1, 5 / (wanted[parts[owner[i]!]!]! + 1e-6)));
    assertClose(await get(gradients, count), clipped, 1e-6, 'clipped');

    const [keeps, steps] = [sizes.map((_, i) => 1 - 0.01 * i), sizes.map((_, i) => -0.1 * (i + 1))];
    const numbers = { beta1: 0.9, beta2: 0.99, epsilon: 1e-8, root: 1.5, guards: 0 };
    const arrays = { p: put(p), m: put(m), v: put(v), rates: put(keeps.flatMap((keep, i) => [keep, steps[i]!])) };
    const guarded = (...values: number[]) => ({ half: null, guard: put(values) });
    // A norm that is not finite, wherever it stands, leaves everything as it is.
    for (const guard of [[1, Infinity, 2], [1, 2, NaN], [-Infinity]]) {
      runtime.run(adamW(narrow, layout, { g: gradients, ...arrays, ...guarded(...guard) }, { ...numbers, guards: guard.length }));
      for (const [name, values] of Object.entries({ p, m, v })) assert.deepEqual(await get(arrays[name as 'p'], count), values, name);
    }
    runtime.run(adamW(narrow, layout, { g: gradients, ...arrays, ...guarded(1, 3.4e38) }, { ...numbers, guards: 2 }));
    const [m1, v1] = [m.map((s, i) => 0.9 * s + 0.1 * clipped[i]!), v.map((s, i) => 0.99 * s + 0.01 * clipped[i]! ** 2)];
    assertClose(await get(arrays.m, count), m1, 1e-6, 'm');
    assertClose(await get(arrays.v, count), v1, 1e-6, 'v');
    const moved = p.map((s, i) => s * keeps[owner[i]!]! + (steps[owner[i]!]! * m1[i]!) / (Math.sqrt(v1[i]!) * 1.5 + 1e-8));
    assertClose(await get(arrays.p, count), moved, 2e-6, 'p');
    const teacher = put(p);
    const average = (guard: number): void =>
      runtime.run(movingAverage(narrow, { x: arrays.p, y: teacher, ...guarded(guard) }, count, { momentum: 0.75, guards: 1 }));
    average(NaN);
    assert.deepEqual(await get(teacher, count), p);
    average(0);
    assertClose(
      await get(teacher, count),
      p.map((s, i) => 0.75 * s + 0.25 * moved[i]!),
      1e-6,
      'average',
    );
  });

  it('heads padded and cut again: zeros beside them, queries times the root of the widths', async () => {
    const [heads, d, padded, tokens] = [2, 5, 8, 3];
    const x = new Random(8).normals(tokens * 3 * heads * d);
    const [a, wide, y] = [put(x), put(new Float32Array(tokens * 3 * heads * padded).fill(9)), put(new Float32Array(x.length).fill(1))];
    const shape = { rows: tokens * 3 * heads, heads, d, padded, queries: true };
    const isQuery = (row: number): boolean => Math.floor(row / heads) % 3 === 0;
    runtime.run([...padHeads(narrow, a, wide, shape), ...unpadHeads(narrow, wide, adding(y), shape)]);
    const factor = Math.sqrt(padded / d);
    const expected = Array.from({ length: shape.rows * padded }, (_, i) => {
      const row = Math.floor(i / padded);
      return i % padded < d ? x[row * d + (i % padded)]! * (isQuery(row) ? factor : 1) : 0;
    });
    assertClose(await get(wide, expected.length), expected, 1e-6, 'padded');
    assertClose(
      await get(y, x.length),
      x.map((v, i) => 1 + v * (isQuery(Math.floor(i / d)) ? padded / d : 1)),
      1e-6,
      'cut',
    );
  });

  it('what a kernel reads of workgroup memory before it writes it is no number: tests see that none does', async () => {
    const launch = kernel({
      name: 'unwritten',
      writes: ['y'],
      uniforms: { count: 'u32' },
      width: 64,
      outside: 'var<workgroup> room: array<f32, 100>;\nvar<workgroup> pairs: array<vec2f, 70>;',
      body: '  if (lane < u.count) { y_put(lane, room[36u + lane] + pairs[6u + lane].y); }',
    });
    const y = put(new Float32Array(64));
    runtime.run([launch({ y }, { count: 63 }, [1, 1, 1])]);
    const found = await get(y, 64);
    assert.ok(found.subarray(0, 63).every(Number.isNaN) && found[63] === 0);
  });

  it('the logarithm is that of float64 to 2e-7 of its size, and near 1 to 2e-7', async () => {
    const random = new Random(9);
    const x = Float32Array.from({ length: 2000 }, (_, i) => (i < 1000 ? 0.5 + i / 800 : Math.exp(random.normal() * 20)));
    const launch = kernel({
      name: 'logarithms',
      reads: ['x'],
      writes: ['y'],
      uniforms: { count: 'u32' },
      width: 64,
      outside: logarithm,
      body: '  let i = group * 64u + lane;\n  if (i < u.count) { y_put(i, logarithm(x_at(i))); }',
    });
    const y = put(new Float32Array(x.length + 1));
    runtime.run([launch({ x: put([...x, NaN]), y }, { count: x.length + 1 }, [32, 1, 1])]);
    const got = await get(y, x.length + 1);
    x.forEach((value, i) => {
      const expected = Math.log(value);
      assert.ok(Math.abs(got[i]! - expected) <= 2e-7 * Math.max(1, Math.abs(expected)), `log ${value}: ${got[i]} instead of ${expected}`);
    });
    assert.ok(Number.isNaN(got[x.length]));
  });
});
