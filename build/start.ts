/**
 * Opens the app: npm start -- [PROJECT_DIR] [--browser]. In Electron when its program is there (fetched once, at the
 * first start, when it can be), else in the person's own browser. Ctrl+C ends everything it started.
 */
import { existsSync } from 'node:fs';
import { homedir } from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { electronProgram, electronVersion, fetchElectron } from './electron-program.ts';
import { openInBrowser, startHost } from './in-browser.ts';
import { supervise } from './supervise.ts';

const root = path.resolve(import.meta.dirname, '..');

const usage = `Usage: npm start -- [PROJECT_DIR] [options]

  PROJECT_DIR    open this project
  --browser      use the browser even when Electron is there
  --no-open      with --browser: print the address, open nothing
  --root DIR     with --browser: a folder that the page may look into; repeatable, your home folder when left out`;

/** An Electron that dies sooner than this after its start never showed a window: no display, no sandbox, wrong libraries. */
const startingMs = 15_000;

async function main(): Promise<number> {
  let parsed;
  try {
    parsed = parseArgs({
      allowPositionals: true,
      options: {
        browser: { type: 'boolean', default: false },
        open: { type: 'boolean', default: true },
        root: { type: 'string', multiple: true, default: [] },
        help: { type: 'boolean', short: 'h', default: false },
      },
      allowNegative: true,
    });
  } catch (error) {
    console.error(`${(error as Error).message}\n\n${usage}`);
    return 2;
  }
  const { values, positionals } = parsed;
  if (values.help) {
    console.log(usage);
    return 0;
  }
  if (positionals.length > 1) {
    console.error(`One project at a time: ${positionals.join(', ')}.\n\n${usage}`);
    return 2;
  }
  const project = positionals[0] === undefined ? null : path.resolve(positionals[0]);
  if (project !== null && !existsSync(project)) {
    console.error(`There is no folder ${project}. Give the folder of a Patchwise project, or none to choose one in the app.`);
    return 2;
  }
  const projectArgs = project === null ? [] : ['--project', project];

  let why = 'As asked';
  if (!values.browser) {
    const present = electronProgram(root);
    const electron = present ? { program: present } : await fetchElectron(root);
    if (electron.program === null) why = `Electron is not installed here (${electron.reason})`;
    else if (process.platform === 'linux' && !process.env['DISPLAY'] && !process.env['WAYLAND_DISPLAY']) why = 'There is no display here';
    else {
      const started = performance.now();
      const { code, signal } = await supervise(electron.program, [root, ...projectArgs], {
        env: { ...process.env, PATCHWISE_NODE: process.execPath },
      });
      const asked = code === 0 || signal === 'SIGINT' || signal === 'SIGTERM';
      if (asked || performance.now() - started > startingMs) return code ?? (asked ? 0 : 1);
      why = `Electron ${electronVersion(root)} could not start (${signal ?? `exit code ${code}`}; its words are above)`;
    }
  }
  const folders = values.root.length ? values.root.map((folder) => path.resolve(folder)) : [homedir()];
  const roots = folders.flatMap((folder) => ['--root', folder]);
  const host = await startHost(root, [...roots, ...projectArgs]);
  console.log(`${why}, opening in your browser: ${host.url}`);
  if (values.open) openInBrowser(host.url);
  return host.ended;
}

process.exitCode = await main();
