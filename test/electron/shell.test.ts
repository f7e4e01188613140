/** The window around the page: a stand-in for Electron's API, real engine processes. */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test, type TestContext } from 'node:test';
import { startShell } from '../../electron/shell.ts';
import { PreventableEvent, StandInElectron } from './stand-in-electron.ts';

function shell(t: TestContext, ...args: string[]) {
  const folder = mkdtempSync(path.join(tmpdir(), 'patchwise-shell-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const electron = new StandInElectron(folder);
  const start = () =>
    startShell({
      electron: electron.api,
      node: process.execPath,
      entry: path.join(import.meta.dirname, 'stand-in-host.mjs'),
      args: args.map((arg) => arg.replace('FOLDER', folder)),
      preload: '/app/preload.cjs',
      icon: '/app/icon.png',
    });
  return { electron, folder, start };
}

/** Quits as a person does and waits until the app is gone. */
async function quit(electron: StandInElectron): Promise<void> {
  const gone = electron.next('quit');
  electron.quit();
  await gone;
}

test('one window, locked to the host’s page; quitting ends the engine and remembers the window', async (t) => {
  const { electron, folder, start } = shell(t, 'works');
  await start();
  const [window] = electron.windows;
  assert.ok(window);
  const url = String(electron.named('loadURL')[0]?.args[0]);
  assert.match(url, /^http:\/\/127\.0\.0\.1:40123\/\?token=\d+$/);

  const { webPreferences, ...options } = window.options;
  const { session, ...preferences } = webPreferences as Record<string, unknown>;
  assert.ok(session);
  assert.deepEqual(preferences, {
    preload: '/app/preload.cjs',
    sandbox: true,
    contextIsolation: true,
    nodeIntegration: false,
    webviewTag: false,
    spellcheck: false,
    webSecurity: true,
    navigateOnDragDrop: false,
  });
  assert.equal(options['show'], false);
  assert.deepEqual(electron.named('app.enableSandbox').length, 1);
  const switches = electron.named('appendSwitch').map(({ args }) => args[0]);
  for (const name of [
    'disable-background-networking',
    'disable-component-update',
    'disable-domain-reliability',
    'no-proxy-server',
    'host-resolver-rules',
  ]) {
    assert.ok(switches.includes(name), name);
  }
  assert.deepEqual(electron.named('session.setSpellCheckerEnabled')[0]?.args, [false]);
  assert.deepEqual(electron.named('session.setProxy')[0]?.args, [{ mode: 'direct' }]);
  assert.deepEqual(
    electron.named('session.fromPartition')[0]?.args,
    ['persist:patchwise', { cache: false }],
    'drafts are kept, pictures are not',
  );

  // Away from the host's page, new windows, permissions, requests elsewhere: all refused.
  const tried = (event: string, to: string) => {
    const attempt = new PreventableEvent(to);
    window.webContents.emit(event, attempt);
    return !attempt.prevented;
  };
  for (const event of ['will-navigate', 'will-redirect', 'will-frame-navigate']) {
    assert.deepEqual([tried(event, 'https://example.org/'), tried(event, 'http://127.0.0.1:40123/review')], [false, true], event);
  }
  assert.deepEqual(window.openHandler(), { action: 'deny' });
  const webview = new PreventableEvent();
  electron.app.emit('web-contents-created', {}, window.webContents);
  window.webContents.emit('will-attach-webview', webview);
  assert.equal(webview.prevented, true);
  const answers: unknown[] = [];
  const answer = (value: unknown) => answers.push(value);
  const { handlers } = electron;
  (handlers['permissionRequest'] as (...args: unknown[]) => void)(null, 'geolocation', answer);
  (handlers['beforeRequest'] as (...args: unknown[]) => void)({ url: 'https://example.org/dictionary.bdic' }, answer);
  (handlers['beforeRequest'] as (...args: unknown[]) => void)({ url: 'http://127.0.0.1:40123/assets/app.js' }, answer);
  assert.deepEqual(answers, [false, { cancel: true }, { cancel: false }]);
  assert.deepEqual([handlers['permissionCheck']?.(), handlers['devicePermission']?.()], [false, false]);

  window.emit('ready-to-show');
  electron.app.emit('second-instance');
  window.webContents.emit('render-process-gone', {}, { reason: 'crashed' });
  assert.deepEqual(
    ['show', 'restore', 'focus', 'reload'].map((name) => electron.named(name).length),
    [1, 1, 1, 1],
  );

  await quit(electron);
  assert.deepEqual(JSON.parse(readFileSync(path.join(folder, 'window.json'), 'utf8')), {
    x: 20,
    y: 30,
    width: 1300,
    height: 800,
    maximized: false,
  });
  assert.throws(() => process.kill(Number(new URL(url).searchParams.get('token')), 0), 'the engine has ended');
});

test('a window opens where it was closed', async (t) => {
  const { electron, start } = shell(t, 'works');
  await start();
  await quit(electron);
  await start();
  const { x, y, width, height } = electron.windows[0]!.options;
  await quit(electron);
  assert.deepEqual({ x, y, width, height }, { x: 20, y: 30, width: 1300, height: 800 });
});

test('a second instance starts no engine and quits', async (t) => {
  const { electron, start } = shell(t, 'works');
  electron.isFirstInstance = false;
  await start();
  assert.deepEqual([electron.named('app.quit').length, electron.named('loadURL').length, electron.windows.length], [1, 0, 0]);
});

test('a killed engine is explained and, if wanted, started again in the same window', async (t) => {
  const { electron, start } = shell(t, 'crashes-once', 'FOLDER/crashed');
  electron.clicks.push(0);
  const asked = electron.next('dialog.showMessageBox');
  await start();
  await asked;
  await electron.next('loadURL');
  const [call] = electron.named('dialog.showMessageBox');
  const { message, detail, buttons } = call?.args[1] as Record<string, unknown>;
  assert.equal(call?.args[0], electron.windows[0]);
  assert.equal(message, 'The engine stopped');
  assert.match(String(detail), /^The system ended the engine \(SIGKILL\)/);
  assert.deepEqual(buttons, ['Restart', 'Quit']);
  const urls = electron.named('loadURL').map(({ args }) => args[0]);
  assert.equal(new Set(urls).size, 2, 'the new engine has a new token');
  assert.equal(electron.windows.length, 1);
  await quit(electron);
  assert.equal(electron.named('dialog.showMessageBox').length, 1);
});

test('an engine that cannot start is explained without a window; Quit ends the app', async (t) => {
  const { electron, start } = shell(t, 'dies-at-start');
  electron.clicks.push(0, 1);
  const gone = electron.next('quit');
  await start();
  await gone;
  const details = electron.named('dialog.showMessageBox').map(({ args }) => String((args[0] as Record<string, unknown>)['detail']));
  assert.equal(details.length, 2, 'tried again once, as asked');
  for (const detail of details) assert.match(detail, /^The engine ended with exit code 3\.\nproject\.sqlite is held by another app\n/);
  assert.equal(electron.windows.length, 0);
});

test('the engine’s question for a folder becomes a native dialog', async (t) => {
  const { electron, start } = shell(t, 'asks');
  electron.folder = { canceled: false, filePaths: ['/photos'] };
  const asked = electron.next('dialog.showOpenDialog');
  await start();
  await asked;
  const options = electron.named('dialog.showOpenDialog')[0]?.args.at(-1);
  assert.deepEqual(options, {
    title: 'Choose a folder of images',
    message: 'Choose a folder of images',
    properties: ['openDirectory', 'createDirectory'],
  });
  await quit(electron);
});

test('the engine’s question for a file of weights becomes a native dialog for one file', async (t) => {
  const { electron, start } = shell(t, 'asks-for-weights');
  electron.folder = { canceled: false, filePaths: ['/downloads/dinov2_vits14_pretrain.pth'] };
  const asked = electron.next('dialog.showOpenDialog');
  await start();
  await asked;
  assert.deepEqual(electron.named('dialog.showOpenDialog')[0]?.args.at(-1), {
    title: 'Choose a file of DINOv2 weights',
    message: 'Choose a file of DINOv2 weights',
    properties: ['openFile'],
    filters: [{ name: 'DINOv2 weights', extensions: ['pth', 'pt', 'bin', 'ckpt', 'safetensors'] }],
  });
  await quit(electron);
});
