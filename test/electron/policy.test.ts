/** Where the window may go, what it may load, where it opens. */
import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { readWindowState, writeWindowState } from '../../electron/bounds.ts';
import { menuTemplate } from '../../electron/menu.ts';
import { mayNavigate, mayRequest } from '../../electron/policy.ts';

const origin = 'http://127.0.0.1:40123';

test('the window stays on the host’s page', () => {
  const answers = {
    [`${origin}/`]: true,
    [`${origin}/review?image=3#mask`]: true,
    'http://127.0.0.1:40124/': false,
    'https://127.0.0.1:40123/': false,
    'http://127.0.0.1:40123@example.org/': false,
    'http://127.0.0.1.example.org:40123/': false,
    'http://localhost:40123/': false,
    'file:///etc/passwd': false,
    'javascript:alert(1)': false,
    'about:blank': false,
    'not a url': false,
    '': false,
  };
  assert.deepEqual(Object.fromEntries(Object.keys(answers).map((url) => [url, mayNavigate(url, origin)])), answers);
  // While no engine runs there is no page to go to.
  assert.equal(mayNavigate(`${origin}/`, ''), false);
  // The origin of every file is the word null.
  assert.equal(mayNavigate('file:///x', 'null'), false);
});

test('the page loads from the host and from memory only', () => {
  const answers = {
    [`${origin}/assets/app.js`]: true,
    'ws://127.0.0.1:40123/events': true,
    [`blob:${origin}/0f1e`]: true,
    'data:image/png;base64,AA==': true,
    'ws://127.0.0.1:40124/events': false,
    'wss://example.org/': false,
    'blob:https://example.org/0f1e': false,
    'https://example.org/dictionary.bdic': false,
    'http://192.168.1.4:40123/': false,
    'file:///home/me/photo.jpg': false,
    'chrome-extension://abc/x.js': false,
    'not a url': false,
  };
  assert.deepEqual(Object.fromEntries(Object.keys(answers).map((url) => [url, mayRequest(url, origin)])), answers);
});

test('window state: written whole, read back, ignored when damaged or out of reach', (t) => {
  const folder = mkdtempSync(path.join(tmpdir(), 'patchwise-bounds-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const file = path.join(folder, 'new folder', 'window.json');
  const laptop = { x: 0, y: 25, width: 1440, height: 875 };
  const left = { x: -1920, y: 0, width: 1920, height: 1080 };
  const state = { x: -1800, y: 40, width: 1500, height: 900, maximized: true };

  assert.equal(readWindowState(file, [laptop]), null);
  writeWindowState(file, state);
  assert.deepEqual(readdirSync(path.dirname(file)), ['window.json'], 'no temporary file stays');
  assert.deepEqual(readWindowState(file, [laptop, left]), state);
  assert.equal(readWindowState(file, [laptop]), null, 'the display on the left was taken away');

  for (const text of ['', '{"x":1', 'null', '[]', '{"x":0,"y":30,"width":1e9999,"height":900}', '{"x":0,"y":30,"width":10,"height":10}']) {
    writeFileSync(file, text);
    assert.equal(readWindowState(file, [laptop]), null, text);
  }
  writeWindowState(file, { ...state, x: 10, y: 30, maximized: false });
  assert.deepEqual(JSON.parse(readFileSync(file, 'utf8')), { x: 10, y: 30, width: 1500, height: 900, maximized: false });
});

test('the menu has the standard roles, and Keys under Help', () => {
  let shown = 0;
  const roles = (platform: NodeJS.Platform) => menuTemplate(platform, { showKeys: () => shown++ }).map(({ role }) => role);
  assert.deepEqual(roles('linux'), ['fileMenu', 'editMenu', 'viewMenu', 'windowMenu', 'help']);
  assert.deepEqual(roles('darwin'), ['appMenu', 'fileMenu', 'editMenu', 'viewMenu', 'windowMenu', 'help']);
  const help = menuTemplate('win32', { showKeys: () => shown++ }).at(-1)!.submenu;
  assert.ok(Array.isArray(help));
  const keys = help.find(({ label }) => label === 'Keys')!;
  (keys.click as () => void)();
  assert.equal(shown, 1);
});
