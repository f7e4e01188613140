/** Front door of the room: presets and runs, checkpoints, and the trained backbone. */
export { modelConfig, type CropConfig, type HeadConfig, type ModelConfig, type ModelName, type RunConfig } from './config.ts';
export { resolveConfig, trainPresets, type ConfigOverrides, type TrainFacts } from './presets.ts';
export { pretrain, resume, type ImageSource, type PretrainOptions } from './train.ts';
export { listCheckpoints, readRun } from './checkpoint.ts';
export { loadBackbone, untrainedBackbone, type Backbone, type Features } from './backbone.ts';
export { normalizeImage } from './augment.ts';
