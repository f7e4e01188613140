/** Calls of the page on images, classes and curation. */
import {
  AppError,
  type ClassRow,
  type CurationSummary,
  type DuplicateGroup,
  type HostService,
  type ImageProblem,
  type ImageRow,
  type Inputs,
  type JobState,
  type LeftOutRow,
  type SimilarImage,
  type TrainingListPreview,
} from '../../contract/index.ts';
import { readDescriptors, retrieve, type Descriptors } from '../../curate/index.ts';
import { classRow, classRows, createClass, removeClass, updateClass } from '../store/classes.ts';
import { curationSummary, duplicateGroups, leftOutPage, noCuration, trainingListPreview } from '../store/curation.ts';
import { imageFile, imageFiles, imagePaths, imagesPage, problems } from '../store/images.ts';
import { type Session, cacheDirOf } from '../session.ts';

export function imageCalls(session: Session) {
  /** Of the last curation, read when first asked about. */
  let known: { of: string; looks: Promise<Descriptors | null> } | null = null;

  return {
    async imagesPage(input: Inputs['imagesPage']): Promise<{ total: number; rows: ImageRow[] }> {
      return imagesPage(session.open(), input);
    },

    async imagePaths({ imageIds }: Inputs['imagePaths']): Promise<{ imageId: number; path: string }[]> {
      return imagePaths(session.open(), imageIds);
    },

    async problems(): Promise<ImageProblem[]> {
      return problems(session.open());
    },

    async classes(): Promise<ClassRow[]> {
      return classRows(session.open());
    },

    async createClass({ name, color }: Inputs['createClass']): Promise<ClassRow> {
      const row = session.open().write((w) => classRow(w, createClass(w, name, color)));
      session.hub.changed('classes');
      return row;
    },

    async updateClass({ classId, name, color }: Inputs['updateClass']): Promise<ClassRow> {
      const row = session.open().write((w) => {
        updateClass(w, classId, name, color);
        return classRow(w, classId);
      });
      session.hub.changed('classes');
      return row;
    },

    async removeClass({ classId }: Inputs['removeClass']): Promise<void> {
      session.open().write((w) => removeClass(w, classId));
      session.hub.changed('classes', 'proposals', 'clusters');
    },

    async startCuration({ from, runId, step }: Inputs['startCuration']): Promise<JobState> {
      const project = session.writable();
      const checkpoint = from === 'network' ? session.checkpoint(runId, step) : null;
      await session.makeRoom();
      const { source, modelKey, cacheDir, imageRoot, images } = (await session.model(checkpoint, 1)).common;
      if (images.length === 0) throw new AppError('too-few-images', 'The project has no images.', 'Scan a folder that has some first.');
      return session.start(
        { kind: 'curate', imageRoot, cacheDir, images, network: from === 'network' ? { source, modelKey } : null },
        null,
        null,
        imageFiles(project).map(({ id }) => id),
      );
    },

    async curation(): Promise<CurationSummary | null> {
      return curationSummary(session.open());
    },

    async duplicateGroups(input: Inputs['page']): Promise<{ total: number; rows: DuplicateGroup[] }> {
      return duplicateGroups(session.open(), input);
    },

    async trainingList(input: Inputs['trainingList']): Promise<TrainingListPreview> {
      return trainingListPreview(session.open(), input, previewSeed);
    },

    async leftOut(input: Inputs['leftOut']): Promise<{ total: number; rows: LeftOutRow[] }> {
      return leftOutPage(session.open(), input, previewSeed);
    },

    async similarImages({ imageIds, limit }: Inputs['similarImages']): Promise<SimilarImage[]> {
      const project = session.open();
      const summary = curationSummary(project);
      if (!summary) throw noCuration();
      const key = `${project.dir} ${summary.createdAt}`;
      if (known?.of !== key) known = { of: key, looks: readDescriptors(cacheDirOf(project), summary.features) };
      const descriptors = await known.looks;
      if (!descriptors) {
        known = null;
        throw new AppError(
          'no-curation',
          'What the images look like is no longer stored: the cache was emptied.',
          'Look for copies again.',
        );
      }
      const rowOf = ({ hash, page }: { hash: string; page: number }) => descriptors.rowOf.get(`${hash}-${page}`);
      const queries: number[] = [];
      for (const id of imageIds) {
        const image = imageFile(project, id);
        const row = image && rowOf(image);
        if (row === undefined)
          throw new AppError(
            'no-curation',
            `${image?.path ?? `Image ${id}`} was not there when copies were looked for.`,
            'Look for copies again.',
          );
        queries.push(row);
      }
      const images = Map.groupBy(imageFiles(project), rowOf);
      return retrieve(descriptors.rows, descriptors.dim, queries, limit)
        .flatMap(({ index, cosine }) => (images.get(index) ?? []).map(({ id, path }) => ({ imageId: id, path, similarity: cosine })))
        .slice(0, limit);
    },
  } satisfies Partial<HostService>;
}

/** Draws shown before a run are those of a run with the usual seed. */
const previewSeed = 1;
