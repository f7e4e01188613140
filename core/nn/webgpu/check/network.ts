/** The part of the driver's check that is put together as in training. */
import type { Random } from '../../../random.ts';
import type { Executor, Tensor } from '../../ops.ts';
import { createSet, differentiated, normals, upTo, type Get } from './values.ts';

const crops = [
  { samples: 8, tokens: 70, grid: [3, 23] },
  { samples: 6, tokens: 9, grid: [2, 4] },
] as const;

/**
 * A block over crops and a head as they train: activations in the executor's precision, heads 64 wide, rows of whole vectors,
 * sums long enough to be split. Rows [R,bottleneck] of every third token.
 */
function blockAndHead(e: Executor, p: Get, pictures: readonly Tensor[]): Tensor {
  const linear = (x: Tensor, name: string, activation: 'none' | 'gelu' = 'none'): Tensor =>
    e.linear(x, p(name), p(`${name}.bias`), activation);
  const norm = (x: Tensor): Tensor => e.layerNorm(x, p('norm'), p('norm.bias'), 1e-6);
  const groups = crops.slice(0, pictures.length);
  const some = groups.map((group, g) => ({ ...group, rows: Int32Array.of(...[4, 0, 3, 1].slice(g)), scale: 1.25 }));
  const residual = (x: Tensor, branch: Tensor, name: string, subset?: typeof some): Tensor =>
    e.linearResidual(x, branch, p(name), p(`${name}.bias`), p('gamma'), subset);
  let x = e.concatRows(
    pictures.map((images) => {
      const [gridHeight, gridWidth] = images.shape.slice(2) as [number, number];
      const positions = e.resizePositions(p('table'), { gridHeight, gridWidth, offset: 0.1, antialias: false });
      return e.assembleTokens(e.patchEmbed(images, p('patch'), p('bias')), p('cls'), positions, null);
    }),
  );
  x = residual(x, e.attention(linear(norm(x), 'qkv'), 1, groups), 'proj');
  x = residual(x, linear(norm(x), 'fc1', 'gelu'), 'fc2');
  x = residual(x, linear(norm(e.gatherSamples(x, some)), 'fc1', 'gelu'), 'fc2', some);
  const rows = e.gatherRows(
    norm(x),
    upTo(Math.floor(x.shape[0]! / 3)).map((row) => 3 * row),
  );
  return e.l2Normalize(linear(linear(rows, 'mlp', 'gelu'), 'last'), 1e-12);
}

const layer = (name: string, outputs: number, inputs: number): Record<string, number[]> => ({
  [name]: [outputs, inputs],
  [`${name}.bias`]: [outputs],
});
const width = 64;
const blockShapes: Readonly<Record<string, readonly number[]>> = {
  ...Object.fromEntries(['norm', 'norm.bias', 'gamma', 'bias'].map((name) => [name, [width]])),
  ...{ patch: [width, 3, 1, 1], cls: [1, 1, width], table: [1, 10, width] },
  ...layer('qkv', 3 * width, width),
  ...layer('proj', width, width),
  ...layer('fc1', 96, width),
  ...layer('fc2', width, 96),
  ...layer('mlp', 512, width),
  ...layer('last', 256, 512),
};
/** Products are of the size of what they are made of. */
const blockSize = (shape: readonly number[]): number => (shape.length === 2 ? 1 / Math.sqrt(shape[1]!) : 1);

function drawPictures(random: Random): [Float32Array, number[]][] {
  return crops.map(({ samples, grid: [h, w] }) => [normals(random, samples * 3 * h * w), [samples, 3, h, w]]);
}

/** The student's, of both sizes of crops, with its gradients. */
export function student(e: Executor, random: Random): Promise<Float32Array[]> {
  const pictures = drawPictures(random);
  const forward = (p: Get): Tensor =>
    blockAndHead(
      e,
      p,
      pictures.map(([values, shape]) => e.tensor(values, shape)),
    );
  return differentiated(e, random, blockShapes, forward, blockSize);
}

/** The teacher's, of global crops alone. */
export async function teacher(e: Executor, random: Random): Promise<Float32Array[]> {
  const [[values, shape]] = drawPictures(random) as [[Float32Array, number[]]];
  const [bottleneck, prototypes] = [256, 64];
  const set = createSet(e, random, { ...blockShapes, v: [prototypes, bottleneck], g: [prototypes, 1] }, blockSize);
  try {
    return await e.scope(async () => {
      const rows = blockAndHead(e, (name) => set.get(name), [e.tensor(values, shape)]);
      const how = { kind: 'sinkhorn', temperature: 0.1, iterations: 3 } as const;
      const targets = e.prototypeTargets(rows, set.get('v'), set.get('g'), how);
      const logits = e.prototypeLogits(rows, set.get('v'), set.get('g'));
      return [await e.read(rows), await e.read(logits), await e.read(e.gatherTargets(targets, upTo(rows.shape[0]!)))];
    });
  } finally {
    set.dispose();
  }
}
