/** What both sides speak about curation: copies, balance, what a run trains on. */

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
