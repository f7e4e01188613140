/**
 * What a step needs of a GPU's memory, and how a step's images are split so that it has room. The numbers come from the
 * step itself, run on a device that only counts.
 */
import { AppError } from '../contract/index.ts';
import { rehearse, type GpuMemory, type ParameterShape, type Precision, type Rehearsal } from '../nn/index.ts';
import { Random } from '../random.ts';
import { batchesOfStep, STREAM, type RunConfig } from './config.ts';
import { headShapes } from './heads.ts';
import { loraParameters } from './lora.ts';
import { drawMasks } from './masking.ts';
import { standsStill } from './optimizer.ts';
import { stepValues } from './schedules.ts';
import { computeGradients, type Batch } from './step.ts';
import { drawDropPath, vitShapes } from './vit.ts';

export interface StepBytes {
  /** Most bytes of tensors, parameters and state at once. */
  readonly held: number;
  /** Bytes of the buffers they lie in, whose sizes are rounded up: what a GPU must have. */
  readonly reserved: number;
}

/** What memory depends on, of a run's numbers. */
type Sizes = Pick<
  RunConfig,
  'seed' | 'model' | 'heads' | 'batch' | 'crops' | 'masking' | 'teacher' | 'continuation' | 'distillation' | 'recompute'
>;

/** Asked for the same run several times while presets are shown. */
const known = new Map<string, StepBytes | null>();
const remembered = 64;

/**
 * Memory of one step on the WebGPU executor; of one batch where a step has several. Takes a fraction of a second, no
 * memory to speak of, and no GPU.
 * @param memory bytes of the GPU, where they are known: how much is kept depends on it
 * @returns null when one of its arrays is larger than GPUs take in one
 */
export function stepBytes(config: RunConfig, precision: Precision = 'f32', memory?: number): StepBytes | null {
  const { seed, model, heads, batch, crops, masking, teacher, continuation, distillation, recompute } = config;
  const sizes: Sizes = {
    seed,
    model,
    heads,
    batch,
    crops,
    masking,
    teacher,
    ...(continuation && { continuation }),
    ...(distillation && { distillation }),
    ...(recompute && { recompute }),
  };
  const key = JSON.stringify([precision, memory, sizes]);
  let bytes = known.get(key);
  if (bytes === undefined) {
    if (known.size >= remembered) known.clear();
    known.set(key, (bytes = countOrNull(config, precision, memory)));
  }
  return bytes;
}

function countOrNull(config: RunConfig, precision: Precision, memory: number | undefined): StepBytes | null {
  try {
    const rehearsal = rehearse(precision, { memory });
    rehearseStep(rehearsal, config);
    return rehearsal.peak;
  } catch (error) {
    if (error instanceof AppError && error.code === 'engine-out-of-memory') return null;
    throw error;
  }
}

/** The first batch of a run, up to its gradients, on a device that computes nothing. */
export function rehearseStep({ executor: x, createParameters }: Rehearsal, config: RunConfig): void {
  const shapes = parameterShapes(config);
  const student = createParameters(shapes.map((shape) => ({ ...shape, frozen: standsStill(config, shape.name) })));
  const { dino, ibot } = config.heads;
  const state = {
    student,
    teacher: createParameters(shapes),
    frozenTeacher: config.distillation ? createParameters(frozenShapes(config)) : null,
    adam: x.createAdamState(student),
    centers: { dino: new Float32Array(dino.prototypes), ibot: new Float32Array((ibot ?? dino).prototypes) },
  };
  computeGradients(x, config, state, firstBatch(config), stepValues(config, 0));
}

/** The first batch of a run, with pixels that nobody looks at. */
function firstBatch(config: RunConfig): Batch {
  const { seed, batch: B, model, crops } = config;
  const { globalSize: G, localSize: l, localCount: L } = crops;
  const dropPath = new Random(seed, STREAM.dropPath, 0);
  return {
    images: B,
    globalCrops: new Float32Array(2 * B * 3 * G * G),
    localCrops: new Float32Array(L * B * 3 * l * l),
    masks: drawMasks(new Random(seed, STREAM.masks, 0), config, 2 * B),
    globalDropPath: drawDropPath(dropPath, model, 2 * B),
    localDropPath: drawDropPath(dropPath, model, L * B),
  };
}

function parameterShapes(config: RunConfig): ParameterShape[] {
  const { model, heads } = config;
  return [
    ...vitShapes(model).map(({ name, shape }) => ({ name: `backbone.${name}`, shape })),
    ...loraParameters(config, new Random(0), 'backbone.').map(({ name, shape }) => ({ name, shape })),
    ...headShapes(heads.dino, model.embedDim, 'dino_head'),
    ...(heads.ibot ? headShapes(heads.ibot, model.embedDim, 'ibot_head') : []),
  ];
}

/** Of the network that a distillation learns from; hidden layers are taken to be as wide as the student's. */
function frozenShapes({ heads, distillation }: RunConfig): ParameterShape[] {
  const { model } = distillation!;
  return [
    ...vitShapes(model).map(({ name, shape }) => ({ name: `backbone.${name}`, shape })),
    ...headShapes(heads.dino, model.embedDim, 'dino_head'),
    ...(heads.ibot ? headShapes(heads.ibot, model.embedDim, 'ibot_head') : []),
  ];
}

// --- what has room ----------------------------------------------------------------------------------------------------

/** Part of a GPU's memory that a run may plan with: the rest is the system's, the driver's and that of other programs. */
const usable = 0.85;

/** Whether a step of the run has room on a GPU. */
export function fits(config: RunConfig, { bytes }: GpuMemory, precision?: Precision): boolean {
  const needed = stepBytes(config, precision, bytes);
  return needed !== null && needed.reserved <= usable * bytes;
}

/** How a step's images go through the network. */
export interface Split {
  readonly batch: number;
  readonly accumulate: number;
  readonly recompute: boolean;
}

/**
 * Fewest images whose batch is halved for room while activations are kept. Batches cost no work, but KoLeo and
 * Sinkhorn-Knopp compare the images of one: with fewer, computing activations again, a third more work, is the better way.
 */
const fewestKept = 16;

/**
 * Into which batches a step's images go, so that each has room: the batch halved and their number doubled as often as
 * needed, down to 16 images with activations kept, then from the whole batch on with activations recomputed, down to 2.
 * @returns null when the run has room as it is
 */
export function splitFor(config: RunConfig, memory: GpuMemory, precision?: Precision): Split | null {
  const batches = batchesOfStep(config);
  const images = config.batch * batches;
  let split = null;
  for (const recompute of config.recompute ? [true] : [false, true]) {
    const fewest = recompute ? 2 : Math.min(fewestKept, config.batch);
    for (let accumulate = batches; images >= fewest * accumulate; accumulate *= 2) {
      const wanted = { batch: Math.floor(images / accumulate), accumulate, recompute };
      const asItIs = accumulate === batches && recompute === (config.recompute ?? false);
      if (fits({ ...config, ...wanted }, memory, precision)) return asItIs ? null : wanted;
      if (!asItIs) split = wanted;
    }
  }
  return split;
}

/** Why the batch of a run on a GPU is what it is. */
export function roomInWords(config: RunConfig, gpuMemory: GpuMemory | undefined, precision?: Precision): string {
  if (!gpuMemory) return 'As many as fit beside the prototypes on common cards.';
  const gib = (bytes: number): string => `${(bytes / 2 ** 30).toFixed(1)} GiB`;
  const needed = stepBytes(config, precision, gpuMemory.bytes);
  const has = `the GPU's ${gib(gpuMemory.bytes)} (${gpuMemory.source})`;
  if (!needed) return `More than any GPU takes in one array; ${has}. Choose a smaller network or fewer prototypes.`;
  const takes = `${config.batch} at a time take ${gib(needed.reserved)} of ${has}`;
  if (!fits(config, gpuMemory, precision)) return `${takes}: too much. Choose a smaller network.`;
  const batches = batchesOfStep(config) === 1 ? '' : '; all at once would have no room. Gradients are averaged over them';
  return `${takes}${batches}.${recomputeInWords(config)}`;
}

/** A sentence after others, or none. */
export function recomputeInWords({ recompute }: RunConfig): string {
  return recompute ? ' Activations are computed again in the backward pass: a third more work in much less memory.' : '';
}
