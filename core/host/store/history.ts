/**
 * The history of decisions: append-only rows with who, when, how long and what changed, and a cursor
 * (`settings.history_cursor`) at the last decision in force. Undo and redo move it, across images and restarts.
 */
import { AppError, type Box, type Decision, type ReviewChange, type Rle } from '../../contract/index.ts';
import { rleArea, rleBox } from '../../labels/index.ts';
import type { Reader, Writer } from '../project.ts';
import { reviveClass } from './classes.ts';
import { objectsOf } from './objects.ts';
import { followCluster } from './proposals.ts';

/** One object's change inside a decision; the columns of `decision_changes`. */
export interface Change {
  object: 'proposal' | 'annotation';
  object_id: number;
  before_state: string;
  after_state: string;
  before_class_id: number | null;
  after_class_id: number | null;
  before_class_set: number;
  after_class_set: number;
  before_counts: string | null;
  after_counts: string | null;
}

/** What a decision came to. */
export interface Applied {
  imageId: number;
  label: string;
  changes: Change[];
  pixels: number;
}

interface DecisionRow {
  id: number;
  label: string;
  image_id: number;
}

/** An accepted proposal changes with its annotation. */
function decidedObjects({ action }: Decision, { length }: Applied['changes']): number {
  if (action === 'acceptAll') return length / 2;
  return action === 'rejectAll' ? length : 1;
}

/** Adds a decision that has just been applied to the end of the timeline; what was undone before it is out of redo's reach. */
export function record(writer: Writer, decision: Decision, reviewer: string, { imageId, label, changes, pixels }: Applied): void {
  const cursor = cursorOf(writer);
  writer.run('UPDATE decisions SET abandoned = 1 WHERE step = 1 AND abandoned = 0 AND id > ?', cursor);
  const { id } = writer.run(
    'INSERT INTO decisions (at, reviewer, action, label, image_id, seconds, objects, pixels_changed, step) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 1)',
    new Date().toISOString(),
    reviewer,
    decision.action,
    label,
    imageId,
    decision.seconds,
    decidedObjects(decision, changes),
    pixels,
  );
  changes.forEach((change, position) => {
    writer.run(
      `INSERT INTO decision_changes (decision_id, position, object, object_id, before_state, after_state, before_class_id, after_class_id,
         before_class_set, after_class_set, before_counts, after_counts) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
      id,
      position,
      change.object,
      change.object_id,
      change.before_state,
      change.after_state,
      change.before_class_id,
      change.after_class_id,
      change.before_class_set,
      change.after_class_set,
      change.before_counts,
      change.after_counts,
    );
  });
  writer.run('UPDATE settings SET history_cursor = ?', id);
}

/** Puts an object into the state before or after a change. A proposal that a machine has since replaced is passed over. */
export function writeSide(writer: Writer, change: Change, side: 'before' | 'after'): void {
  const state = change[`${side}_state`];
  const classId = change[`${side}_class_id`];
  const counts = change[`${side}_counts`];
  if (classId !== null) reviveClass(writer, classId);
  if (change.object === 'proposal') {
    const classSet = change[`${side}_class_set`];
    writer.run('UPDATE proposals SET state = ?, class_id = ?, class_set = ? WHERE id = ?', state, classId, classSet, change.object_id);
    if (classSet === 0 && (state === 'proposed' || state === 'unsure')) followCluster(writer, change.object_id);
    return;
  }
  if (state === 'absent') {
    writer.run('UPDATE annotations SET removed = 1 WHERE id = ?', change.object_id);
    return;
  }
  writer.run('UPDATE annotations SET removed = 0, state = ?, class_id = ? WHERE id = ?', state, classId, change.object_id);
  if (counts === null) return;
  const size = writer.get<{ rle_width: number; rle_height: number }>(
    'SELECT rle_width, rle_height FROM annotations WHERE id = ?',
    change.object_id,
  )!;
  const rle: Rle = { size: [size.rle_height, size.rle_width], counts };
  const box: Box = rleBox(rle);
  writer.run(
    'UPDATE annotations SET rle_counts = ?, area = ?, x = ?, y = ?, width = ?, height = ? WHERE id = ?',
    counts,
    rleArea(rle),
    ...box,
    change.object_id,
  );
}

/** @throws AppError nothing-to-undo */
export function undo(writer: Writer, reviewer: string): ReviewChange {
  const target = stepAt(writer, 'back');
  if (!target) throw new AppError('nothing-to-undo', 'There is nothing to undo.', 'Go on reviewing.');
  for (const one of changesOf(writer, target.id).reverse()) writeSide(writer, one, 'before');
  const previous = writer.get<{ id: number }>(
    'SELECT id FROM decisions WHERE step = 1 AND abandoned = 0 AND id < ? ORDER BY id DESC LIMIT 1',
    target.id,
  );
  writer.run('UPDATE settings SET history_cursor = ?', previous?.id ?? 0);
  return note(writer, 'undo', target, reviewer);
}

/** @throws AppError nothing-to-undo when nothing was undone since the last decision */
export function redo(writer: Writer, reviewer: string): ReviewChange {
  const target = stepAt(writer, 'forward');
  if (!target) throw new AppError('nothing-to-undo', 'There is nothing to redo.', 'Go on reviewing.');
  for (const one of changesOf(writer, target.id)) writeSide(writer, one, 'after');
  writer.run('UPDATE settings SET history_cursor = ?', target.id);
  return note(writer, 'redo', target, reviewer);
}

function note(writer: Writer, action: 'undo' | 'redo', target: DecisionRow, reviewer: string): ReviewChange {
  const label = `${action === 'undo' ? 'Undone' : 'Redone'}: ${target.label}`;
  saveNote(writer, action, label, reviewer, target.image_id, target.id);
  return change(writer, target.image_id, label);
}

/** Writes something into the history that is no step of it. */
export function saveNote(
  writer: Writer,
  action: string,
  label: string,
  reviewer: string,
  imageId: number | null = null,
  targetId: number | null = null,
): void {
  writer.run(
    `INSERT INTO decisions (at, reviewer, action, label, image_id, seconds, objects, pixels_changed, step, target_id) VALUES (?, ?, ?, ?, ?, 0, 0, 0, 0, ?)`,
    new Date().toISOString(),
    reviewer,
    action,
    label,
    imageId,
    targetId,
  );
}

export function cursorOf(reader: Reader): number {
  return reader.get<{ history_cursor: number }>('SELECT history_cursor FROM settings')!.history_cursor;
}

function stepAt(reader: Reader, way: 'back' | 'forward'): DecisionRow | undefined {
  const where = way === 'back' ? 'id <= ? ORDER BY id DESC' : 'id > ? ORDER BY id';
  return reader.get<DecisionRow>(
    `SELECT id, label, image_id FROM decisions WHERE step = 1 AND abandoned = 0 AND ${where} LIMIT 1`,
    cursorOf(reader),
  );
}

function changesOf(reader: Reader, decisionId: number): Change[] {
  return reader.all<Change>('SELECT * FROM decision_changes WHERE decision_id = ? ORDER BY position', decisionId);
}

export function change(reader: Reader, imageId: number, label: string): ReviewChange {
  const [canUndo, canRedo] = [stepAt(reader, 'back') !== undefined, stepAt(reader, 'forward') !== undefined];
  return { imageId, objects: objectsOf(reader, imageId), canUndo, canRedo, label };
}
