/**
 * A pretraining run of DINOv2, read from top to bottom: start-up, the loop, what is written. The mathematics of a step
 * are in `step.ts`, every number in the run's configuration, all randomness in (seed, step): a resumed run repeats bit for
 * bit what it would have done without the stop.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { AppError, type ImageProblem, type JobEvent, type ScannedImage, type TrainMetrics } from '../contract/index.ts';
import { ImageCache } from '../images/index.ts';
import type { Executor, ParameterSpec, Tensor } from '../nn/index.ts';
import { Random } from '../random.ts';
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
import { batchesOfStep, FEWEST_IMAGES, STREAM, type RunConfig } from './config.ts';
import { readFrozenTeacher, writeTeacher } from './distill.ts';
import { withWayOn } from './engineLost.ts';
import { teacherEntropy, type TeacherEntropy } from './entropy.ts';
import { Feed, type ImageSource } from './feed.ts';
import { refuseNonFiniteGradients, refuseNonFiniteLosses } from './finite.ts';
import { headParameters } from './heads.ts';
import { LossScale } from './lossScale.ts';
import { loraParameters, loraScale } from './lora.ts';
import { parameterGroups, standsStill } from './optimizer.ts';
import { outOfPatience } from './patience.ts';
import { stepValues, type StepValues } from './schedules.ts';
import { startValues, writeStart } from './start.ts';
import {
  applyUpdate,
  clipGradients,
  computeGradients,
  readMeans,
  updateCenters,
  type LogitMeans,
  type LossTerms,
  type TrainState,
} from './step.ts';
import { vitParameters } from './vit.ts';

export type { ImageSource };

/** What is read of a batch when its step is logged. */
type LoggedNumbers = Record<keyof LossTerms | keyof TeacherEntropy, number>;

/** What was asked for of a batch; nulls are not wanted. */
interface GivenBatch {
  readonly means: Promise<LogitMeans | null>;
  readonly total: Promise<Float32Array> | null;
  readonly losses: Promise<Record<keyof LossTerms, number>> | null;
  readonly entropy: Promise<TeacherEntropy> | null;
}

/** A step that was given to the executor, whose numbers may still be on their way. */
interface GivenStep {
  readonly done: number;
  readonly values: StepValues;
  readonly scale: number;
  readonly toLog: boolean;
  readonly numbers: Promise<ReadNumbers>;
}

interface ReadNumbers {
  readonly norms: Float32Array;
  /** Loss of each batch, where it was scaled. */
  readonly totals: readonly number[];
  readonly losses: LoggedNumbers | null;
}

/** Means over the steps that were logged since the checkpoint before. */
export type LoggedMeans = Pick<TrainMetrics, 'total' | 'dinoGlobal' | 'dinoLocal' | 'sampleEntropy' | 'marginalEntropy'>;

interface CommonOptions {
  readonly runDir: string;
  readonly imageRoot: string;
  readonly executor: Executor;
  readonly signal: AbortSignal;
  /** Where pixels of big images may be kept between runs; absent: nowhere. They never change a number of the run. */
  readonly pixelDir?: string;
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
/** Progress is told at least this often. */
const PROGRESS_MS = 1000;

/**
 * A new run in runDir. Ends early, with a checkpoint, when the signal aborts.
 * @throws AppError too-few-images, bad-input (runDir holds a run), not-finite, image-vanished when no image can be read,
 *   weights-unreadable and weights-mismatch for weights that it cannot start from
 */
export async function* pretrain(options: PretrainOptions): AsyncGenerator<JobEvent> {
  const { runDir, images, executor } = options;
  const config: RunConfig = { ...options.config, engine: executor.name, precision: executor.precision };
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
  const { name, precision } = options.executor;
  const { precision: before = 'f32' } = config;
  if (config.engine !== undefined && (config.engine !== name || before !== precision)) {
    const [from, to] = before === precision ? [config.engine, name] : [`${config.engine} in ${before}`, `${name} in ${precision}`];
    const text = `The run was started on ${from} and goes on with ${to}: its numbers will differ in rounding from what they would have been.`;
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
  const { steps } = config;
  const batches = batchesOfStep(config);
  const imagesOfStep = batches * config.batch;

  // 1. Networks: the student as drawn from the seed or as the run's weights say, the teacher its copy; or both as they were
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

  const lossScale = new LossScale(x.precision, saved?.lossScale);
  /** Step of the newest whole checkpoint. */
  let written = saved?.step ?? 0;
  const logged: LoggedNumbers[] = [];
  // The centres are moved when they are needed: until then the device works on what follows the step's targets.
  let arriving: readonly Promise<LogitMeans | null>[] = [];
  const moveCenters = async (): Promise<void> => {
    updateCenters(config, state, await Promise.all(arriving));
    arriving = [];
  };
  const checkpoint = async function* (step: number): AsyncGenerator<JobEvent> {
    await moveCenters();
    await writeCheckpoint(x, runDir, config, state, step, lossScale.state);
    written = step;
    yield { type: 'checkpoint', step, totalSteps: steps };
    const means = meansOf(logged.splice(0));
    const backbone = backboneOf(x, teacher, config.model, 'backbone.', false, loraScale(config));
    if (onCheckpoint) yield* onCheckpoint(backbone, step, means);
  };

  // 2. Images. One that cannot be read is named once; the next in the list takes its place.
  const problems: ImageProblem[] = [];
  const source = options.openImages
    ? options.openImages(images, config, (problem) => problems.push(problem))
    : new ImageCache({
        root: options.imageRoot,
        images,
        maxSide: config.maxImageSide,
        maxBytes: config.imageCacheBytes,
        onProblem: (problem) => problems.push(problem),
        ...(options.pixelDir !== undefined && { storeDir: options.pixelDir }),
      });
  const feed = new Feed({ config, source, count: images.length, drawn: x.augment !== undefined });

  try {
    yield { type: 'log', level: 'info', text: `${config.presetTitle}: ${images.length} images, ${x.name} (${x.description})` };
    const start = saved?.step ?? 0;
    if (!saved) yield* checkpoint(0); // what it looks like untrained; and a run killed early can go on
    let windowStart = performance.now();
    let windowSteps = 0;
    let imagesPerSecond: number | null = null;
    let lastProgress = -Infinity;
    let lastTotal = null as number | null;

    // What is told of a step when its numbers have arrived.
    const settle = async function* ({ done, values, scale, toLog, numbers }: GivenStep): AsyncGenerator<JobEvent> {
      const { norms, totals, losses } = await numbers;
      const overflowed = await refuseNonFiniteGradients(x, state, { norms, totals, lossScale: scale }, groups.partNames, done, written);
      lossScale.end({ step: done - 1, scale, overflowed });
      if (overflowed) {
        const text = `Step ${done} changed nothing: its gradients, times a loss scale of ${scale}, were too large for f16; the scale is lowered.`;
        yield { type: 'log', level: 'info', text };
      }
      if (losses) {
        refuseNonFiniteLosses(losses, done, written);
        logged.push(losses);
      }
      windowSteps++;

      // metrics
      const seconds = (performance.now() - windowStart) / 1000;
      if (losses && toLog) {
        imagesPerSecond = (windowSteps * imagesOfStep) / seconds;
        const { learningRate, weightDecay, teacherMomentum, teacherTemperature } = values;
        const secondsLeft = ((steps - done) * imagesOfStep) / imagesPerSecond;
        const schedule = { learningRate, weightDecay, teacherMomentum, teacherTemperature };
        const gradNorm = Object.fromEntries(
          groups.partNames.map((part, i) => [part, norms[i]!]).filter(([, norm]) => Number.isFinite(norm)),
        );
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
    };
    /** Steps that were given and not settled, the oldest first. */
    const given: GivenStep[] = [];
    const settleAllBut = async function* (count: number): AsyncGenerator<JobEvent> {
      while (given.length > count) yield* settle(given.shift()!);
    };

    // 3. The loop. `step` counts the updates made before this one. A continued run may end it early.
    const enough = async (): Promise<string | null> => outOfPatience(config, await readMonitors(runDir));
    let ending = await enough();
    for (let step = start; step < steps && !signal.aborted && ending === null; step++) {
      // schedules
      const values = stepValues(config, step);

      const done = step + 1;
      const toLog = isTime(done, config.logEvery, steps);
      const toSave = isTime(done, config.checkpointEvery, steps);

      // teacher targets, student losses and gradients of each batch, added up; numbers are asked for, not waited for
      const { scale, updates } = lossScale.begin(step);
      const parts: GivenBatch[] = [];
      for (let part = 0; part < batches; part++) {
        // crops and masks, drawn as numbers from (seed, step, part); the next ones are made while this batch computes
        const batch = await feed.take(step * batches + part);
        for (const problem of problems.splice(0)) yield { type: 'problem', problem };
        await moveCenters();
        parts.push(
          await x.scope(async () => {
            const { terms, targets } = computeGradients(x, config, state, batch, values, part, scale);
            const total = scale === 1 ? null : later(x.read(terms.total));
            const entropy = toLog || toSave ? later(teacherEntropy(x, config, targets, values.teacherTemperature)) : null;
            const losses = entropy && later(readLosses(x, terms));
            return { total, losses, entropy, means: later(readMeans(x, targets)) };
          }),
        );
      }

      // their mean: clip, AdamW, EMA
      const norms = await x.scope(() => {
        const norms = clipGradients(x, config, state, groups, scale);
        applyUpdate(x, config, state, groups, values, updates, norms);
        return { values: later(x.read(norms)) };
      });
      arriving = parts.map(({ means }) => means);
      given.push({ done, values, scale, toLog, numbers: later(numbersOf(norms.values, parts)) });
      // A device that runs ahead is not waited for: it has this step to do while the one before is looked at.
      yield* settleAllBut(x.stepsAhead);

      // checkpoint
      if (toSave) {
        yield* settleAllBut(0);
        const before = performance.now();
        yield* checkpoint(done);
        ending = await enough();
        windowStart += performance.now() - before; // the rate is that of training
      }
      await nextTurn(); // lets a stop arrive: the executor may have held this thread
      if (signal.aborted && written < done) {
        yield* settleAllBut(0);
        yield* checkpoint(done);
      }
    }

    const loss = lastTotal === null ? '' : `, loss ${lastTotal.toFixed(3)}`;
    const short =
      ending === null ? `Stopped after ${written} of ${steps} steps` : `Ended early after ${written} of ${steps} steps: ${ending}`;
    if (written < steps && ending !== null) yield { type: 'log', level: 'info', text: `${short}.` };
    yield { type: 'done', summary: written < steps ? `${short}${loss}.` : `${steps} steps of ${imagesOfStep} images${loss}.` };
  } catch (error) {
    throw withWayOn(error, x, written);
  } finally {
    await feed.close();
    adam.dispose();
    frozenTeacher?.dispose();
    teacher.dispose();
    student.dispose();
  }
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

/** A promise whose fault is thrown to whoever awaits it, be it later, or never when the run has ended by another. */
function later<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => undefined);
  return promise;
}

/** All that was asked for of a step. */
async function numbersOf(norms: Promise<Float32Array>, batches: readonly GivenBatch[]): Promise<ReadNumbers> {
  const read = batches.map(async ({ total, losses, entropy }) => ({
    total: total && (await total)[0]!,
    logged: losses && entropy ? { ...(await losses), ...(await entropy) } : null,
  }));
  const numbers = await Promise.all(read);
  return {
    norms: await norms,
    totals: numbers.map(({ total }) => total).filter((total) => total !== null),
    losses: meansOf(numbers.map(({ logged }) => logged)),
  };
}

/** By name; null when there are none, or they were not read. */
function meansOf(lines: readonly (LoggedNumbers | null)[]): LoggedNumbers | null {
  const [first] = lines;
  if (!first) return null;
  const mean = (name: keyof LoggedNumbers): number => lines.reduce((sum, line) => sum + line![name], 0) / lines.length;
  return Object.fromEntries(Object.keys(first).map((name) => [name, mean(name as keyof LoggedNumbers)])) as LoggedNumbers;
}
