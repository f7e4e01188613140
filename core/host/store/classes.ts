/** Classes: what a region is called. A removed class is kept, hidden, because an undone decision may need it again. */
import { AppError, type ClassRow } from '../../contract/index.ts';
import type { Reader, Writer } from '../project.ts';

/** Okabe and Ito's colours for all kinds of colour vision (jfly.uni-koeln.de/color), without black, then lighter mixes. */
const palette = [
  '#e69f00',
  '#56b4e9',
  '#009e73',
  '#f0e442',
  '#0072b2',
  '#d55e00',
  '#cc79a7',
  '#8dd3c7',
  '#bebada',
  '#fb8072',
  '#b3de69',
  '#fccde5',
];

export function classRows(reader: Reader): ClassRow[] {
  const rows = reader.all<{ id: number; name: string; color: string; annotations: number }>(
    `SELECT c.id, c.name, c.color, (SELECT count(*) FROM annotations a WHERE a.class_id = c.id AND a.removed = 0) AS annotations
     FROM classes c WHERE c.removed = 0 ORDER BY c.id`,
  );
  return rows.map((row, index) => ({ ...row, key: index < 9 ? index + 1 : null }));
}

export function classRow(reader: Reader, classId: number): ClassRow {
  const found = classRows(reader).find((row) => row.id === classId);
  if (!found) throw new AppError('bad-input', `There is no class ${classId}.`, 'Reload the page; it may have been removed meanwhile.');
  return found;
}

/** Name for a label: "as leaf"; empty without a class. */
export function asClass(reader: Reader, classId: number | null): string {
  return classId === null ? '' : ` as ${classRow(reader, classId).name}`;
}

export function createClass(writer: Writer, name: string, color: string | null): number {
  refuseTaken(writer, name, null);
  const count = writer.get<{ n: number }>('SELECT count(*) AS n FROM classes')!.n;
  return writer.run('INSERT INTO classes (name, color) VALUES (?, ?)', name, color ?? palette[count % palette.length]).id;
}

export function updateClass(writer: Writer, classId: number, name: string, color: string): void {
  classRow(writer, classId);
  refuseTaken(writer, name, classId);
  writer.run('UPDATE classes SET name = ?, color = ? WHERE id = ?', name, color, classId);
}

/** @throws AppError class-in-use while annotations carry it */
export function removeClass(writer: Writer, classId: number): void {
  const { name, annotations } = classRow(writer, classId);
  if (annotations > 0) {
    throw new AppError(
      'class-in-use',
      `${annotations} annotation${annotations === 1 ? ' is' : 's are'} of class "${name}".`,
      'Give them another class first.',
    );
  }
  writer.run('UPDATE classes SET removed = 1 WHERE id = ?', classId);
  writer.run('UPDATE proposals SET class_id = NULL, class_set = 0 WHERE class_id = ?', classId);
  writer.run('UPDATE clusters SET class_id = NULL WHERE class_id = ?', classId);
}

/** Brings a removed class back for an undone decision; under another name when its own has been given away. */
export function reviveClass(writer: Writer, classId: number): void {
  const row = writer.get<{ name: string; removed: number }>('SELECT name, removed FROM classes WHERE id = ?', classId);
  if (!row || row.removed === 0) return;
  let name = row.name;
  for (let n = 2; idOf(writer, name) !== undefined; n++) name = `${row.name} ${n}`;
  writer.run('UPDATE classes SET removed = 0, name = ? WHERE id = ?', name, classId);
}

function refuseTaken(reader: Reader, name: string, except: number | null): void {
  const taken = idOf(reader, name);
  if (taken !== undefined && taken !== except)
    throw new AppError('class-name-taken', `There is already a class "${name}".`, 'Choose another name.');
}

function idOf(reader: Reader, name: string): number | undefined {
  return reader.get<{ id: number }>('SELECT id FROM classes WHERE removed = 0 AND name = ? COLLATE NOCASE', name)?.id;
}
