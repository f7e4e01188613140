/** The operations of ops.ts with shapes that reach every path of an executor: odd sizes, edges of tiles, several blocks. */
import type { Executor, GroupSubset, SampleGroup, Tensor } from '../../core/nn/index.ts';
import { Random } from './draw.ts';
import * as plain from './plain.ts';

export interface Case {
  readonly name: string;
  /** Shapes of the inputs; all of them are differentiated. */
  readonly inputs: Record<string, readonly number[]>;
  /** Elements of each input whose gradient is compared. */
  readonly samples: number;
  readonly run: (executor: Executor, input: (name: string) => Tensor) => Tensor;
  readonly plain: (input: Record<string, plain.Value>) => plain.Value;
  /** Changes the normal random values of an input. */
  readonly adjust?: (name: string, values: Float32Array) => void;
}

function linearCase(
  rows: readonly number[],
  inputs: number,
  outputs: number,
  bias: boolean,
  activation: 'none' | 'gelu',
  samples = 40,
): Case {
  return {
    name: `linear [${rows.join(',')}] x ${inputs} -> ${outputs}${bias ? ' + bias' : ''}${activation === 'gelu' ? ', GELU' : ''}`,
    inputs: { x: [...rows, inputs], w: [outputs, inputs], ...(bias ? { b: [outputs] } : {}) },
    samples,
    adjust: (name, values) => {
      // Products of a size where GELU is neither 0 nor the identity.
      if (name === 'w') values.forEach((v, i) => (values[i] = (v * 1.5) / Math.sqrt(inputs)));
    },
    run: (e, p) => e.linear(p('x'), p('w'), bias ? p('b') : null, activation),
    plain: (p) => plain.linear(p['x']!, p['w']!, bias ? p['b']! : null, activation),
  };
}

function attentionCase(N: number, T: number, heads: number, d: number, samples: number): Case {
  return {
    name: `attention of ${N} x ${T} tokens, ${heads} heads of ${d}`,
    inputs: { qkv: [N, T, 3 * heads * d] },
    samples,
    run: (e, p) => e.attention(p('qkv'), heads),
    plain: (p) => plain.attention(p['qkv']!, heads),
  };
}

/** Samples of different lengths in the same rows. */
function packedAttentionCase(groups: readonly SampleGroup[], heads: number, d: number, samples: number): Case {
  const width = 3 * heads * d;
  const rows = groups.reduce((sum, group) => sum + group.samples * group.tokens, 0);
  return {
    name: `attention of ${groups.map((group) => `${group.samples} x ${group.tokens}`).join(' and ')} tokens`,
    inputs: { qkv: [rows, width] },
    samples,
    run: (e, p) => e.attention(p('qkv'), heads, groups),
    plain: (p) => {
      let from = 0;
      const parts = groups.map(({ samples: N, tokens: T }) => {
        const part = p['qkv']!.data.subarray(from, (from += N * T * width));
        return plain.attention(plain.value([N, T, width], part), heads);
      });
      return plain.concatRows(parts);
    },
  };
}

function layerNormCase(rows: number, n: number): Case {
  return {
    name: `layerNorm of ${rows} x ${n}`,
    inputs: { x: [rows, n], w: [n], b: [n] },
    samples: 40,
    run: (e, p) => e.layerNorm(p('x'), p('w'), p('b'), 1e-6),
    plain: (p) => plain.layerNorm(p['x']!, p['w']!, p['b']!, 1e-6),
  };
}

function positionsCase(side: number, h: number, w: number, n: number, antialias: boolean): Case {
  const offset = antialias ? 0 : 0.1;
  return {
    name: `resizePositions ${side} x ${side} -> ${h} x ${w}${antialias ? ', antialiased' : ''}`,
    inputs: { table: [1, 1 + side * side, n] },
    samples: 30,
    run: (e, p) => e.resizePositions(p('table'), { gridHeight: h, gridWidth: w, offset, antialias }),
    plain: (p) => plain.resizePositions(p['table']!, h, w, offset, antialias),
  };
}

function prototypeCase(R: number, K: number, n: number, m: number, samples = 30): Case {
  const random = new Random(R * 31 + K);
  const Q = 4;
  const targets = new Float32Array(Q * K);
  for (let q = 0; q < Q; ++q) targets.set(plain.softmax(random.normals(K)), q * K);
  const targetRows = Int32Array.from({ length: R * m }, () => Math.floor(random.uniform() * Q));
  const rowWeights = Float32Array.from({ length: R }, () => random.uniform() / R);
  const temperature = 0.7;
  return {
    name: `prototypeLoss of ${R} rows, ${K} prototypes of ${n}, ${m} targets a row`,
    inputs: { x: [R, n], v: [K, n], g: [K, 1] },
    samples,
    run: (e, p) =>
      e.prototypeLoss({
        rows: p('x'),
        weightV: p('v'),
        weightG: p('g'),
        targets: e.tensor(targets, [Q, K]),
        targetRows,
        rowWeights,
        temperature,
      }),
    plain: (p) => {
      const options = { targets: plain.value([Q, K], targets), targetRows, rowWeights, temperature };
      return plain.prototypeLoss(p['x']!, p['v']!, p['g']!, options);
    },
  };
}

/** The loss against targets that are made of a teacher's rows, as a training step has it. */
function madeTargetsCase(kind: 'sinkhorn' | 'softmax', Q: number, K: number, n: number, m: number, samples: number): Case {
  const random = new Random(Q * 37 + K);
  const seen = plain.l2Normalize(plain.value([Q, n], random.normals(Q * n)), 1e-12);
  const v = random.normals(K * n);
  const g = random.normals(K).map((value) => 1 + 0.2 * value);
  const center = random.normals(K).map((value) => 0.3 * value);
  const logits = plain.prototypeLogits(seen, plain.value([K, n], v), plain.value([K, 1], g));
  const temperature = 0.2;
  const targets =
    kind === 'sinkhorn'
      ? plain.sinkhornKnopp(logits, temperature, 3)
      : plain.value(
          [Q, K],
          Array.from({ length: Q }, (_, q) =>
            plain.softmax(Array.from(logits.data.subarray(q * K, (q + 1) * K), (value, k) => (value - center[k]!) / temperature)),
          ).flat(),
        );
  const R = m * Q;
  const rest = {
    targetRows: Int32Array.from({ length: R * m }, (_, i) => (i * 7 + 3) % Q),
    rowWeights: Float32Array.from({ length: R }, () => random.uniform() / R),
    temperature: 0.7,
  };
  return {
    name: `prototypeLoss of ${R} rows against ${kind} targets of ${Q} rows, ${K} prototypes of ${n}, ${m} targets a row`,
    inputs: { x: [R, n], v: [K, n], g: [K, 1] },
    samples,
    run: (e, p) => {
      const how =
        kind === 'sinkhorn'
          ? ({ kind, temperature, iterations: 3 } as const)
          : ({ kind, temperature, center: e.tensor(center, [K]) } as const);
      const made = e.prototypeTargets(e.tensor(Float32Array.from(seen.data), [Q, n]), e.tensor(v, [K, n]), e.tensor(g, [K, 1]), how);
      return e.prototypeLoss({ rows: p('x'), weightV: p('v'), weightG: p('g'), targets: made, ...rest });
    },
    plain: (p) => plain.prototypeLoss(p['x']!, p['v']!, p['g']!, { ...rest, targets }),
  };
}

/** Some samples of a group, drop path's. */
function some(samples: number, tokens: number, ...rows: number[]): GroupSubset {
  return { samples, tokens, rows: Int32Array.from(rows), scale: samples / rows.length };
}

/** Leading axes of what a residual takes: those of x, and of the branch. */
function leads(subset: readonly GroupSubset[]): { x: number[]; branch: number[]; name: string } {
  const name = ` on ${subset.map(({ rows, samples, tokens }) => `samples ${rows.join(' ')} of ${samples} x ${tokens}`).join(' and ')}`;
  const [{ samples, tokens, rows }, ...others] = subset as [GroupSubset, ...GroupSubset[]];
  if (others.length === 0) return { x: [samples, tokens], branch: [rows.length, tokens], name };
  const sum = (count: (group: GroupSubset) => number): number[] => [subset.reduce((total, group) => total + count(group), 0)];
  return { x: sum((group) => group.samples * group.tokens), branch: sum((group) => group.rows.length * group.tokens), name };
}

const whole = (...lead: number[]): ReturnType<typeof leads> => ({ x: lead, branch: lead, name: '' });

function residualCase(n: number, subset: readonly GroupSubset[] | null, lead: readonly number[] = []): Case {
  const { x, branch, name } = subset ? leads(subset) : whole(...lead);
  return {
    name: `addResidual [${x.join(',')},${n}]${name}`,
    inputs: { x: [...x, n], branch: [...branch, n], gamma: [n] },
    samples: 40,
    run: (e, p) => e.addResidual(p('x'), p('branch'), p('gamma'), subset ?? undefined),
    plain: (p) => plain.addResidual(p['x']!, p['branch']!, p['gamma']!, subset),
  };
}

function linearResidualCase(
  inputs: number,
  outputs: number,
  samples: number,
  subset: readonly GroupSubset[] | null,
  lead: readonly number[] = [],
): Case {
  const { x, branch, name } = subset ? leads(subset) : whole(...lead);
  const vectors = { bias: [outputs], gamma: [outputs] };
  return {
    name: `linearResidual [${x.join(',')},${outputs}] from ${inputs}${name}`,
    inputs: { x: [...x, outputs], input: [...branch, inputs], weight: [outputs, inputs], ...vectors },
    samples,
    run: (e, p) => e.linearResidual(p('x'), p('input'), p('weight'), p('bias'), p('gamma'), subset ?? undefined),
    plain: (p) => plain.addResidual(p['x']!, plain.linear(p['input']!, p['weight']!, p['bias']!, 'none'), p['gamma']!, subset),
  };
}

function gatherSamplesCase(n: number, subset: readonly GroupSubset[]): Case {
  const { x, name } = leads(subset);
  return {
    name: `gatherSamples${name}`,
    inputs: { x: [...x, n] },
    samples: 100,
    run: (e, p) => e.gatherSamples(p('x'), subset),
    plain: (p) => plain.gatherSamples(p['x']!, subset),
  };
}

/** The value of a GELU goes to layers and elsewhere, so its gradient comes in two forms. */
const mlpCase: Case = {
  name: 'a GELU between layers that also goes elsewhere',
  inputs: { x: [2, 5, 16], up: [16, 16], upBias: [16], down: [16, 16], downBias: [16], gamma: [16], beside: [16, 16] },
  samples: 30,
  run: (e, p) => {
    const hidden = e.linear(p('x'), p('up'), p('upBias'), 'gelu');
    const y = e.linearResidual(p('x'), hidden, p('down'), p('downBias'), p('gamma'));
    return e.concatRows([hidden, e.linear(hidden, p('beside'), null), y]);
  },
  plain: (p) => {
    const hidden = plain.linear(p['x']!, p['up']!, p['upBias']!, 'gelu');
    const y = plain.addResidual(p['x']!, plain.linear(hidden, p['down']!, p['downBias']!, 'none'), p['gamma']!);
    return plain.concatRows([hidden, plain.linear(hidden, p['beside']!, null), y]);
  },
};

const rowsTwice = Int32Array.of(4, 0, 4, 2, 4);
const patchMask = Uint8Array.from({ length: 2 * 9 }, (_, i) => (i % 5 === 1 || i % 7 === 0 ? 1 : 0));
const images = new Random(77).normals(2 * 3 * 10 * 15);

export const cases: readonly Case[] = [
  linearCase([7], 5, 3, true, 'none'),
  linearCase([1], 1, 1, true, 'none'),
  linearCase([2, 6], 8, 16, true, 'gelu'),
  linearCase([3, 7], 13, 21, false, 'none'),
  linearCase([13], 9, 6, false, 'gelu'),
  linearCase([70], 33, 50, true, 'gelu', 12),
  // Past the few-rows path, past one panel's depth in each direction.
  linearCase([2, 101], 37, 29, true, 'gelu', 8),
  linearCase([170], 300, 150, true, 'none', 5),
  linearCase([300], 7, 30, true, 'gelu', 8),
  linearResidualCase(13, 22, 20, null, [3, 7]),
  linearResidualCase(40, 36, 8, null, [2, 70]),
  linearResidualCase(13, 22, 20, [some(4, 7, 2, 0)]),
  linearResidualCase(24, 10, 20, [some(4, 7, 3, 1, 0), some(5, 3, 4, 2)]),
  mlpCase,
  layerNormCase(5, 7),
  layerNormCase(3, 64),
  layerNormCase(550, 33),
  attentionCase(2, 10, 2, 5, 60),
  attentionCase(1, 1, 1, 3, 9),
  attentionCase(3, 17, 3, 8, 40),
  attentionCase(1, 65, 1, 64, 20),
  attentionCase(1, 203, 1, 6, 12),
  packedAttentionCase(
    [
      { samples: 2, tokens: 17 },
      { samples: 3, tokens: 5 },
    ],
    3,
    8,
    40,
  ),
  {
    name: 'swiglu',
    inputs: { x: [3, 5, 14] },
    samples: 300,
    run: (e, p) => e.swiglu(p('x')),
    plain: (p) => plain.swiglu(p['x']!),
  },
  residualCase(10, null, [3, 4]),
  residualCase(7, [some(5, 3, 4, 1)]),
  residualCase(9, [some(4, 2, 2, 0, 3, 1)]),
  residualCase(7, [some(3, 5, 1), some(4, 2, 3, 0), some(2, 3, 0, 1)]),
  {
    name: 'patchEmbed [2,3,10,15], patches of 5',
    inputs: { w: [7, 3, 5, 5], b: [7] },
    samples: 60,
    run: (e, p) => e.patchEmbed(e.tensor(images, [2, 3, 10, 15]), p('w'), p('b')),
    plain: (p) => plain.patchEmbed(plain.value([2, 3, 10, 15], images), p['w']!, p['b']!),
  },
  {
    name: 'maskPatches',
    inputs: { x: [2, 9, 6], token: [1, 6] },
    samples: 200,
    run: (e, p) => e.maskPatches(p('x'), patchMask, p('token')),
    plain: (p) => plain.maskPatches(p['x']!, patchMask, p['token']!),
  },
  positionsCase(4, 4, 4, 5, false),
  positionsCase(5, 3, 7, 6, false),
  positionsCase(7, 4, 3, 5, true),
  positionsCase(3, 5, 6, 4, true),
  positionsCase(16, 7, 7, 3, false),
  {
    name: 'assembleTokens with registers',
    inputs: { patches: [3, 4, 6], cls: [1, 1, 6], positions: [5, 6], registers: [1, 2, 6] },
    samples: 100,
    run: (e, p) => e.assembleTokens(p('patches'), p('cls'), p('positions'), p('registers')),
    plain: (p) => plain.assembleTokens(p['patches']!, p['cls']!, p['positions']!, p['registers']!),
  },
  {
    name: 'assembleTokens without registers',
    inputs: { patches: [2, 3, 5], cls: [1, 1, 5], positions: [4, 5] },
    samples: 100,
    run: (e, p) => e.assembleTokens(p('patches'), p('cls'), p('positions'), null),
    plain: (p) => plain.assembleTokens(p['patches']!, p['cls']!, p['positions']!, null),
  },
  gatherSamplesCase(5, [some(4, 3, 3, 1)]),
  gatherSamplesCase(5, [some(4, 3, 3, 1), some(3, 2, 2)]),
  {
    name: 'gatherRows, a row more than once',
    inputs: { x: [2, 3, 7] },
    samples: 100,
    run: (e, p) => e.gatherRows(p('x'), rowsTwice),
    plain: (p) => plain.gather(p['x']!, rowsTwice, 7, [5, 7]),
  },
  {
    name: 'sliceTokens',
    inputs: { x: [3, 6, 5] },
    samples: 100,
    run: (e, p) => e.sliceTokens(p('x'), 2, 3),
    plain: (p) => plain.sliceTokens(p['x']!, 2, 3),
  },
  {
    name: 'concatRows',
    inputs: { a: [3, 5], b: [1, 5], c: [4, 5] },
    samples: 100,
    run: (e, p) => e.concatRows([p('a'), p('b'), p('c')]),
    plain: (p) => plain.concatRows([p['a']!, p['b']!, p['c']!]),
  },
  {
    name: 'l2Normalize, one row below epsilon',
    inputs: { x: [4, 7] },
    samples: 100,
    adjust: (_, values) => values.forEach((v, i) => (values[i] = i < 7 ? v * 0.01 : v)),
    run: (e, p) => e.l2Normalize(p('x'), 0.5),
    plain: (p) => plain.l2Normalize(p['x']!, 0.5),
  },
  {
    name: 'koleo',
    inputs: { x: [9, 13] },
    samples: 200,
    run: (e, p) => e.koleo(p('x')),
    plain: (p) => plain.koleo(p['x']!),
  },
  {
    name: 'weightedSum',
    inputs: { a: [4, 6], b: [3, 6] },
    samples: 100,
    run: (e, p) => {
      const first = e.koleo(p('a'));
      return e.weightedSum([first, e.koleo(p('b')), first], [0.5, -2, 3]);
    },
    plain: (p) => plain.value([], [3.5 * plain.koleo(p['a']!).data[0]! - 2 * plain.koleo(p['b']!).data[0]!]),
  },
  prototypeCase(5, 7, 6, 1, 100),
  prototypeCase(6, 33, 9, 2, 60),
  prototypeCase(170, 70, 18, 1, 15),
  madeTargetsCase('sinkhorn', 6, 33, 9, 2, 60),
  madeTargetsCase('softmax', 6, 33, 9, 2, 60),
  madeTargetsCase('sinkhorn', 170, 70, 18, 1, 15),
  madeTargetsCase('softmax', 45, 290, 11, 1, 15),
];
