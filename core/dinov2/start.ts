/**
 * Where a run starts that does not start from random weights: an imported network or a checkpoint of another run is copied to
 * start.safetensors in the run's folder, at the run's size, so that the folder stands alone. Student and teacher begin equal.
 */
import { open, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { AppError } from '../contract/index.ts';
import type { ParameterSpec } from '../nn/index.ts';
import type { HeadConfig, ModelConfig, RunConfig } from './config.ts';
import { openSafetensors, readSafetensors } from './safetensors.ts';
import { inferHead, keepWeights, openWeights, withPositionGrid, type OpenedWeights, type OpenHead } from './weights/index.ts';

/** What a run that starts from a file must follow. */
export interface StartFacts {
  /** As in the file, its position table too. */
  readonly model: ModelConfig;
  /** Projection heads in the file; null: without a DINO head. */
  readonly heads: RunConfig['heads'] | null;
  /** In words: "imported dinov2_vits14_pretrain.pth", "run 3, step 400". */
  readonly name: string;
}

const startFile = (runDir: string): string => join(runDir, 'start.safetensors');
const PREFIX = 'teacher.';

/**
 * The sizes in a file that `keepWeights` or a run wrote; its values are not read.
 * @throws AppError weights-unreadable
 */
export async function describeStart(path: string, name: string): Promise<StartFacts> {
  try {
    const file = await open(path, 'r');
    try {
      const { metadata, entries } = await openSafetensors(file);
      const model = metadata['model'] ?? JSON.stringify((JSON.parse(metadata['config'] ?? '{}') as Partial<RunConfig>).model ?? null);
      const config = JSON.parse(model) as ModelConfig | null;
      if (config === null) throw new Error('it does not say which network it holds');
      const plain = new Map([...entries].map(([key, entry]) => [key.slice(PREFIX.length), entry]));
      const dino = inferHead(plain, config.embedDim, 'dino_head');
      return { model: config, heads: dino && { dino, ibot: inferHead(plain, config.embedDim, 'ibot_head') }, name };
    } finally {
      await file.close();
    }
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new AppError('weights-unreadable', `The weights to start from (${name}) cannot be read: ${reason}.`, 'Choose others.', {
      cause: error,
    });
  }
}

/**
 * Writes start.safetensors: the position table at the run's grid, low-rank updates merged, heads where they have the run's
 * sizes.
 * @throws AppError weights-unreadable; weights-mismatch naming what the file has and the run has not
 */
export async function writeStart(runDir: string, config: RunConfig, path: string): Promise<void> {
  const weights = await openWeights(path);
  try {
    refuseOtherSizes(config, weights);
    const { dino, ibot } = weights.heads ?? {};
    const taken = (head: OpenHead | undefined, wanted: HeadConfig | null): head is OpenHead =>
      head !== undefined &&
      wanted !== null &&
      (Object.keys(wanted) as (keyof HeadConfig)[]).every((key) => head.config[key] === wanted[key]);
    const start: OpenedWeights = {
      ...weights,
      config: config.model,
      backbone: weights.backbone.map((tensor) => withPositionGrid(tensor, weights.config, config.model.positionGrid)),
      heads: { ...(taken(dino, config.heads.dino) && { dino }), ...(taken(ibot, config.heads.ibot) && { ibot }) },
    };
    await keepWeights(start, `${startFile(runDir)}.tmp`);
    await rename(`${startFile(runDir)}.tmp`, startFile(runDir));
  } finally {
    await weights.close();
  }
}

function refuseOtherSizes({ model }: RunConfig, { config, facts }: OpenedWeights): void {
  const sizes = ['embedDim', 'depth', 'heads', 'mlpRatio', 'ffn', 'patchSize', 'registers'] as const;
  const different = sizes.filter((key) => config[key] !== model[key]).map((key) => `${key} ${config[key]} instead of ${model[key]}`);
  if (different.length === 0) return;
  throw new AppError(
    'weights-mismatch',
    `${facts.fileName} does not fit this run: ${different.join(', ')}.`,
    'Start the run with the sizes of the weights, as the preset "continue" does, or choose other weights.',
  );
}

/**
 * The parameters of a run with the values of its start.safetensors; heads and low-rank updates that are not in it keep theirs.
 * @throws AppError run-damaged when the file is gone or damaged, or a tensor of the backbone is missing or of another shape
 */
export async function startValues(runDir: string, specs: readonly ParameterSpec[]): Promise<ParameterSpec[]> {
  const { tensors } = await readSafetensors(startFile(runDir)).catch((error: Error) => {
    throw damaged(`cannot be read: ${error.message}`, error);
  });
  return specs.map((spec) => {
    const found = tensors.get(PREFIX + spec.name);
    if (!found) {
      if (spec.name.startsWith('backbone.') && !spec.name.includes('.lora_')) throw damaged(`lacks ${spec.name}`);
      return spec;
    }
    if (String(found.shape) !== String(spec.shape)) {
      throw damaged(`holds ${spec.name} as [${found.shape.join(', ')}] instead of [${spec.shape.join(', ')}]`);
    }
    return { ...spec, values: found.values as Float32Array };
  });
}

const damaged = (what: string, cause?: Error): AppError =>
  new AppError(
    'run-damaged',
    `The weights that this run starts from, start.safetensors in its folder, ${what}.`.replace(/\.\.$/, '.'),
    'Start a new run.',
    {
      cause,
    },
  );
