/** Front door of curate: copies, clusters and neighbours of images before training, and the list a run trains on. */
export { curate, type CurateInput } from './curate.ts';
export { trainingList, type TrainingList } from './trainingList.ts';
export { retrieve, type Retrieved } from './neighbours.ts';
export { picturesKey, readDescriptors, type Descriptors } from './store.ts';
export { excludedBy } from './exclude.ts';
