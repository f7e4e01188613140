/**
 * Speed of the WebGPU engine: whole training steps at the peer's settings, one JSON object a setting on stdout: images a
 * second, time by kernel (timestamp queries), arithmetic a second and its share of what products reach here, memory, and
 * PyTorch's images a second in the same minute where Python with torch and CUDA is found. `npm run bench:gpu -- [--arch
 * small --batch 64 --gsize 224 --lsize 98 --locals 8 --protos 65536] [--steps 10] [--precision f32 | f16]
 * [--peer FILE.py | none] [--python python3]`. Without --arch it runs four standard settings.
 */
import { parseArgs } from 'node:util';
import { createWebgpuExecutor, prototypeLimitsOn, webgpuState, type WebgpuExecutor } from '../../core/nn/webgpu/index.ts';
import type { ProgramTime } from '../../core/nn/webgpu/profile.ts';
import { measureSpeed, type GpuSpeed } from '../../core/nn/webgpu/speed.ts';
import '../nn/webgpu-environment.ts';
import { BenchStep, type StepSettings } from './step.ts';
import { flagsOf, median, runPeer, settingsOf, stepFlags, type PeerResult } from './setting.ts';

const crops = { gsize: 224, lsize: 98, locals: 8 };
const standard: StepSettings[] = [
  { arch: 'small', batch: 64, ...crops, protos: 65_536 },
  { arch: 'small', batch: 64, ...crops, protos: 8192 },
  { arch: 'base', batch: 32, ...crops, protos: 65_536 },
  { arch: 'large', batch: 16, ...crops, protos: 65_536 },
];

const { values: options } = parseArgs({ options: { ...stepFlags, precision: { type: 'string' } } });
const steps = Number(options.steps ?? 10);
const warmUp = 3;
const profiled = 2;

/** @throws Error when the engine does not compute in the precision that is asked for */
async function start(profile: boolean): Promise<WebgpuExecutor> {
  const wanted = options.precision;
  if (wanted !== undefined && wanted !== 'f32' && wanted !== 'f16') throw new Error(`--precision takes f32 or f16, not "${wanted}".`);
  const precision = wanted as 'f32' | 'f16' | undefined;
  const { memory } = await webgpuState();
  const executor = await createWebgpuExecutor({ profile, limits: prototypeLimitsOn(memory?.bytes), ...(precision && { precision }) });
  if (precision && precision !== precisionOf(executor)) {
    await executor.dispose();
    throw new Error(`The engine computes in ${precisionOf(executor)} only.`);
  }
  return executor;
}

function precisionOf(executor: WebgpuExecutor): string {
  return (executor as { readonly precision?: string }).precision ?? 'f32';
}

interface Measured {
  readonly adapter: string;
  readonly driver: string;
  readonly precision: string;
  readonly parameters: number;
  /** As training runs: a step is given while the one before computes. */
  readonly imagesPerSecond: number;
  /** Each step waited for, as the peer is timed. */
  readonly msPerStep: { readonly median: number; readonly fastest: number };
  readonly loss: { readonly first: number; readonly last: number };
  readonly memoryMiB: { readonly peak: number; readonly reserved: number };
  /** What products reach on this device by themselves. */
  readonly peak: GpuSpeed;
}

/** As training runs: nothing but the loss is read back. */
async function measure(setting: StepSettings): Promise<Measured> {
  const executor = await start(false);
  try {
    const { device } = executor.engine.runtime;
    const peak = await measureSpeed(executor.engine);
    const bench = new BenchStep(executor, setting);
    const losses: number[] = [];
    for (let i = 0; i < warmUp; i++) losses.push(await bench.run());
    const times: number[] = [];
    for (let i = 0; i < steps; i++) {
      const begun = performance.now();
      losses.push(await bench.run());
      times.push(performance.now() - begun);
    }
    const begun = performance.now();
    let before: Promise<number> | null = null;
    for (let i = 0; i < steps; i++) {
      const { loss } = await bench.give();
      if (before) losses.push(await before);
      before = loss;
    }
    losses.push(await before!);
    const ahead = (performance.now() - begun) / steps;
    const mib = (bytes: number): number => Math.round(bytes / 2 ** 20);
    const { runtime } = executor.engine;
    return {
      adapter: device.description,
      driver: device.driver,
      precision: precisionOf(executor),
      parameters: bench.parameterCount,
      imagesPerSecond: rounded((setting.batch * 1000) / ahead),
      msPerStep: { median: rounded(median(times)), fastest: rounded(Math.min(...times)) },
      loss: { first: losses[0]!, last: losses.at(-1)! },
      memoryMiB: { peak: mib(runtime.peak), reserved: mib(runtime.pool.reserved) },
      peak,
    };
  } finally {
    await executor.dispose();
  }
}

interface KernelRow {
  readonly kernel: string;
  readonly calls: number;
  readonly ms: number;
  /** Of the time in kernels. */
  readonly share: number;
  readonly tflops?: number;
  readonly ofPeak?: number;
  readonly gbPerSecond?: number;
}

interface Split {
  readonly ms: number;
  /** Operations of a step as the kernels state them, in 1e12. */
  readonly tflop: number;
  readonly kernels: readonly KernelRow[];
}

/** Time by kernel, each dispatch in a pass of its own: their sum is more than a step takes. */
async function split(setting: StepSettings, peak: GpuSpeed): Promise<Split> {
  const executor = await start(true);
  try {
    const bench = new BenchStep(executor, setting);
    for (let i = 0; i < warmUp; i++) await bench.run();
    const { runtime } = executor.engine;
    await runtime.profile();
    for (let i = 0; i < profiled; i++) await bench.run();
    const times = [...(await runtime.profile())].map(([kernel, time]) => [kernel, perStep(time)] as const);
    const ms = times.reduce((sum, [, time]) => sum + time.ms, 0);
    const tflop = times.reduce((sum, [, time]) => sum + time.flops, 0) / 1e12;
    const rows = times.map(([kernel, time]) => rowOf(kernel, time, ms, peak));
    return { ms: rounded(ms), tflop, kernels: rows.sort((a, b) => b.ms - a.ms) };
  } finally {
    await executor.dispose();
  }
}

function perStep({ calls, ms, flops, bytes }: ProgramTime): ProgramTime {
  return { calls: calls / profiled, ms: ms / profiled, flops: flops / profiled, bytes: bytes / profiled };
}

function rowOf(kernel: string, { calls, ms, flops, bytes }: ProgramTime, whole: number, { f32, f16 }: GpuSpeed): KernelRow {
  const tflops = flops / ms / 1e9;
  const most = /f16/.test(kernel) ? (f16 ?? f32) : f32;
  return {
    kernel,
    calls,
    ms: rounded(ms),
    share: rounded(ms / whole),
    ...(flops > 0 && { tflops: rounded(tflops), ofPeak: rounded(tflops / most) }),
    ...(bytes > 0 && { gbPerSecond: rounded(bytes / ms / 1e6) }),
  };
}

const rounded = (value: number): number => Number(value.toPrecision(4));

function peerOf(setting: StepSettings): PeerResult | string | null {
  const dtype = options.precision === 'f32' ? 'fp32' : 'bf16';
  return runPeer(setting, options, ['--device', 'cuda', '--dtype', dtype, '--steps', String(steps)]);
}

for (const setting of settingsOf(options, standard)) {
  process.stderr.write(`${flagsOf(setting).join(' ')}\n`);
  try {
    const measured = await measure(setting);
    process.stderr.write(`${measured.imagesPerSecond} images/s on ${measured.adapter}; now by kernel\n`);
    const { kernels, ms, tflop } = await split(setting, measured.peak);
    const tflops = (tflop * 1000) / measured.msPerStep.median;
    const most = measured.precision === 'f16' ? (measured.peak.f16 ?? measured.peak.f32) : measured.peak.f32;
    const whole = { tflop: rounded(tflop), tflops: rounded(tflops), ofPeak: rounded(tflops / most), msInKernels: ms };
    console.log(JSON.stringify({ setting, ...measured, whole, kernels, peer: peerOf(setting) }));
  } catch (error) {
    // A setting that has no room here must not hide the others.
    console.log(JSON.stringify({ setting, error: (error as Error).message, peer: peerOf(setting) }));
    process.exitCode = 1;
  }
}
