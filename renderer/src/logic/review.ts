/** Review as plain data: what a decision does to an image's objects before the host answers, and which object is next. */
import type { ClassRow, Decision, ReviewObject, Rle } from '../../../core/contract/index.ts';
import type { EditTarget } from './drafts.ts';
import { decodeRle } from './rle.ts';

/** Names an object across both kinds: proposals and annotations have ids of their own. */
export type ObjectKey = string;

export function keyOf(object: Pick<ReviewObject, 'kind' | 'id'>): ObjectKey {
  return `${object.kind}:${object.id}`;
}

/** Waiting for a first look. */
export function isProposed(object: ReviewObject): boolean {
  return object.kind === 'proposal' && object.state === 'proposed';
}

/** Waiting for a person. */
export function isUndecided(object: ReviewObject): boolean {
  return isProposed(object) || (object.kind === 'proposal' && object.state === 'unsure');
}

/** Shown on the canvas and in the list: undecided proposals and annotations. A proposal once decided lives on as its annotation. */
export function isVisible(object: ReviewObject): boolean {
  return object.kind === 'annotation' || isUndecided(object);
}

/** Until the host has answered, an annotation made here carries the negative of its proposal's id. */
export function isPending(object: ReviewObject): boolean {
  return object.id < 0;
}

let drawn = 0;

/** The image's objects as they will be once the host has done `decision`; ids of new annotations are negative until then. */
export function applyDecision(objects: readonly ReviewObject[], decision: Decision, imageId: number): ReviewObject[] {
  const change = (id: number, kind: ReviewObject['kind'], to: (object: ReviewObject) => ReviewObject | null): ReviewObject[] =>
    objects.flatMap((object) => {
      if (object.id !== id || object.kind !== kind) return [object];
      const changed = to(object);
      return changed ? [changed] : [];
    });
  switch (decision.action) {
    case 'accept':
      return change(decision.proposalId, 'proposal', (o) => accepted(o, decision.classId));
    case 'acceptAll':
      return objects.map((o) => (isProposed(o) ? accepted(o, null) : o));
    case 'rejectAll':
      return objects.filter((o) => !isProposed(o));
    case 'reject':
      return change(decision.proposalId, 'proposal', () => null);
    case 'unsure':
      return change(decision.proposalId, 'proposal', (o) => ({ ...o, state: 'unsure' }));
    case 'setClass':
      return change(decision.proposalId, 'proposal', (o) => ({ ...o, classId: decision.classId }));
    case 'edit':
      return change(decision.proposalId, 'proposal', (o) => ({
        ...withMask(accepted(o, decision.classId), decision.rle),
        state: 'edited',
      }));
    case 'draw': {
      const blank = {
        kind: 'annotation',
        id: -1_000_000_000 - ++drawn,
        imageId,
        classId: decision.classId,
        clusterId: null,
        score: null,
        state: 'drawn',
      } as const;
      return [...objects, withMask({ ...blank, box: [0, 0, 0, 0], area: 0, rle: decision.rle }, decision.rle)];
    }
    case 'editAnnotation':
      return change(decision.annotationId, 'annotation', (o) => {
        const classed = { ...o, classId: decision.classId };
        return decision.rle ? withMask(classed, decision.rle) : classed;
      });
    case 'removeAnnotation':
      return change(decision.annotationId, 'annotation', () => null);
  }
}

function accepted(object: ReviewObject, classId: number | null): ReviewObject {
  return { ...object, kind: 'annotation', id: -object.id, state: 'accepted', classId: classId ?? object.classId };
}

function withMask(object: ReviewObject, rle: ReviewObject['rle']): ReviewObject {
  const patch = decodeRle(rle);
  let area = 0;
  for (const pixel of patch.data) area += pixel;
  return { ...object, rle, area, box: [patch.x, patch.y, patch.width, patch.height] };
}

/** Order in the object list and for Tab: undecided first, surest first, unsure ones at the end; then annotations. */
export function listOrder(objects: readonly ReviewObject[]): ReviewObject[] {
  const rank = (o: ReviewObject): number => (o.kind === 'annotation' ? 2 : o.state === 'unsure' ? 1 : 0);
  return objects.filter(isVisible).sort((a, b) => rank(a) - rank(b) || (b.score ?? 0) - (a.score ?? 0) || b.area - a.area || a.id - b.id);
}

/** The object `by` places on (1 or -1), round the list; the first (last) one when nothing is selected. */
export function neighbour(list: readonly ReviewObject[], selected: ObjectKey | null, by: 1 | -1): ReviewObject | null {
  if (list.length === 0) return null;
  const at = list.findIndex((o) => keyOf(o) === selected);
  if (at < 0) return list[by === 1 ? 0 : list.length - 1]!;
  return list[(at + by + list.length) % list.length]!;
}

/** What to look at after deciding on the object at `decided` in the list as it was: the next undecided one, round the list. */
export function nextUndecided(
  list: readonly ReviewObject[],
  decided: ObjectKey | null,
  wanted: (object: ReviewObject) => boolean,
): ReviewObject | null {
  const at = list.findIndex((o) => keyOf(o) === decided);
  const turned = [...list.slice(at + 1), ...list.slice(0, Math.max(0, at))];
  return (
    turned.find((o) => o.state === 'proposed' && isUndecided(o) && wanted(o)) ?? turned.find((o) => isUndecided(o) && wanted(o)) ?? null
  );
}

/** The same object after the host's answer: by key, else (an annotation just made) by its pixels. */
export function findAgain(objects: readonly ReviewObject[], before: ReviewObject): ReviewObject | null {
  const exact = objects.find((o) => o.kind === before.kind && o.id === before.id);
  return (
    exact ??
    objects.find((o) => isVisible(o) && o.rle.counts === before.rle.counts && (o.kind === before.kind || isPending(before))) ??
    null
  );
}

/** The list in the order it was shown, with the states of now; the object just decided keeps its place but is no choice. */
export function withoutChoice(list: readonly ReviewObject[], now: readonly ReviewObject[], decided: ReviewObject): ReviewObject[] {
  return list.flatMap((o) => {
    if (keyOf(o) === keyOf(decided)) return [{ ...o, state: 'rejected' as const }];
    const current = now.find((other) => keyOf(other) === keyOf(o));
    return current ? [current] : [];
  });
}

/** The decision that saves a mask: of a proposal, of an annotation, or drawn anew. */
export function saveDecision(
  target: EditTarget,
  imageId: number,
  { classId, rle, seconds }: { readonly classId: number | null; readonly rle: Rle; readonly seconds: number },
): Decision {
  const saved = { classId, rle: { size: [rle.size[0], rle.size[1]] as [number, number], counts: rle.counts }, seconds };
  if (target.kind === 'proposal') return { action: 'edit', proposalId: target.id, ...saved };
  if (target.kind === 'annotation') return { action: 'editAnnotation', annotationId: target.id, ...saved };
  return { action: 'draw', imageId, ...saved };
}

/** What a newly drawn object is: the class last used, else the one with most annotations; null without classes. */
export function classForNew(used: number | null, classes: readonly ClassRow[]): number | null {
  if (classes.some(({ id }) => id === used)) return used;
  const [most] = [...classes].sort((a, b) => b.annotations - a.annotations);
  return most?.id ?? null;
}
