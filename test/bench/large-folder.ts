// A folder of N small files through the real host and a real Chromium: scan, open, scroll. Prints times, the longest pause
// between two frames while scrolling, and the peak memory of host and worker (Linux: VmHWM).
// Run: node test/bench/large-folder.ts [N, default 20000]   (build the page first: npm start does)
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { chromium } from 'playwright-core';
import { chrome, chromeFlags, startHostProcess } from '../e2e/browser.ts';
import { encoder, photo } from '../fixtures/pictures.ts';

const count = Number(process.argv[2] ?? '20000');
if (!chrome) throw new Error('no Chromium found (set CHROMIUM to its path)');
const place = await mkdtemp(path.join(tmpdir(), 'patchwise-large-'));
const peaks = new Map<string, number>();

/** Peak memory so far of the host and of its children, by role. */
async function lookAtMemory(hostPid: number): Promise<void> {
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
    const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '');
    const parent = Number(/^PPid:\s+(\d+)/m.exec(status)?.[1]);
    const role = Number(pid) === hostPid ? 'host' : parent === hostPid ? 'worker' : null;
    const kilobytes = Number(/^VmHWM:\s+(\d+)/m.exec(status)?.[1] ?? 0);
    if (role) peaks.set(role, Math.max(peaks.get(role) ?? 0, kilobytes));
  }
}

/** In the page: scrolls for ten seconds and gives the longest pause between two frames in ms. Text, as Node's types know no page. */
const scroll = `(async () => {
  const area = document.querySelector('ul[aria-label=Images]').parentElement;
  const started = performance.now();
  let last = started;
  let worst = 0;
  while (last - started < 10000) {
    await new Promise(requestAnimationFrame);
    const now = performance.now();
    worst = Math.max(worst, now - last);
    last = now;
    area.scrollTop += 900;
  }
  return worst;
})()`;

const seconds = (since: number): string => `${((performance.now() - since) / 1000).toFixed(1)} s`;

try {
  const pictures = await Promise.all(
    Array.from({ length: 8 }, (_, i) =>
      encoder(photo(i, 96, 72))
        .jpeg()
        .toBuffer(),
    ),
  );
  for (let i = 0; i < count; i++) {
    const folder = path.join(place, 'pictures', 'photos', `batch ${Math.floor(i / 1000)}`);
    if (i % 1000 === 0) await mkdir(folder, { recursive: true });
    await writeFile(path.join(folder, `${i}.jpg`), Buffer.concat([pictures[i % 8], Buffer.from(String(i))]));
  }
  const host = await startHostProcess(['--root', path.join(place, 'pictures'), '--projects', path.join(place, 'projects')], {
    PATCHWISE_CONFIG_DIR: path.join(place, 'config'),
  });
  const watch = setInterval(() => void lookAtMemory(host.process.pid!), 250);
  const browser = await chromium.launch({ executablePath: chrome, args: chromeFlags });
  try {
    const page = await (await browser.newContext({ viewport: { width: 1440, height: 900 } })).newPage();
    page.setDefaultTimeout(300_000);
    await page.goto(host.url);
    await page.getByRole('button', { name: /^Images/ }).click();
    const folders = page.getByRole('dialog');
    await folders.getByRole('button', { name: 'pictures' }).click();
    await folders.getByRole('button', { name: /photos/ }).click();
    await folders.getByRole('button', { name: 'Use this folder' }).click();
    await page.getByLabel('Project name').fill('Large');
    const scan = performance.now();
    await page.getByRole('button', { name: 'Create project' }).click();
    const scanned =
      "fetch('/trpc/jobs').then((r) => r.json()).then((a) => a.result.data.some((j) => j.kind === 'scan' && j.state === 'finished'))";
    await page.getByRole('heading', { name: 'Large' }).waitFor();
    while (!(await page.evaluate(scanned))) await new Promise((done) => setTimeout(done, 100));
    console.log(`scan of ${count} files with the page open: ${seconds(scan)}`);

    const origin = new URL(host.url).origin;
    const open = performance.now();
    await page.goto(`${origin}/#/images`);
    const grid = page.getByRole('list', { name: 'Images' });
    await grid.getByRole('listitem').first().waitFor();
    console.log(`image page shows its first row: ${seconds(open)}`);
    const longest = (await page.evaluate(scroll)) as number;
    console.log(`longest pause between two frames in 10 s of scrolling: ${longest.toFixed(0)} ms`);
    const last = performance.now();
    await page.evaluate("document.querySelector('ul[aria-label=Images]').parentElement.scrollTop = 1e9");
    await grid.locator('img').first().waitFor();
    console.log(`jump to the end: ${seconds(last)}, ${await grid.getByRole('listitem').count()} rows in the page`);
  } finally {
    clearInterval(watch);
    await browser.close();
    await host.end('SIGTERM');
  }
  for (const [role, kilobytes] of peaks) console.log(`peak memory of the ${role}: ${Math.round(kilobytes / 1024)} MB`);
} finally {
  await rm(place, { recursive: true, force: true });
}
