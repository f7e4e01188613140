/**
 * HostService over the open project: what each call of the page does. The work is in `store/` (database), `jobs.ts`
 * (workers), `folders.ts`, `recent.ts` and `exports.ts`; here they meet.
 */
import { mkdirSync } from 'node:fs';
import { realpath } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import {
  AppError,
  type AppEvent,
  type AppInfo,
  type ClassRow,
  type ClusterCard,
  type CurationSummary,
  type Decision,
  type DuplicateGroup,
  type ExportPreflight,
  type ExportRow,
  type FileEntry,
  type FolderEntry,
  type HostService,
  type ImageProblem,
  type ImageRow,
  type Inputs,
  type JobState,
  type NetworkExportRow,
  type LeftOutRow,
  type PcaStep,
  type ProbeReport,
  type ProjectSummary,
  type PublishedWeights,
  type QueueItem,
  type RecentProject,
  type ReviewChange,
  type ReviewImage,
  type ReviewStats,
  type RunRow,
  type Settings,
  type SimilarImage,
  type TrainingListPreview,
  type TrainMetrics,
  type TrainMonitors,
  type TrainPresets,
  type WeightsRow,
} from '../contract/index.ts';
import { readDescriptors, retrieve, type Descriptors } from '../curate/index.ts';
import type { BackboneSource, JobRequest } from '../worker/index.ts';
import { exportPreflight, exportRows, runExport } from './exports.ts';
import { isInside, type Folders } from './folders.ts';
import { Hub } from './hub.ts';
import { Jobs, type WorkerOptions } from './jobs.ts';
import { LiveLearning } from './learning.ts';
import { exportNetwork, importWeights, publishedWeights, removeWeightsFolder, startFrom } from './networks.ts';
import { machinePlanner, type Planner } from './planner.ts';
import { Project } from './project.ts';
import type { UserConfig } from './recent.ts';
import { Recorder } from './record.ts';
import { classRow, classRows, createClass, removeClass, updateClass } from './store/classes.ts';
import { curationSummary, duplicateGroups, freshCuration, leftOutPage, noCuration, trainingListPreview } from './store/curation.ts';
import { reviewStats } from './store/figures.ts';
import { redo, saveNote, undo } from './store/history.ts';
import { imageFile, imageFiles, imageRow, imagesPage, problems } from './store/images.ts';
import { reviewImage } from './store/objects.ts';
import {
  isScanned,
  learningExamples,
  presentModel,
  projectSummary,
  saveModel,
  setImageDone,
  type ModelChoice,
  type ProposingModel,
} from './store/overview.ts';
import { clusterCard, clusterCards, discardCluster, nameCluster, queue } from './store/proposals.ts';
import { decide } from './store/review.ts';
import { addRun, pcaSteps, runDir, runRow, runRows, setRunState, trainMetrics, trainMonitors, trainProbe } from './store/runs.ts';
import { deleteWeights, findWeights, networkExportRows, weightsFile, weightsRow, weightsRows } from './store/weights.ts';

/** Asks for a folder of images, the folder of a project, or a file of weights. */
export type ChoosePath = (purpose: 'images' | 'project' | 'weights') => Promise<string | null>;

export interface ServiceOptions {
  readonly version: string;
  readonly folders: Folders;
  readonly config: UserConfig;
  /** Where projects go when no place is chosen. */
  readonly projectsDir: string;
  /** Native dialog: an absolute path, or null when cancelled. Absent outside Electron. */
  readonly chooseFolder?: ChoosePath;
  readonly worker?: WorkerOptions;
  readonly planner?: Planner;
  readonly learnDelayMs?: number;
}

export class Service implements HostService {
  readonly #options: ServiceOptions;
  readonly #hub = new Hub();
  readonly #jobs: Jobs;
  readonly #planner: Planner;
  readonly #learning: LiveLearning;
  #project: Project | null = null;
  /** The image in front of a person, see Recorder. */
  #onScreen: number | null = null;
  /** Of the last curation, read when first asked about. */
  #descriptors: { of: string; read: Promise<Descriptors | null> } | null = null;
  /** Opening and closing, one after the other. */
  #turn: Promise<unknown> = Promise.resolve();

  constructor(options: ServiceOptions) {
    this.#options = options;
    this.#planner = options.planner ?? machinePlanner();
    this.#jobs = new Jobs(this.#hub, { gpuChecks: options.config.gpuChecks, ...options.worker });
    this.#learning = new LiveLearning(() => this.#startLearn(), options.learnDelayMs);
  }

  // --- app ------------------------------------------------------------------------------------------------------------

  async info(): Promise<AppInfo> {
    const { version, chooseFolder, config } = this.#options;
    return { version, nativeDialogs: chooseFolder !== undefined, engine: await this.#planner.engine(), settings: config.settings() };
  }

  async saveSettings(input: Inputs['saveSettings']): Promise<Settings> {
    this.#options.config.saveSettings(input);
    this.#hub.changed('settings');
    return this.#options.config.settings();
  }

  async folderRoots(): Promise<FolderEntry[]> {
    return this.#options.folders.roots();
  }

  async folderChildren({ folderId }: Inputs['folderChildren']) {
    return this.#options.folders.children(folderId);
  }

  async chooseFolder({ purpose }: Inputs['chooseFolder']): Promise<FolderEntry | null> {
    const path = await this.#choose(purpose);
    return path === null ? null : this.#options.folders.chosen(path);
  }

  async folderFiles({ folderId }: Inputs['folderFiles']): Promise<FileEntry[]> {
    return this.#options.folders.files(folderId);
  }

  async chooseWeightsFile(): Promise<FileEntry | null> {
    const path = await this.#choose('weights');
    return path === null ? null : this.#options.folders.chosenFile(path);
  }

  // --- project --------------------------------------------------------------------------------------------------------

  async recentProjects(): Promise<RecentProject[]> {
    return this.#options.config.recent();
  }

  async currentProject(): Promise<ProjectSummary | null> {
    return this.#project && projectSummary(this.#project);
  }

  createProject({ name, imagesId, locationId }: Inputs['createProject']): Promise<ProjectSummary> {
    return this.#inTurn(async () => {
      const images = this.#options.folders.path(imagesId);
      if (locationId === null) mkdirSync(this.#options.projectsDir, { recursive: true });
      const location = locationId === null ? await realpath(this.#options.projectsDir) : this.#options.folders.path(locationId);
      if (isInside(location, images)) {
        throw new AppError(
          'bad-input',
          `${location} is in the image folder, which Patchwise never writes to.`,
          'Choose another place for the project.',
        );
      }
      return this.#use(Project.create(join(location, folderName(name)), name, images));
    });
  }

  openProject({ folderId }: Inputs['openProject']): Promise<ProjectSummary> {
    return this.openAt(this.#options.folders.path(folderId));
  }

  openRecent({ recentId }: Inputs['openRecent']): Promise<ProjectSummary> {
    const location = this.#options.config.locationOf(recentId);
    if (location === undefined)
      throw new AppError('project-not-found', 'This project is no longer in the list.', 'Open its folder instead.');
    return this.openAt(location);
  }

  /** For the command line; the page has ids only. @param dir absolute */
  openAt(dir: string): Promise<ProjectSummary> {
    return this.#inTurn(async () => {
      const path = await realpath(dir).catch(() => dir); // Project.open says that it is not there
      if (this.#project?.dir === path) return projectSummary(this.#project);
      return this.#use(Project.open(path));
    });
  }

  closeProject(): Promise<void> {
    return this.#inTurn(() => this.#leave());
  }

  async rescan(): Promise<JobState> {
    const project = this.#open();
    await this.#makeRoom();
    const imageRoot = project.facts.image_folder;
    return this.#start({ kind: 'scan', imageRoot, known: imageFiles(project) }, null, null);
  }

  // --- images and classes ---------------------------------------------------------------------------------------------

  async imagesPage(input: Inputs['imagesPage']): Promise<{ total: number; rows: ImageRow[] }> {
    return imagesPage(this.#open(), input);
  }

  async problems(): Promise<ImageProblem[]> {
    return problems(this.#open());
  }

  async classes(): Promise<ClassRow[]> {
    return classRows(this.#open());
  }

  async createClass({ name, color }: Inputs['createClass']): Promise<ClassRow> {
    const row = this.#open().write((w) => classRow(w, createClass(w, name, color)));
    this.#hub.changed('classes');
    return row;
  }

  async updateClass({ classId, name, color }: Inputs['updateClass']): Promise<ClassRow> {
    const row = this.#open().write((w) => {
      updateClass(w, classId, name, color);
      return classRow(w, classId);
    });
    this.#hub.changed('classes');
    return row;
  }

  async removeClass({ classId }: Inputs['removeClass']): Promise<void> {
    this.#open().write((w) => removeClass(w, classId));
    this.#hub.changed('classes', 'proposals', 'clusters');
  }

  // --- curation -------------------------------------------------------------------------------------------------------

  async startCuration({ from, runId, step }: Inputs['startCuration']): Promise<JobState> {
    const project = this.#writable();
    const checkpoint = from === 'network' ? this.#checkpoint(runId, step) : null;
    await this.#makeRoom();
    const { source, modelKey, cacheDir, imageRoot, images } = (await this.#model(checkpoint, 1)).common;
    if (images.length === 0) throw new AppError('too-few-images', 'The project has no images.', 'Scan a folder that has some first.');
    return this.#start(
      { kind: 'curate', imageRoot, cacheDir, images, network: from === 'network' ? { source, modelKey } : null },
      null,
      null,
      imageFiles(project).map(({ id }) => id),
    );
  }

  async curation(): Promise<CurationSummary | null> {
    return curationSummary(this.#open());
  }

  async duplicateGroups(input: Inputs['page']): Promise<{ total: number; rows: DuplicateGroup[] }> {
    return duplicateGroups(this.#open(), input);
  }

  async trainingList(input: Inputs['trainingList']): Promise<TrainingListPreview> {
    return trainingListPreview(this.#open(), input, previewSeed);
  }

  async leftOut(input: Inputs['leftOut']): Promise<{ total: number; rows: LeftOutRow[] }> {
    return leftOutPage(this.#open(), input, previewSeed);
  }

  async similarImages({ imageIds, limit }: Inputs['similarImages']): Promise<SimilarImage[]> {
    const project = this.#open();
    const summary = curationSummary(project);
    if (!summary) throw noCuration();
    const key = `${project.dir} ${summary.createdAt}`;
    if (this.#descriptors?.of !== key) this.#descriptors = { of: key, read: readDescriptors(cacheDirOf(project), summary.features) };
    const descriptors = await this.#descriptors.read;
    if (!descriptors) {
      this.#descriptors = null;
      throw new AppError('no-curation', 'What the images look like is no longer stored: the cache was emptied.', 'Look for copies again.');
    }
    const rowOf = ({ hash, page }: { hash: string; page: number }) => descriptors.rowOf.get(`${hash}-${page}`);
    const queries: number[] = [];
    for (const id of imageIds) {
      const image = imageFile(project, id);
      const row = image && rowOf(image);
      if (row === undefined)
        throw new AppError(
          'no-curation',
          `${image?.path ?? `Image ${id}`} was not there when copies were looked for.`,
          'Look for copies again.',
        );
      queries.push(row);
    }
    const images = Map.groupBy(imageFiles(project), rowOf);
    return retrieve(descriptors.rows, descriptors.dim, queries, limit)
      .flatMap(({ index, cosine }) => (images.get(index) ?? []).map(({ id, path }) => ({ imageId: id, path, similarity: cosine })))
      .slice(0, limit);
  }

  // --- jobs -----------------------------------------------------------------------------------------------------------

  async jobs(): Promise<JobState[]> {
    return this.#jobs.states();
  }

  /** Returns when asked, not when ended: the job's state tells that. */
  async stopTraining(): Promise<void> {
    void this.#jobs.stop('training');
  }

  async stopProposing(): Promise<void> {
    void this.#jobs.stop('proposing');
  }

  events(signal: AbortSignal): AsyncGenerator<AppEvent> {
    return this.#hub.listen(
      signal,
      this.#jobs.states().map((job) => ({ type: 'job', job })),
    );
  }

  // --- training -------------------------------------------------------------------------------------------------------

  async trainPresets({ from, distillFrom }: NonNullable<Inputs['trainPresets']> = { from: null }): Promise<TrainPresets> {
    const sources = { start: this.#startFrom(from), teacher: this.#startFrom(distillFrom) };
    return this.#planner.presets(imageFiles(this.#open()).length, sources);
  }

  async startTraining(input: Inputs['startTraining']): Promise<RunRow> {
    const { presetId, list, exclude, engine, from, distillFrom, ...overrides } = input;
    const project = this.#writable();
    this.#jobs.refuseIfBusy('training');
    const images = imageFiles(project);
    if (images.length === 0) throw new AppError('too-few-images', 'The project has no images.', 'Scan a folder that has some, then train.');
    const sources = { start: this.#startFrom(from), teacher: this.#startFrom(distillFrom) };
    if (sources.start && sources.teacher) {
      const what = 'A run that learns from another network starts from random weights.';
      throw new AppError('bad-input', what, 'Choose either weights to start from or a network to learn from.');
    }
    const config = await this.#planner.config(presetId, images.length, overrides, engine, sources);
    if (config.presetId !== presetId) {
      throw new AppError('bad-input', `The preset ${presetId} does not go with that start.`, `Choose ${config.presetId}.`);
    }
    this.#jobs.refuseIfBusy('training');
    const runId = project.write((w) => addRun(w, { presetTitle: config.presetTitle, model: config.model.name, totalSteps: config.steps }));
    const dir = runDir(project, runId);
    mkdirSync(dir, { recursive: true });
    const start = {
      images,
      config,
      ...(sources.start && { startFile: sources.start.file }),
      ...(sources.teacher && { teacherFile: sources.teacher.file }),
      list: list ?? { dedupe: true, balance: false, keep: null },
      exclude: exclude ?? [],
      curation: freshCuration(project),
      cacheDir: cacheDirOf(project),
    };
    this.#start(
      { kind: 'pretrain', runDir: dir, imageRoot: project.facts.image_folder, start, engine: engine ?? null },
      runId,
      null,
      images.map(({ id }) => id),
    );
    this.#hub.changed('runs', 'project');
    return runRow(project, runId);
  }

  async resumeTraining({ runId, engine }: Inputs['resumeTraining']): Promise<RunRow> {
    const project = this.#writable();
    this.#jobs.refuseIfBusy('training');
    const dir = runDir(project, runId);
    this.#start({ kind: 'pretrain', runDir: dir, imageRoot: project.facts.image_folder, start: null, engine: engine ?? null }, runId, null);
    project.write((w) => setRunState(w, runId, 'running', null));
    this.#hub.changed('runs');
    return runRow(project, runId);
  }

  async runs(): Promise<RunRow[]> {
    return runRows(this.#open());
  }

  async trainMetrics({ runId, afterStep }: Inputs['trainMetrics']): Promise<TrainMetrics[]> {
    return trainMetrics(runDir(this.#open(), runId), afterStep);
  }

  async trainMonitors({ runId }: Inputs['runId']): Promise<TrainMonitors> {
    return trainMonitors(runDir(this.#open(), runId));
  }

  async trainProbe({ runId }: Inputs['runId']): Promise<ProbeReport | null> {
    return trainProbe(runDir(this.#open(), runId));
  }

  async pcaSteps({ runId }: Inputs['runId']): Promise<PcaStep[]> {
    const project = this.#open();
    return pcaSteps(project, runRow(project, runId).id);
  }

  // --- weights from and for other programs ----------------------------------------------------------------------------

  async publishedWeights(): Promise<PublishedWeights[]> {
    return publishedWeights();
  }

  async weights(): Promise<WeightsRow[]> {
    return weightsRows(this.#open());
  }

  // In turn with opening and closing: the project must not close under them, and one file must not be written twice at once.

  importWeights({ fileId, sha256 }: Inputs['importWeights']): Promise<WeightsRow> {
    return this.#inTurn(async () => {
      const row = await importWeights(this.#writable(), this.#options.folders.file(fileId), sha256);
      this.#hub.changed('weights');
      return row;
    });
  }

  removeWeights({ weightsId }: Inputs['weightsId']): Promise<void> {
    return this.#inTurn(async () => {
      const project = this.#writable();
      const { fileName } = weightsRow(project, weightsId);
      const present = presentModel(project)?.choice;
      if (present && 'weightsId' in present && present.weightsId === weightsId) {
        throw new AppError(
          'weights-in-use',
          `The present proposals come from ${fileName}, and learning from decisions needs it.`,
          'Propose masks with another network first, then remove it.',
        );
      }
      this.#jobs.refuseIfBusy('proposing'); // it may be reading them
      this.#jobs.refuseIfBusy('training'); // it may not have copied them yet
      project.write((w) => deleteWeights(w, weightsId));
      this.#hub.changed('weights');
      await removeWeightsFolder(project, weightsId);
    });
  }

  async exportNetwork(input: Inputs['exportNetwork']): Promise<NetworkExportRow> {
    return this.exportNetworkTo(input, null);
  }

  /** For the command line; the page has no paths. @param out absolute, see networks.ts */
  exportNetworkTo({ network, format }: Inputs['exportNetwork'], out: string | null): Promise<NetworkExportRow> {
    return this.#inTurn(async () => {
      const project = this.#writable();
      if (out !== null && isInside(await withoutLinks(out), project.facts.image_folder)) {
        throw new AppError('bad-input', `${out} is in the image folder, which Patchwise never writes to.`, 'Choose another place.');
      }
      const choice = 'weightsId' in network ? network : this.#checkpoint(network.runId, network.step)!;
      const row = await exportNetwork(project, choice, format, out);
      this.#hub.changed('exports');
      return row;
    });
  }

  async networkExports(): Promise<NetworkExportRow[]> {
    return networkExportRows(this.#open());
  }

  // --- proposals and review -------------------------------------------------------------------------------------------

  async startPrelabel({ runId, step, weightsId = null, passes, engine }: Inputs['startPrelabel']): Promise<JobState> {
    this.#writable();
    const choice = weightsId === null ? this.#checkpoint(runId, step) : { weightsId };
    await this.#makeRoom();
    const model = await this.#model(choice, passes);
    return this.#start({ kind: 'prelabel', ...model.common, engine: engine ?? null }, null, model);
  }

  async clusters(): Promise<ClusterCard[]> {
    return clusterCards(this.#open());
  }

  async nameCluster({ clusterId, classId }: Inputs['nameCluster']): Promise<ClusterCard> {
    const card = this.#open().write((w) => {
      nameCluster(w, clusterId, classId);
      saveNote(
        w,
        'nameCluster',
        classId === null ? `Took the name of cluster ${clusterId} away` : `Named cluster ${clusterId} ${classRow(w, classId).name}`,
        this.#reviewer(),
      );
      return clusterCard(w, clusterId);
    });
    this.#hub.changed('clusters', 'proposals');
    return card;
  }

  async discardCluster({ clusterId, discarded }: Inputs['discardCluster']): Promise<ClusterCard> {
    const card = this.#open().write((w) => {
      discardCluster(w, clusterId, discarded);
      saveNote(w, 'discardCluster', `${discarded ? 'Discarded' : 'Took back'} cluster ${clusterId}`, this.#reviewer());
      return clusterCard(w, clusterId);
    });
    this.#hub.changed('clusters', 'proposals', 'project');
    return card;
  }

  async queue(input: Inputs['queue']): Promise<QueueItem[]> {
    return queue(this.#open(), input);
  }

  async reviewImage({ imageId }: Inputs['imageId']): Promise<ReviewImage> {
    const found = reviewImage(this.#open(), imageId);
    this.#onScreen = imageId;
    return found;
  }

  async decide(decision: Decision): Promise<ReviewChange> {
    return this.#reviewed(this.#open().write((w) => decide(w, decision, this.#reviewer())));
  }

  async undo(): Promise<ReviewChange> {
    return this.#reviewed(this.#open().write((w) => undo(w, this.#reviewer())));
  }

  async redo(): Promise<ReviewChange> {
    return this.#reviewed(this.#open().write((w) => redo(w, this.#reviewer())));
  }

  async setImageDone({ imageId, done }: Inputs['setImageDone']): Promise<ImageRow> {
    const row = this.#open().write((w) => {
      setImageDone(w, imageId, done);
      return imageRow(w, imageId)!;
    });
    this.#hub.changed('images');
    this.#learning.decided(); // what is unmarked in it is background from now on, or no longer
    return row;
  }

  async reviewStats(): Promise<ReviewStats> {
    return reviewStats(this.#open(), this.#options.config.settings().perReviewerFigures);
  }

  // --- export ---------------------------------------------------------------------------------------------------------

  async exportPreflight(input: Inputs['exportWhat']): Promise<ExportPreflight> {
    return exportPreflight(this.#open(), input);
  }

  async runExport(input: Inputs['exportWhat']): Promise<ExportRow> {
    const row = await runExport(this.#writable(), input);
    this.#hub.changed('exports');
    return row;
  }

  async exports(): Promise<ExportRow[]> {
    return exportRows(this.#open());
  }

  // --- for the server -------------------------------------------------------------------------------------------------

  /** The open project, for /files. @throws AppError project-not-found */
  get project(): Project {
    return this.#open();
  }

  /**
   * Waits until everything decided so far has been learned and the rest proposed again; for a caller without a screen.
   * @throws AppError the reason that learning failed
   */
  async learned(): Promise<void> {
    this.#onScreen = null;
    await this.#jobs.ended('proposing');
    await this.#learning.startNow();
    const last = await this.#jobs.ended('proposing');
    if (last?.kind === 'learn' && last.error) throw new AppError(last.error.code, last.error.message, last.error.action);
  }

  /** Stops jobs and closes the project. */
  async close(): Promise<void> {
    await this.closeProject();
    this.#hub.close();
  }

  // --- inside ---------------------------------------------------------------------------------------------------------

  #open(): Project {
    if (!this.#project) throw new AppError('project-not-found', 'No project is open.', 'Open a project or create one.');
    return this.#project;
  }

  /** @throws AppError project-read-only, before anything is started that could only fail */
  #writable(): Project {
    const project = this.#open();
    project.write(() => {});
    return project;
  }

  /** @throws AppError not-allowed outside Electron */
  async #choose(purpose: Parameters<ChoosePath>[0]): Promise<string | null> {
    if (!this.#options.chooseFolder) {
      throw new AppError(
        'not-allowed',
        'There is no native dialog outside the desktop app.',
        'Choose from the folders named with --root when Patchwise was started.',
      );
    }
    return this.#options.chooseFolder(purpose);
  }

  /**
   * @param runId null: the latest run; step null: its chosen checkpoint
   * @returns null when there is no run at all
   * @throws AppError run-not-found, no-checkpoint
   */
  #checkpoint(runId: string | null, step: number | null): { runId: string; step: number } | null {
    const project = this.#open();
    const run = runId === null ? runRows(project)[0] : runRow(project, runId);
    if (!run) return null;
    const { chosen } = run;
    if (chosen === null || (step !== null && !run.checkpoints.includes(step))) {
      const what = step === null ? 'no checkpoint yet' : `no checkpoint of step ${step}`;
      throw new AppError(
        'no-checkpoint',
        `Training run ${run.id} has ${what}.`,
        'Wait for its first checkpoint, or choose one that it has.',
      );
    }
    return { runId: run.id, step: step ?? chosen.step };
  }

  /** Weights that a run starts from or learns from; null: none. */
  #startFrom(from: Inputs['startTraining']['from']) {
    if (!from) return null;
    return startFrom(this.#open(), 'weightsId' in from ? from : this.#checkpoint(from.runId, from.step)!);
  }

  #reviewer(): string {
    return this.#options.config.settings().reviewer;
  }

  #inTurn<T>(body: () => Promise<T>): Promise<T> {
    const turn = this.#turn.then(body);
    this.#turn = turn.catch(() => {}); // the caller hears of it
    return turn;
  }

  async #use(project: Project): Promise<ProjectSummary> {
    await this.#leave();
    this.#project = project;
    this.#options.config.remember(project.facts.name, project.dir);
    this.#hub.changed('project');
    // The first scan, or its repetition when it was broken off.
    if (!project.readOnly && !isScanned(project)) await this.rescan();
    return projectSummary(project);
  }

  async #leave(): Promise<void> {
    const project = this.#project;
    if (!project) return;
    this.#project = null;
    this.#onScreen = null;
    this.#learning.cancel();
    await this.#jobs.stopAll();
    this.#jobs.clear();
    project.close();
    this.#hub.changed('project');
  }

  #reviewed(change: ReviewChange): ReviewChange {
    this.#onScreen = change.imageId;
    this.#hub.changed('proposals', 'images', 'project');
    this.#learning.decided();
    return change;
  }

  /** A job that a person asked for goes before learning in the background. @throws AppError job-running */
  async #makeRoom(): Promise<void> {
    this.#writable();
    if (this.#jobs.running('proposing')?.kind === 'learn') {
      await this.#jobs.stop('proposing');
      this.#learning.decided(); // it goes on when the lane is free
    }
    this.#jobs.refuseIfBusy('proposing');
  }

  /** Which network, and what a proposing job needs of the project. */
  async #model(choice: ModelChoice, passes: ProposingModel['passes']) {
    const project = this.#open();
    const images = imageFiles(project);
    let source: BackboneSource;
    let modelKey: string;
    if (choice && 'weightsId' in choice) {
      source = { weightsFile: weightsFile(project, choice.weightsId) };
      modelKey = `weights-${weightsRow(project, choice.weightsId).sha256}`;
    } else if (choice) {
      source = { runDir: runDir(project, choice.runId), step: choice.step };
      modelKey = `run-${choice.runId}-step-${choice.step}`;
    } else {
      // The network that training would start from.
      const { model: untrained, seed } = await this.#planner.config(null, images.length, { steps: null, batch: null, seed: null });
      source = { untrained, seed };
      modelKey = `untrained-${untrained.name}-seed-${seed}`;
    }
    const common = { source, modelKey, cacheDir: cacheDirOf(project), imageRoot: project.facts.image_folder, images, passes };
    return { choice, modelKey, passes, common };
  }

  #start(request: JobRequest, runId: string | null, model: ProposingModel | null, imageIds: readonly number[] = []): JobState {
    const project = this.#open();
    const { kind } = request;
    const modelKey = model?.modelKey ?? null;
    const recorder = new Recorder(project, this.#hub, { kind, runId, imageIds, modelKey, onScreen: () => this.#onScreen });
    return this.#jobs.start(request, runId, {
      write: (events) => recorder.write(events),
      ended: (state, error) => {
        if (runId !== null) project.write((w) => setRunState(w, runId, state, error));
        // An empty folder is a result too: what was there before is gone.
        if (state === 'finished' || error?.code === 'folder-empty') recorder.finish();
        if (state === 'finished' && kind === 'prelabel') {
          project.write((w) => saveModel(w, model!));
          this.#learning.decided(); // earlier decisions count for the new features too
        }
        this.#hub.changed('project', ...(runId === null ? [] : (['runs'] as const)));
        if (kind !== 'pretrain') setImmediate(() => this.#learning.laneFree());
      },
    });
  }

  /** @returns false when it should be tried again once the lane is free */
  async #startLearn(): Promise<boolean> {
    const project = this.#project;
    const model = project && !project.readOnly ? presentModel(project) : null;
    if (!project || !model) return true;
    // Imported weights of the present proposals are kept as long; a project that was copied in part may lack them.
    if (model.choice && 'weightsId' in model.choice && !findWeights(project, model.choice.weightsId)) return true;
    const { modelKey, common, choice, passes } = await this.#model(model.choice, model.passes);
    // Another project, or another untrained network than was proposed with (the folder has grown): nothing of it is cached.
    if (this.#project !== project || modelKey !== model.modelKey) return true;
    if (this.#jobs.running('proposing')) return false;
    const examples = learningExamples(project);
    if (examples.accepted.length > 0) this.#start({ kind: 'learn', ...common, ...examples }, null, { modelKey, choice, passes });
    return true;
  }
}

/** Draws shown before a run are those of a run with the usual seed. */
const previewSeed = 1;

const cacheDirOf = (project: Project) => join(project.dir, 'cache', 'features');

/** The true place of a path whose last parts may not be there yet. */
async function withoutLinks(path: string): Promise<string> {
  try {
    return await realpath(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT' || dirname(path) === path) throw error;
    return join(await withoutLinks(dirname(path)), basename(path));
  }
}

/** A folder name that every file system takes, from a project's name. */
export function folderName(name: string): string {
  const safe = name
    .replace(/[<>:"/\\|?*\u0000-\u001f]/g, '-')
    .replace(/[. ]+$/, '')
    .slice(0, 100);
  const reserved = /^(con|prn|aux|nul|com\d|lpt\d)(\.|$)/i; // Windows' device names
  return safe === '' || safe.startsWith('.') || reserved.test(safe) ? `project-${safe.replace(/^\.+/, '')}` : safe;
}
