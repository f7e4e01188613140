/**
 * Whether the driver computes what the kernels say. Each family of kernels runs once on small, odd sizes and is compared
 * with another executor. Drivers translate the kernels anew, and some translate them wrongly; a run on such a one would
 * learn nothing, for hours, without an error.
 */
import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { AppError } from '../../contract/index.ts';
import { Random } from '../../random.ts';
import type { Executor, ParameterSet, Precision, TargetKind, Tensor } from '../ops.ts';
import type { AdapterFacts } from './device.ts';
import type { WebgpuExecutor } from './executor.ts';
import { cropsOnDevice, masksOnDevice, picturesOnDevice } from './selfCheckPictures.ts';
import { sizeOf } from '../shapes.ts';

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

type Get = (name: string) => Tensor;

const normals = (random: Random, count: number): Float32Array => Float32Array.from({ length: count }, () => random.normal());
const upTo = (count: number): Int32Array => Int32Array.from({ length: count }, (_, i) => i);

/** Rows [count,n] of probabilities. */
function probabilities(random: Random, count: number, n: number): Float32Array {
  const values = Float32Array.from({ length: count * n }, () => random.uniform(0.1, 1));
  for (let row = 0; row < count; row++) {
    const sum = values.subarray(row * n, (row + 1) * n).reduce((a, b) => a + b, 0);
    for (let i = 0; i < n; i++) values[row * n + i]! /= sum;
  }
  return values;
}

/** Some scalar of y [...,n] that depends on all of it unevenly. */
function scalarOf(e: Executor, y: Tensor, random: Random): Tensor {
  const n = y.shape.at(-1)!;
  const rows = sizeOf(y.shape) / n;
  const [prototypes, targets] = [7, 3];
  return e.prototypeLoss({
    rows: e.gatherRows(y, upTo(rows)),
    weightV: e.tensor(normals(random, prototypes * n), [prototypes, n]),
    weightG: e.tensor(new Float32Array(prototypes).fill(1), [prototypes, 1]),
    targets: e.tensor(probabilities(random, targets, prototypes), [targets, prototypes]),
    targetRows: upTo(rows).map((row) => row % targets),
    rowWeights: Float32Array.from({ length: rows }, () => random.uniform(0.5, 1)),
    temperature: 1,
  });
}

/** Result, and gradient of each parameter, of a result that is made of parameters with these shapes. */
async function differentiated(
  e: Executor,
  random: Random,
  shapes: Readonly<Record<string, readonly number[]>>,
  forward: (p: Get) => Tensor,
): Promise<Float32Array[]> {
  const set = createSet(e, random, shapes);
  try {
    return await e.scope(async () => {
      let result: Tensor | null = null;
      e.gradients(set, () => {
        result = forward((name) => set.get(name));
        return result.shape.length === 0 ? result : scalarOf(e, result, random);
      });
      const gradients = await e.readGradients(set);
      return [await e.read(result!), ...set.specs.map(({ offset, size }) => gradients.subarray(offset, offset + size))];
    });
  } finally {
    set.dispose();
  }
}

function createSet(e: Executor, random: Random, shapes: Readonly<Record<string, readonly number[]>>): ParameterSet {
  return e.createParameters(Object.entries(shapes).map(([name, shape]) => ({ name, shape, values: normals(random, sizeOf(shape)) })));
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
          const args = [e.tensor(x, [m, k]), e.tensor(normals(random, n * k), [n, k]), e.tensor(normals(random, n), [n])] as const;
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
    run: (e, random) => differentiated(e, random, { x: [67, 45], w: [45], b: [45] }, (p) => e.layerNorm(p('x'), p('w'), p('b'), 1e-6)),
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

// --- once for each driver ---------------------------------------------------------------------------------------------

export interface CheckOptions {
  /** Where passed checks are remembered; null: nowhere. A file that is damaged is replaced. */
  readonly file: string | null;
  /** Made only when there is something to check. */
  readonly reference: () => Promise<Executor>;
}

/**
 * Checks the driver unless it has passed with these kernels. A failure is not remembered: measuring again costs a second
 * or two, a wrong verdict the GPU.
 * @throws AppError engine-unavailable naming what comes out wrong
 */
export async function checkDriver(executor: WebgpuExecutor, { file, reference }: CheckOptions): Promise<void> {
  const { device } = executor.engine.runtime;
  const key = checkKey(device, executor.precision);
  const passed = file === null ? {} : readPassed(file);
  if (passed[key] !== undefined) return;
  const other = await reference();
  let deviation;
  try {
    deviation = await firstDeviation(executor, other);
  } finally {
    await other.dispose();
  }
  if (deviation) throw wrongDriver(device, deviation);
  if (file !== null) writePassed(file, { ...passed, [key]: new Date().toISOString() });
}

function wrongDriver({ description, driver }: AdapterFacts, { operation, error }: Deviation): AppError {
  const off = Number.isFinite(error) ? `off by ${(100 * error).toPrecision(2)} % of the largest value` : 'not a number';
  return new AppError(
    'engine-unavailable',
    `The driver of the GPU (${description}${driver ? `; ${driver}` : ''}) computes ${operation} wrongly: ${off}.`,
    'Update the graphics driver, or use the cpu engine.',
  );
}

/** Names the adapter, its driver, what it computes in, and the kernels. */
function checkKey({ description, driver }: AdapterFacts, precision: Precision): string {
  const hash = createHash('sha256').update(JSON.stringify([process.platform, description, driver, precision]));
  const room = path.dirname(fileURLToPath(import.meta.url));
  for (const name of readdirSync(room, { recursive: true, encoding: 'utf8' }).sort())
    if (/\.[jt]s$/.test(name)) hash.update(`\0${name}\0`).update(readFileSync(path.join(room, name)));
  return hash.digest('hex').slice(0, 32);
}

const version = 1;
/** Drivers are updated a few times a year. */
const remembered = 20;

/** Times of passing by key; none where the file is absent, damaged or of another version. */
function readPassed(file: string): Record<string, string> {
  try {
    const { version: found, passed } = JSON.parse(readFileSync(file, 'utf8')) as { version?: unknown; passed?: unknown };
    if (found !== version || typeof passed !== 'object' || passed === null) return {};
    return Object.fromEntries(Object.entries(passed).filter((entry): entry is [string, string] => typeof entry[1] === 'string'));
  } catch {
    return {};
  }
}

/** A file that cannot be written costs the next start a check, nothing more. */
function writePassed(file: string, passed: Readonly<Record<string, string>>): void {
  const temporary = `${file}.${process.pid}.tmp`;
  try {
    mkdirSync(path.dirname(file), { recursive: true });
    const newest = Object.entries(passed).slice(-remembered);
    writeFileSync(temporary, `${JSON.stringify({ version, passed: Object.fromEntries(newest) }, null, 2)}\n`, { mode: 0o600 });
    renameSync(temporary, file);
  } catch {
    rmSync(temporary, { force: true });
  }
}
