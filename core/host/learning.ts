/**
 * When to learn from decisions: a moment after the last one, when the proposing lane is free. Not what to learn; that is
 * the job's.
 */

/** Long enough that a row of quick decisions is one job, short enough to feel live. */
const defaultDelayMs = 1500;

export class LiveLearning {
  readonly #start: () => Promise<boolean>;
  readonly #delayMs: number;
  #timer: NodeJS.Timeout | null = null;
  #wanted = false;

  /** @param start starts the job, when there is anything to learn; false when the lane is busy: `laneFree` tries again */
  constructor(start: () => Promise<boolean>, delayMs = defaultDelayMs) {
    this.#start = start;
    this.#delayMs = delayMs;
  }

  /** A decision was made, or taken back. */
  decided(): void {
    this.#wanted = true;
    if (this.#timer) clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.startNow(), this.#delayMs);
  }

  laneFree(): void {
    if (!this.#timer) void this.startNow();
  }

  /** Without the pause; nothing when no decision waits. */
  async startNow(): Promise<void> {
    if (this.#timer) clearTimeout(this.#timer);
    this.#timer = null;
    if (!this.#wanted) return;
    this.#wanted = false;
    // A decision made while it starts counts again.
    if (!(await this.#start())) this.#wanted = true;
  }

  cancel(): void {
    if (this.#timer) clearTimeout(this.#timer);
    this.#timer = null;
    this.#wanted = false;
  }
}
