/** Front door of prelabel: proposals without labels, proposals from accepted masks, review orders, feature pictures. */
export { prelabel, type PrelabelInput, type PrelabelOptions } from './prelabel.ts';
export { learn, type LearnInput, type LearnOptions } from './learn.ts';
export { patchColours } from './appearance.ts';
export { gridPlacements } from './refine.ts';
export {
  featureDefaults,
  inputSize,
  type FeatureBackbone,
  type FeatureOptions,
  type PatchFeatures,
  type PrelabelImage,
} from './features.ts';
export { proposeDefaults, type ProposeOptions } from './propose.ts';
export { learnOrder, learnValue, mixedOrder, reviewOrder, type LearnFacts, type RankedProposal } from './rank.ts';
export { sphericalKMeans, type ClusterOptions } from './cluster.ts';
export { symmetricEigen } from './linalg.ts';
export { pcaPictures, type PcaBasis, type PcaPictures } from './pca.ts';
