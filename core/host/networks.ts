/** Networks into and out of a project: a file becomes weights/<id>, a checkpoint or an import becomes a folder for another program. */
import { mkdir, readdir, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { AppError, type NetworkExportRow, type NetworkFormat, type PublishedWeights, type WeightsRow } from '../contract/index.ts';
import type { NetworkExport } from '../dinov2/index.ts';
import type { StartFrom } from './planner.ts';
import type { Project } from './project.ts';
import { runDir, runRow } from './store/runs.ts';
import {
  addNetworkExport,
  addWeights,
  findWeights,
  networkFacts,
  setChecked,
  weightsFile,
  weightsFileIn,
  weightsFolder,
  weightsIdOf,
  weightsRow,
} from './store/weights.ts';

/** A run's teacher at a step, or an imported network. */
export type NetworkChoice = { readonly runId: string; readonly step: number } | { readonly weightsId: string };

export async function publishedWeights(): Promise<PublishedWeights[]> {
  const { publishedNetworks } = await import('../dinov2/index.ts');
  return publishedNetworks().map(({ id, model, url, parameters }) => ({
    id,
    network: networkFacts(model, parameters),
    url,
    derivedBytes: 4 * parameters,
  }));
}

/**
 * Reads the file's network and keeps it as weights/<id>/weights.safetensors, float32. The file itself is not kept.
 * @param sha256 what the file's must be; null: not known
 * @throws AppError weights-unreadable, weights-mismatch, disk-full
 */
export async function importWeights(project: Project, path: string, sha256: string | null): Promise<WeightsRow> {
  const { keepWeights, openWeights } = await import('../dinov2/index.ts');
  const opened = await openWeights(path);
  try {
    const { facts, heads } = opened;
    if (sha256 !== null && sha256 !== facts.sha256) {
      throw new AppError(
        'weights-mismatch',
        `${facts.fileName} has the SHA-256 ${facts.sha256}, not ${sha256}.`,
        'It is another file than the one meant, or it was changed on its way: get it again from its publisher.',
      );
    }
    const id = weightsIdOf(facts.sha256);
    if (findWeights(project, id)) {
      if (sha256 !== null) project.write((w) => setChecked(w, id));
      return weightsRow(project, id);
    }
    const folder = weightsFolder(project);
    const temporary = join(folder, `.importing-${id}`);
    try {
      await rm(temporary, { recursive: true, force: true });
      await mkdir(temporary, { recursive: true });
      await keepWeights(opened, weightsFileIn(temporary));
      // One that is there without a row is left of an import that was broken off.
      await rm(join(folder, id), { recursive: true, force: true });
      await rename(temporary, join(folder, id));
    } catch (error) {
      await rm(temporary, { recursive: true, force: true });
      throw error;
    }
    const { fileName, bytes, layout, type, parameters, notes } = facts;
    const names = [...(heads?.dino ? (['dino'] as const) : []), ...(heads?.ibot ? (['ibot'] as const) : [])];
    const checked = sha256 !== null;
    project.write((w) =>
      addWeights(w, {
        fileName,
        bytes,
        sha256: facts.sha256,
        checked,
        layout,
        type,
        model: opened.config,
        parameters,
        heads: names,
        notes,
      }),
    );
    return weightsRow(project, id);
  } finally {
    await opened.close();
  }
}

/** After its row is gone. */
export async function removeWeightsFolder(project: Project, id: string): Promise<void> {
  await rm(join(weightsFolder(project), id), { recursive: true, force: true });
}

/**
 * Writes a network for another program.
 * @param out an absolute path to a folder that is not there yet or empty; null: a folder of the project's exports, which is
 *   then listed
 * @throws AppError bad-input when `out` has something in it, or a hand-over is asked of a network without a run; disk-full
 */
export async function exportNetwork(
  project: Project,
  choice: NetworkChoice,
  format: NetworkFormat,
  out: string | null,
): Promise<NetworkExportRow> {
  const { exportNetwork: write, openWeights } = await import('../dinov2/index.ts');
  const what = await exportOf(project, choice, format);
  const createdAt = new Date().toISOString();
  const id = nextId(project, createdAt, format);
  const dir = out ?? join(project.dir, 'exports', id);
  if (out !== null) await refuseFilled(out);
  const temporary = join(dirname(dir), `.${id}.tmp`);
  const source = inWords(project, choice);
  const opened = await openWeights(fileOf(project, choice));
  try {
    await mkdir(temporary, { recursive: true });
    const about = `From the Patchwise project "${project.facts.name}", ${source}: ViT ${opened.config.name}, ${opened.config.embedDim} wide, ${opened.config.depth} blocks.`;
    const files = await write(opened, temporary, about, what);
    const sizes = await Promise.all(files.map(async (file) => (await stat(join(temporary, file))).size));
    const row = { id, createdAt, format, source, bytes: sizes.reduce((a, b) => a + b, 0), files };
    if (out !== null) await rm(dir, { recursive: true, force: true }); // empty, as was seen above
    await rename(temporary, dir);
    if (out === null) project.write((w) => addNetworkExport(w, row));
    return { ...row, location: dir };
  } catch (error) {
    await rm(temporary, { recursive: true, force: true });
    throw error;
  } finally {
    await opened.close();
  }
}

async function refuseFilled(dir: string): Promise<void> {
  const present = await readdir(dir).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return [];
    throw error;
  });
  if (present.length > 0) throw new AppError('bad-input', `The folder ${dir} is not empty.`, 'Choose a folder that is not there yet.');
}

/** Weights that a run can start from. @throws AppError weights-not-found, run-not-found */
export function startFrom(project: Project, choice: NetworkChoice): StartFrom {
  return { file: fileOf(project, choice), name: inWords(project, choice) };
}

function fileOf(project: Project, choice: NetworkChoice): string {
  if ('weightsId' in choice) return weightsFile(project, choice.weightsId);
  return join(runDir(project, choice.runId), 'checkpoints', String(choice.step), 'teacher.safetensors');
}

function inWords(project: Project, choice: NetworkChoice): string {
  if ('weightsId' in choice) return `imported ${weightsRow(project, choice.weightsId).fileName}`;
  return `run ${choice.runId} (${runRow(project, choice.runId).presetTitle}), step ${choice.step}`;
}

async function exportOf(project: Project, choice: NetworkChoice, format: NetworkFormat): Promise<NetworkExport> {
  if (format !== 'hand-over') return { format };
  if ('weightsId' in choice) {
    throw new AppError(
      'bad-input',
      'A hand-over carries on a training run, and imported weights have none.',
      'Choose a run; or export the weights as trainer-checkpoint.',
    );
  }
  const { readRun } = await import('../dinov2/index.ts');
  const { config, images } = await readRun(runDir(project, choice.runId));
  return { format, run: { config, images: images.filter(({ page }) => page === 0).map(({ path }) => path) } };
}

/** The time of the export and its format, as a folder name that sorts. */
function nextId(project: Project, createdAt: string, format: NetworkFormat): string {
  const base = `${createdAt.slice(0, 19).replace('T', '-').replaceAll(':', '')}-${format}`;
  for (let n = 1; ; n++) {
    const id = n === 1 ? base : `${base}-${n}`;
    if (!project.get('SELECT 1 FROM network_exports WHERE id = ?', id)) return id;
  }
}
