/**
 * Loss curves of two engines from the same seed and crops: `node test/bench/curves.ts --a cpu --b webgpu:f32 [--steps 300]
 * [--batch 8] [--arch DIM,DEPTH] [--size 56,28] [--prototypes 256] [--window 10]`. An engine is cpu, tensorflow or
 * webgpu, the last with :f16 or :f32. Prints every loss and, of windows of steps, by how much the means differ.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import type { RunConfig } from '../../core/dinov2/config.ts';
import { pretrain } from '../../core/dinov2/train.ts';
import { createExecutor, type EngineName, type Precision } from '../../core/nn/index.ts';
import { pictures, scanned } from '../dinov2/pictures.ts';
import { tinyRun } from '../dinov2/tiny-run.ts';
import '../nn/webgpu-environment.ts';

const text = (value: string) => ({ type: 'string', default: value }) as const;
const { values } = parseArgs({
  options: {
    a: text('cpu'),
    b: text('webgpu'),
    steps: text('300'),
    batch: text('8'),
    arch: text('64,2'),
    size: text('56,28'),
    prototypes: text('256'),
    window: text('10'),
    centering: text('softmax'),
  },
});
const numbers = (list: string): number[] => list.split(',').map(Number);
const steps = Number(values.steps);
const [embedDim = 64, depth = 2] = numbers(values.arch);
const [globalSize = 56, localSize = 28] = numbers(values.size);
const base = tinyRun();
const config: RunConfig = tinyRun({
  steps,
  batch: Number(values.batch),
  model: { ...base.model, embedDim, depth, heads: Math.max(1, embedDim / 64), positionGrid: globalSize / 14, layerScale: 1 },
  heads: { dino: { hidden: 2 * embedDim, bottleneck: 64, prototypes: Number(values.prototypes) }, ibot: null },
  crops: { ...base.crops, globalSize, localSize, localCount: 4 },
  optimizer: { ...base.optimizer, learningRate: 5e-4, warmupSteps: Math.ceil(steps / 10) },
  teacher: { ...base.teacher, centering: values.centering as 'softmax' | 'sinkhorn', temperatureWarmupSteps: Math.ceil(steps / 3) },
  logEvery: 1,
  checkpointEvery: steps,
});

interface Curve {
  readonly losses: number[];
  readonly skipped: number;
  readonly seconds: number;
}

async function curve(engine: string): Promise<Curve> {
  const [name, precision] = engine.split(':') as [EngineName, Precision?];
  const x = await createExecutor({ engine: name, ...(precision && { precision }) });
  const folder = await mkdtemp(path.join(tmpdir(), 'patchwise-curves-'));
  const started = performance.now();
  const losses: number[] = [];
  let skipped = 0;
  try {
    const signal = new AbortController().signal;
    const runDir = path.join(folder, 'run');
    for await (const event of pretrain({ runDir, imageRoot: '/nowhere', images: scanned, config, executor: x, signal, ...pictures() })) {
      if (event.type === 'metrics') losses.push(event.metrics.total);
      if (event.type !== 'log') continue;
      console.error(event.text);
      if (event.text.includes('changed nothing')) skipped++;
    }
  } finally {
    await rm(folder, { recursive: true });
    await x.dispose();
  }
  return { losses, skipped, seconds: (performance.now() - started) / 1000 };
}

const [a, b] = [await curve(values.a), await curve(values.b)];
const mean = (list: readonly number[]): number => list.reduce((sum, value) => sum + value, 0) / list.length;
const window = Number(values.window);
const off = (ours: number, theirs: number): number => Math.abs(ours - theirs) / Math.abs(theirs);
console.log(`step  ${values.a.padEnd(12)} ${values.b.padEnd(12)} off`);
let [worst, worstWindow] = [0, 0];
for (let step = 0; step < steps; step++) {
  worst = Math.max(worst, off(b.losses[step]!, a.losses[step]!));
  if ((step + 1) % window !== 0) continue;
  const [left, right] = [a, b].map(({ losses }) => mean(losses.slice(step + 1 - window, step + 1)));
  worstWindow = Math.max(worstWindow, off(right!, left!));
  console.log(
    `${String(step + 1).padEnd(5)} ${left!.toFixed(6).padEnd(12)} ${right!.toFixed(6).padEnd(12)} ${off(right!, left!).toExponential(1)}`,
  );
}
console.log(
  `means of ${window} steps differ by ${(100 * worstWindow).toFixed(3)} % at most, single steps by ${(100 * worst).toFixed(3)} %`,
);
console.log(`${values.a}: ${a.seconds.toFixed(0)} s, ${a.skipped} skipped; ${values.b}: ${b.seconds.toFixed(0)} s, ${b.skipped} skipped`);
