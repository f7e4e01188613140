/** The loss scale: when it moves, what an overflow leaves as it was, and that stopping changes nothing. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test, type TestContext } from 'node:test';
import type { AppError, JobEvent } from '../../core/contract/index.ts';
import { LossScale, type LossScaleState } from '../../core/dinov2/lossScale.ts';
import { readSafetensors } from '../../core/dinov2/safetensors.ts';
import { createExecutor, type Executor } from '../../core/nn/index.ts';
import { Random } from '../nn/draw.ts';
import { collect, folder, goOn, metricsLines, run } from './runs.ts';
import { overflowing, takenForF16 } from './scaled.ts';
import { tinyRun } from './tiny-run.ts';

describe('the scale', () => {
  /** The scales and updates of `steps` steps; outcomes arrive `late` steps after the next one is given. */
  function sequence(scale: LossScale, overflows: (step: number) => boolean, from: number, to: number, late = 0): [number, number][] {
    const begun: [number, number][] = [];
    for (let step = from; step < to; step++) {
      const { scale: own, updates } = scale.begin(step);
      begun.push([own, updates]);
      const done = step - late;
      if (done >= from) scale.end({ step: done, scale: begun[done - from]![0], overflowed: overflows(done) });
    }
    return begun;
  }

  test('is halved two steps after an overflow, once for what was given at the same scale', () => {
    const begun = sequence(new LossScale('f16'), (step) => step >= 1 && step < 5, 0, 9);
    assert.deepEqual(
      begun.map(([scale]) => scale),
      [65536, 65536, 65536, 32768, 32768, 16384, 16384, 16384, 16384],
    );
    // Four steps changed nothing: the fifth update is that of step 9.
    assert.deepEqual(
      begun.map(([, updates]) => updates),
      [0, 1, 2, 2, 2, 2, 2, 3, 4],
    );
  });

  test('falls faster until a step has gone well', () => {
    const begun = sequence(new LossScale('f16'), (step) => step < 4 || step === 5, 0, 9);
    assert.deepEqual(
      begun.map(([scale]) => scale),
      [65536, 65536, 4096, 4096, 256, 256, 256, 128, 128],
    );
  });

  test('is doubled after 2,000 good steps in a row, and never below 1', () => {
    const grown = sequence(new LossScale('f16'), (step) => step === 500, 0, 2600);
    assert.equal(grown[502]![0], 32768);
    // Steps 502 to 2501 go well at the new scale, and that counts from step 2503 on.
    assert.deepEqual([grown[2502]![0], grown[2503]![0]], [32768, 65536]);
    const least = sequence(new LossScale('f16'), () => true, 0, 60);
    assert.equal(least.at(-1)![0], 1);
    assert.equal(
      least.findIndex(([scale]) => scale === 1),
      8,
    );
  });

  test('is the same whether outcomes come at once or a step late, and wherever the run was stopped', () => {
    const random = new Random(3);
    const bad = new Set(Array.from({ length: 12 }, () => Math.floor(random.uniform() * 60)));
    const overflows = (step: number): boolean => bad.has(step);
    const whole = sequence(new LossScale('f16'), overflows, 0, 60);
    assert.deepEqual(sequence(new LossScale('f16'), overflows, 0, 60, 1), whole);
    for (let stop = 1; stop < 60; stop++) {
      const before = new LossScale('f16');
      sequence(before, overflows, 0, stop);
      const saved = JSON.parse(JSON.stringify(before.state)) as LossScaleState;
      assert.deepEqual(sequence(new LossScale('f16', saved), overflows, stop, 60), whole.slice(stop), `stopped before step ${stop}`);
    }
  });

  test('of f32 is 1, and nothing is kept of it', () => {
    const scale = new LossScale('f32');
    assert.deepEqual(
      sequence(scale, () => false, 0, 4),
      [0, 1, 2, 3].map((step) => [1, step]),
    );
    assert.equal(scale.state, null);
  });
});

const config = tinyRun({ steps: 7, checkpointEvery: 1 });

const part = (runDir: string, step: number, name: 'teacher' | 'training'): string =>
  join(runDir, 'checkpoints', String(step), `${name}.safetensors`);

async function open(stepsAhead: 0 | 1): Promise<Executor> {
  return takenForF16(await createExecutor({ engine: 'cpu', threads: 2 }), stepsAhead);
}

const logs = (events: readonly JobEvent[]): string[] => events.flatMap((event) => (event.type === 'log' ? event.text : []));

for (const stepsAhead of [0, 1] as const) {
  describe(`a run that is ${stepsAhead} steps ahead`, () => {
    test('changes nothing in a step that overflows, goes on with half the scale, and says so', async (t) => {
      const x = await open(stepsAhead);
      const { scales } = overflowing(x, [3]);
      const runDir = await folder(t);
      const rows = new Map<number, Buffer>();
      const events: JobEvent[] = [];
      for await (const event of run(x, runDir, config)) {
        events.push(event);
        if (event.type === 'checkpoint') rows.set(event.step, await dataOf(part(runDir, event.step, 'training')));
      }
      assert.deepEqual(scales, [65536, 65536, 65536, 65536, 32768, 32768, 32768]);
      assert.match(logs(events).join('\n'), /Step 3 changed nothing: its gradients, times a loss scale of 65536, were too large for f16/);
      // Students and moments alone: the centres follow the teacher's logits all the same.
      assert.ok(rows.get(2)!.equals(rows.get(3)!), 'step 3 changed something');
      assert.ok(!rows.get(3)!.equals(rows.get(4)!), 'step 4 changed nothing');
      const lines = await metricsLines(runDir);
      assert.deepEqual(
        lines.map(({ gradNorm }) => Object.keys(gradNorm).length),
        [2, 2, 0, 2, 2, 2, 2],
      );
      assert.ok(lines.every(({ total }) => Number.isFinite(total)));
      await x.dispose();
    });

    test('repeats bit for bit when stopped beside an overflow', async (t) => {
      const x = await open(stepsAhead);
      const { from } = overflowing(x, [3]);
      const whole = await folder(t);
      const config = tinyRun({ steps: 7, checkpointEvery: 7 });
      await collect(run(x, whole, config));
      for (const after of [1, 2, 3, 4]) {
        from(0);
        const stopped = await folder(t);
        const controller = new AbortController();
        await collect(run(x, stopped, config, controller.signal), { after }, controller);
        from((await metricsLines(stopped)).length);
        await collect(goOn(x, stopped));
        assert.deepEqual(await metricsLines(stopped), await metricsLines(whole));
        for (const name of ['training', 'teacher'] as const)
          assert.ok(
            (await readFile(part(stopped, 7, name))).equals(await readFile(part(whole, 7, name))),
            `${name}, stopped after ${after}`,
          );
      }
      await x.dispose();
    });

    test('ends where gradients overflow without a scale, or a weight is not a number', async (t) => {
      const x = await open(stepsAhead);
      overflowing(
        x,
        Array.from({ length: 60 }, (_, i) => i + 1),
      );
      const always = tinyRun({ steps: 60, checkpointEvery: 60, logEvery: 60 });
      await assert.rejects(
        async () => collect(run(x, await folder(t), always)),
        (error: AppError) => {
          assert.match(error.message, /^At step 9 the gradient .* became (NaN|Infinity|-Infinity), with every parameter finite\.$/);
          assert.match(error.action, /--precision f32.*the checkpoint of step 0 is whole/);
          return error.code === 'not-finite';
        },
      );
      await x.dispose();
      await assert.rejects(faulty(t, await open(stepsAhead)), (error: AppError) =>
        new RegExp(`^At step ${4 + stepsAhead} the student's parameter backbone.pos_embed holds NaN\\.$`).test(error.message),
      );
    });
  });
}

test('a scale that is a power of two leaves no trace in f32, over several batches too', async (t) => {
  const lines = [];
  for (const scaled of [true, false]) {
    const x = await createExecutor({ engine: 'cpu', threads: 2 });
    const runDir = await folder(t);
    await collect(run(scaled ? takenForF16(x, 1) : x, runDir, tinyRun({ steps: 3, checkpointEvery: 3, accumulate: 2 })));
    lines.push(await metricsLines(runDir));
    await x.dispose();
  }
  assert.deepEqual(lines[0], lines[1]);
});

/** A run into which a NaN is put when step 3 is told. */
async function faulty(t: TestContext, x: Executor): Promise<void> {
  const create = x.createParameters.bind(x);
  const sets: ReturnType<Executor['createParameters']>[] = [];
  x.createParameters = (specs) => {
    const set = create(specs);
    sets.push(set);
    return set;
  };
  for await (const event of run(x, await folder(t), tinyRun({ steps: 9, checkpointEvery: 9 }))) {
    if (event.type !== 'metrics' || event.metrics.step !== 3) continue;
    const values = await x.readParameters(sets[0]!);
    values[sets[0]!.specs[1]!.offset] = NaN;
    x.writeParameters(sets[0]!, values);
  }
}

/** Student and moments as bytes. */
async function dataOf(path: string): Promise<Buffer> {
  const { tensors } = await readSafetensors(path);
  const own = [...tensors].filter(([name]) => !name.startsWith('centers.'));
  return Buffer.concat(own.map(([, { values }]) => Buffer.from(new Float32Array(values as Float32Array).buffer)));
}
