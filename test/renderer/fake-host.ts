/**
 * A host made of memory, for tests of the page and for working on it: implements HostService with made-up data and
 * serves dist/renderer, /trpc and pictures. Not the product's host: nothing is kept, nothing is computed.
 *
 *   node test/renderer/fake-host.ts [port]     then open the printed address
 */
import { readFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import { extname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import { createHTTPHandler } from '@trpc/server/adapters/standalone';
import sharp from 'sharp';
import { AppError, createRouter } from '../../core/contract/index.ts';
import type {
  AppEvent,
  ClassRow,
  ClusterCard,
  Decision,
  ErrorFacts,
  ExportRow,
  FolderEntry,
  HostService,
  ImageProblem,
  ImageRow,
  JobState,
  ProjectSummary,
  QueueItem,
  ReviewChange,
  ReviewObject,
  RunRow,
  Settings,
  TrainMetrics,
  TrainPresets,
} from '../../core/contract/index.ts';
import { decodeRle } from '../../renderer/src/logic/rle.ts';
import { kinds, pcaPicture, random, sceneHeight, scenePicture, sceneParts, sceneWidth } from './fake-pictures.ts';

const variants = 24;

export interface FakeOptions {
  /** Images of the project; all show one of 24 scenes. */
  images?: number;
  /** Start with the project open (default) or on the welcome page. */
  open?: boolean;
  /** Images that have proposals, from the first. */
  proposed?: number;
  /** Below 1: smaller and quicker pictures. */
  pictureScale?: number;
  /** Milliseconds every call takes. */
  delay?: number;
}

interface Step {
  imageId: number;
  before: ReviewObject[];
  after: ReviewObject[];
  label: string;
}

export class FakeHost {
  readonly calls: { name: string; input: unknown }[] = [];
  /** Next call of that name fails with these facts. */
  readonly failNext = new Map<string, ErrorFacts>();
  readonly objects = new Map<number, ReviewObject[]>();
  readonly service: HostService;
  readonly pictureScale: number;
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
          .map((o) => ({ proposalId: o.id, imageId: o.imageId, box: o.box })),
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
    if (!imageId) throw new AppError('bad-input', 'The object is not there any more.', 'Reload the image.');
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
          o.kind === 'proposal' && (o.state === 'proposed' || o.state === 'unsure')
            ? [{ ...o, state: 'accepted' as const }, annotation(o, {})]
            : [o],
        );
        return this.#step(imageId, before, after, `Accepted ${after.length - before.length} objects`);
      }
    }
  }

  #every(milliseconds: number, tick: () => boolean): void {
    const timer = setInterval(() => {
      if (tick()) return;
      clearInterval(timer);
      this.#timers.delete(timer);
    }, milliseconds);
    this.#timers.add(timer);
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

  #propose(kind: 'scan' | 'prelabel', total: number): JobState {
    let done = 0;
    this.#proposing = { kind, runId: null, state: 'running', progress: null, error: null };
    this.emit({ type: 'job', job: this.#proposing });
    this.#every(150, () => {
      done = Math.min(total, done + Math.ceil(total / 60));
      const over = done >= total || this.#proposing?.state === 'stopping';
      const progress = {
        type: 'progress',
        phase: kind === 'scan' ? 'Reading images' : done < total / 2 ? 'Features' : 'Regions',
        done,
        total,
        imagesPerSecond: 6.4,
        secondsLeft: (total - done) / 6.4,
      } as const;
      this.#proposing = { ...this.#proposing!, progress, state: over ? (done >= total ? 'finished' : 'stopped') : 'running' };
      this.emit({ type: 'jobEvent', kind, event: progress });
      if (over) {
        this.emit({ type: 'job', job: this.#proposing });
        this.emit({ type: 'changed', what: kind === 'scan' ? 'images' : 'proposals' });
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
      problems: async () => problems,
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
      trainPresets: async () => presets,
      startTraining: async ({ presetId, steps }) => {
        const preset = presets.presets.find((p) => p.id === presetId)!;
        const run: RunRow = {
          id: `run-${this.#runs.length + 1}`,
          presetTitle: preset.title,
          model: preset.model,
          startedAt: new Date().toISOString(),
          state: 'running',
          step: 0,
          totalSteps: steps ?? preset.steps,
          checkpoints: [0],
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
      runs: async () => this.#runs,
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
      queue: async ({ order, classId, clusterId, limit }) => {
        const items = [...this.objects.values()]
          .flat()
          .filter(
            (o) =>
              o.kind === 'proposal' &&
              (o.state === 'proposed' || o.state === 'unsure') &&
              (classId === null || o.classId === classId) &&
              (clusterId === null || o.clusterId === clusterId),
          );
        const rank = (o: ReviewObject): number =>
          (o.state === 'unsure' ? 10 : 0) + (order === 'review' ? -o.score! : Math.abs(o.score! - 0.6));
        return items
          .sort((a, b) => rank(a) - rank(b))
          .slice(0, limit)
          .map((o): QueueItem => ({
            proposalId: o.id,
            imageId: o.imageId,
            classId: o.classId,
            clusterId: o.clusterId,
            score: o.score!,
            state: o.state as 'proposed' | 'unsure',
          }));
      },
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

const problems: ImageProblem[] = [
  {
    code: 'image-truncated',
    path: 'line-a/cam-02/part_000777.jpg',
    message: 'part_000777.jpg ends after 81,920 of 402,113 bytes.',
    action: 'Copy the file again from its source.',
  },
  {
    code: 'image-empty-file',
    path: 'line-a/cam-05/part_001204.jpg',
    message: 'part_001204.jpg is empty (0 bytes).',
    action: 'Copy the file again from its source, or remove it.',
  },
  {
    code: 'image-not-an-image',
    path: 'line-a/notes.png',
    message: 'notes.png is not an image: it starts like a PDF.',
    action: 'Remove it, or give it its true ending.',
  },
  {
    code: 'image-unsupported',
    path: 'line-a/cam-01/raw/IMG_0001.cr3',
    message: 'IMG_0001.cr3 is a camera raw file.',
    action: 'Convert it to TIFF or PNG.',
  },
];

const presets: TrainPresets = {
  recommendedId: 'small-cpu',
  reason: '3,200 images and no GPU',
  engine: 'cpu: 2 threads, relaxed SIMD (no GPU executor installed)',
  presets: [
    {
      id: 'quick',
      title: 'Quick look',
      summary: 'See within minutes whether features separate your parts.',
      model: 'nano',
      steps: 400,
      batch: 16,
      estimatedSeconds: 300,
      numbers: numbersOf('nano: 6 blocks, width 192', 400, 16, 'Enough to see the pictures change; expect coarse masks.'),
    },
    {
      id: 'small-cpu',
      title: 'Small set, no GPU',
      summary: 'The best that two cores can do in about an hour.',
      model: 'tiny',
      steps: 2000,
      batch: 24,
      estimatedSeconds: 3900,
      numbers: numbersOf('tiny: 12 blocks, width 192', 2000, 24, 'Under 20,000 images the scores stop rising near this length.'),
    },
    {
      id: 'full',
      title: 'Full length',
      summary: 'For a machine left alone overnight.',
      model: 'small',
      steps: 12000,
      batch: 32,
      estimatedSeconds: 61000,
      numbers: numbersOf('small: 12 blocks, width 384', 12000, 32, 'Four passes more than the short preset; watch the newest checkpoint.'),
    },
  ],
};

function numbersOf(model: string, steps: number, batch: number, why: string): { name: string; value: string; reason: string }[] {
  return [
    { name: 'Model', value: model, reason: 'Larger models need more images than a folder this size has.' },
    { name: 'Steps', value: steps.toLocaleString('en'), reason: why },
    { name: 'Batch', value: String(batch), reason: 'Fits into 4 GB of memory with two global and four local crops.' },
    { name: 'Crops', value: '2 × 112 + 4 × 56', reason: 'Parts are about a tenth of the image; smaller crops see half a part.' },
    { name: 'Learning rate', value: '6.1e-4', reason: '4e-3 × √(batch / 1024), the rule for training from scratch.' },
    { name: 'Prototypes', value: '2,048', reason: 'Two for every three images; more stay empty.' },
  ];
}

function folder(id: string, imageFiles: number, hasFolders: boolean, isProject = false): FolderEntry {
  return { id, name: id.slice(id.lastIndexOf('/') + 1), label: `/${id}`, hasFolders, imageFiles, isProject };
}

function metricsAt(step: number, totalSteps: number): TrainMetrics {
  const next = random(step + 1);
  const fall = (from: number, to: number, speed: number): number =>
    to + (from - to) * Math.exp((-step / totalSteps) * speed) + (next() - 0.5) * 0.22;
  const dinoGlobal = fall(1.52, 0.92, 4);
  const dinoLocal = fall(6.1, 4.1, 4);
  const ibot = fall(7.6, 4.9, 3);
  const koleo = 0.1 * fall(1.4, 0.6, 5);
  const warm = Math.min(1, step / (0.08 * totalSteps));
  return {
    step,
    totalSteps,
    total: dinoGlobal + dinoLocal + ibot + koleo,
    dinoGlobal,
    dinoLocal,
    ibot,
    koleo,
    learningRate: 6.1e-4 * warm * (0.5 + 0.5 * Math.cos((Math.PI * step) / totalSteps)) + 1e-6,
    weightDecay: 0.04 + (0.16 * step) / totalSteps,
    teacherMomentum: 0.992,
    teacherTemperature: 0.05,
    gradNorm: { backbone: 1.2, dino_head: 0.8 },
    imagesPerSecond: 11.8 + next(),
    secondsLeft: ((totalSteps - step) * 24) / 12,
  };
}

const types: Readonly<Record<string, string>> = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript',
  '.css': 'text/css',
  '.svg': 'image/svg+xml',
};
/** As strict as the page is meant to bear: no inline script or style, nothing from elsewhere. */
export const contentSecurityPolicy =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

export interface Served {
  readonly url: string;
  readonly host: FakeHost;
  close(): Promise<void>;
}

/** Serves the page built at `root` and the fake host on a loopback port (0: any free one). */
export async function serve(
  host: FakeHost,
  port = 0,
  root = fileURLToPath(new URL('../../dist/renderer/', import.meta.url)),
): Promise<Served> {
  const trpc = createHTTPHandler({ router: createRouter(host.service), basePath: '/trpc/' });
  const pictures = new Map<number, Promise<Buffer>>();
  const picture = (id: number): Promise<Buffer> => {
    const variant = (id - 1) % variants;
    if (!pictures.has(variant)) pictures.set(variant, scenePicture(variant, host.pictureScale));
    return pictures.get(variant)!;
  };
  const server: Server = createServer((request, response) => {
    const url = new URL(request.url ?? '/', 'http://127.0.0.1');
    response.setHeader('Content-Security-Policy', contentSecurityPolicy);
    if (url.pathname.startsWith('/trpc/')) return void trpc(request, response);
    void answer(url).then(
      ({ type, body }) => {
        response.writeHead(200, { 'Content-Type': type, 'Cache-Control': type.startsWith('image/') ? 'max-age=600' : 'no-store' });
        response.end(body);
      },
      () => {
        response.writeHead(404);
        response.end();
      },
    );
  });
  const answer = async (url: URL): Promise<{ type: string; body: Buffer }> => {
    const [, files, what, first, second, third] = url.pathname.split('/');
    if (files === 'files') {
      if (what === 'thumb')
        return {
          type: 'image/jpeg',
          body: await sharp(await picture(Number(first)))
            .resize(256, 256, { fit: 'inside' })
            .jpeg()
            .toBuffer(),
        };
      if (what === 'image') {
        const max = Number(url.searchParams.get('max') ?? 0);
        const whole = await picture(Number(first));
        return {
          type: 'image/jpeg',
          body:
            max > 0 && max < sceneWidth * host.pictureScale
              ? await sharp(whole).resize(max, max, { fit: 'inside' }).jpeg().toBuffer()
              : whole,
        };
      }
      if (what === 'pca')
        return { type: 'image/png', body: await pcaPicture((Number.parseInt(third!) - 1) % variants, Math.min(1, Number(second) / 1200)) };
      if (what === 'export') return { type: 'application/json', body: Buffer.from('{"images":[],"annotations":[],"categories":[]}') };
    }
    const path = normalize(join(root, url.pathname === '/' ? 'index.html' : url.pathname));
    if (!path.startsWith(normalize(root))) throw new Error('outside');
    return { type: types[extname(path)] ?? 'application/octet-stream', body: await readFile(path) };
  };
  await new Promise<void>((done) => server.listen(port, '127.0.0.1', done));
  const address = server.address();
  return {
    url: `http://127.0.0.1:${typeof address === 'object' && address ? address.port : port}/`,
    host,
    close: () =>
      new Promise((done) => {
        host.close();
        server.closeAllConnections();
        server.close(() => done());
      }),
  };
}

if (import.meta.main) {
  const served = await serve(new FakeHost({ open: !process.argv.includes('--closed') }), Number(process.argv[2] ?? 5199));
  console.log(`The page with made-up data: ${served.url}`);
}
