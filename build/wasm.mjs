/**
 * Compiles the CPU kernels (core/nn/cpu/kernels, AssemblyScript) into dist/wasm: kernels-relaxed.wasm with relaxed SIMD,
 * kernels-plain.wasm without, kernels-wide.wasm with tiles for core/nn/cpu/wide.ts. Runs alone (`node build/wasm.mjs`) or is called by bootstrap. Any Node from 20 on.
 */
import { mkdir, readFile, readdir, rename, rm, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..');
const sources = path.join(root, 'core/nn/cpu/kernels');
const target = path.join(root, 'dist/wasm');

const builds = [
  { file: 'kernels-wide.wasm', features: 'simd,threads,relaxed-simd', wide: 1 },
  { file: 'kernels-relaxed.wasm', features: 'simd,threads,relaxed-simd', wide: 0 },
  { file: 'kernels-plain.wasm', features: 'simd,threads', wide: 0 },
];

/** When the youngest of `files` was changed, in ms; 0 when one is missing. */
async function youngest(files) {
  const times = await Promise.all(files.map((file) => stat(file).then((s) => s.mtimeMs)));
  return Math.max(...times);
}

async function isFresh(output, since) {
  try {
    return (await stat(output)).mtimeMs > since;
  } catch {
    return false;
  }
}

/**
 * Builds what is missing or older than its sources.
 * @returns {Promise<string[]>} the files written
 * @throws Error with the compiler's own words when a kernel does not compile
 */
export async function buildWasm() {
  const names = (await readdir(sources)).filter((name) => name.endsWith('.ts')).sort();
  const texts = new Map();
  for (const name of names) texts.set(name, await readFile(path.join(sources, name), 'utf8'));
  const since = await youngest([fileURLToPath(import.meta.url), ...names.map((name) => path.join(sources, name))]);
  await mkdir(target, { recursive: true });
  const written = [];
  for (const { file, features, wide } of builds) {
    const output = path.join(target, file);
    if (await isFresh(output, since)) continue;
    const binary = await compile(texts, features, wide);
    const temporary = `${output}.${process.pid}.tmp`;
    await writeFile(temporary, binary);
    await rename(temporary, output).catch(async (error) => {
      await rm(temporary, { force: true });
      throw error;
    });
    written.push(output);
  }
  return written;
}

/** One binary from the sources, entry index.ts. The compiler works in memory: it never touches the disk itself. */
async function compile(texts, features, wide) {
  const asc = (await import('assemblyscript/asc')).default;
  let binary;
  const messages = [];
  const { error } = await asc.main(
    [
      'index.ts',
      '--outFile',
      'kernels.wasm',
      // Raw addresses only: no collector, no allocator, no abort import.
      '--runtime',
      'stub',
      '--use',
      'abort=',
      '--use',
      `WIDE=${wide}`,
      '--noAssert',
      '--optimizeLevel',
      '3',
      '--shrinkLevel',
      '0',
      '--enable',
      features,
      '--importMemory',
      '--sharedMemory',
      '--initialMemory',
      '1',
      '--maximumMemory',
      '65536',
      // The control block of kernels/pool.ts lies below the compiler's constants.
      '--memoryBase',
      '1024',
      '--importTable',
    ],
    {
      readFile: (name) => texts.get(name.replace(/^\.\//, '')) ?? null,
      writeFile: (name, contents) => {
        if (name === 'kernels.wasm') binary = contents;
      },
      listFiles: () => [],
      stderr: { write: (text) => (messages.push(String(text)), true) },
    },
  );
  if (error || !binary) throw new Error(`The CPU kernels do not compile (${features}):\n${messages.join('') || error?.message}`);
  return binary;
}

if (process.argv[1] && path.resolve(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const written = await buildWasm();
  console.log(written.length > 0 ? `Built ${written.map((file) => path.relative(root, file)).join(', ')}.` : 'dist/wasm is up to date.');
}
