/**
 * Decisions: what a person does to proposals and annotations, each one transaction, each with who, when, how long and
 * what changed. The history is append-only; `settings.history_cursor` says which decision is the last in force, so undo
 * and redo work across images and restarts.
 */
import {
  AppError,
  type Box,
  type Decision,
  type ReviewChange,
  type ReviewImage,
  type ReviewObject,
  type ReviewStats,
  type Rle,
} from '../../contract/index.ts';
import { rleArea, rleBox, rleIou } from '../../labels/index.ts';
import type { Reader, Writer } from '../project.ts';
import { asClass, classRow, reviveClass } from './classes.ts';
import { imageRow } from './images.ts';
import { boxOf, maskColumns, rleOf } from './proposals.ts';

/** A longer gap is a pause, not work (the reviewer was away); it counts as this many seconds. */
export const longestActiveSeconds = 30;
const fewestForMedian = 5;

interface ObjectRow {
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

/** One object's change inside a decision; the columns of `decision_changes`. */
interface Change {
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

interface DecisionRow {
  id: number;
  label: string;
  image_id: number;
}

// --- reading ----------------------------------------------------------------------------------------------------------

const proposalColumns = `id, image_id, class_id, cluster_id, class_set, score, state, area, ${maskColumns}`;
const annotationColumns = `id, image_id, class_id, NULL AS cluster_id, 0 AS class_set, NULL AS score, state, area, ${maskColumns}`;

export function reviewImage(reader: Reader, imageId: number): ReviewImage {
  const image = imageRow(reader, imageId);
  if (!image) throw gone('image', imageId);
  return { image, objects: objectsOf(reader, imageId) };
}

/** Annotations, then proposals that did not become one: undecided, unsure, rejected; surest first. */
function objectsOf(reader: Reader, imageId: number): ReviewObject[] {
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

function proposalRow(reader: Reader, id: number): ObjectRow {
  const row = reader.get<ObjectRow>(`SELECT ${proposalColumns} FROM proposals WHERE id = ?`, id);
  if (!row) throw gone('proposal', id);
  return row;
}

function annotationRow(reader: Reader, id: number): ObjectRow {
  const row = reader.get<ObjectRow>(`SELECT ${annotationColumns} FROM annotations WHERE id = ? AND removed = 0`, id);
  if (!row) throw gone('annotation', id);
  return row;
}

function gone(what: string, id: number): AppError {
  return new AppError('bad-input', `There is no ${what} ${id}.`, 'Reload the image; it may have been replaced meanwhile.');
}

// --- deciding ---------------------------------------------------------------------------------------------------------

/** Makes one decision. @throws AppError bad-input, mask-invalid, masks-mismatch; then nothing has changed */
export function decide(writer: Writer, decision: Decision, reviewer: string): ReviewChange {
  const { imageId, label, changes, pixels } = apply(writer, decision);
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
    decision.action === 'acceptAll' ? changes.length / 2 : 1,
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
  return change(writer, imageId, label);
}

interface Applied {
  imageId: number;
  label: string;
  changes: Change[];
  pixels: number;
}

function apply(writer: Writer, decision: Decision): Applied {
  if ('classId' in decision && decision.classId !== null) classRow(writer, decision.classId);
  switch (decision.action) {
    case 'accept': {
      const proposal = proposalRow(writer, decision.proposalId);
      refuseUnless(proposal, ['proposed', 'unsure', 'rejected']);
      const classId = decision.classId ?? proposal.class_id;
      const changes = accept(writer, proposal, classId, 'accepted', rleOf(proposal));
      return { imageId: proposal.image_id, label: `Accepted${asClass(writer, classId)}`, changes, pixels: 0 };
    }
    case 'edit': {
      const proposal = proposalRow(writer, decision.proposalId);
      refuseUnless(proposal, ['proposed', 'unsure', 'rejected']);
      checkMask(writer, proposal.image_id, decision.rle);
      const classId = decision.classId ?? proposal.class_id;
      const pixels = changedPixels(rleOf(proposal), decision.rle);
      const changes = accept(writer, proposal, classId, pixels === 0 ? 'accepted' : 'edited', decision.rle);
      return { imageId: proposal.image_id, label: `Accepted with changes${asClass(writer, classId)}`, changes, pixels };
    }
    case 'reject':
    case 'unsure': {
      const proposal = proposalRow(writer, decision.proposalId);
      const state = decision.action === 'reject' ? 'rejected' : 'unsure';
      refuseUnless(proposal, decision.action === 'reject' ? ['proposed', 'unsure'] : ['proposed', 'unsure', 'rejected']);
      const changes = [setProposal(writer, proposal, { state })];
      return { imageId: proposal.image_id, label: decision.action === 'reject' ? 'Rejected' : 'Set aside as unsure', changes, pixels: 0 };
    }
    case 'setClass': {
      const proposal = proposalRow(writer, decision.proposalId);
      refuseUnless(proposal, ['proposed', 'unsure']);
      const changes = [setProposal(writer, proposal, { classId: decision.classId, classSet: 1 })];
      return {
        imageId: proposal.image_id,
        label: decision.classId === null ? 'Class taken away' : `Named${asClass(writer, decision.classId)}`,
        changes,
        pixels: 0,
      };
    }
    case 'draw': {
      checkMask(writer, decision.imageId, decision.rle);
      const drawn = addAnnotation(writer, decision.imageId, null, decision.classId, 'drawn', decision.rle);
      return {
        imageId: decision.imageId,
        label: `Drawn${asClass(writer, decision.classId)}`,
        changes: [drawn],
        pixels: rleArea(decision.rle),
      };
    }
    case 'editAnnotation': {
      const annotation = annotationRow(writer, decision.annotationId);
      if (decision.rle) checkMask(writer, annotation.image_id, decision.rle);
      const pixels = decision.rle ? changedPixels(rleOf(annotation), decision.rle) : 0;
      const state = pixels > 0 && annotation.state === 'accepted' ? 'edited' : annotation.state;
      const classId = decision.classId ?? annotation.class_id;
      const changes = [setAnnotation(writer, annotation, { state, classId, rle: pixels > 0 ? decision.rle : null })];
      if (state !== annotation.state) changes.push(...setOrigin(writer, annotation.id, state));
      return {
        imageId: annotation.image_id,
        label: pixels > 0 ? `Edited${asClass(writer, classId)}` : `Named${asClass(writer, classId)}`,
        changes,
        pixels,
      };
    }
    case 'removeAnnotation': {
      const annotation = annotationRow(writer, decision.annotationId);
      const changes = [setAnnotation(writer, annotation, { state: 'absent', classId: annotation.class_id, rle: null })];
      changes.push(...setOrigin(writer, annotation.id, 'rejected'));
      return { imageId: annotation.image_id, label: 'Removed', changes, pixels: annotation.area };
    }
    case 'acceptAll': {
      if (!imageRow(writer, decision.imageId)) throw gone('image', decision.imageId);
      const undecided = writer.all<ObjectRow>(
        `SELECT ${proposalColumns} FROM proposals WHERE image_id = ? AND state IN ('proposed', 'unsure') AND discarded = 0 ORDER BY score DESC, id`,
        decision.imageId,
      );
      if (undecided.length === 0) throw new AppError('bad-input', 'Nothing in this image is undecided.', 'Go on to the next image.');
      const changes = undecided.flatMap((proposal) => accept(writer, proposal, proposal.class_id, 'accepted', rleOf(proposal)));
      return {
        imageId: decision.imageId,
        label: `Accepted ${undecided.length} proposal${undecided.length === 1 ? '' : 's'}`,
        changes,
        pixels: 0,
      };
    }
  }
}

function refuseUnless(proposal: ObjectRow, states: readonly string[]): void {
  if (!states.includes(proposal.state)) {
    throw new AppError('bad-input', `Proposal ${proposal.id} is already ${proposal.state}.`, 'Undo that first, or change its annotation.');
  }
}

/** @throws AppError masks-mismatch when the mask is of another size than the image, mask-invalid when it is broken or empty */
function checkMask(reader: Reader, imageId: number, rle: Rle): void {
  const image = imageRow(reader, imageId);
  if (!image) throw gone('image', imageId);
  const [height, width] = rle.size;
  if (width !== image.width || height !== image.height) {
    throw new AppError(
      'masks-mismatch',
      `The mask is ${width} x ${height} pixels, ${image.path} is ${image.width} x ${image.height}.`,
      'Reload the image and draw again.',
    );
  }
  if (rleArea(rle) === 0) throw new AppError('mask-invalid', 'The mask has no pixels.', 'Paint something, or reject or remove the object.');
}

/** Pixels that differ between two masks of one size. |A xor B| = |A| + |B| - 2 |A and B|, and IoU gives |A and B|. */
function changedPixels(a: Rle, b: Rle): number {
  if (a.size[0] !== b.size[0] || a.size[1] !== b.size[1]) return rleArea(b);
  const [areaA, areaB] = [rleArea(a), rleArea(b)];
  const iou = rleIou(a, b);
  return Math.round(areaA + areaB - (2 * iou * (areaA + areaB)) / (1 + iou));
}

function accept(writer: Writer, proposal: ObjectRow, classId: number | null, state: 'accepted' | 'edited', rle: Rle): Change[] {
  return [setProposal(writer, proposal, { state }), addAnnotation(writer, proposal.image_id, proposal.id, classId, state, rle)];
}

function setProposal(writer: Writer, before: ObjectRow, to: { state?: string; classId?: number | null; classSet?: number }): Change {
  const change: Change = {
    object: 'proposal',
    object_id: before.id,
    before_state: before.state,
    after_state: to.state ?? before.state,
    before_class_id: before.class_id,
    after_class_id: to.classId === undefined ? before.class_id : to.classId,
    before_class_set: before.class_set,
    after_class_set: to.classSet ?? before.class_set,
    before_counts: null,
    after_counts: null,
  };
  writeSide(writer, change, 'after');
  return change;
}

function addAnnotation(
  writer: Writer,
  imageId: number,
  proposalId: number | null,
  classId: number | null,
  state: string,
  rle: Rle,
): Change {
  const { id } = writer.run(
    `INSERT INTO annotations (image_id, proposal_id, class_id, state, ${maskColumns}, area) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
    imageId,
    proposalId,
    classId,
    state,
    ...rleBox(rle),
    rle.size[1],
    rle.size[0],
    rle.counts,
    rleArea(rle),
  );
  const none = { before_class_set: 0, after_class_set: 0, before_counts: null, after_counts: null };
  return {
    object: 'annotation',
    object_id: id,
    before_state: 'absent',
    after_state: state,
    before_class_id: classId,
    after_class_id: classId,
    ...none,
  };
}

function setAnnotation(writer: Writer, before: ObjectRow, to: { state: string; classId: number | null; rle: Rle | null }): Change {
  const change: Change = {
    object: 'annotation',
    object_id: before.id,
    before_state: before.state,
    after_state: to.state,
    before_class_id: before.class_id,
    after_class_id: to.classId,
    before_class_set: 0,
    after_class_set: 0,
    before_counts: to.rle ? before.rle_counts : null,
    after_counts: to.rle ? to.rle.counts : null,
  };
  writeSide(writer, change, 'after');
  return change;
}

/** The proposal that an annotation was made from follows it; a drawn one has none. */
function setOrigin(writer: Writer, annotationId: number, state: string): Change[] {
  const origin = writer.get<ObjectRow>(
    `SELECT ${proposalColumns} FROM proposals WHERE id = (SELECT proposal_id FROM annotations WHERE id = ?)`,
    annotationId,
  );
  return origin ? [setProposal(writer, origin, { state })] : [];
}

/** Puts an object into the state before or after a change. A proposal that a machine has since replaced is passed over. */
function writeSide(writer: Writer, change: Change, side: 'before' | 'after'): void {
  const state = change[`${side}_state`];
  const classId = change[`${side}_class_id`];
  const counts = change[`${side}_counts`];
  if (classId !== null) reviveClass(writer, classId);
  if (change.object === 'proposal') {
    writer.run(
      'UPDATE proposals SET state = ?, class_id = ?, class_set = ? WHERE id = ?',
      state,
      classId,
      change[`${side}_class_set`],
      change.object_id,
    );
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

// --- history ----------------------------------------------------------------------------------------------------------

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

function cursorOf(reader: Reader): number {
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

function change(reader: Reader, imageId: number, label: string): ReviewChange {
  const [canUndo, canRedo] = [stepAt(reader, 'back') !== undefined, stepAt(reader, 'forward') !== undefined];
  return { imageId, objects: objectsOf(reader, imageId), canUndo, canRedo, label };
}

// --- figures ----------------------------------------------------------------------------------------------------------

/** @param perReviewer whether the person has turned figures by person on */
export function reviewStats(reader: Reader, perReviewer: boolean): ReviewStats {
  const { remaining, rejected } = reader.get<{ remaining: number; rejected: number }>(
    `SELECT (SELECT count(*) FROM proposals WHERE state IN ('proposed', 'unsure') AND discarded = 0) AS remaining,
       (SELECT count(*) FROM proposals WHERE state = 'rejected') AS rejected`,
  )!;
  const { annotations, acceptedAsIs } = reader.get<{ annotations: number; acceptedAsIs: number }>(
    `SELECT count(*) AS annotations, count(*) FILTER (WHERE state = 'accepted') AS acceptedAsIs FROM annotations WHERE removed = 0`,
  )!;
  // Decisions in force; a decision about n objects at once took 1/n of its time for each.
  const inForce = `FROM decisions WHERE step = 1 AND abandoned = 0 AND id <= ${cursorOf(reader)}`;
  const seconds = reader
    .all<{ s: number }>(`SELECT min(seconds, ${longestActiveSeconds}) / max(objects, 1) AS s ${inForce} ORDER BY s`)
    .map((row) => row.s);
  const by = perReviewer
    ? reader.all<{ reviewer: string; decided: number; seconds: number }>(
        `SELECT reviewer, sum(objects) AS decided, sum(min(seconds, ${longestActiveSeconds})) AS seconds ${inForce} AND reviewer <> '' GROUP BY reviewer ORDER BY reviewer`,
      )
    : null;
  return {
    decided: annotations + rejected,
    remaining,
    acceptedAsIs,
    secondsPerDecision: seconds.length < fewestForMedian ? null : median(seconds),
    perReviewer: by && by.map((row) => ({ ...row })),
  };
}

/** @param sorted ascending, not empty */
function median(sorted: readonly number[]): number {
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
