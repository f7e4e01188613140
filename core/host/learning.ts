/**
 * When to learn from decisions: a moment after the last one, when the proposing lane is free. Not what to learn; that is
 * the job's.
 */

/** Long enough that a row of quick decisions is one job, short enough to feel live. */
const defaultDelayMs = 1500;

export class LiveLearning {
  readonly #start: () => boolean;
  readonly #delayMs: number;
  #timer: NodeJS.Timeout | null = null;
  #wanted = false;

  /** @param start starts the job; false when the lane is busy, then `laneFree` tries again */
  constructor(start: () => boolean, delayMs = defaultDelayMs) {
    this.#start = start;
    this.#delayMs = delayMs;
  }

  /** A decision was made, or taken back. */
  decided(): void {
    this.#wanted = true;
    if (this.#timer) clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#due(), this.#delayMs);
  }

  laneFree(): void {
    if (this.#wanted && !this.#timer) this.#due();
  }

  cancel(): void {
    if (this.#timer) clearTimeout(this.#timer);
    this.#timer = null;
    this.#wanted = false;
  }

  #due(): void {
    this.#timer = null;
    this.#wanted = false;
    if (!this.#start()) this.#wanted = true;
  }
}
