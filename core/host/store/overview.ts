/** What is asked of a whole project: its summary, whose features it proposes from, and what there is to learn from. */
import { AppError, type ProjectSummary, type Rle } from '../../contract/index.ts';
import type { Project, Reader, Writer } from '../project.ts';
import { maskColumns, rleOf } from './proposals.ts';
import { latestRunId } from './runs.ts';

export function projectSummary(project: Project): ProjectSummary {
  const { project_id: id, name, image_folder: imageFolder, created_at: createdAt } = project.facts;
  const counts = project.get<{ [K in keyof ProjectSummary['counts']]: number } & { images: number; problems: number; gone: number }>(
    `SELECT
       (SELECT count(*) FROM images WHERE present = 1) AS images,
       (SELECT count(*) FROM problems) AS problems,
       (SELECT count(*) FROM images i WHERE present = 0 AND NOT EXISTS (
         SELECT 1 FROM problems p WHERE p.path = i.path OR substr(i.path, 1, length(p.path) + 1) = p.path || '/')) AS gone,
       (SELECT count(*) FROM proposals WHERE state = 'proposed' AND discarded = 0) AS proposed,
       (SELECT count(*) FROM proposals WHERE state = 'unsure' AND discarded = 0) AS unsure,
       (SELECT count(*) FROM proposals WHERE state = 'rejected') AS rejected,
       (SELECT count(*) FROM annotations WHERE removed = 0 AND state = 'accepted') AS accepted,
       (SELECT count(*) FROM annotations WHERE removed = 0 AND state = 'edited') AS edited,
       (SELECT count(*) FROM annotations WHERE removed = 0 AND state = 'drawn') AS drawn`,
  )!;
  const { images, problems, gone, proposed, accepted, edited, rejected, unsure, drawn } = counts;
  return {
    id,
    name,
    imageFolder,
    createdAt,
    images,
    problems,
    gone,
    readOnly: project.readOnly,
    counts: { proposed, accepted, edited, rejected, unsure, drawn },
    latestRunId: latestRunId(project),
  };
}

/** A trained network of the project; null: an untrained one. */
export type ModelChoice = { readonly runId: string; readonly step: number } | { readonly weightsId: string } | null;

/** Whose features proposals come from. */
export interface ProposingModel {
  /** Names the network in the cache. */
  readonly modelKey: string;
  readonly choice: ModelChoice;
  /** Of each image, half a patch apart. */
  readonly passes: 1 | 4;
}

/** Whose features the present proposals came from; null before the first pre-label job has finished. */
export function presentModel(reader: Reader): ProposingModel | null {
  const row = reader.get<{
    model_key: string | null;
    model_run_id: string | null;
    model_step: number | null;
    model_weights_id: string | null;
    model_passes: 1 | 4;
  }>('SELECT model_key, model_run_id, model_step, model_weights_id, model_passes FROM settings')!;
  if (row.model_key === null) return null;
  const { model_key: modelKey, model_run_id: runId, model_step: step, model_weights_id: weightsId, model_passes: passes } = row;
  return { modelKey, choice: weightsId !== null ? { weightsId } : runId === null ? null : { runId, step: step! }, passes };
}

export function saveModel(writer: Writer, { modelKey, choice, passes }: ProposingModel): void {
  const run = choice && 'runId' in choice ? choice : null;
  const weightsId = choice && 'weightsId' in choice ? choice.weightsId : null;
  writer.run(
    'UPDATE settings SET model_key = ?, model_run_id = ?, model_step = ?, model_weights_id = ?, model_passes = ?',
    modelKey,
    run?.runId ?? null,
    run?.step ?? null,
    weightsId,
    passes,
  );
}

interface Example {
  image_id: number;
  class_id: number | null;
  drawn: number;
  x: number;
  y: number;
  width: number;
  height: number;
  rle_width: number;
  rle_height: number;
  rle_counts: string;
}

/** Annotations, rejected proposals, and images marked done, of those that are still there. */
export function learningExamples(reader: Reader): {
  accepted: { imageId: number; classId: number | null; drawn: boolean; rle: Rle }[];
  rejected: { imageId: number; rle: Rle }[];
  reviewed: number[];
} {
  const columns = maskColumns.replace(/\w+/g, 'o.$&');
  const accepted = reader.all<Example>(
    `SELECT o.image_id, o.class_id, o.state = 'drawn' AS drawn, ${columns} FROM annotations o JOIN images i ON i.id = o.image_id AND i.present = 1
     WHERE o.removed = 0 ORDER BY o.id`,
  );
  const rejected = reader.all<Example>(
    `SELECT o.image_id, ${columns} FROM proposals o JOIN images i ON i.id = o.image_id AND i.present = 1 WHERE o.state = 'rejected' ORDER BY o.id`,
  );
  return {
    accepted: accepted.map((row) => ({ imageId: row.image_id, classId: row.class_id, drawn: row.drawn === 1, rle: rleOf(row) })),
    rejected: rejected.map((row) => ({ imageId: row.image_id, rle: rleOf(row) })),
    reviewed: reader.all<{ id: number }>('SELECT id FROM images WHERE present = 1 AND done = 1 ORDER BY id').map((row) => row.id),
  };
}

export function setImageDone(writer: Writer, imageId: number, done: boolean): void {
  const { changes } = writer.run('UPDATE images SET done = ? WHERE id = ?', Number(done), imageId);
  if (changes === 0) throw new AppError('bad-input', `There is no image ${imageId}.`, 'Reload the page.');
}

/** Whether a person has finished with this image: nothing more is proposed there. */
export function isImageDone(reader: Reader, imageId: number): boolean {
  return reader.get<{ done: number }>('SELECT done FROM images WHERE id = ?', imageId)?.done === 1;
}

/** Whether a scan has ever gone through. */
export function isScanned(reader: Reader): boolean {
  return reader.get<{ scanned_at: string | null }>('SELECT scanned_at FROM settings')!.scanned_at !== null;
}
