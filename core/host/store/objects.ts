/** Objects of an image as review shows them: a person's annotations, and the proposals that did not become one. */
import { AppError, type ReviewImage, type ReviewObject } from '../../contract/index.ts';
import type { Reader } from '../project.ts';
import { imageRow } from './images.ts';
import { boxOf, maskColumns, rleOf } from './proposals.ts';

export interface ObjectRow {
  id: number;
  image_id: number;
  class_id: number | null;
  cluster_id: number | null;
  class_set: number;
  score: number | null;
  state: ReviewObject['state'];
  area: number;
  x: number;
  y: number;
  width: number;
  height: number;
  rle_width: number;
  rle_height: number;
  rle_counts: string;
}

export const proposalColumns = `id, image_id, class_id, cluster_id, class_set, score, state, area, ${maskColumns}`;
const annotationColumns = `id, image_id, class_id, NULL AS cluster_id, 0 AS class_set, NULL AS score, state, area, ${maskColumns}`;

export function reviewImage(reader: Reader, imageId: number): ReviewImage {
  const image = imageRow(reader, imageId);
  if (!image) throw gone('image', imageId);
  return { image, objects: objectsOf(reader, imageId) };
}

/** Annotations, then proposals that did not become one: undecided, unsure, rejected; surest first. */
export function objectsOf(reader: Reader, imageId: number): ReviewObject[] {
  const annotations = reader.all<ObjectRow>(
    `SELECT ${annotationColumns} FROM annotations WHERE image_id = ? AND removed = 0 ORDER BY id`,
    imageId,
  );
  const proposals = reader.all<ObjectRow>(
    `SELECT ${proposalColumns} FROM proposals WHERE image_id = ? AND state IN ('proposed', 'unsure', 'rejected') AND discarded = 0 ORDER BY score DESC, id`,
    imageId,
  );
  return [...annotations.map((row) => toObject('annotation', row)), ...proposals.map((row) => toObject('proposal', row))];
}

function toObject(kind: ReviewObject['kind'], row: ObjectRow): ReviewObject {
  const { id, image_id: imageId, class_id: classId, cluster_id: clusterId, score, state, area } = row;
  return { kind, id, imageId, classId, clusterId, score, state, box: boxOf(row), area, rle: rleOf(row) };
}

export function proposalRow(reader: Reader, id: number): ObjectRow {
  const row = reader.get<ObjectRow>(`SELECT ${proposalColumns} FROM proposals WHERE id = ?`, id);
  if (!row) throw gone('proposal', id);
  return row;
}

export function annotationRow(reader: Reader, id: number): ObjectRow {
  const row = reader.get<ObjectRow>(`SELECT ${annotationColumns} FROM annotations WHERE id = ? AND removed = 0`, id);
  if (!row) throw gone('annotation', id);
  return row;
}

export function gone(what: string, id: number): AppError {
  return new AppError(
    what === 'image' ? 'bad-input' : 'object-gone',
    `There is no ${what} ${id}.`,
    'Reload the image; it may have been replaced meanwhile.',
  );
}
