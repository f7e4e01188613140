/** Pages of the image list, loaded as they come into view. Sparse: thousands of rows, a few pages in memory. */
import { api, factsOf, type Facts } from '../api/client.ts';
import type { ImageRow } from '../../../core/contract/index.ts';

export type ImageFilter = 'all' | 'todo' | 'done';

const pageSize = 200;

export class ImageList {
  total = $state<number | null>(null);
  error = $state.raw<Facts | null>(null);
  filter = $state<ImageFilter>('all');
  search = $state('');
  /** Pages by number; replaced as a whole so that readers notice. */
  #pages = $state.raw<ReadonlyMap<number, readonly ImageRow[]>>(new Map());
  #wanted = new Set<number>();
  #turn = 0;

  /** The row at a place, or null while its page is on the way (asking for a row asks for its page: call `need`). */
  row(index: number): ImageRow | null {
    return this.#pages.get(Math.floor(index / pageSize))?.[index % pageSize] ?? null;
  }

  /** Index of an image among the loaded rows, or -1. */
  indexOf(imageId: number): number {
    for (const [page, rows] of this.#pages) {
      const at = rows.findIndex((row) => row.id === imageId);
      if (at >= 0) return page * pageSize + at;
    }
    return -1;
  }

  /**
   * Loads pages until the image is among the rows. Numbers are given in the list's order as a rule, so its own page is
   * tried first.
   */
  async find(imageId: number): Promise<void> {
    const turn = this.#turn;
    if (this.total === null) await this.#load(0, turn);
    const pages = Math.ceil((this.total ?? 0) / pageSize);
    const guess = Math.min(pages - 1, Math.floor((imageId - 1) / pageSize));
    const order = Array.from({ length: pages }, (_, page) => page).sort((a, b) => Math.abs(a - guess) - Math.abs(b - guess));
    for (const page of order) {
      if (turn !== this.#turn || this.error || this.indexOf(imageId) >= 0) return;
      if (!this.#pages.has(page)) await this.#load(page, turn);
    }
  }

  /** Loads the pages that hold rows [from, to). */
  need(from: number, to: number): void {
    for (let page = Math.floor(Math.max(0, from) / pageSize); page * pageSize < to; page++) {
      if (this.total !== null && page * pageSize >= Math.max(1, this.total)) break;
      if (!this.#pages.has(page) && !this.#wanted.has(page)) void this.#load(page, this.#turn);
    }
  }

  /** Shows a row anew that the host has changed. */
  put(row: ImageRow): void {
    this.#pages = new Map([...this.#pages].map(([page, rows]) => [page, rows.map((other) => (other.id === row.id ? row : other))]));
  }

  /** Forgets the pages and asks for the first again, as when the filter changes. */
  reset(): void {
    this.clear();
    this.need(0, 1);
  }

  clear(): void {
    this.#turn++;
    this.#pages = new Map();
    this.#wanted.clear();
    this.total = null;
    this.error = null;
  }

  /** Asks again for the loaded pages, keeping what is shown until the answers are here. */
  refresh(): void {
    const turn = ++this.#turn;
    this.#wanted.clear();
    const pages = [...this.#pages.keys()];
    for (const page of pages.length > 0 ? pages : [0]) void this.#load(page, turn);
  }

  async #load(page: number, turn: number): Promise<void> {
    this.#wanted.add(page);
    try {
      const answer = await api.imagesPage.query({
        offset: page * pageSize,
        limit: pageSize,
        filter: this.filter,
        search: this.search.trim(),
      });
      if (turn !== this.#turn) return;
      this.total = answer.total;
      this.#pages = new Map(this.#pages).set(page, answer.rows);
      this.error = null;
    } catch (error) {
      if (turn === this.#turn) this.error = factsOf(error);
    } finally {
      if (turn === this.#turn) this.#wanted.delete(page);
    }
  }
}
