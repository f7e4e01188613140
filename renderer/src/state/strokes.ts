/** Strokes that the host has not got yet, kept in the browser: saved while drawing, restored after a crash. */
import type { ImageRow, ReviewObject } from '../../../core/contract/index.ts';
import { Drafts, type Draft, type EditTarget } from '../logic/drafts.ts';
import { app } from './app.svelte.ts';
import { toasts } from './toasts.svelte.ts';

/** An id for a mask that is drawn anew: later ones are larger. */
export const newest = (): number => Math.floor(performance.timeOrigin + performance.now());

export class Strokes {
  /** Drafts whose decision is on its way: not to be restored. */
  readonly #sending = new Set<string>();

  /** An image that has some; null: none has. */
  anyImage(): number | null {
    return this.#drafts().list()[0]?.imageId ?? null;
  }

  keep(draft: Draft): void {
    try {
      this.#drafts().save(draft);
    } catch {
      toasts.note('The browser has no room to keep this edit in case of a crash. Accept it soon.', { key: 'draft' });
    }
  }

  remove(draft: Pick<Draft, 'imageId' | 'target'>): void {
    this.#drafts().remove(draft);
  }

  sending(draft: Draft): void {
    this.keep(draft);
    this.#sending.add(keyOfDraft(draft));
  }

  /** Its decision has been answered, either way. */
  answered(draft: Draft): void {
    this.#sending.delete(keyOfDraft(draft));
  }

  /** Strokes on the image that the host never got, and the object they belong to; those it did get are forgotten. */
  restore(
    image: ImageRow,
    objects: readonly ReviewObject[],
    visible: readonly ReviewObject[],
  ): { draft: Draft; object: ReviewObject | null } | null {
    for (const draft of this.#drafts().list(image.id)) {
      if (this.#sending.has(keyOfDraft(draft))) continue;
      const done = draft.rle && objects.some((o) => o.kind === 'annotation' && o.rle.counts === draft.rle?.counts);
      const sized = !draft.rle || (draft.rle.size[0] === image.height && draft.rle.size[1] === image.width);
      if (done || !sized) {
        this.remove(draft);
        continue;
      }
      const object = visible.find((o) => o.kind === draft.target.kind && o.id === draft.target.id) ?? null;
      // Its proposal may have gone in the meantime: the strokes live on as a new object.
      const target: EditTarget = object || draft.target.kind === 'new' ? draft.target : { kind: 'new', id: newest() };
      if (target !== draft.target) this.remove(draft);
      return { draft: { ...draft, target }, object };
    }
    return null;
  }

  #drafts(): Drafts {
    return new Drafts(localStorage, app.project?.id ?? '');
  }
}

function keyOfDraft(draft: Draft): string {
  return `${draft.imageId}/${draft.target.kind}/${draft.target.id}`;
}
