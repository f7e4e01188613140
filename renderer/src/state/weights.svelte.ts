/** Weights of other programs: what is published, what is imported, and importing a file. */
import { api, factsOf, type Facts } from '../api/client.ts';
import type { FileEntry, PublishedWeights, WeightsRow } from '../../../core/contract/index.ts';
import { app } from './app.svelte.ts';
import { Loaded } from './loaded.svelte.ts';

/** Where the SHA-256 that people pasted are kept, by the name of the published file. */
const storageKey = 'patchwise.sha256';
const digits = /^[0-9a-f]{64}$/;

export class Weights {
  readonly published = new Loaded(() => api.publishedWeights.query());
  readonly imported = new Loaded(() => api.weights.query());
  /** What a published file's SHA-256 must be, as pasted; by its id. */
  known = $state<Record<string, string>>(stored());
  /** The name of the file that is being read. */
  reading = $state<string | null>(null);
  error = $state.raw<Facts | null>(null);

  /** Loads everything and listens; returns what stops listening. */
  open(): () => void {
    void this.published.load();
    void this.imported.load();
    return app.onChanged((what) => what === 'weights' && void this.imported.load());
  }

  remember(id: string, sha256: string): void {
    this.known = { ...this.known, [id]: sha256 };
    localStorage.setItem(storageKey, JSON.stringify(this.known));
  }

  /** null: nothing was pasted; undefined: what was pasted is none. */
  knownOf(id: string): string | null | undefined {
    const text = (this.known[id] ?? '').trim().toLowerCase();
    if (text === '') return null;
    return digits.test(text) ? text : undefined;
  }

  /** The import of a published file: with the SHA-256 that was pasted for it, else the one of its name. */
  importOf(file: PublishedWeights): WeightsRow | null {
    const rows = this.imported.value ?? [];
    const sha256 = this.knownOf(file.id);
    return rows.find((row) => row.sha256 === sha256) ?? rows.find((row) => row.fileName === `${file.id}.pth`) ?? null;
  }

  /** @param sha256 what the file's must be; null: not known */
  async take(file: FileEntry, sha256: string | null): Promise<WeightsRow | null> {
    this.reading = file.name;
    this.error = null;
    try {
      const row = await api.importWeights.mutate({ fileId: file.id, sha256 });
      await this.imported.load();
      return row;
    } catch (error) {
      this.error = factsOf(error);
      return null;
    } finally {
      this.reading = null;
    }
  }
}

function stored(): Record<string, string> {
  try {
    const kept = JSON.parse(localStorage.getItem(storageKey) ?? '{}') as Record<string, unknown>;
    return Object.fromEntries(Object.entries(kept).filter((entry): entry is [string, string] => typeof entry[1] === 'string'));
  } catch {
    return {};
  }
}
