/** What the host tells the pages that listen. Broadcasts state; nothing in the host is driven by it. */
import type { AppEvent, JobKind } from '../contract/index.ts';

type Changed = Extract<AppEvent, { type: 'changed' }>['what'];

/** At most five messages a second of a kind: a person cannot read faster, and a page re-reads at each `changed`. */
const intervalMs = 200;
/** A page that stopped listening (a sleeping laptop) loses the oldest messages, not the host's memory. */
const maxWaiting = 2000;

interface Listener {
  readonly waiting: AppEvent[];
  wake: () => void;
}

export class Hub {
  readonly #listeners = new Set<Listener>();
  /** Throttled messages by key: the timer of the pause, and the newest message that waits for its end. */
  readonly #pauses = new Map<string, { timer: NodeJS.Timeout; next: AppEvent | null }>();

  emit(event: AppEvent): void {
    for (const listener of this.#listeners) {
      listener.waiting.push(event);
      if (listener.waiting.length > maxWaiting) listener.waiting.shift();
      listener.wake();
    }
  }

  changed(...what: Changed[]): void {
    for (const one of what) this.#throttled(`changed ${one}`, { type: 'changed', what: one });
  }

  progress(kind: JobKind, event: Extract<AppEvent, { type: 'jobEvent' }>['event']): void {
    this.#throttled(`progress ${kind}`, { type: 'jobEvent', kind, event });
  }

  /** Tells the newest progress of a job that ends at once: after its end it would look like the next one's. */
  progressEnds(kind: JobKind): void {
    const key = `progress ${kind}`;
    const pause = this.#pauses.get(key);
    if (!pause) return;
    clearTimeout(pause.timer);
    this.#pauses.delete(key);
    if (pause.next) this.emit(pause.next);
  }

  /** Events from now on, after `first`, until the signal aborts. */
  async *listen(signal: AbortSignal, first: readonly AppEvent[]): AsyncGenerator<AppEvent> {
    const listener: Listener = { waiting: [...first], wake: () => {} };
    const onAbort = () => listener.wake();
    this.#listeners.add(listener);
    signal.addEventListener('abort', onAbort);
    try {
      while (!signal.aborted) {
        const event = listener.waiting.shift();
        if (event) yield event;
        else await new Promise<void>((resolve) => (listener.wake = resolve));
      }
    } finally {
      this.#listeners.delete(listener);
      signal.removeEventListener('abort', onAbort);
    }
  }

  close(): void {
    for (const { timer } of this.#pauses.values()) clearTimeout(timer);
    this.#pauses.clear();
  }

  /** The first at once, then the newest of each interval; the last one is never lost. */
  #throttled(key: string, event: AppEvent): void {
    const pause = this.#pauses.get(key);
    if (pause) {
      pause.next = event;
      return;
    }
    this.emit(event);
    const started = { timer: setTimeout(() => this.#pauseOver(key), intervalMs), next: null as AppEvent | null };
    this.#pauses.set(key, started);
  }

  #pauseOver(key: string): void {
    const next = this.#pauses.get(key)?.next ?? null;
    this.#pauses.delete(key);
    if (next) this.#throttled(key, next);
  }
}
