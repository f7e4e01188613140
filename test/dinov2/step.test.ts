/** Three whole training steps of the official code, repeated: losses, first gradients, final weights of both networks. */
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import { assertWithin } from '../golden/rows.ts';
import { checkTraining, recordedSteps } from '../golden/train.ts';
import { executors } from './executors.ts';
import { golden, goldenNames, goldenPath, noGolden } from './golden.ts';

for (const [engine, create] of executors) {
  for (const name of goldenNames('train-')) {
    test(`${name} repeats official steps on ${engine}`, { skip: noGolden }, async (t) => {
      const x = await create();
      const facts = recordedSteps.parse(JSON.parse(await readFile(goldenPath(`${name}.json`), 'utf8')));
      // The slow twin takes a second a step: its first is enough to know every operation and gradient.
      const rows = await checkTraining(x, name, await golden(name), facts, engine === 'reference' ? { steps: 1 } : {});
      t.diagnostic(assertWithin(rows));
      await x.dispose();
    });
  }
}
