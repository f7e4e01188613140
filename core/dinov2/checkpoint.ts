/**
 * What a run leaves on disk, and reading it back:
 *
 *   config.json                          every number of the run
 *   start.safetensors                    the weights it starts from, where it does (start.ts)
 *   teacher.safetensors                  the frozen network it learns from, where it does (distill.ts)
 *   images.jsonl                         its images, frozen at the start
 *   metrics.jsonl                        one line per log step; never holds a step twice
 *   monitors.jsonl                       one line per checkpoint, written by the monitor room; likewise
 *   checkpoints/<step>/teacher.safetensors    `teacher.*`, kept for every checkpoint
 *   checkpoints/<step>/training.safetensors   `student.*`, `optim.m.*`, `optim.v.*`, `centers.*`, in the metadata the loss
 *                                             scale (f16); kept for the newest two
 *
 * A checkpoint is written to a temporary folder, flushed, then renamed: a folder with a number is a whole checkpoint.
 * `step` is the number of updates made.
 */
import { appendFile, mkdir, open, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { AppError, type ScannedImage, type TrainMetrics } from '../contract/index.ts';
import type { Executor, ParameterSet } from '../nn/index.ts';
import type { RunConfig } from './config.ts';
import { firstNonFinite } from './finite.ts';
import { loraLayer, loraScale, mergedWeight } from './lora.ts';
import type { LossScaleState } from './lossScale.ts';
import type { DenseScore } from './patience.ts';
import { readSafetensors, writeSafetensors, type NamedTensor, type SafeTensorFile } from './safetensors.ts';
import type { TrainState } from './step.ts';

const checkpointsDir = (runDir: string): string => join(runDir, 'checkpoints');
const checkpointDir = (runDir: string, step: number): string => join(checkpointsDir(runDir), String(step));

/** Checkpoints that a run can go on from; older ones keep the teacher only, which is what features need. */
const RESUMABLE = 2;

// --- the run's own files ----------------------------------------------------------------------------------------------

/**
 * Creates the run's folder and files.
 * @param before writes what else the folder must hold before config.json makes it a run
 * @throws AppError bad-input when there is a run already
 */
export async function createRun(
  runDir: string,
  config: RunConfig,
  images: readonly ScannedImage[],
  before: () => Promise<void> = async () => {},
): Promise<void> {
  await mkdir(checkpointsDir(runDir), { recursive: true });
  if (await exists(join(runDir, 'config.json'))) {
    throw new AppError(
      'bad-input',
      `The folder ${runDir} holds a run already.`,
      'Resume that run, or start the new one in another folder.',
    );
  }
  await before();
  await replaceFile(join(runDir, 'images.jsonl'), images.map((image) => `${JSON.stringify(image)}\n`).join(''));
  await replaceFile(join(runDir, 'metrics.jsonl'), '');
  await replaceFile(join(runDir, 'config.json'), `${JSON.stringify(config, null, 2)}\n`);
}

/** @throws AppError run-not-found, run-damaged */
export async function readRun(runDir: string): Promise<{ config: RunConfig; images: ScannedImage[] }> {
  try {
    const config = JSON.parse(await readFile(join(runDir, 'config.json'), 'utf8')) as RunConfig;
    const images = jsonLines<ScannedImage>(await readFile(join(runDir, 'images.jsonl'), 'utf8'));
    return { config, images };
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
      throw new AppError('run-not-found', `There is no run in ${runDir}.`, 'Start a new run.', { cause: error });
    }
    if (!(error instanceof SyntaxError)) throw error;
    throw new AppError('run-damaged', `The run in ${runDir} cannot be read: ${error.message}.`, 'Start a new run.', { cause: error });
  }
}

export async function appendMetrics(runDir: string, metrics: TrainMetrics): Promise<void> {
  await appendFile(join(runDir, 'metrics.jsonl'), `${JSON.stringify(metrics)}\n`);
}

/** The dense scores in monitors.jsonl, ascending; none for a run that is not watched. */
export async function readMonitors(runDir: string): Promise<DenseScore[]> {
  const text = await readFile(join(runDir, 'monitors.jsonl'), 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return '';
    throw error;
  });
  return jsonLines<DenseScore>(text.slice(0, text.lastIndexOf('\n') + 1));
}

/** Removes the lines of steps past `step` from metrics.jsonl and monitors.jsonl, and last lines that were cut off. */
export async function truncateLines(runDir: string, step: number): Promise<void> {
  for (const name of ['metrics.jsonl', 'monitors.jsonl']) {
    const path = join(runDir, name);
    const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return null;
      throw error;
    });
    if (text === null) continue;
    const whole = text.slice(0, text.lastIndexOf('\n') + 1);
    const kept = jsonLines<{ step: number }>(whole).filter((line) => line.step <= step);
    await replaceFile(path, kept.map((line) => `${JSON.stringify(line)}\n`).join(''));
  }
}

function jsonLines<T>(text: string): T[] {
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as T);
}

async function replaceFile(path: string, text: string): Promise<void> {
  await writeFile(`${path}.tmp`, text, { flush: true });
  await rename(`${path}.tmp`, path);
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

// --- checkpoints ------------------------------------------------------------------------------------------------------

/**
 * Writes checkpoints/<step>, then drops the training state of all but the newest two.
 * @throws AppError not-finite: a state that cannot be gone on from is never written
 */
export async function writeCheckpoint(
  x: Executor,
  runDir: string,
  config: RunConfig,
  state: TrainState,
  step: number,
  lossScale: LossScaleState | null = null,
): Promise<void> {
  const temporary = join(checkpointsDir(runDir), `.writing-${step}`);
  const metadata = { format: 'pt', step: String(step), config: JSON.stringify(config) };
  try {
    await rm(temporary, { recursive: true, force: true });
    await mkdir(temporary, { recursive: true });
    await writeSafetensors(
      join(temporary, 'teacher.safetensors'),
      named('teacher.', state.teacher, await x.readParameters(state.teacher)),
      metadata,
    );
    const student = await x.readParameters(state.student);
    const bad = firstNonFinite(student, state.student);
    if (bad) {
      const what = `After ${step} steps the parameter ${bad.name} holds ${bad.value}.`;
      throw new AppError(
        'not-finite',
        what,
        'Start a new run with a lower learning rate or a larger batch; earlier checkpoints are whole.',
      );
    }
    const { m, v } = await x.readAdamState(state.adam);
    const { dino, ibot } = state.centers;
    const training = [
      ...named('student.', state.student, student),
      ...named('optim.m.', state.student, m),
      ...named('optim.v.', state.student, v),
      { name: 'centers.dino', shape: [dino.length], values: dino },
      { name: 'centers.ibot', shape: [ibot.length], values: ibot },
    ];
    const scale = lossScale && { lossScale: JSON.stringify(lossScale) };
    await writeSafetensors(join(temporary, 'training.safetensors'), training, { ...metadata, ...scale });
    await flushFolder(temporary);
  } catch (error) {
    await rm(temporary, { recursive: true, force: true });
    throw error;
  }
  // A folder of that name can only be one that a resumed run found damaged or is repeating.
  await rm(checkpointDir(runDir, step), { recursive: true, force: true });
  await rename(temporary, checkpointDir(runDir, step));
  await flushFolder(checkpointsDir(runDir));

  const older = (await listCheckpoints(runDir)).filter((other) => other < step);
  for (const other of older.slice(0, Math.max(0, older.length - (RESUMABLE - 1)))) {
    await rm(join(checkpointDir(runDir, other), 'training.safetensors'), { force: true });
  }
}

/** Makes renames inside a folder last through a power cut. Windows has no such call and needs none. */
async function flushFolder(path: string): Promise<void> {
  if (process.platform === 'win32') return;
  const folder = await open(path, 'r');
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

function named(prefix: string, set: ParameterSet, values: Float32Array): NamedTensor[] {
  return set.specs.map(({ name, shape, offset, size }) => ({ name: prefix + name, shape, values: values.subarray(offset, offset + size) }));
}

/** Steps that have a checkpoint, ascending; none for a run without checkpoints. */
export async function listCheckpoints(runDir: string): Promise<number[]> {
  const names = await readdir(checkpointsDir(runDir)).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return [];
    throw error;
  });
  return names
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .sort((a, b) => a - b);
}

/** One file of a checkpoint. @throws AppError checkpoint-damaged, no-checkpoint */
async function readPart(runDir: string, step: number, part: 'teacher' | 'training'): Promise<SafeTensorFile> {
  const path = join(checkpointDir(runDir, step), `${part}.safetensors`);
  try {
    return await readSafetensors(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
      throw new AppError('no-checkpoint', `There is no ${part} state of step ${step} in ${runDir}.`, 'Choose another checkpoint.', {
        cause: error,
      });
    }
    const reason = error instanceof Error ? error.message : String(error);
    throw new AppError(
      'checkpoint-damaged',
      `The checkpoint of step ${step} is damaged: ${part}.safetensors: ${reason}.`,
      'Use an earlier checkpoint.',
      {
        cause: error,
      },
    );
  }
}

/**
 * The teacher of a checkpoint and the configuration it was trained with; low-rank updates are merged into their weights.
 * @throws AppError checkpoint-damaged, no-checkpoint
 */
export async function readTeacher(runDir: string, step: number): Promise<{ config: RunConfig; tensors: SafeTensorFile['tensors'] }> {
  const { metadata, tensors } = await readPart(runDir, step, 'teacher');
  if (metadata['config'] === undefined) {
    throw new AppError(
      'checkpoint-damaged',
      `The checkpoint of step ${step} does not say what it was trained with.`,
      'Use another checkpoint.',
    );
  }
  const config = JSON.parse(metadata['config']) as RunConfig;
  return { config, tensors: withoutLora(tensors, loraScale(config) ?? 0) };
}

/** Every tensor but low-rank updates, these merged into the weight they belong to. */
function withoutLora(tensors: SafeTensorFile['tensors'], scale: number): SafeTensorFile['tensors'] {
  const merged = new Map(tensors);
  for (const [name, a] of tensors) {
    if (!name.endsWith('.lora_a')) continue;
    const layer = loraLayer(name)!;
    const { shape, values } = tensors.get(`${layer}.weight`)!;
    const b = tensors.get(`${layer}.lora_b`)!.values as Float32Array;
    merged.set(`${layer}.weight`, {
      shape,
      values: mergedWeight(values as Float32Array, a.values as Float32Array, b, a.shape[0]!, scale),
    });
    merged.delete(name);
    merged.delete(`${layer}.lora_b`);
  }
  return merged;
}

/** Everything a run goes on from. */
export interface SavedState {
  readonly step: number;
  readonly teacher: SafeTensorFile['tensors'];
  readonly training: SafeTensorFile['tensors'];
  /** null when nothing was scaled. */
  readonly lossScale: LossScaleState | null;
}

/**
 * The newest checkpoint that is whole.
 * @returns what was found, null when there is no checkpoint at all, and the errors of newer ones that are damaged
 * @throws AppError checkpoint-damaged when there are some and none is whole
 */
export async function readNewestState(runDir: string): Promise<{ saved: SavedState | null; damaged: AppError[] }> {
  const damaged: AppError[] = [];
  for (const step of (await listCheckpoints(runDir)).reverse()) {
    try {
      const teacher = await readPart(runDir, step, 'teacher');
      const training = await readPart(runDir, step, 'training');
      const scale = training.metadata['lossScale'];
      const lossScale = scale === undefined ? null : (JSON.parse(scale) as LossScaleState);
      return { saved: { step, teacher: teacher.tensors, training: training.tensors, lossScale }, damaged };
    } catch (error) {
      if (!(error instanceof AppError)) throw error;
      if (error.code === 'checkpoint-damaged') damaged.push(error);
    }
  }
  if (damaged.length > 0) throw damaged[0];
  return { saved: null, damaged };
}

/**
 * The values under a prefix as one flat array in the order of a parameter set.
 * @throws AppError checkpoint-damaged when a parameter is missing or has another size
 */
export function flatten(tensors: SafeTensorFile['tensors'], prefix: string, set: Pick<ParameterSet, 'specs' | 'size'>): Float32Array {
  const values = new Float32Array(set.size);
  for (const { name, offset, size } of set.specs) {
    const tensor = tensors.get(prefix + name);
    if (tensor?.values.length !== size) {
      const found = tensor ? `${tensor.values.length} values` : 'nothing';
      throw new AppError(
        'checkpoint-damaged',
        `The checkpoint holds ${found} for ${prefix}${name}, ${size} values are needed.`,
        'Use another checkpoint.',
      );
    }
    values.set(tensor.values, offset);
  }
  return values;
}
