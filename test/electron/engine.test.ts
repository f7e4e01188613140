/** The engine's supervision with real child processes: ready, questions, crashes, ends. */
import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { Engine, type EngineOptions } from '../../electron/engine.ts';

const host = path.join(import.meta.dirname, 'stand-in-host.mjs');
const page = path.resolve(import.meta.dirname, '../../dist/renderer/index.html');

function engine(args: readonly string[], options: Partial<EngineOptions> = {}) {
  const deaths: string[] = [];
  const died = Promise.withResolvers<string>();
  const started = new Engine({
    node: process.execPath,
    entry: host,
    args,
    chooseFolder: () => Promise.resolve(null),
    onDeath: (reason) => {
      deaths.push(reason);
      died.resolve(reason);
    },
    ...options,
  });
  return { engine: started, deaths, died: died.promise };
}

/** What the engine's process wrote to stderr, which the shell passes on; `until` waits for words in it. */
async function heard(work: (until: (words: string) => Promise<void>) => Promise<void>): Promise<string> {
  const write = process.stderr.write.bind(process.stderr);
  let text = '';
  let wake = () => {};
  process.stderr.write = ((chunk: string | Uint8Array) => {
    text += chunk.toString();
    wake();
    return true;
  }) as typeof process.stderr.write;
  const until = async (words: string) => {
    while (!text.includes(words)) await new Promise<void>((resolve) => (wake = resolve));
  };
  try {
    await work(until);
  } finally {
    process.stderr.write = write;
  }
  return text;
}

const isAlive = (pid: number) => {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
};
const pidIn = (url: string) => Number(new URL(url).searchParams.get('token'));

test('start gives the address, stop lets the engine save and end, and no death is reported', async () => {
  process.env['ELECTRON_RUN_AS_NODE'] = '1';
  const { engine: one, deaths } = engine(['works']);
  let pid = 0;
  const words = await heard(async () => {
    const url = await one.start();
    pid = pidIn(url);
    assert.equal(url, `http://127.0.0.1:40123/?token=${pid}`);
    assert.equal(one.running, true);
    await assert.rejects(one.start(), /running already/);
    await one.stop();
  });
  delete process.env['ELECTRON_RUN_AS_NODE'];
  assert.match(words, /^NODE_OPTIONS= ELECTRON_RUN_AS_NODE=\nsaved\n$/);
  assert.deepEqual({ running: one.running, alive: isAlive(pid), deaths }, { running: false, alive: false, deaths: [] });
  await one.stop();
});

test('an engine that ends before it is ready is refused with its last words', async () => {
  const { engine: one, deaths } = engine(['dies-at-start']);
  await heard(() => assert.rejects(one.start(), { message: 'The engine ended with exit code 3.\nproject.sqlite is held by another app' }));
  assert.deepEqual({ running: one.running, deaths }, { running: false, deaths: [] });
});

test('an engine that is never ready is ended and says so', async () => {
  const { engine: one } = engine(['never-ready'], { startMs: 300 });
  await assert.rejects(one.start(), { message: 'The engine was not ready after 0.3 seconds.' });
  assert.equal(one.running, false);
});

test('a Node that is not there is an error with its path', async () => {
  const { engine: one } = engine([], { node: '/no/such/node' });
  await assert.rejects(one.start(), /could not be started: spawn \/no\/such\/node ENOENT/);
  assert.equal(one.running, false);
});

test('a crash after the start is reported once with its reason', async () => {
  const { engine: one, deaths, died } = engine(['crashes']);
  await heard(async () => {
    await one.start();
    assert.equal(await died, 'The engine ended with exit code 7.\nError: database disk image is malformed');
  });
  assert.deepEqual({ running: one.running, count: deaths.length }, { running: false, count: 1 });
});

test('an engine that does not answer is ended after the grace time', async () => {
  const { engine: one, deaths } = engine(['deaf'], { graceMs: 200 });
  const pid = pidIn(await one.start());
  await one.stop();
  assert.deepEqual({ alive: isAlive(pid), deaths }, { alive: false, deaths: [] });
});

test('folder questions are answered, by id; a dialog that fails is an answer too', async () => {
  for (const [choose, expected] of [
    [() => Promise.resolve('/photos/märz'), '/photos/märz'],
    [() => Promise.reject(new Error('no display')), null],
  ] as const) {
    const asked: string[] = [];
    const { engine: one } = engine(['asks'], {
      chooseFolder: (purpose) => {
        asked.push(purpose);
        return choose();
      },
    });
    const words = await heard(async (until) => {
      await one.start();
      await until('answer ');
      await one.stop();
    });
    assert.deepEqual(asked, ['images']);
    assert.ok(words.includes(`answer ${JSON.stringify({ type: 'folderChosen', requestId: 12, path: expected })}\n`), words);
  }
});

test(
  'the real host: ready, its page behind the token, closed cleanly',
  { skip: existsSync(page) ? false : 'dist is not built; npm test builds it' },
  async (t) => {
    const home = mkdtempSync(path.join(tmpdir(), 'patchwise-engine-'));
    t.after(() => rmSync(home, { recursive: true }));
    const { engine: one, deaths } = engine(['--projects', home], { entry: path.resolve(import.meta.dirname, '../../core/host/main.ts') });
    const url = await one.start();
    assert.equal((await fetch(new URL('/', url), { redirect: 'manual' })).ok, false, 'nothing without the token');
    const cookie = (await fetch(url, { redirect: 'manual' })).headers.getSetCookie()[0]?.split(';')[0] ?? '';
    const answer = await fetch(new URL('/', url), { headers: { cookie } });
    assert.deepEqual([answer.status, await answer.text()], [200, readFileSync(page, 'utf8')]);
    await one.stop();
    await assert.rejects(fetch(url));
    assert.deepEqual(deaths, []);
  },
);
