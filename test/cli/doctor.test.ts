/** `patchwise doctor`, with an adapter and without one. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test, type TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import { diagnosisInWords, type Diagnosis } from '../../core/cli/index.ts';
import { noAdapter } from '../nn/webgpu-device.ts';

const cli = fileURLToPath(new URL('../../core/cli.ts', import.meta.url));

async function doctor(t: TestContext, args: readonly string[], env: NodeJS.ProcessEnv): Promise<{ status: number | null; stdout: string }> {
  const place = await mkdtemp(path.join(tmpdir(), 'patchwise-doctor-'));
  t.after(() => rm(place, { recursive: true, force: true }));
  const { status, stdout } = spawnSync(process.execPath, ['--disable-warning=ExperimentalWarning', cli, 'doctor', ...args], {
    env: { ...process.env, PATCHWISE_CONFIG_DIR: place, ...env },
    encoding: 'utf8',
  });
  return { status, stdout };
}

const diagnosisOf = (stdout: string): Diagnosis => (JSON.parse(stdout) as { result: Diagnosis }).result;

test(
  'without an adapter it says so, measures the CPU and names it',
  { skip: process.platform !== 'linux' && 'needs Vulkan' },
  async (t) => {
    const { status, stdout } = await doctor(t, ['--json'], { VK_ICD_FILENAMES: '/nowhere.json', VK_DRIVER_FILES: '/nowhere.json' });
    assert.equal(status, 0);
    const found = diagnosisOf(stdout);
    assert.equal(found.adapters, undefined);
    assert.match(found.problem!, /no driver for Vulkan answered|no WebGPU library/);
    assert.ok(found.cpu.gigaflops > 0 && /^\d+ threads?, WebAssembly with/.test(found.cpu.description));
    assert.notEqual(found.engine.engine, 'webgpu');
    const text = diagnosisInWords(found);
    assert.match(text, /^No GPU for WebGPU: /);
    assert.match(text, /\nCUDA for TensorFlow\.js: /);
    assert.match(text, /\nEngine: \w+, /);
  },
);

test(
  'a driver that crashes the process it is loaded in ends neither doctor nor the choice of an engine',
  { skip: (process.platform !== 'linux' && 'needs signals') || noAdapter },
  async (t) => {
    // The process that would load the driver dies as it begins.
    const dies = "process.argv[1]?.includes('adapterProcess')&&process.kill(process.pid,'SIGSEGV')";
    const { status, stdout } = await doctor(t, ['--json'], { NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(dies)}` });
    assert.equal(status, 0);
    const { problem, engine } = diagnosisOf(stdout);
    assert.match(problem!, /tried in a process of its own and ended it \(SIGSEGV\)/);
    assert.notEqual(engine.engine, 'webgpu');
    assert.match(engine.details, /SIGSEGV/);
  },
);

test('an adapter can be asked for by name, a backend by its own', { skip: noAdapter }, async (t) => {
  const named = await doctor(t, ['--json'], { PATCHWISE_GPU: 'Voodoo' });
  assert.match(diagnosisOf(named.stdout).problem!, /^WebGPU found no GPU: no adapter .* name 'Voodoo' found; there are .*name: '.+'\.$/);
  const backend = await doctor(t, ['--json'], { PATCHWISE_GPU_BACKEND: 'glide' });
  assert.match(diagnosisOf(backend.stdout).problem!, /^PATCHWISE_GPU_BACKEND is "glide"; here it can be \w+/);
});

test('with an adapter it tells what kernels may use and how fast it is', { skip: noAdapter }, async (t) => {
  const { status, stdout } = await doctor(t, [], {});
  assert.equal(status, 0);
  assert.match(
    stdout,
    /^GPU: .+\n {2}vendor .+, driver .+\n {2}f16 (yes|no), subgroups .+, matrix units .+\n {2}memory .+, one array [\d.]+ GiB/,
  );
  const [, product, memory] = /measured: products f32 ([\d.]+) [GT]FLOP\/s.*; memory ([\d.]+) GB\/s/.exec(stdout)!;
  assert.ok(Number(product) > 0 && Number(memory) > 0);
  assert.match(stdout, /\n {2}results (not checked|checked against the cpu engine: right)/);
  // A program that acts as a GPU is told as one, and never taken by itself.
  if (/a program that acts as one/.test(stdout)) assert.match(stdout, /\nEngine: (cpu|tensorflow), /);
});

test('what a wrong driver leads to is said, and a driver that ended the process', () => {
  const adapter = {
    ...{ description: 'a card, Vulkan', driver: '1.2', software: false, vendor: 'v', architecture: 'a', backend: 'Vulkan' },
    ...{ timestamps: true, bufferBytes: 2 ** 32, memory: { bytes: 12 * 2 ** 30, source: 'its driver' } },
    capabilities: {
      ...{ f16: true, subgroups: { min: 32, max: 32 }, matrices: [{ M: 16, N: 16, K: 16, result: 'f32' as const }] },
      ...{ workgroupStorage: 49_152, workgroupInvocations: 1024, workgroupsPerDimension: 65_535, bindingBytes: 2 ** 31 },
    },
  };
  const rest = {
    cuda: { gpu: true, installed: false },
    cpu: { description: '2 threads', gigaflops: 50 },
    engine: { engine: 'webgpu' as const, gpu: true, details: 'a card, Vulkan' },
  };
  const speed = { f32: 28.5, f16: 269, streamed: 2100 };
  const wrong = diagnosisInWords({ adapters: [adapter], speed, check: 'The driver computes attention wrongly.', ...rest });
  assert.match(wrong, /f16 yes, subgroups of 32 to 32, matrix units 16x16x16 to f32, timestamps yes/);
  assert.match(wrong, /memory 12\.0 GiB \(its driver\), one array 2\.0 GiB/);
  assert.match(wrong, /products f32 28\.5 TFLOP\/s, f16 269\.0 TFLOP\/s; memory 2100\.0 GB\/s/);
  assert.match(wrong, /cpu engine: The driver computes attention wrongly\.[^]*the next engine is taken when a job starts\.$/);
  assert.match(wrong, /an NVIDIA driver, the library is not installed \(npm run setup:cuda/);
  const problem = 'the graphics driver was tried in a process of its own and ended it (SIGSEGV)';
  assert.match(diagnosisInWords({ adapters: [adapter], problem, ...rest }), /\n {2}ended early: the graphics driver .* \(SIGSEGV\)\n/);
});

test('it takes no folder', async (t) => {
  assert.equal((await doctor(t, ['somewhere'], {})).status, 2);
});
