/** The training page's data: presets, runs, the shown run's curves, monitors and PCA pictures, kept live by the host's events. */
import { api, factsOf, type Facts } from '../api/client.ts';
import type { Inputs, PcaStep, ProbeReport, RunRow, TrainMetrics, TrainMonitors } from '../../../core/contract/index.ts';
import { app, isActive, type RunningEvent } from './app.svelte.ts';
import { listOptions } from './curation.svelte.ts';
import { Loaded } from './loaded.svelte.ts';

type Network = NonNullable<Inputs['startTraining']['from']> | null;
/** What a person sets beside a preset; null: as the preset has it. */
export type RunNumbers = Record<'steps' | 'batch' | 'accumulate', number | null>;

export class Training {
  /** Weights that the next run starts from; null: random ones. */
  from = $state.raw<Network>(null);
  /** A frozen network that the next run learns from; null: its own average. */
  teacher = $state.raw<Network>(null);
  readonly presets = new Loaded(() => {
    if (this.teacher) return api.trainPresets.query({ from: null, distillFrom: this.teacher });
    return api.trainPresets.query(this.from ? { from: this.from } : undefined);
  });
  readonly runs = new Loaded(() => api.runs.query());
  shownId = $state<string | null>(null);
  metrics = $state.raw<readonly TrainMetrics[]>([]);
  monitors = $state.raw<TrainMonitors>({ lines: [], alarms: [] });
  probe = $state.raw<ProbeReport | null>(null);
  pca = $state.raw<readonly PcaStep[]>([]);
  error = $state.raw<Facts | null>(null);

  readonly runningId = $derived(isActive(app.training) ? app.training.runId : null);
  readonly shown: RunRow | null = $derived(this.runs.value?.find((run) => run.id === this.shownId) ?? null);
  readonly latest: TrainMetrics | null = $derived(this.metrics.at(-1) ?? null);

  #arrived: TrainMetrics[] = [];
  #timer: ReturnType<typeof setTimeout> | null = null;

  /** Loads everything and listens; returns what stops listening. */
  open(): () => void {
    void this.presets.load();
    void this.#readRuns();
    const stops = [
      app.onChanged((what) => {
        if (what === 'runs') void this.#readRuns();
        if (what === 'images') void this.presets.load();
      }),
      app.onJobEvent((event) => this.#hear(event)),
    ];
    return () => {
      for (const stop of stops) stop();
      if (this.#timer) clearTimeout(this.#timer);
    };
  }

  async show(runId: string | null): Promise<void> {
    if (runId === this.shownId) return;
    this.shownId = runId;
    this.metrics = [];
    this.monitors = { lines: [], alarms: [] };
    this.probe = null;
    this.pca = [];
    this.#arrived = [];
    await this.#readShown();
  }

  /** Chooses what the next run starts from; other presets are offered then. */
  async startFrom(from: Network): Promise<void> {
    this.from = from;
    if (from) this.teacher = null; // what learns from another network starts from random weights
    await this.presets.load();
  }

  /** Chooses what the next run learns from; other presets are offered then. */
  async learnFrom(teacher: Network): Promise<void> {
    this.teacher = teacher;
    if (teacher) this.from = null;
    await this.presets.load();
  }

  async start(presetId: string, numbers: RunNumbers): Promise<void> {
    const sources = { ...(this.from && { from: this.from }), ...(this.teacher && { distillFrom: this.teacher }) };
    const run = await api.startTraining.mutate({ ...sources, presetId, ...numbers, seed: null, list: listOptions.value });
    await this.#readRuns();
    await this.show(run.id);
  }

  async resume(runId: string): Promise<void> {
    await api.resumeTraining.mutate({ runId });
    await this.#readRuns();
    await this.show(runId);
    await this.#readShown();
  }

  async #readRuns(): Promise<void> {
    await this.runs.load();
    const runs = this.runs.value ?? [];
    if (!runs.some((run) => run.id === this.shownId)) await this.show(this.runningId ?? runs[0]?.id ?? null);
    else await this.#readShown();
  }

  /** Curves from where we are, and the pictures. A resumed run repeats steps after its checkpoint: later lines win. */
  async #readShown(): Promise<void> {
    const runId = this.shownId;
    if (runId === null) return;
    try {
      const [metrics, monitors, probe, pca] = await Promise.all([
        api.trainMetrics.query({ runId, afterStep: -1 }),
        api.trainMonitors.query({ runId }),
        api.trainProbe.query({ runId }),
        api.pcaSteps.query({ runId }),
      ]);
      if (runId !== this.shownId) return;
      this.metrics = metrics;
      this.monitors = monitors;
      this.probe = probe;
      this.pca = pca;
      this.error = null;
    } catch (error) {
      if (runId === this.shownId) this.error = factsOf(error);
    }
  }

  #hear({ kind, event }: RunningEvent): void {
    if (kind !== 'pretrain' || this.runningId !== this.shownId) return;
    if (event.type === 'metrics') {
      this.#arrived.push(event.metrics);
      // A few redraws a second are enough for the eye.
      this.#timer ??= setTimeout(() => {
        this.#timer = null;
        const first = this.#arrived[0];
        if (!first) return;
        this.metrics = [...this.metrics.filter((line) => line.step < first.step), ...this.#arrived];
        this.#arrived = [];
      }, 300);
    }
    if (event.type === 'checkpoint' || event.type === 'monitors' || event.type === 'pca') void this.#readCheckpoint();
  }

  async #readCheckpoint(): Promise<void> {
    const runId = this.shownId;
    if (runId === null) return;
    void this.runs.load();
    try {
      const [monitors, pca] = await Promise.all([api.trainMonitors.query({ runId }), api.pcaSteps.query({ runId })]);
      if (runId !== this.shownId) return;
      this.monitors = monitors;
      this.pca = pca;
    } catch {
      // The next checkpoint asks again.
    }
  }
}
