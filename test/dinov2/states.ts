/** Networks with values away from the symmetric start, and batches, for single steps of a run. */
import type { RunConfig } from '../../core/dinov2/config.ts';
import { headParameters } from '../../core/dinov2/heads.ts';
import type { Batch, TrainState } from '../../core/dinov2/step.ts';
import { drawDropPath, vitParameters } from '../../core/dinov2/vit.ts';
import type { Executor, ParameterSpec } from '../../core/nn/ops.ts';
import { Random } from '../../core/random.ts';

export const values = {
  learningRate: 1e-3,
  backboneLearningRate: 1e-3,
  lastLayerLearningRate: 1e-3,
  weightDecay: 0.04,
  teacherMomentum: 0.99,
  teacherTemperature: 0.05,
};

export function specsOf(config: RunConfig, seed: number): ParameterSpec[] {
  const { model, heads } = config;
  const specs = [
    ...vitParameters(model, new Random(seed, 0), 'backbone.'),
    ...headParameters(heads.dino, model.embedDim, new Random(seed, 1), 'dino_head'),
  ];
  if (heads.ibot) specs.push(...headParameters(heads.ibot, model.embedDim, new Random(seed, 2), 'ibot_head'));
  const random = new Random(seed, 3);
  for (const spec of specs) for (let i = 0; i < spec.values.length; i++) spec.values[i]! += 0.1 * random.normal(); // away from the symmetric start
  return specs;
}

export function stateOf(x: Executor, config: RunConfig): TrainState {
  const student = x.createParameters(specsOf(config, 1));
  const K = config.heads.dino.prototypes;
  const centers = { dino: new Float32Array(K), ibot: new Float32Array((config.heads.ibot ?? config.heads.dino).prototypes) };
  return { student, teacher: x.createParameters(specsOf(config, 2)), adam: x.createAdamState(student), centers };
}

/** @param masked whether three patches in ten are masked, of every crop */
export function batchOf(config: RunConfig, images: number, masked: boolean): Batch {
  const { globalSize: G, localSize: l, localCount: L } = config.crops;
  const random = new Random(8);
  const normal = (length: number): Float32Array => Float32Array.from({ length }, () => random.normal());
  const masks = new Uint8Array(2 * images * (G / config.model.patchSize) ** 2);
  if (masked) for (let i = 0; i < masks.length; i++) masks[i] = random.chance(0.3) ? 1 : 0;
  return {
    images,
    globalCrops: normal(2 * images * 3 * G * G),
    localCrops: normal(L * images * 3 * l * l),
    masks,
    globalDropPath: drawDropPath(random, config.model, 2 * images),
    localDropPath: drawDropPath(random, config.model, L * images),
  };
}
