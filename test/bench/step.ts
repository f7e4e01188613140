/**
 * The training step of runs, timed by itself at the settings of bench/torch_dinov2_step.py: two heads of 2,048 and 256,
 * Sinkhorn-Knopp, no drop path, no registers, half of the global crops masked. Random crops; for timing an engine, not for
 * training.
 */
import { modelConfig, type ModelName, type RunConfig } from '../../core/dinov2/config.ts';
import { headParameters } from '../../core/dinov2/heads.ts';
import { parameterGroups, type ParameterGroups } from '../../core/dinov2/optimizer.ts';
import { resolveConfig } from '../../core/dinov2/presets.ts';
import { stepValues } from '../../core/dinov2/schedules.ts';
import { applyUpdate, clipGradients, computeGradients, type Batch, type TrainState } from '../../core/dinov2/step.ts';
import { vitParameters } from '../../core/dinov2/vit.ts';
import type { Executor } from '../../core/nn/index.ts';
import { Random } from '../../core/random.ts';

export interface StepSettings {
  readonly arch: string;
  readonly batch: number;
  readonly gsize: number;
  readonly lsize: number;
  readonly locals: number;
  readonly protos: number;
}

/** The setting as a run: what it does not say is a preset's. */
export function configOf({ arch, batch, gsize, lsize, locals, protos }: StepSettings): RunConfig {
  const facts = { images: 5000, cores: 8, memoryBytes: 2 ** 36, engine: 'any', gpu: true };
  const preset = resolveConfig('standard', facts);
  const head = { hidden: 2048, bottleneck: 256, prototypes: protos };
  const model = modelConfig(arch as ModelName, { positionGrid: gsize / 14 });
  return {
    ...preset,
    seed: 1,
    model,
    heads: { dino: head, ibot: head },
    batch,
    crops: { ...preset.crops, globalSize: gsize, localSize: lsize, localCount: locals },
    teacher: { ...preset.teacher, centering: 'sinkhorn' },
  };
}

/** Networks, crops and masks, drawn once. */
export class BenchStep {
  readonly parameterCount: number;
  readonly #executor: Executor;
  readonly #config: RunConfig;
  readonly #state: TrainState;
  readonly #groups: ParameterGroups;
  readonly #batch: Batch;
  #updates = 0;

  constructor(executor: Executor, settings: StepSettings) {
    const config = configOf(settings);
    const { model, heads } = config;
    const random = new Random(1);
    const specs = [
      ...vitParameters(model, random, 'backbone.'),
      ...headParameters(heads.dino, model.embedDim, random, 'dino_head'),
      ...headParameters(heads.dino, model.embedDim, random, 'ibot_head'),
    ];
    const student = executor.createParameters(specs);
    const centers = { dino: new Float32Array(settings.protos), ibot: new Float32Array(settings.protos) };
    this.#executor = executor;
    this.#config = config;
    this.#state = { student, teacher: executor.createParameters(specs), adam: executor.createAdamState(student), centers };
    this.#groups = parameterGroups(config, student);
    this.#batch = drawBatch(settings, random);
    this.parameterCount = student.size;
  }

  /** Gives one step to the executor. @returns its loss, which arrives when it is done */
  async give(): Promise<{ readonly loss: Promise<number> }> {
    const [x, config, state] = [this.#executor, this.#config, this.#state];
    const scale = x.precision === 'f16' ? 2 ** 16 : 1;
    const step = this.#updates++;
    const values = stepValues(config, step);
    return x.scope(() => {
      const { terms } = computeGradients(x, config, state, this.#batch, values, 0, scale);
      const norms = clipGradients(x, config, state, this.#groups, scale);
      applyUpdate(x, config, state, this.#groups, values, step, norms);
      return { loss: x.read(terms.total).then(([loss]) => loss!) };
    });
  }

  /** One step, waited for. @returns the loss */
  async run(): Promise<number> {
    return (await this.give()).loss;
  }
}

/** The first B global crops are masked, from 10 % to 50 % of their patches. */
function drawBatch({ batch: B, gsize, lsize, locals }: StepSettings, random: Random): Batch {
  const normals = (count: number): Float32Array => Float32Array.from({ length: count }, () => random.normal());
  const n = (gsize / 14) ** 2;
  const masks = new Uint8Array(2 * B * n);
  for (let i = 0; i < B; ++i) {
    const count = Math.max(1, Math.floor(n * (0.1 + (0.4 * i) / B)));
    for (const patch of random.permutation(n).subarray(0, count)) masks[i * n + patch] = 1;
  }
  return {
    images: B,
    globalCrops: normals(2 * B * 3 * gsize * gsize),
    localCrops: normals(locals * B * 3 * lsize * lsize),
    masks,
    globalDropPath: null,
    localDropPath: null,
  };
}
