/** Drafts of unsaved masks in a browser's storage. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Drafts, type KeptText } from '../../renderer/src/logic/drafts.ts';

class Memory implements KeptText {
  readonly kept = new Map<string, string>();
  get length(): number {
    return this.kept.size;
  }
  key(index: number): string | null {
    return [...this.kept.keys()][index] ?? null;
  }
  getItem(key: string): string | null {
    return this.kept.get(key) ?? null;
  }
  setItem(key: string, value: string): void {
    this.kept.set(key, value);
  }
  removeItem(key: string): void {
    this.kept.delete(key);
  }
}

const rle = { size: [4, 5], counts: '531N00014' } as const;

test('a draft comes back as it was, by image, until it is removed; projects do not mix', () => {
  const storage = new Memory();
  const drafts = new Drafts(storage, 'p1');
  const proposal = { imageId: 7, target: { kind: 'proposal', id: 12 }, classId: 3, rle } as const;
  const erased = { imageId: 8, target: { kind: 'annotation', id: 12 }, classId: null, rle: null } as const;
  drafts.save(proposal);
  drafts.save(erased);
  drafts.save({ ...proposal, classId: 4 });
  new Drafts(storage, 'p2').save({ ...proposal, imageId: 7 });
  assert.deepEqual(drafts.list(7), [{ ...proposal, classId: 4 }]);
  assert.deepEqual(new Drafts(storage, 'p1').list().length, 2);
  drafts.remove(proposal);
  assert.deepEqual(drafts.list(), [erased]);
  assert.equal(new Drafts(storage, 'p2').list().length, 1);
});

test('what cannot be read is removed, other keys are left alone', () => {
  const storage = new Memory();
  storage.setItem('patchwise.draft/p1/7/proposal/1', '{broken');
  storage.setItem('patchwise.draft/p1/7/proposal/2', '{"imageId":7,"target":{"kind":"other","id":1},"rle":null}');
  storage.setItem('patchwise.theme', 'dark');
  assert.deepEqual(new Drafts(storage, 'p1').list(), []);
  assert.deepEqual([...storage.kept.keys()], ['patchwise.theme']);
});
