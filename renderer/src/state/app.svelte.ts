/** What the whole page shares: the open project, settings, classes, jobs, and the host's events handed on to whoever shows them. */
import { SvelteMap } from 'svelte/reactivity';
import { api, factsOf, listen, type Facts } from '../api/client.ts';
import type { AppEvent, AppInfo, ClassRow, JobState, ProjectSummary, Settings } from '../../../core/contract/index.ts';
import { route } from './route.svelte.ts';
import { toasts } from './toasts.svelte.ts';

export type Changed = Extract<AppEvent, { type: 'changed' }>['what'];
export type RunningEvent = Extract<AppEvent, { type: 'jobEvent' }>;

const themeKey = 'patchwise.theme';

class AppState {
  info = $state.raw<AppInfo | null>(null);
  project = $state.raw<ProjectSummary | null>(null);
  classes = $state.raw<readonly ClassRow[]>([]);
  readonly jobs = new SvelteMap<'training' | 'proposing', JobState>();
  phase = $state<'loading' | 'ready' | 'failed'>('loading');
  error = $state.raw<Facts | null>(null);
  connected = $state(true);

  readonly classById = $derived(new Map(this.classes.map((row) => [row.id, row])));
  readonly training = $derived(this.jobs.get('training') ?? null);
  readonly proposing = $derived(this.jobs.get('proposing') ?? null);

  readonly #changed = new Set<(what: Changed) => void>();
  readonly #running = new Set<(event: RunningEvent) => void>();
  readonly #switched = new Set<() => void>();
  #opened = false;

  async start(): Promise<void> {
    window.matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.applyTheme());
    listen({
      opened: () => {
        this.connected = true;
        // Whatever happened while nobody listened: read everything again.
        if (this.#opened) void this.refresh();
        this.#opened = true;
      },
      lost: () => (this.connected = false),
      event: (event) => this.#handle(event),
    });
    await this.refresh();
  }

  /** Reads everything anew, and lets every page do the same. */
  async refresh(): Promise<void> {
    try {
      const [info, project, jobs] = await Promise.all([api.info.query(), api.currentProject.query(), api.jobs.query()]);
      this.info = info;
      this.applyTheme();
      this.jobs.clear();
      for (const job of jobs) this.#keepJob(job);
      await this.setProject(project);
      this.phase = 'ready';
      this.error = null;
    } catch (error) {
      this.error = factsOf(error);
      if (this.phase === 'loading') this.phase = 'failed';
    }
  }

  /** Shows another project (or none): every page starts afresh when it is not the same one. */
  async setProject(project: ProjectSummary | null): Promise<void> {
    const same = project?.id === this.project?.id;
    this.project = project;
    this.classes = project ? await api.classes.query() : [];
    if (!same) for (const tell of this.#switched) tell();
    else if (project)
      for (const what of ['images', 'curation', 'proposals', 'clusters', 'runs', 'exports'] as const) this.#tellChanged(what);
  }

  async saveSettings(settings: Settings): Promise<void> {
    const saved = await api.saveSettings.mutate(settings);
    if (this.info) this.info = { ...this.info, settings: saved };
    this.applyTheme();
  }

  /** Sets the page's colours from the setting, or from the system. The last choice is kept for the first paint. */
  applyTheme(): void {
    const wish = this.info?.settings.theme ?? localStorage.getItem(themeKey) ?? 'system';
    localStorage.setItem(themeKey, wish);
    const dark = wish === 'system' ? window.matchMedia('(prefers-color-scheme: dark)').matches : wish === 'dark';
    document.documentElement.dataset['theme'] = dark ? 'dark' : 'light';
  }

  /** Listens until the returned function is called. */
  onChanged(listener: (what: Changed) => void): () => void {
    this.#changed.add(listener);
    return () => this.#changed.delete(listener);
  }

  onJobEvent(listener: (event: RunningEvent) => void): () => void {
    this.#running.add(listener);
    return () => this.#running.delete(listener);
  }

  onProjectSwitched(listener: () => void): void {
    this.#switched.add(listener);
  }

  #handle(event: AppEvent): void {
    if (event.type === 'job') this.#keepJob(event.job);
    else if (event.type === 'jobEvent') {
      if (event.event.type === 'progress') this.#keepProgress(event.kind, event.event);
      for (const tell of this.#running) tell(event);
    } else {
      this.#tellChanged(event.what);
      if (event.what === 'settings') void api.info.query().then((info) => ((this.info = info), this.applyTheme()));
      else this.#readProjectSoon();
    }
  }

  #tellChanged(what: Changed): void {
    for (const tell of this.#changed) tell(what);
  }

  #keepJob(job: JobState): void {
    const lane = job.kind === 'pretrain' ? 'training' : 'proposing';
    const before = this.jobs.get(lane);
    this.jobs.set(lane, job);
    const finished = job.kind === 'prelabel' && job.state === 'finished' && before?.kind === 'prelabel' && isActive(before);
    if (finished && route.page !== 'review')
      toasts.note('Proposals are ready.', { key: 'proposed', button: { label: 'Review', run: () => route.go('review') } });
  }

  #keepProgress(kind: JobState['kind'], progress: NonNullable<JobState['progress']>): void {
    const lane = kind === 'pretrain' ? 'training' : 'proposing';
    const job = this.jobs.get(lane);
    if (job?.kind === kind) this.jobs.set(lane, { ...job, progress });
  }

  #timer: ReturnType<typeof setTimeout> | null = null;

  /** Counts change with every decision: read them at most twice a second. */
  #readProjectSoon(): void {
    if (this.#timer) return;
    this.#timer = setTimeout(() => {
      this.#timer = null;
      const before = this.project?.id;
      void api.currentProject.query().then(
        (project) => {
          if (project && project.id === before) this.project = project;
          else void this.setProject(project);
        },
        () => undefined, // the stream tells when the host is gone
      );
      // Their annotation counts change with the decisions too.
      void this.reloadClasses();
    }, 500);
  }

  async reloadClasses(): Promise<void> {
    try {
      this.classes = await api.classes.query();
    } catch {
      // Stays as it was; the stream tells when the host is gone.
    }
  }
}

export const app = new AppState();

/** True while the job is under way, also while it is being stopped. */
export function isActive(job: JobState | null): job is JobState {
  return job?.state === 'running' || job?.state === 'stopping';
}
