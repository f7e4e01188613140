/**
 * A host made of memory, for tests of the page and for working on it: implements HostService with made-up data. Not the
 * product's host: nothing is kept, nothing is computed. fake-server.ts serves it.
 */
import { AppError } from '../../core/contract/index.ts';
import type {
  AppEvent,
  ClassRow,
  ClusterCard,
  Decision,
  DuplicateGroup,
  ErrorFacts,
  ExportRow,
  HostService,
  ImageRow,
  Inputs,
  JobState,
  MonitorLine,
  NetworkExportRow,
  LeftOutRow,
  ProjectSummary,
  QueueImage,
  ReviewChange,
  ReviewObject,
  RunRow,
  Settings,
  TrainingListOptions,
  TrainingListPreview,
  TrainMetrics,
  TrainPresets,
  WeightsRow,
} from '../../core/contract/index.ts';
import { decodeRle } from '../../renderer/src/logic/rle.ts';
import { alarmsOf, chosenCheckpoint } from '../../core/monitor/index.ts';
import {
  continuedRun,
  continuing,
  distilling,
  files,
  folder,
  importedWeights,
  metricsAt,
  monitorsAt,
  presets,
  probeOf,
  problems,
  published,
  sha256OfFile,
} from './fake-data.ts';
import { kinds, random, sceneHeight, sceneParts, sceneWidth, variants } from './fake-pictures.ts';

export interface FakeOptions {
  /** Images of the project; all show one of 24 scenes. */
  images?: number;
  /** Start with the project open (default) or on the welcome page. */
  open?: boolean;
  /** Images that have proposals, from the first. */
  proposed?: number;
  /** Below 1: smaller and quicker pictures. */
  pictureScale?: number;
  /** Copies have been looked for already. */
  curated?: boolean;
  /** A network is imported, and the newest run started from it: training has made it worse. */
  continued?: boolean;
  /** Milliseconds every call takes. */
  delay?: number;
}

interface Step {
  imageId: number;
  before: ReviewObject[];
  after: ReviewObject[];
  label: string;
}

const noCuration = () =>
  new AppError('no-curation', 'Nobody has looked for copies and clusters in this project yet.', 'Look for them on the Images page.');

export class FakeHost {
  readonly calls: { name: string; input: unknown }[] = [];
  /** Next call of that name fails with these facts. */
  readonly failNext = new Map<string, ErrorFacts>();
  readonly objects = new Map<number, ReviewObject[]>();
  readonly service: HostService;
  readonly pictureScale: number;
  /** Whether copies have been looked for. */
  curated: boolean;
  /** Images changed since. */
  changedSince = 0;
  /** Images whose files are no longer there. */
  gone = 0;
  readonly #imageCount: number;
  readonly #proposed: number;
  readonly #delay: number;
  readonly #listeners = new Set<(event: AppEvent) => void>();
  readonly #done: Step[] = [];
  readonly #undone: Step[] = [];
  readonly #doneImages = new Set<number>();
  #nextId = 100_000;
  #open: boolean;
  #settings: Settings = { reviewer: '', perReviewerFigures: false, theme: 'system' };
  #training: JobState | null = null;
  #proposing: JobState | null = null;
  #timers = new Set<NodeJS.Timeout>();
  #seconds: number[] = [];
  #classes: ClassRow[] = [
    { id: 1, name: 'washer', color: '#4cc9f0', key: 1, annotations: 0 },
    { id: 2, name: 'hex nut', color: '#f9a03f', key: 2, annotations: 0 },
    { id: 3, name: 'bolt', color: '#b388ff', key: 3, annotations: 0 },
  ];
  #clusters: ClusterCard[] = [];
  #exports: ExportRow[] = [];
  #weights: WeightsRow[] = [];
  #networkExports: NetworkExportRow[] = [];
  #runs: RunRow[] = [
    {
      id: 'run-2',
      presetTitle: 'Small set, no GPU',
      model: 'nano',
      startedAt: '2026-11-22T16:20:00Z',
      state: 'finished',
      step: 1500,
      totalSteps: 1500,
      checkpoints: [0, 75, 300, 600, 900, 1200, 1500],
      chosen: null,
      startedFrom: null,
      taughtBy: null,
      error: null,
    },
    {
      id: 'run-1',
      presetTitle: 'Quick look',
      model: 'nano',
      startedAt: '2026-11-21T09:05:00Z',
      state: 'failed',
      step: 212,
      totalSteps: 400,
      checkpoints: [0, 20, 200],
      chosen: null,
      startedFrom: null,
      taughtBy: null,
      error: {
        code: 'engine-died',
        message: 'The engine ended by itself at step 212 (signal SIGKILL).',
        action: 'Resume: training goes on from step 200. If it happens again, choose a smaller batch.',
      },
    },
  ];
  readonly #metrics = new Map<string, TrainMetrics[]>();

  constructor(options: FakeOptions = {}) {
    this.#imageCount = options.images ?? 3200;
    this.#open = options.open ?? true;
    this.curated = options.curated ?? false;
    if (options.continued) {
      this.#weights = [importedWeights(files[0]!, true)];
      this.#runs = [continuedRun, ...this.#runs];
    }
    this.pictureScale = options.pictureScale ?? 1;
    this.#proposed = options.proposed ?? 36;
    this.#delay = options.delay ?? 0;
    for (const run of this.#runs)
      this.#metrics.set(
        run.id,
        Array.from({ length: run.step + 1 }, (_, step) => metricsAt(step, run.totalSteps)),
      );
    this.service = this.#watched(this.#build());
  }

  /** Names every call in `calls`, delays it, lets it fail when told to. */
  #watched(service: HostService): HostService {
    return new Proxy(service, {
      get: (target, name: keyof HostService) => {
        if (name === 'events') return target.events;
        return async (input: never) => {
          this.calls.push({ name, input });
          if (this.#delay) await new Promise((done) => setTimeout(done, this.#delay));
          const facts = this.failNext.get(name);
          if (facts) {
            this.failNext.delete(name);
            throw new AppError(facts.code, facts.message, facts.action);
          }
          return (target[name] as (input: never) => Promise<unknown>)(input);
        };
      },
    });
  }

  emit(event: AppEvent): void {
    for (const tell of this.#listeners) tell(event);
  }

  close(): void {
    for (const timer of this.#timers) clearInterval(timer);
    for (const tell of this.#listeners) tell({ type: 'changed', what: 'settings' });
  }

  get #project(): ProjectSummary {
    const all = [...this.objects.values()].flat();
    const count = (state: ReviewObject['state'], kind: ReviewObject['kind']): number =>
      all.filter((o) => o.state === state && o.kind === kind).length;
    return {
      id: 'p1',
      name: 'Conveyor parts',
      imageFolder: '/data/conveyor/2026-11',
      createdAt: '2026-11-20T08:00:00Z',
      images: this.#imageCount,
      problems: problems.length,
      gone: this.gone,
      readOnly: false,
      counts: {
        proposed: count('proposed', 'proposal'),
        accepted: count('accepted', 'annotation'),
        edited: count('edited', 'annotation'),
        rejected: count('rejected', 'proposal'),
        unsure: count('unsure', 'proposal'),
        drawn: count('drawn', 'annotation'),
      },
      latestRunId: 'run-2',
    };
  }

  async #objectsOf(imageId: number): Promise<ReviewObject[]> {
    let found = this.objects.get(imageId);
    if (!found) {
      const next = random(imageId * 13);
      const parts = imageId <= this.#proposed ? await sceneParts((imageId - 1) % variants) : [];
      found =
        this.objects.get(imageId) ??
        parts.map((part, index) => ({
          kind: 'proposal',
          id: imageId * 100 + index,
          imageId,
          classId: null,
          clusterId: part.kind + 1,
          score: Math.round((0.55 + next() * 0.43) * 100) / 100,
          state: 'proposed',
          box: part.box,
          area: part.area,
          rle: part.rle,
        }));
      this.objects.set(imageId, found);
    }
    return found;
  }

  async #ready(): Promise<void> {
    for (let id = 1; id <= Math.min(this.#proposed, this.#imageCount); id++) await this.#objectsOf(id);
    if (this.#clusters.length > 0) return;
    const all = [...this.objects.values()].flat();
    this.#clusters = [...kinds, 'shadow'].map((_, index) => {
      const own = all.filter((o) => o.clusterId === index + 1 || (index === 5 && o.id % 17 === 3));
      return {
        id: index + 1,
        proposals: own.length,
        images: new Set(own.map((o) => o.imageId)).size,
        compactness: 0.91 - index * 0.06,
        classId: null,
        discarded: false,
        examples: own
          .filter((_, i) => i % 3 === 0)
          .slice(0, 8)
          .map((o) => ({ proposalId: o.id, imageId: o.imageId, box: o.box, rle: o.rle })),
      };
    });
  }

  #row(id: number): ImageRow {
    const own = this.objects.get(id) ?? [];
    const annotations = own.filter((o) => o.kind === 'annotation').length;
    const camera = String(((id - 1) % 6) + 1).padStart(2, '0');
    return {
      id,
      path: `line-a/cam-${camera}/part_${String(id).padStart(6, '0')}.jpg`,
      width: sceneWidth,
      height: sceneHeight,
      bytes: 380_000 + ((id * 7919) % 90_000),
      format: 'jpeg',
      page: 0,
      state: this.#doneImages.has(id) ? 'done' : annotations > 0 ? 'started' : 'new',
      proposed: own.filter((o) => o.kind === 'proposal' && o.state === 'proposed').length,
      annotations,
    };
  }

  #step(imageId: number, before: ReviewObject[], after: ReviewObject[], label: string): ReviewChange {
    this.#done.push({ imageId, before, after, label });
    this.#undone.length = 0;
    return this.#show(imageId, after, label);
  }

  #show(imageId: number, objects: ReviewObject[], label: string): ReviewChange {
    this.objects.set(imageId, objects);
    this.#classes = this.#classes.map((row) => ({
      ...row,
      annotations: [...this.objects.values()].flat().filter((o) => o.kind === 'annotation' && o.classId === row.id).length,
    }));
    setTimeout(() => this.emit({ type: 'changed', what: 'proposals' }), 5);
    return { imageId, objects, canUndo: this.#done.length > 0, canRedo: this.#undone.length > 0, label };
  }

  async #decide(decision: Decision): Promise<ReviewChange> {
    this.#seconds.push(decision.seconds);
    const imageId =
      'imageId' in decision
        ? decision.imageId
        : [...this.objects].find(([, own]) =>
            own.some((o) =>
              'proposalId' in decision
                ? o.kind === 'proposal' && o.id === decision.proposalId
                : o.kind === 'annotation' && o.id === (decision as { annotationId: number }).annotationId,
            ),
          )?.[0];
    if (!imageId) throw new AppError('object-gone', 'The object is not there any more.', 'Reload the image.');
    const before = await this.#objectsOf(imageId);
    const name = (id: number | null): string => this.#classes.find((c) => c.id === id)?.name ?? 'no class';
    const annotation = (o: ReviewObject, more: Partial<ReviewObject>): ReviewObject => ({
      ...o,
      kind: 'annotation',
      id: this.#nextId++,
      state: 'accepted',
      score: null,
      ...more,
    });
    const masked = (rle: ReviewObject['rle']): Pick<ReviewObject, 'rle' | 'box' | 'area'> => {
      const patch = decodeRle(rle);
      return { rle, box: [patch.x, patch.y, patch.width, patch.height], area: patch.data.reduce((a, b) => a + b, 0) };
    };
    const proposal = (to: (o: ReviewObject) => ReviewObject[]): ReviewObject[] =>
      before.flatMap((o) => ('proposalId' in decision && o.kind === 'proposal' && o.id === decision.proposalId ? to(o) : [o]));
    switch (decision.action) {
      case 'accept': {
        const target = before.find((o) => o.kind === 'proposal' && o.id === decision.proposalId)!;
        const classId = decision.classId ?? target.classId;
        return this.#step(
          imageId,
          before,
          proposal((o) => [{ ...o, state: 'accepted' }, annotation(o, { classId })]),
          `Accepted as ${name(classId)}`,
        );
      }
      case 'reject':
        return this.#step(
          imageId,
          before,
          proposal((o) => [{ ...o, state: 'rejected' }]),
          'Rejected',
        );
      case 'unsure':
        return this.#step(
          imageId,
          before,
          proposal((o) => [{ ...o, state: 'unsure' }]),
          'Set aside as unsure',
        );
      case 'setClass':
        return this.#step(
          imageId,
          before,
          proposal((o) => [{ ...o, classId: decision.classId }]),
          `Set to ${name(decision.classId)}`,
        );
      case 'edit':
        return this.#step(
          imageId,
          before,
          proposal((o) => [
            { ...o, state: 'edited' },
            annotation(o, { state: 'edited', classId: decision.classId ?? o.classId, ...masked(decision.rle) }),
          ]),
          `Edited as ${name(decision.classId)}`,
        );
      case 'draw': {
        const blank: ReviewObject = {
          kind: 'annotation',
          id: this.#nextId++,
          imageId,
          classId: decision.classId,
          clusterId: null,
          score: null,
          state: 'drawn',
          ...masked(decision.rle),
        };
        return this.#step(imageId, before, [...before, blank], `Drawn as ${name(decision.classId)}`);
      }
      case 'editAnnotation':
        return this.#step(
          imageId,
          before,
          before.map((o) =>
            o.kind === 'annotation' && o.id === decision.annotationId
              ? { ...o, classId: decision.classId, ...(decision.rle ? masked(decision.rle) : {}) }
              : o,
          ),
          decision.rle ? 'Edited' : `Set to ${name(decision.classId)}`,
        );
      case 'removeAnnotation':
        return this.#step(
          imageId,
          before,
          before.filter((o) => o.kind !== 'annotation' || o.id !== decision.annotationId),
          'Removed',
        );
      case 'acceptAll': {
        const after = before.flatMap((o) =>
          o.kind === 'proposal' && o.state === 'proposed' ? [{ ...o, state: 'accepted' as const }, annotation(o, {})] : [o],
        );
        return this.#step(imageId, before, after, `Accepted ${after.length - before.length} objects`);
      }
      case 'rejectAll': {
        const rest = (o: ReviewObject): boolean => o.kind === 'proposal' && o.state === 'proposed';
        const after = before.map((o) => (rest(o) ? { ...o, state: 'rejected' as const } : o));
        return this.#step(imageId, before, after, `Rejected ${before.filter(rest).length} objects`);
      }
    }
  }

  /** run-1 is the one that goes wrong. */
  #monitors(run: RunRow): MonitorLine[] {
    const lines = run.checkpoints.map((step) => monitorsAt(step, run.totalSteps, run.id === 'run-1'));
    if (run.id !== continuedRun.id) return lines;
    return lines.map((line) => ({ ...line, denseCorrespondence: 0.83 - line.step / 4000, clusterStability: 0.78 - line.step / 5000 }));
  }

  /** Every image of a scene and the next of the same one are copies; every third pair has the same pixels. */
  #groups(): DuplicateGroup[] {
    const count = Math.floor(this.#imageCount / (2 * variants)) * variants;
    return Array.from({ length: count }, (_, i) => {
      const first = Math.floor(i / variants) * 2 * variants + (i % variants) + 1;
      return {
        id: i,
        images: [first, first + variants].map((imageId, at) => {
          const { path, width, height } = this.#row(imageId);
          const exact = at === 0 || i % 3 === 0;
          return { imageId, path, width, height, similarity: exact ? 1 : 0.962, exact };
        }),
      };
    });
  }

  #trainingList({ dedupe, balance, keep }: TrainingListOptions): { preview: TrainingListPreview; leftOut: LeftOutRow[] } {
    if (!this.curated) throw noCuration();
    const leftOut: LeftOutRow[] = [];
    if (dedupe) {
      for (const { images } of this.#groups()) {
        const [kept, copy] = [images[0]!, images[1]!];
        const { similarity, exact } = copy;
        const reason = { kind: 'duplicate', of: kept.imageId, similarity, exact, ofExcluded: false } as const;
        leftOut.push({ imageId: copy.imageId, path: copy.path, ofPath: kept.path, reason });
      }
    }
    const copies = leftOut.length;
    // Half of all images are of the first cluster; balancing takes images from it alone.
    const rest = this.#imageCount - copies;
    const over = balance ? (keep === null ? Math.floor(rest / 4) : Math.max(0, rest - keep)) : 0;
    const size = Math.ceil(rest / 2);
    for (let i = 0; i < over; i++) {
      const imageId = 2 * i + 1;
      const reason = { kind: 'over-share', cluster: 0, size, share: size - over } as const;
      leftOut.push({ imageId, path: this.#row(imageId).path, ofPath: null, reason });
    }
    const clusters = Array.from({ length: 6 }, (_, id) => {
      const images = id === 0 ? size : Math.floor((rest - size) / 5);
      const examples = Array.from({ length: 8 }, (__, i) => ((id * 4 + i * variants) % this.#imageCount) + 1);
      return { id, compactness: 0.8 - id * 0.05, examples: [...new Set(examples)], images, kept: id === 0 ? size - over : images };
    });
    return { preview: { images: this.#imageCount, kept: this.#imageCount - leftOut.length, copies, overShare: over, clusters }, leftOut };
  }

  #every(milliseconds: number, tick: () => boolean): void {
    const timer = setInterval(() => {
      if (tick()) return;
      clearInterval(timer);
      this.#timers.delete(timer);
    }, milliseconds);
    this.#timers.add(timer);
  }

  #presets(input: Inputs['trainPresets']): TrainPresets {
    const teacher = input?.distillFrom;
    if (teacher && 'runId' in teacher && teacher.step !== 600)
      throw new AppError(
        'bad-input',
        'The network of run run-2 is 128 wide and 6 deep: there is no smaller network that it could teach.',
        'Choose a larger one.',
      );
    if (teacher) return distilling(this.#imageCount);
    return input?.from ? continuing(this.#imageCount) : presets;
  }

  #train(run: RunRow): RunRow {
    this.#training = { kind: 'pretrain', runId: run.id, state: 'running', progress: null, error: null };
    this.emit({ type: 'job', job: this.#training });
    this.#every(120, () => {
      const stopping = this.#training?.state === 'stopping';
      let now = this.#runs.find((r) => r.id === run.id)!;
      if (!stopping) {
        const line = metricsAt(now.step + 1, now.totalSteps);
        this.#metrics.set(run.id, [...(this.#metrics.get(run.id) ?? []), line]);
        now = { ...now, step: line.step, checkpoints: line.step % 25 === 0 ? [...now.checkpoints, line.step] : now.checkpoints };
        this.emit({ type: 'jobEvent', kind: 'pretrain', event: { type: 'metrics', metrics: line } });
        const progress = {
          type: 'progress',
          phase: 'Training',
          done: line.step,
          total: line.totalSteps,
          imagesPerSecond: line.imagesPerSecond,
          secondsLeft: line.secondsLeft,
        } as const;
        this.#training = { ...this.#training!, progress };
        this.emit({ type: 'jobEvent', kind: 'pretrain', event: progress });
        if (line.step % 25 === 0) {
          this.emit({ type: 'jobEvent', kind: 'pretrain', event: { type: 'checkpoint', step: line.step, totalSteps: line.totalSteps } });
          this.emit({
            type: 'jobEvent',
            kind: 'pretrain',
            event: { type: 'monitors', line: monitorsAt(line.step, line.totalSteps, false) },
          });
          this.emit({ type: 'jobEvent', kind: 'pretrain', event: { type: 'pca', step: line.step, imagePaths: [], explained: 0.4 } });
        }
      }
      const over = stopping || now.step >= now.totalSteps;
      if (over) {
        now = { ...now, state: stopping ? 'stopped' : 'finished', checkpoints: [...new Set([...now.checkpoints, now.step])] };
        this.#training = { ...this.#training!, state: stopping ? 'stopped' : 'finished' };
      }
      this.#runs = this.#runs.map((r) => (r.id === run.id ? now : r));
      if (over) {
        this.emit({ type: 'job', job: this.#training! });
        this.emit({ type: 'changed', what: 'runs' });
      }
      return !over;
    });
    return run;
  }

  #propose(kind: 'scan' | 'curate' | 'prelabel', total: number): JobState {
    let done = 0;
    this.#proposing = { kind, runId: null, state: 'running', progress: null, error: null };
    this.emit({ type: 'job', job: this.#proposing });
    this.#every(150, () => {
      done = Math.min(total, done + Math.ceil(total / 60));
      const over = done >= total || this.#proposing?.state === 'stopping';
      const progress = {
        type: 'progress',
        phase: kind === 'scan' ? 'Reading images' : kind === 'curate' ? 'Looking' : done < total / 2 ? 'Features' : 'Regions',
        done,
        total,
        imagesPerSecond: 6.4,
        secondsLeft: (total - done) / 6.4,
      } as const;
      this.#proposing = { ...this.#proposing!, progress, state: over ? (done >= total ? 'finished' : 'stopped') : 'running' };
      this.emit({ type: 'jobEvent', kind, event: progress });
      if (over) {
        this.emit({ type: 'job', job: this.#proposing });
        if (kind === 'curate') this.curated = true;
        this.emit({ type: 'changed', what: kind === 'scan' ? 'images' : kind === 'curate' ? 'curation' : 'proposals' });
      }
      return !over;
    });
    return this.#proposing;
  }

  #build(): HostService {
    return {
      info: async () => ({ version: '0.1.0', nativeDialogs: false, engine: 'cpu · 2 threads, relaxed SIMD', settings: this.#settings }),
      saveSettings: async (input) => {
        this.#settings = input;
        this.emit({ type: 'changed', what: 'settings' });
        return input;
      },
      folderRoots: async () => [folder('data', 0, true), folder('home', 0, true)],
      folderChildren: async ({ folderId }) => ({
        folder: folder(folderId, 0, true),
        parentId: folderId.includes('/') ? folderId.slice(0, folderId.lastIndexOf('/')) : null,
        children:
          folderId.split('/').length > 3
            ? []
            : ['2026-10', '2026-11', 'archive', 'calibration', 'conveyor', 'parts-project'].map((name, i) =>
                folder(`${folderId}/${name}`, [812, 3200, 0, 24, 0, 0][i]!, i > 1, i === 5),
              ),
      }),
      chooseFolder: async () => {
        throw new AppError('not-allowed', 'There is no native dialog here.', 'Choose the folder in the page.');
      },
      folderFiles: async ({ folderId }) => (folderId.includes('/') ? files : []),
      chooseWeightsFile: async () => {
        throw new AppError('not-allowed', 'There is no native dialog here.', 'Choose the file in the page.');
      },
      publishedWeights: async () => published,
      weights: async () => this.#weights,
      importWeights: async ({ fileId, sha256 }) => {
        const file = files.find((one) => one.id === fileId);
        if (!file) throw new AppError('bad-input', `There is no file "${fileId}".`, 'Choose it again.');
        if (file.id === 'file-broken')
          throw new AppError(
            'weights-unreadable',
            `${file.name}: it is a Git LFS pointer, not the file it stands for.`,
            'Fetch the file itself: git lfs pull.',
          );
        if (sha256 !== null && sha256 !== sha256OfFile)
          throw new AppError(
            'weights-mismatch',
            `${file.name} has the SHA-256 ${sha256OfFile}, not ${sha256}.`,
            'Get it again from its publisher.',
          );
        const row = importedWeights(file, sha256 !== null);
        this.#weights = [row];
        this.emit({ type: 'changed', what: 'weights' });
        return row;
      },
      removeWeights: async ({ weightsId }) => {
        this.#weights = this.#weights.filter((row) => row.id !== weightsId);
        this.emit({ type: 'changed', what: 'weights' });
      },
      exportNetwork: async ({ network, format }) => {
        const id = `2026-11-27-${String(100_000 + this.#networkExports.length)}-${format}`;
        const row: NetworkExportRow = {
          id,
          createdAt: new Date().toISOString(),
          format,
          source:
            'weightsId' in network ? 'imported dinov2_vits14_reg4_pretrain.pth' : `run ${network.runId}, step ${network.step ?? 1500}`,
          bytes: 22_403_112,
          files:
            format === 'huggingface'
              ? ['model.safetensors', 'config.json', 'preprocessor_config.json', 'README.md']
              : ['weights.pth', 'README.md'],
          location: `/home/ana/Patchwise/Conveyor parts/exports/${id}`,
        };
        this.#networkExports = [row, ...this.#networkExports];
        this.emit({ type: 'changed', what: 'exports' });
        return row;
      },
      networkExports: async () => this.#networkExports,
      recentProjects: async () => [
        {
          id: 'p1',
          name: 'Conveyor parts',
          location: '/home/ana/Patchwise/Conveyor parts',
          openedAt: new Date(Date.now() - 3_600_000).toISOString(),
        },
        { id: 'p2', name: 'Leaf spots 2025', location: '/home/ana/Patchwise/Leaf spots 2025', openedAt: '2026-09-03T10:00:00Z' },
      ],
      currentProject: async () => (await this.#ready(), this.#open ? this.#project : null),
      createProject: async (input) => {
        this.#open = true;
        this.#propose('scan', this.#imageCount);
        return { ...this.#project, name: input.name };
      },
      openProject: async () => ((this.#open = true), this.#project),
      openRecent: async () => ((this.#open = true), this.#project),
      closeProject: async () => {
        this.#open = false;
        this.emit({ type: 'changed', what: 'project' });
      },
      rescan: async () => this.#propose('scan', this.#imageCount),
      imagesPage: async ({ offset, limit, filter, search }) => {
        const ids: number[] = [];
        for (let id = 1; id <= this.#imageCount; id++) {
          const row = search || filter !== 'all' ? this.#row(id) : null;
          if (row && search && !row.path.toLowerCase().includes(search.toLowerCase())) continue;
          if (row && filter !== 'all' && (row.state === 'done') !== (filter === 'done')) continue;
          ids.push(id);
        }
        return { total: ids.length, rows: ids.slice(offset, offset + limit).map((id) => this.#row(id)) };
      },
      imagePaths: async ({ imageIds }) => imageIds.map((imageId) => ({ imageId, path: this.#row(imageId).path })),
      problems: async () => problems,
      startCuration: async () => this.#propose('curate', this.#imageCount),
      curation: async () => {
        if (!this.curated) return null;
        const copies = this.#groups().reduce((sum, group) => sum + group.images.length - 1, 0);
        return {
          createdAt: '2026-11-22T16:20:00Z',
          features: 'pictures',
          images: this.#imageCount,
          groups: this.#groups().length,
          copies,
          exact: this.#groups().filter(({ images }) => images[1]!.exact).length,
          clusters: 6,
          changed: this.changedSince,
          gone: 0,
        };
      },
      duplicateGroups: async ({ offset, limit }) => ({ total: this.#groups().length, rows: this.#groups().slice(offset, offset + limit) }),
      trainingList: async (options) => this.#trainingList(options).preview,
      leftOut: async ({ offset, limit, ...options }) => {
        const { leftOut } = this.#trainingList(options);
        return { total: leftOut.length, rows: leftOut.slice(offset, offset + limit) };
      },
      similarImages: async ({ imageIds, limit }) => {
        if (!this.curated) throw noCuration();
        // Those that show the same scene come first.
        const scene = (id: number): number => (id - 1) % variants;
        const far = (id: number): number => Math.min(...imageIds.map((asked) => Math.abs(scene(asked) - scene(id)) / variants));
        const others = Array.from({ length: this.#imageCount }, (_, i) => i + 1).filter((id) => !imageIds.includes(id));
        return others
          .sort((a, b) => far(a) - far(b) || a - b)
          .slice(0, limit)
          .map((imageId) => ({ imageId, path: this.#row(imageId).path, similarity: 1 - far(imageId) }));
      },
      classes: async () => this.#classes,
      createClass: async ({ name, color }) => {
        if (this.#classes.some((c) => c.name === name))
          throw new AppError('class-name-taken', `There is already a class named "${name}".`, 'Choose another name.');
        const id = Math.max(0, ...this.#classes.map((c) => c.id)) + 1;
        const palette = ['#5ad19a', '#ff6b8b', '#e6d94c', '#5b8def', '#ff8f5c', '#3ad6c2'];
        const row: ClassRow = { id, name, color: color ?? palette[id % palette.length]!, key: id <= 9 ? id : null, annotations: 0 };
        this.#classes = [...this.#classes, row];
        this.emit({ type: 'changed', what: 'classes' });
        return row;
      },
      updateClass: async ({ classId, name, color }) => {
        this.#classes = this.#classes.map((c) => (c.id === classId ? { ...c, name, color } : c));
        this.emit({ type: 'changed', what: 'classes' });
        return this.#classes.find((c) => c.id === classId)!;
      },
      removeClass: async ({ classId }) => {
        const row = this.#classes.find((c) => c.id === classId);
        if (row && row.annotations > 0)
          throw new AppError('class-in-use', `"${row.name}" is on ${row.annotations} annotations.`, 'Give them another class first.');
        this.#classes = this.#classes.filter((c) => c.id !== classId);
        this.emit({ type: 'changed', what: 'classes' });
      },
      jobs: async () => [this.#training, this.#proposing].filter((j) => j !== null),
      stopTraining: async () => {
        if (this.#training?.state === 'running')
          this.emit({ type: 'job', job: (this.#training = { ...this.#training, state: 'stopping' }) });
      },
      stopProposing: async () => {
        if (this.#proposing?.state === 'running') this.#proposing = { ...this.#proposing, state: 'stopping' };
      },
      events: (signal) => this.#events(signal),
      trainPresets: async (input) => this.#presets(input),
      startTraining: async ({ presetId, steps, from, distillFrom }) => {
        const preset = this.#presets({ from: from ?? null, distillFrom }).presets.find((p) => p.id === presetId)!;
        const run: RunRow = {
          id: `run-${this.#runs.length + 1}`,
          presetTitle: preset.title,
          model: preset.model,
          startedAt: new Date().toISOString(),
          state: 'running',
          step: 0,
          totalSteps: steps ?? preset.steps,
          checkpoints: [0],
          chosen: null,
          startedFrom: from
            ? 'weightsId' in from
              ? 'imported dinov2_vits14_reg4_pretrain.pth'
              : `run ${from.runId}, step ${from.step ?? 1500}`
            : null,
          taughtBy: distillFrom ? 'run run-2, step 600' : null,
          error: null,
        };
        this.#runs = [run, ...this.#runs];
        this.#metrics.set(run.id, []);
        this.emit({ type: 'changed', what: 'runs' });
        return this.#train(run);
      },
      resumeTraining: async ({ runId }) => {
        const run = this.#runs.find((r) => r.id === runId);
        if (!run) throw new AppError('run-not-found', `There is no run ${runId}.`, 'Choose another run.');
        const going: RunRow = { ...run, state: 'running', error: null };
        this.#runs = this.#runs.map((r) => (r.id === runId ? going : r));
        this.emit({ type: 'changed', what: 'runs' });
        return this.#train(going);
      },
      runs: async () =>
        this.#runs.map((run) => ({ ...run, chosen: chosenCheckpoint(run.checkpoints, this.#monitors(run), run.startedFrom !== null) })),
      trainMonitors: async ({ runId }) => {
        const lines = this.#monitors(this.#runs.find((r) => r.id === runId)!);
        return { lines, alarms: alarmsOf(lines) };
      },
      trainProbe: async ({ runId }) => (runId === 'run-2' ? probeOf([300, 900, 1500], 1500) : null),
      trainMetrics: async ({ runId, afterStep }) => (this.#metrics.get(runId) ?? []).filter((m) => m.step > afterStep),
      pcaSteps: async ({ runId }) => {
        const run = this.#runs.find((r) => r.id === runId)!;
        return run.checkpoints.map((step) => ({
          step,
          pictures: [1, 4, 7, 10, 13, 16].map((imageId) => ({ imageId, url: `/files/pca/${runId}/${step}/${imageId}.png` })),
          explained: 0.62 - 0.25 * (step / run.totalSteps),
        }));
      },
      startPrelabel: async () => this.#propose('prelabel', 400),
      clusters: async () => this.#clusters,
      nameCluster: async ({ clusterId, classId }) => {
        this.#clusters = this.#clusters.map((c) => (c.id === clusterId ? { ...c, classId, discarded: false } : c));
        for (const [id, own] of this.objects)
          this.objects.set(
            id,
            own.map((o) => (o.kind === 'proposal' && o.clusterId === clusterId && o.state === 'proposed' ? { ...o, classId } : o)),
          );
        this.emit({ type: 'changed', what: 'clusters' });
        return this.#clusters.find((c) => c.id === clusterId)!;
      },
      discardCluster: async ({ clusterId, discarded }) => {
        this.#clusters = this.#clusters.map((c) => (c.id === clusterId ? { ...c, discarded } : c));
        this.emit({ type: 'changed', what: 'clusters' });
        return this.#clusters.find((c) => c.id === clusterId)!;
      },
      queue: async ({ order, classId, clusterId }) => {
        const items = [...this.objects.values()]
          .flat()
          .filter(
            (o) =>
              o.kind === 'proposal' &&
              (o.state === 'proposed' || o.state === 'unsure') &&
              !this.#doneImages.has(o.imageId) &&
              (classId === null || o.classId === classId) &&
              (clusterId === null || o.clusterId === clusterId),
          );
        const rank = (o: ReviewObject): number =>
          (o.state === 'unsure' ? 10 : 0) + (order === 'review' ? -o.score! : Math.abs(o.score! - 0.6));
        const left = new Map<number, number>();
        for (const { imageId } of items.sort((a, b) => rank(a) - rank(b))) left.set(imageId, (left.get(imageId) ?? 0) + 1);
        return [...left].map(([imageId, count]): QueueImage => ({ imageId, left: count }));
      },
      lookAt: async () => undefined,
      reviewImage: async ({ imageId }) => ({ objects: await this.#objectsOf(imageId), image: this.#row(imageId) }),
      decide: (decision) => this.#decide(decision),
      undo: async () => {
        const step = this.#done.pop();
        if (!step) throw new AppError('nothing-to-undo', 'There is nothing to undo.', 'Go on reviewing.');
        this.#undone.push(step);
        return this.#show(step.imageId, step.before, `Undone: ${step.label}`);
      },
      redo: async () => {
        const step = this.#undone.pop();
        if (!step) throw new AppError('nothing-to-undo', 'There is nothing to redo.', 'Go on reviewing.');
        this.#done.push(step);
        return this.#show(step.imageId, step.after, `Done again: ${step.label}`);
      },
      setImageDone: async ({ imageId, done }) => {
        if (done) this.#doneImages.add(imageId);
        else this.#doneImages.delete(imageId);
        this.emit({ type: 'changed', what: 'images' });
        return this.#row(imageId);
      },
      reviewStats: async () => {
        const all = [...this.objects.values()].flat();
        const sorted = [...this.#seconds].sort((a, b) => a - b);
        return {
          decided: this.#done.length,
          remaining: all.filter((o) => o.kind === 'proposal' && (o.state === 'proposed' || o.state === 'unsure')).length,
          acceptedAsIs: all.filter((o) => o.kind === 'annotation' && o.state === 'accepted').length,
          secondsPerDecision: sorted.length < 5 ? null : sorted[Math.floor(sorted.length / 2)]!,
          perReviewer: null,
        };
      },
      exportPreflight: async ({ format, scope }) => {
        const wanted = [...this.objects.values()]
          .flat()
          .filter(
            (o) =>
              (o.kind === 'annotation' && (scope !== 'accepted' || o.state === 'accepted')) ||
              (scope === 'everything' && o.state === 'proposed'),
          );
        return {
          images: new Set(wanted.map((o) => o.imageId)).size,
          objects: wanted.length,
          withoutClass: wanted.filter((o) => o.classId === null).length,
          warnings: format === 'coco-polygons' ? ['3 objects have holes; COCO polygons will fill them.'] : [],
        };
      },
      runExport: async ({ format, scope }) => {
        const counts = await this.service.exportPreflight({ format, scope });
        if (counts.objects === 0)
          throw new AppError('nothing-to-export', 'No object is accepted yet.', 'Accept some in Review, or export everything.');
        const id = `export-${this.#exports.length + 1}`;
        const row: ExportRow = {
          id,
          createdAt: new Date().toISOString(),
          format,
          scope,
          images: counts.images,
          objects: counts.objects,
          files: [{ name: 'annotations.json', bytes: 48_213 + counts.objects * 700, url: `/files/export/${id}/annotations.json` }],
          location: `/home/ana/Patchwise/Conveyor parts/exports/${id}`,
        };
        this.#exports = [row, ...this.#exports];
        this.emit({ type: 'changed', what: 'exports' });
        return row;
      },
      exports: async () => this.#exports,
    };
  }

  async *#events(signal: AbortSignal): AsyncGenerator<AppEvent> {
    const waiting: AppEvent[] = [];
    let wake = (): void => undefined;
    const tell = (event: AppEvent): void => {
      waiting.push(event);
      wake();
    };
    this.#listeners.add(tell);
    signal.addEventListener('abort', () => wake());
    try {
      while (!signal.aborted) {
        while (waiting.length > 0) yield waiting.shift()!;
        await new Promise<void>((done) => (wake = done));
      }
    } finally {
      this.#listeners.delete(tell);
    }
  }
}
