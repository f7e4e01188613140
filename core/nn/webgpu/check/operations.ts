/**
 * Whether the driver computes what the kernels say. Each family of kernels runs once on small, odd sizes and is compared
 * with another executor. Drivers translate the kernels anew, and some translate them wrongly; a run on such a one would
 * learn nothing, for hours, without an error.
 */
import { Random } from '../../../random.ts';
import type { Executor, Precision, TargetKind, Tensor } from '../../ops.ts';
import { sizeOf } from '../../shapes.ts';
import { WebgpuExecutor } from '../executor.ts';
import { student, teacher } from './network.ts';
import { cropsOnDevice, masksOnDevice, picturesOnDevice } from './pictures.ts';
import { asActivation, createSet, differentiated, normals, probabilities, scalarOf, upTo } from './values.ts';

/** What comes out wrong. */
export interface Deviation {
  /** The family of kernels, in words. */
  readonly operation: string;
  /** Largest error, relative to the largest value it should have; infinite where a value is not a number. */
  readonly error: number;
}

/**
 * Rounding in f32 and the approximations that WGSL allows stay under a tenth of this; what is translated wrongly does not. In
 * f16 a value is rounded to 5e-4 of its size, some times over.
 */
const tolerances: Readonly<Record<Precision, number>> = { f32: 1e-3, f16: 2e-2 };

interface Family {
  readonly operation: string;
  run(e: Executor, random: Random): Promise<Float32Array[]>;
}

/** Whole tiles and parts of tiles, and more rows than one share of a split sum; m, n, k. */
const products = [
  [3, 5, 7],
  [131, 67, 129],
  [128, 64, 64],
  [17, 9, 1030],
] as const;

/** Samples of two lengths, some of which take part in a branch. */
const subset = [
  { samples: 3, tokens: 5, rows: Int32Array.of(2, 0), scale: 1.5 },
  { samples: 2, tokens: 3, rows: Int32Array.of(1), scale: 2 },
];

/** The forms of a product come first: when they are wrong, all is. */
const families: readonly Family[] = [
  {
    operation: 'matrix products',
    run: async (e, random) => {
      const results: Float32Array[] = [];
      for (const [m, n, k] of products) {
        const x = normals(random, m * k).map((value) => value / Math.sqrt(k));
        await e.scope(async () => {
          const args = [
            asActivation(e, e.tensor(x, [m, k])),
            e.tensor(normals(random, n * k), [n, k]),
            e.tensor(normals(random, n), [n]),
          ] as const;
          results.push(await e.read(e.linear(args[0], args[1], null)), await e.read(e.linear(...args, 'gelu')));
        });
      }
      return results;
    },
  },
  {
    operation: 'the loss over prototypes',
    run: (e, random) => {
      const [rows, n, prototypes] = [19, 21, 300];
      const targets = probabilities(random, 11, prototypes);
      const targetRows = Int32Array.from({ length: rows * 2 }, (_, i) => (i * 5) % 11);
      const rowWeights = new Float32Array(rows).fill(1 / rows);
      return differentiated(e, random, { x: [rows, n], v: [prototypes, n], g: [prototypes, 1] }, (p) => {
        const given = { targets: e.tensor(targets, [11, prototypes]), targetRows, rowWeights, temperature: 0.5 };
        const loss = e.prototypeLoss({ rows: e.l2Normalize(p('x'), 1e-12), weightV: p('v'), weightG: p('g'), ...given });
        return e.weightedSum([loss, e.koleo(p('x'))], [1, 0.3]);
      });
    },
  },
  {
    operation: "matrix products' gradients",
    run: (e, random) =>
      differentiated(e, random, { x: [600, 33], a: [70, 33], b: [70], c: [33, 70], d: [33], gamma: [33], f: [19, 33] }, (p) => {
        const hidden = e.linear(p('x'), p('a'), p('b'), 'gelu');
        return e.linear(e.linearResidual(p('x'), hidden, p('c'), p('d'), p('gamma')), p('f'), null);
      }),
  },
  {
    operation: 'attention over heads 12 wide',
    run: (e, random) => differentiated(e, random, { qkv: [2, 70, 2 * 3 * 12] }, (p) => e.attention(p('qkv'), 2)),
  },
  {
    operation: 'attention over heads 64 wide, of samples of two lengths',
    run: (e, random) => {
      const groups = [
        { samples: 2, tokens: 70 },
        { samples: 3, tokens: 9 },
      ];
      return differentiated(e, random, { qkv: [167, 2 * 3 * 64] }, (p) => e.attention(p('qkv'), 2, groups));
    },
  },
  {
    operation: 'layer normalisation',
    run: async (e, random) => {
      const results = [];
      for (const [rows, n] of [
        [67, 45],
        [5, 300],
      ] as const)
        results.push(
          ...(await differentiated(e, random, { x: [rows, n], w: [n], b: [n] }, (p) => e.layerNorm(p('x'), p('w'), p('b'), 1e-6))),
        );
      return results;
    },
  },
  {
    operation: 'SwiGLU, residuals and drop path',
    run: (e, random) =>
      differentiated(e, random, { x: [21, 13], y: [13, 26], w: [13, 13], b: [13], gamma: [13] }, (p) => {
        const y = e.addResidual(p('x'), e.swiglu(p('y')), p('gamma'), subset);
        const z = e.linearResidual(y, e.gatherSamples(y, subset), p('w'), p('b'), p('gamma'), subset);
        return e.addResidual(z, p('x'), p('gamma'));
      }),
  },
  {
    operation: 'patches and tokens',
    run: (e, random) => {
      const images = normals(random, 2 * 3 * 6 * 4);
      const mask = Uint8Array.of(0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 0, 0);
      const shapes = { w: [9, 3, 2, 2], b: [9], token: [1, 9], cls: [1, 1, 9], registers: [1, 2, 9], table: [1, 10, 9] };
      return differentiated(e, random, shapes, (p) => {
        const patches = e.patchEmbed(e.tensor(images, [2, 3, 6, 4]), p('w'), p('b'));
        const positions = e.resizePositions(p('table'), { gridHeight: 3, gridWidth: 2, offset: 0.1, antialias: false });
        const tokens = e.assembleTokens(e.maskPatches(patches, mask, p('token')), p('cls'), positions, p('registers'));
        return e.concatRows([e.sliceTokens(tokens, 1, 4), e.gatherRows(tokens, Int32Array.of(3, 16, 3))].map((x) => flatRows(e, x)));
      });
    },
  },
  { operation: "a block of the student's network", run: student },
  { operation: "a block of the teacher's network", run: teacher },
  { operation: "large arrays in the student's network", run: (e, random) => asLarge(e, () => student(e, random)) },
  { operation: "large arrays in the teacher's network", run: (e, random) => asLarge(e, () => teacher(e, random)) },
  { operation: 'pictures', run: picturesOnDevice },
  { operation: 'crops', run: cropsOnDevice },
  { operation: 'edges of masks', run: masksOnDevice },
  {
    operation: "the teacher's targets",
    run: (e, random) => {
      const [rows, n, prototypes] = [13, 9, 301];
      return e.scope(async () => {
        const x = e.tensor(normals(random, rows * n), [rows, n]);
        const [v, g] = [
          e.tensor(normals(random, prototypes * n), [prototypes, n]),
          e.tensor(new Float32Array(prototypes).fill(1), [prototypes, 1]),
        ];
        const normal = e.l2Normalize(x, 1e-12);
        const center = e.tensor(
          normals(random, prototypes).map((value) => value / 10),
          [prototypes],
        );
        const all = upTo(rows);
        const targets = (how: TargetKind): Tensor => e.gatherTargets(e.prototypeTargets(normal, v, g, how), all);
        const results = [
          e.prototypeLogits(normal, v, g),
          e.meanRows(normal),
          targets({ kind: 'softmax', temperature: 0.1, center }),
          targets({ kind: 'sinkhorn', temperature: 0.1, iterations: 3 }),
        ];
        const values = [];
        for (const result of results) values.push(await e.read(result));
        return values;
      });
    },
  },
  {
    operation: 'the update',
    run: async (e, random) => {
      const shapes = { a: [33, 21], b: [7] };
      const [student, teacher] = [createSet(e, random, shapes), createSet(e, random, shapes)];
      const state = e.createAdamState(student);
      try {
        return await e.scope(async () => {
          const rows = e.tensor(normals(random, 5 * 21), [5, 21]);
          const bias = e.tensor(normals(random, 33), [33]);
          e.gradients(student, () => scalarOf(e, e.concatRows([e.linear(rows, student.get('a'), bias)]), random));
          const norms = await e.read(e.clipGradients(student, Int32Array.of(0, 1), 0.05, 0.5));
          const rates = { learningRates: Float32Array.of(0.1, 0.05), weightDecays: Float32Array.of(0.04, 0) };
          e.adamW(student, state, { ...rates, beta1: 0.9, beta2: 0.999, epsilon: 1e-3, updateNumber: 3 });
          e.emaUpdate(teacher, student, 0.9);
          const { m, v } = await e.readAdamState(state);
          return [norms, m, v, await e.readParameters(student), await e.readParameters(teacher)];
        });
      } finally {
        for (const made of [state, teacher, student]) made.dispose();
      }
    },
  },
];

/** The body's arrays are dealt with as large ones. */
async function asLarge<T>(e: Executor, body: () => Promise<T>): Promise<T> {
  if (!(e instanceof WebgpuExecutor)) return body();
  e.engine.asLarge = true;
  try {
    return await body();
  } finally {
    e.engine.asLarge = false;
  }
}

/** x [..., n] as rows [R,n]. */
function flatRows(e: Executor, x: Tensor): Tensor {
  return e.gatherRows(x, upTo(sizeOf(x.shape) / x.shape.at(-1)!));
}

/** The first family of kernels whose results are not the reference's, or null. */
export async function firstDeviation(executor: Executor, reference: Executor): Promise<Deviation | null> {
  for (const [i, { operation, run }] of families.entries()) {
    const found = await run(executor, new Random(1, i));
    const wanted = await run(reference, new Random(1, i));
    const error = Math.max(...wanted.map((values, j) => relativeError(found[j]!, values)));
    if (!(error <= tolerances[executor.precision ?? 'f32'])) return { operation, error };
  }
  return null;
}

/** What the driver does wrongly, in words; empty when all is right. */
export async function wrongIn(executor: Executor, reference: Executor): Promise<string> {
  const deviation = await firstDeviation(executor, reference);
  if (!deviation) return '';
  const { operation, error } = deviation;
  const off = Number.isFinite(error) ? `off by ${(100 * error).toPrecision(2)} % of the largest value` : 'not a number';
  return `computes ${operation} wrongly: ${off}`;
}

/** Largest difference over the largest value wanted; infinite where one is not a number. */
function relativeError(found: Float32Array, wanted: Float32Array): number {
  let [largest, difference] = [0, 0];
  for (const [i, value] of wanted.entries()) {
    largest = Math.max(largest, Math.abs(value));
    const off = Math.abs(found[i]! - value);
    if (!Number.isFinite(off)) return Infinity;
    difference = Math.max(difference, off);
  }
  return difference / Math.max(largest, 1e-30);
}
