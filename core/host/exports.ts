/** Exports: what goes into the file is decided here, how it is written is the labels room's. One folder an export, renamed when whole. */
import { mkdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import {
  AppError,
  type ExportFormat,
  type ExportPreflight,
  type ExportRow,
  type ExportScope,
  type Inputs,
  type Rle,
} from '../contract/index.ts';
import { cocoPreflight, writeCoco, type CocoImage, type CocoObject, type CocoSegmentation } from '../labels/index.ts';
import type { Project, Reader } from './project.ts';
import { classRows } from './store/classes.ts';

const fileName = 'annotations.json';
/** Rows read at once; between two reads the host answers others. */
const chunk = 500;

interface Row {
  id: number;
  image_id: number;
  class_id: number | null;
  state: 'accepted' | 'edited' | 'drawn' | 'proposed';
  score: number | null;
  model_key: string | null;
  rle_width: number;
  rle_height: number;
  rle_counts: string;
}

const segmentationOf = (format: ExportFormat): CocoSegmentation => (format === 'coco-rle' ? 'rle' : 'polygons');
const rleOf = (row: Row): Rle => ({ size: [row.rle_height, row.rle_width], counts: row.rle_counts });

/** Objects of a scope; masks of an earlier version of their image with another size are left out, `leftOut` counts them. */
function sources(scope: ExportScope): string[] {
  const states = scope === 'accepted' ? "('accepted')" : "('accepted', 'edited', 'drawn')";
  const annotations = `FROM annotations o JOIN images i ON i.id = o.image_id LEFT JOIN proposals p ON p.id = o.proposal_id
    WHERE o.removed = 0 AND o.state IN ${states}`;
  const undecided = `FROM proposals o JOIN images i ON i.id = o.image_id WHERE o.state IN ('proposed', 'unsure') AND o.discarded = 0 AND i.present = 1`;
  return scope === 'everything' ? [annotations, undecided] : [annotations];
}

const fits = 'o.rle_width = i.width AND o.rle_height = i.height';
const columnsOf = (from: string) =>
  from.startsWith('FROM annotations')
    ? 'o.id, o.image_id, o.class_id, o.state, NULL AS score, p.model_key, o.rle_width, o.rle_height, o.rle_counts'
    : "o.id, o.image_id, o.class_id, 'proposed' AS state, o.score, o.model_key, o.rle_width, o.rle_height, o.rle_counts";

async function* rows(reader: Reader, scope: ExportScope): AsyncGenerator<Row> {
  for (const from of sources(scope)) {
    for (let last = 0; ;) {
      const found = reader.all<Row>(`SELECT ${columnsOf(from)} ${from} AND ${fits} AND o.id > ? ORDER BY o.id LIMIT ${chunk}`, last);
      yield* found;
      if (found.length < chunk) break;
      last = found[found.length - 1].id;
      await new Promise(setImmediate);
    }
  }
}

/**
 * For 'everything' all images of the folder. Else those with an object and those marked done: an image that nobody has
 * looked at, listed without objects, would tell a training that it is empty.
 */
function images(reader: Reader, scope: ExportScope): CocoImage[] {
  const withObject = sources(scope).map((from) => `SELECT o.image_id ${from} AND ${fits}`);
  const also = scope === 'everything' ? 'present = 1' : 'present = 1 AND done = 1';
  return reader
    .all<CocoImage>(
      `SELECT id, path, page, width, height FROM images WHERE ${also} OR id IN (${withObject.join(' UNION ')}) ORDER BY path, page`,
    )
    .map((row) => ({ ...row }));
}

export async function exportPreflight(project: Project, { format, scope }: Inputs['exportWhat']): Promise<ExportPreflight> {
  let objects = 0;
  let withoutClass = 0;
  const masks = async function* () {
    for await (const row of rows(project, scope)) {
      objects++;
      if (row.class_id === null) withoutClass++;
      yield rleOf(row);
    }
  };
  const { warnings } = await cocoPreflight(masks(), segmentationOf(format));
  const listed = images(project, scope);
  const leftOut = sources(scope).reduce(
    (n, from) => n + project.get<{ n: number }>(`SELECT count(*) AS n ${from} AND NOT (${fits})`)!.n,
    0,
  );
  const gone = project.get<{ n: number }>(
    'SELECT count(DISTINCT i.id) AS n FROM images i JOIN annotations a ON a.image_id = i.id AND a.removed = 0 WHERE i.present = 0',
  )!.n;
  const more = [
    ...told(withoutClass, 'mask has no class and becomes "unlabeled".', 'masks have no class and become "unlabeled".'),
    ...told(
      leftOut,
      'object is of an earlier version of its image with another size, and is left out.',
      'objects are of earlier versions of their images with other sizes, and are left out.',
    ),
    ...told(
      gone,
      'image with annotations is no longer in the folder; it is listed all the same.',
      'images with annotations are no longer in the folder; they are listed all the same.',
    ),
  ];
  return { images: listed.length, objects, withoutClass, warnings: [...warnings, ...more] };
}

const told = (count: number, one: string, many: string): string[] =>
  count === 0 ? [] : [`${count.toLocaleString('en-US')} ${count === 1 ? one : many}`];

/** @throws AppError nothing-to-export, disk-full */
export async function runExport(project: Project, { format, scope }: Inputs['exportWhat']): Promise<ExportRow> {
  const listed = images(project, scope);
  const categories = classRows(project).map(({ id, name }) => ({ id, name }));
  const unlabeled = { id: Math.max(0, ...categories.map((category) => category.id)) + 1, name: 'unlabeled' };
  let withoutClass = false;
  const objects = async function* (): AsyncGenerator<CocoObject> {
    for await (const row of rows(project, scope)) {
      yield {
        imageId: row.image_id,
        categoryId: row.class_id ?? unlabeled.id,
        rle: rleOf(row),
        ...(row.score === null ? {} : { score: row.score }),
        // Names and times stay in the project.
        attributes: { origin: row.state, ...(row.model_key === null ? {} : { model: row.model_key }) },
      };
    }
  };
  const first = await rows(project, scope).next();
  if (first.done)
    throw new AppError(
      'nothing-to-export',
      `Nothing is ${scope === 'everything' ? 'proposed or annotated' : scope} yet.`,
      'Review some proposals first, or choose a wider scope.',
    );
  for await (const row of rows(project, scope)) if ((withoutClass = row.class_id === null)) break;

  const createdAt = new Date().toISOString();
  const id = nextId(project, createdAt);
  const dir = join(project.dir, 'exports', id);
  const temporary = join(project.dir, 'exports', `.${id}.tmp`);
  try {
    await mkdir(temporary, { recursive: true });
    const written = await writeCoco(join(temporary, fileName), {
      images: listed,
      categories: withoutClass ? [...categories, unlabeled] : categories,
      objects: objects(),
      segmentation: segmentationOf(format),
      description: project.facts.name,
      createdAt,
    });
    await rename(temporary, dir);
    project.write((w) => {
      w.run(
        'INSERT INTO exports (id, created_at, format, scope, images, objects) VALUES (?, ?, ?, ?, ?, ?)',
        id,
        createdAt,
        format,
        scope,
        written.images,
        written.objects,
      );
      w.run('INSERT INTO export_files (export_id, name, bytes) VALUES (?, ?, ?)', id, fileName, written.bytes);
    });
  } catch (error) {
    await rm(temporary, { recursive: true, force: true });
    throw error;
  }
  return exportRows(project).find((row) => row.id === id)!;
}

/** The time of the export, as a folder name that sorts: 2026-01-31-093015, -2 for the second in that second. */
function nextId(reader: Reader, createdAt: string): string {
  const base = createdAt.slice(0, 19).replace('T', '-').replaceAll(':', '');
  for (let n = 1; ; n++) {
    const id = n === 1 ? base : `${base}-${n}`;
    if (!reader.get('SELECT 1 FROM exports WHERE id = ?', id)) return id;
  }
}

/** Newest first. */
export function exportRows(project: Project): ExportRow[] {
  return project
    .all<{ id: string; createdAt: string; format: ExportFormat; scope: ExportScope; images: number; objects: number }>(
      'SELECT id, created_at AS createdAt, format, scope, images, objects FROM exports ORDER BY created_at DESC, id DESC',
    )
    .map((row) => ({
      ...row,
      files: project
        .all<{ name: string; bytes: number }>('SELECT name, bytes FROM export_files WHERE export_id = ?', row.id)
        .map((file) => ({ ...file, url: `/files/export/${row.id}/${encodeURIComponent(file.name)}` })),
      location: join(project.dir, 'exports', row.id),
    }));
}

/** Path of an export's file; null unless the project knows it. */
export function exportFile(project: Project, exportId: string, name: string): string | null {
  const known = project.get<{ export_id: string; name: string }>(
    'SELECT export_id, name FROM export_files WHERE export_id = ? AND name = ?',
    exportId,
    name,
  );
  return known ? join(project.dir, 'exports', known.export_id, known.name) : null;
}
