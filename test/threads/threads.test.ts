import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { test } from 'node:test';
import { AppError } from '../../core/contract/index.ts';
import { onThreads, ThreadPool } from '../../core/threads.ts';
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

/** Asks for the square of a number twice at once; takes a failure for the reply. */
const asking = (threads: string): string => `
  import { parentPort, workerData } from 'node:worker_threads';
  import { askOwner } from ${JSON.stringify(threads)};
  const ask = askOwner(workerData.owner);
  const reply = (n) => Promise.all([ask(Float32Array.of(n)), ask(Float32Array.of(-n))]).catch(({ code, action }) => [code, action]);
  parentPort.on('message', async (n) => parentPort.postMessage([workerData.name, ...(await reply(n))].join(' ')));`;

test('threads ask the one that started them, which may answer late or with an error', async (t) => {
  const folder = temporaryFolder(t);
  await writeFiles(folder, { 'asking.mjs': asking(new URL('../../core/threads.ts', import.meta.url).href) });
  let open = 0;
  let most = 0;
  const answer = async (numbers: Float32Array) => {
    most = Math.max(most, ++open);
    await new Promise((resolve) => setTimeout(resolve, 30));
    open--;
    if (numbers[0] === -13) throw new AppError('engine-died', 'It is gone.', 'Start again.');
    const reply = numbers.map((n) => n * n + n);
    return { reply, transfer: [reply.buffer] };
  };
  const settings = { name: 'sum' };
  const work = { entry: pathToFileURL(path.join(folder, 'asking.mjs')), name: 'asking', settings, threads: 2, does: 'asks', answer };
  const replies = await collect(onThreads<number, string>([3, 13, 4, 5], work));
  assert.deepEqual(
    replies.map(({ reply }) => reply),
    ['sum 12 6', 'sum engine-died Start again.', 'sum 20 12', 'sum 30 20'],
  );
  assert.ok(most >= 2);
});

/** Tells the order in which it was given work; squares; dies of 13. */
const served = (threads: string): string => `
  import { serve } from ${JSON.stringify(threads)};
  const order = [];
  serve(async (n) => {
    if (n === 13) process.exit(3);
    order.push(n);
    await new Promise((resolve) => setTimeout(resolve, 20));
    return [n * n, order.join()];
  });`;

test('a pool works while the asking thread does, urgent items first, and tells when it has died', async (t) => {
  const folder = temporaryFolder(t);
  await writeFiles(folder, { 'served.mjs': served(new URL('../../core/threads.ts', import.meta.url).href) });
  const work = { entry: pathToFileURL(path.join(folder, 'served.mjs')), name: 'square', settings: null, does: 'squares' };
  const one = new ThreadPool<number, [number, string]>({ ...work, threads: 1 });
  await one.ask(0);
  const [a, b, c] = [one.ask(1), one.ask(2), one.ask(3, true)];
  assert.deepEqual(await Promise.all([a, b, c]), [
    [1, '0,1'],
    [4, '0,1,3,2'],
    [9, '0,1,3'],
  ]);
  await one.end();
  await assert.rejects(one.ask(4), { code: 'engine-died' });

  const many = new ThreadPool<number, [number, string]>({ ...work, threads: 3 });
  const items = Array.from({ length: 9 }, (_, i) => i);
  const replies = await Promise.all(items.map((item) => many.ask(item)));
  assert.deepEqual(
    replies.map(([square]) => square),
    items.map((item) => item * item),
  );
  // All three had some of it.
  assert.deepEqual(replies.map(([, order]) => order.split(',').length).toSorted(), [1, 1, 1, 2, 2, 2, 3, 3, 3]);
  const waiting = [many.ask(13), many.ask(5)];
  for (const answer of waiting) await assert.rejects(answer, /that squares has died.*code 3/);
  await many.end();
});

test('a pool that nobody asks and nobody ends does not keep its process alive', async (t) => {
  const folder = temporaryFolder(t);
  const threads = new URL('../../core/threads.ts', import.meta.url).href;
  await writeFiles(folder, {
    'served.mjs': served(threads),
    'main.mjs': `
      import { ThreadPool } from ${JSON.stringify(threads)};
      const entry = new URL('./served.mjs', import.meta.url);
      new ThreadPool({ entry, name: 'square', settings: null, threads: 2, does: 'squares' });`,
  });
  const { status, signal } = spawnSync(process.execPath, [path.join(folder, 'main.mjs')], { timeout: 60_000 });
  assert.deepEqual([status, signal], [0, null]);
});
