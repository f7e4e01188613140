/** The check of a GPU's driver: it tells a right one from one that translates a kernel wrongly, and is not done twice. */
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, test, type TestContext } from 'node:test';
import { AppError } from '../../core/contract/index.ts';
import { createCpuExecutor } from '../../core/nn/cpu/index.ts';
import { createExecutor, describeEngines, rememberFailure, type Machine } from '../../core/nn/index.ts';
import { openDevice, type Device } from '../../core/nn/webgpu/device.ts';
import { Engine } from '../../core/nn/webgpu/engine.ts';
import { WebgpuExecutor } from '../../core/nn/webgpu/executor.ts';
import { Runtime } from '../../core/nn/webgpu/runtime.ts';
import { modelConfig } from '../../core/dinov2/config.ts';
import { rehearseStep } from '../../core/dinov2/memory.ts';
import { checkApart } from '../../core/nn/webgpu/adapters.ts';
import { rehearse } from '../../core/nn/webgpu/rehearsal.ts';
import type { Capabilities, Dispatch, Region } from '../../core/nn/webgpu/program.ts';
import { tinyRun } from '../dinov2/tiny-run.ts';
import { checkDriver, firstDeviation, wrongIn, type Fault } from '../../core/nn/webgpu/check/index.ts';
import { noAdapter } from './webgpu-device.ts';

const skip = noAdapter;

/** What an H100 offers. */
const h100: Capabilities = {
  f16: true,
  subgroups: { min: 32, max: 32 },
  matrices: [{ M: 16, N: 16, K: 16, result: 'f32' }],
  workgroupStorage: 49_152,
  workgroupInvocations: 1024,
  workgroupsPerDimension: 65_535,
  bindingBytes: 2 ** 31 - 4,
};

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

async function faultBesideCpu(executor: WebgpuExecutor): Promise<Fault | null> {
  const reference = await createCpuExecutor({ threads: 1 });
  try {
    const wrong = await wrongIn(executor, reference);
    return wrong ? { wrong, certain: true } : null;
  } finally {
    await reference.dispose();
  }
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
  await checkDriver(executor, { file, check: () => faultBesideCpu(executor) });
  assert.equal(executor.memoryBytes(), held);
  const { version, passed } = JSON.parse(await readFile(file, 'utf8')) as { version: number; passed: Record<string, string> };
  assert.deepEqual([version, Object.keys(passed).length], [1, 1]);

  const never = (): Promise<never> => Promise.reject(new Error('checked again'));
  await checkDriver(executor, { file, check: never });
  const updated = { ...executor.engine.runtime.device, driver: 'test driver 1.3' };
  const other = new WebgpuExecutor(new Engine(new Runtime(updated), 'f32'));
  await assert.rejects(checkDriver(other, { file, check: never }), /checked again/);
  for (const damaged of ['[]', '{"version":2,"passed":{}}', `{"version":1,"passed":{"${Object.keys(passed)[0]}":7}}`]) {
    await writeFile(file, damaged);
    await assert.rejects(checkDriver(executor, { file, check: never }), /checked again/, damaged);
  }
});

test('auto leaves a GPU whose driver multiplies wrongly, says what to do, and remembers it', { skip }, async (t) => {
  const gpuChecks = await checksFile(t);
  const driver = replacing('fma(vec4<f32>(left0[0]), right0', 'fma(vec4<f32>(left0[1]), right0');
  const { description, driver: version } = (await executorWith(driver.translate)).engine.runtime.device;
  const adapter = { description, driver: version, software: false };
  const facts = { cuda: { gpu: false, installed: false }, webgpu: { adapter, problem: '' } };
  let checks = 0;
  const machine: Machine = {
    facts: async () => facts,
    webgpu: () => executorWith(driver.translate),
    check: async () => (checks++, faultBesideCpu(await executorWith(driver.translate))),
  };
  const reasons: string[] = [];
  const start = async (): Promise<void> => {
    const executor = await createExecutor({ threads: 1, gpuChecks, onFallback: (reason) => reasons.push(reason) }, machine);
    assert.equal(executor.name, 'cpu');
    await executor.dispose();
  };
  assert.equal((await describeEngines('auto', { gpuChecks, facts })).engine, 'webgpu');
  await start();
  assert.ok(driver.hits > 0);
  assert.equal(reasons.length, 1);
  assert.match(reasons[0]!, /test driver 1\.2\) computes matrix products wrongly: off by [\d.e+]+ % of the largest value\./);
  assert.match(reasons[0]!, /the next engine is tried\. Update the graphics driver, or use the cpu engine\.$/);
  await start();
  assert.equal(checks, 1);
  assert.match(
    reasons[1]!,
    /^WebGPU does not use the GPU: its driver computes matrix products wrongly: .* \(checked before; patchwise doctor checks again\)\.$/,
  );
  const planned = await describeEngines('auto', { gpuChecks, facts });
  assert.ok(planned.engine === 'cpu' && !planned.gpu && /the GPU is not used: its driver computes/.test(planned.details), planned.details);
  rememberFailure(gpuChecks, adapter, null);
  await start();
  assert.equal(checks, 2);
  await assert.rejects(
    createExecutor({ engine: 'webgpu', gpuChecks }, machine),
    (error) => error instanceof AppError && error.code === 'engine-unavailable' && /matrix products/.test(error.message),
  );
});

test('the log names the kernels that do most of the work', () => {
  const told = (capabilities: Capabilities, precision: 'f32' | 'f16' = 'f16'): string =>
    rehearse(precision, { capabilities }).executor.description.replace(/^.*acts as a GPU\), /, '');
  assert.equal(told(h100), 'f16, matrix units of 16 x 16 x 16 for products and attention');
  assert.equal(told({ ...h100, subgroups: { min: 16, max: 32 } }), 'f16, matrix units of 16 x 16 x 16 for products');
  assert.equal(told({ ...h100, matrices: [] }), 'f16, without matrix units');
  assert.equal(told(h100, 'f32'), 'f32');
});

test('a driver that fails with matrix units is tried without them, then in f32 where that may be', async (t) => {
  const units = [{ M: 16, N: 16, K: 16, result: 'f32' as const }];
  const { engine } = rehearse('f16', { capabilities: h100 }).executor as WebgpuExecutor;
  const tries = async (right: string, precision?: 'f16'): Promise<{ tried: string[]; reasons: string[]; got: string }> => {
    const [tried, reasons]: string[][] = [[], []];
    const nameOf = (wanted: { precision?: string; matrixUnits?: boolean }): string =>
      `${wanted.precision ?? 'f16'}${wanted.matrixUnits === false ? '' : ' with units'}`;
    const machine: Machine = {
      facts: async () => ({
        cuda: { gpu: false, installed: false },
        webgpu: { adapter: { description: 'a card', driver: '', software: false }, problem: '' },
      }),
      webgpu: async (wanted) => {
        const capabilities = { ...h100, matrices: wanted.matrixUnits === false ? [] : units };
        const device = { ...engine.runtime.device, software: false, capabilities };
        return new WebgpuExecutor(new Engine(new Runtime(device), wanted.precision ?? 'f16'));
      },
      check: async (way) => {
        tried!.push(nameOf(way));
        return nameOf(way) === right ? null : { wrong: 'computes attention wrongly: not a number', certain: true };
      },
    };
    const options = { threads: 1, gpuChecks: await checksFile(t), onFallback: (reason: string) => reasons!.push(reason) };
    const executor = await createExecutor({ ...options, ...(precision ? { engine: 'webgpu', precision } : {}) }, machine);
    const got =
      executor.name === 'cpu'
        ? 'cpu'
        : nameOf({ precision: executor.precision, matrixUnits: (executor as WebgpuExecutor).engine.caps.matrices.length > 0 });
    await executor.dispose();
    return { tried: tried!, reasons: reasons!, got };
  };
  assert.deepEqual(await tries('f16 with units'), { tried: ['f16 with units'], reasons: [], got: 'f16 with units' });
  const plain = await tries('f16');
  assert.deepEqual([plain.tried, plain.got], [['f16 with units', 'f16'], 'f16']);
  assert.match(
    plain.reasons.join(),
    /^The driver of the GPU \(no GPU\) computes attention wrongly: not a number\. Its matrix units are left unused\.$/,
  );
  const single = await tries('f32');
  assert.deepEqual([single.tried, single.got, single.reasons.length], [['f16 with units', 'f16', 'f32'], 'f32', 2]);
  const none = await tries('nothing');
  assert.deepEqual([none.tried, none.got, none.reasons.length], [['f16 with units', 'f16', 'f32'], 'cpu', 3]);
  await assert.rejects(tries('f32', 'f16'), /computes attention wrongly/);
});

test('a driver is checked in a process that it may end', { skip }, async (t) => {
  assert.equal(await checkApart({ precision: 'f32' }), null);
  const dies = "process.argv[2]==='check'&&process.kill(process.pid,'SIGSEGV')";
  const before = process.env['NODE_OPTIONS'];
  t.after(() => (before === undefined ? delete process.env['NODE_OPTIONS'] : (process.env['NODE_OPTIONS'] = before)));
  process.env['NODE_OPTIONS'] = `--import=data:text/javascript,${encodeURIComponent(dies)}`;
  const wrong = 'was checked in a process of its own and ended it (SIGSEGV)';
  assert.deepEqual(await checkApart({ precision: 'f32' }), { wrong, certain: true });
});

/** Calls `body` and returns what each program given to any runtime computes meanwhile, in operations. */
async function programsOf(t: TestContext, body: () => unknown): Promise<Map<string, number>> {
  const flops = new Map<string, number>();
  const { run } = Runtime.prototype;
  const spy = t.mock.method(Runtime.prototype, 'run', function (this: Runtime, dispatches: readonly Dispatch[]) {
    for (const { program, flops: own = 0 } of dispatches) flops.set(program.name, (flops.get(program.name) ?? 0) + own);
    run.call(this, dispatches);
  });
  await body();
  spy.mock.restore();
  return flops;
}

for (const [kind, capabilities] of [
  ['with matrix units', h100],
  ['without matrix units', { ...h100, subgroups: null, matrices: [], workgroupStorage: 32_768 }],
] as const) {
  test(`the check runs what training in f16 spends its arithmetic on, ${kind}`, async (t) => {
    const { executor } = rehearse('f16', { capabilities });
    const { runtime } = (executor as WebgpuExecutor).engine;
    t.mock.method(runtime, 'read', async (region: Region, bytes = region.bytes) => new ArrayBuffer(4 * Math.ceil(bytes / 4)));
    const checked = await programsOf(t, () => firstDeviation(executor, executor));
    const head = { hidden: 2048, bottleneck: 256, prototypes: 65_536 };
    const crops = { ...tinyRun().crops, globalSize: 224, localSize: 98, localCount: 8 };
    const sinkhorn = { ...tinyRun().teacher, centering: 'sinkhorn' as const };
    const config = tinyRun({ batch: 64, model: modelConfig('small'), heads: { dino: head, ibot: head }, crops, teacher: sinkhorn });
    const trained = await programsOf(t, () => rehearseStep(rehearse('f16', { capabilities }), config));
    const all = [...trained.values()].reduce((sum, own) => sum + own, 0);
    const missed = [...trained].filter(([name]) => !checked.has(name));
    assert.ok(all > 1e12);
    for (const [name, own] of missed) assert.ok(own < 1e-3 * all, `${name} is not checked: ${((100 * own) / all).toFixed(2)} % of a step`);
  });
}

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
