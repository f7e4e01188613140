/** Short notes at the lower edge: what was done, with Undo; what failed, with what to do. */
import { factsOf, type Facts } from '../api/client.ts';

export interface Toast {
  readonly id: number;
  /** A new toast with the same key takes the old one's place. */
  readonly key: string | null;
  readonly tone: 'note' | 'error';
  readonly text: string;
  readonly detail: string | null;
  readonly button: { readonly label: string; readonly run: () => void } | null;
}

class Toasts {
  list = $state.raw<readonly Toast[]>([]);
  #next = 1;

  note(text: string, options: { key?: string; button?: Toast['button'] } = {}): void {
    this.#add({ key: options.key ?? null, tone: 'note', text, detail: null, button: options.button ?? null }, 6000);
  }

  /** The same failure is shown once, however often it repeats. */
  fail(error: unknown, button: Toast['button'] = null): void {
    this.facts(factsOf(error), button);
  }

  facts(facts: Facts, button: Toast['button'] = null): void {
    this.#add({ key: `error:${facts.code}:${facts.message}`, tone: 'error', text: facts.message, detail: facts.action, button }, 14_000);
  }

  close(id: number): void {
    this.list = this.list.filter((toast) => toast.id !== id);
  }

  closeKey(key: string): void {
    this.list = this.list.filter((toast) => toast.key !== key);
  }

  #add(toast: Omit<Toast, 'id'>, milliseconds: number): void {
    const id = this.#next++;
    this.list = [...this.list.filter((other) => toast.key === null || other.key !== toast.key), { ...toast, id }].slice(-3);
    setTimeout(() => this.close(id), milliseconds);
  }
}

export const toasts = new Toasts();

/** Runs a call started by a click; failures become a toast. Returns whether it succeeded. */
export async function attempt(call: () => Promise<unknown>): Promise<boolean> {
  try {
    await call();
    return true;
  } catch (error) {
    toasts.fail(error);
    return false;
  }
}
