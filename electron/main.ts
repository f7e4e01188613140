/** Electron's entry: where the engine's files are, in a checkout and in an installed app. Everything else is shell.ts. */
import path from 'node:path';
import * as electron from 'electron';
import { startShell } from './shell.ts';

const installed = electron.app.isPackaged;
// dist/electron/main.js of the checkout, or resources/app.asar; the engine is unpacked beside it (build/electron-builder.ts).
const engineRoot = installed ? path.join(process.resourcesPath, 'engine') : path.resolve(import.meta.dirname, '../..');
const node = installed
  ? path.join(process.resourcesPath, 'node', process.platform === 'win32' ? 'node.exe' : 'node')
  : // Only build/start.ts starts a checkout's Electron; it knows which Node npm brought.
    process.env['PATCHWISE_NODE'];
if (!node) throw new Error('Start Patchwise with `npm start`.');

const project = process.argv.indexOf('--project');
const projectDir = project < 0 ? undefined : process.argv[project + 1];

// Not awaited: Electron is ready only after this module has been evaluated.
startShell({
  electron,
  node,
  entry: path.join(engineRoot, 'core/host/main.ts'),
  args: projectDir === undefined ? [] : ['--project', projectDir],
  preload: path.join(import.meta.dirname, 'preload.cjs'),
  icon: path.join(engineRoot, 'build/icon.png'),
}).catch((error: unknown) => {
  electron.dialog.showErrorBox('Patchwise could not start', error instanceof Error ? error.message : String(error));
  electron.app.exit(1);
});
