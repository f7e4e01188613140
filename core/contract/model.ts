/** The things both sides speak about. Words as in core/README.md; sizes in oriented (EXIF upright) pixels. */
import type { ErrorFacts } from './errors.ts';

/** COCO compressed run lengths, down columns, of the whole oriented image: `size` is [height, width]. */
export interface Rle {
  readonly size: readonly [number, number];
  readonly counts: string;
}

/** [x, y, width, height] in oriented pixels. */
export type Box = readonly [number, number, number, number];

export interface FolderEntry {
  /** Opaque; the page never sees or sends a path. */
  readonly id: string;
  /** Last part of the path, for display. */
  readonly name: string;
  /** Path for display only, from the root that was allowed on the command line. */
  readonly label: string;
  readonly hasFolders: boolean;
  /** Image files directly inside, counted up to 1,000. */
  readonly imageFiles: number;
  /** True when the folder is itself a Patchwise project. */
  readonly isProject: boolean;
}

/** A file of weights that may be imported, as the folder browser lists it. */
export interface FileEntry {
  /** Opaque, as a folder's. */
  readonly id: string;
  readonly name: string;
  readonly bytes: number;
}

export interface ClassRow {
  readonly id: number;
  readonly name: string;
  /** #rrggbb */
  readonly color: string;
  /** Digit 1-9 that selects it in review, or null past the ninth. */
  readonly key: number | null;
  /** Accepted, edited and drawn annotations of this class. */
  readonly annotations: number;
}

export interface ImageRow {
  readonly id: number;
  /** Path inside the image folder, forward slashes. */
  readonly path: string;
  readonly width: number;
  readonly height: number;
  readonly bytes: number;
  readonly format: string;
  /** Pages of a multi-page file; each page past the first is its own row with `page` > 0. */
  readonly page: number;
  readonly state: 'new' | 'started' | 'done';
  readonly proposed: number;
  readonly annotations: number;
}

export interface ImageProblem extends ErrorFacts {
  readonly path: string;
}

export interface ProjectSummary {
  readonly id: string;
  readonly name: string;
  /** Where the images are, for display. */
  readonly imageFolder: string;
  readonly createdAt: string;
  readonly images: number;
  readonly problems: number;
  readonly readOnly: boolean;
  readonly counts: {
    readonly proposed: number;
    readonly accepted: number;
    readonly edited: number;
    readonly rejected: number;
    readonly unsure: number;
    readonly drawn: number;
  };
  readonly latestRunId: string | null;
}

export interface RecentProject {
  readonly id: string;
  readonly name: string;
  readonly location: string;
  readonly openedAt: string;
}

// --- training ---------------------------------------------------------------------------------------------------------

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
  /** Rough time on this machine in seconds; null when unknown. */
  readonly estimatedSeconds: number | null;
}

export interface TrainPresets {
  readonly presets: readonly TrainPreset[];
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

// --- curation: copies, balance, what a run trains on --------------------------------------------------------------------

/** What the curation job found out about a set of images. */
export interface CurationResult {
  /** Whose descriptors: "pictures" (plain appearance), or a network's key. */
  readonly features: string;
  /** Images that are copies or crops of each other; the first member is the one to keep. */
  readonly groups: readonly {
    readonly members: readonly {
      readonly imageId: number;
      /** Correlation of the gray values with the first member (or the nearest one), 0..1. */
      readonly similarity: number;
      /** The same pixels as the first member. */
      readonly exact: boolean;
    }[];
  }[];
  /** Images that look alike; larger clusters first. */
  readonly clusters: readonly {
    /** Mean cosine of the members to the centre, 0..1. */
    readonly compactness: number;
    /** Most typical first. */
    readonly examples: readonly number[];
  }[];
  /** Every image that could be read, with the index of its cluster. */
  readonly images: readonly { readonly imageId: number; readonly cluster: number }[];
}

/** How a run's list is made of the project's images. */
export interface TrainingListOptions {
  /** Copies and crops are left out, one of each group stays. */
  readonly dedupe: boolean;
  /** No cluster gives more than its share. */
  readonly balance: boolean;
  /** With balance: images wanted in all; null: no cluster gives more than twice the median cluster. */
  readonly keep: number | null;
}

export type LeftOutReason =
  /** Named by a list of images to leave out. */
  | { readonly kind: 'excluded'; readonly line: string }
  | {
      readonly kind: 'duplicate';
      /** The image that stays in its stead, or, with `ofExcluded`, the one that was asked to be left out. */
      readonly of: number;
      readonly similarity: number;
      readonly exact: boolean;
      readonly ofExcluded: boolean;
    }
  /** Drawn out of a cluster that had more than its share. */
  | { readonly kind: 'over-share'; readonly cluster: number; readonly size: number; readonly share: number };

export interface LeftOut {
  readonly imageId: number;
  readonly reason: LeftOutReason;
}

/** The last curation of the project, in numbers. */
export interface CurationSummary {
  readonly createdAt: string;
  readonly features: string;
  readonly images: number;
  readonly groups: number;
  /** Images that are not the first of their group; `exact` of them have the same pixels as the first. */
  readonly copies: number;
  readonly exact: number;
  readonly clusters: number;
  /** Images of the project that it does not know, or that have changed since, and images it knows that are gone: 0 and 0 when up to date. */
  readonly changed: number;
  readonly gone: number;
}

export interface DuplicateGroup {
  readonly id: number;
  /** The one to keep first. */
  readonly images: readonly {
    readonly imageId: number;
    readonly path: string;
    readonly width: number;
    readonly height: number;
    readonly similarity: number;
    readonly exact: boolean;
  }[];
}

export interface ImageCluster {
  readonly id: number;
  readonly compactness: number;
  readonly examples: readonly number[];
  /** Images of it, and how many of them a run would train on. */
  readonly images: number;
  readonly kept: number;
}

/** What a run with these options would train on. */
export interface TrainingListPreview {
  readonly images: number;
  readonly kept: number;
  readonly copies: number;
  readonly overShare: number;
  readonly clusters: readonly ImageCluster[];
}

export interface LeftOutRow extends LeftOut {
  readonly path: string;
  /** Path of the image that stays, of a duplicate. */
  readonly ofPath: string | null;
}

export interface SimilarImage {
  readonly imageId: number;
  readonly path: string;
  /** Cosine to the nearest of the images asked about, -1..1. */
  readonly similarity: number;
}

// --- proposals and review ---------------------------------------------------------------------------------------------

/** Regions of the whole set that look alike, waiting for a name. */
export interface ClusterCard {
  readonly id: number;
  readonly proposals: number;
  readonly images: number;
  /** Mean calibrated cosine to the centre, 0..1. */
  readonly compactness: number;
  readonly classId: number | null;
  readonly discarded: boolean;
  /** Up to 8 examples, most typical first. */
  readonly examples: readonly { readonly proposalId: number; readonly imageId: number; readonly box: Box }[];
}

export type ProposalState = 'proposed' | 'accepted' | 'edited' | 'rejected' | 'unsure';

/** A mask on an image: a machine's proposal, or a person's annotation. */
export interface ReviewObject {
  readonly kind: 'proposal' | 'annotation';
  readonly id: number;
  readonly imageId: number;
  readonly classId: number | null;
  readonly clusterId: number | null;
  /** 0..1: predicted overlap with the truth; null for annotations. */
  readonly score: number | null;
  readonly state: ProposalState | 'drawn';
  readonly box: Box;
  readonly area: number;
  readonly rle: Rle;
}

export interface QueueItem {
  readonly proposalId: number;
  readonly imageId: number;
  readonly classId: number | null;
  readonly clusterId: number | null;
  readonly score: number;
  readonly state: 'proposed' | 'unsure';
}

export interface ReviewImage {
  readonly image: ImageRow;
  readonly objects: readonly ReviewObject[];
}

export interface ReviewChange {
  readonly imageId: number;
  /** Objects of that image after the change. */
  readonly objects: readonly ReviewObject[];
  readonly canUndo: boolean;
  readonly canRedo: boolean;
  /** What was done, for a toast: "Accepted as leaf". */
  readonly label: string;
}

export interface ReviewStats {
  readonly decided: number;
  readonly remaining: number;
  readonly acceptedAsIs: number;
  /** Median active seconds per decision (gaps over 30 s cut); null before 5 decisions. */
  readonly secondsPerDecision: number | null;
  /** Per person only when turned on in settings. */
  readonly perReviewer: readonly { readonly reviewer: string; readonly decided: number; readonly seconds: number }[] | null;
}

// --- export -----------------------------------------------------------------------------------------------------------

export type ExportFormat = 'coco-rle' | 'coco-polygons';
/** accepted: accepted as is · reviewed: accepted, edited and drawn · everything: also undecided proposals, with scores. */
export type ExportScope = 'accepted' | 'reviewed' | 'everything';

export interface ExportPreflight {
  readonly images: number;
  readonly objects: number;
  readonly withoutClass: number;
  /** What this format would lose: "3 objects have holes; COCO polygons will fill them." */
  readonly warnings: readonly string[];
}

export interface ExportRow {
  readonly id: string;
  readonly createdAt: string;
  readonly format: ExportFormat;
  readonly scope: ExportScope;
  readonly images: number;
  readonly objects: number;
  readonly files: readonly { readonly name: string; readonly bytes: number; readonly url: string }[];
  /** The folder, for display. */
  readonly location: string;
}

export interface Settings {
  /** Empty: decisions carry no name. */
  readonly reviewer: string;
  readonly perReviewerFigures: boolean;
  readonly theme: 'system' | 'light' | 'dark';
}

export interface AppInfo {
  readonly version: string;
  /** True inside Electron: folders are chosen by the native dialog. */
  readonly nativeDialogs: boolean;
  readonly engine: string;
  readonly settings: Settings;
}
