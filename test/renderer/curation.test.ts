import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { CurationSummary, LeftOutRow } from '../../core/contract/index.ts';
import { leftOutWords, percent, staleWords } from '../../renderer/src/logic/curation.ts';

test('shares as percent: all of it only when it is', () => {
  assert.deepEqual([0, 0.5, 0.9626, 0.99961, 1].map(percent), ['0 %', '50 %', '96.3 %', '99.9 %', '100 %']);
});

test('why an image is left out, in words', () => {
  const row = (reason: LeftOutRow['reason'], ofPath: string | null = null): LeftOutRow => ({ imageId: 1, path: 'a/b.jpg', ofPath, reason });
  const copy = { kind: 'duplicate', of: 2, similarity: 0.985, exact: false, ofExcluded: false } as const;
  assert.equal(leftOutWords(row(copy, 'c/d.jpg')), '98.5 % like d.jpg');
  assert.equal(leftOutWords(row({ ...copy, exact: true, ofExcluded: true }, 'd.jpg')), 'The same pixels as d.jpg, which is left out');
  assert.equal(leftOutWords(row({ kind: 'excluded', line: 'test/*' })), 'Named by “test/*” to be left out');
  assert.equal(leftOutWords(row({ kind: 'over-share', cluster: 0, size: 1200, share: 80 })), 'Cluster 1 has 1,200 images, its share is 80');
});

test('what makes a look out of date, in words', () => {
  const summary = (changed: number, gone: number): CurationSummary => ({
    createdAt: '',
    features: 'pictures',
    images: 9,
    groups: 0,
    copies: 0,
    exact: 0,
    clusters: 4,
    changed,
    gone,
  });
  assert.equal(staleWords(summary(0, 0)), '');
  assert.equal(staleWords(summary(1, 0)), '1 image is new or changed');
  assert.equal(staleWords(summary(2000, 1)), '2,000 images are new or changed, 1 image is gone');
});
