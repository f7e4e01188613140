/** Alarms on made-up curves: two signs together raise one, one alone never does, and recovery ends it. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { MonitorLine } from '../../core/contract/index.ts';
import { alarmsOf } from '../../core/monitor/index.ts';
import { COUNT, healthy } from './lines.ts';

/** Kind and first step of each alarm. */
const raised = (lines: readonly MonitorLine[]): string[] => alarmsOf(lines).map(({ kind, step }) => `${kind} ${step}`);

test('a healthy run raises nothing at any checkpoint, nor does one that has only begun', () => {
  const lines = healthy();
  for (let n = 0; n <= COUNT; n++) assert.deepEqual(raised(lines.slice(0, n)), []);
});

test('an untrained network looks collapsed and is not judged', () => {
  const start = healthy((at) => (at < 2 ? { classCosine: 0.99, classRank: 2, patchRank: 3 } : {}));
  for (let n = 1; n <= 3; n++) assert.deepEqual(raised(start.slice(0, n)), []);
});

const SIGNS: Record<string, (at: number) => Partial<MonitorLine>> = {
  'uniform targets': () => ({ sampleEntropy: 0.993 }),
  'a student that guesses': () => ({ dinoLoss: 0.998 }),
  'same images': () => ({ classCosine: 0.95 }),
  'few prototypes': () => ({ marginalEntropy: 0.15 }),
  'few class directions': () => ({ classRank: 9 }),
  'few patch directions': () => ({ patchRank: 12 }),
};

test('every sign of collapse alone is no alarm, any two are, from the checkpoint at which both are seen', () => {
  for (const [name, sign] of Object.entries(SIGNS)) {
    assert.deepEqual(raised(healthy((at) => (at >= 8 ? sign(at) : {}))), [], name);
    for (const [other, second] of Object.entries(SIGNS)) {
      if (other === name) continue;
      const lines = healthy((at) => ({ ...(at >= 8 ? sign(at) : {}), ...(at >= 12 ? second(at) : {}) }));
      const uniform = [name, other].some((sign) => sign === 'uniform targets' || sign === 'a student that guesses');
      // Uniform targets count once they stand still: at the second checkpoint that has them.
      const from = other === 'uniform targets' ? 13 : 12;
      assert.deepEqual(raised(lines), [`${uniform ? 'uniform-collapse' : 'collapse'} ${50 * from}`], `${name}, ${other}`);
      assert.deepEqual(raised(lines.slice(0, from)), [], `${name}, ${other} before`);
    }
  }
});

test('targets that are nearly uniform but falling are a start, not a collapse', () => {
  const falling = healthy((at) => ({ sampleEntropy: 0.999 - 0.006 * at, dinoLoss: 0.999 }));
  assert.deepEqual(raised(falling.slice(0, 4)), []);
});

test('a loss of three tenths of the directions within a tenth of the run counts, a slow loss does not', () => {
  const same = { classCosine: 0.95 };
  const sudden = healthy((at) => ({ ...same, patchRank: at < 10 ? 80 : 54 }));
  assert.deepEqual(raised(sudden.slice(0, 11)), ['collapse 500']);
  assert.match(alarmsOf(sudden.slice(0, 11))[0]!.message, /patches use 54 of 128 directions, 80 a little before/);
  assert.deepEqual(raised(healthy((at) => ({ ...same, patchRank: 80 - 2 * at }))), []);
  // 13 of 128 is above a tenth, 12 below.
  const from = (start: number, patchRank: number) => raised(healthy((at) => ({ ...same, patchRank: at === 0 ? start : patchRank })));
  assert.deepEqual(from(60, 13), []);
  assert.deepEqual(from(60, 12), ['collapse 100']);
  // A small network that began with fewer is on its way up.
  assert.deepEqual([from(7, 12), from(12, 12)], [[], []]);
});

test('an alarm ends when the run recovers', () => {
  const lines = healthy((at) => (at >= 8 && at < 12 ? { classCosine: 0.95, patchRank: 5 } : {}));
  assert.deepEqual(raised(lines.slice(0, 12)), ['collapse 400']);
  assert.deepEqual(raised(lines), []);
});

/** Rises to 0.8 at checkpoint 8 (step 400), then falls. */
const peak =
  (fall: number, more: Partial<MonitorLine> = {}) =>
  (at: number) => ({
    denseCorrespondence: at <= 8 ? 0.6 + 0.025 * at : 0.8 - fall * (at - 8),
    ...(at > 8 ? more : {}),
  });

test('dense degradation: fallen by more than 0.05 at three checkpoints in a row while the loss falls', () => {
  const lines = healthy(peak(0.03));
  // 0.74 at step 500 is the first below 0.75; 500, 550, 600.
  assert.deepEqual(raised(lines.slice(0, 12)), []);
  assert.deepEqual(raised(lines.slice(0, 13)), ['dense-degradation 600']);
  assert.deepEqual(raised(lines), ['dense-degradation 600']);
  const [alarm] = alarmsOf(lines.slice(0, 13));
  assert.match(alarm!.message, /is 68 %, it was 80 % at step 400/);
  assert.match(alarm!.action, /about 400 steps/);
  assert.deepEqual(raised(healthy(peak(0.03, { loss: 12 }))), [], 'the loss rose: something else is wrong');
  assert.deepEqual(raised(healthy(peak(0.004))), [], 'a fall within the margin');
  const shaky = healthy((at) => ({ denseCorrespondence: at < 8 || at % 3 === 0 ? 0.8 : 0.7 }));
  assert.deepEqual(raised(shaky), [], 'never three in a row');
});

test('the untrained network is no best to fall from', () => {
  assert.deepEqual(raised(healthy((at) => (at === 0 ? { denseCorrespondence: 0.95, loss: 99 } : {}))), []);
});

test('of a run that is over nothing is to be stopped', () => {
  const all = healthy((at) => ({ ...peak(0.03)(at), classCosine: 0.95, patchRank: at === 0 ? 60 : 5 }));
  const [now, over] = [alarmsOf(all), alarmsOf(all, true)];
  assert.deepEqual(
    over.map(({ kind, step }) => [kind, step]),
    now.map(({ kind, step }) => [kind, step]),
  );
  assert.ok(now.every(({ action }) => /Stop the run/.test(action)));
  assert.ok(over.every(({ action }) => !/Stop/.test(action) && /checkpoint/.test(action)));
  assert.match(over[0]!.message, /^The features collapsed: /);
});

test('every alarm says what to do, in whole sentences', () => {
  const all = healthy((at) => ({ ...peak(0.03)(at), classCosine: 0.95, patchRank: at === 0 ? 60 : 5 }));
  const alarms = alarmsOf(all);
  assert.deepEqual(
    alarms.map(({ kind }) => kind),
    ['collapse', 'dense-degradation'],
  );
  for (const { message, action } of alarms) {
    assert.match(message, /^[A-Z0-9].*\.$/);
    assert.match(action, /^[A-Z].*\.$/);
    assert.doesNotMatch(message, /NaN|undefined|null/);
  }
});
