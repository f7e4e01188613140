/** What to look at next in review: the images of the host's queue in its order, or all images of the folder. */
import { api } from '../api/client.ts';
import type { ImageRow, QueueImage, ReviewObject } from '../../../core/contract/index.ts';
import { app } from './app.svelte.ts';
import { ImageList } from './images.svelte.ts';
import { Loaded } from './loaded.svelte.ts';

export type QueueOrder = 'review' | 'learn';

/** Most names that are asked for in one call. */
const namesAtOnce = 100;

type Filtered = Pick<ReviewObject, 'classId' | 'clusterId'>;

export class ReviewQueue {
  mode = $state<'queue' | 'all'>('queue');
  order = $state<QueueOrder>('review');
  classId = $state<number | null>(null);
  clusterId = $state<number | null>(null);
  readonly all = new ImageList();
  /** Every image with something left, as the host counts it. */
  readonly waiting = new Loaded<readonly QueueImage[]>(() =>
    api.queue.query({ order: this.order, classId: this.classId, clusterId: this.clusterId }),
  );
  /** Images in the order first met; one that is finished keeps its place until the filter changes. */
  #sequence = $state.raw<readonly number[]>([]);
  /** Paths of images of the queue that were in sight; the queue itself knows ids only. */
  paths = $state.raw<ReadonlyMap<number, string>>(new Map());
  readonly #asked = new Set<number>();
  #modeIsOurs = false;
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** What the host's last answer took, in ms. */
  #took = 0;

  readonly images: readonly QueueImage[] = $derived.by(() => {
    const left = new Map((this.waiting.value ?? []).map((image) => [image.imageId, image.left]));
    return this.#sequence.map((imageId) => ({ imageId, left: left.get(imageId) ?? 0 }));
  });

  /** Only proposals that pass the filter are "next". */
  wants(object: Filtered): boolean {
    return this.mode === 'all' || this.#passes(object);
  }

  #passes({ classId, clusterId }: Filtered): boolean {
    return (this.classId === null || classId === this.classId) && (this.clusterId === null || clusterId === this.clusterId);
  }

  async reset(): Promise<void> {
    this.#sequence = [];
    this.waiting.clear();
    await this.refresh();
  }

  /** Another project is open: nothing of this one is left. */
  forget(): void {
    this.classId = null;
    this.clusterId = null;
    this.mode = 'queue';
    this.paths = new Map();
    this.#asked.clear();
    this.waiting.clear();
    this.all.clear();
  }

  async refresh(): Promise<void> {
    const started = performance.now();
    await this.waiting.load();
    this.#took = performance.now() - started;
    this.#sequence = [...new Set([...this.#sequence, ...(this.waiting.value ?? []).map((image) => image.imageId)])];
  }

  /** Asks for the names of images in sight. */
  async name(imageIds: readonly number[]): Promise<void> {
    const missing = imageIds.filter((imageId) => !this.#asked.has(imageId)).slice(0, namesAtOnce);
    if (missing.length === 0) return;
    for (const imageId of missing) this.#asked.add(imageId);
    try {
      const named = await api.imagePaths.query({ imageIds: missing });
      this.paths = new Map([...this.paths, ...named.map(({ imageId, path }) => [imageId, path] as const)]);
    } catch {
      // Numbers are shown instead of names until they come into sight again.
      for (const imageId of missing) this.#asked.delete(imageId);
    }
  }

  /** After decisions of our own and of the machine: at most once a second, less often where counting takes long. */
  refreshSoon(): void {
    this.#timer ??= setTimeout(() => this.refreshNow(), Math.max(1000, 4 * this.#took));
  }

  refreshNow(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    void this.refresh();
    if (this.mode === 'all') this.all.refresh();
  }

  /** Takes decided proposals of an image out before the host's next answer. */
  drop(imageId: number, decided: readonly Filtered[]): void {
    const count = decided.filter((object) => this.#passes(object)).length;
    if (count > 0) this.#leave(imageId, (left) => Math.max(0, left - count));
  }

  /** A person is done with the image: nothing of it is left, whatever it holds. */
  finish(image: ImageRow): void {
    this.#leave(image.id, () => 0);
    this.all.put(image);
  }

  #leave(imageId: number, left: (before: number) => number): void {
    this.waiting.value =
      this.waiting.value?.map((image) => (image.imageId === imageId ? { imageId, left: left(image.left) } : image)) ?? null;
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
