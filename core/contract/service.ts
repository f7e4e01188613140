/**
 * The calls the page may make. `router.ts` turns a HostService into a typed tRPC router; a call missing on either side
 * is a compile error. No call takes a path: folders are ids handed out by `folders`, or chosen in the native dialog.
 */
import { z } from 'zod';
import type {
  AppInfo,
  ClassRow,
  ClusterCard,
  ExportPreflight,
  ExportRow,
  FileEntry,
  FolderEntry,
  ImageProblem,
  ImageRow,
  ProjectSummary,
  QueueImage,
  RecentProject,
  ReviewChange,
  ReviewImage,
  ReviewStats,
  Settings,
} from './model.ts';
import type {
  NetworkExportRow,
  PcaStep,
  ProbeReport,
  PublishedWeights,
  RunRow,
  TrainMetrics,
  TrainMonitors,
  TrainPresets,
  WeightsRow,
} from './training.ts';
import type { CurationSummary, DuplicateGroup, LeftOutRow, SimilarImage, TrainingListPreview } from './curation.ts';
import type { AppEvent, JobState } from './events.ts';

const rle = z.object({ size: z.tuple([z.int().min(1), z.int().min(1)]).readonly(), counts: z.string().max(20_000_000) });
const id = z.int().min(1);
/** A run's teacher at a step (null: its chosen checkpoint), or an imported network. */
const network = z.union([z.object({ runId: z.string(), step: z.int().min(0).nullable() }), z.object({ weightsId: z.string() })]);
const trainingList = z.object({ dedupe: z.boolean(), balance: z.boolean(), keep: z.int().min(1).nullable() });
/** What computes; absent: auto, or the one that a run was started with. */
const engine = z.enum(['auto', 'cpu', 'tensorflow', 'webgpu']).optional();
/** What the webgpu engine stores activations in; absent: f16 where the GPU can, or that of the run. */
const precision = z.enum(['f32', 'f16']).optional();

/** Input schemas, named as the calls. Calls without input have none. */
export const inputs = {
  saveSettings: z.object({ reviewer: z.string().max(200), perReviewerFigures: z.boolean(), theme: z.enum(['system', 'light', 'dark']) }),
  folderChildren: z.object({ folderId: z.string() }),
  /** purpose decides the words on the native dialog. */
  chooseFolder: z.object({ purpose: z.enum(['images', 'project']) }),
  folderFiles: z.object({ folderId: z.string() }),
  /** locationId null: the default projects folder. The project becomes a new folder `name` inside the location. */
  createProject: z.object({ name: z.string().trim().min(1).max(120), imagesId: z.string(), locationId: z.string().nullable() }),
  openProject: z.object({ folderId: z.string() }),
  openRecent: z.object({ recentId: z.string() }),
  imagesPage: z.object({
    offset: z.int().min(0),
    limit: z.int().min(1).max(500),
    filter: z.enum(['all', 'todo', 'done']),
    search: z.string().max(200),
  }),
  createClass: z.object({
    name: z.string().trim().min(1).max(120),
    color: z
      .string()
      .regex(/^#[0-9a-f]{6}$/)
      .nullable(),
  }),
  updateClass: z.object({ classId: id, name: z.string().trim().min(1).max(120), color: z.string().regex(/^#[0-9a-f]{6}$/) }),
  removeClass: z.object({ classId: id }),
  /** from pictures: plain appearance. From a network: runId and step as in startPrelabel. */
  startCuration: z.object({ from: z.enum(['pictures', 'network']), runId: z.string().nullable(), step: z.int().min(0).nullable() }),
  page: z.object({ offset: z.int().min(0), limit: z.int().min(1).max(500) }),
  trainingList,
  leftOut: trainingList.extend({ offset: z.int().min(0), limit: z.int().min(1).max(500) }),
  similarImages: z.object({ imageIds: z.array(id).min(1).max(100), limit: z.int().min(1).max(500) }),
  /** from: the weights to start from, distillFrom: the network to learn from; null or nothing at all: none. */
  trainPresets: z.object({ from: network.nullable(), distillFrom: network.nullable().optional() }).optional(),
  startTraining: z.object({
    /** The weights to start from, which the run copies; absent or null: random ones. Of a run's steps null: the chosen one. */
    from: network.nullable().optional(),
    /** The larger network to learn from, with heads, which the run copies; absent or null: the student's own average. */
    distillFrom: network.nullable().optional(),
    presetId: z.string(),
    steps: z.int().min(1).max(10_000_000).nullable(),
    batch: z.int().min(2).max(4096).nullable(),
    /** Batches whose gradients make up one update; absent or null: 1. */
    accumulate: z.int().min(1).max(4096).nullable().optional(),
    /** Activations are computed again in the backward pass; absent: where they have no room. */
    recompute: z.boolean().optional(),
    /** Side of the global crops of a high-resolution phase, in pixels; absent or null: the preset's. */
    globalSize: z.int().min(1).max(4096).nullable().optional(),
    seed: z.int().nullable(),
    /** Absent: copies are left out, nothing is balanced. */
    list: trainingList.optional(),
    /** Images to leave out, a path, stem or glob each; absent: none. */
    exclude: z.array(z.string().max(4096)).max(1_000_000).optional(),
    engine,
    precision,
  }),
  resumeTraining: z.object({ runId: z.string(), engine, precision }),
  runId: z.object({ runId: z.string() }),
  trainMetrics: z.object({ runId: z.string(), afterStep: z.int().min(-1) }),
  /**
   * runId null: the latest run; step null: its chosen checkpoint. No run at all: the untrained network. With weightsId an
   * imported network, whatever runs there are.
   */
  startPrelabel: z.object({
    runId: z.string().nullable(),
    step: z.int().min(0).nullable(),
    weightsId: z.string().nullable().optional(),
    /** 4 looks at every image four times, shifted by half a patch: finer outlines, four times the time for features. */
    passes: z.union([z.literal(1), z.literal(4)]).default(1),
    engine,
    precision,
  }),
  /** sha256: what the file's must be, hex; null: not known. */
  importWeights: z.object({
    fileId: z.string(),
    sha256: z
      .string()
      .trim()
      .toLowerCase()
      .regex(/^[0-9a-f]{64}$/)
      .nullable(),
  }),
  weightsId: z.object({ weightsId: z.string() }),
  exportNetwork: z.object({ network, format: z.enum(['official', 'huggingface', 'trainer-checkpoint', 'hand-over']) }),
  nameCluster: z.object({ clusterId: id, classId: id.nullable() }),
  discardCluster: z.object({ clusterId: id, discarded: z.boolean() }),
  /** review: surest first, grouped by class · learn: most informative first. */
  queue: z.object({ order: z.enum(['review', 'learn']), classId: id.nullable(), clusterId: id.nullable() }),
  imagePaths: z.object({ imageIds: z.array(id).max(500) }),
  imageId: z.object({ imageId: id }),
  decide: z.discriminatedUnion('action', [
    /** classId null keeps the proposal's class. */
    z.object({ action: z.literal('accept'), proposalId: id, classId: id.nullable(), seconds: z.number().min(0) }),
    z.object({ action: z.literal('reject'), proposalId: id, seconds: z.number().min(0) }),
    z.object({ action: z.literal('unsure'), proposalId: id, seconds: z.number().min(0) }),
    z.object({ action: z.literal('setClass'), proposalId: id, classId: id.nullable(), seconds: z.number().min(0) }),
    /** Accepts with other pixels. */
    z.object({ action: z.literal('edit'), proposalId: id, classId: id.nullable(), rle, seconds: z.number().min(0) }),
    z.object({ action: z.literal('draw'), imageId: id, classId: id.nullable(), rle, seconds: z.number().min(0) }),
    z.object({
      action: z.literal('editAnnotation'),
      annotationId: id,
      classId: id.nullable(),
      rle: rle.nullable(),
      seconds: z.number().min(0),
    }),
    z.object({ action: z.literal('removeAnnotation'), annotationId: id, seconds: z.number().min(0) }),
    /** Every proposal of the image that waits and is not unsure, as it is. */
    z.object({ action: z.literal('acceptAll'), imageId: id, seconds: z.number().min(0) }),
    z.object({ action: z.literal('rejectAll'), imageId: id, seconds: z.number().min(0) }),
  ]),
  /** `ahead`: it is not shown yet, see lookAt. */
  reviewImage: z.object({ imageId: id, ahead: z.boolean().optional() }),
  setImageDone: z.object({ imageId: id, done: z.boolean() }),
  exportWhat: z.object({ format: z.enum(['coco-rle', 'coco-polygons']), scope: z.enum(['accepted', 'reviewed', 'everything']) }),
};

export type Inputs = { [K in keyof typeof inputs]: z.infer<(typeof inputs)[K]> };
export type Decision = Inputs['decide'];

/** What the host does for the page. Every method may reject with AppError. */
export interface HostService {
  info(): Promise<AppInfo>;
  saveSettings(input: Inputs['saveSettings']): Promise<Settings>;

  /** Folders allowed on the command line; empty in Electron. */
  folderRoots(): Promise<FolderEntry[]>;
  folderChildren(input: Inputs['folderChildren']): Promise<{ folder: FolderEntry; parentId: string | null; children: FolderEntry[] }>;
  /** Native dialog; null when the person cancels. @throws AppError not-allowed outside Electron */
  chooseFolder(input: Inputs['chooseFolder']): Promise<FolderEntry | null>;
  /** Files in a folder that may be weights, by their endings. */
  folderFiles(input: Inputs['folderFiles']): Promise<FileEntry[]>;
  /** Native dialog for a file of weights; null when the person cancels. @throws AppError not-allowed outside Electron */
  chooseWeightsFile(): Promise<FileEntry | null>;

  recentProjects(): Promise<RecentProject[]>;
  currentProject(): Promise<ProjectSummary | null>;
  /** Creates, opens and starts the first scan. */
  createProject(input: Inputs['createProject']): Promise<ProjectSummary>;
  openProject(input: Inputs['openProject']): Promise<ProjectSummary>;
  openRecent(input: Inputs['openRecent']): Promise<ProjectSummary>;
  closeProject(): Promise<void>;
  rescan(): Promise<JobState>;

  imagesPage(input: Inputs['imagesPage']): Promise<{ total: number; rows: ImageRow[] }>;
  /** In any order; of images that are not there, nothing. */
  imagePaths(input: Inputs['imagePaths']): Promise<{ imageId: number; path: string }[]>;
  problems(): Promise<ImageProblem[]>;

  classes(): Promise<ClassRow[]>;
  createClass(input: Inputs['createClass']): Promise<ClassRow>;
  updateClass(input: Inputs['updateClass']): Promise<ClassRow>;
  /** @throws AppError class-in-use while annotations carry it */
  removeClass(input: Inputs['removeClass']): Promise<void>;

  /** Looks for copies and clusters. */
  startCuration(input: Inputs['startCuration']): Promise<JobState>;
  /** Null before the first curation. The calls below: @throws AppError no-curation before it. */
  curation(): Promise<CurationSummary | null>;
  /** Largest groups first. */
  duplicateGroups(input: Inputs['page']): Promise<{ total: number; rows: DuplicateGroup[] }>;
  trainingList(input: Inputs['trainingList']): Promise<TrainingListPreview>;
  /** In the order of paths. */
  leftOut(input: Inputs['leftOut']): Promise<{ total: number; rows: LeftOutRow[] }>;
  /** The nearest of each image asked about, all together, nearest first. */
  similarImages(input: Inputs['similarImages']): Promise<SimilarImage[]>;

  /** Running or last job of each lane: training (pretrain) and proposing (scan, curate, prelabel, learn) go on side by side. */
  jobs(): Promise<JobState[]>;
  stopTraining(): Promise<void>;
  stopProposing(): Promise<void>;
  /** AppEvents until the signal aborts. */
  events(signal: AbortSignal): AsyncGenerator<AppEvent>;

  trainPresets(input?: Inputs['trainPresets']): Promise<TrainPresets>;
  startTraining(input: Inputs['startTraining']): Promise<RunRow>;
  resumeTraining(input: Inputs['resumeTraining']): Promise<RunRow>;
  runs(): Promise<RunRow[]>;
  trainMetrics(input: Inputs['trainMetrics']): Promise<TrainMetrics[]>;
  trainMonitors(input: Inputs['runId']): Promise<TrainMonitors>;
  /** null: no masks were ever compared with this run's features. */
  trainProbe(input: Inputs['runId']): Promise<ProbeReport | null>;
  pcaSteps(input: Inputs['runId']): Promise<PcaStep[]>;

  /** What can be downloaded elsewhere; the app itself never does. */
  publishedWeights(): Promise<PublishedWeights[]>;
  /** Newest first. */
  weights(): Promise<WeightsRow[]>;
  /**
   * Copies a file's network into the project; a file that is there already is answered with its row.
   * @throws AppError weights-unreadable, weights-mismatch
   */
  importWeights(input: Inputs['importWeights']): Promise<WeightsRow>;
  /** @throws AppError weights-in-use while the present proposals come from it */
  removeWeights(input: Inputs['weightsId']): Promise<void>;
  /** Writes a network for other programs into the project's exports. */
  exportNetwork(input: Inputs['exportNetwork']): Promise<NetworkExportRow>;
  /** Newest first. */
  networkExports(): Promise<NetworkExportRow[]>;

  startPrelabel(input: Inputs['startPrelabel']): Promise<JobState>;
  clusters(): Promise<ClusterCard[]>;
  /** Gives every undecided proposal of the cluster that class. */
  nameCluster(input: Inputs['nameCluster']): Promise<ClusterCard>;
  discardCluster(input: Inputs['discardCluster']): Promise<ClusterCard>;

  /** Every image with something left, the next one first. */
  queue(input: Inputs['queue']): Promise<QueueImage[]>;
  reviewImage(input: Inputs['reviewImage']): Promise<ReviewImage>;
  /** The image that a person sees now: learning leaves its proposals as they are. */
  lookAt(input: Inputs['imageId']): Promise<void>;
  decide(input: Decision): Promise<ReviewChange>;
  /** Undo and redo span images and restarts: the history is in the project. */
  undo(): Promise<ReviewChange>;
  redo(): Promise<ReviewChange>;
  setImageDone(input: Inputs['setImageDone']): Promise<ImageRow>;
  reviewStats(): Promise<ReviewStats>;

  exportPreflight(input: Inputs['exportWhat']): Promise<ExportPreflight>;
  runExport(input: Inputs['exportWhat']): Promise<ExportRow>;
  exports(): Promise<ExportRow[]>;
}
