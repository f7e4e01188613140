/** The check of a GPU's driver: it tells a right one from one that translates a kernel wrongly, and is not done twice. */
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, test, type TestContext } from 'node:test';
import { AppError } from '../../core/contract/index.ts';
import { createCpuExecutor } from '../../core/nn/cpu/index.ts';
import { createExecutor, type Machine } from '../../core/nn/index.ts';
import { openDevice, type Device } from '../../core/nn/webgpu/device.ts';
import { Engine } from '../../core/nn/webgpu/engine.ts';
import { WebgpuExecutor } from '../../core/nn/webgpu/executor.ts';
import { Runtime } from '../../core/nn/webgpu/runtime.ts';
import { checkDriver, firstDeviation } from '../../core/nn/webgpu/selfCheck.ts';
import { noAdapter } from './webgpu-device.ts';

const skip = noAdapter;

/** One for all executors, which leave it open: a software adapter compiles for long, a device what it has compiled never again. */
let opened: Promise<{ device: Device; destroy: () => void; compile: GPUDevice['createShaderModule'] }> | null = null;
after(async () => (await opened)?.destroy());

async function open(): Promise<Awaited<NonNullable<typeof opened>>> {
  const device = { ...(await openDevice()), software: false, driver: 'test driver 1.2' };
  const { gpu } = device;
  const destroy = gpu.destroy.bind(gpu);
  gpu.destroy = () => undefined;
  return { device, destroy, compile: gpu.createShaderModule.bind(gpu) };
}

/** An executor on the adapter of this machine, as if it were a GPU's, whose driver changes programs from now on. */
async function executorWith(translate: (source: string) => string): Promise<WebgpuExecutor> {
  const { device, compile } = await (opened ??= open());
  device.gpu.createShaderModule = (module) => compile({ ...module, code: translate(module.code) });
  return new WebgpuExecutor(new Engine(new Runtime(device), 'f32'));
}

/** A driver that replaces some text wherever it is; `hits` tells whether it was anywhere. */
function replacing(text: string, by: string): { translate(source: string): string; hits: number } {
  const driver = {
    hits: 0,
    translate(source: string) {
      if (source.includes(text)) driver.hits++;
      return source.replace(text, by);
    },
  };
  return driver;
}

async function checksFile(t: TestContext): Promise<string> {
  const folder = await mkdtemp(path.join(tmpdir(), 'patchwise-checks-'));
  t.after(() => rm(folder, { recursive: true, force: true }));
  return path.join(folder, 'config', 'gpu-checks.json');
}

test('a right driver passes, once for each driver, whatever was in the file', { skip }, async (t) => {
  const file = path.join(path.dirname(path.dirname(await checksFile(t))), 'gpu-checks.json');
  await writeFile(file, '{"version": 1, "passed": {"a":');
  const executor = await executorWith((source) => source);
  t.after(() => executor.dispose());
  const held = executor.memoryBytes();
  await checkDriver(executor, { file, reference: () => createCpuExecutor({ threads: 1 }) });
  assert.equal(executor.memoryBytes(), held);
  const { version, passed } = JSON.parse(await readFile(file, 'utf8')) as { version: number; passed: Record<string, string> };
  assert.deepEqual([version, Object.keys(passed).length], [1, 1]);

  const never = (): Promise<never> => Promise.reject(new Error('checked again'));
  await checkDriver(executor, { file, reference: never });
  const updated = { ...executor.engine.runtime.device, driver: 'test driver 1.3' };
  const other = { precision: 'f32', engine: { runtime: { device: updated } } } as unknown as WebgpuExecutor;
  await assert.rejects(checkDriver(other, { file, reference: never }), /checked again/);
  for (const damaged of ['[]', '{"version":2,"passed":{}}', `{"version":1,"passed":{"${Object.keys(passed)[0]}":7}}`]) {
    await writeFile(file, damaged);
    await assert.rejects(checkDriver(executor, { file, reference: never }), /checked again/, damaged);
  }
});

test('auto leaves a GPU whose driver multiplies wrongly, and says what to do', { skip }, async (t) => {
  const gpuChecks = await checksFile(t);
  const driver = replacing('fma(vec4<f32>(left0[0]), right0', 'fma(vec4<f32>(left0[1]), right0');
  const machine: Machine = {
    facts: async () => ({
      cuda: { gpu: false, installed: false },
      webgpu: { adapter: { description: 'a card', driver: '', software: false }, problem: '' },
    }),
    webgpu: () => executorWith(driver.translate),
  };
  const reasons: string[] = [];
  const executor = await createExecutor({ threads: 1, gpuChecks, onFallback: (reason) => reasons.push(reason) }, machine);
  assert.ok(driver.hits > 0);
  assert.equal(executor.name, 'cpu');
  await executor.dispose();
  assert.equal(reasons.length, 1);
  assert.match(reasons[0]!, /test driver 1\.2\) computes matrix products wrongly: off by [\d.e+]+ % of the largest value\./);
  assert.match(reasons[0]!, /the next engine is tried\. Update the graphics driver, or use the cpu engine\.$/);
  await assert.rejects(readFile(gpuChecks), /ENOENT/);
  await assert.rejects(
    createExecutor({ engine: 'webgpu', gpuChecks }, machine),
    (error) => error instanceof AppError && error.code === 'engine-unavailable' && /matrix products/.test(error.message),
  );
});

/** What the check finds where one place of one kernel is translated wrongly. */
async function deviationWith(t: TestContext, text: string, by: string): ReturnType<typeof firstDeviation> {
  const driver = replacing(text, by);
  const [executor, reference] = [await executorWith(driver.translate), await createCpuExecutor({ threads: 1 })];
  t.after(() => Promise.all([executor.dispose(), reference.dispose()]));
  const deviation = await firstDeviation(executor, reference);
  assert.ok(driver.hits > 0);
  return deviation;
}

test('a kernel that is wrong by itself is named', { skip }, async (t) => {
  const deviation = await deviationWith(t, 'vec4f(0.0, exp(l - top), q * l, q)', 'vec4f(0.0, exp(l - top), q * l, 1.01 * q)');
  assert.equal(deviation?.operation, 'the loss over prototypes');
  assert.ok(deviation.error > 1e-3 && deviation.error < 0.1, String(deviation.error));
});

for (const [operation, text, by] of [
  ['pictures', 'values_at(256u + bytes.y)', 'values_at(256u + bytes.x)'],
  ['crops', 'p.y * 38470', 'p.y * 36470'],
  ['edges of masks', 'select(0u, 1u, value > 0.5)', 'select(0u, 1u, value > 1.5)'],
] as const) {
  test(`${operation} that come out wrong are named`, { skip }, async (t) => {
    assert.equal((await deviationWith(t, text, by))?.operation, operation);
  });
}
