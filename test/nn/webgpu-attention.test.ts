/** Attention on the GPU, forward and backward, against float64 loops: lengths, head sizes, packed groups. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { noAdapter } from './webgpu-device.ts';
import { attention, attentionBackward, type Group } from '../../core/nn/webgpu/kernels/attention.ts';
import type { Capabilities, Dispatch, MatrixShape } from '../../core/nn/webgpu/program.ts';
import { Runtime } from '../../core/nn/webgpu/runtime.ts';
import { Random } from './draw.ts';
import { attention as plainAttention, value } from './plain.ts';
import { emulated, emulatedCapabilities } from './webgpu-emulate.ts';
import { Arrays, assertNear, draw, type Stored } from './webgpu-arrays.ts';

interface Case {
  readonly groups: readonly { readonly samples: number; readonly tokens: number }[];
  readonly heads: number;
  readonly headDim: number;
  readonly element?: Stored;
  /** How far q and k spread: scores grow as its square. */
  readonly spread?: number;
  readonly backward?: boolean;
  readonly capabilities?: Partial<Capabilities>;
  /** With such matrix units: on a device that has them, else written out (webgpu-emulate.ts). */
  readonly units?: Pick<MatrixShape, 'M' | 'N' | 'K'>;
}

/**
 * lse [N,heads,T] and dQkv [N,T,3,heads,d] in float64, from P = softmax(s): dV_j = sum_i P_ij dO_i,
 * ds_ij = P_ij (dO_i . v_j - sum_k P_ik dO_i . v_k), dQ_i = sum_j ds_ij k_j / sqrt(d), dK_j the same with q_i.
 */
function plainGradient(N: number, T: number, heads: number, d: number, qkv: Float64Array, dOut: Float64Array) {
  const lse = new Float64Array(N * heads * T);
  const dQkv = new Float64Array(qkv.length);
  const at = (n: number, t: number, part: number, h: number): number => (((n * T + t) * 3 + part) * heads + h) * d;
  const dot = (a: Float64Array, i: number, b: Float64Array, j: number): number => {
    let sum = 0;
    for (let c = 0; c < d; ++c) sum += a[i + c]! * b[j + c]!;
    return sum;
  };
  for (let n = 0; n < N; ++n)
    for (let h = 0; h < heads; ++h)
      for (let i = 0; i < T; ++i) {
        const q = at(n, i, 0, h);
        const g = ((n * T + i) * heads + h) * d;
        const scores = Array.from({ length: T }, (_, j) => dot(qkv, q, qkv, at(n, j, 1, h)) / Math.sqrt(d));
        const top = Math.max(...scores);
        const log = top + Math.log(scores.reduce((sum, score) => sum + Math.exp(score - top), 0));
        lse[(n * heads + h) * T + i] = log;
        const weights = scores.map((score) => Math.exp(score - log));
        const along = weights.map((_, j) => dot(dOut, g, qkv, at(n, j, 2, h)));
        const mean = weights.reduce((sum, weight, j) => sum + weight * along[j]!, 0);
        weights.forEach((weight, j) => {
          const slope = (weight * (along[j]! - mean)) / Math.sqrt(d);
          const [k, v] = [at(n, j, 1, h), at(n, j, 2, h)];
          for (let c = 0; c < d; ++c) {
            dQkv[q + c]! += slope * qkv[k + c]!;
            dQkv[k + c]! += slope * qkv[q + c]!;
            dQkv[v + c]! += weight * dOut[g + c]!;
          }
        });
      }
  return { lse, dQkv };
}

let runtime: Runtime;

async function check(test: Case): Promise<void> {
  const { heads, headDim: d, element = 'f32', spread = 1, backward = true } = test;
  const real = { ...runtime.capabilities, ...test.capabilities };
  const { units = null } = test;
  const matrices = real.matrices.filter(
    ({ M, N, K, result }) => units && result === 'f32' && M === units.M && N === units.N && K === units.K,
  );
  const written = element === 'f16' && (!real.f16 || (units !== null && matrices.length === 0));
  const caps = written ? emulatedCapabilities(real, units) : { ...real, matrices };
  let tokens = 0;
  const groups: Group[] = test.groups.map((group) => {
    const tokenOffset = tokens;
    tokens += group.samples * group.tokens;
    return { ...group, tokenOffset };
  });
  const D = heads * d;
  const random = new Random(tokens * 31 + d);
  const ready = (dispatches: Dispatch[]): Dispatch[] => (written ? dispatches.map(emulated) : dispatches);
  const arrays = new Arrays(runtime, written);
  const qkv = draw(random, element, tokens * 3 * D, spread);
  const dOut = draw(random, element, tokens * D);
  const regions = {
    qkv: arrays.put(element, qkv),
    out: arrays.put(element, new Float64Array(tokens * D)),
    lse: arrays.put('f32', new Float64Array(tokens * heads)),
  };
  const inputs = { ...regions, groups, heads, headDim: d, element };
  const dispatches = attention(caps, inputs);
  assert.equal(dispatches[0]!.program.name.includes(' by '), units !== null);
  runtime.run(ready(dispatches));
  const what = dispatches[0]!.program.name;
  // Sums over d and over tokens walk as those of products do; exp is right to a few units of its last place, more for
  // larger arguments: WGSL allows 3 + 2 |x|.
  const tolerance = 1e-7 * (10 + Math.sqrt(d) + 2 * spread ** 2 * Math.sqrt(d));
  const rounded = element === 'f16' && !written;
  const perValue = rounded ? 2 ** -11 : 1e-6;
  const out = await arrays.get(element, regions.out, tokens * D);
  const lse = await arrays.get('f32', regions.lse, tokens * heads);
  const wanted = groups.map(({ samples: N, tokens: T, tokenOffset }) => {
    const part = qkv.subarray(tokenOffset * 3 * D, (tokenOffset + N * T) * 3 * D);
    const g = dOut.subarray(tokenOffset * D, (tokenOffset + N * T) * D);
    const gradient = backward ? plainGradient(N, T, heads, d, part, g) : null;
    return { first: tokenOffset, count: N * T, out: plainAttention(value([N, T, 3 * D], part), heads).data, gradient };
  });
  for (const part of wanted) {
    const name = `${what}, tokens ${part.first} to ${part.first + part.count}`;
    // Matrix units take weights in f16: each is off by up to half its last place.
    const ofWeights = rounded && units ? 2 ** -12 : 0;
    assertNear(out.subarray(part.first * D, (part.first + part.count) * D), part.out, tolerance + ofWeights, perValue, name);
    if (part.gradient) {
      const rows = lse.subarray(part.first * heads, (part.first + part.count) * heads);
      assertNear(rows, part.gradient.lse, tolerance + ofWeights, 1e-6, `${name}, lse`);
    }
  }
  if (backward) {
    const gradients = {
      dOut: arrays.put(element, dOut),
      dQkv: arrays.put(element, new Float64Array(qkv.length)),
      delta: arrays.put('f32', new Float64Array(tokens * heads)),
    };
    const back = attentionBackward(caps, { ...inputs, ...gradients });
    runtime.run(ready(back));
    const dQkv = await arrays.get(element, gradients.dQkv, qkv.length);
    for (const { first, count, gradient } of wanted) {
      const part = dQkv.subarray(first * 3 * D, (first + count) * 3 * D);
      // f16: delta is made of a rounded out, and slopes are differences of what rounding touched.
      assertNear(part, gradient!.dQkv, rounded ? 1e-3 : 2 * tolerance, 2 * perValue, `${back[1]!.program.name}, gradient`);
    }
  }
  await arrays.end();
}

describe('attention on the GPU', { skip: noAdapter }, () => {
  before(async () => {
    runtime = await Runtime.open();
  });
  after(() => runtime.dispose());

  for (const tokens of [1, 5, 17, 37, 65, 129, 257])
    it(`${tokens} tokens, heads of 64`, () =>
      check({ groups: [{ samples: tokens < 100 ? 2 : 1, tokens }], heads: tokens < 100 ? 3 : 2, headDim: 64 }));

  it('1,370 tokens, forward', () => check({ groups: [{ samples: 1, tokens: 1370 }], heads: 1, headDim: 64, backward: false }));

  for (const headDim of [4, 20, 48, 128])
    it(`heads of ${headDim}`, () => check({ groups: [{ samples: 2, tokens: 50 }], heads: 2, headDim }));

  it('groups of different length in one dispatch', async () => {
    await check({
      groups: [
        { samples: 2, tokens: 70 },
        { samples: 5, tokens: 21 },
        { samples: 3, tokens: 1 },
      ],
      heads: 2,
      headDim: 64,
    });
    await check({
      groups: [
        { samples: 3, tokens: 10 },
        { samples: 0, tokens: 9 },
        { samples: 1, tokens: 33 },
      ],
      heads: 3,
      headDim: 16,
    });
  });

  it('f16', async () => {
    // Written out in f32, what is staged takes twice the memory.
    const { f16, workgroupStorage: most } = runtime.capabilities;
    for (const workgroupStorage of f16 ? [10_240, 16_384, 32_768, most] : [10_240, 16_384])
      await check({ groups: [{ samples: 2, tokens: 37 }], heads: 2, headDim: 64, element: 'f16', capabilities: { workgroupStorage } });
  });

  // Written out in f32, larger heads and units would not fit the software device's workgroup memory.
  const storage = { workgroupStorage: 49_152 };
  const small = { M: 8, N: 8, K: 8 };
  it('matrix units', () => {
    const groups = [
      { samples: 2, tokens: 70 },
      { samples: 3, tokens: 5 },
    ];
    return check({ groups, heads: 2, headDim: 32, element: 'f16', units: small, capabilities: storage });
  });

  it('matrix units of 16 x 16 x 16, scores that pass their reference again and again', async () => {
    const groups = [{ samples: 1, tokens: 100 }];
    const units = { M: 16, N: 16, K: 16 };
    await check({ groups, heads: 1, headDim: 16, element: 'f16', units, spread: 4, backward: false, capabilities: storage });
  });

  it('scores far beyond what exp holds', () => check({ groups: [{ samples: 1, tokens: 70 }], heads: 2, headDim: 64, spread: 5 }));

  it('little and much workgroup memory', async () => {
    const groups = [{ samples: 1, tokens: 75 }];
    for (const workgroupStorage of [10_240, 16_384, 32_768])
      await check({ groups, heads: 1, headDim: 64, capabilities: { workgroupStorage } });
    assert.throws(
      () => attention({ ...runtime.capabilities, workgroupStorage: 1024 }, { ...nowhere(1), headDim: 64 }),
      /heads of 64 do not fit 1024 bytes/,
    );
  });

  const nowhere = (tokens: number, samples = 1) => {
    const region = { buffer: {} as GPUBuffer, offset: 0, bytes: 4096 };
    return {
      groups: [{ samples, tokens, tokenOffset: 0 }],
      qkv: region,
      out: region,
      lse: region,
      heads: 1,
      headDim: 64,
      element: 'f32',
    } as const;
  };

  it('names what does not fit', () => {
    const caps = runtime.capabilities;
    const inputs = nowhere(5);
    assert.equal(attention(caps, inputs).length, 1);
    assert.throws(() => attention(caps, nowhere(6)), /qkv needs 4608 bytes, its region has 4096/);
    assert.throws(() => attention(caps, { ...inputs, headDim: 66 }), /heads of 66/);
    assert.throws(() => attention(caps, { ...inputs, headDim: 132 }), /heads of 132/);
    assert.throws(() => attention(caps, nowhere(2.5)), /1 samples of 2.5 tokens/);
    assert.throws(() => attention({ ...caps, f16: false }, { ...inputs, element: 'f16' }), /no f16/);
    assert.deepEqual(attention(caps, nowhere(5, 0)), []);
  });
});
