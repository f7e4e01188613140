/** What both sides speak about training: presets, runs and what they measure, weights from and for other programs. */
import type { ErrorFacts } from './errors.ts';

/** A ready choice of model and schedule. Every number comes with the reason it was chosen. */
export interface TrainPreset {
  readonly id: string;
  readonly title: string;
  /** One sentence: for whom. */
  readonly summary: string;
  readonly model: 'nano' | 'tiny' | 'small' | 'base' | 'large' | 'giant' | 'custom';
  readonly numbers: readonly { readonly name: string; readonly value: string; readonly reason: string }[];
  readonly steps: number;
  readonly batch: number;
  /** Batches whose gradients make up one step. */
  readonly accumulate: number;
  /** Rough time on this machine in seconds; null when unknown. */
  readonly estimatedSeconds: number | null;
}

export interface TrainPresets {
  readonly presets: readonly TrainPreset[];
  /** Fewer images cannot be trained on. */
  readonly fewestImages: number;
  readonly recommendedId: string;
  /** Why this one: "1,747 images and no GPU". */
  readonly reason: string;
  /** What speaks against training at all, from these weights with these images; null: nothing. */
  readonly warning: string | null;
  /** What training will run on, and why: "cpu, 2 threads (no GPU was found)". */
  readonly engine: string;
}

export interface RunRow {
  readonly id: string;
  readonly presetTitle: string;
  readonly model: string;
  readonly startedAt: string;
  readonly state: 'running' | 'stopped' | 'finished' | 'failed';
  readonly step: number;
  readonly totalSteps: number;
  /** Steps that have a checkpoint on disk, ascending. */
  readonly checkpoints: readonly number[];
  /** The checkpoint to go on with unless a person says otherwise; null without checkpoints. */
  readonly chosen: CheckpointChoice | null;
  /** In words, the weights it started from: "imported dinov2_vits14_pretrain.pth"; null: random ones. */
  readonly startedFrom: string | null;
  /** In words, the frozen network it learns from; null: none, its own average teaches. */
  readonly taughtBy: string | null;
  readonly error: ErrorFacts | null;
}

/** Which checkpoint of a run, and why, in words for a person. */
export interface CheckpointChoice {
  readonly step: number;
  readonly reason: string;
}

/** One line of runs/<id>/metrics.jsonl. Loss terms as they enter the total (spec 5.6). */
export interface TrainMetrics {
  readonly step: number;
  readonly totalSteps: number;
  readonly total: number;
  readonly dinoGlobal: number;
  readonly dinoLocal: number;
  readonly ibot: number;
  readonly koleo: number;
  readonly learningRate: number;
  readonly weightDecay: number;
  readonly teacherMomentum: number;
  readonly teacherTemperature: number;
  /** Of the teacher's class tokens over the prototypes, as shares of log K (core/dinov2/entropy.ts). */
  readonly sampleEntropy: number;
  readonly marginalEntropy: number;
  /** Before clipping, per part. */
  readonly gradNorm: Readonly<Record<string, number>>;
  readonly imagesPerSecond: number;
  readonly secondsLeft: number;
}

/**
 * One line of runs/<id>/monitors.jsonl: what can be told about a checkpoint's teacher without labels, on the same images
 * at every checkpoint of the run. Defined in core/evaluate; shares are 0..1.
 */
export interface MonitorLine {
  readonly step: number;
  readonly totalSteps: number;
  /** Images looked at, two crops of each. */
  readonly images: number;
  /** Width D of a token: the largest rank there can be. */
  readonly width: number;
  /** Share of patches that find their own place in another crop of the image. */
  readonly denseCorrespondence: number;
  /** Agreement of patch clusters found on two halves of the images, corrected for chance. */
  readonly clusterStability: number;
  /** Share of crops whose class token finds the other crop of the same image. */
  readonly viewRetrieval: number;
  /** RankMe: effective number of directions, 1 to D. */
  readonly classRank: number;
  readonly patchRank: number;
  /** Mean cosine between different images, of class tokens and of patches, -1..1. */
  readonly classCosine: number;
  readonly patchCosine: number;
  /** Share of patch tokens with an abnormally large norm. */
  readonly outlierShare: number;
  /** Means over the steps logged since the checkpoint before; null at the first. */
  readonly loss: number | null;
  /** DINO's part of the loss as a share of log K: 1, the student guesses. */
  readonly dinoLoss: number | null;
  readonly sampleEntropy: number | null;
  readonly marginalEntropy: number | null;
  /** What measuring took. */
  readonly seconds: number;
}

/** Something in a run's monitors that a person should know: two signs together, never one alone. */
export interface TrainAlarm {
  readonly kind: 'uniform-collapse' | 'collapse' | 'dense-degradation';
  /** The checkpoint at which it was first seen. */
  readonly step: number;
  /** What is seen, with the numbers. */
  readonly message: string;
  /** What to do. */
  readonly action: string;
}

export interface TrainMonitors {
  readonly lines: readonly MonitorLine[];
  readonly alarms: readonly TrainAlarm[];
}

/** How well one kind of features tells the classes of given masks apart, IoU 0..1 on images the probe was not fitted on. */
export interface ProbeScore {
  /** Ridge regression on patches, classes weighing alike, its scores enlarged to the mask. Classes as in the report. */
  readonly linear: readonly number[];
  /** Weighted vote of the nearest patches. */
  readonly nearest: readonly number[];
}

/** runs/<id>/probe.json: features measured against masks a person has. */
export interface ProbeReport {
  readonly createdAt: string;
  /** Names of the classes that are scored, background first when there is one. */
  readonly classes: readonly string[];
  readonly trainImages: number;
  readonly testImages: number;
  /** Shorter side of the images as the network saw them, in pixels. */
  readonly side: number;
  /** Mean and spread of the colours of a patch: what any network has to beat. */
  readonly colour: ProbeScore;
  readonly untrained: ProbeScore;
  /** Checkpoints that were scored, ascending. */
  readonly checkpoints: readonly { readonly step: number; readonly score: ProbeScore }[];
}

export interface PcaStep {
  readonly step: number;
  /** Same six images at every step; URLs below /files/. */
  readonly pictures: readonly { readonly imageId: number; readonly url: string }[];
  /** Share of variance of the three components together, 0..1; above 0.6 for the first alone hints at collapse. */
  readonly explained: number;
}

// --- weights from and for other programs ------------------------------------------------------------------------------

/** A network that was imported into the project. */
export interface WeightsRow {
  /** The first 16 digits of the file's SHA-256. */
  readonly id: string;
  readonly fileName: string;
  readonly bytes: number;
  /** Of the imported file, hex. */
  readonly sha256: string;
  /** True when a SHA-256 was given at import, and it was this one. */
  readonly checked: boolean;
  readonly importedAt: string;
  /** What the file was: "PyTorch file, official names". */
  readonly layout: string;
  /** Type of its values: F32, F16, BF16. */
  readonly type: string;
  readonly network: NetworkFacts;
  /** Which projection heads came with it. */
  readonly heads: readonly ('dino' | 'ibot')[];
  /** What a person should know of it. */
  readonly notes: readonly string[];
}

export interface NetworkFacts {
  /** small, base, ..., or custom for a size without a name. */
  readonly name: string;
  readonly embedDim: number;
  readonly depth: number;
  readonly patchSize: number;
  readonly registers: number;
  /** The position table holds that many patches a side. */
  readonly positionGrid: number;
  readonly parameters: number;
}

/** A file that Meta published. Where to get it; the app fetches nothing. */
export interface PublishedWeights {
  readonly id: string;
  readonly network: NetworkFacts;
  readonly url: string;
  /** Four bytes a parameter: derived, not read from the file, which is a little larger. */
  readonly derivedBytes: number;
}

/** official: a flat .pth · huggingface: a folder for transformers · trainer-checkpoint: with heads · hand-over: a folder for the official trainer. */
export type NetworkFormat = 'official' | 'huggingface' | 'trainer-checkpoint' | 'hand-over';

export interface NetworkExportRow {
  readonly id: string;
  readonly createdAt: string;
  readonly format: NetworkFormat;
  /** Which network, in words: "run 2, step 400". */
  readonly source: string;
  readonly bytes: number;
  readonly files: readonly string[];
  /** The folder, for display. */
  readonly location: string;
}
