// Front door of the images room: folders to lists of images, files to upright pixels, label pictures, the sampler.
export { scanFolder, type ScanOptions } from './scan.ts';
export type { ReadFs } from './walk.ts';
export { MAX_PIXELS } from './formats.ts';
export {
  readRgb,
  readTile,
  resizeRgb,
  encodeJpeg,
  encodePng,
  encodeWebp,
  type ReadOptions,
  type RgbImage,
  type TileOptions,
} from './decode.ts';
export { readLabels, type LabelImage } from './labelPng.ts';
export { writePng } from './write.ts';
export { batchIndices, epochOrder } from './sampler.ts';
export { ImageCache, type ImageCacheOptions } from './cache.ts';
