/**
 * Speed of the CPU engine: whole training steps in images a second, a breakdown by kernel, and PyTorch's in the same
 * minute where Python with torch is found. `npm run bench:cpu -- [--arch nano --batch 8 ...] [--threads 2] [--simd plain]
 * [--steps 8] [--peer FILE.py | none] [--python python3]`; with `--engine tensorflow` that engine's instead. Without --arch it runs two standard settings.
 */
import { parseArgs } from 'node:util';
import { createCpuExecutor, type CpuExecutor } from '../../core/nn/cpu/index.ts';
import { createTensorflowExecutor } from '../../core/nn/tensorflow/index.ts';
import { BenchStep, type StepSettings } from './step.ts';
import { flagsOf, median, runPeer, settingsOf, stepFlags } from './setting.ts';

const standard: StepSettings[] = [
  { arch: 'nano', batch: 8, gsize: 112, lsize: 42, locals: 4, protos: 1024 },
  { arch: 'tiny', batch: 8, gsize: 112, lsize: 56, locals: 4, protos: 2048 },
];

const text = { type: 'string' } as const;
const { values: options } = parseArgs({ options: { ...stepFlags, threads: text, simd: text, engine: text } });
const steps = Number(options.steps ?? 8);

function processorMs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

async function measure(setting: StepSettings): Promise<number> {
  const simd = (options.simd ?? 'auto') as 'auto' | 'wide' | 'relaxed' | 'plain';
  const cpu =
    options.engine === 'tensorflow'
      ? null
      : await createCpuExecutor(options.threads ? { threads: Number(options.threads), simd } : { simd });
  const executor = cpu ?? (await createTensorflowExecutor());
  const bench = new BenchStep(executor, setting);
  console.log(`\n${flagsOf(setting).join(' ')}`);
  console.log(`${executor.description}; ${(bench.parameterCount / 1e6).toFixed(2)} M parameters`);
  const losses: number[] = [];
  for (let i = 0; i < 3; ++i) losses.push(await bench.run());
  const times: number[] = [];
  const processor: number[] = [];
  for (let i = 0; i < steps; ++i) {
    const start = performance.now();
    const before = processorMs();
    losses.push(await bench.run());
    times.push(performance.now() - start);
    processor.push(processorMs() - before);
  }
  const ms = median(times);
  const imagesPerSecond = (setting.batch * 1000) / ms;
  const fastest = (setting.batch * 1000) / Math.min(...times);
  console.log(
    `${imagesPerSecond.toFixed(1)} images/s (median of ${steps}, ${ms.toFixed(1)} ms; fastest ${fastest.toFixed(1)}), loss ${losses[0]!.toFixed(4)} -> ${losses.at(-1)!.toFixed(4)}`,
  );
  // On a busy machine this says more than the time that passed.
  console.log(`processor time: ${median(processor).toFixed(1)} ms a step over all threads`);
  const reserved = cpu ? `${(cpu.engine.heap.reserved / 2 ** 20).toFixed(0)} MiB reserved, ` : '';
  console.log(`memory: ${reserved}${(executor.memoryBytes() / 2 ** 20).toFixed(0)} MiB between steps`);
  if (cpu) await breakdown(cpu, bench);
  await executor.dispose();
  return imagesPerSecond;
}

/** Time by kernel, over three steps. */
async function breakdown({ engine: { pool } }: CpuExecutor, bench: BenchStep): Promise<void> {
  pool.profile = new Map();
  // Processor time where it can be told apart: one thread.
  if (pool.threads === 1) pool.clock = processorMs;
  const start = pool.clock();
  for (let i = 0; i < 3; ++i) await bench.run();
  const whole = (pool.clock() - start) / 3;
  const rows = [...pool.profile].map(([kernel, { calls, ms: spent, flops }]) => ({
    kernel,
    calls: calls / 3,
    ms: spent / 3,
    flops: flops / 3,
  }));
  rows.sort((a, b) => b.ms - a.ms);
  console.log('kernel                    calls      ms     %  GFLOP/s');
  for (const row of rows.filter(({ ms: spent }) => spent > whole / 500)) {
    const speed = row.flops > 0 ? (row.flops / row.ms / 1e6).toFixed(1) : '';
    const share = ((100 * row.ms) / whole).toFixed(1);
    console.log(
      `${row.kernel.padEnd(24)}${row.calls.toFixed(0).padStart(7)}${row.ms.toFixed(2).padStart(8)}${share.padStart(6)}${speed.padStart(9)}`,
    );
  }
  const inKernels = rows.reduce((sum, row) => sum + row.ms, 0);
  console.log(
    `${'outside kernels'.padEnd(31)}${(whole - inKernels).toFixed(2).padStart(8)}${((100 * (whole - inKernels)) / whole).toFixed(1).padStart(6)}`,
  );
}

/** Images a second of the PyTorch step, or null when it cannot run here. */
function measurePeer(setting: StepSettings): number | null {
  const found = runPeer(setting, options, ['--device', 'cpu', '--dtype', 'fp32', '--steps', String(steps), '--warmup', '3']);
  if (typeof found === 'string') console.log(found);
  return typeof found === 'string' || found === null ? null : found.img_s;
}

for (const setting of settingsOf(options, standard)) {
  const ours = await measure(setting);
  const peer = measurePeer(setting);
  if (peer !== null) console.log(`PyTorch: ${peer.toFixed(1)} images/s in the same run; ours is ${(ours / peer).toFixed(2)} of it`);
}
