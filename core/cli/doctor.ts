/** What this machine can train with: adapters, measured speeds, the driver's check, and the engine that follows. */
import {
  createExecutor,
  cudaNeeds,
  cudaState,
  describeEngines,
  rememberFailure,
  surveyGpus,
  type EngineChoice,
  type Executor,
  type Survey,
} from '../nn/index.ts';

export interface Diagnosis extends Survey {
  readonly cuda: ReturnType<typeof cudaState>;
  readonly cpu: {
    /** Threads and kind of SIMD. */
    readonly description: string;
    /** Arithmetic a second of f32 products, in 1e9. */
    readonly gigaflops: number;
  };
  /** What `auto` takes. */
  readonly engine: EngineChoice;
}

/**
 * @param check checks a program that acts as a GPU too, which takes minutes
 * @param gpuChecks file that remembers what GPU drivers are known to fail: one that passes now is tried again
 */
export async function diagnose(check: boolean, gpuChecks: string): Promise<Diagnosis> {
  // One after the other: they would take each other's time.
  const gpus = await surveyGpus(check);
  const [adapter] = gpus.adapters ?? [];
  if (adapter && gpus.check === '') rememberFailure(gpuChecks, adapter, null);
  const executor = await createExecutor({ engine: 'cpu' });
  try {
    const cpu = { description: executor.description, gigaflops: await cpuGigaflops(executor) };
    return { ...gpus, cuda: cudaState(), cpu, engine: await describeEngines('auto', { gpuChecks }) };
  } finally {
    await executor.dispose();
  }
}

/** The best of a few products of side x side matrices. */
async function cpuGigaflops(x: Executor, side = 1024, times = 8): Promise<number> {
  return x.scope(async () => {
    const [a, b] = [
      x.tensor(new Float32Array(side * side).fill(1), [side, side]),
      x.tensor(new Float32Array(side * side).fill(1), [side, side]),
    ];
    let best = Infinity;
    for (let i = 0; i < times; i++) {
      const start = performance.now();
      x.linear(a, b, null);
      best = Math.min(best, performance.now() - start);
    }
    return (2 * side ** 3) / best / 1e6;
  });
}

const gib = (bytes: number): string => `${(bytes / 2 ** 30).toFixed(1)} GiB`;
/** Operations a second, given in 1e12. */
const flops = (value: number): string => (value < 0.1 ? `${(value * 1000).toFixed(2)} GFLOP/s` : `${value.toFixed(1)} TFLOP/s`);

/** For people. */
export function diagnosisInWords({ adapters = [], speed, check, problem, cuda, cpu, engine }: Diagnosis): string {
  const lines: string[] = [];
  for (const [i, adapter] of adapters.entries()) {
    const { description, driver, vendor, architecture, software, capabilities, memory, bufferBytes, timestamps } = adapter;
    const { f16, subgroups, matrices, workgroupStorage, workgroupInvocations, bindingBytes } = capabilities;
    const shapes = matrices.map(({ M, N, K, result }) => `${M}x${N}x${K} to ${result}`).join(', ');
    lines.push(
      `GPU: ${description}${software ? ', a program that acts as one' : ''}`,
      `  ${[`vendor ${vendor || 'not told'}`, ...(architecture ? [`architecture ${architecture}`] : []), `driver ${driver || 'not told'}`].join(', ')}`,
      `  f16 ${f16 ? 'yes' : 'no'}, subgroups ${subgroups ? `of ${subgroups.min} to ${subgroups.max}` : 'no'}, matrix units ${shapes || 'no'}, timestamps ${timestamps ? 'yes' : 'no'}`,
      `  memory ${memory ? `${gib(memory.bytes)} (${memory.source})` : 'not told'}, one array ${gib(bindingBytes)}, one buffer ${gib(bufferBytes)}`,
      `  workgroups of ${workgroupInvocations} with ${workgroupStorage.toLocaleString('en-US')} bytes`,
    );
    if (i > 0) continue;
    if (speed) {
      const half = speed.f16 === null ? '' : `, f16 ${flops(speed.f16)}`;
      lines.push(`  measured: products f32 ${flops(speed.f32)}${half}; memory ${speed.streamed.toFixed(1)} GB/s`);
    }
    if (check === undefined) lines.push(`  results not checked${software ? ' (--check does, in minutes)' : ''}`);
    else lines.push(`  results checked against the cpu engine: ${check === '' ? 'right' : check}`);
  }
  if (problem !== undefined) lines.push(adapters.length === 0 ? `No GPU for WebGPU: ${problem}` : `  ended early: ${problem}`);
  lines.push(
    `CUDA for TensorFlow.js: ${cuda.gpu ? 'an NVIDIA driver' : 'no NVIDIA driver'}, the library is ${cuda.installed ? '' : 'not '}installed${cuda.gpu && !cuda.installed ? ` (npm run setup:cuda; needs ${cudaNeeds})` : ''}`,
    `CPU: ${cpu.description}; products f32 ${cpu.gigaflops.toFixed(1)} GFLOP/s`,
    `Engine: ${engine.engine}, ${engine.details}`,
  );
  if (engine.engine === 'webgpu' && check) lines.push('  Its check failed: the next engine is taken when a job starts.');
  return lines.join('\n');
}
