/**
 * Jobs in two lanes: training, and proposing (scan, curate, prelabel, learn), so review stays live while training runs. Each job
 * is a forked worker; its events are written to the project in batches and told to the page. Knows nothing of what a job
 * computes.
 */
import { fork, type ChildProcess } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { AppError, errorFacts, type ErrorFacts, type JobEvent, type JobKind, type JobProgress, type JobState } from '../contract/index.ts';
import { workerFile, type FromWorker, type JobRequest, type ToWorker } from '../worker/index.ts';
import type { Hub } from './hub.ts';

export type Lane = 'training' | 'proposing';
export const laneOf = (kind: JobKind): Lane => (kind === 'pretrain' ? 'training' : 'proposing');

/** Time to stop by itself before it is killed: a training step, and its checkpoint; an image. */
const graceMs: Record<Lane, number> = { training: 30_000, proposing: 8_000 };
/** Events that arrive within this time share a transaction. */
const batchMs = 50;
const stderrKept = 8_000;

export interface WorkerOptions {
  /** Another jobs module instead of core/worker/jobs.ts: an absolute path. */
  readonly jobsModule?: string;
  /** Arguments of the Node executable. */
  readonly execArgv?: readonly string[];
  readonly graceMs?: number;
  /** File that remembers which GPU drivers have passed the check of their results. */
  readonly gpuChecks?: string;
}

export interface Sink {
  /** Events in order, as they come. Throwing ends the job as failed. */
  write(events: readonly JobEvent[]): void;
  /** Once, after the last write. */
  ended(state: 'finished' | 'stopped' | 'failed', error: ErrorFacts | null): void;
}

export class Jobs {
  readonly #hub: Hub;
  readonly #options: WorkerOptions;
  readonly #lanes = new Map<Lane, Job>();

  constructor(hub: Hub, options: WorkerOptions) {
    this.#hub = hub;
    this.#options = options;
  }

  /** Running or last job of each lane. */
  states(): JobState[] {
    return [...this.#lanes.values()].map((job) => job.state);
  }

  running(lane: Lane): JobState | null {
    const state = this.#lanes.get(lane)?.state;
    return state && isActive(state) ? state : null;
  }

  /** @throws AppError job-running while the lane is busy */
  refuseIfBusy(lane: Lane): void {
    const running = this.running(lane);
    if (running) throw new AppError('job-running', `${words[running.kind]} is going on.`, 'Wait until it has ended, or stop it.');
  }

  /** @throws AppError job-running */
  start(request: JobRequest, runId: string | null, sink: Sink): JobState {
    const lane = laneOf(request.kind);
    this.refuseIfBusy(lane);
    const job = new Job(request, runId, sink, this.#hub, this.#options);
    this.#lanes.set(lane, job);
    job.tell();
    return job.state;
  }

  /** Asks the lane's job to stop and waits until it has ended. */
  async stop(lane: Lane): Promise<void> {
    await this.#lanes.get(lane)?.stop();
  }

  /** Waits for the end of the lane's job, if it has one, and returns its last state. */
  async ended(lane: Lane): Promise<JobState | null> {
    const job = this.#lanes.get(lane);
    await job?.ended;
    return job?.state ?? null;
  }

  async stopAll(): Promise<void> {
    await Promise.all([...this.#lanes.values()].map((job) => job.stop()));
  }

  /** For another project: forgets what ended. */
  clear(): void {
    this.#lanes.clear();
  }
}

const words: Record<JobKind, string> = {
  scan: 'A scan',
  curate: 'Looking for copies',
  pretrain: 'Training',
  prelabel: 'Proposing',
  learn: 'Learning from decisions',
};
const isActive = (state: JobState) => state.state === 'running' || state.state === 'stopping';

class Job {
  readonly #kind: JobKind;
  readonly #runId: string | null;
  readonly #sink: Sink;
  readonly #hub: Hub;
  readonly #child: ChildProcess;
  readonly #grace: number;
  readonly ended: Promise<void>;
  #phase: JobState['state'] = 'running';
  #progress: JobProgress | null = null;
  #error: ErrorFacts | null = null;
  #batch: JobEvent[] = [];
  #batchTimer: NodeJS.Timeout | null = null;
  /** The worker's last word, when it got to say it. */
  #last: 'end' | ErrorFacts | null = null;
  /** It came to its end by itself, even if a stop was on its way. */
  #complete = false;
  #stderr = '';

  constructor(request: JobRequest, runId: string | null, sink: Sink, hub: Hub, options: WorkerOptions) {
    this.#kind = request.kind;
    this.#runId = runId;
    this.#sink = sink;
    this.#hub = hub;
    this.#grace = options.graceMs ?? graceMs[laneOf(request.kind)];
    this.#child = fork(workerFile, options.jobsModule ? [options.jobsModule] : [], {
      serialization: 'advanced',
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
      execArgv: [...(options.execArgv ?? [])],
      // libuv's threads, on which images are decoded, are four unless told before the process starts.
      env: { UV_THREADPOOL_SIZE: String(Math.max(4, availableParallelism())), ...process.env },
    });
    this.#child.stderr!.setEncoding('utf8').on('data', (text: string) => (this.#stderr = (this.#stderr + text).slice(-stderrKept)));
    this.#child.on('message', (message: FromWorker) => this.#receive(message));
    this.ended = new Promise((resolve) => {
      // 'close' comes after the last message and the last of stderr; 'error' when it could not be started.
      this.#child.on('close', (code, signal) => resolve(this.#end(code, signal)));
      this.#child.on('error', (error) => {
        this.#last ??= errorFacts(error);
        if (this.#child.pid === undefined) resolve(this.#end(null, null));
      });
    });
    const { gpuChecks } = options;
    this.#send({ type: 'start', request, options: gpuChecks === undefined ? {} : { gpuChecks } });
  }

  get state(): JobState {
    return { kind: this.#kind, runId: this.#runId, state: this.#phase, progress: this.#progress, error: this.#error };
  }

  tell(): void {
    this.#hub.emit({ type: 'job', job: this.state });
  }

  async stop(): Promise<void> {
    if (this.#phase === 'running') {
      this.#phase = 'stopping';
      this.tell();
      this.#send({ type: 'stop' });
      const timer = setTimeout(() => this.#child.kill('SIGKILL'), this.#grace);
      void this.ended.then(() => clearTimeout(timer));
    }
    await this.ended;
  }

  #send(message: ToWorker): void {
    // A worker that has just ended is dealt with by 'close'.
    this.#child.send(message, () => {});
  }

  #receive(message: FromWorker): void {
    if (message.type === 'end') this.#last = 'end';
    else if (message.type === 'error') this.#last = message.facts;
    else this.#event(message.event);
  }

  #event(event: JobEvent): void {
    if (this.#error) return; // being killed
    if (event.type === 'progress') {
      this.#progress = event;
      this.#hub.progress(this.#kind, event);
      return;
    }
    // Training says 'done' after a stop too; its last checkpoint tells the difference.
    if (event.type === 'checkpoint') this.#complete = event.step >= event.totalSteps;
    else if (event.type === 'done' && this.#kind !== 'pretrain') this.#complete = true;
    this.#batch.push(event);
    this.#batchTimer ??= setTimeout(() => this.#flush(), batchMs);
  }

  /** Tells the page only what has been written: it will come and read it. */
  #flush(): void {
    if (this.#batchTimer) clearTimeout(this.#batchTimer);
    this.#batchTimer = null;
    const events = this.#batch;
    this.#batch = [];
    if (events.length === 0 || this.#error) return;
    try {
      this.#sink.write(events);
    } catch (error) {
      this.#error = errorFacts(error);
      this.#child.kill('SIGKILL');
      return;
    }
    for (const event of events) {
      switch (event.type) {
        case 'log':
        case 'metrics':
        case 'checkpoint':
        case 'monitors':
        case 'pca':
        case 'problem':
          this.#hub.emit({ type: 'jobEvent', kind: this.#kind, event });
          break;
        default: // the page reads those from the project
      }
    }
  }

  #end(code: number | null, signal: NodeJS.Signals | null): void {
    this.#flush();
    this.#hub.progressEnds(this.#kind);
    const stopping = this.#phase === 'stopping';
    if (!this.#error && this.#last !== 'end' && !stopping) this.#error = this.#last ?? crashFacts(code, signal, this.#stderr);
    this.#phase = this.#error ? 'failed' : this.#complete || !stopping ? 'finished' : 'stopped';
    try {
      this.#sink.ended(this.#phase, this.#error);
    } catch (error) {
      this.#phase = 'failed';
      this.#error ??= errorFacts(error);
    }
    this.tell();
  }
}

/** Why a worker ended without a word. */
function crashFacts(code: number | null, signal: NodeJS.Signals | null, stderr: string): ErrorFacts {
  const goOn = 'What was finished is kept: start it again, or resume the run from its last checkpoint.';
  if (/heap out of memory|Cannot allocate memory|out of memory/i.test(stderr)) {
    return {
      code: 'engine-out-of-memory',
      message: 'The engine ran out of memory and ended.',
      action: `Close other programs, or take a smaller batch or model. ${goOn}`,
    };
  }
  if (signal === 'SIGKILL') {
    return {
      code: 'engine-died',
      message: 'The engine was killed (SIGKILL). Systems do that when memory runs out.',
      action: `If nobody ended it by hand, take a smaller batch or model. ${goOn}`,
    };
  }
  const last = stderr
    .trim()
    .split('\n')
    .findLast((line) => /[a-z]/i.test(line) && !/^\s+at |^Node\.js v/.test(line));
  const how = signal ? `by ${signal}` : `with exit code ${code}`;
  return { code: 'engine-died', message: `The engine ended unexpectedly (${how})${last ? `: ${last.trim()}` : ''}.`, action: goOn };
}
