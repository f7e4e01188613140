/** Front door of the room: published or trained weights from other programs' files, and to them. */
export {
  openWeights,
  readWeights,
  withPositionGrid,
  type ImportedHead,
  type ImportedWeights,
  type OpenedWeights,
  type OpenHead,
  type WeightsFacts,
} from './open.ts';
export { inferHead } from './architecture.ts';
export { resizePositionTable } from './resize.ts';
export { keepWeights } from './keep.ts';
export { exportNetwork, type NetworkExport } from './export.ts';
export { publishedNetworks, type PublishedNetwork } from './published.ts';
