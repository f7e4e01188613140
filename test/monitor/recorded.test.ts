/**
 * A real run's lines: the nano network on 1,697 leaf photographs, 600 steps asked for, stopped at 449, in which the teacher
 * became uniform: the DINO loss never left log K, and the patches got worse from step 180 on. Linear probes with masks gave
 * an IoU of leaf spots of 44.1 untrained, 55.6 at step 120 and 48.9 at step 449.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { alarmsOf, chosenCheckpoint, parseMonitors } from '../../core/monitor/index.ts';

const lines = parseMonitors(readFileSync(new URL('recorded-uniform.jsonl', import.meta.url), 'utf8'));
const steps = lines.map(({ step }) => step);

test('the alarm comes when the targets have stopped moving, names both signs, and stays', () => {
  const raised = lines.map((_, at) => alarmsOf(lines.slice(0, at + 1)).map(({ kind, step }) => `${kind} ${step}`));
  assert.deepEqual(raised, [[], [], [], [], [], ...Array.from({ length: 4 }, () => ['uniform-collapse 300'])]);
  assert.match(
    alarmsOf(lines)[0]!.message,
    /^The features are collapsing: the teacher's targets are uniform \(99 % of the largest entropy\) and stay so; the student guesses \(DINO loss 100 % of log K\)\.$/,
  );
});

test('a checkpoint from before the decay is chosen, at any time after it', () => {
  assert.deepEqual(steps, [0, 60, 120, 180, 240, 300, 360, 420, 449]);
  const choices = lines.map((_, at) => chosenCheckpoint(steps.slice(0, at + 1), lines.slice(0, at + 1))!.step);
  assert.deepEqual(choices, [0, 60, 120, 180, 180, 180, 180, 180, 180]);
  assert.match(
    chosenCheckpoint(steps, lines)!.reason,
    /the latest of 3 that are equally good: .* 56 %, the highest within noise\).* 54 %, the highest within noise\)\. No later one is as good: the newest, step 449, has 41 % and 46 %\.$/,
  );
});
