/** Matrix products on the GPU against float64 loops: forms, edges, tiles, splits, epilogues, elements. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { noAdapter } from './webgpu-device.ts';
import {
  product,
  productChoices,
  productWorkspace,
  type Epilogue,
  type Form,
  type ProductInputs,
} from '../../core/nn/webgpu/kernels/product.ts';
import type { Capabilities, MatrixShape, Region } from '../../core/nn/webgpu/program.ts';
import { Runtime } from '../../core/nn/webgpu/runtime.ts';
import { Random } from './draw.ts';
import { gelu, erf } from './plain.ts';
import { emulated, emulatedCapabilities } from './webgpu-emulate.ts';
import { Arrays, assertNear, draw, type Stored } from './webgpu-arrays.ts';

/** Rows of floats, some of them apart. */
interface Matrix {
  readonly rows: number;
  readonly columns: number;
  readonly stride: number;
  readonly start: number;
  readonly data: Float64Array;
}

const at = ({ data, stride, start }: Matrix, row: number, column: number): number => data[start + row * stride + column]!;

function matrix(random: Random, element: Stored, rows: number, columns: number, apart = 0, start = 0): Matrix {
  const stride = columns + apart;
  return { rows, columns, stride, start, data: draw(random, element, start + rows * stride) };
}

/** The product in float64, from the definition. */
function plainProduct(form: Form, m: number, n: number, k: number, a: Matrix, b: Matrix): Float64Array {
  const sums = new Float64Array(m * n);
  for (let i = 0; i < m; ++i)
    for (let j = 0; j < n; ++j) {
      let sum = 0;
      for (let s = 0; s < k; ++s) sum += (form === 'tn' ? at(a, s, i) : at(a, i, s)) * (form === 'nt' ? at(b, j, s) : at(b, s, j));
      sums[i * n + j] = sum;
    }
  return sums;
}

type EpilogueName = Epilogue['kind'] | 'bias-gelu slope' | 'times scale';

interface Case {
  readonly form: Form;
  readonly sizes: readonly [m: number, n: number, k: number];
  readonly elements?: { a: Stored; b: Stored; c: Stored };
  readonly accumulate?: boolean;
  readonly epilogue?: EpilogueName;
  /** Elements between rows of a, b, c, and before their first. */
  readonly apart?: number;
  readonly start?: number;
  readonly split?: boolean;
  /** With such matrix units, or f16 without any: on a device that has them, else written out (webgpu-emulate.ts). */
  readonly units?: MatrixUnits | 'none';
  /** Tile to take, by its rows and columns. */
  readonly tile?: string;
}

type MatrixUnits = Pick<MatrixShape, 'M' | 'N' | 'K'>;

let runtime: Runtime;

const withUnits = (caps: Capabilities, units: MatrixUnits | null | undefined): Capabilities => ({
  ...caps,
  matrices: caps.matrices.filter(({ M, N, K }) => units && M === units.M && N === units.N && K === units.K),
});

function hasUnits(caps: Capabilities, units: MatrixUnits | null | undefined): boolean {
  return caps.f16 && (!units || withUnits(caps, units).matrices.some(({ result }) => result === 'f32'));
}

async function check(test: Case): Promise<{ names: string[]; result: Float64Array }> {
  const { form, sizes, elements = { a: 'f32', b: 'f32', c: 'f32' }, accumulate = false, epilogue: kind = 'none' } = test;
  const [m, n, k] = sizes;
  const { apart = 0, start = 0, split = false } = test;
  const random = new Random(m * 7919 + n * 104729 + k);
  const real = runtime.capabilities;
  const units = test.units === 'none' ? null : test.units;
  const written = test.units !== undefined && !hasUnits(real, units);
  const caps = test.units === undefined ? real : written ? emulatedCapabilities(real, units ?? null) : withUnits(real, units);
  const arrays = new Arrays(runtime, written);
  const a = form === 'tn' ? matrix(random, elements.a, k, m, apart, start) : matrix(random, elements.a, m, k, apart, start);
  const b = form === 'nt' ? matrix(random, elements.b, n, k, apart, start) : matrix(random, elements.b, k, n, apart, start);
  const c = matrix(random, elements.c, m, n, apart, start);
  const vector = (): Float64Array => draw(random, 'f32', n);
  const [bias, scale, gamma] = [vector(), vector(), vector()];
  const other = matrix(random, elements.c, m, n);
  const extra = arrays.put(elements.c, new Float64Array(m * n));
  const region = { a: arrays.put(elements.a, a.data), b: arrays.put(elements.b, b.data), c: arrays.put(elements.c, c.data) };
  const f32 = (values: Float64Array): Region => arrays.put('f32', values);
  const epilogue: Epilogue =
    kind === 'bias'
      ? { kind, bias: f32(bias) }
      : kind === 'bias-gelu'
        ? { kind, bias: f32(bias) }
        : kind === 'bias-gelu slope'
          ? { kind: 'bias-gelu', bias: f32(bias), slope: extra }
          : kind === 'column-scale'
            ? { kind, scale: f32(scale) }
            : kind === 'times'
              ? { kind, factor: arrays.put(elements.c, other.data) }
              : kind === 'times scale'
                ? { kind: 'times', factor: arrays.put(elements.c, other.data), scale: f32(Float64Array.of(0.75)) }
                : kind === 'residual'
                  ? { kind, bias: f32(bias), gamma: f32(gamma), residual: arrays.put(elements.c, other.data) }
                  : { kind: 'none' };
  const sums = plainProduct(form, m, n, k, a, b);
  const beside = new Float64Array(m * n);
  const wanted = Float64Array.from(c.data);
  for (let i = 0; i < m; ++i)
    for (let j = 0; j < n; ++j) {
      const sum = sums[i * n + j]!;
      const x = sum + bias[j]!;
      const place = start + i * c.stride + j;
      const value = {
        none: () => sum,
        bias: () => x,
        'bias-gelu': () => gelu(x),
        'bias-gelu slope': () => {
          beside[i * n + j] = 0.5 * (1 + erf(x / Math.SQRT2)) + (x * Math.exp(-0.5 * x * x)) / Math.sqrt(2 * Math.PI);
          return gelu(x);
        },
        'column-scale': () => sum * scale[j]!,
        times: () => sum * at(other, i, j),
        'times scale': () => 0.75 * sum * at(other, i, j),
        residual: () => at(other, i, j) + gamma[j]! * x,
      }[kind]();
      wanted[place] = accumulate ? c.data[place]! + value : value;
    }
  const inputs: ProductInputs = {
    form,
    m,
    n,
    k,
    ...region,
    elements,
    strides: { a: a.stride, b: b.stride, c: c.stride },
    starts: { a: start, b: start, c: start },
    accumulate,
    epilogue,
  };
  const among = productChoices(caps, inputs).filter(({ tile }) => !test.tile || test.tile === `${tile.rows}x${tile.columns}`);
  const bytes = split ? productWorkspace(caps, inputs) : 0;
  const workspace = bytes > 0 ? runtime.take(bytes) : null;
  const dispatches = product(caps, workspace ? { ...inputs, workspace } : inputs, among);
  runtime.run(written ? dispatches.map(emulated) : dispatches);
  const what = dispatches.map(({ program }) => program.name).join(', ');
  // Rounding walks: k roundings of partial sums that grow as sqrt(k) end near eps * k / sqrt(2), against values of
  // sqrt(k) times 4 to 5: 1e-8 sqrt(k) in the mean, five times that at worst. A stored f16 is off by 2^-11 of itself.
  // Matrix units may cut sums off where others round, and f32 beside f16 is rounded to it: 2^-11 of each product.
  const rounded = units && !written && elements.a !== elements.b ? 2 ** -11 : 0;
  const tolerance = (units && !written ? 4 : 1) * 1e-7 * (1 + Math.sqrt(k)) + rounded;
  const perValue = elements.c === 'f16' && !written ? 2 ** -11 : 2e-7;
  const result = await arrays.get(elements.c, region.c, wanted.length);
  assertNear(result, wanted, tolerance, perValue, what);
  if (kind === 'bias-gelu slope') {
    // A slope of about 1 carries the error of the value that it was taken at.
    const spread = kind === 'bias-gelu slope' ? sums.reduce((most, sum) => Math.max(most, Math.abs(sum)), 1) : 1;
    assertNear(await arrays.get(elements.c, extra, m * n), beside, tolerance * spread, perValue, `${what}, ${kind}`);
  }
  await arrays.end();
  if (workspace) runtime.give(workspace);
  return { names: dispatches.map(({ program }) => program.name), result };
}

describe('products on the GPU', { skip: noAdapter }, () => {
  before(async () => {
    runtime = await Runtime.open();
  });
  after(() => runtime.dispose());

  const forms = ['nt', 'nn', 'tn'] as const;
  const shapes: Case['sizes'][] = [
    [1, 1, 1],
    [3, 17, 37],
    [17, 65, 129],
    [65, 37, 3],
    [129, 257, 65],
    [257, 130, 20],
    [64, 64, 64],
    [16, 300, 48],
    [200, 12, 48],
  ];
  for (const form of forms)
    for (const sizes of shapes)
      it(`${form} ${sizes.join(' x ')}`, async () => {
        await check({ form, sizes });
        await check({ form, sizes, accumulate: true, apart: 4, start: 8 });
        await check({ form, sizes, apart: 3, start: 5 });
      });

  const epilogues: EpilogueName[] = ['bias', 'bias-gelu', 'bias-gelu slope', 'column-scale', 'times', 'times scale', 'residual'];
  for (const epilogue of epilogues)
    it(`ends with ${epilogue}`, async () => {
      await check({ form: 'nt', sizes: [37, 68, 33], epilogue });
      await check({ form: 'nn', sizes: [37, 67, 33], epilogue, accumulate: true, apart: 2, start: 3 });
      await check({ form: 'nn', sizes: [20, 24, 2050], epilogue, split: true });
    });

  for (const form of forms)
    it(`${form} splits a long k, the same to the bit each time`, async () => {
      const once = await check({ form, sizes: [20, 36, 5000], split: true, accumulate: true });
      assert(once.names.length === 2 && once.names[0]!.includes('split'), once.names.join(', '));
      const again = await check({ form, sizes: [20, 36, 5000], split: true, accumulate: true });
      assert.deepEqual(again.result, once.result);
      await check({ form, sizes: [33, 35, 3001], split: true });
    });

  const half = { a: 'f16', b: 'f16', c: 'f16' } as const;

  it('f16 without matrix units', async () => {
    for (const form of forms) {
      await check({ form, sizes: [37, 68, 33], elements: half, units: 'none' });
      await check({ form, sizes: [20, 24, 36], elements: { a: 'f16', b: 'f32', c: 'f32' }, units: 'none', accumulate: true });
    }
  });

  const square = { M: 16, N: 16, K: 16 };
  const mixed = { a: 'f32', b: 'f16', c: 'f32' } as const;
  const tilesOfForms = { nt: '64x64', nn: '32x32', tn: '16x128' };
  for (const form of forms)
    it(`${form} by matrix units`, async () => {
      await check({ form, sizes: [37, 68, 45], elements: half, units: square, tile: tilesOfForms[form] });
      await check({ form, sizes: [35, 37, 70], elements: mixed, units: square, apart: 3, start: 5, accumulate: true, tile: '32x32' });
    });

  it('a long k by matrix units', async () => {
    const { names } = await check({ form: 'tn', sizes: [33, 35, 3001], elements: half, units: square, split: true });
    assert.equal(names.length, 2);
  });

  const otherUnits = [
    { form: 'nt', units: { M: 16, N: 8, K: 16 } },
    { form: 'nn', units: { M: 16, N: 8, K: 8 } },
    { form: 'tn', units: { M: 8, N: 8, K: 8 } },
  ] as const;
  for (const { form, units } of otherUnits)
    it(`matrix units of ${units.M} x ${units.N} x ${units.K}`, async () => {
      await check({ form, sizes: [40, 34, 65], elements: half, units, epilogue: 'residual', tile: '32x32' });
    });

  it('takes the tile that fits the shape', () => {
    const nowhere = { buffer: {} as GPUBuffer, offset: 0, bytes: 2 ** 31 };
    const name = (m: number, n: number, k: number): string =>
      product(runtime.capabilities, {
        form: 'nt',
        m,
        n,
        k,
        a: nowhere,
        b: nowhere,
        c: nowhere,
        elements: { a: 'f32', b: 'f32', c: 'f32' },
      })[0]!.program.name;
    assert.match(name(16_448, 1536, 384), / 128x128x/);
    assert.match(name(16, 65_536, 256), / 16x64x/);
    assert.match(name(40, 40, 384), / 32x32x/);
  });

  it('sums nothing for k = 0, and does nothing for no rows', async () => {
    await check({ form: 'nt', sizes: [5, 6, 0], epilogue: 'bias' });
    const nothing = { buffer: {} as GPUBuffer, offset: 0, bytes: 0 };
    const empty = { form: 'nt', m: 0, n: 3, k: 4, a: nothing, b: nothing, c: nothing, elements: { a: 'f32', b: 'f32', c: 'f32' } } as const;
    assert.deepEqual(product(runtime.capabilities, empty), []);
  });

  it('names what does not fit', () => {
    const small = { buffer: {} as GPUBuffer, offset: 0, bytes: 256 };
    const inputs = { form: 'nn', m: 8, n: 8, k: 8, a: small, b: small, c: small, elements: { a: 'f32', b: 'f32', c: 'f32' } } as const;
    assert.equal(product(runtime.capabilities, inputs).length, 1);
    assert.throws(() => product(runtime.capabilities, { ...inputs, m: 9 }), /a \[9,8\] needs 288 bytes, its region has 256/);
    assert.throws(() => product(runtime.capabilities, { ...inputs, n: 1.5 }), /8 x 1.5 x 8 are not whole/);
    assert.throws(() => product(runtime.capabilities, { ...inputs, strides: { b: 7 } }), /row stride 7/);
    const f16 = { ...inputs, elements: { ...inputs.elements, a: 'f16' } } as const;
    assert.throws(() => product({ ...runtime.capabilities, f16: false }, f16), /no f16/);
  });
});
