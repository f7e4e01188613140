/** One weight that is not a number, put into a run between two steps: caught in the next step, whatever weight it is. */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import type { AppError } from '../../core/contract/index.ts';
import { pretrain } from '../../core/dinov2/train.ts';
import type { Executor, ParameterSet } from '../../core/nn/ops.ts';
import { executors } from './executors.ts';
import { pictures, scanned } from './pictures.ts';
import { tinyRun } from './tiny-run.ts';

/** Numbers are logged, and losses looked at, every second step; the fault comes after the second. */
const config = tinyRun({ steps: 9, logEvery: 2, checkpointEvery: 9 });
const FAULT_AFTER = 2;

/** The parameter sets that a run makes: student, then teacher. */
function watched(x: Executor): ParameterSet[] {
  const sets: ParameterSet[] = [];
  const create = x.createParameters.bind(x);
  x.createParameters = (specs) => {
    const set = create(specs);
    sets.push(set);
    return set;
  };
  return sets;
}

async function faultyRun(x: Executor, sets: ParameterSet[], network: 0 | 1, parameter: number, value: number): Promise<void> {
  const dir = await mkdtemp(join(tmpdir(), 'patchwise-finite-'));
  try {
    const events = pretrain({
      runDir: join(dir, 'run'),
      imageRoot: '/nowhere',
      images: scanned,
      config,
      executor: x,
      signal: new AbortController().signal,
      ...pictures(),
    });
    for await (const event of events) {
      if (event.type !== 'metrics' || event.metrics.step !== FAULT_AFTER) continue;
      const set = sets.slice(-2)[network]!;
      const values = await x.readParameters(set);
      const { offset, size } = set.specs[parameter]!;
      values[offset + (size >> 1)] = value;
      x.writeParameters(set, values);
    }
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

const names = ['student', 'teacher'] as const;

test('every parameter of student and teacher in turn, on the cpu executor', async (t) => {
  const x = await executors.find(([engine]) => engine === 'cpu')![1]();
  const sets = watched(x);
  await faultyRun(x, sets, 0, 0, 0.01); // goes through: what is caught below is the fault
  const specs = sets[0]!.specs;
  // The teacher sees no masks: its mask token is never used.
  const unused = (network: 0 | 1, parameter: number): boolean => network === 1 && specs[parameter]!.name.endsWith('mask_token');
  let caught = 0;
  for (const network of [0, 1] as const) {
    for (const [parameter, { name }] of specs.entries()) {
      if (unused(network, parameter)) continue;
      await assert.rejects(
        faultyRun(x, sets, network, parameter, NaN),
        (error: AppError) => {
          assert.equal(error.code, 'not-finite');
          assert.equal(error.message, `At step ${FAULT_AFTER + 1} the ${names[network]}'s parameter ${name} holds NaN.`);
          assert.match(error.action, /the checkpoint of step 0 is whole/);
          return true;
        },
        `${names[network]} ${name}`,
      );
      caught++;
    }
  }
  t.diagnostic(`${caught} parameters`);
  await x.dispose();
});

test('an infinite weight likewise, on the plain executor', async () => {
  const x = await executors[0]![1]();
  const sets = watched(x);
  await assert.rejects(faultyRun(x, sets, 0, 7, Infinity), (error: AppError) =>
    /At step 3 the student's parameter .* holds Infinity\./.test(error.message),
  );
});
