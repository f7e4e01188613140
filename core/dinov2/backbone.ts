/** The door for features: a network that turns images into patch and class tokens. No training, no image reading. */
import { AppError } from '../contract/index.ts';
import type { Executor, ParameterSet, PixelImage, Tensor } from '../nn/index.ts';
import { Random } from '../random.ts';
import { normalisedTable } from './augment.ts';
import { readTeacher } from './checkpoint.ts';
import { STREAM, type ModelConfig } from './config.ts';
import { readSafetensors, type SafeTensorFile } from './safetensors.ts';
import { classTokens, vitForward, vitParameters } from './vit.ts';

export interface Features {
  /** [N, gridHeight * gridWidth, D] after the final norm, row-major patches. */
  readonly patches: Float32Array;
  /** [N,D] */
  readonly cls: Float32Array;
  /** [N, gridHeight * gridWidth] lengths of the patch tokens before the final norm; empty unless asked for. */
  readonly norms: Float32Array;
  readonly gridHeight: number;
  readonly gridWidth: number;
}

export interface Backbone {
  readonly config: ModelConfig;
  /**
   * @param images [N,3,H,W], from normalizeImage; H and W multiples of config.patchSize
   * @param options.norms also the lengths of the patch tokens before the final norm
   * @throws AppError bad-input when they are not
   */
  features(images: Float32Array, n: number, height: number, width: number, options?: { readonly norms?: boolean }): Promise<Features>;
  /**
   * Features of whole pictures of one size, each seen once for every shift (`Executor.normalisePictures`), N = pictures *
   * shifts. Absent where the executor takes arrays.
   * @throws AppError bad-input as `features`
   */
  readonly pictureFeatures?: (pictures: readonly PixelImage[], shifts: readonly (readonly [number, number])[]) => Promise<Features>;
  /** Tokens that pass through the network at once; images to fill them make a good batch. */
  readonly tokensAtOnce: number;
  dispose(): void;
}

/**
 * Bounds the network's memory, large enough to keep it busy: a core by little, a GPU by matrices of many rows. A block of
 * the large network makes up to 450 MiB of f16 of 16,384 tokens.
 */
const TOKENS_AT_ONCE = { beside: 16_384, here: 4096 } as const;

/** A backbone over parameters that someone else owns unless `owned`. @param loraScale of low-rank updates among them */
export function backboneOf(
  x: Executor,
  parameters: ParameterSet,
  config: ModelConfig,
  prefix: string,
  owned: boolean,
  loraScale: number | null = null,
): Backbone {
  const tokensAtOnce = x.stepsAhead === 0 ? TOKENS_AT_ONCE.here : TOKENS_AT_ONCE.beside;
  /**
   * @param input the images from one number on, so many, as [count,3,H,W]
   * @param unit images that stay together
   */
  const run = async (
    n: number,
    height: number,
    width: number,
    input: (from: number, count: number) => Tensor,
    { norms: wantNorms = false, unit = 1 }: { readonly norms?: boolean; readonly unit?: number },
  ): Promise<Features> => {
    if (height % config.patchSize !== 0 || width % config.patchSize !== 0) {
      const wanted = `multiples of ${config.patchSize}`;
      throw new AppError(
        'bad-input',
        `Images of ${width} x ${height} pixels cannot be cut into patches; both sides must be ${wanted}.`,
        'Resize them first.',
      );
    }
    const gridHeight = height / config.patchSize;
    const gridWidth = width / config.patchSize;
    const P = gridHeight * gridWidth;
    const D = config.embedDim;
    const patches = new Float32Array(n * P * D);
    const cls = new Float32Array(n * D);
    const norms = new Float32Array(wantNorms ? n * P : 0);
    const atOnce = unit * Math.max(1, Math.floor(tokensAtOnce / (1 + config.registers + P) / unit));
    const arriving: Promise<void>[] = [];
    for (let from = 0; from < n; from += atOnce) {
      const count = Math.min(atOnce, n - from);
      const reads = x.within(() => {
        const grid = vitForward(x, parameters, config, input(from, count), { prefix, loraScale, recompute: true });
        const lengths = wantNorms ? [x.read(x.sliceTokens(grid.beforeNorm, grid.firstPatch, P))] : [];
        return [x.read(x.sliceTokens(grid.tokens, grid.firstPatch, P)), x.read(classTokens(x, grid)), ...lengths];
      });
      const arrived = Promise.all(reads).then(([own, classes, before]) => {
        patches.set(own!, from * P * D);
        cls.set(classes!, from * D);
        if (before) rowLengths(before, D, norms, from * P);
      });
      arrived.catch(() => {}); // told where it is awaited
      arriving.push(arrived);
      // One part computes while the next is given; more would only hold memory.
      if (arriving.length > 1) await arriving.shift();
    }
    await Promise.all(arriving);
    return { patches, cls, norms, gridHeight, gridWidth };
  };
  const { normalisePictures } = x;
  return {
    config,
    tokensAtOnce,
    features(images, n, height, width, options = {}) {
      const pixels = 3 * height * width;
      const input = (from: number, count: number): Tensor =>
        x.tensor(images.subarray(from * pixels, (from + count) * pixels), [count, 3, height, width]);
      return run(n, height, width, input, options);
    },
    ...(normalisePictures && {
      pictureFeatures(pictures, shifts) {
        const { width, height } = pictures[0]!;
        const unit = shifts.length;
        const input = (from: number, count: number): Tensor =>
          normalisePictures.call(x, pictures.slice(from / unit, (from + count) / unit), shifts, normalisedTable);
        return run(pictures.length * unit, height, width, input, { unit });
      },
    }),
    dispose() {
      if (owned) parameters.dispose();
    },
  };
}

/** Euclidean length of each row of [n,D], written from `offset` on. */
function rowLengths(rows: Float32Array, D: number, out: Float32Array, offset: number): void {
  for (let at = 0; at < rows.length; at += D) {
    let square = 0;
    for (let k = at; k < at + D; k++) square += rows[k]! ** 2;
    out[offset + at / D] = Math.sqrt(square);
  }
}

/** Where a trained network lies: a run's teacher at a step, or a file that `keepWeights` wrote. */
export type TrainedSource = { readonly runDir: string; readonly step: number } | { readonly weightsFile: string };

/** @throws AppError checkpoint-damaged, no-checkpoint, weights-not-found */
export async function loadBackbone(source: TrainedSource, executor: Executor): Promise<Backbone> {
  const { model, tensors } = 'weightsFile' in source ? await readKept(source.weightsFile) : await readModel(source);
  const prefix = 'teacher.backbone.';
  const specs = [...tensors]
    .filter(([name]) => name.startsWith(prefix))
    .map(([name, { shape, values }]) => ({ name: name.slice(prefix.length), shape, values: values as Float32Array }));
  return backboneOf(executor, executor.createParameters(specs), model, '', true);
}

interface StoredModel {
  readonly model: ModelConfig;
  readonly tensors: SafeTensorFile['tensors'];
}

async function readModel({ runDir, step }: { readonly runDir: string; readonly step: number }): Promise<StoredModel> {
  const { config, tensors } = await readTeacher(runDir, step);
  return { model: config.model, tensors };
}

async function readKept(path: string): Promise<StoredModel> {
  const importAgain = 'Remove them from the list of imported weights, then import them again.';
  try {
    const { metadata, tensors } = await readSafetensors(path);
    if (metadata['model'] === undefined) throw new Error('it does not say which network it holds');
    return { model: JSON.parse(metadata['model']) as ModelConfig, tensors };
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
      throw new AppError('weights-not-found', `The imported weights are no longer at ${path}.`, importAgain, { cause: error });
    }
    const reason = error instanceof Error ? error.message : String(error);
    throw new AppError('checkpoint-damaged', `The imported weights at ${path} are damaged: ${reason}.`, importAgain, { cause: error });
  }
}

/** The network a run with that seed starts from. */
export function untrainedBackbone(config: ModelConfig, seed: number, executor: Executor): Backbone {
  const parameters = executor.createParameters(vitParameters(config, new Random(seed, STREAM.weights, 0)));
  return backboneOf(executor, parameters, config, '', true);
}
