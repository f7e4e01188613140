/** Front door of prelabel: proposals without labels, proposals from accepted masks, review orders, feature pictures. */
export { prelabel, type PrelabelInput, type PrelabelOptions } from './prelabel.ts';
export { learn, type LearnInput, type LearnOptions } from './learn.ts';
export { edgeEngine, type EdgeEngine } from './edges.ts';
export { patchColours } from './appearance.ts';
export { gridPlacements } from './refine.ts';
export type { PatchFeatures } from './featureFile.ts';
export { featureDefaults, FeatureStore, inputSize, type FeatureBackbone, type FeatureOptions, type PrelabelImage } from './features.ts';
export { proposeDefaults, type ProposeOptions } from './propose.ts';
export { learnOrder, learnValue, mixedOrder, reviewOrder, type LearnFacts, type RankedProposal } from './rank.ts';
export { sphericalKMeans, type ClusterOptions } from './cluster.ts';
export { symmetricEigen } from './linalg.ts';
export { pcaPictures, type PcaBasis, type PcaPictures } from './pca.ts';
// What curation and the probe share: features and their cache, the events of a job.
export { readCache, writeCache } from './cachefile.ts';
export { Phase, problemEvent } from './job.ts';
