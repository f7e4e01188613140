/** One door for every format that a network is written in. */
import type { NetworkFormat } from '../../contract/index.ts';
import { writeHuggingFace, writeOfficial, writeTrainerCheckpoint } from './formats.ts';
import { writeHandOver, type HandOverRun } from './handOver.ts';
import type { OpenedWeights } from './open.ts';

export type NetworkExport =
  { readonly format: Exclude<NetworkFormat, 'hand-over'> } | { readonly format: 'hand-over'; readonly run: HandOverRun };

/**
 * Writes a network into a folder that exists, is empty, and is the caller's to rename.
 * @param about where the network comes from, in a sentence for the README
 * @returns names of the files, forward slashes
 * @throws AppError weights-unreadable, and what writing meets (disk-full)
 */
export async function exportNetwork(weights: OpenedWeights, dir: string, about: string, what: NetworkExport): Promise<string[]> {
  switch (what.format) {
    case 'official':
      return writeOfficial(weights, dir, about);
    case 'huggingface':
      return writeHuggingFace(weights, dir, about);
    case 'trainer-checkpoint':
      return writeTrainerCheckpoint(weights, dir, about);
    case 'hand-over':
      return writeHandOver(weights, dir, about, what.run);
  }
}
