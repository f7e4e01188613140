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
  /** Images of earlier scans whose files were not there in the last one; what was decided on them is kept. */
  readonly gone: number;
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
  readonly examples: readonly { readonly proposalId: number; readonly imageId: number; readonly box: Box; readonly rle: Rle }[];
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

/** An image of the queue: `left` proposals in it pass the filter and wait for a decision. */
export interface QueueImage {
  readonly imageId: number;
  readonly left: number;
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
  /** Of proposals: accepted, edited, rejected. */
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
