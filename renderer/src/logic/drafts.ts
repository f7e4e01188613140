/**
 * Masks under the brush that the host does not have yet, kept in the browser until it has answered: a reload, a crash
 * of the page or a host that went away loses no stroke. One draft per edited object.
 */
import type { Rle } from '../../../core/contract/index.ts';

/** What is edited: a proposal, an annotation, or an object not there before (`id` only tells several apart). */
export interface EditTarget {
  readonly kind: 'proposal' | 'annotation' | 'new';
  readonly id: number;
}

export interface Draft {
  readonly imageId: number;
  readonly target: EditTarget;
  readonly classId: number | null;
  /** null: all of it erased. */
  readonly rle: Rle | null;
}

/** The part of the browser's Storage that is used. */
export interface KeptText {
  readonly length: number;
  key(index: number): string | null;
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
  removeItem(key: string): void;
}

export class Drafts {
  readonly #storage: KeptText;
  readonly #prefix: string;

  constructor(storage: KeptText, projectId: string) {
    this.#storage = storage;
    this.#prefix = `patchwise.draft/${projectId}/`;
  }

  /** @throws the storage's own error when it is full */
  save(draft: Draft): void {
    this.#storage.setItem(this.#key(draft), JSON.stringify(draft));
  }

  remove(draft: Pick<Draft, 'imageId' | 'target'>): void {
    this.#storage.removeItem(this.#key(draft));
  }

  /** Drafts of one image, or of the whole project. What cannot be read is removed. */
  list(imageId?: number): Draft[] {
    const keys = Array.from({ length: this.#storage.length }, (_, i) => this.#storage.key(i)).filter((key) =>
      key?.startsWith(this.#prefix),
    ) as string[];
    const found: Draft[] = [];
    for (const key of keys.sort()) {
      const draft = parse(this.#storage.getItem(key));
      if (!draft) this.#storage.removeItem(key);
      else if (imageId === undefined || draft.imageId === imageId) found.push(draft);
    }
    return found;
  }

  #key(draft: Pick<Draft, 'imageId' | 'target'>): string {
    return `${this.#prefix}${draft.imageId}/${draft.target.kind}/${draft.target.id}`;
  }
}

function parse(text: string | null): Draft | null {
  try {
    const value = JSON.parse(text ?? '') as Draft;
    const whole = typeof value.imageId === 'number' && ['proposal', 'annotation', 'new'].includes(value.target.kind);
    return whole && (value.rle === null || typeof value.rle.counts === 'string') ? value : null;
  } catch {
    return null;
  }
}
