/** Front door of the room: presets and runs, checkpoints, and the trained backbone. */
export { modelConfig, type CropConfig, type HeadConfig, type ModelConfig, type ModelName, type RunConfig } from './config.ts';
export { DISTILL, distillConfig, HIGH_RESOLUTION, highResolutionConfig, phasePresets, type PhaseOverrides } from './phases.ts';
export { resolveConfig, trainPresets, type ConfigOverrides, type TrainFacts } from './presets.ts';
export { pretrain, resume, type ImageSource, type LoggedMeans, type PretrainOptions } from './train.ts';
export { listCheckpoints, readRun } from './checkpoint.ts';
export { describeStart, type StartFacts } from './start.ts';
export { loadBackbone, untrainedBackbone, type Backbone, type Features, type TrainedSource } from './backbone.ts';
export {
  exportNetwork,
  keepWeights,
  openWeights,
  publishedNetworks,
  readWeights,
  resizePositionTable,
  type ImportedWeights,
  type NetworkExport,
} from './weights/index.ts';
export { drawCrop, normalisePixels, normalizeImage } from './augment.ts';
export { applyCrop, type PixelImage } from '../nn/index.ts';
