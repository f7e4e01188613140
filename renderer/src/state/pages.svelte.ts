/** Rows of a long list that the host gives page by page: only those that were looked at are here. */
import { factsOf, type Facts } from '../api/client.ts';

const pageSize = 100;

export class PagedRows<T> {
  total = $state<number | null>(null);
  error = $state.raw<Facts | null>(null);
  #pages = $state.raw<ReadonlyMap<number, readonly T[]>>(new Map());
  readonly #wanted = new Set<number>();
  readonly #fetch: (page: { offset: number; limit: number }) => Promise<{ total: number; rows: readonly T[] }>;
  #turn = 0;

  constructor(fetch: (page: { offset: number; limit: number }) => Promise<{ total: number; rows: readonly T[] }>) {
    this.#fetch = fetch;
  }

  /** Null while its page is on the way. */
  row(index: number): T | null {
    return this.#pages.get(Math.floor(index / pageSize))?.[index % pageSize] ?? null;
  }

  /** Loads the pages that hold rows [from, to). */
  need(from: number, to: number): void {
    for (let page = Math.floor(Math.max(0, from) / pageSize); page * pageSize < to; page++) {
      if (this.total !== null && page * pageSize >= Math.max(1, this.total)) break;
      if (!this.#pages.has(page) && !this.#wanted.has(page)) void this.#load(page, this.#turn);
    }
  }

  /** Forgets everything and asks for the first page. */
  reset(): void {
    this.#turn++;
    this.#pages = new Map();
    this.#wanted.clear();
    this.total = null;
    this.error = null;
    this.need(0, 1);
  }

  async #load(page: number, turn: number): Promise<void> {
    this.#wanted.add(page);
    try {
      const answer = await this.#fetch({ offset: page * pageSize, limit: pageSize });
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
