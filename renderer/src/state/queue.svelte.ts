/** What to look at next in review: the images of the host's queue in its order, or all images of the folder. */
import { api } from '../api/client.ts';
import type { QueueItem } from '../../../core/contract/index.ts';
import { app } from './app.svelte.ts';
import { ImageList } from './images.svelte.ts';
import { Loaded } from './loaded.svelte.ts';

export type QueueOrder = 'review' | 'learn';

export interface QueueImage {
  readonly imageId: number;
  readonly left: number;
}

const limit = 500;

export class ReviewQueue {
  mode = $state<'queue' | 'all'>('queue');
  order = $state<QueueOrder>('review');
  classId = $state<number | null>(null);
  clusterId = $state<number | null>(null);
  readonly all = new ImageList();
  readonly items = new Loaded<readonly QueueItem[]>(() =>
    api.queue.query({ order: this.order, classId: this.classId, clusterId: this.clusterId, limit }),
  );
  /** Images in the order first met; one that is finished keeps its place until the filter changes. */
  #sequence = $state.raw<readonly number[]>([]);
  /** Paths of the queue's images, for show; filled in behind. */
  paths = $state.raw<ReadonlyMap<number, string>>(new Map());
  #naming = false;
  #modeIsOurs = false;
  #timer: ReturnType<typeof setTimeout> | undefined;

  readonly images: readonly QueueImage[] = $derived.by(() => {
    const left = new Map<number, number>();
    for (const item of this.items.value ?? []) left.set(item.imageId, (left.get(item.imageId) ?? 0) + 1);
    return this.#sequence.map((imageId) => ({ imageId, left: left.get(imageId) ?? 0 }));
  });

  /** Only proposals that pass the filter are "next". */
  wants(object: { readonly classId: number | null; readonly clusterId: number | null }): boolean {
    if (this.mode === 'all') return true;
    return (this.classId === null || object.classId === this.classId) && (this.clusterId === null || object.clusterId === this.clusterId);
  }

  async reset(): Promise<void> {
    this.#sequence = [];
    this.items.clear();
    await this.refresh();
  }

  /** Another project is open: nothing of this one is left. */
  forget(): void {
    this.classId = null;
    this.clusterId = null;
    this.mode = 'queue';
    this.paths = new Map();
    this.items.clear();
    this.all.clear();
  }

  async refresh(): Promise<void> {
    await this.items.load();
    this.#sequence = [...new Set([...this.#sequence, ...(this.items.value ?? []).map((item) => item.imageId)])];
    void this.#readPaths();
  }

  /** The queue knows ids only: goes through the image list, page by page, until every image of the queue has its name. */
  async #readPaths(): Promise<void> {
    const missing = (): boolean => this.#sequence.some((imageId) => !this.paths.has(imageId));
    if (this.#naming || !missing()) return;
    this.#naming = true;
    try {
      for (let offset = 0, total = 1; offset < total && missing(); offset += limit) {
        const page = await api.imagesPage.query({ offset, limit, filter: 'all', search: '' });
        total = page.total;
        this.paths = new Map([...this.paths, ...page.rows.map((row) => [row.id, row.path] as const)]);
      }
    } catch {
      // Numbers are shown instead of names.
    }
    this.#naming = false;
  }

  /** After decisions of our own and of the machine: at most once a second. */
  refreshSoon(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      void this.refresh();
      if (this.mode === 'all') this.all.refresh();
    }, 1000);
  }

  /** Takes decided proposals out before the host's next answer. */
  drop(proposalIds: ReadonlySet<number>): void {
    if (this.items.value) this.items.value = this.items.value.filter((item) => !proposalIds.has(item.proposalId));
  }

  /** With nothing waiting the list is the folder, for drawing by hand; the queue comes back with the first proposals. */
  chooseMode(): void {
    if (this.images.length === 0 && this.filterName === null && this.mode === 'queue') {
      this.setMode('all');
      this.#modeIsOurs = true;
    } else if (this.images.length > 0 && this.#modeIsOurs) this.setMode('queue');
  }

  setMode(mode: 'queue' | 'all'): void {
    this.#modeIsOurs = false;
    this.mode = mode;
    if (mode === 'all' && this.all.total === null) this.all.need(0, 1);
  }

  /** Puts an image opened from elsewhere into the list, next to nothing in particular: at its start. */
  include(imageId: number): void {
    if (!this.#sequence.includes(imageId)) this.#sequence = [imageId, ...this.#sequence];
  }

  /** The image before or after in the list that is shown; null at its ends. */
  neighbour(imageId: number, by: 1 | -1): number | null {
    if (this.mode === 'all') {
      const at = this.all.indexOf(imageId);
      if (at < 0) return null;
      this.all.need(at + by, at + by + 1);
      return this.all.row(at + by)?.id ?? null;
    }
    const at = this.images.findIndex((image) => image.imageId === imageId);
    return this.images[at + by]?.imageId ?? null;
  }

  /** The next image with something left to decide, round the list. */
  nextWithWork(imageId: number): number | null {
    const at = this.images.findIndex((image) => image.imageId === imageId);
    const turned = [...this.images.slice(at + 1), ...this.images.slice(0, Math.max(0, at))];
    return turned.find((image) => image.left > 0)?.imageId ?? null;
  }

  get filterName(): string | null {
    if (this.clusterId !== null) return `Cluster ${this.clusterId}`;
    return this.classId === null ? null : (app.classById.get(this.classId)?.name ?? null);
  }
}
