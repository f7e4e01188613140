/**
 * Builds what the commands need into dist/, each only when its sources changed: `wasm` (kernels), `page` (renderer) and
 * `electron` (main process). Called by bootstrap.mjs under its lock: node build/outputs.ts wasm page electron.
 */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';

const root = path.resolve(import.meta.dirname, '..');

/** Name of the file inside an output folder that says which sources it was built from. */
export const stampName = '.built-from';

interface Output {
  /** Folder below the root, replaced as a whole. */
  readonly folder: string;
  /** Files and folders below the root that it is made from. */
  readonly sources: readonly string[];
  readonly title: string;
  /** Writes the new content into an empty folder. */
  build(folder: string): Promise<void>;
}

const outputs: Record<string, Output> = {
  page: {
    folder: 'dist/renderer',
    sources: ['renderer', 'core/contract', 'package-lock.json'],
    title: 'the page',
    async build(folder) {
      const { build } = await import('vite');
      await build({
        configFile: path.join(root, 'renderer/vite.config.ts'),
        logLevel: 'warn',
        build: { outDir: folder, emptyOutDir: true },
      });
    },
  },
  electron: {
    folder: 'dist/electron',
    sources: ['electron', 'package.json', 'package-lock.json'],
    title: 'the Electron shell',
    async build(folder) {
      await transpile(path.join(root, 'electron'), folder);
      // In an installed app this folder is all that Electron reads (electron-builder.ts).
      const { name, version, description, license } = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8')) as Record<
        string,
        string
      >;
      const author = 'The Patchwise contributors';
      const manifest = { name, productName: 'Patchwise', version, description, author, license, type: 'module', main: 'main.js' };
      writeFileSync(path.join(folder, 'package.json'), JSON.stringify(manifest, null, 2));
    },
  },
};

/** SHA-256 over the paths and bytes of all files under `sources`, which may be files or folders; hex. */
export function sourcesHash(base: string, sources: readonly string[]): string {
  const hash = createHash('sha256');
  const files = sources.flatMap((source) => {
    const from = path.join(base, source);
    const inside = readdirSync(path.dirname(from), { withFileTypes: true }).find((entry) => entry.name === path.basename(from));
    if (!inside?.isDirectory()) return [source];
    const entries = readdirSync(from, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
    return entries.map((entry) => path.relative(base, path.join(entry.parentPath, entry.name)));
  });
  for (const file of files.sort()) {
    const bytes = readFileSync(path.join(base, file));
    hash.update(`${file.replaceAll(path.sep, '/')}\0${bytes.length}\0`).update(bytes);
  }
  return hash.digest('hex');
}

/** Whether `folder` was built from other sources than those of `hash`, or never. */
export function isStale(folder: string, hash: string): boolean {
  const stamp = path.join(folder, stampName);
  return !existsSync(stamp) || readFileSync(stamp, 'utf8') !== hash;
}

/** Replaces `folder` by what `build` writes: nobody ever finds it half written. */
export async function replaceFolder(folder: string, hash: string, build: (folder: string) => Promise<void>): Promise<void> {
  const fresh = `${folder}.new-${process.pid}`;
  const old = `${folder}.old-${process.pid}`;
  mkdirSync(fresh, { recursive: true });
  try {
    await build(fresh);
    writeFileSync(path.join(fresh, stampName), hash);
    if (existsSync(folder)) renameSync(folder, old);
    renameSync(fresh, folder);
  } finally {
    rmSync(fresh, { recursive: true, force: true });
    rmSync(old, { recursive: true, force: true });
  }
}

/** Strips the types of every .ts and .cts file: main is an ES module, the preload CommonJS, as a sandbox wants it. */
async function transpile(from: string, to: string): Promise<void> {
  const { default: ts } = await import('typescript');
  for (const name of readdirSync(from)) {
    if (!/\.c?ts$/.test(name)) continue;
    const { outputText } = ts.transpileModule(readFileSync(path.join(from, name), 'utf8'), {
      fileName: path.join(from, name),
      compilerOptions: {
        target: ts.ScriptTarget.ES2024,
        module: name.endsWith('.cts') ? ts.ModuleKind.CommonJS : ts.ModuleKind.ESNext,
        rewriteRelativeImportExtensions: true,
        verbatimModuleSyntax: !name.endsWith('.cts'),
      },
    });
    writeFileSync(path.join(to, name.replace(/ts$/, 'js')), outputText);
  }
}

/** Builds those of `names` whose sources changed since. */
async function buildStale(names: readonly string[]): Promise<void> {
  for (const name of names) {
    if (name === 'wasm') {
      const { buildWasm } = await import('./wasm.mjs');
      await buildWasm();
      continue;
    }
    const output = outputs[name];
    if (!output) throw new Error(`There is no output "${name}": wasm, ${Object.keys(outputs).join(', ')}.`);
    const hash = sourcesHash(root, output.sources);
    const folder = path.join(root, output.folder);
    if (!isStale(folder, hash)) continue;
    console.log(`Building ${output.title} ...`);
    await replaceFolder(folder, hash, output.build);
  }
}

if (import.meta.main) await buildStale(process.argv.slice(2));
