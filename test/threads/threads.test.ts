import assert from 'node:assert/strict';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { test } from 'node:test';
import { onThreads } from '../../core/threads.ts';
import { collect, temporaryFolder, writeFiles } from '../fixtures/files.ts';

/** Squares a number; slow for even ones; dies of 13. */
const entry = `
  import { parentPort, workerData } from 'node:worker_threads';
  parentPort.on('message', (n) => {
    if (n === 13) process.exit(3);
    setTimeout(() => parentPort.postMessage(n * n + workerData), n % 2 === 0 ? 20 : 0);
  });`;

test('threads answer in the order of the items, whatever takes longer', async (t) => {
  const folder = temporaryFolder(t);
  await writeFiles(folder, { 'square.mjs': entry });
  const work = { entry: pathToFileURL(path.join(folder, 'square.mjs')), name: 'square', settings: 1, threads: 3, does: 'squares' };
  const items = Array.from({ length: 12 }, (_, i) => i);
  assert.deepEqual(
    await collect(onThreads<number, number>(items, work)),
    items.map((item) => ({ item, reply: item * item + 1 })),
  );
  assert.deepEqual(await collect(onThreads<number, number>([], work)), []);
  // Left early: the threads end with the iteration, or this test would not.
  for await (const { item } of onThreads<number, number>(items, work)) if (item === 2) break;
  const told: number[] = [];
  await assert.rejects(
    async () => {
      for await (const { item } of onThreads<number, number>([1, 2, 13, 4, 5], work)) told.push(item);
    },
    (error: { code?: string; message?: string }) =>
      error.code === 'engine-died' && /that squares has died.*code 3/.test(error.message ?? ''),
  );
  assert.deepEqual(told, [1, 2]);
});
