/** Images and problems of a project: what the scan found, and the rows the page shows. */
import type { ImageProblem, ImageRow, Inputs, ScannedImage } from '../../contract/index.ts';
import type { Reader, Writer } from '../project.ts';

/** 'started': a person has decided on something in it. Counts leave out discarded proposals and removed annotations. */
const imageColumns = `
  i.id, i.path, i.width, i.height, i.bytes, i.format, i.page,
  CASE WHEN i.done THEN 'done'
       WHEN EXISTS (SELECT 1 FROM annotations a WHERE a.image_id = i.id AND a.removed = 0)
         OR EXISTS (SELECT 1 FROM proposals p WHERE p.image_id = i.id AND p.state <> 'proposed') THEN 'started'
       ELSE 'new' END AS state,
  (SELECT count(*) FROM proposals p WHERE p.image_id = i.id AND p.state IN ('proposed', 'unsure') AND p.discarded = 0) AS proposed,
  (SELECT count(*) FROM annotations a WHERE a.image_id = i.id AND a.removed = 0) AS annotations`;

export function imageRow(reader: Reader, imageId: number): ImageRow | undefined {
  const row = reader.get<ImageRow>(`SELECT ${imageColumns} FROM images i WHERE i.id = ?`, imageId);
  return row && { ...row };
}

export function imagesPage(reader: Reader, { offset, limit, filter, search }: Inputs['imagesPage']): { total: number; rows: ImageRow[] } {
  const conditions = ['i.present = 1'];
  const values: string[] = [];
  if (filter !== 'all') conditions.push(filter === 'done' ? 'i.done = 1' : 'i.done = 0');
  if (search !== '') {
    conditions.push("i.path LIKE ? ESCAPE '\\'");
    values.push(`%${search.replace(/[\\%_]/g, '\\$&')}%`);
  }
  const where = conditions.join(' AND ');
  const total = reader.get<{ n: number }>(`SELECT count(*) AS n FROM images i WHERE ${where}`, ...values)!.n;
  const rows = reader.all<ImageRow>(
    `SELECT ${imageColumns} FROM images i WHERE ${where} ORDER BY i.path, i.page LIMIT ? OFFSET ?`,
    ...values,
    limit,
    offset,
  );
  return { total, rows: rows.map((row) => ({ ...row })) };
}

/** Of those that are known. */
export function imagePaths(reader: Reader, imageIds: readonly number[]): { imageId: number; path: string }[] {
  const marks = imageIds.map(() => '?').join(', ');
  return reader
    .all<{ imageId: number; path: string }>(`SELECT id AS imageId, path FROM images WHERE id IN (${marks})`, ...imageIds)
    .map((row) => ({ ...row }));
}

export function problems(reader: Reader): ImageProblem[] {
  return reader.all<ImageProblem>('SELECT path, code, message, action FROM problems ORDER BY path, code').map((row) => ({ ...row }));
}

export function saveProblem(writer: Writer, { path, code, message, action }: ImageProblem): void {
  writer.run('INSERT OR REPLACE INTO problems (path, code, message, action) VALUES (?, ?, ?, ?)', path, code, message, action);
}

export function clearProblems(writer: Writer): void {
  writer.run('DELETE FROM problems');
}

export interface ImageFile extends ScannedImage {
  readonly id: number;
}

const fileColumns = `id, path, page, bytes, modified_ms AS modifiedMs, hash, width, height, format, bit_depth AS bitDepth, channels, orientation`;

/** The images that the last scan met, in the order shown. */
export function imageFiles(reader: Reader): ImageFile[] {
  return reader.all<ImageFile>(`SELECT ${fileColumns} FROM images WHERE present = 1 ORDER BY path, page`).map((row) => ({ ...row }));
}

export function imageFile(reader: Reader, imageId: number): ImageFile | undefined {
  const row = reader.get<ImageFile>(`SELECT ${fileColumns} FROM images WHERE id = ?`, imageId);
  return row && { ...row };
}

/** Id of an image by its path (first page). */
export function imageIdOf(reader: Reader, path: string): number | undefined {
  return reader.get<{ id: number }>('SELECT id FROM images WHERE path = ? ORDER BY page LIMIT 1', path)?.id;
}

/**
 * Adds or refreshes a scanned image and returns its id. When the file's content changed, the undecided proposals of the
 * old content go; what a person decided stays.
 */
export function saveImage(writer: Writer, image: ScannedImage): number {
  const known = writer.get<{ id: number; hash: string }>('SELECT id, hash FROM images WHERE path = ? AND page = ?', image.path, image.page);
  const { bytes, modifiedMs, hash, width, height, format, bitDepth, channels, orientation } = image;
  const facts = [bytes, modifiedMs, hash, width, height, format, bitDepth, channels, orientation];
  if (!known) {
    const sql = `INSERT INTO images (path, page, bytes, modified_ms, hash, width, height, format, bit_depth, channels, orientation)
      VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`;
    return writer.run(sql, image.path, image.page, ...facts).id;
  }
  const sql = `UPDATE images SET bytes = ?, modified_ms = ?, hash = ?, width = ?, height = ?, format = ?, bit_depth = ?, channels = ?,
    orientation = ?, present = 1 WHERE id = ?`;
  writer.run(sql, ...facts, known.id);
  if (known.hash !== hash) writer.run("DELETE FROM proposals WHERE image_id = ? AND state = 'proposed' AND class_set = 0", known.id);
  return known.id;
}

/** After a full scan: images it did not meet are hidden, with everything decided on them kept. */
export function hideUnseen(writer: Writer, seen: ReadonlySet<number>): void {
  for (const { id } of writer.all<{ id: number }>('SELECT id FROM images WHERE present = 1')) {
    if (!seen.has(id)) writer.run('UPDATE images SET present = 0 WHERE id = ?', id);
  }
}
