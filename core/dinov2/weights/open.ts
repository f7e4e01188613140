/**
 * Opens a file of published or trained weights: checks everything that its description tells, and reads its tensors one by
 * one. Executes nothing that a file asks for. Which formats: `recognize.ts`; whose names: `names.ts`.
 */
import { createHash } from 'node:crypto';
import { open, stat, type FileHandle } from 'node:fs/promises';
import { basename } from 'node:path';
import { AppError } from '../../contract/index.ts';
import type { ParameterSpec } from '../../nn/index.ts';
import type { HeadConfig, ModelConfig, RunConfig } from '../config.ts';
import { headShapes, type HeadName } from '../heads.ts';
import { loraLayer, loraScale, mergedWeight } from '../lora.ts';
import type { LazyTensor } from '../safetensors.ts';
import { vitShapes } from '../vit.ts';
import { inferHead, inferModel, refuseDifferences } from './architecture.ts';
import { FileFault } from './fault.ts';
import { officialNames } from './names.ts';
import { openTensorFile } from './recognize.ts';
import { resizePositionTable } from './resize.ts';
import { readPieces, type StoredTensor } from './tensorFile.ts';

/** What is known of a file besides its network. */
export interface WeightsFacts {
  readonly fileName: string;
  readonly bytes: number;
  /** Of the whole file, hex. */
  readonly sha256: string;
  /** In words: "PyTorch file, official names". */
  readonly layout: string;
  /** F32, F16 or BF16; of most of its values. */
  readonly type: string;
  /** Values of the backbone. */
  readonly parameters: number;
  /** What a person should know: "mask_token is not in it; zeros take its place." */
  readonly notes: readonly string[];
}

export interface OpenHead {
  readonly config: HeadConfig;
  /** Names start with `dino_head.` or `ibot_head.`; in the order of `headParameters`. */
  readonly parameters: readonly LazyTensor[];
}

export interface OpenedWeights {
  readonly config: ModelConfig;
  readonly facts: WeightsFacts;
  /** Official names without prefix, in the order of `vitParameters`. */
  readonly backbone: readonly LazyTensor[];
  /** null: none in the file. */
  readonly heads: { readonly dino?: OpenHead; readonly ibot?: OpenHead } | null;
  close(): Promise<void>;
}

export interface ImportedHead {
  readonly config: HeadConfig;
  readonly parameters: readonly ParameterSpec[];
}

/** A network read into memory. */
export interface ImportedWeights {
  readonly config: ModelConfig;
  /** Official names without prefix, in the order of `vitParameters`. */
  readonly backbone: readonly ParameterSpec[];
  readonly heads: { readonly dino?: ImportedHead; readonly ibot?: ImportedHead } | null;
  readonly facts: WeightsFacts;
}

/**
 * Opens a file; its tensors are read, each once, when they are asked for. To be closed by the caller.
 * @throws AppError weights-unreadable, naming the file, what is wrong and what to do; reading a tensor throws the same
 */
export async function openWeights(path: string): Promise<OpenedWeights> {
  return inWords(path, async () => {
    if ((await stat(path)).isDirectory())
      throw new FileFault('it is a folder', 'Choose the file of weights in it: model.safetensors or a .pth file.');
    const file = await open(path, 'r');
    try {
      return await opened(path, file);
    } catch (error) {
      await file.close();
      throw error;
    }
  });
}

/**
 * Reads a whole network: float32, whatever the file holds.
 * @param options.positionGrid resizes the position table to that many patches a side, as training at that grid wants
 * @throws AppError weights-unreadable
 */
export async function readWeights(path: string, options: { readonly positionGrid?: number } = {}): Promise<ImportedWeights> {
  const weights = await openWeights(path);
  try {
    const grid = options.positionGrid ?? weights.config.positionGrid;
    const config = { ...weights.config, positionGrid: grid };
    const backbone = await readAll(weights.backbone.map((tensor) => withPositionGrid(tensor, weights.config, grid)));
    const { dino, ibot } = weights.heads ?? {};
    const heads = weights.heads && {
      ...(dino && { dino: { config: dino.config, parameters: await readAll(dino.parameters) } }),
      ...(ibot && { ibot: { config: ibot.config, parameters: await readAll(ibot.parameters) } }),
    };
    return { config, backbone, heads, facts: weights.facts };
  } finally {
    await weights.close();
  }
}

/** The position table at another grid; every other tensor as it is. */
export function withPositionGrid(tensor: LazyTensor, config: ModelConfig, grid: number): LazyTensor {
  if (tensor.name !== 'pos_embed' || grid === config.positionGrid) return tensor;
  return {
    name: tensor.name,
    shape: [1, 1 + grid * grid, config.embedDim],
    read: async () => resizePositionTable(await tensor.read(), config, grid),
  };
}

async function readAll(tensors: readonly LazyTensor[]): Promise<ParameterSpec[]> {
  const specs: ParameterSpec[] = [];
  for (const { name, shape, read } of tensors) specs.push({ name, shape, values: await read() });
  return specs;
}

async function opened(path: string, file: FileHandle): Promise<OpenedWeights> {
  const { size } = await file.stat();
  const { kind, tensors, metadata } = await openTensorFile(file);
  const { naming, backbone: named, heads, leftOut } = officialNames(tensors);
  const backbone = withoutLora(named, metadata ?? {});
  const notes: string[] = [];
  const config = inferModel(backbone);
  const shapes = vitShapes(config);
  if (!backbone.has('mask_token')) notes.push('mask_token is not in it; zeros, as before training, take its place.');
  const required = shapes.filter(({ name }) => name !== 'mask_token' || backbone.has(name));
  refuseDifferences(backbone, required, 'its backbone');
  if (leftOut.length > 0) notes.push(`${leftOut.length} tensors of a student, an optimizer or a classifier are left out.`);

  const lazy = (name: string, shape: readonly number[], tensor: StoredTensor | undefined): LazyTensor => ({
    name,
    shape,
    read: () =>
      inWords(path, async () => (tensor ? finite(name, await tensor.read()) : new Float32Array(shape.reduce((a, b) => a * b, 1)))),
  });
  const headOf = (name: HeadName): OpenHead | undefined => {
    try {
      const head = inferHead(heads, config.embedDim, name);
      if (!head) return undefined;
      const parameters = headShapes(head, config.embedDim, name).map((one) => lazy(one.name, one.shape, heads.get(one.name)));
      return { config: head, parameters };
    } catch (error) {
      if (!(error instanceof FileFault)) throw error;
      notes.push(`The ${name} is left out: ${error.message}.`);
      return undefined;
    }
  };
  const dino = headOf('dino_head');
  const ibot = headOf('ibot_head');
  return {
    config,
    facts: {
      fileName: basename(path),
      bytes: size,
      sha256: await sha256(file, size),
      layout: `${kind}, ${naming}`,
      type: backbone.get('blocks.0.attn.proj.weight')!.type,
      parameters: shapes.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0),
      notes,
    },
    backbone: shapes.map(({ name, shape }) => lazy(name, shape, backbone.get(name))),
    heads: dino || ibot ? { ...(dino && { dino }), ...(ibot && { ibot }) } : null,
    close: () => file.close(),
  };
}

/**
 * Low-rank updates, which checkpoints of continued runs hold beside the weights, merged into them when those are read.
 * @throws FileFault when the file does not say how much of them is added
 */
function withoutLora(
  tensors: ReadonlyMap<string, StoredTensor>,
  metadata: Readonly<Record<string, string>>,
): ReadonlyMap<string, StoredTensor> {
  const merged = new Map(tensors);
  for (const name of tensors.keys()) {
    if (!name.endsWith('.lora_a')) continue;
    const layer = loraLayer(name)!;
    const [weight, a, b] = ['weight', 'lora_a', 'lora_b'].map((part) => tensors.get(`${layer}.${part}`));
    const scale = loraScale(JSON.parse(metadata['config'] ?? '{}') as Partial<RunConfig>);
    const fits = String([b?.shape[0], a?.shape[1]]) === String(weight?.shape) && a?.shape[0] === b?.shape[1];
    if (!weight || !a || !b || !fits || scale === null) {
      throw new FileFault(`it has a low-rank update of ${layer}, and not all that is needed to add it to the weight`);
    }
    merged.set(`${layer}.weight`, {
      ...weight,
      read: async () => mergedWeight(await weight.read(), await a.read(), await b.read(), a.shape[0]!, scale),
    });
    merged.delete(name);
    merged.delete(`${layer}.lora_b`);
  }
  return merged;
}

async function sha256(file: FileHandle, size: number): Promise<string> {
  const hash = createHash('sha256');
  for await (const piece of readPieces(file, 0, size)) hash.update(piece);
  return hash.digest('hex');
}

/** @throws FileFault for a value that no network can go on from */
function finite(name: string, values: Float32Array): Float32Array {
  let sum = 0; // 0, unless a value is infinite or none: much quicker than asking each
  for (let i = 0; i < values.length; i++) sum += 0 * values[i]!;
  const bad = sum === 0 ? -1 : values.findIndex((value) => !Number.isFinite(value));
  if (bad >= 0)
    throw new FileFault(`${name} holds ${values[bad]}`, 'Choose an earlier checkpoint, or weights that were saved before that happened.');
  return values;
}

/** Runs a body; what is wrong with the file is told with the file's name. */
async function inWords<T>(path: string, body: () => Promise<T>): Promise<T> {
  try {
    return await body();
  } catch (error) {
    if (error instanceof AppError) throw error;
    const { what, action } = faultOf(error);
    throw new AppError('weights-unreadable', `${basename(path)}: ${what}.`, action, { cause: error });
  }
}

function faultOf(error: unknown): { what: string; action: string } {
  if (error instanceof FileFault) return { what: error.message, action: error.action };
  const reason = error instanceof Error ? error.message : String(error);
  const { code } = error as NodeJS.ErrnoException;
  if (code === 'ENOENT') return { what: 'it is not there', action: 'Check the name, or whether its disk is connected.' };
  if (code === 'EACCES' || code === 'EPERM')
    return { what: 'it may not be read', action: 'Change its permissions, or copy it to a place of your own.' };
  const { action } = new FileFault('');
  if (reason.startsWith('End of central directory record signature not found'))
    return { what: 'it is cut off: the end of its zip archive is missing', action };
  return { what: reason.replace(/\.$/, ''), action };
}
