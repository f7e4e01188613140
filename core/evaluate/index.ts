/** Front door of evaluate: scores of features without labels, probes of features with masks, scores of proposals and their baseline. */
export { correspondence, type CropPatches, type CropPlace } from './correspondence.ts';
export { effectiveRank } from './spectrum.ts';
export { clusterStability } from './stability.ts';
export { FeatureProbe, type ProbePatches, type Products } from './probe.ts';
export { meanCosineBetween, outlierShare, unitVectors, viewRetrieval } from './similarity.ts';
export { objectsFromClasses, objectsFromInstances, type ImageObjects, type LabelMap, type ObjectOptions } from './objects.ts';
export { bestOverlaps, scoreProposals, scoreTable, type ProposalScore } from './score.ts';
export { colourPositionBaseline, rgbToLab, type BaselineOptions } from './baseline.ts';
