/** Work on many items by several threads, answered in the order of the items. What the work is, is the thread's entry's. */
import { Worker } from 'node:worker_threads';
import { AppError } from './contract/index.ts';

export interface ThreadWork {
  /** The thread's file: takes one item a message, posts one reply for each, and never throws. */
  readonly entry: URL;
  readonly name: string;
  /** What the entry finds in `workerData`. */
  readonly settings: unknown;
  /** At least 1. */
  readonly threads: number;
  /** What the threads do, for people: "looks for regions". */
  readonly does: string;
}

/**
 * The reply for every item, in the order of `items`; at most two items a thread are worked on ahead of the one asked for.
 * Ending the iteration ends the threads.
 * @throws AppError engine-died when a thread ends by itself
 */
export async function* onThreads<Item, Reply>(
  items: readonly Item[],
  work: ThreadWork,
): AsyncGenerator<{ readonly item: Item; readonly reply: Reply }> {
  const pool = Array.from({ length: work.threads }, () => new Thread<Item, Reply>(work));
  const idle = [...pool];
  /** Replies that were asked for and not yet yielded, in the order of the items. */
  const ahead: Promise<Reply>[] = [];
  let next = 0;
  const feed = (): void => {
    while (idle.length > 0 && ahead.length < 2 * work.threads && next < items.length) {
      const thread = idle.pop()!;
      const reply = thread.ask(items[next++]).then((value) => {
        idle.push(thread);
        feed();
        return value;
      });
      // Its turn may come late or never: until then a failure is nobody's.
      reply.catch(() => {});
      ahead.push(reply);
    }
  };
  try {
    for (const item of items) {
      feed();
      yield { item, reply: await ahead.shift()! };
    }
  } finally {
    await Promise.all(pool.map((thread) => thread.end()));
  }
}

/** A thread that works on one item at a time, and keeps the process alive only while it does. */
class Thread<Item, Reply> {
  readonly #worker: Worker;
  readonly #does: string;
  #asked: PromiseWithResolvers<Reply> | null = null;
  #died: AppError | null = null;

  constructor({ entry, name, settings, does }: ThreadWork) {
    this.#does = does;
    this.#worker = new Worker(entry, { name, workerData: settings });
    this.#worker.unref();
    this.#worker.on('message', (reply: Reply) => {
      this.#worker.unref();
      this.#asked?.resolve(reply);
    });
    this.#worker.on('error', (error) => this.#fail(error));
    this.#worker.on('exit', (code) => this.#fail(new Error(`it ended with code ${code}`)));
  }

  /** @throws AppError engine-died */
  ask(item: Item): Promise<Reply> {
    this.#asked = Promise.withResolvers();
    if (this.#died !== null) this.#asked.reject(this.#died);
    this.#worker.ref();
    this.#worker.postMessage(item);
    return this.#asked.promise;
  }

  async end(): Promise<void> {
    await this.#worker.terminate();
  }

  #fail(cause: unknown): void {
    this.#died ??= new AppError(
      'engine-died',
      `A thread that ${this.#does} has died: ${cause instanceof Error ? cause.message : String(cause)}.`,
      'Start the job again; what is stored already is not computed again.',
      { cause },
    );
    this.#asked?.reject(this.#died);
  }
}
