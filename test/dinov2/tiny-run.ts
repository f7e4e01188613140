/** A run small enough for plain loops: 16-wide tokens, 28 px crops. */
import { OFFICIAL_CROPS, modelConfig, type RunConfig } from '../../core/dinov2/config.ts';

export function tinyRun(changes: Partial<RunConfig> = {}): RunConfig {
  return {
    version: 1,
    presetId: 'test',
    presetTitle: 'Test',
    seed: 7,
    model: { ...modelConfig('nano', { positionGrid: 3, layerScale: 0.1 }), embedDim: 16, depth: 2, heads: 1 },
    heads: { dino: { hidden: 16, bottleneck: 8, prototypes: 24 }, ibot: null },
    steps: 6,
    batch: 4,
    crops: { ...OFFICIAL_CROPS, globalSize: 42, localSize: 28, localCount: 2 },
    masking: { probability: 0.5, ratio: [0.1, 0.5] },
    optimizer: {
      learningRate: 1e-3,
      finalLearningRate: 1e-6,
      warmupSteps: 2,
      weightDecay: [0.04, 0.2],
      beta1: 0.9,
      beta2: 0.999,
      epsilon: 1e-8,
      clipNorm: 3,
      layerDecay: 0.9,
      patchEmbedMultiplier: 0.2,
      freezeLastLayerSteps: 1,
    },
    teacher: {
      momentum: [0.99, 1],
      temperature: [0.04, 0.07],
      temperatureWarmupSteps: 3,
      centering: 'softmax',
      sinkhornIterations: 3,
      centerMomentum: 0.9,
    },
    studentTemperature: 0.1,
    lossWeights: { dino: 1, ibot: 1, koleo: 0.1 },
    logEvery: 1,
    checkpointEvery: 2,
    maxImageSide: 96,
    imageCacheBytes: 1e6,
    ...changes,
  };
}
