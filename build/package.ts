/**
 * Builds this platform's installers into dist/packages: npm run package [-- --dir]. --dir stops at the unpacked app.
 * electron-builder fetches Electron and the packaging tools the first time; nothing is published.
 */
import path from 'node:path';
import { parseArgs } from 'node:util';
import { build, Platform } from 'electron-builder';
import { configuration } from './electron-builder.ts';

const root = path.resolve(import.meta.dirname, '..');
const { values } = parseArgs({ options: { dir: { type: 'boolean', default: false } } });

try {
  const files = await build({
    projectDir: root,
    targets: Platform.current().createTarget(values.dir ? 'dir' : null),
    config: configuration(root, { platform: process.platform, arch: process.arch }),
    publish: 'never',
  });
  console.log(files.length ? `Built:\n${files.map((file) => `  ${path.relative(root, file)}`).join('\n')}` : 'Built dist/packages.');
} catch (error) {
  const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
  console.error(text);
  if (/fetch failed|ENOTFOUND|ECONNREFUSED|ETIMEDOUT|EAI_AGAIN|ENETUNREACH|cannot resolve|Response code/i.test(text)) {
    console.error(
      '\nThe installers were not built: Electron or a packaging tool could not be fetched, see above. ' +
        'They come from GitHub at the first build and are kept; go online once, or set ELECTRON_BUILDER_BINARIES_MIRROR and ELECTRON_MIRROR.',
    );
  }
  process.exitCode = 1;
}
