/** Seconds a person was really at work between two decisions: the time between inputs, long gaps cut. */

/** A longer gap than this (seconds) counts as only this much. */
export const longestGap = 30;

export class ActiveClock {
  #last: number;
  #active = 0;

  /** @param now milliseconds, any origin */
  constructor(now: number) {
    this.#last = now;
  }

  /** Key, pointer or wheel at `now` (milliseconds). */
  touch(now: number): void {
    this.#active += Math.min(longestGap, Math.max(0, (now - this.#last) / 1000));
    this.#last = now;
  }

  /** Active seconds since the last call; starts the next span. */
  take(now: number): number {
    this.touch(now);
    const seconds = Math.round(this.#active * 1000) / 1000;
    this.#active = 0;
    return seconds;
  }
}
