/**
 * The main job in a real browser, with the real host, worker, engine and files: new project, training stopped and resumed,
 * proposals, a class, review with brush and undo, reload, a killed host, export. Every connection is watched.
 */
import assert from 'node:assert/strict';
import { copyFile, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { existsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { chromium, type Browser, type Page } from 'playwright-core';
import type { ReviewImage, ReviewObject } from '../../core/contract/index.ts';
import { drawConveyor } from '../../core/demo/conveyor.ts';
import { encodeJpeg } from '../../core/images/index.ts';
import { chrome, chromeFlags, independentDecode, startHostProcess, type RunningHost } from './browser.ts';

const watcher = fileURLToPath(new URL('watch-connections.mjs', import.meta.url));
const realImages = fileURLToPath(new URL('../../../shared/data/nuclei/images', import.meta.url));

describe('the main job in the browser', { skip: chrome ? false : 'no Chromium found (set CHROMIUM to its path)', timeout: 600_000 }, () => {
  let place: string;
  let images: string;
  let browser: Browser;
  let host: RunningHost;
  let page: Page;
  /** Requests of the page that did not go to the host. */
  const outside: string[] = [];

  before(async () => {
    place = await mkdtemp(path.join(tmpdir(), 'patchwise-e2e-'));
    images = path.join(place, 'pictures', 'photos');
    await mkdir(images, { recursive: true });
    if (existsSync(realImages)) {
      for (const name of (await readdir(realImages)).slice(0, 16)) await copyFile(path.join(realImages, name), path.join(images, name));
    } else {
      for (let i = 0; i < 16; i++)
        await writeFile(path.join(images, `part-${i}.jpg`), await encodeJpeg(drawConveyor(5, i, 256, 192).image, 90));
    }
    await writeFile(path.join(images, 'broken.jpg'), 'not a picture');
    browser = await chromium.launch({ executablePath: chrome!, args: chromeFlags });
  });

  after(async () => {
    await browser?.close();
    await host?.end('SIGKILL');
    await rm(place, { recursive: true, force: true });
  });

  const startHost = async (): Promise<void> => {
    host = await startHostProcess(['--root', path.join(place, 'pictures'), '--projects', path.join(place, 'projects')], {
      PATCHWISE_CONFIG_DIR: path.join(place, 'config'),
      PATCHWISE_TEST_CONNECTIONS: path.join(place, 'connections.txt'),
      NODE_OPTIONS: `--import=${watcher}`,
    });
  };

  const visit = async (): Promise<void> => {
    const context = await browser.newContext({ viewport: { width: 1440, height: 900 } });
    page = await context.newPage();
    page.setDefaultTimeout(60_000);
    page.on('request', (request) => {
      if (!request.url().startsWith(new URL(host.url).origin) && !/^(data|blob):/.test(request.url())) outside.push(request.url());
    });
    await page.goto(host.url);
  };

  /** Reads through the page's own session. */
  const ask = async <T>(call: string, input?: unknown): Promise<T> =>
    page.evaluate(
      async ([name, text]) => {
        const response = await fetch(`/trpc/${name}${text ? `?input=${encodeURIComponent(text)}` : ''}`);
        const answer = (await response.json()) as { result?: { data: T }; error?: { message: string } };
        if (!answer.result) throw new Error(answer.error?.message ?? response.statusText);
        return answer.result.data;
      },
      [call, input === undefined ? '' : JSON.stringify(input)] as const,
    ) as Promise<T>;

  const until = async (condition: () => Promise<boolean>, what: string, seconds = 120): Promise<void> => {
    for (let i = 0; i < seconds * 5; i++) {
      if (await condition()) return;
      await new Promise((done) => setTimeout(done, 200));
    }
    assert.fail(`never happened: ${what}`);
  };

  const canvas = () => page.getByRole('application');
  const currentImage = (): number => Number(/image\/(\d+)/.exec(page.url())![1]);
  const objectsOf = async (imageId: number): Promise<readonly ReviewObject[]> =>
    (await ask<ReviewImage>('reviewImage', { imageId })).objects;
  const selectedId = async (): Promise<number> => {
    const facts = await page.getByRole('list', { name: 'Objects' }).locator('[aria-pressed=true]').getAttribute('data-id');
    return Number(facts);
  };
  const decided = async (): Promise<number> => (await ask<{ decided: number }>('reviewStats')).decided;

  test('from a folder to a reviewed COCO file, through a stop, a reload and a killed host', async () => {
    await startHost();
    await visit();

    // New project on a real folder.
    await page.getByRole('button', { name: /^Images/ }).click();
    const folders = page.getByRole('dialog');
    await folders.getByRole('button', { name: 'pictures' }).click();
    await folders.getByRole('button', { name: /photos/ }).click();
    await folders.getByRole('button', { name: 'Use this folder' }).click();
    await page.getByLabel('Project name').fill('Cells');
    await page.getByRole('button', { name: 'Create project' }).click();
    await page.getByRole('heading', { name: 'Cells' }).waitFor();
    await until(async () => (await ask<{ images: number }>('currentProject')).images === 16, 'the scan of 16 images');
    const problems = await ask<{ path: string; code: string }[]>('problems');
    assert.deepEqual(
      problems.map((problem) => [problem.path, problem.code]),
      [['broken.jpg', 'image-not-an-image']],
    );

    // Train to the first checkpoint, stop, resume to the end: enough steps that the stop comes long before the last.
    const steps = 100;
    await page.goto(`${new URL(host.url).origin}/#/train`);
    await page.getByRole('radio', { name: /Quick look/ }).check();
    await page.getByLabel('Steps').fill(String(steps));
    await page.getByLabel('Batch', { exact: true }).fill('2');
    await page.getByRole('button', { name: 'Start training' }).click();
    type Run = { id: string; state: string; step: number; checkpoints: number[] };
    await until(async () => ((await ask<Run[]>('runs'))[0]?.checkpoints.length ?? 0) > 1, 'a checkpoint after the start');
    await page.getByRole('region', { name: 'Run' }).getByRole('button', { name: 'Stop' }).click();
    await until(async () => (await ask<Run[]>('runs'))[0]!.state !== 'running', 'the stop');
    const stopped = (await ask<Run[]>('runs'))[0]!;
    assert.equal(stopped.state, 'stopped');
    assert.ok(stopped.step < steps, `stopped at step ${stopped.step}`);
    await page.getByRole('button', { name: 'Resume' }).click();
    await until(async () => (await ask<Run[]>('runs'))[0]!.state === 'finished', 'the end of the resumed run');
    const run = (await ask<Run[]>('runs'))[0]!;
    assert.equal(run.step, steps);
    const metrics = await ask<{ step: number; total: number }[]>('trainMetrics', { runId: run.id, afterStep: -1 });
    assert.deepEqual(
      metrics.map((line) => line.step),
      Array.from({ length: steps }, (_, i) => i + 1),
      'every line once, stop or not',
    );

    // Propose.
    await page.goto(`${new URL(host.url).origin}/#/review`);
    await page.getByRole('button', { name: 'Propose masks' }).first().click();
    await page.getByRole('dialog').getByRole('button', { name: 'Propose masks' }).click();
    await until(async () => (await ask<{ counts: { proposed: number } }>('currentProject')).counts.proposed > 20, 'proposals');
    await until(
      async () => (await ask<{ kind: string; state: string }[]>('jobs')).some((job) => job.kind === 'prelabel' && job.state === 'finished'),
      'the end of proposing',
    );

    // Name a class by its cluster.
    await page.goto(`${new URL(host.url).origin}/#/review/clusters`);
    const name = page.getByLabel(/^Name of cluster/).first();
    await name.fill('nucleus');
    await name.press('Enter');
    await page.getByText('Named nucleus').waitFor();
    const [nucleus] = await ask<{ id: number; name: string }[]>('classes');
    assert.equal(nucleus!.name, 'nucleus');

    // Accept with the class's digit.
    await page.goto(`${new URL(host.url).origin}/#/review/image/1`);
    await canvas().waitFor();
    await page.getByRole('list', { name: 'Objects' }).locator('[aria-pressed=true]').waitFor();
    assert.equal(currentImage(), 1);
    const accepted = (await objectsOf(1)).find((object) => object.kind === 'proposal')!;
    const firstId = await selectedId();
    const first = (await objectsOf(1)).find((object) => object.kind === 'proposal' && object.id === firstId) ?? accepted;
    await page.keyboard.press('Digit1');
    await until(async () => (await decided()) === 1, 'the first decision');

    // Edit the next one with the brush.
    await page.keyboard.press('KeyE');
    await page.getByRole('button', { name: 'Brush', pressed: true }).waitFor();
    const box = (await canvas().boundingBox())!;
    const [scale, left, top] = await Promise.all(
      ['data-scale', 'data-x', 'data-y'].map(async (key) => Number(await canvas().getAttribute(key))),
    );
    const at = { x: box.x + left! + 40.5 * scale!, y: box.y + top! + 30.5 * scale! };
    await page.mouse.move(at.x, at.y);
    await page.mouse.down();
    await page.mouse.move(at.x + 12, at.y + 5, { steps: 4 });
    await page.mouse.up();
    await page.keyboard.press('Shift+Digit1'); // its class, whatever was proposed
    await page.keyboard.press('Enter');
    await until(async () => (await decided()) === 2, 'the edit');

    // Reject, and take the rejection back; reject again.
    await page.keyboard.press('Delete');
    await until(async () => (await decided()) === 3, 'the rejection');
    await page.keyboard.press('Control+KeyZ');
    await page
      .getByText(/^Undone/)
      .first()
      .waitFor();
    await until(async () => (await ask<{ counts: { rejected: number } }>('currentProject')).counts.rejected === 0, 'the undo');
    await page.keyboard.press('Control+Shift+KeyZ');
    await until(async () => (await ask<{ counts: { rejected: number } }>('currentProject')).counts.rejected === 1, 'the redo');

    // Reload.
    await page.reload();
    await canvas().waitFor();
    const before = await annotations(1);
    assert.equal(before.length, 2);

    // Kill the host in the middle of it all; nothing answered may be lost.
    await host.end('SIGKILL');
    await page.context().close();
    await startHost();
    await visit();
    await page.getByRole('button', { name: /Cells/ }).click();
    await page.getByRole('heading', { name: 'Cells' }).waitFor();
    assert.deepEqual(await annotations(1), before);

    // Export; an independent decoder sees the same pixels.
    await page.goto(`${new URL(host.url).origin}/#/export`);
    await page.getByRole('button', { name: 'Export', exact: true }).click();
    await page.getByRole('link', { name: /\.json/ }).waitFor();
    const exported = path.join(place, 'projects', 'Cells', 'exports');
    const [folder] = await readdir(exported);
    const [file] = (await readdir(path.join(exported, folder!))).filter((one) => one.endsWith('.json'));
    const coco = JSON.parse(await readFile(path.join(exported, folder!, file!), 'utf8')) as {
      images: { id: number; file_name: string; width: number; height: number }[];
      categories: { id: number; name: string }[];
      annotations: {
        image_id: number;
        category_id: number;
        area: number;
        bbox: number[];
        segmentation: { size: number[]; counts: string };
      }[];
    };
    assert.equal(coco.images.length, 1, 'only what was reviewed: an image nobody looked at is not an empty one');
    assert.deepEqual(
      coco.categories.map((category) => category.name),
      ['nucleus'],
    );
    assert.equal(coco.annotations.length, 2);
    const shown = before.map((object) => independentDecode(object.rle));
    for (const annotation of coco.annotations) {
      const pixels = independentDecode(annotation.segmentation);
      assert.equal(
        annotation.area,
        pixels.reduce((sum, value) => sum + value, 0),
      );
      assert.ok(
        shown.some((other) => Buffer.compare(other, pixels) === 0),
        'the pixels that were decided',
      );
    }
    assert.ok(
      coco.annotations.some((annotation) => Buffer.compare(independentDecode(annotation.segmentation), independentDecode(first.rle)) === 0),
      'the accepted proposal, as it was proposed',
    );
    const width = coco.images[0]!.width;
    assert.ok(
      coco.annotations.some((annotation) => independentDecode(annotation.segmentation)[30 * width + 40] === 1),
      'the brush stroke',
    );

    // Nothing left the machine.
    assert.deepEqual(outside, []);
    const connections = existsSync(path.join(place, 'connections.txt'))
      ? (await readFile(path.join(place, 'connections.txt'), 'utf8')).split('\n').filter(Boolean)
      : [];
    assert.ok(
      connections.some((line) => line.startsWith('watching')),
      'host and worker were watched',
    );
    assert.deepEqual(
      connections.filter((line) => !line.startsWith('watching')),
      [],
      'host and worker opened no connection',
    );
  });

  async function annotations(imageId: number): Promise<ReviewObject[]> {
    return (await objectsOf(imageId)).filter((object) => object.kind === 'annotation').sort((a, b) => a.id - b.id);
  }
});
