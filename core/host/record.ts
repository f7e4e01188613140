/** Writes what jobs tell into the project. One recorder per job; events of a batch share a transaction. */
import type { JobEvent, JobKind } from '../contract/index.ts';
import type { Hub } from './hub.ts';
import type { Project, Writer } from './project.ts';
import { saveCuration } from './store/curation.ts';
import { clearProblems, hideUnseen, saveImage, saveProblem } from './store/images.ts';
import { isImageDone } from './store/overview.ts';
import { replaceClusters, replaceProposals } from './store/proposals.ts';
import { savePca, setRunStep } from './store/runs.ts';

type ClustersEvent = Extract<JobEvent, { type: 'clusters' }>;

export interface RecorderOptions {
  readonly kind: JobKind;
  readonly runId: string | null;
  /** Ids of the images that the job was given; of a scan none. */
  readonly imageIds: readonly number[];
  /** Names the network that the proposals come from. */
  readonly modelKey: string | null;
  /** The image in front of a person: a background job must not change it under the hand. */
  readonly onScreen: () => number | null;
}

export class Recorder {
  readonly #project: Project;
  readonly #hub: Hub;
  readonly #options: RecorderOptions;
  /** Ids of the images that this scan met. */
  readonly #seen = new Set<number>();
  readonly #problems: Extract<JobEvent, { type: 'problem' }>['problem'][] = [];
  /** Row ids of this job's proposals by image, in the order of its event; null where dropped. */
  readonly #rows = new Map<number, (number | null)[]>();

  constructor(project: Project, hub: Hub, options: RecorderOptions) {
    this.#project = project;
    this.#hub = hub;
    this.#options = options;
  }

  /** @throws AppError disk-full, ...; then nothing of the batch is written */
  write(events: readonly JobEvent[]): void {
    const lasting = events.filter((event) => event.type !== 'progress' && event.type !== 'log' && event.type !== 'done');
    if (lasting.length > 0) this.#project.write((w) => lasting.forEach((event) => this.#record(w, event)));
    const types = new Set(events.map((event) => event.type));
    if (types.has('images') || types.has('problem')) this.#hub.changed('images', 'project');
    if (types.has('proposals')) this.#hub.changed('proposals', 'images', 'project');
    if (types.has('clusters')) this.#hub.changed('clusters', 'proposals');
    if (types.has('curation')) this.#hub.changed('curation');
    if (types.has('checkpoint') || types.has('monitors') || types.has('pca')) this.#hub.changed('runs');
  }

  /** After a job that went through: what only the whole of it can tell. */
  finish(): void {
    if (this.#options.kind !== 'scan') return;
    this.#project.write((w) => {
      hideUnseen(w, this.#seen);
      clearProblems(w);
      for (const problem of this.#problems) saveProblem(w, problem);
      w.run('UPDATE settings SET scanned_at = ?', new Date().toISOString());
    });
    this.#hub.changed('images', 'curation', 'project');
  }

  #record(w: Writer, event: JobEvent): void {
    const { kind, runId, imageIds, modelKey, onScreen } = this.#options;
    switch (event.type) {
      case 'images':
        for (const image of event.images) this.#seen.add(saveImage(w, image));
        break;
      case 'problem':
        if (kind === 'scan') this.#problems.push(event.problem);
        saveProblem(w, event.problem);
        break;
      case 'metrics':
      case 'checkpoint': {
        const { step, totalSteps } = event.type === 'metrics' ? event.metrics : event;
        setRunStep(w, runId!, step, totalSteps);
        break;
      }
      case 'curation':
        saveCuration(w, event.curation, imageIds);
        break;
      case 'pca':
        savePca(w, runId!, event);
        break;
      case 'proposals':
        if ((kind === 'learn' && event.imageId === onScreen()) || isImageDone(w, event.imageId)) break;
        this.#rows.set(event.imageId, replaceProposals(w, event.imageId, event.proposals, modelKey!, kind === 'learn'));
        break;
      case 'clusters':
        replaceClusters(w, this.#clusters(event));
        break;
      default: // nothing that lasts
    }
  }

  /** From (image, index in its event) to the rows written. */
  #clusters(event: ClustersEvent) {
    const members: number[][] = event.clusters.map(() => []);
    for (const { imageId, clusters } of event.assignment) {
      const rows = this.#rows.get(imageId) ?? [];
      clusters.forEach((cluster, index) => {
        const row = rows[index];
        if (cluster >= 0 && row != null) members[cluster].push(row);
      });
    }
    return event.clusters.map(({ compactness, examples }, cluster) => ({
      compactness,
      examples: examples.map(({ imageId, index }) => this.#rows.get(imageId)?.[index] ?? null).filter((row) => row !== null),
      members: members[cluster],
    }));
  }
}
