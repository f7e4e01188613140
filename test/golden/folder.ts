/** Runs the golden checks on every file of a folder laid out as recorded sets are. Prints nothing. */
import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import * as z from 'zod';
import { readSafetensors } from '../../core/dinov2/safetensors.ts';
import type { Executor } from '../../core/nn/index.ts';
import { checkAugment, recordedCrops } from './augment.ts';
import { checkImport } from './imports.ts';
import { isOut, type Row } from './rows.ts';
import { checkTraining, recordedSteps, type TrainOptions } from './train.ts';
import { checkVit, type VitOptions } from './vit.ts';

/** What was found; a folder is as recorded when no row is out and there are no problems. */
export interface FolderReport {
  readonly rows: readonly Row[];
  /** Files that could not be checked although they should: unreadable, incomplete or unknown. */
  readonly problems: readonly Remark[];
}

export interface Remark {
  readonly file: string;
  readonly text: string;
}

export const passes = ({ rows, problems }: FolderReport): boolean => rows.length > 0 && problems.length === 0 && !rows.some(isOut);

/** Kinds of safetensors files with recorded numbers, and whether a json of the same name belongs to them. */
const KINDS = [
  { kind: 'vit', names: /^vit-/, json: false },
  { kind: 'train', names: /^train-/, json: true },
  { kind: 'augment', names: /^augment/, json: true },
] as const;

/** @throws Error when the folder itself cannot be read */
export async function checkFolder(folder: string, x: Executor, options: VitOptions & TrainOptions = {}): Promise<FolderReport> {
  const rows: Row[] = [];
  const problems: Remark[] = [];
  const names = await readdir(folder).catch((error: unknown) => {
    throw new Error(`The folder ${folder} cannot be read: ${reasonOf(error)}`, { cause: error });
  });
  for (const name of names.sort()) {
    const { name: stem, ext } = path.parse(name);
    const known = KINDS.find((kind) => kind.names.test(stem));
    try {
      if (ext === '.md' || name.startsWith('.')) continue;
      if (stem.startsWith('import-')) {
        rows.push(...(await checkImport(x, folder, name, options.precision)));
      } else if (known && ext === '.safetensors') {
        const recorded = await readSafetensors(path.join(folder, name));
        const facts = known.json ? await readJson(folder, stem) : null;
        if (known.kind === 'vit') rows.push(...(await checkVit(x, stem, recorded, options)));
        else if (known.kind === 'train') rows.push(...(await checkTraining(x, stem, recorded, recordedSteps.parse(facts), options)));
        else rows.push(...checkAugment(stem, recorded, recordedCrops.parse(facts)));
      } else if (known?.json && ext === '.json') {
        if (!names.includes(`${stem}.safetensors`)) throw new Error(`${stem}.safetensors is missing`);
      } else throw new Error('no kind of golden file has such a name');
    } catch (error) {
      problems.push({ file: name, text: reasonOf(error) });
    }
  }
  return { rows, problems };
}

async function readJson(folder: string, stem: string): Promise<unknown> {
  const name = `${stem}.json`;
  try {
    return JSON.parse(await readFile(path.join(folder, name), 'utf8'));
  } catch (error) {
    throw new Error(`${name} cannot be read: ${reasonOf(error)}`, { cause: error });
  }
}

function reasonOf(error: unknown): string {
  if (error instanceof z.ZodError) return `its json is not as expected: ${z.prettifyError(error).replaceAll('\n', ' ')}`;
  return error instanceof Error ? error.message : String(error);
}
