/** Front door of the worker: what to fork, and the messages between it and its host. */
import { fileURLToPath } from 'node:url';
import type { ErrorFacts, JobEvent } from '../contract/index.ts';
import type { JobOptions, JobRequest } from './jobs.ts';

export type { BackboneSource, CurateRequest, JobRequest, LearnRequest, PrelabelRequest, PretrainRequest, ScanRequest } from './jobs.ts';

/** The file to fork: beside this one, compiled or not. */
export const workerFile = fileURLToPath(new URL(import.meta.url.endsWith('.ts') ? './main.ts' : './main.js', import.meta.url));

export type ToWorker = { readonly type: 'start'; readonly request: JobRequest; readonly options: JobOptions } | { readonly type: 'stop' };

export type FromWorker =
  | { readonly type: 'event'; readonly event: JobEvent }
  /** The generator has ended by itself or after a stop. */
  | { readonly type: 'end' }
  | { readonly type: 'error'; readonly facts: ErrorFacts };
