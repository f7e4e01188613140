/**
 * A pretraining run of DINOv2, read from top to bottom: start-up, the loop, what is written. The mathematics of a step
 * are in `step.ts`, every number in the run's configuration, all randomness in (seed, step): a resumed run repeats bit for
 * bit what it would have done without the stop.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { AppError, type ImageProblem, type JobEvent, type ScannedImage, type TrainMetrics } from '../contract/index.ts';
import { batchIndices, ImageCache } from '../images/index.ts';
import type { Executor, ParameterSpec, Tensor } from '../nn/index.ts';
import { Random } from '../random.ts';
import { drawCrops } from './augment.ts';
import { backboneOf, type Backbone } from './backbone.ts';
import {
  appendMetrics,
  createRun,
  flatten,
  readMonitors,
  readNewestState,
  readRun,
  truncateLines,
  writeCheckpoint,
  type SavedState,
} from './checkpoint.ts';
import { batchesOfStep, STREAM, type RunConfig } from './config.ts';
import { readFrozenTeacher, writeTeacher } from './distill.ts';
import { withWayOn } from './engineLost.ts';
import { teacherEntropy, type TeacherEntropy } from './entropy.ts';
import { refuseNonFiniteGradients, refuseNonFiniteLosses } from './finite.ts';
import { headParameters } from './heads.ts';
import { loraParameters, loraScale } from './lora.ts';
import { drawMasks } from './masking.ts';
import { parameterGroups, standsStill } from './optimizer.ts';
import { outOfPatience } from './patience.ts';
import type { PixelImage } from './pixels.ts';
import { stepValues } from './schedules.ts';
import { startValues, writeStart } from './start.ts';
import {
  applyUpdate,
  clipGradients,
  computeGradients,
  readMeans,
  updateCenters,
  type Batch,
  type LogitMeans,
  type LossTerms,
  type TrainState,
} from './step.ts';
import { drawDropPath, vitParameters } from './vit.ts';

/** Where a run gets its pixels; index into the run's list of images. ImageCache, or a test's own. */
export interface ImageSource {
  /** @throws AppError when the image cannot be read */
  get(index: number): Promise<PixelImage>;
  /** Starts reading what is needed next. */
  prefetch(indices: Iterable<number>): void;
}

/** What is read of a batch when its step is logged. */
type LoggedNumbers = Record<keyof LossTerms | keyof TeacherEntropy, number>;

/** Means over the steps that were logged since the checkpoint before. */
export type LoggedMeans = Pick<TrainMetrics, 'total' | 'dinoGlobal' | 'dinoLocal' | 'sampleEntropy' | 'marginalEntropy'>;

interface CommonOptions {
  readonly runDir: string;
  readonly imageRoot: string;
  readonly executor: Executor;
  readonly signal: AbortSignal;
  /** Called at each checkpoint; its events become the run's. The teacher is valid until it returns; no means at the first. */
  readonly onCheckpoint?: (teacher: Backbone, step: number, logged: LoggedMeans | null) => AsyncIterable<JobEvent>;
  /** Instead of decoding files below imageRoot. */
  readonly openImages?: (images: readonly ScannedImage[], config: RunConfig, onProblem: (problem: ImageProblem) => void) => ImageSource;
}

export interface PretrainOptions extends CommonOptions {
  readonly images: readonly ScannedImage[];
  readonly config: RunConfig;
  /** The file of weights to start from, where `config.start` says so: an imported network or a checkpoint's teacher. */
  readonly startFile?: string;
  /** The file of the network to learn from, where `config.distillation` says so: likewise, with heads. */
  readonly teacherFile?: string;
}

/** Below this a batch would hold hardly anything but crops of the same pictures. */
const FEWEST_IMAGES = 8;
/** Progress is told at least this often. */
const PROGRESS_MS = 1000;

/**
 * A new run in runDir. Ends early, with a checkpoint, when the signal aborts.
 * @throws AppError too-few-images, bad-input (runDir holds a run), not-finite, image-vanished when no image can be read,
 *   weights-unreadable and weights-mismatch for weights that it cannot start from
 */
export async function* pretrain(options: PretrainOptions): AsyncGenerator<JobEvent> {
  const { runDir, images, executor } = options;
  const config: RunConfig = { ...options.config, engine: executor.name };
  if (images.length < FEWEST_IMAGES) {
    throw new AppError(
      'too-few-images',
      `Training needs at least ${FEWEST_IMAGES} images, there are ${images.length}.`,
      'Add images to the folder and scan it again.',
    );
  }
  const { startFile, teacherFile } = options;
  if ((config.start === 'weights') !== (startFile !== undefined))
    throw new Error('pretrain: a file to start from goes with start "weights"');
  if ((config.distillation !== undefined) !== (teacherFile !== undefined))
    throw new Error('pretrain: a file of a teacher goes with a distillation');
  await createRun(runDir, config, images, async () => {
    if (startFile) await writeStart(runDir, config, startFile);
    if (teacherFile) await writeTeacher(runDir, config, teacherFile);
  });
  yield* train(options, config, images, null);
}

/**
 * Goes on from the newest whole checkpoint of the run in runDir, with the numbers the run was started with; from the
 * beginning when the run ended before its first.
 * @throws AppError run-not-found, run-damaged, checkpoint-damaged when no checkpoint is whole, not-finite
 */
export async function* resume(options: CommonOptions): AsyncGenerator<JobEvent> {
  const { config, images } = await readRun(options.runDir);
  const { saved, damaged } = await readNewestState(options.runDir);
  for (const error of damaged) yield { type: 'log', level: 'warn', text: `${error.message} Going on from step ${saved?.step}.` };
  await truncateLines(options.runDir, saved?.step ?? 0);
  const { name } = options.executor;
  if (config.engine !== undefined && config.engine !== name) {
    const text = `The run was started on ${config.engine} and goes on with ${name}: its numbers will differ in rounding from what they would have been.`;
    yield { type: 'log', level: 'warn', text };
  }
  yield* train(options, config, images, saved);
}

async function* train(
  options: CommonOptions,
  config: RunConfig,
  images: readonly ScannedImage[],
  saved: SavedState | null,
): AsyncGenerator<JobEvent> {
  const { runDir, executor: x, signal, onCheckpoint } = options;
  const { seed, steps, batch: B } = config;
  const batches = batchesOfStep(config);
  const imagesOfStep = batches * B;

  // 1. Images. One that cannot be read is named once; the next in the list takes its place.
  const problems: ImageProblem[] = [];
  const source = options.openImages
    ? options.openImages(images, config, (problem) => problems.push(problem))
    : new ImageCache({
        root: options.imageRoot,
        images,
        maxSide: config.maxImageSide,
        maxBytes: config.imageCacheBytes,
        onProblem: (problem) => problems.push(problem),
      });

  // 2. Networks: the student as drawn from the seed or as the run's weights say, the teacher its copy; or both as they were
  // saved. In a distillation another network teaches, and the copy only follows.
  const drawn = networkParameters(config);
  const specs = config.start === 'weights' && !saved ? await startValues(runDir, drawn) : drawn;
  const frozenSpecs = config.distillation ? await readFrozenTeacher(runDir, config) : null;
  const student = x.createParameters(specs.map((spec) => ({ ...spec, frozen: standsStill(config, spec.name) })));
  const teacher = x.createParameters(specs);
  const frozenTeacher = frozenSpecs && x.createParameters(frozenSpecs);
  const adam = x.createAdamState(student);
  const { dino, ibot } = config.heads;
  const centers = { dino: new Float32Array(dino.prototypes), ibot: new Float32Array((ibot ?? dino).prototypes) };
  const state: TrainState = { student, teacher, frozenTeacher, adam, centers };
  const groups = parameterGroups(config, student);
  if (saved) {
    x.writeParameters(student, flatten(saved.training, 'student.', student));
    x.writeParameters(teacher, flatten(saved.teacher, 'teacher.', teacher));
    x.writeAdamState(adam, flatten(saved.training, 'optim.m.', student), flatten(saved.training, 'optim.v.', student));
    for (const name of ['dino', 'ibot'] as const) {
      const spec = { name, shape: [centers[name].length], offset: 0, size: centers[name].length };
      centers[name].set(flatten(saved.training, 'centers.', { specs: [spec], size: spec.size }));
    }
  }

  /** Step of the newest whole checkpoint. */
  let written = saved?.step ?? 0;
  const logged: LoggedNumbers[] = [];
  const checkpoint = async function* (step: number): AsyncGenerator<JobEvent> {
    await writeCheckpoint(x, runDir, config, state, step);
    written = step;
    yield { type: 'checkpoint', step, totalSteps: steps };
    const means = meansOf(logged.splice(0));
    const backbone = backboneOf(x, teacher, config.model, 'backbone.', false, loraScale(config));
    if (onCheckpoint) yield* onCheckpoint(backbone, step, means);
  };

  try {
    yield { type: 'log', level: 'info', text: `${config.presetTitle}: ${images.length} images, ${x.name} (${x.description})` };
    const start = saved?.step ?? 0;
    if (!saved) yield* checkpoint(0); // what it looks like untrained; and a run killed early can go on
    let windowStart = performance.now();
    let windowSteps = 0;
    let imagesPerSecond: number | null = null;
    let lastProgress = -Infinity;
    let lastTotal: number | null = null;

    // 3. The loop. `step` counts the updates made before this one. A continued run may end it early.
    const enough = async (): Promise<string | null> => outOfPatience(config, await readMonitors(runDir));
    let ending = await enough();
    for (let step = start; step < steps && !signal.aborted && ending === null; step++) {
      // schedules
      const values = stepValues(config, step);

      const done = step + 1;
      const toLog = isTime(done, config.logEvery, steps);
      const toSave = isTime(done, config.checkpointEvery, steps);

      // teacher targets, student losses and gradients of each batch, added up; every n steps one readback
      const parts: { readonly means: LogitMeans | null; readonly logged: LoggedNumbers | null }[] = [];
      for (let part = 0; part < batches; part++) {
        // crops and masks, drawn as numbers from (seed, step, part); the next images are decoded while this batch computes
        const number = step * batches + part;
        const pictures = await readBatch(source, batchIndices(seed, number, B, images.length), images.length);
        if (number + 1 < steps * batches) source.prefetch(batchIndices(seed, number + 1, B, images.length));
        for (const problem of problems.splice(0)) yield { type: 'problem', problem };
        const batch = drawBatch(config, number, pictures);
        parts.push(
          await x.scope(async () => {
            const { terms, targets } = computeGradients(x, config, state, batch, values, part);
            const means = await readMeans(x, targets);
            if (!toLog && !toSave) return { means, logged: null };
            const entropy = await teacherEntropy(x, config, targets, values.teacherTemperature);
            return { means, logged: { ...(await readLosses(x, terms)), ...entropy } };
          }),
        );
      }

      // their mean: clip, AdamW, EMA, centres
      const numbers = await x.scope(async () => {
        const norms = clipGradients(x, config, state, groups);
        await refuseNonFiniteGradients(x, state, norms, groups.partNames, done, written);
        applyUpdate(x, config, state, groups, values, step);
        updateCenters(
          config,
          state,
          parts.map(({ means }) => means),
        );
        const losses = meansOf(parts.map((part) => part.logged));
        if (!losses) return null;
        refuseNonFiniteLosses(losses, done, written);
        const gradNorms = await x.read(norms);
        return { losses, gradNorm: Object.fromEntries(groups.partNames.map((part, i) => [part, gradNorms[i]!])) };
      });
      if (numbers) logged.push(numbers.losses);
      windowSteps++;

      // metrics
      const seconds = (performance.now() - windowStart) / 1000;
      if (numbers && toLog) {
        imagesPerSecond = (windowSteps * imagesOfStep) / seconds;
        const { learningRate, weightDecay, teacherMomentum, teacherTemperature } = values;
        const secondsLeft = ((steps - done) * imagesOfStep) / imagesPerSecond;
        const schedule = { learningRate, weightDecay, teacherMomentum, teacherTemperature };
        const { losses, gradNorm } = numbers;
        const metrics: TrainMetrics = { step: done, totalSteps: steps, ...losses, gradNorm, ...schedule, imagesPerSecond, secondsLeft };
        await appendMetrics(runDir, metrics);
        yield { type: 'metrics', metrics };
        lastTotal = losses.total;
        windowStart = performance.now();
        windowSteps = 0;
      }
      if (toLog || performance.now() - lastProgress > PROGRESS_MS) {
        imagesPerSecond ??= (windowSteps * imagesOfStep) / seconds;
        const secondsLeft = ((steps - done) * imagesOfStep) / imagesPerSecond;
        yield { type: 'progress', phase: 'Training', done, total: steps, imagesPerSecond, secondsLeft };
        lastProgress = performance.now();
      }

      // checkpoint
      if (toSave) {
        const before = performance.now();
        yield* checkpoint(done);
        ending = await enough();
        windowStart += performance.now() - before; // the rate is that of training
      }
      await nextTurn(); // lets a stop arrive: the executor may have held this thread
      if (signal.aborted && written < done) yield* checkpoint(done);
    }

    const loss = lastTotal === null ? '' : `, loss ${lastTotal.toFixed(3)}`;
    const short =
      ending === null ? `Stopped after ${written} of ${steps} steps` : `Ended early after ${written} of ${steps} steps: ${ending}`;
    if (written < steps && ending !== null) yield { type: 'log', level: 'info', text: `${short}.` };
    yield { type: 'done', summary: written < steps ? `${short}${loss}.` : `${steps} steps of ${imagesOfStep} images${loss}.` };
  } catch (error) {
    throw withWayOn(error, x, written);
  } finally {
    adam.dispose();
    frozenTeacher?.dispose();
    teacher.dispose();
    student.dispose();
  }
}

/** A batch of a run, drawn from its seed and the batch's number, which counts through all steps. */
function drawBatch(config: RunConfig, number: number, pictures: readonly PixelImage[]): Batch {
  const { seed, model, crops } = config;
  const images = pictures.length;
  const dropPath = new Random(seed, STREAM.dropPath, number);
  return {
    images,
    ...drawCrops(config, number, pictures),
    masks: drawMasks(new Random(seed, STREAM.masks, number), config, 2 * images),
    globalDropPath: drawDropPath(dropPath, model, 2 * images),
    localDropPath: drawDropPath(dropPath, model, crops.localCount * images),
  };
}

/** Backbone and heads as a run starts them; each has its own stream, so the backbone is that of `untrainedBackbone`. */
function networkParameters(config: RunConfig): ParameterSpec[] {
  const { seed, model, heads } = config;
  const random = (part: number): Random => new Random(seed, STREAM.weights, part);
  return [
    ...vitParameters(model, random(0), 'backbone.'),
    ...loraParameters(config, random(3), 'backbone.'),
    ...headParameters(heads.dino, model.embedDim, random(1), 'dino_head'),
    ...(heads.ibot ? headParameters(heads.ibot, model.embedDim, random(2), 'ibot_head') : []),
  ];
}

/** Decides all periodic work: every n steps and after the last. */
function isTime(done: number, every: number, total: number): boolean {
  return done % every === 0 || done === total;
}

/** The images of a batch; an unreadable one is replaced by the next readable in the list. */
async function readBatch(source: ImageSource, indices: Int32Array, count: number): Promise<PixelImage[]> {
  return Promise.all(
    Array.from(indices, async (index) => {
      for (let offset = 0; ; offset++) {
        try {
          return await source.get((index + offset) % count);
        } catch (error) {
          if (!(error instanceof AppError) || offset + 1 >= count) throw error;
        }
      }
    }),
  );
}

/** The weighted terms of the loss as numbers; the only readback of a logged step but gradient norms and entropies. */
async function readLosses(x: Executor, terms: LossTerms): Promise<Record<keyof LossTerms, number>> {
  const scalar = async (term: Tensor | null): Promise<number> => (term ? (await x.read(term))[0]! : 0);
  const [total, dinoGlobal, dinoLocal, ibot, koleo] = await Promise.all([
    scalar(terms.total),
    scalar(terms.dinoGlobal),
    scalar(terms.dinoLocal),
    scalar(terms.ibot),
    scalar(terms.koleo),
  ]);
  return { dinoGlobal, dinoLocal, ibot, koleo, total };
}

/** By name; null when there are none, or they were not read. */
function meansOf(lines: readonly (LoggedNumbers | null)[]): LoggedNumbers | null {
  const [first] = lines;
  if (!first) return null;
  const mean = (name: keyof LoggedNumbers): number => lines.reduce((sum, line) => sum + line![name], 0) / lines.length;
  return Object.fromEntries(Object.keys(first).map((name) => [name, mean(name as keyof LoggedNumbers)])) as LoggedNumbers;
}
