/** What a job is given, and the generator it becomes. No database, no server: requests in, events out. */
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { deserialize, serialize } from 'node:v8';
import { AppError, type CurationResult, type JobEvent, type Rle, type ScannedImage, type TrainingListOptions } from '../contract/index.ts';
import type { Backbone, LoggedMeans, ModelConfig, RunConfig, TrainedSource } from '../dinov2/index.ts';
import type { EngineWish, Executor, ExecutorOptions, Precision } from '../nn/index.ts';
import type { PcaBasis, PrelabelImage } from '../prelabel/index.ts';

export interface ScanRequest {
  readonly kind: 'scan';
  readonly imageRoot: string;
  /** What the last scan found; unchanged files are not read again. */
  readonly known: readonly ScannedImage[];
}

export interface PretrainRequest {
  readonly kind: 'pretrain';
  readonly runDir: string;
  readonly imageRoot: string;
  /** Where the pixels of big images are kept for the next pass and the next run. */
  readonly pixelDir: string;
  /** null: go on with what is in runDir. */
  readonly start: PretrainStart | null;
  /** null: the fastest; for a run that goes on, the one it was started with. */
  readonly engine: EngineWish | null;
  /** Likewise. */
  readonly precision?: Precision | null;
}

export interface PretrainStart {
  readonly images: readonly (ScannedImage & { readonly id: number })[];
  readonly config: RunConfig;
  /** What it starts from, and what it learns from, for a config that says so. */
  readonly startFile?: string;
  readonly teacherFile?: string;
  readonly list: TrainingListOptions;
  /** Images to leave out: a path, stem or glob each. */
  readonly exclude: readonly string[];
  /** What is known of these images; null: looked for first, when the list asks for it. */
  readonly curation: CurationResult | null;
  readonly cacheDir: string;
}

export interface CurateRequest {
  readonly kind: 'curate';
  readonly imageRoot: string;
  readonly cacheDir: string;
  readonly images: readonly PrelabelImage[];
  /** null: plain appearance. */
  readonly network: { readonly source: BackboneSource; readonly modelKey: string } | null;
}

/** Which network: a run's teacher at a checkpoint, an imported one, or one with random weights. */
export type BackboneSource = TrainedSource | { readonly untrained: ModelConfig; readonly seed: number };

interface ProposeRequest {
  readonly source: BackboneSource;
  /** Names the network in the cache. */
  readonly modelKey: string;
  readonly cacheDir: string;
  readonly imageRoot: string;
  readonly images: readonly PrelabelImage[];
  /** Of each image, half a patch apart. */
  readonly passes: 1 | 4;
}

export interface PrelabelRequest extends ProposeRequest {
  readonly kind: 'prelabel';
  /** null: the fastest. */
  readonly engine: EngineWish | null;
  readonly precision?: Precision | null;
}

export interface LearnRequest extends ProposeRequest {
  readonly kind: 'learn';
  readonly accepted: readonly { readonly imageId: number; readonly classId: number | null; readonly drawn: boolean; readonly rle: Rle }[];
  readonly rejected: readonly { readonly imageId: number; readonly rle: Rle }[];
  /** Images that a person marked done: what is unmarked in them is background. */
  readonly reviewed: readonly number[];
  /** Images that review shows next. */
  readonly first: readonly number[];
}

/** What the process that starts jobs knows of this machine. */
export interface JobOptions {
  /** File that remembers which GPU drivers have passed the check of their results. */
  readonly gpuChecks?: string;
}

export type JobRequest = ScanRequest | CurateRequest | PretrainRequest | PrelabelRequest | LearnRequest;

/** The job as events. The rooms are loaded when needed: a scan should not wait for kernels to compile. */
export async function* runJob(request: JobRequest, signal: AbortSignal, { gpuChecks }: JobOptions = {}): AsyncGenerator<JobEvent> {
  if (request.kind === 'scan') {
    const { scanFolder } = await import('../images/index.ts');
    yield* scanFolder(request.imageRoot, { known: Map.groupBy(request.known, (image) => image.path), signal });
    return;
  }
  if (request.kind === 'curate' && request.network === null) {
    const { curate } = await import('../curate/index.ts');
    yield* curate({ ...request, network: null, signal });
    return;
  }
  const { createExecutor, describeEngines } = await import('../nn/index.ts');
  const fallbacks: string[] = [];
  const onFallback = (reason: string): void => void fallbacks.push(reason);
  const checks = gpuChecks ? { gpuChecks } : {};
  const wish = await engineOf(request);
  const planned = await describeEngines(wish.engine, checks);
  const executor = await createExecutor({ ...wish, onFallback, ...checks });
  for (const text of fallbacks) yield { type: 'log', level: 'warn', text };
  try {
    if (request.kind === 'pretrain') checkPlan(planned.gpu, executor.name, fallbacks);
    if (request.kind === 'pretrain') yield* train(request, executor, signal);
    else if (request.kind === 'curate') yield* curateByNetwork(request, executor, signal);
    else yield* propose(request, executor, signal);
  } finally {
    await executor.dispose();
  }
}

/**
 * A run whose numbers were chosen for a GPU would take days on the CPU.
 * @param gpu what its numbers were chosen for
 * @throws AppError engine-unavailable with the reasons why another engine was taken
 */
export function checkPlan(gpu: boolean, engine: string, fallbacks: readonly string[]): void {
  if (!gpu || engine !== 'cpu') return;
  const action = 'Start it again: its numbers are then chosen for what is left. From the command line, --engine cpu does so.';
  throw new AppError('engine-unavailable', fallbacks.join(' ') || 'The GPU cannot be used.', action);
}

/** What computes the job. */
async function engineOf(request: PretrainRequest | CurateRequest | PrelabelRequest | LearnRequest): Promise<ExecutorOptions> {
  if (request.kind === 'learn' || request.kind === 'curate') return {};
  const asked = { ...(request.engine && { engine: request.engine }), ...(request.precision && { precision: request.precision }) };
  if (request.kind === 'prelabel' || request.start) return asked;
  const { engineNames } = await import('../nn/index.ts');
  const { readRun } = await import('../dinov2/index.ts');
  const { engine: before, precision = 'f32' } = (await readRun(request.runDir)).config;
  // Runs of before name none.
  const engine = asked.engine ?? engineNames.find((name) => name === before);
  // The precision belongs to the engine: another one has its own.
  return { ...(engine && { engine }), ...(engine && engine === before && { precision }), ...asked };
}

async function* train(
  { runDir, imageRoot, pixelDir, start }: PretrainRequest,
  executor: Executor,
  signal: AbortSignal,
): AsyncGenerator<JobEvent> {
  const { pretrain, resume } = await import('../dinov2/index.ts');
  const images = start && (yield* chooseImages(runDir, imageRoot, start, signal));
  if (start && !images) return; // stopped
  const { RunWatch } = await import('../monitor/index.ts');
  const pictures = new PcaPictures(runDir, imageRoot, images);
  const watch = new RunWatch({ runDir, imageRoot });
  const onCheckpoint = async function* (teacher: Backbone, step: number, logged: LoggedMeans | null): AsyncGenerator<JobEvent> {
    yield* watch.observe(teacher, step, logged);
    yield* pictures.draw(teacher, step);
  };
  const common = { runDir, imageRoot, pixelDir, executor, signal, onCheckpoint };
  const files = { ...(start?.startFile && { startFile: start.startFile }), ...(start?.teacherFile && { teacherFile: start.teacherFile }) };
  const run = start && images ? pretrain({ ...common, images, config: start.config, ...files }) : resume(common);
  for await (const event of run) yield event.type === 'done' ? { ...event, summary: await withChoice(runDir, event.summary) } : event;
}

/** The end of a continued run in words, with what is used of it: a start that training did not make better, say. */
async function withChoice(runDir: string, summary: string): Promise<string> {
  const { listCheckpoints, readRun } = await import('../dinov2/index.ts');
  const { chosenCheckpoint, readMonitors } = await import('../monitor/index.ts');
  if ((await readRun(runDir)).config.start !== 'weights') return summary;
  const choice = chosenCheckpoint(await listCheckpoints(runDir), await readMonitors(runDir), true);
  return choice ? `${summary} ${choice.reason}` : summary;
}

/** The run's list; what is left out goes to left-out.jsonl. Null when stopped before it was made. */
async function* chooseImages(
  runDir: string,
  imageRoot: string,
  { images, config, list, exclude, curation, cacheDir }: PretrainStart,
  signal: AbortSignal,
): AsyncGenerator<JobEvent, readonly ScannedImage[] | null> {
  const { curate, excludedBy, trainingList } = await import('../curate/index.ts');
  let known = curation;
  if (known === null && (list.dedupe || list.balance)) {
    for await (const event of curate({ images, imageRoot, cacheDir, network: null, signal })) {
      if (event.type === 'curation') known = event.curation;
      if (event.type !== 'done') yield event;
    }
    if (signal.aborted) return null;
  }
  const { excluded, unused } = excludedBy(exclude, images);
  if (unused.length > 0) {
    const some = `${unused.slice(0, 5).join(', ')}${unused.length > 5 ? ', ...' : ''}`;
    yield { type: 'log', level: 'warn', text: `No image is named by ${unused.length} of the lines to leave out: ${some}` };
  }
  const lines = new Map([...excluded].map(([image, line]) => [image.id, line]));
  const { kept, leftOut } = trainingList(
    images.map(({ id }) => id),
    known,
    list,
    config.seed,
    lines,
  );
  const byId = new Map(images.map((image) => [image.id, image]));
  const pathOf = (id: number): string => byId.get(id)!.path;
  const rows = leftOut.map(({ imageId, reason }) => {
    const facts = reason.kind === 'duplicate' ? { ...reason, of: pathOf(reason.of) } : reason;
    return JSON.stringify({ path: pathOf(imageId), page: byId.get(imageId)!.page, ...facts });
  });
  const file = join(runDir, 'left-out.jsonl');
  await mkdir(runDir, { recursive: true });
  await writeFile(`${file}.tmp`, rows.map((row) => `${row}\n`).join(''));
  await rename(`${file}.tmp`, file);
  if (leftOut.length > 0) {
    const counted = (kind: string): number => leftOut.filter(({ reason }) => reason.kind === kind).length;
    const why = [
      [counted('excluded'), 'named to be left out'],
      [counted('duplicate'), 'copies'],
      [counted('over-share'), 'of looks that are frequent'],
    ] as const;
    const parts = why.filter(([count]) => count > 0).map(([count, what]) => `${count} ${what}`);
    yield { type: 'log', level: 'info', text: `Training on ${kept.length} of ${images.length} images; left out: ${parts.join(', ')}.` };
  }
  return kept.map((id) => byId.get(id)!);
}

async function* curateByNetwork(request: CurateRequest, executor: Executor, signal: AbortSignal): AsyncGenerator<JobEvent> {
  const { curate } = await import('../curate/index.ts');
  const { source, modelKey } = request.network!;
  const backbone = await openBackbone(source, executor);
  try {
    yield* curate({ ...request, network: { backbone, modelKey }, signal });
  } finally {
    backbone.dispose();
  }
}

async function openBackbone(source: BackboneSource, executor: Executor): Promise<Backbone> {
  const { loadBackbone, untrainedBackbone } = await import('../dinov2/index.ts');
  return 'untrained' in source ? untrainedBackbone(source.untrained, source.seed, executor) : loadBackbone(source, executor);
}

async function* propose(request: PrelabelRequest | LearnRequest, executor: Executor, signal: AbortSignal): AsyncGenerator<JobEvent> {
  const { edgeEngine, prelabel, learn } = await import('../prelabel/index.ts');
  const { source, modelKey, cacheDir, imageRoot } = request;
  const backbone = await openBackbone(source, executor);
  const options = { features: { passes: request.passes } };
  const common = { backbone, modelKey, cacheDir, imageRoot, images: request.images, options, engine: edgeEngine(executor), signal };
  try {
    if (request.kind === 'prelabel') yield* prelabel(common);
    else {
      const { accepted, rejected, reviewed, first } = request;
      yield* learn({ ...common, accepted, rejected, reviewed, first });
    }
  } finally {
    backbone.dispose();
  }
}

// --- PCA pictures -----------------------------------------------------------------------------------------------------

const pictureCount = 6;
/** Patches along the longer side: enough to see parts, and under a second for a small network on a CPU. */
const patchesAcross = 32;

/** What stays the same through a run, on disk so that a resumed run goes on with the same images and colours. */
interface PcaState {
  readonly images: readonly { readonly path: string; readonly page: number; readonly width: number; readonly height: number }[];
  readonly basis: PcaBasis | null;
}

/** The growing feature picture: principal components of six images' patches at each checkpoint, as PNG files of one pixel a patch. */
class PcaPictures {
  readonly #dir: string;
  readonly #imageRoot: string;
  readonly #images: readonly ScannedImage[] | null;

  constructor(runDir: string, imageRoot: string, images: readonly ScannedImage[] | null) {
    this.#dir = join(runDir, 'pca');
    this.#imageRoot = imageRoot;
    this.#images = images;
  }

  async *draw(teacher: Backbone, step: number): AsyncGenerator<JobEvent> {
    const { normalizeImage } = await import('../dinov2/index.ts');
    const { pcaPictures } = await import('../prelabel/index.ts');
    const { readRgb, writePng } = await import('../images/index.ts');
    const state = await this.#state();
    const patch = teacher.config.patchSize;
    const features = [];
    const drawn = [];
    for (const image of state.images) {
      try {
        const scale = patchesAcross / Math.max(image.width, image.height);
        const size = {
          width: Math.max(1, Math.round(image.width * scale)) * patch,
          height: Math.max(1, Math.round(image.height * scale)) * patch,
        };
        const rgb = await readRgb(join(this.#imageRoot, image.path), { page: image.page, size });
        const { patches, cls, gridHeight, gridWidth } = await teacher.features(normalizeImage(rgb), 1, size.height, size.width);
        features.push({ gridHeight, gridWidth, dim: teacher.config.embedDim, patches, cls });
        drawn.push(image.path);
      } catch (error) {
        if (!(error instanceof AppError)) throw error;
        yield { type: 'problem', problem: { path: image.path, ...error.facts } }; // a picture less; the run goes on
      }
    }
    if (features.length === 0) return;
    const { pictures, basis, explained } = pcaPictures(features, state.basis);
    const dir = join(this.#dir, String(step));
    await mkdir(dir, { recursive: true });
    for (const [i, picture] of pictures.entries()) await writePng(join(dir, `${i}.png`), picture);
    await this.#save({ images: state.images, basis });
    yield { type: 'pca', step, imagePaths: drawn, explained };
  }

  async #state(): Promise<PcaState> {
    try {
      return deserialize(await readFile(join(this.#dir, 'state.bin'))) as PcaState;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    }
    return { images: spread(this.#images ?? (await this.#imagesOfRun())), basis: null };
  }

  async #save(state: PcaState): Promise<void> {
    const file = join(this.#dir, 'state.bin');
    await writeFile(`${file}.tmp`, serialize(state));
    await rename(`${file}.tmp`, file);
  }

  /** The frozen list of a run that was stopped before its first pictures. */
  async #imagesOfRun(): Promise<ScannedImage[]> {
    const text = await readFile(join(this.#dir, '..', 'images.jsonl'), 'utf8');
    return text
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line) as ScannedImage);
  }
}

/** Six images spread evenly over the list, which is in the order of paths. */
function spread(images: readonly ScannedImage[]): PcaState['images'] {
  const count = Math.min(pictureCount, images.length);
  return Array.from({ length: count }, (_, i) => images[Math.floor((i * images.length) / count)]).map(({ path, page, width, height }) => ({
    path,
    page,
    width,
    height,
  }));
}
