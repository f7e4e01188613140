/** What a person sees of a running command: one progress line on stderr, or JSON events on stdout with --json. */
import type { AppEvent, ErrorFacts, JobProgress } from '../contract/index.ts';

const barWidth = 24;
/** Without a terminal (a log file, CI) a line every so often is enough. */
const quietMs = 10_000;

export class Terminal {
  readonly #json: boolean;
  readonly #live: boolean;
  #lastLine = 0;
  #lastPhase = '';
  #lastComplete = false;
  #shown = false;

  /** @param json events as JSON lines on stdout, nothing for people */
  constructor(json = false) {
    this.#json = json;
    this.#live = !json && process.stderr.isTTY === true;
  }

  /** A line to keep. */
  say(text: string): void {
    if (this.#json) return;
    this.#clear();
    process.stderr.write(`${text}\n`);
  }

  /** The command's answer, on stdout. */
  result(text: string, value: unknown): void {
    this.#clear();
    process.stdout.write(this.#json ? `${JSON.stringify({ type: 'result', result: value })}\n` : `${text}\n`);
  }

  error(facts: ErrorFacts): void {
    this.#clear();
    if (this.#json) process.stdout.write(`${JSON.stringify({ type: 'error', error: facts })}\n`);
    else process.stderr.write(`${facts.message}\n${facts.action}\n`);
  }

  event(event: AppEvent): void {
    if (this.#json) {
      process.stdout.write(`${JSON.stringify(event)}\n`);
      return;
    }
    if (event.type === 'job' && event.job.state === 'running' && event.job.progress) this.progress(event.job.progress);
    if (event.type !== 'jobEvent') return;
    const inner = event.event;
    if (inner.type === 'progress') this.progress(inner);
    if (inner.type === 'log') this.say(inner.level === 'warn' ? `Note: ${inner.text}` : inner.text);
    if (inner.type === 'problem') this.say(`${inner.problem.path}: ${inner.problem.message} ${inner.problem.action}`);
  }

  progress(progress: JobProgress): void {
    if (this.#json) return;
    const line = progressLine(progress);
    if (this.#live) {
      process.stderr.write(`\r\x1b[2K${line}`);
      this.#shown = true;
      return;
    }
    const now = Date.now();
    const complete = progress.done >= progress.total;
    const samePhase = progress.phase === this.#lastPhase;
    // The line of a complete phase is always there, and once.
    if (samePhase && (complete ? this.#lastComplete : !this.#lastComplete && now - this.#lastLine < quietMs)) return;
    this.#lastLine = now;
    this.#lastPhase = progress.phase;
    this.#lastComplete = complete;
    process.stderr.write(`${line}\n`);
  }

  #clear(): void {
    if (this.#shown) process.stderr.write('\r\x1b[2K');
    this.#shown = false;
  }
}

/** "Training      [#########...............] 37 %  31.4 images/s  1:52 left" */
export function progressLine({ phase, done, total, imagesPerSecond, secondsLeft }: JobProgress): string {
  const share = total > 0 ? Math.min(1, done / total) : 0;
  const filled = Math.round(share * barWidth);
  const parts = [
    `${phase.padEnd(16)} [${'#'.repeat(filled)}${'.'.repeat(barWidth - filled)}] ${String(Math.floor(100 * share)).padStart(3)} %`,
  ];
  if (imagesPerSecond !== null) parts.push(`${imagesPerSecond.toFixed(1)} images/s`);
  if (secondsLeft !== null) parts.push(`${clock(secondsLeft)} left`);
  return parts.join('  ');
}

function clock(seconds: number): string {
  const s = Math.max(0, Math.round(seconds));
  const rest = `${String(Math.floor((s % 3600) / 60)).padStart(s >= 3600 ? 2 : 1, '0')}:${String(s % 60).padStart(2, '0')}`;
  return s >= 3600 ? `${Math.floor(s / 3600)}:${rest}` : rest;
}
