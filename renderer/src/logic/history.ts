/** Undo and redo of steps inside one edit. Not the project's history: that one is the host's and survives restarts. */

export class History<Step> {
  #done: Step[] = [];
  #undone: Step[] = [];
  readonly #limit: number;

  /** Beyond `limit` steps the oldest are forgotten. */
  constructor(limit = 200) {
    this.#limit = limit;
  }

  get canUndo(): boolean {
    return this.#done.length > 0;
  }

  get canRedo(): boolean {
    return this.#undone.length > 0;
  }

  push(step: Step): void {
    this.#done.push(step);
    if (this.#done.length > this.#limit) this.#done.shift();
    this.#undone = [];
  }

  /** The step to take back, or null. */
  undo(): Step | null {
    const step = this.#done.pop();
    if (step === undefined) return null;
    this.#undone.push(step);
    return step;
  }

  /** The step to do again, or null. */
  redo(): Step | null {
    const step = this.#undone.pop();
    if (step === undefined) return null;
    this.#done.push(step);
    return step;
  }
}
