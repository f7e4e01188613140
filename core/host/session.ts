/** What the calls of the page share: the open project, its jobs, learning from decisions, and what is on screen. */
import { realpath } from 'node:fs/promises';
import { join } from 'node:path';
import { AppError, type Inputs, type JobState, type ProjectSummary } from '../contract/index.ts';
import type { BackboneSource, JobRequest } from '../worker/index.ts';
import type { Folders } from './folders.ts';
import { Hub } from './hub.ts';
import { Jobs, type WorkerOptions } from './jobs.ts';
import { LiveLearning } from './learning.ts';
import { startFrom } from './networks.ts';
import { machinePlanner, type Planner } from './planner.ts';
import { Project } from './project.ts';
import type { UserConfig } from './recent.ts';
import { Recorder } from './record.ts';
import { imageFiles } from './store/images.ts';
import {
  isScanned,
  learningExamples,
  presentModel,
  projectSummary,
  saveModel,
  type ModelChoice,
  type ProposingModel,
} from './store/overview.ts';
import { queue } from './store/queue.ts';
import { runDir, runRow, runRows, setRunState } from './store/runs.ts';
import { findWeights, weightsFile, weightsRow } from './store/weights.ts';

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

export class Session {
  readonly options: ServiceOptions;
  readonly hub = new Hub();
  readonly jobs: Jobs;
  readonly planner: Planner;
  readonly learning: LiveLearning;
  /** The image in front of a person, see Recorder. */
  onScreen: number | null = null;
  /** The queue that the page asked for last: learning proposes for its images first. */
  shownQueue: Inputs['queue'] = wholeQueue;
  project: Project | null = null;
  /** Opening and closing, one after the other. */
  #turn: Promise<unknown> = Promise.resolve();

  constructor(options: ServiceOptions) {
    this.options = options;
    this.planner = options.planner ?? machinePlanner(options.config.gpuChecks);
    this.jobs = new Jobs(this.hub, { gpuChecks: options.config.gpuChecks, ...options.worker });
    this.learning = new LiveLearning(() => this.startLearn(), options.learnDelayMs);
  }

  /** @throws AppError project-not-found when none is open */
  open(): Project {
    if (!this.project) throw new AppError('project-not-found', 'No project is open.', 'Open a project or create one.');
    return this.project;
  }

  /** @throws AppError project-read-only, before anything is started that could only fail */
  writable(): Project {
    const project = this.open();
    project.write(() => {});
    return project;
  }

  /**
   * @param runId null: the latest run; step null: its chosen checkpoint
   * @returns null when there is no run at all
   * @throws AppError run-not-found, no-checkpoint
   */
  checkpoint(runId: string | null, step: number | null): { runId: string; step: number } | null {
    const project = this.open();
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
  startFrom(from: Inputs['startTraining']['from']) {
    if (!from) return null;
    return startFrom(this.open(), 'weightsId' in from ? from : this.checkpoint(from.runId, from.step)!);
  }

  /** Who decides now. */
  reviewer(): string {
    return this.options.config.settings().reviewer;
  }

  /** Runs after what was asked before has ended. */
  inTurn<T>(body: () => Promise<T>): Promise<T> {
    const turn = this.#turn.then(body);
    this.#turn = turn.catch(() => {}); // the caller hears of it
    return turn;
  }

  /** Closes what was open; the project given is open from now on. */
  async use(project: Project): Promise<ProjectSummary> {
    await this.leave();
    this.project = project;
    this.options.config.remember(project.facts.name, project.dir);
    this.hub.changed('project');
    // The first scan, or its repetition when it was broken off.
    if (!project.readOnly && !isScanned(project)) await this.rescan();
    return projectSummary(project);
  }

  /** Stops its jobs and closes the open project. */
  async leave(): Promise<void> {
    const project = this.project;
    if (!project) return;
    this.project = null;
    this.onScreen = null;
    this.shownQueue = wholeQueue;
    this.learning.cancel();
    await this.jobs.stopAll();
    this.jobs.clear();
    project.close();
    this.hub.changed('project');
  }

  /** For the command line; the page has ids only. @param dir absolute */
  openAt(dir: string): Promise<ProjectSummary> {
    return this.inTurn(async () => {
      const path = await realpath(dir).catch(() => dir); // Project.open says that it is not there
      if (this.project?.dir === path) return projectSummary(this.project);
      return this.use(Project.open(path));
    });
  }

  async rescan(): Promise<JobState> {
    const project = this.open();
    await this.makeRoom();
    const imageRoot = project.facts.image_folder;
    return this.start({ kind: 'scan', imageRoot, known: imageFiles(project) }, null, null);
  }

  /** A job that a person asked for goes before learning in the background. @throws AppError job-running */
  async makeRoom(): Promise<void> {
    this.writable();
    if (this.jobs.running('proposing')?.kind === 'learn') {
      await this.jobs.stop('proposing');
      this.learning.decided(); // it goes on when the lane is free
    }
    this.jobs.refuseIfBusy('proposing');
  }

  /** Which network, and what a proposing job needs of the project. */
  async model(choice: ModelChoice, passes: ProposingModel['passes']) {
    const project = this.open();
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
      const { model: untrained, seed } = await this.planner.config(null, images.length, { steps: null, batch: null, seed: null });
      source = { untrained, seed };
      modelKey = `untrained-${untrained.name}-seed-${seed}`;
    }
    const common = { source, modelKey, cacheDir: cacheDirOf(project), imageRoot: project.facts.image_folder, images, passes };
    return { choice, modelKey, passes, common };
  }

  /** Starts a job and records what it tells. @throws AppError job-running */
  start(request: JobRequest, runId: string | null, model: ProposingModel | null, imageIds: readonly number[] = []): JobState {
    const project = this.open();
    const { kind } = request;
    const modelKey = model?.modelKey ?? null;
    const recorder = new Recorder(project, this.hub, { kind, runId, imageIds, modelKey, onScreen: () => this.onScreen });
    return this.jobs.start(request, runId, {
      write: (events) => recorder.write(events),
      ended: (state, error) => {
        if (runId !== null) project.write((w) => setRunState(w, runId, state, error));
        // An empty folder is a result too: what was there before is gone.
        if (state === 'finished' || error?.code === 'folder-empty') recorder.finish();
        if (state === 'finished' && kind === 'prelabel') {
          project.write((w) => saveModel(w, model!));
          this.learning.decided(); // earlier decisions count for the new features too
        }
        this.hub.changed('project', ...(runId === null ? [] : (['runs'] as const)));
        if (kind !== 'pretrain') setImmediate(() => this.learning.laneFree());
      },
    });
  }

  /** @returns false when it should be tried again once the lane is free */
  async startLearn(): Promise<boolean> {
    const project = this.project;
    const model = project && !project.readOnly ? presentModel(project) : null;
    if (!project || !model) return true;
    // Imported weights of the present proposals are kept as long; a project that was copied in part may lack them.
    if (model.choice && 'weightsId' in model.choice && !findWeights(project, model.choice.weightsId)) return true;
    const { modelKey, common, choice, passes } = await this.model(model.choice, model.passes);
    // Another project, or another untrained network than was proposed with (the folder has grown): nothing of it is cached.
    if (this.project !== project || modelKey !== model.modelKey) return true;
    if (this.jobs.running('proposing')) return false;
    const examples = learningExamples(project);
    const teaches = examples.accepted.some(({ classId }) => classId !== null);
    const first = queue(project, this.shownQueue).map(({ imageId }) => imageId);
    if (teaches) this.start({ kind: 'learn', ...common, ...examples, first }, null, { modelKey, choice, passes });
    return true;
  }
}

const wholeQueue = { order: 'review', classId: null, clusterId: null } as const;

/** Where the features and looks of a project's images are stored. */
export const cacheDirOf = (project: Project) => join(project.dir, 'cache', 'features');
export const pixelDirOf = (project: Project) => join(project.dir, 'cache', 'pixels');
