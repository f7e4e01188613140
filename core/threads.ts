/** Work on many items by several threads, in the order of the items or as they come. What the work is, is the thread's entry's. */
import { MessageChannel, parentPort, Worker, type MessagePort, type Transferable } from 'node:worker_threads';
import { AppError, errorFacts, type ErrorFacts } from './contract/index.ts';

export interface ThreadWork {
  /** The thread's file: takes one item a message, posts one reply for each, and never throws; for a pool it calls `serve`. */
  readonly entry: URL;
  readonly name: string;
  /** What the entry finds in `workerData`. */
  readonly settings: unknown;
  /** At least 1. */
  readonly threads: number;
  /** What the threads do, for people: "looks for regions". */
  readonly does: string;
}

/** What a thread is told of the one that started it, among its settings. */
export interface Owned {
  /** Where `askOwner` asks; absent where nobody answers. */
  readonly owner?: MessagePort;
}

export interface OwnedWork extends ThreadWork {
  /** Answers what a thread asks while it works on an item; memory in `transfer` goes to the thread. Settings are an object then. */
  readonly answer?: ((question: never) => Promise<{ readonly reply: unknown; readonly transfer?: readonly Transferable[] }>) | undefined;
}

/**
 * The reply for every item, in the order of `items`; at most two items a thread are worked on ahead of the one asked for.
 * Ending the iteration ends the threads.
 * @throws AppError engine-died when a thread ends by itself
 */
export async function* onThreads<Item, Reply>(
  items: readonly Item[],
  work: OwnedWork,
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

interface PoolThread {
  readonly worker: Worker;
  /** Items not answered yet. */
  open: number;
}

/**
 * Threads that take items whenever they come, so that work goes on while the asking thread computes. Each item goes to
 * the thread with the fewest. The process stays alive only while items are open.
 */
export class ThreadPool<Item, Reply> {
  readonly #does: string;
  readonly #threads: PoolThread[];
  readonly #asked = new Map<number, PromiseWithResolvers<Reply>>();
  #count = 0;
  #died: AppError | null = null;

  constructor({ entry, name, settings, threads, does }: ThreadWork) {
    this.#does = does;
    this.#threads = Array.from({ length: threads }, () => {
      const thread: PoolThread = { worker: new Worker(entry, { name, workerData: settings }), open: 0 };
      // Starting refers to it again.
      thread.worker.once('online', () => thread.open === 0 && thread.worker.unref());
      thread.worker.on('message', ({ id, reply }: { id: number; reply: Reply }) => {
        if (--thread.open === 0) thread.worker.unref();
        this.#asked.get(id)?.resolve(reply);
        this.#asked.delete(id);
      });
      thread.worker.on('error', (error) => this.#fail(error));
      thread.worker.on('exit', (code) => this.#fail(new Error(`it ended with code ${code}`)));
      return thread;
    });
  }

  /**
   * @param urgent before all items that are not begun
   * @param transfer memory that goes to the thread
   * @throws AppError engine-died when a thread ends by itself, or the pool has ended
   */
  ask(item: Item, urgent = false, transfer: readonly Transferable[] = []): Promise<Reply> {
    if (this.#died) return Promise.reject(this.#died);
    const thread = this.#threads.reduce((a, b) => (b.open < a.open ? b : a));
    if (thread.open++ === 0) thread.worker.ref();
    const id = this.#count++;
    const answer = Promise.withResolvers<Reply>();
    this.#asked.set(id, answer);
    thread.worker.postMessage({ id, item, urgent }, transfer);
    return answer.promise;
  }

  /** Ends the threads; open items are never answered but with an error. */
  async end(): Promise<void> {
    await Promise.all(this.#threads.map(({ worker }) => worker.terminate()));
  }

  #fail(cause: unknown): void {
    this.#died ??= died(this.#does, cause);
    for (const answer of this.#asked.values()) answer.reject(this.#died);
    this.#asked.clear();
  }
}

/**
 * What a pool's thread does with the items that come.
 * @param work never throws
 * @param atOnce items that are worked on at the same time
 */
export function serve<Item, Reply>(work: (item: Item) => Reply | Promise<Reply>, atOnce = 1): void {
  const waiting: { readonly id: number; readonly item: Item }[] = [];
  let running = 0;
  const next = async (): Promise<void> => {
    running++;
    for (let one = waiting.shift(); one !== undefined; one = waiting.shift())
      parentPort!.postMessage({ id: one.id, reply: await work(one.item) });
    running--;
  };
  parentPort!.on('message', ({ urgent, ...one }: { id: number; item: Item; urgent: boolean }) => {
    if (urgent) waiting.unshift(one);
    else waiting.push(one);
    if (running < atOnce) void next();
  });
}

interface Question {
  readonly id: number;
  readonly question: unknown;
}

/**
 * In a thread of `onThreads`: asks the thread that started it.
 * @param owner of its settings
 * @returns a function that throws what answering threw, as an AppError
 */
export function askOwner<Asked, Answer>(owner: MessagePort): (question: Asked, transfer?: readonly Transferable[]) => Promise<Answer> {
  const open = new Map<number, PromiseWithResolvers<Answer>>();
  let count = 0;
  owner.on('message', ({ id, ...answer }: { id: number } & ({ reply: Answer } | { error: ErrorFacts })) => {
    if ('reply' in answer) open.get(id)?.resolve(answer.reply);
    else open.get(id)?.reject(new AppError(answer.error.code, answer.error.message, answer.error.action));
    open.delete(id);
  });
  return (question, transfer) => {
    const id = count++;
    const answer = Promise.withResolvers<Answer>();
    open.set(id, answer);
    owner.postMessage({ id, question } satisfies Question, transfer);
    return answer.promise;
  };
}

/** A thread that works on one item at a time, and keeps the process alive only while it does. */
class Thread<Item, Reply> {
  readonly #worker: Worker;
  readonly #does: string;
  readonly #questions: MessagePort | null = null;
  #asked: PromiseWithResolvers<Reply> | null = null;
  #died: AppError | null = null;

  constructor({ entry, name, settings, does, answer }: OwnedWork) {
    this.#does = does;
    if (answer) {
      const { port1, port2 } = new MessageChannel();
      this.#worker = new Worker(entry, { name, workerData: { ...(settings as object), owner: port2 }, transferList: [port2] });
      this.#questions = port1;
      port1.on('message', ({ id, question }: Question) => {
        answer(question as never).then(
          ({ reply, transfer }) => port1.postMessage({ id, reply }, transfer),
          (error: unknown) => port1.postMessage({ id, error: errorFacts(error) }),
        );
      });
      // The worker keeps the process alive while it works.
      port1.unref();
    } else this.#worker = new Worker(entry, { name, workerData: settings });
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
    this.#questions?.close();
    await this.#worker.terminate();
  }

  #fail(cause: unknown): void {
    this.#died ??= died(this.#does, cause);
    this.#asked?.reject(this.#died);
  }
}

function died(does: string, cause: unknown): AppError {
  return new AppError(
    'engine-died',
    `A thread that ${does} has died: ${cause instanceof Error ? cause.message : String(cause)}.`,
    'Start the job again; what is stored already is not computed again.',
    { cause },
  );
}
