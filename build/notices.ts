/**
 * Writes THIRD_PARTY_NOTICES.md: what the installers carry that others wrote, under which licence, with the texts. Read
 * from the lock file and the installed packages: node build/notices.ts. A test says when the file is out of date.
 */
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { nodePackages, projectRoot } from './bootstrap.mjs';
import { enginePackages, readLock } from './electron-builder.ts';

/** Packages whose code Vite puts into the page; a test compares them with a build. */
export const pagePackages = ['@trpc/client', '@trpc/server', 'clsx', 'svelte'];
/** The kernels hold parts of its standard library. */
const kernelPackages = ['assemblyscript'];

interface Row {
  readonly name: string;
  readonly version: string;
  readonly license: string;
  readonly place: string;
}

/** Packages in the installers of all platforms, sorted by name. */
function shippedPackages(root: string): Row[] {
  const lock = readLock(root);
  const targets = Object.keys(nodePackages).map((key) => key.split('-') as [NodeJS.Platform, string]);
  const engine = targets.flatMap(([platform, arch]) => enginePackages(lock, { platform, arch }));
  const places = new Set([...engine, ...[...pagePackages, ...kernelPackages].map((name) => `node_modules/${name}`)]);
  return [...places].sort().map((place) => {
    const { version, license } = lock[place]!;
    const name = place.replace(/^.*node_modules\//, '');
    if (!license) throw new Error(`${name} ${version} names no licence; find out which it is before shipping it.`);
    return { name, version, license, place };
  });
}

/** What is inside sharp's libvips: library, version where it is told, licence; from the package's own list. */
function libvipsRows(root: string): string[] {
  const folder = path.join(root, 'node_modules/@img/sharp-libvips-linux-x64');
  const versions = JSON.parse(readFileSync(path.join(folder, 'versions.json'), 'utf8')) as Record<string, string>;
  const rows = readFileSync(path.join(folder, 'README.md'), 'utf8').matchAll(/^\| (\S+) +\| (.+?) +\|$/gm);
  const versionOf = (name: string) => versions[name] ?? versions[name.replace(/^lib/, '')] ?? versions[name.replace('libultra', 'u')] ?? '';
  return [...rows].flatMap(([, name, terms]) => (name === 'Library' ? [] : [`| ${name} | ${versionOf(name!)} | ${terms} |`]));
}

/** The text in the package; else the one its program begins with; the Apache License, which is ours too, is in LICENSE. */
function licenseText(root: string, { name, place, license }: Row): string {
  const folder = path.join(root, place);
  const files = readdirSync(folder).filter((file) => /^(licen[cs]e|notice)(\.(md|txt))?$/i.test(file));
  if (files.length === 0) {
    const program = path.join(folder, `${name}.js`);
    const comment = existsSync(program) ? /^\/\*\n([\s\S]+?)\*\//.exec(readFileSync(program, 'utf8'))?.[1] : undefined;
    if (comment?.includes('Permission is hereby granted')) return comment.trim();
    if (license === 'Apache-2.0') return 'The package brings no text of its own; the Apache License, Version 2.0, is in LICENSE.';
    throw new Error(`${name} brings no licence text.`);
  }
  return files
    .sort()
    .map((file) => readFileSync(path.join(folder, file), 'utf8').replaceAll('\r\n', '\n').trim())
    .join('\n\n');
}

/** The whole file. Needs an install on Linux x64, where the list of libvips's libraries is read. */
export function notices(root: string): string {
  const lock = readLock(root);
  const rows = shippedPackages(root);
  const nodes = Object.entries(nodePackages).map(([platform, { name }]) => `${lock[`node_modules/${name}`]!.version} (${platform})`);
  // The libraries of other platforms are not installed here; sharp's own text is theirs too.
  const texts = rows.filter(({ name }) => !name.startsWith('@img/sharp-')).map((row) => ({ ...row, text: licenseText(root, row) }));
  return `# Third-party notices

Patchwise is licensed under Apache-2.0 (LICENSE). Its installers also carry the software below. This file is written by
\`node build/notices.ts\` from the lock file; a test says when it is out of date.

| Component | Version | Licence | Where it lies |
|---|---|---|---|
| Electron | ${lock['node_modules/electron']!.version} | MIT | the program; LICENSE.electron.txt beside it |
| Chromium, FFmpeg and what else Electron holds | of that Electron | BSD-3-Clause and others | the program; LICENSES.chromium.html beside it |
| Node.js | ${nodes.join(', ')} | MIT and others | resources/node; resources/licenses/Node.js.txt |
${rows.map(({ name, version, license }) => `| ${name} | ${version} | ${license} | ${whereabouts(name)} |`).join('\n')}

Of the @img/sharp packages an installer carries those of its own platform only.

## libvips and the libraries in it (LGPL)

sharp decodes and scales pictures with libvips, which comes as a shared library of its own
(\`resources/engine/node_modules/@img/sharp-libvips-*/lib\`; on Windows, \`@img/sharp-win32-x64/lib\`) and is used
unchanged, under the GNU Lesser General Public License, version 3 or later. The texts are in \`resources/licenses\`
(LGPL-3.0.txt and, because it refers to it, GPL-3.0.txt). You may replace the library by your own build with the same
interface: put it in that place. Its source and build recipe: https://github.com/lovell/sharp-libvips and
https://github.com/libvips/libvips, at the versions named here. It is linked with:

| Library | Version | Licence |
|---|---|---|
${libvipsRows(root).join('\n')}

## Licence texts

Electron's, Chromium's and Node.js's are files of their own, named above. The @img/sharp packages are under sharp's
text, libvips under the LGPL.

${texts.map(({ name, version, text }) => `### ${name} ${version}\n\n\`\`\`\`text\n${text}\n\`\`\`\`\n`).join('\n')}`;
}

function whereabouts(name: string): string {
  const places = [
    ...(kernelPackages.includes(name) ? ['resources/engine/dist/wasm'] : []),
    ...(pagePackages.includes(name) ? ['resources/engine/dist/renderer'] : []),
    ...(kernelPackages.includes(name) || (pagePackages.includes(name) && name !== '@trpc/server') ? [] : ['resources/engine/node_modules']),
  ];
  return places.join(', ');
}

if (import.meta.main) writeFileSync(path.join(projectRoot, 'THIRD_PARTY_NOTICES.md'), notices(projectRoot));
