import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { defaultConfigDir, UserConfig } from '../../core/host/recent.ts';
import { temporaryFolder } from '../fixtures/files.ts';

test('recent projects: newest first, once, not those whose folder is gone for now', (t) => {
  const folder = temporaryFolder(t);
  const config = new UserConfig(join(folder, 'config'));
  assert.deepEqual(config.recent(), []);
  for (const name of ['a', 'b', 'a']) {
    mkdirSync(join(folder, name), { recursive: true });
    config.remember(name.toUpperCase(), join(folder, name));
  }
  config.remember('Gone', join(folder, 'gone'));
  const again = new UserConfig(join(folder, 'config'));
  assert.deepEqual(
    again.recent().map(({ name, location }) => [name, location]),
    [
      ['A', join(folder, 'a')],
      ['B', join(folder, 'b')],
    ],
  );
  mkdirSync(join(folder, 'gone'));
  assert.deepEqual(
    again.recent().map(({ name }) => name),
    ['Gone', 'A', 'B'],
  );
  assert.equal(again.locationOf(again.recent()[0]!.id), join(folder, 'gone'));
  assert.equal(again.locationOf('no such id'), undefined);
  assert.deepEqual(readdirSync(join(folder, 'config')), ['recent.json'], 'no temporary file is left');
});

test('settings: kept; a damaged file is replaced, a newer one is left alone', (t) => {
  const folder = temporaryFolder(t);
  const file = join(folder, 'settings.json');
  const config = new UserConfig(folder);
  const defaults = { reviewer: '', perReviewerFigures: false, theme: 'system' } as const;
  assert.deepEqual(config.settings(), defaults);
  config.saveSettings({ reviewer: 'Ada', perReviewerFigures: true, theme: 'dark' });
  assert.deepEqual(new UserConfig(folder).settings(), { reviewer: 'Ada', perReviewerFigures: true, theme: 'dark' });
  writeFileSync(file, '{"version": 1, "reviewer": "A');
  assert.deepEqual(config.settings(), defaults);
  config.saveSettings({ ...defaults, reviewer: 'Bea' });
  assert.equal(config.settings().reviewer, 'Bea');
  const newer = '{"version": 2, "reviewer": {"first": "Ada"}}';
  writeFileSync(file, newer);
  config.saveSettings(defaults);
  assert.deepEqual([config.settings(), readFileSync(file, 'utf8')], [defaults, newer]);
});

test('the last port: kept, and only when it is one', (t) => {
  const folder = temporaryFolder(t);
  const config = new UserConfig(folder);
  assert.equal(config.port(), null);
  config.savePort(40_123);
  assert.equal(new UserConfig(folder).port(), 40_123);
  for (const port of ['"80"', '0', '70000', '1.5', 'null']) {
    writeFileSync(join(folder, 'port.json'), `{"version": 1, "port": ${port}}`);
    assert.equal(config.port(), null, port);
  }
});

test('the config folder of each system, and of tests', () => {
  assert.equal(defaultConfigDir({ PATCHWISE_CONFIG_DIR: '/x' }, 'win32'), '/x');
  assert.match(defaultConfigDir({ APPDATA: 'R' }, 'win32'), /^R.Patchwise$/);
  assert.match(defaultConfigDir({}, 'darwin'), /Library.Application Support.Patchwise$/);
  assert.equal(defaultConfigDir({ XDG_CONFIG_HOME: '/home/a/.cfg' }, 'linux'), '/home/a/.cfg/patchwise');
});
