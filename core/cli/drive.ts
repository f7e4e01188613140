/** The host's own service without its server: what the commands and the demo drive, on the same projects as the app. */
import { mkdir, realpath } from 'node:fs/promises';
import path from 'node:path';
import { AppError, type HostService, type ImageRow, type JobKind, type JobState, type ReviewObject } from '../contract/index.ts';
import { createService, type LocalService } from '../host/index.ts';
import type { Terminal } from './terminal.ts';

/** Set by Ctrl-C: the running job is asked to stop, and the command ends with what is done. */
export interface Stop {
  readonly signal: AbortSignal;
}

/** Stopped by hand where going on makes no sense: half a scan is no project to train on. */
export class Stopped extends Error {}

/** Opens a service, runs the body, and closes project and jobs whatever happens. */
export async function withService<T>(body: (local: LocalService) => Promise<T>): Promise<T> {
  const local = await createService();
  try {
    return await body(local);
  } finally {
    await local.service.close();
  }
}

/**
 * Opens the project in `dir`, or makes it there for the images in `imageFolder`. Its first scan has gone through then.
 * @param imageFolder null: the project must exist
 * @throws AppError project-not-found, project-exists when it is of another image folder; Stopped
 */
export async function openOrCreate(
  local: LocalService,
  dir: string,
  imageFolder: string | null,
  terminal: Terminal,
  stop: Stop,
): Promise<void> {
  const target = path.resolve(dir);
  if (imageFolder === null || (await isProject(target))) {
    const project = await local.service.openAt(target);
    if (imageFolder !== null) await sameFolder(project.imageFolder, imageFolder, dir);
    // Opening begins a first scan anew that was broken off.
    const scanning = (await local.service.jobs()).some((job) => job.kind === 'scan' && job.state === 'running');
    if (scanning) await runJob(local.service, 'scan', async () => {}, terminal, stop);
    if (stop.signal.aborted) throw new Stopped();
    return;
  }
  await mkdir(path.dirname(target), { recursive: true });
  const images = await local.folders.chosen(path.resolve(imageFolder));
  const location = await local.folders.chosen(await realpath(path.dirname(target)));
  // Creating starts the first scan.
  await runJob(
    local.service,
    'scan',
    () => local.service.createProject({ name: path.basename(target), imagesId: images.id, locationId: location.id }),
    terminal,
    stop,
  );
  if (stop.signal.aborted) throw new Stopped();
}

/** @throws AppError project-exists */
async function sameFolder(ofProject: string, asked: string, dir: string): Promise<void> {
  const resolved = await realpath(asked).catch(() => path.resolve(asked)); // gone by now, or never there: told as it is
  if (resolved === ofProject) return;
  throw new AppError('project-exists', `${dir} is a project of ${ofProject}, not of ${asked}.`, 'Choose another folder for the project.');
}

async function isProject(dir: string): Promise<boolean> {
  try {
    await realpath(path.join(dir, 'project.sqlite'));
    return true;
  } catch {
    return false;
  }
}

/**
 * Starts a job and shows it until it ends. Stopping by hand is an end like another; failing throws.
 * @param start makes the job begin; its result is of no interest here
 * @returns the job's last state: finished or stopped
 * @throws AppError the reason the job failed
 */
export async function runJob(
  service: HostService,
  kind: JobKind,
  start: () => Promise<unknown>,
  terminal: Terminal,
  stop: Stop,
): Promise<JobState> {
  const listening = new AbortController();
  const events = service.events(listening.signal);
  const stopJob = () => void (kind === 'pretrain' ? service.stopTraining() : service.stopProposing());
  try {
    // Listen first: what happens between the start and the first event must not be missed.
    const first = events.next();
    const starting = start().then(() => {
      if (stop.signal.aborted) stopJob();
      else stop.signal.addEventListener('abort', stopJob, { once: true });
    });
    starting.catch(() => listening.abort());
    // The last jobs, from before this start, are told first; they have ended already.
    let running = false;
    for (let next = await first; !next.done; next = await events.next()) {
      const job = next.value.type === 'job' && next.value.job.kind === kind ? next.value.job : null;
      if (job?.state === 'running') running = true;
      if (!running) continue;
      terminal.event(next.value);
      if (!job || job.state === 'running' || job.state === 'stopping') continue;
      await starting;
      if (job.error) throw new AppError(job.error.code, job.error.message, job.error.action);
      return job;
    }
    await starting;
    throw new AppError(
      'internal',
      `The ${kind} job ended without a word.`,
      'Try again; if it comes back, please report it with this text.',
    );
  } finally {
    stop.signal.removeEventListener('abort', stopJob);
    listening.abort();
    await events.return(undefined);
  }
}

/** Every image of the project, page by page. */
export async function* imagesOf(service: HostService): AsyncGenerator<ImageRow> {
  const limit = 500;
  for (let offset = 0; ; offset += limit) {
    const { rows } = await service.imagesPage({ offset, limit, filter: 'all', search: '' });
    yield* rows;
    if (rows.length < limit) return;
  }
}

/** Undecided proposals of an image, best score first. */
export async function proposalsOf(service: HostService, imageId: number): Promise<ReviewObject[]> {
  const { objects } = await service.reviewImage({ imageId });
  return objects
    .filter((o) => o.kind === 'proposal' && (o.state === 'proposed' || o.state === 'unsure'))
    .sort((a, b) => (b.score ?? 0) - (a.score ?? 0));
}
