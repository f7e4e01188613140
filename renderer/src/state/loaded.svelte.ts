/** One value asked of the host: its latest answer, whether a call is under way, and what went wrong. */
import { factsOf, type Facts } from '../api/client.ts';

export class Loaded<T> {
  value = $state.raw<T | null>(null);
  error = $state.raw<Facts | null>(null);
  busy = $state(false);
  readonly #fetch: () => Promise<T>;
  #turn = 0;

  constructor(fetch: () => Promise<T>) {
    this.#fetch = fetch;
  }

  /** Asks again; only the newest answer counts. The old value stays until then. */
  async load(): Promise<void> {
    const turn = ++this.#turn;
    this.busy = true;
    try {
      const value = await this.#fetch();
      if (turn !== this.#turn) return;
      this.value = value;
      this.error = null;
    } catch (error) {
      if (turn === this.#turn) this.error = factsOf(error);
    } finally {
      if (turn === this.#turn) this.busy = false;
    }
  }

  /** Forgets the value, and any answer still on its way. */
  clear(): void {
    this.#turn++;
    this.value = null;
    this.error = null;
    this.busy = false;
  }
}
