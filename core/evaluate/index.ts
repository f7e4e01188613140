/** Front door of evaluate: objects from ground truth, scores of proposals, the baseline to beat. */
export { objectsFromClasses, objectsFromInstances, type ImageObjects, type LabelMap, type ObjectOptions } from './objects.ts';
export { bestOverlaps, scoreProposals, scoreTable, type ProposalScore } from './score.ts';
export { colourPositionBaseline, rgbToLab, type BaselineOptions } from './baseline.ts';
