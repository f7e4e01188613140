/** The last curation: what the job found, and what the page asks of it. */
import {
  AppError,
  type CurationResult,
  type CurationSummary,
  type DuplicateGroup,
  type Inputs,
  type LeftOutRow,
  type TrainingListPreview,
} from '../../contract/index.ts';
import { trainingList } from '../../curate/index.ts';
import type { Reader, Writer } from '../project.ts';

/** Replaces the last one. @param asked ids of all images that the job was given */
export function saveCuration(writer: Writer, { features, groups, clusters, images }: CurationResult, asked: readonly number[]): void {
  for (const table of ['curation_images', 'curation_examples', 'curation_clusters', 'curation']) writer.run(`DELETE FROM ${table}`);
  writer.run('INSERT INTO curation (id, created_at, features) VALUES (1, ?, ?)', new Date().toISOString(), features);
  clusters.forEach(({ compactness, examples }, id) => {
    writer.run('INSERT INTO curation_clusters (id, compactness) VALUES (?, ?)', id, compactness);
    examples.forEach((imageId, position) =>
      writer.run('INSERT INTO curation_examples (cluster_id, position, image_id) VALUES (?, ?, ?)', id, position, imageId),
    );
  });
  for (const id of asked) writer.run('INSERT INTO curation_images (image_id, hash) SELECT id, hash FROM images WHERE id = ?', id);
  for (const { imageId, cluster } of images) writer.run('UPDATE curation_images SET cluster_id = ? WHERE image_id = ?', cluster, imageId);
  groups.forEach(({ members }, group) =>
    members.forEach(({ imageId, similarity, exact }, position) =>
      writer.run(
        'UPDATE curation_images SET group_id = ?, position = ?, similarity = ?, exact = ? WHERE image_id = ?',
        group,
        position,
        similarity,
        Number(exact),
        imageId,
      ),
    ),
  );
}

/** Null before the first. Copies and clusters of images that are there still. */
export function curationSummary(reader: Reader): CurationSummary | null {
  const row = reader.get<CurationSummary>(
    `WITH known AS (SELECT c.* FROM curation_images c JOIN images i ON i.id = c.image_id WHERE i.present = 1)
     SELECT created_at AS createdAt, features,
       (SELECT count(*) FROM known) AS images,
       (SELECT count(DISTINCT group_id) FROM known WHERE position > 0) AS groups,
       (SELECT count(*) FROM known WHERE position > 0) AS copies,
       (SELECT count(*) FROM known WHERE position > 0 AND exact = 1) AS exact,
       (SELECT count(*) FROM curation_clusters) AS clusters,
       (SELECT count(*) FROM images i LEFT JOIN curation_images c ON c.image_id = i.id AND c.hash = i.hash
         WHERE i.present = 1 AND c.image_id IS NULL) AS changed,
       (SELECT count(*) FROM curation_images c JOIN images i ON i.id = c.image_id WHERE i.present = 0) AS gone
     FROM curation`,
  );
  return row ? { ...row } : null;
}

/** Null when there is none, or when images were added, changed or went since. */
export function freshCuration(reader: Reader): CurationResult | null {
  const summary = curationSummary(reader);
  return summary && summary.changed === 0 && summary.gone === 0 ? readCuration(reader) : null;
}

/** @throws AppError no-curation */
export function readCuration(reader: Reader): CurationResult {
  const row = reader.get<{ features: string }>('SELECT features FROM curation');
  if (!row) throw noCuration();
  const groups: { imageId: number; similarity: number; exact: boolean }[][] = [];
  for (const { group_id, image_id, similarity, exact } of reader.all<{
    group_id: number;
    image_id: number;
    similarity: number;
    exact: number;
  }>('SELECT group_id, image_id, similarity, exact FROM curation_images WHERE group_id IS NOT NULL ORDER BY group_id, position'))
    (groups[group_id] ??= []).push({ imageId: image_id, similarity, exact: exact === 1 });
  const clusters = reader
    .all<{ id: number; compactness: number }>('SELECT id, compactness FROM curation_clusters ORDER BY id')
    .map(({ compactness }) => ({ compactness, examples: [] as number[] }));
  for (const { cluster_id, image_id } of reader.all<{ cluster_id: number; image_id: number }>(
    'SELECT cluster_id, image_id FROM curation_examples ORDER BY cluster_id, position',
  ))
    clusters[cluster_id].examples.push(image_id);
  const images = reader
    .all<{ imageId: number; cluster: number }>(
      'SELECT image_id AS imageId, cluster_id AS cluster FROM curation_images WHERE cluster_id IS NOT NULL ORDER BY image_id',
    )
    .map((image) => ({ ...image }));
  return { features: row.features, groups: groups.map((members) => ({ members })), clusters, images };
}

/** Groups with two members or more that are there still, largest first. @throws AppError no-curation */
export function duplicateGroups(reader: Reader, { offset, limit }: Inputs['page']): { total: number; rows: DuplicateGroup[] } {
  if (!reader.get('SELECT id FROM curation')) throw noCuration();
  const there = `FROM curation_images c JOIN images i ON i.id = c.image_id AND i.present = 1 WHERE c.group_id IS NOT NULL
    GROUP BY c.group_id HAVING count(*) > 1`;
  const total = reader.get<{ n: number }>(`SELECT count(*) AS n FROM (SELECT 1 ${there})`)!.n;
  const ids = reader.all<{ id: number }>(
    `SELECT c.group_id AS id ${there} ORDER BY count(*) DESC, c.group_id LIMIT ? OFFSET ?`,
    limit,
    offset,
  );
  const rows = ids.map(({ id }) => ({
    id,
    images: reader
      .all<{ imageId: number; path: string; width: number; height: number; similarity: number; exact: number }>(
        `SELECT i.id AS imageId, i.path, i.width, i.height, c.similarity, c.exact
         FROM curation_images c JOIN images i ON i.id = c.image_id AND i.present = 1 WHERE c.group_id = ? ORDER BY c.position`,
        id,
      )
      .map((row) => ({ ...row, exact: row.exact === 1 })),
  }));
  return { total, rows };
}

/** What a run with these options and this seed would train on. @throws AppError no-curation */
export function trainingListPreview(reader: Reader, options: Inputs['trainingList'], seed: number): TrainingListPreview {
  const curation = readCuration(reader);
  const ids = presentIds(reader);
  const { kept, leftOut } = trainingList(ids, curation, options, seed);
  const [there, stays] = [new Set(ids), new Set(kept)];
  const clusters = curation.clusters.map(({ compactness, examples }, id) => ({
    id,
    compactness,
    examples: examples.filter((imageId) => there.has(imageId)),
    images: 0,
    kept: 0,
  }));
  for (const { imageId, cluster } of curation.images) {
    if (there.has(imageId)) clusters[cluster].images++;
    if (stays.has(imageId)) clusters[cluster].kept++;
  }
  const counted = (kind: string): number => leftOut.filter(({ reason }) => reason.kind === kind).length;
  return { images: ids.length, kept: kept.length, copies: counted('duplicate'), overShare: counted('over-share'), clusters };
}

/** @throws AppError no-curation */
export function leftOutPage(
  reader: Reader,
  { offset, limit, ...options }: Inputs['leftOut'],
  seed: number,
): { total: number; rows: LeftOutRow[] } {
  const { leftOut } = trainingList(presentIds(reader), readCuration(reader), options, seed);
  const pathOf = (id: number): string => reader.get<{ path: string }>('SELECT path FROM images WHERE id = ?', id)!.path;
  const rows = leftOut.slice(offset, offset + limit).map(({ imageId, reason }) => ({
    imageId,
    reason,
    path: pathOf(imageId),
    ofPath: reason.kind === 'duplicate' ? pathOf(reason.of) : null,
  }));
  return { total: leftOut.length, rows };
}

function presentIds(reader: Reader): number[] {
  return reader.all<{ id: number }>('SELECT id FROM images WHERE present = 1 ORDER BY path, page').map(({ id }) => id);
}

export function noCuration(): AppError {
  return new AppError(
    'no-curation',
    'Nobody has looked for copies and clusters in this project yet.',
    'Look for them on the Images page, or with: patchwise curate DIR',
  );
}
