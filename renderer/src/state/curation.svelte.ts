/** Copies and clusters of the project's images: the last look at them, and what a run would train on with the options chosen. */
import { api } from '../api/client.ts';
import { app } from './app.svelte.ts';
import { Loaded } from './loaded.svelte.ts';

/** Options of a run's list, the same on the Images and the Train page. */
class ListOptions {
  dedupe = $state(true);
  balance = $state(false);
  /** Images wanted in all; null: the usual share. */
  keep = $state<number | null>(null);

  /** As the host takes them: `keep` counts with `balance` only, and from 1 on. */
  get value(): { dedupe: boolean; balance: boolean; keep: number | null } {
    const { dedupe, balance, keep } = this;
    return { dedupe, balance, keep: balance && keep !== null && keep >= 1 ? Math.round(keep) : null };
  }
}

export const listOptions = new ListOptions();
app.onProjectSwitched(() => {
  listOptions.dedupe = true;
  listOptions.balance = false;
  listOptions.keep = null;
});

export class Curation {
  readonly summary = new Loaded(() => api.curation.query());
  readonly preview = new Loaded(() => api.trainingList.query(listOptions.value));
  /** With the usual share, whatever is chosen: what balancing alone would do. */
  readonly balanced = new Loaded(() => api.trainingList.query({ ...listOptions.value, balance: true }));
  /** Grows with every new answer, for lists that read the host on their own. */
  version = $state(0);

  readonly outOfDate = $derived(this.summary.value !== null && this.summary.value.changed + this.summary.value.gone > 0);

  /** Loads and listens; returns what stops listening. */
  open(): () => void {
    void this.load();
    return app.onChanged((what) => what === 'curation' && void this.load());
  }

  async load(): Promise<void> {
    await this.summary.load();
    await this.reckon();
  }

  /** After another choice of options. */
  async reckon(): Promise<void> {
    if (this.summary.value === null) {
      this.preview.clear();
      this.balanced.clear();
    } else {
      await Promise.all([this.preview.load(), this.balanced.load()]);
    }
    this.version++;
  }

  /** By the chosen checkpoint's features, or by plain appearance before the first. */
  async start(): Promise<void> {
    const runs = await api.runs.query();
    const trained = runs.find((run) => run.checkpoints.some((step) => step > 0));
    await api.startCuration.mutate({ from: trained ? 'network' : 'pictures', runId: trained?.id ?? null, step: null });
  }
}
