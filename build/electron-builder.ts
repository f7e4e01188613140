/**
 * What installers hold, for the platform they are built on. The shell lies in app.asar; the engine lies unpacked beside
 * it, laid out as in a checkout, because plain Node cannot read an asar, strips no types inside node_modules, and needs
 * native libraries as files:
 *
 *   resources/app.asar          dist/electron, with a package.json of its own
 *   resources/node/             Node 24
 *   resources/engine/           package.json, core/, dist/wasm, dist/renderer, licences
 *   resources/engine/node_modules/   what core imports, with sharp's (and Dawn's) libraries of this platform
 */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import type { Configuration } from 'electron-builder';
import { nodePackages } from './bootstrap.mjs';
import { stampName } from './outputs.ts';

/** The part of a package-lock.json (version 3) entry that is read here. */
export interface LockEntry {
  readonly version: string;
  readonly license?: string;
  readonly dev?: boolean;
  readonly os?: readonly string[];
  readonly cpu?: readonly string[];
  readonly libc?: readonly string[];
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly optionalDependencies?: Readonly<Record<string, string>>;
}
export type LockPackages = Readonly<Record<string, LockEntry>>;

export interface Target {
  readonly platform: NodeJS.Platform;
  readonly arch: string;
  /** Of Linux; npm's words. */
  readonly libc?: 'glibc' | 'musl';
}

/** Dependencies that only the page uses; Vite has put them into dist/renderer. */
const pageOnly = ['@trpc/client'];
/** Types and nothing to run; and what TensorFlow.js would fetch with: nothing here is fetched. */
const notShipped = /^@types\/|^@webgpu\/types$|^node-fetch$/;
/** Bundles of TensorFlow.js for browsers and bundlers: of the 65 MB the engine loads 4. */
const notLoaded = ['!dist/**/*.js', 'dist/*.node.js', '!wasm-out'];

export function readLock(root: string): LockPackages {
  return (JSON.parse(readFileSync(path.join(root, 'package-lock.json'), 'utf8')) as { packages: LockPackages }).packages;
}

/**
 * Folders below the root ("node_modules/sharp") that the engine needs on a target: the project's dependencies and all
 * theirs, as npm places them. Sorted.
 */
export function enginePackages(lock: LockPackages, target: Target): string[] {
  const found = new Set<string>();
  const visit = (name: string, from: string) => {
    if (notShipped.test(name)) return;
    const place = placeOf(lock, name, from);
    // Optional packages of other platforms are in the lock file, but not for this target.
    if (place === null || found.has(place) || !runsOn(lock[place]!, target)) return;
    found.add(place);
    const { dependencies = {}, optionalDependencies = {} } = lock[place]!;
    for (const next of Object.keys({ ...dependencies, ...optionalDependencies })) visit(next, place);
  };
  const nodes = Object.values(nodePackages).map(({ name }) => name);
  const { dependencies = {}, optionalDependencies = {} } = lock['']!;
  for (const name of Object.keys({ ...dependencies, ...optionalDependencies })) {
    if (!nodes.includes(name) && !pageOnly.includes(name)) visit(name, '');
  }
  return [...found].sort();
}

/** Where a package finds another one: in its own node_modules, else in those of the folders above it. */
function placeOf(lock: LockPackages, name: string, from: string): string | null {
  for (let folder = from; ; folder = folder.includes('/node_modules/') ? folder.slice(0, folder.lastIndexOf('/node_modules/')) : '') {
    const place = folder === '' ? `node_modules/${name}` : `${folder}/node_modules/${name}`;
    if (lock[place]) return place;
    if (folder === '') return null;
  }
}

function runsOn(entry: LockEntry, { platform, arch, libc = 'glibc' }: Target): boolean {
  const { os = [platform], cpu = [arch], libc: libcs = [libc] } = entry;
  return os.includes(platform) && cpu.includes(arch) && (platform !== 'linux' || libcs.includes(libc));
}

/** What of a package's folder is not shipped. */
function leftOut(place: string, { platform, arch }: Target): string[] {
  if (place.includes('@tensorflow/')) return notLoaded;
  // One package holds Dawn for every platform, by the names of Node.
  if (place === 'node_modules/webgpu') return ['!dist/**', `dist/${platform}-${platform === 'darwin' ? 'universal' : arch}/**`];
  return [];
}

/**
 * electron-builder's configuration for one target. Only a target's own Node and libraries are shipped, so installers are
 * built on the platform they are for.
 */
export function configuration(root: string, target: Target): Configuration {
  const node = nodePackages[`${target.platform}-${target.arch}`];
  if (!node)
    throw new Error(
      `Patchwise has no Node for ${target.platform}-${target.arch}; installers are built for ${Object.keys(nodePackages).join(', ')}.`,
    );
  const lock = readLock(root);
  const notSource = ['**/*', '!**/*.{map,d.ts,d.mts,d.cts}'];
  return {
    appId: 'app.patchwise.desktop',
    productName: 'Patchwise',
    copyright: 'Apache-2.0, the Patchwise contributors',
    electronVersion: lock['node_modules/electron']!.version,
    directories: { app: 'dist/electron', buildResources: 'build', output: 'dist/packages' },
    artifactName: '${productName}-${version}-${os}-${arch}.${ext}',
    // Nothing looks for updates.
    publish: null,
    // False: node_modules are ours, below. Nothing is compiled, and none of them go into the asar.
    beforeBuild: () => Promise.resolve(false),
    electronLanguages: ['en-US'],

    asar: true,
    files: ['**/*', `!${stampName}`],
    extraResources: [
      { from: `node_modules/${node.name}/${node.program}`, to: `node/${path.basename(node.program)}` },
      // Says that the engine is ES modules, and which version. Not the project's own: a file named here is left out of the asar.
      { from: 'dist/electron/package.json', to: 'engine/package.json' },
      { from: 'core', to: 'engine/core', filter: ['**/*', '!**/*.md', '!nn/cpu/kernels/**/*'] },
      { from: 'dist/wasm', to: 'engine/dist/wasm' },
      { from: 'dist/renderer', to: 'engine/dist/renderer', filter: ['**/*', `!${stampName}`] },
      { from: 'build/icon.png', to: 'engine/build/icon.png' },
      ...enginePackages(lock, target).map((place) => ({
        from: place,
        to: `engine/${place}`,
        filter: [...notSource, ...leftOut(place, target)],
      })),
      { from: 'LICENSE', to: 'LICENSE' },
      { from: 'THIRD_PARTY_NOTICES.md', to: 'THIRD_PARTY_NOTICES.md' },
      { from: 'build/licenses', to: 'licenses' },
      { from: `node_modules/${node.name}/LICENSE`, to: 'licenses/Node.js.txt' },
    ],

    electronFuses: {
      runAsNode: false,
      enableNodeOptionsEnvironmentVariable: false,
      enableNodeCliInspectArguments: false,
      enableEmbeddedAsarIntegrityValidation: true,
      onlyLoadAppFromAsar: true,
      grantFileProtocolExtraPrivileges: false,
    },

    linux: {
      target: ['AppImage', 'deb'],
      category: 'Graphics',
      icon: 'build/icon.png',
      executableName: 'patchwise',
      maintainer: 'Patchwise contributors <contributors@patchwise.invalid>',
      synopsis: 'Segmentation masks to review before anyone has drawn one',
    },
    // The deb's control file must name a page; the project has none of its own yet.
    extraMetadata: { homepage: 'https://patchwise.invalid' },
    win: { target: ['nsis'], icon: 'build/icon.png' },
    nsis: {
      oneClick: false,
      perMachine: false,
      allowToChangeInstallationDirectory: true,
      deleteAppDataOnUninstall: false,
      differentialPackage: false,
    },
    mac: {
      target: ['dmg'],
      icon: 'build/icon.png',
      category: 'public.app-category.graphics-design',
      hardenedRuntime: true,
      gatekeeperAssess: false,
      entitlements: 'build/entitlements.mac.plist',
      entitlementsInherit: 'build/entitlements.mac.plist',
      binaries: ['Contents/Resources/node/node'],
    },
    dmg: { writeUpdateInfo: false },
  };
}
