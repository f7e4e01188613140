/** What jobs tell while they run. A job is an async generator of these; the worker posts them, the CLI prints them. */
import type { ErrorFacts } from './errors.ts';
import type { Box, ImageProblem, Rle } from './model.ts';
import type { MonitorLine, TrainMetrics } from './training.ts';
import type { CurationResult } from './curation.ts';

export type JobKind = 'scan' | 'curate' | 'pretrain' | 'prelabel' | 'learn';

export interface JobProgress {
  readonly type: 'progress';
  /** Words for a person: "Reading images", "Training", "Features", "Regions", "Clusters". */
  readonly phase: string;
  readonly done: number;
  readonly total: number;
  /** Images (or steps' images) per second; null until known. */
  readonly imagesPerSecond: number | null;
  readonly secondsLeft: number | null;
}

/** An image as the scan found it; content-addressed by `hash`. */
export interface ScannedImage {
  readonly path: string;
  readonly page: number;
  readonly bytes: number;
  readonly modifiedMs: number;
  /** SHA-256 of the file, hex. */
  readonly hash: string;
  /** Oriented (EXIF upright). */
  readonly width: number;
  readonly height: number;
  readonly format: string;
  /** Bits a sample as stored: 1, 2, 4, 8, 16, 32. */
  readonly bitDepth: number;
  readonly channels: number;
  /** EXIF orientation 1-8 as stored. */
  readonly orientation: number;
}

/** A machine's mask before it has a row in the database. */
export interface ProposalDraft {
  readonly rle: Rle;
  readonly box: Box;
  readonly area: number;
  /** 0..1 */
  readonly score: number;
  /** Difference to the runner-up class or cluster, 0..1. */
  readonly margin: number;
  /** Index into the `clusters` event of the same job, or null. */
  readonly cluster: number | null;
  readonly classId: number | null;
  /** How it was found: region of the tree, NCut object, or class prototypes. */
  readonly source: 'region' | 'object' | 'prototype';
}

export type JobEvent =
  | JobProgress
  | { readonly type: 'log'; readonly level: 'info' | 'warn'; readonly text: string }
  | { readonly type: 'images'; readonly images: readonly ScannedImage[] }
  | { readonly type: 'problem'; readonly problem: ImageProblem }
  | { readonly type: 'metrics'; readonly metrics: TrainMetrics }
  | { readonly type: 'checkpoint'; readonly step: number; readonly totalSteps: number }
  /** Comes after its checkpoint; the line is in monitors.jsonl by then. */
  | { readonly type: 'monitors'; readonly line: MonitorLine }
  /** Pictures are PNG files in runs/<id>/pca/<step>/<index>.png; index into the run's six fixed images. */
  | { readonly type: 'pca'; readonly step: number; readonly imagePaths: readonly string[]; readonly explained: number }
  | { readonly type: 'proposals'; readonly imageId: number; readonly proposals: readonly ProposalDraft[] }
  /** Replaces all unnamed clusters; `examples` name (imageId, index of the proposal in that image's list). */
  | {
      readonly type: 'clusters';
      readonly clusters: readonly {
        readonly compactness: number;
        readonly examples: readonly { readonly imageId: number; readonly index: number }[];
      }[];
      /** Cluster of every proposal: (imageId -> cluster index per proposal, -1 none). */
      readonly assignment: readonly { readonly imageId: number; readonly clusters: readonly number[] }[];
    }
  /** Replaces what was known of copies and clusters. */
  | { readonly type: 'curation'; readonly curation: CurationResult }
  | { readonly type: 'done'; readonly summary: string };

/** What the host tells the page. */
export type AppEvent =
  | { readonly type: 'job'; readonly job: JobState }
  | {
      readonly type: 'jobEvent';
      readonly kind: JobKind;
      readonly event: Extract<JobEvent, { type: 'progress' | 'log' | 'metrics' | 'checkpoint' | 'monitors' | 'pca' | 'problem' }>;
    }
  /** Something in the open project changed; the page re-reads what it shows. */
  | {
      readonly type: 'changed';
      readonly what: 'project' | 'images' | 'curation' | 'classes' | 'proposals' | 'clusters' | 'runs' | 'weights' | 'exports' | 'settings';
    };

export interface JobState {
  readonly kind: JobKind;
  readonly runId: string | null;
  readonly state: 'running' | 'stopping' | 'finished' | 'stopped' | 'failed';
  readonly progress: JobProgress | null;
  /** Set when failed: the reason, in words. */
  readonly error: ErrorFacts | null;
}
