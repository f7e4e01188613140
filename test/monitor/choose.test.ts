/** The choice of a checkpoint on lines of runs: ranks, ties, what is left out, and the reason in words. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { MonitorLine } from '../../core/contract/index.ts';
import { chosenCheckpoint } from '../../core/monitor/index.ts';
import { healthy } from './lines.ts';

const at = (step: number, denseCorrespondence: number, clusterStability: number): MonitorLine => ({
  ...healthy()[1]!,
  step,
  denseCorrespondence,
  clusterStability,
});
const all = (lines: readonly MonitorLine[]): number[] => lines.map(({ step }) => step);

test('the best mean rank wins, not the largest number and not the last', () => {
  // Ranks, dense and stable: 100 (3, 2), 200 (2, 1), 300 (1, 4), 400 (4, 3).
  const lines = [at(0, 0.99, 0.99), at(100, 0.5, 0.6), at(200, 0.55, 0.7), at(300, 0.9, 0.2), at(400, 0.4, 0.4)];
  const choice = chosenCheckpoint(all(lines), lines)!;
  assert.equal(choice.step, 200);
  assert.equal(
    choice.reason,
    'Best of 4 checkpoints: its patches match across views (dense correspondence 55 %, 1 is higher) and cluster alike (cluster stability 70 %, the highest). No later one is as good: the newest, step 400, has 40 % and 40 %.',
  );
});

test('equal means go to the later, and equal values share their place', () => {
  const mirrored = [at(100, 0.5, 0.7), at(200, 0.7, 0.5), at(300, 0.1, 0.1)];
  assert.equal(chosenCheckpoint(all(mirrored), mirrored)!.step, 200);
  const equal = [at(100, 0.5, 0.5), at(200, 0.5, 0.5), at(300, 0.5, 0.5)];
  assert.equal(chosenCheckpoint(all(equal), equal)!.step, 300);
  assert.match(
    chosenCheckpoint(all(equal), equal)!.reason,
    /^Best of 3 checkpoints, the latest of 3 that are equally good: .* It is also the newest\.$/,
  );
  // 100 and 200 share the first place in dense; 200 is behind in stability.
  const shared = [at(100, 0.8, 0.9), at(200, 0.8, 0.3), at(300, 0.2, 0.5)];
  assert.equal(chosenCheckpoint(all(shared), shared)!.step, 100);
});

test('what is closer than the noise of the measures is equal: the later is taken', () => {
  const still = [at(20, 0.558, 0.51), at(40, 0.561, 0.44), at(60, 0.553, 0.49), at(200, 0.543, 0.45)];
  assert.equal(chosenCheckpoint(all(still), still)!.step, 200);
  const fallen = [...still, at(300, 0.538, 0.45)];
  assert.deepEqual(chosenCheckpoint(all(fallen), fallen), {
    step: 200,
    reason:
      'Best of 5 checkpoints, the latest of 4 that are equally good: its patches match across views (dense correspondence 54 %, the highest within noise) and cluster alike (cluster stability 45 %, the highest within noise). No later one is as good: the newest, step 300, has 54 % and 45 %.',
  });
});

test('the untrained network, and checkpoints that are gone or were not measured, are not chosen', () => {
  const lines = [at(0, 1, 1), at(100, 0.9, 0.9), at(200, 0.5, 0.5), at(300, 0.6, 0.6)];
  assert.equal(chosenCheckpoint([0, 200, 300, 400], lines)!.step, 300);
  assert.deepEqual(chosenCheckpoint([0, 200, 400], lines), { step: 200, reason: 'The only trained checkpoint that was measured.' });
  assert.equal(chosenCheckpoint([0, 50, 400], [])!.step, 400);
  assert.match(chosenCheckpoint([0, 50, 400], [])!.reason, /newest.*not measured/);
  assert.equal(chosenCheckpoint([0], lines)!.step, 0);
  assert.equal(chosenCheckpoint([], lines), null);
});

test('weights that a run started from take part, win ties, and are told; an untrained start still does not', () => {
  const falling = [at(0, 0.83, 0.78), at(100, 0.8, 0.7), at(200, 0.7, 0.72)];
  const choice = chosenCheckpoint(all(falling), falling, true)!;
  assert.equal(choice.step, 0);
  assert.equal(
    choice.reason,
    'Training has not made the weights it started from better: their patches match across views (dense correspondence 83 %, the highest) and cluster alike (cluster stability 78 %, the highest). The newest, step 200, has 70 % and 72 %.',
  );
  assert.equal(chosenCheckpoint(all(falling), falling)!.step, 100);
  const equal = [at(0, 0.8, 0.7), at(100, 0.8, 0.7)]; // while the heads learn alone
  assert.equal(chosenCheckpoint(all(equal), equal, true)!.step, 0);
  const split = [at(0, 0.8, 0.7), at(100, 0.9, 0.5)]; // the same mean rank
  assert.equal(chosenCheckpoint(all(split), split, true)!.step, 0);
  const better = [at(0, 0.8, 0.7), at(100, 0.85, 0.72), at(200, 0.82, 0.7)];
  assert.equal(chosenCheckpoint(all(better), better, true)!.step, 100);
  assert.deepEqual(chosenCheckpoint([0], [], true), { step: 0, reason: 'The weights it started from are all there is.' });
  assert.deepEqual(chosenCheckpoint([0, 100], [at(0, 0.5, 0.5)], true), {
    step: 0,
    reason: 'The weights it started from are all that was measured.',
  });
});
