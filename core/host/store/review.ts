/** Decisions: what a person does to proposals and annotations. Each is one transaction; the history remembers how to take it back. */
import { AppError, type Decision, type ReviewChange, type Rle } from '../../contract/index.ts';
import { rleArea, rleBox, rleIou } from '../../labels/index.ts';
import type { Reader, Writer } from '../project.ts';
import { asClass, classRow } from './classes.ts';
import { change, record, writeSide, type Applied, type Change } from './history.ts';
import { imageRow } from './images.ts';
import { annotationRow, gone, proposalColumns, proposalRow, type ObjectRow } from './objects.ts';
import { maskColumns, rleOf } from './proposals.ts';

/** Makes one decision. @throws AppError bad-input, mask-invalid, masks-mismatch; then nothing has changed */
export function decide(writer: Writer, decision: Decision, reviewer: string): ReviewChange {
  const { imageId, label, changes, pixels } = apply(writer, decision);
  record(writer, decision, reviewer, { imageId, label, changes, pixels });
  return change(writer, imageId, label);
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
    case 'acceptAll':
    case 'rejectAll': {
      if (!imageRow(writer, decision.imageId)) throw gone('image', decision.imageId);
      const rest = writer.all<ObjectRow>(
        `SELECT ${proposalColumns} FROM proposals WHERE image_id = ? AND state = 'proposed' AND discarded = 0 ORDER BY score DESC, id`,
        decision.imageId,
      );
      if (rest.length === 0)
        throw new AppError('bad-input', 'Nothing in this image is left to decide at once.', 'Go on to the next image.');
      const accepts = decision.action === 'acceptAll';
      const changes = rest.flatMap((proposal) =>
        accepts
          ? accept(writer, proposal, proposal.class_id, 'accepted', rleOf(proposal))
          : [setProposal(writer, proposal, { state: 'rejected' })],
      );
      const label = `${accepts ? 'Accepted' : 'Rejected'} ${rest.length} proposal${rest.length === 1 ? '' : 's'}`;
      return { imageId: decision.imageId, label, changes, pixels: 0 };
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
