/** What a job is given, and the generator it becomes. No database, no server: requests in, events out. */
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { deserialize, serialize } from 'node:v8';
import { AppError, type JobEvent, type Rle, type ScannedImage } from '../contract/index.ts';
import type { Backbone, ModelConfig, RunConfig } from '../dinov2/index.ts';
import type { EngineWish, Executor } from '../nn/index.ts';
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
  /** null: go on with what is in runDir. */
  readonly start: { readonly images: readonly ScannedImage[]; readonly config: RunConfig } | null;
  /** null: the fastest; for a run that goes on, the one it was started with. */
  readonly engine: EngineWish | null;
}

/** Which network: a run's teacher at a checkpoint, or one with random weights. */
export type BackboneSource =
  { readonly runDir: string; readonly step: number } | { readonly untrained: ModelConfig; readonly seed: number };

interface ProposeRequest {
  readonly source: BackboneSource;
  /** Names the network in the cache. */
  readonly modelKey: string;
  readonly cacheDir: string;
  readonly imageRoot: string;
  readonly images: readonly PrelabelImage[];
}

export interface PrelabelRequest extends ProposeRequest {
  readonly kind: 'prelabel';
  /** null: the fastest. */
  readonly engine: EngineWish | null;
}

export interface LearnRequest extends ProposeRequest {
  readonly kind: 'learn';
  readonly accepted: readonly { readonly imageId: number; readonly classId: number; readonly rle: Rle }[];
  readonly rejected: readonly { readonly imageId: number; readonly rle: Rle }[];
  /** Images that a person marked done: what is unmarked in them is background. */
  readonly reviewed: readonly number[];
}

export type JobRequest = ScanRequest | PretrainRequest | PrelabelRequest | LearnRequest;

/** The job as events. The rooms are loaded when needed: a scan should not wait for kernels to compile. */
export async function* runJob(request: JobRequest, signal: AbortSignal): AsyncGenerator<JobEvent> {
  if (request.kind === 'scan') {
    const { scanFolder } = await import('../images/index.ts');
    yield* scanFolder(request.imageRoot, { known: Map.groupBy(request.known, (image) => image.path), signal });
    return;
  }
  const { createExecutor } = await import('../nn/index.ts');
  const fallbacks: string[] = [];
  const executor = await createExecutor({ engine: await engineOf(request), onFallback: (reason) => fallbacks.push(reason) });
  for (const text of fallbacks) yield { type: 'log', level: 'warn', text };
  try {
    if (request.kind === 'pretrain') yield* train(request, executor, signal);
    else yield* propose(request, executor, signal);
  } finally {
    await executor.dispose();
  }
}

/** What computes the job. */
async function engineOf(request: PretrainRequest | PrelabelRequest | LearnRequest): Promise<EngineWish> {
  if (request.kind === 'learn') return 'auto';
  if (request.kind === 'prelabel' || request.engine || request.start) return request.engine ?? 'auto';
  const { engineNames } = await import('../nn/index.ts');
  const { readRun } = await import('../dinov2/index.ts');
  const { engine } = (await readRun(request.runDir)).config;
  // Runs of before name none.
  return engineNames.find((name) => name === engine) ?? 'auto';
}

async function* train({ runDir, imageRoot, start }: PretrainRequest, executor: Executor, signal: AbortSignal): AsyncGenerator<JobEvent> {
  const { pretrain, resume } = await import('../dinov2/index.ts');
  const pictures = new PcaPictures(runDir, imageRoot, start?.images ?? null);
  const onCheckpoint = (teacher: Backbone, step: number) => pictures.draw(teacher, step);
  const common = { runDir, imageRoot, executor, signal, onCheckpoint };
  yield* start ? pretrain({ ...common, images: start.images, config: start.config }) : resume(common);
}

async function* propose(request: PrelabelRequest | LearnRequest, executor: Executor, signal: AbortSignal): AsyncGenerator<JobEvent> {
  const { loadBackbone, untrainedBackbone } = await import('../dinov2/index.ts');
  const { prelabel, learn } = await import('../prelabel/index.ts');
  const { source, modelKey, cacheDir, imageRoot } = request;
  const backbone =
    'untrained' in source ? untrainedBackbone(source.untrained, source.seed, executor) : await loadBackbone(source, executor);
  const common = { backbone, modelKey, cacheDir, imageRoot, images: request.images, signal };
  try {
    if (request.kind === 'prelabel') yield* prelabel(common);
    else yield* learn({ ...common, accepted: request.accepted, rejected: request.rejected, reviewed: request.reviewed });
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
