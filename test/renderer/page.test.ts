/**
 * The built page in a real Chromium, against the fake host: what people do, what reaches the host, what is drawn.
 * Skips, with the reason, where no Chromium is found.
 */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { chromium, type Browser, type BrowserContext, type Page } from 'playwright-core';
import { build } from 'vite';
import type { Decision, ReviewObject } from '../../core/contract/index.ts';
import { decodeRle } from '../../renderer/src/logic/rle.ts';
import { sha256OfFile } from './fake-data.ts';
import { FakeHost, type FakeOptions } from './fake-host.ts';
import { serve, type Served } from './fake-server.ts';

const chrome = [process.env['CHROMIUM'], '/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find(
  (path) => path && existsSync(path),
);
const flags = ['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-component-update', '--disable-sync'];

describe('the page', { skip: chrome ? false : 'no Chromium found (set CHROMIUM to its path)' }, () => {
  let built: string;
  let browser: Browser;
  let served: Served;
  let context: BrowserContext;
  let page: Page;
  let complaints: string[];

  before(async () => {
    // Its own copy: dist/renderer may be in use by other tests.
    built = await mkdtemp(join(tmpdir(), 'patchwise-page-'));
    await build({
      configFile: fileURLToPath(new URL('../../renderer/vite.config.ts', import.meta.url)),
      logLevel: 'error',
      build: { outDir: built },
    });
    browser = await chromium.launch({ executablePath: chrome!, args: flags });
  });
  after(async () => {
    await browser?.close();
    await rm(built, { recursive: true, force: true });
  });

  /** A fresh host, a fresh browser profile, the page at `hash`; fails on any console error, CSP violation or outside request. */
  async function using(
    options: FakeOptions,
    hash: string,
    body: (host: FakeHost) => Promise<void>,
    expected: readonly RegExp[] = [],
  ): Promise<void> {
    served = await serve(new FakeHost({ images: 60, proposed: 8, pictureScale: 0.4, ...options }), 0, built);
    context = await browser.newContext({ viewport: { width: 1440, height: 900 } });
    page = await context.newPage();
    page.setDefaultTimeout(15_000);
    complaints = [];
    page.on('console', (message) => {
      if (message.type() === 'error' || message.type() === 'warning') complaints.push(message.text());
    });
    page.on('pageerror', (error) => complaints.push(String(error)));
    page.on('request', (request) => {
      if (!request.url().startsWith(served.url)) complaints.push(`asked for ${request.url()}`);
    });
    try {
      await page.goto(`${served.url}#/${hash}`);
      await body(served.host);
      assert.deepEqual(
        complaints.filter((text) => !expected.some((pattern) => pattern.test(text))),
        [],
      );
    } finally {
      await context.close();
      await served.close();
    }
  }

  const decisions = (host: FakeHost): Decision[] =>
    host.calls.filter((call) => call.name === 'decide').map((call) => call.input as Decision);
  const canvas = (): ReturnType<Page['locator']> => page.getByRole('application');
  const objects = (): ReturnType<Page['locator']> => page.getByRole('list', { name: 'Objects' }).getByRole('button');
  const selected = (): ReturnType<Page['locator']> => page.getByRole('list', { name: 'Objects' }).locator('[aria-pressed=true]');

  /** Waits until the host's list of calls satisfies a condition. */
  async function until(condition: () => boolean, what: string): Promise<void> {
    for (let i = 0; i < 600; i++) {
      if (condition()) return;
      await new Promise((done) => setTimeout(done, 25));
    }
    assert.fail(`never happened: ${what}`);
  }

  /** Screen position of an image pixel. */
  async function onScreen(x: number, y: number): Promise<{ x: number; y: number }> {
    const box = (await canvas().boundingBox())!;
    const [scale, left, top] = await Promise.all(
      ['data-scale', 'data-x', 'data-y'].map(async (name) => Number(await canvas().getAttribute(name))),
    );
    return { x: box.x + left! + x * scale!, y: box.y + top! + y * scale! };
  }

  async function ready(): Promise<void> {
    await canvas().waitFor();
    await selected().waitFor();
  }

  const proposalsOf = (host: FakeHost, imageId: number): ReviewObject[] =>
    host.objects.get(imageId)!.filter((o) => o.kind === 'proposal' && o.state === 'proposed');

  test('a project is made from a folder found in the page, and the scan shows', async () => {
    await using({ open: false }, 'project', async (host) => {
      await page.getByRole('heading', { name: 'New project' }).waitFor();
      assert.equal(await page.getByRole('button', { name: 'Create project' }).isDisabled(), true);
      await page.getByRole('button', { name: /^Images/ }).click();
      const dialog = page.getByRole('dialog', { name: 'Folder of images' });
      await dialog.getByRole('button', { name: 'data' }).click();
      await dialog.getByRole('button', { name: /2026-11/ }).click();
      await dialog.getByText('/data/2026-11').waitFor();
      await dialog.getByRole('button', { name: 'Use this folder' }).click();
      assert.equal(await page.getByLabel('Project name').inputValue(), '2026-11');
      await page.getByLabel('Project name').fill('My parts');
      await page.getByRole('button', { name: 'Create project' }).click();
      await page.getByRole('heading', { name: 'My parts' }).waitFor();
      assert.deepEqual(host.calls.find((call) => call.name === 'createProject')?.input, {
        name: 'My parts',
        imagesId: 'data/2026-11',
        locationId: null,
      });
      await page.getByRole('group', { name: 'Scan job' }).waitFor();
    });
  });

  test('20,000 images: few rows are in the page, the last one is reached, search and problems work', async () => {
    await using({ images: 20_000 }, 'images', async () => {
      const grid = page.getByRole('list', { name: 'Images' });
      await grid.getByText('part_000001.jpg').waitFor();
      assert.ok((await grid.getByRole('listitem').count()) < 120);
      await page.evaluate("document.querySelector('ul[aria-label=Images]').parentElement.scrollTop = 1e9");
      await grid.getByText('part_020000.jpg').waitFor();
      assert.ok((await grid.getByRole('listitem').count()) < 120);
      await page.getByLabel('Search by name').fill('part_00777');
      await page.getByText('10 images').waitFor();
      await grid.getByText('part_007775.jpg').waitFor();
      await page.getByRole('radio', { name: /Problems/ }).click();
      const row = page.getByRole('row', { name: /part_000777/ });
      assert.match((await row.textContent())!, /ends after 81,920 of 402,113 bytes.*Copy the file again/);
    });
  });

  test('training starts, shows its numbers, stops and resumes', async () => {
    await using({}, 'train', async (host) => {
      await page.getByRole('button', { name: 'New run' }).click();
      await page.getByText('Recommended: 3,200 images and no GPU').waitFor();
      await page.getByRole('radio', { name: /Quick look/ }).check();
      await page.getByText('expect coarse masks').waitFor();
      await page.getByLabel('Steps').fill('90');
      await page.getByRole('row', { name: 'Steps 90 Chosen here.' }).waitFor();
      await page.getByRole('button', { name: 'Start training' }).click();
      await page.getByText(/Step [1-9]\d* of 90/).waitFor();
      assert.deepEqual(host.calls.find((call) => call.name === 'startTraining')?.input, {
        presetId: 'quick',
        steps: 90,
        batch: null,
        accumulate: null,
        seed: null,
        list: { dedupe: true, balance: false, keep: null },
      });
      await page.getByRole('img', { name: 'Losses over steps' }).locator('path.line').first().waitFor();
      await page.getByRole('group', { name: 'Training job' }).getByText('images/s').waitFor();
      await page.getByRole('region', { name: 'Run' }).getByRole('button', { name: 'Stop' }).click();
      await page.getByRole('button', { name: 'Resume' }).click();
      await page.getByRole('region', { name: 'Run' }).getByRole('button', { name: 'Stop' }).waitFor();
      assert.deepEqual(host.calls.find((call) => call.name === 'resumeTraining')?.input, { runId: 'run-3' });
    });
  });

  test('a run starts from an imported network or a checkpoint: other presets, a warning with few images, and what came of it', async () => {
    await using({ continued: true }, 'train', async (host) => {
      const run = page.getByRole('region', { name: 'Run' });
      await run.getByText('Started from imported dinov2_vits14_reg4_pretrain.pth').waitFor();
      await run.getByText('Ended early: its patch features did not get better any more.').waitFor();
      await run.getByText('Step 0 is used for proposals.').waitFor();
      await run.getByText(/Training has not made the weights it started from better: their patches match .* 83 %, the highest/).waitFor();
      await page.getByRole('img', { name: 'Quality of patch features over steps' }).locator('line.chosen').waitFor({ state: 'attached' });

      await page.getByRole('button', { name: 'New run' }).click();
      await page.getByText('Start or learn from another network').click();
      const start = page.getByRole('radiogroup', { name: 'Start from' });
      await page.getByRole('radio', { name: /Small set, no GPU/ }).waitFor();
      await start.getByRole('radio', { name: 'Imported network' }).click();
      await page.getByRole('radio', { name: /Continue/ }).waitFor();
      assert.equal(await page.getByRole('radio', { name: /Small set, no GPU/ }).count(), 0);
      await page.getByRole('row', { name: /Blocks that learn the last 2 of 12/ }).waitFor();
      // 60 images: better not to train at all.
      const warning = page.getByRole('note');
      await warning.getByText('With under 1,000 images training rarely makes good weights better.').waitFor();
      await warning.getByRole('button', { name: 'Propose masks' }).click();
      await page.getByRole('dialog', { name: 'Propose masks' }).getByRole('button', { name: 'Cancel' }).click();

      await start.getByRole('radio', { name: 'Checkpoint of a run' }).click();
      await page.getByRole('combobox', { name: 'Network' }).selectOption('run run-2');
      await page.getByRole('combobox', { name: 'Checkpoint' }).selectOption('600');
      await page.getByRole('button', { name: 'Start training' }).click();
      await run.getByText('Started from run run-2, step 600').waitFor();
      const asked = host.calls.filter(({ name }) => name === 'startTraining' || name === 'trainPresets').map(({ input }) => input);
      assert.deepEqual(asked.at(-1), {
        from: { runId: 'run-2', step: 600 },
        presetId: 'continue',
        steps: null,
        batch: null,
        accumulate: null,
        seed: null,
        list: { dedupe: true, balance: false, keep: null },
      });
      // Presets of random weights are asked for first, once or twice.
      const starts = asked.filter((input) => input !== undefined).slice(0, 2);
      assert.deepEqual(starts, [{ from: { weightsId: sha256OfFile.slice(0, 16) } }, { from: { runId: 'run-9', step: null } }]);
    });
    await using({}, 'train', async () => {
      await page.getByRole('button', { name: 'New run' }).click();
      await page.getByText('Start or learn from another network').click();
      await page.getByRole('radiogroup', { name: 'Start from' }).getByRole('radio', { name: 'Imported network' }).click();
      await page.getByText('No network has been imported yet.').waitFor();
      await page.getByRole('radio', { name: /Small set, no GPU/ }).waitFor();
    });
  });

  test('a run learns from a larger network, in several batches a step: what that means is told before, and by what came of it', async () => {
    await using(
      {},
      'train',
      async (host) => {
        await page.getByRole('button', { name: 'New run' }).click();
        await page.getByText('Start or learn from another network').click();
        const learn = page.getByRole('radiogroup', { name: 'Learn from' });
        const start = page.getByRole('button', { name: 'Start training' });
        await learn.getByRole('radio', { name: 'Imported network' }).click();
        await page.getByText('No network with heads has been imported; published weights come without.').waitFor();

        // Its best checkpoint is too small to teach: said, and nothing can be started.
        await learn.getByRole('radio', { name: 'Checkpoint of a run' }).click();
        await page.getByText('there is no smaller network that it could teach').waitFor();
        assert.equal(await start.count(), 0);
        await page.getByRole('combobox', { name: 'Checkpoint' }).selectOption('600');
        await page.getByRole('row', { name: /Teacher run run-2, step 600, 384 wide, 12 blocks Frozen, with its heads/ }).waitFor();
        await page.getByRole('row', { name: /Batches a step 1 / }).waitFor();

        await page.getByLabel('Batch', { exact: true }).fill('8');
        await page.getByLabel('Batches a step').fill('4');
        await page.getByText(/32 images a step: the gradients of 4 batches of 8 are\s+averaged/).waitFor();
        await start.click();
        await page.getByRole('region', { name: 'Run' }).getByText('Learns from run run-2, step 600').waitFor();
        assert.deepEqual(host.calls.findLast((call) => call.name === 'startTraining')?.input, {
          distillFrom: { runId: 'run-2', step: 600 },
          presetId: 'distill',
          steps: null,
          batch: 8,
          accumulate: 4,
          seed: null,
          list: { dedupe: true, balance: false, keep: null },
        });
      },
      [/412/],
    );
  });

  test('a network to learn from and weights to start from exclude each other', async () => {
    await using(
      {},
      'train',
      async (host) => {
        await page.getByRole('button', { name: 'New run' }).click();
        await page.getByText('Start or learn from another network').click();
        const [start, learn] = ['Start from', 'Learn from'].map((name) => page.getByRole('radiogroup', { name }));
        await learn!.getByRole('radio', { name: 'Checkpoint of a run' }).click();
        await page.getByRole('combobox', { name: 'Checkpoint' }).selectOption('600');
        await page.getByRole('radio', { name: /Distillation/ }).waitFor();
        await start!.getByRole('radio', { name: 'Checkpoint of a run' }).click();
        await page.getByRole('radio', { name: /Continue/ }).waitFor();
        assert.equal(await learn!.getByRole('radio', { name: 'Its own average' }).getAttribute('aria-checked'), 'true');
        await learn!.getByRole('radio', { name: 'Checkpoint of a run' }).click();
        await until(() => 'distillFrom' in (host.calls.findLast((call) => call.name === 'trainPresets')?.input as object), 'the presets');
        assert.equal(await start!.getByRole('radio', { name: 'Random weights' }).getAttribute('aria-checked'), 'true');
      },
      [/412/],
    );
  });

  test('a run shows what its features are worth, which checkpoint is chosen and why, and what is alarming', async () => {
    await using({}, 'train', async (host) => {
      const run = page.getByRole('region', { name: 'Run' });
      const quality = page.getByRole('img', { name: 'Quality of patch features over steps' });
      await run.getByText('Step 900 is used for proposals.').waitFor();
      await run.getByText(/Best of 6 checkpoints.*the highest.*the newest, step 1,500, has/).waitFor();
      assert.equal(await quality.locator('path.line').count(), 3);
      assert.equal(await quality.locator('circle').count(), 3 * 7, 'a dot a line and checkpoint');
      // The mark stands where the middle of the axis is: 900 of 1,500.
      const [mark, box] = [await quality.locator('line.chosen').getAttribute('x1'), (await quality.boundingBox())!];
      assert.ok(Math.abs(Number(mark) - (46 + 0.6 * (box.width - 56))) < 1, `${mark} of ${box.width}`);
      assert.equal(await run.getByRole('alert').count(), 0);

      await run.getByRole('heading', { name: 'Features, measured with your masks' }).waitFor();
      const scratch = page.getByRole('img', { name: 'IoU of scratch over steps' });
      assert.deepEqual([await scratch.locator('path.line').count(), await scratch.locator('line.level').count()], [2, 2]);
      await run.getByText('IoU on 50 images, learned from 150 others at 518 px').waitFor();

      // The chosen checkpoint is what proposing takes unless another is picked.
      await run.getByRole('button', { name: 'Propose masks' }).click();
      const dialog = page.getByRole('dialog', { name: 'Propose masks' });
      await dialog.getByText(/^Best of 6 checkpoints/).waitFor();
      assert.match((await dialog.getByLabel('Checkpoint').locator('option').first().textContent())!, /Best features: step 900/);
      await dialog.getByRole('button', { name: 'Propose masks' }).click();
      await until(() => host.calls.some((call) => call.name === 'startPrelabel'), 'proposing');
      const asked = { runId: 'run-2', step: null, weightsId: null, passes: 1 };
      assert.deepEqual(host.calls.find((call) => call.name === 'startPrelabel')?.input, asked);

      await page.getByRole('button', { name: /Quick look/ }).click();
      const alarm = page.locator('[role=alert][data-kind=collapse]');
      await alarm.getByText(/different images look the same \(mean cosine 0\.96\); the class tokens use 7 of 128 directions/).waitFor();
      assert.match((await alarm.textContent())!, /Stop the run.*Since step 200/s);
      await run.getByRole('heading', { name: 'Features, measured with your masks' }).waitFor({ state: 'detached' });
    });
  });

  test('copies: looked for, shown side by side, what a run leaves out follows the choices', async () => {
    await using({ images: 240 }, 'images', async (host) => {
      await page.getByRole('radio', { name: 'Duplicates and balance' }).click();
      await page.getByRole('button', { name: 'Look for copies' }).click();
      await page.getByText('120 copies', { exact: true }).waitFor();
      assert.deepEqual(host.calls.find((call) => call.name === 'startCuration')?.input, { from: 'network', runId: 'run-2', step: null });
      const groups = page.getByRole('list', { name: 'Groups of copies' });
      const group = groups.getByRole('article').first();
      assert.match((await group.textContent())!, /part_000001\.jpg\s*Kept.*part_000025\.jpg\s*Same pixels/);
      assert.match((await groups.getByRole('article').nth(1).textContent())!, /part_000026\.jpg\s*96\.2 % alike/);
      assert.ok((await groups.getByRole('listitem').count()) < 20, 'only what is seen is there');
      await page.getByText('Trains on 120 of 240 images').waitFor();

      await page.getByRole('radio', { name: /Left out/ }).click();
      await page.getByText('The same pixels as part_000001.jpg').waitFor();
      await page.getByRole('checkbox', { name: /Leave out copies/ }).uncheck();
      await page.getByText('Nothing is left out').waitFor();
      await page.getByRole('checkbox', { name: /^Balance/ }).check();
      await page.getByLabel('Images in all').fill('200');
      await page.getByText('Trains on 200 of 240 images').waitFor();
      await page.getByText('Cluster 1 has 120 images, its share is 80').first().waitFor();
      assert.deepEqual(host.calls.findLast((call) => call.name === 'leftOut')?.input, {
        dedupe: false,
        balance: true,
        keep: 200,
        offset: 0,
        limit: 100,
      });
      await page.getByRole('radio', { name: /Clusters/ }).click();
      assert.match((await page.getByRole('article', { name: 'Cluster 1' }).textContent())!, /120 images\s*80 to train on/);

      // The same choices on the Train page, and what the host is told.
      await page.getByRole('link', { name: 'Train', exact: true }).click();
      await page.getByRole('button', { name: 'New run' }).click();
      await page.getByText('Trains on 200 of 240 images').waitFor();
      await page.getByRole('button', { name: 'Start training' }).click();
      await until(() => host.calls.some((call) => call.name === 'startTraining'), 'the start');
      const { list } = host.calls.find((call) => call.name === 'startTraining')!.input as { list: unknown };
      assert.deepEqual(list, { dedupe: false, balance: true, keep: 200 });
    });
  });

  test('copies: out of date is said, on the Train page too; no copies and no look yet have their own words', async () => {
    await using({ curated: true }, 'images/curation', async (host) => {
      await page.getByText('24 copies', { exact: true }).waitFor();
      host.changedSince = 1;
      host.emit({ type: 'changed', what: 'curation' });
      await page.getByText('Out of date: 1 image is new or changed.').waitFor();
      await page.getByRole('link', { name: 'Train', exact: true }).click();
      await page.getByRole('button', { name: 'New run' }).click();
      await page.getByText('1 image is new or changed since copies were looked for').waitFor();
      await page.getByRole('link', { name: 'See copies, clusters and what is left out' }).click();
      await page.getByRole('button', { name: 'Look again' }).waitFor();
    });
    await using({ curated: true, images: 20 }, 'images/curation', async () => {
      await page.getByText('No image shows what another one shows already.').waitFor();
    });
    await using({}, 'train', async () => {
      await page.getByRole('button', { name: 'New run' }).click();
      await page.getByText('Looked for when the run starts').waitFor();
    });
  });

  test('similar images: from a tile, about several at once, and before anybody has looked', async () => {
    await using({ curated: true }, 'images', async (host) => {
      const tile = page.getByRole('list', { name: 'Images' }).getByRole('listitem').nth(2);
      await tile.hover();
      await tile.getByRole('link', { name: 'Show images like part_000003.jpg' }).click();
      const similar = page.getByRole('list', { name: 'Similar images' });
      await similar.getByText('part_000027.jpg').waitFor();
      await similar.getByRole('listitem').filter({ hasText: 'part_000004.jpg' }).getByRole('button', { name: 'Also like this' }).click();
      await page.getByRole('heading', { name: 'Like any of these 2 images' }).waitFor();
      await similar.getByText('part_000028.jpg').waitFor();
      assert.deepEqual(host.calls.findLast((call) => call.name === 'similarImages')?.input, { imageIds: [3, 4], limit: 60 });
      await page.getByRole('button', { name: 'No longer ask about image 3' }).click();
      await page.getByRole('heading', { name: 'Like this image' }).waitFor();
      await page.getByRole('button', { name: 'Back to all images' }).click();
      await page.getByRole('list', { name: 'Images' }).waitFor();
    });
    await using(
      {},
      'images/similar/3',
      async (host) => {
        await page.getByRole('button', { name: 'Look for copies' }).click();
        await until(() => host.calls.some((call) => call.name === 'startCuration'), 'the look');
        await page.getByRole('list', { name: 'Similar images' }).getByText('part_000027.jpg').waitFor();
      },
      [/412/],
    );
  });

  test('a cluster is named once, merged into a class, discarded and brought back', async () => {
    await using(
      {},
      'review/clusters',
      async (host) => {
        // Outlines come with the cards, so they are those of the masks that the cards name, whatever was shown before.
        const outlined = `(() => {
        const card = document.querySelector('article[aria-label="Cluster 1"]');
        const [r, g, b] = getComputedStyle(card.querySelector('.facts i')).backgroundColor.match(/\\d+/g).map(Number);
        const { data } = card.querySelector('canvas').getContext('2d').getImageData(0, 0, 168, 168);
        let found = 0;
        for (let i = 0; i < data.length; i += 4) if (data[i] === r && data[i + 1] === g && data[i + 2] === b) found++;
        return found > 100;
      })()`;
        await page.getByRole('article', { name: 'Cluster 1' }).locator('canvas').first().waitFor();
        for (let i = 0; i < 200 && !(await page.evaluate(outlined)); i++) await page.waitForTimeout(25);
        assert.ok(await page.evaluate(outlined));
        assert.ok(!host.calls.some((call) => call.name === 'reviewImage'));
        await page.getByLabel('Name of cluster 1').fill('gear wheel');
        await page.getByLabel('Name of cluster 1').press('Enter');
        await page.getByText('Named gear wheel').waitFor();
        await page.getByLabel('Name of cluster 2').fill('Bolt');
        await page.getByLabel('Name of cluster 2').press('Enter');
        await page.getByText('Merged into bolt').waitFor();
        await page.getByRole('button', { name: 'Discard cluster 3' }).click();
        await page.getByRole('heading', { name: /Discarded/ }).waitFor();
        await page.getByRole('article', { name: 'Cluster 3' }).getByRole('button', { name: 'Bring back' }).click();
        await page.getByRole('heading', { name: /Discarded/ }).waitFor({ state: 'detached' });
        assert.deepEqual(
          host.calls.filter((call) => ['createClass', 'nameCluster'].includes(call.name)).map((call) => call.input),
          [
            { name: 'gear wheel', color: null },
            { clusterId: 1, classId: 4 },
            { clusterId: 2, classId: 3 },
          ],
        );
      },
      [/willReadFrequently/],
    );
  });

  test('deciding by keys: accept, class, reject, unsure, undo, all; the next object is selected each time', async () => {
    await using({}, 'review/image/1', async (host) => {
      await ready();
      const order = [...proposalsOf(host, 1)].sort((a, b) => b.score! - a.score! || b.area - a.area).map((o) => o.id);
      await page.keyboard.press('Enter');
      await page.keyboard.press('2');
      await page.keyboard.press('Delete');
      await page.keyboard.press('KeyU');
      await page.keyboard.press('Shift+Digit3');
      await until(() => decisions(host).length === 5, 'five decisions');
      const seen = decisions(host).map((d) => ({ ...d, seconds: 0 }));
      assert.deepEqual(seen, [
        { action: 'accept', proposalId: order[0], classId: null, seconds: 0 },
        { action: 'accept', proposalId: order[1], classId: 2, seconds: 0 },
        { action: 'reject', proposalId: order[2], seconds: 0 },
        { action: 'unsure', proposalId: order[3], seconds: 0 },
        { action: 'setClass', proposalId: order[4], classId: 3, seconds: 0 },
      ]);
      assert.ok(decisions(host).every((d) => d.seconds > 0 && d.seconds < 30));
      await page.getByText('Set to bolt').waitFor();
      await page.keyboard.press('Control+KeyZ');
      await page.getByText('Undone: Set to bolt').waitFor();
      await page.keyboard.press('Control+Shift+KeyZ');
      await page.getByText('Done again: Set to bolt').waitFor();
      const before = await objects().count();
      assert.equal(before, order.length - 1, 'the rejected one left the list');
      await page.keyboard.press('Shift+Enter');
      await until(() => decisions(host).at(-1)?.action === 'acceptAll', 'accept all');
      // Nothing is left here: the page goes on to the next image of the queue.
      await page.waitForURL((url) => !url.hash.endsWith('/image/1'));
      await page.keyboard.press('Control+KeyZ');
      await page.waitForURL((url) => url.hash.endsWith('/image/1'));
    });
  });

  test('the brush adds exactly its disk to the mask, undo inside the edit takes strokes back, Enter saves', async () => {
    await using({}, 'review/image/2', async (host) => {
      await ready();
      const target = proposalsOf(host, 2).sort((a, b) => b.score! - a.score!)[0]!;
      await page.keyboard.press('KeyE');
      await page.getByRole('button', { name: 'Brush', pressed: true }).waitFor();
      const scale = Number(await canvas().getAttribute('data-scale'));
      const centre = { x: target.box[0] - 20.5, y: target.box[1] - 20.5 };
      const at = await onScreen(centre.x, centre.y);
      await page.mouse.move(at.x, at.y);
      await page.mouse.down();
      await page.mouse.up();
      const elsewhere = await onScreen(30, 30);
      await page.mouse.move(elsewhere.x, elsewhere.y);
      await page.mouse.down();
      await page.mouse.up();
      await page.keyboard.press('Control+KeyZ');
      await page.keyboard.press('Enter');
      await until(() => decisions(host).length === 1, 'the edit');
      const decision = decisions(host)[0]!;
      assert.ok(decision.action === 'edit' && decision.proposalId === target.id);
      const before = decodeRle(target.rle, [0, 0, 1600, 1200]).data;
      const now = decodeRle(decision.rle, [0, 0, 1600, 1200]).data;
      const radius = 28 / 2 / scale;
      const bounds = (await canvas().boundingBox())!;
      const left = Number(await canvas().getAttribute('data-x'));
      const top = Number(await canvas().getAttribute('data-y'));
      // The pointer's whole-pixel position, as the browser reports it.
      const px = (at.x - bounds.x - left) / scale;
      const py = (at.y - bounds.y - top) / scale;
      for (let y = 0; y < 1200; y++) {
        for (let x = 0; x < 1600; x++) {
          const distance = Math.hypot(x + 0.5 - px, y + 0.5 - py);
          if (Math.abs(distance - radius) < 1.5 / scale) continue; // a CSS pixel of rounding
          const expected = distance < radius ? 1 : before[y * 1600 + x];
          if (now[y * 1600 + x] !== expected) assert.fail(`pixel ${x},${y} is ${now[y * 1600 + x]}`);
        }
      }
      await page.getByText('Edited as').waitFor();
    });
  });

  test('a stroke under way is saved with the decision, a polygon of two corners holds Enter back', async () => {
    await using({}, 'review/image/2', async (host) => {
      await ready();
      const [first, second] = proposalsOf(host, 2).sort((a, b) => b.score! - a.score!);
      const at = await onScreen(30, 30);
      await page.keyboard.press('KeyE');
      await page.mouse.move(at.x, at.y);
      await page.mouse.down();
      await page.mouse.move(at.x + 20, at.y + 10);
      await page.keyboard.press('Enter');
      await page.mouse.up();
      await until(() => decisions(host).length === 1, 'the edit');
      const [edit] = decisions(host);
      assert.ok(edit!.action === 'edit' && edit!.proposalId === first!.id && edit!.rle.counts !== first!.rle.counts);

      await page.keyboard.press('KeyP');
      for (const step of [0, 40]) await page.mouse.click(at.x + step, at.y + 60);
      await page.keyboard.press('Enter');
      await page.getByText('A polygon takes three corners').waitFor();
      assert.equal(decisions(host).length, 1);
      await page.mouse.click(at.x + 20, at.y + 90);
      await page.keyboard.press('Enter');
      await page.keyboard.press('Enter');
      await until(() => decisions(host).length === 2, 'the polygon');
      const [, polygon] = decisions(host);
      assert.ok(polygon!.action === 'edit' && polygon!.proposalId === second!.id);
    });
  });

  test('on the page of clusters nothing is decided in an image, and what is undone is what was done there', async () => {
    await using({}, 'review/image/1', async (host) => {
      await ready();
      await page.goto(`${served.url}#/review/clusters`);
      const card = page.getByRole('article').first();
      await card.waitFor();
      await page
        .getByRole('button', { name: /^Class / })
        .first()
        .click();
      const named = (): (number | null)[] =>
        host.calls.filter(({ name }) => name === 'nameCluster').map(({ input }) => (input as { classId: number | null }).classId);
      const box = card.getByRole('combobox');
      await box.fill('mildew');
      await box.press('Enter');
      await until(() => named().length === 1, 'the first name');
      await page.getByText('Named mildew').waitFor();
      const again = page.getByRole('article').filter({ hasText: 'mildew' }).getByRole('combobox');
      await again.fill('paper');
      await again.press('Enter');
      await page.getByText('Named paper').waitFor();
      await page.locator('h2').first().click();
      await page.keyboard.press('Control+KeyZ');
      await until(() => named().length === 3, 'the former name');
      assert.equal(named()[2], named()[0]);
      await until(() => host.calls.some(({ name }) => name === 'removeClass'), 'the class made for the name');
      await page.keyboard.press('Control+KeyZ');
      await until(() => named().length === 4, 'no name');
      assert.equal(named()[3], null);
      await page.keyboard.press('Control+KeyZ');
      await page.getByText('There is nothing to undo on this page.').waitFor();
      assert.deepEqual(decisions(host), []);
      assert.ok(!host.calls.some(({ name }) => name === 'undo'));
    });
  });

  test('a polygon makes a new object of the active class; holding Alt subtracts', async () => {
    await using({}, 'review/image/3', async (host) => {
      await ready();
      await page.keyboard.press('KeyN');
      await page.keyboard.press('Shift+Digit1');
      await page.keyboard.press('KeyP');
      const draw = async (points: readonly (readonly [number, number])[]): Promise<void> => {
        for (const [x, y] of points) {
          const at = await onScreen(x, y);
          await page.mouse.click(at.x, at.y);
        }
      };
      await draw([
        [400, 300],
        [800, 300],
        [800, 700],
        [400, 700],
      ]);
      await page.keyboard.press('Enter');
      await draw([
        [500, 400],
        [700, 400],
        [700, 600],
      ]);
      const last = await onScreen(500, 600);
      await page.keyboard.down('Alt');
      await page.mouse.click(last.x, last.y);
      await page.mouse.dblclick(last.x, last.y);
      await page.keyboard.up('Alt');
      await page.keyboard.press('Enter');
      await until(() => decisions(host).length === 1, 'the drawing');
      const decision = decisions(host)[0]!;
      assert.ok(decision.action === 'draw' && decision.imageId === 3 && decision.classId === 1);
      const patch = decodeRle(decision.rle);
      assert.ok(Math.abs(patch.width - 400) <= 4 && Math.abs(patch.height - 400) <= 4, `${patch.width} x ${patch.height}`);
      const area = patch.data.reduce((a, b) => a + b, 0);
      assert.ok(Math.abs(area - (160_000 - 40_000)) < 3500, `area ${area}`);
      assert.equal(patch.data[Math.floor(patch.height / 2) * patch.width + Math.floor(patch.width / 2)], 0, 'a hole in the middle');
    });
  });

  test('a refused decision is taken back and said; strokes survive a host that refuses and a reload', async () => {
    await using(
      {},
      'review/image/4',
      async (host) => {
        await ready();
        const count = await objects().count();
        host.failNext.set('decide', { code: 'disk-full', message: 'The disk is full.', action: 'Free some space, then go on.' });
        await page.keyboard.press('Delete');
        await page.getByRole('alert').getByText('Free some space, then go on.').waitFor();
        assert.equal(await objects().count(), count);
        await selected().waitFor();
        const target = (await selected().count()) === 1;
        assert.ok(target);
        await page.keyboard.press('KeyE');
        const at = await onScreen(60, 60);
        await page.mouse.move(at.x, at.y);
        await page.mouse.down();
        await page.mouse.move(at.x + 40, at.y + 10, { steps: 5 });
        await page.mouse.up();
        await page.reload();
        await page.getByText('Unsaved edit restored').waitFor();
        host.failNext.set('decide', { code: 'disk-full', message: 'Still full.', action: 'Free some space.' });
        await page.keyboard.press('Enter');
        await page.getByRole('alert').getByText('Still full.').waitFor();
        await page.reload();
        await page.getByText('Unsaved edit restored').waitFor();
        await page.keyboard.press('Enter');
        await until(() => decisions(host).length === 3, 'the third try');
        const saved = decisions(host)[2]!;
        assert.ok(saved.action === 'edit');
        const patch = decodeRle(saved.rle, [0, 0, 1600, 1200]);
        assert.equal(patch.data[60 * 1600 + 60], 1);
        await page.getByText('Edited as').waitFor();
        await page.reload();
        await ready();
        assert.equal(await page.getByText('Unsaved edit restored').count(), 0);
      },
      [/412/],
    );
  });

  test('leaving the image saves the strokes on it', async () => {
    await using({}, 'review/image/5', async (host) => {
      await ready();
      await page.keyboard.press('KeyX');
      const target = proposalsOf(host, 5).sort((a, b) => b.score! - a.score!)[0]!;
      const patch = decodeRle(target.rle);
      const inside = patch.data.indexOf(1, Math.floor(patch.data.length / 2));
      const at = await onScreen(patch.x + (inside % patch.width) + 0.5, patch.y + Math.floor(inside / patch.width) + 0.5);
      await page.mouse.move(at.x, at.y);
      await page.mouse.down();
      await page.mouse.up();
      await page.keyboard.press('KeyA'); // the last of the queue: back
      await until(() => decisions(host).length === 1, 'the save');
      const decision = decisions(host)[0]!;
      assert.ok(decision.action === 'edit' && decision.proposalId === target.id);
      assert.ok(decodeRle(decision.rle).data.reduce((a, b) => a + b, 0) < target.area);
      await page.waitForURL((url) => !url.hash.endsWith('/image/5'));
    });
  });

  test('what the machine replaces is read again: on coming back, and when a decision meets it; strokes on it live on', async () => {
    await using(
      {},
      'review/image/1',
      async (host) => {
        await ready();
        /** The same masks under new numbers. */
        const replace = (by: number): number[] => {
          const all = host.objects.get(1)!.map((o) => (o.kind === 'proposal' && o.state === 'proposed' ? { ...o, id: o.id + by } : o));
          host.objects.set(1, all);
          return proposalsOf(host, 1).map((o) => o.id);
        };
        const shown = async (ids: readonly number[]): Promise<void> => {
          for (const id of ids) await page.locator(`[data-kind=proposal][data-id="${id}"]`).waitFor();
        };
        await page.getByRole('link', { name: 'Train', exact: true }).click();
        await page.getByRole('button', { name: 'New run' }).waitFor();
        const second = replace(10_000);
        host.emit({ type: 'changed', what: 'proposals' });
        await page.waitForTimeout(100); // the page has heard of it
        await page.getByRole('link', { name: 'Review', exact: true }).click();
        await shown(second);
        await selected().waitFor();

        // Nobody was told of these.
        const third = replace(10_000);
        await page.keyboard.press('Enter');
        await page.getByText('That proposal had been replaced. The image was loaded again.').waitFor();
        await shown(third);
        await selected().waitFor();
        assert.equal(await page.getByRole('alert').count(), 0);

        await page.keyboard.press('KeyE');
        const at = await onScreen(60, 60);
        await page.mouse.move(at.x, at.y);
        await page.mouse.down();
        await page.mouse.move(at.x + 40, at.y + 10, { steps: 5 });
        await page.mouse.up();
        const fourth = replace(10_000);
        await page.keyboard.press('Enter');
        await page.getByText('Unsaved edit restored').waitFor();
        await shown(fourth);
        await page.keyboard.press('Enter');
        await until(() => decisions(host).at(-1)?.action === 'draw', 'the strokes as a new object');
        await page.locator('[data-kind=annotation][data-state=drawn]').waitFor();
      },
      [/412/],
    );
  });

  test('Done goes on to the next image, and the lists show the image as done', async () => {
    await using({}, 'review/image/1', async () => {
      await ready();
      const list = page.getByRole('list', { name: 'Images in the list' });
      await list.getByRole('button', { name: /^Image 1, \d+ in this list/ }).waitFor();
      await list.getByText('part_000001.jpg').waitFor();
      await page.getByRole('button', { name: 'Done', exact: true }).click();
      await page.waitForURL((url) => !url.hash.endsWith('/image/1'));
      await list.getByRole('button', { name: 'Image 1, done' }).waitFor();
      await page.getByRole('combobox', { name: 'Show' }).selectOption('All images');
      await list.getByRole('button', { name: 'Image 1, done' }).getByText('Done').waitFor();
      await list.getByRole('button', { name: /^Image 2, \d+ to review/ }).waitFor();
    });
    // Nothing is proposed: the list is the folder.
    await using({ proposed: 0 }, 'review/image/3', async () => {
      await canvas().waitFor();
      await page.getByRole('list', { name: 'Images in the list' }).getByRole('button', { name: 'Image 4, 0 to review' }).waitFor();
      await page.getByRole('button', { name: 'Done', exact: true }).click();
      await page.waitForURL((url) => url.hash.endsWith('/image/4'));
      await page.getByRole('button', { name: 'Image 3, done' }).waitFor();
    });
  });

  test('export: warnings, refusal by code, the list with links', async () => {
    await using(
      {},
      'export',
      async (host) => {
        await page.getByText('Nothing to export yet').waitFor();
        await page.getByRole('radio', { name: /Everything/ }).check();
        await page.getByRole('radio', { name: /polygons/ }).check();
        await page.getByText('3 objects have holes; COCO polygons will fill them.').waitFor();
        host.failNext.set('runExport', { code: 'disk-full', message: 'The disk is full.', action: 'Free some space.' });
        await page.getByRole('button', { name: 'Export', exact: true }).click();
        await page.getByRole('alert').getByText('The disk is full.').waitFor();
        await page.getByRole('button', { name: 'Export', exact: true }).click();
        const link = page.getByRole('link', { name: /annotations\.json/ });
        assert.equal(await link.getAttribute('href'), '/files/export/export-1/annotations.json');
        await page.getByText('exports/export-1').waitFor();
      },
      [/412/],
    );
  });

  test('published weights: a file is found in the page, compared, imported, proposed with; what is wrong is said in place', async () => {
    await using(
      {},
      'train',
      async (host) => {
        await page.getByRole('button', { name: 'Published weights' }).click();
        const line = page.getByRole('row', { name: 'dinov2_vits14_reg4_pretrain' });
        const address = 'https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/dinov2_vits14_reg4_pretrain.pth';
        assert.equal(await line.getByLabel('Address of').inputValue(), address);
        await line.getByText('88 MB').waitFor();
        const choose = async (name: RegExp): Promise<void> => {
          const dialog = page.getByRole('dialog');
          await dialog.getByRole('button', { name: 'data' }).click();
          await dialog.getByRole('button', { name: '2026-11' }).click();
          await dialog.getByRole('button', { name }).click();
        };

        // Not a SHA-256, then another one's, then the right one.
        await line.getByLabel('SHA-256 of').fill('abc');
        await line.getByText('A SHA-256 has 64 digits').waitFor();
        assert.equal(await line.getByRole('button').isDisabled(), true);
        await line.getByLabel('SHA-256 of').fill('0'.repeat(64));
        await line.getByRole('button').click();
        await choose(/vits14_reg4/);
        await page.getByRole('alert').getByText(`has the SHA-256 ${sha256OfFile}, not`).waitFor();
        await line.getByLabel('SHA-256 of').fill(` ${sha256OfFile.toUpperCase()}`);
        await line.getByRole('button').click();
        await choose(/vits14_reg4/);
        const imported = page.getByRole('list', { name: 'Imported weights' });
        await imported.getByText('384 wide, 12 blocks, patches of 14 px, position table 37 × 37 · heads: none').waitFor();
        await imported.getByText('as given').waitFor();
        await line.getByText('Imported, and this is its SHA-256').waitFor();
        assert.equal(await page.getByRole('alert').count(), 0);
        const asked = host.calls.filter(({ name }) => name === 'importWeights').map(({ input }) => input);
        assert.deepEqual(asked, [
          { fileId: 'file-reg', sha256: '0'.repeat(64) },
          { fileId: 'file-reg', sha256: sha256OfFile },
        ]);

        // Compared afterwards as well, and kept over a reload.
        await line.getByLabel('SHA-256 of').fill('1'.repeat(64));
        await line.getByText(`Another one: the imported file has ${sha256OfFile.slice(0, 12)}`).waitFor();
        await page.reload();
        await page.getByRole('button', { name: 'Published weights' }).click();
        assert.equal(await line.getByLabel('SHA-256 of').inputValue(), '1'.repeat(64));

        // A file of another network than the line's.
        await page.getByRole('button', { name: 'Choose dinov2_vitb14_pretrain.pth' }).click();
        await choose(/vits14_reg4/);
        await page.getByText('This is ViT small, 4 registers, not the ViT base of that line.').waitFor();
        await page.getByRole('button', { name: 'Import a file…' }).click();
        await choose(/model\.safetensors/);
        await page.getByRole('alert').getByText('Git LFS pointer').waitFor();

        await imported.getByRole('button', { name: 'Propose masks' }).click();
        await page.getByRole('dialog', { name: 'Propose masks' }).getByRole('button', { name: 'Propose masks' }).click();
        await until(() => host.calls.some(({ name }) => name === 'startPrelabel'), 'proposing');
        const propose = host.calls.find(({ name }) => name === 'startPrelabel')!.input;
        assert.deepEqual(propose, { runId: null, step: null, weightsId: sha256OfFile.slice(0, 16), passes: 1 });
        await imported.getByRole('button', { name: 'Remove dinov2_vits14_reg4_pretrain.pth' }).click();
        await imported.waitFor({ state: 'detached' });
      },
      [/412/],
    );
  });

  test('the network is written in the chosen format, and a refusal is said in place', async () => {
    await using(
      {},
      'export',
      async (host) => {
        const section = page.getByRole('region', { name: 'The network' });
        await section.getByText('Networks you write are listed here.').waitFor();
        await section.getByRole('combobox', { name: 'Checkpoint' }).selectOption('600');
        await section.getByRole('radio', { name: /Hand-over/ }).check();
        host.failNext.set('exportNetwork', { code: 'disk-full', message: 'The disk is full.', action: 'Free some space.' });
        await section.getByRole('button', { name: 'Write the network' }).click();
        await section.getByRole('alert').getByText('The disk is full.').waitFor();
        await section.getByRole('button', { name: 'Write the network' }).click();
        await section.getByRole('list', { name: 'Written networks' }).getByText('-hand-over').waitFor();
        assert.equal(await section.getByRole('alert').count(), 0);
        const asked = host.calls.filter(({ name }) => name === 'exportNetwork').map(({ input }) => input);
        assert.deepEqual(asked.at(-1), { network: { runId: 'run-2', step: 600 }, format: 'hand-over' });
      },
      [/412/],
    );
  });

  test('keys are shown by ?, the theme can be set, a lost host is said', async () => {
    await using(
      {},
      'review/image/1',
      async (host) => {
        await ready();
        await page.keyboard.press('F1');
        await page.getByRole('dialog', { name: 'Keys in review' }).getByText('Accept and go on').waitFor();
        await page.keyboard.press('Escape');
        await page.getByRole('button', { name: 'Settings' }).click();
        await page.getByRole('radio', { name: 'Dark' }).click();
        await page.locator('html[data-theme=dark]').waitFor({ state: 'attached' });
        assert.equal((host.calls.find((call) => call.name === 'saveSettings')?.input as { theme: string }).theme, 'dark');
        await page.keyboard.press('Escape');
        await served.close();
        await page.getByText('Connection lost').waitFor();
      },
      [/ERR_|Failed to load/],
    );
  });
});
