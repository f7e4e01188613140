/**
 * Speed of the GPU's products and attention at the sizes of ViT small, base and large, by timestamp queries:
 *   node test/bench/gpu-product.ts [--arch small|base|large] [--rows 16448] [--every] [--quick]
 * Without --every only the choice that the sizes get; with it every tile that the device can do, and for matrix units
 * variants of the staging. --quick: tiny sizes, for a software device.
 */
import { parseArgs } from 'node:util';
// Chooses the software adapter where there is no GPU.
import { noAdapter } from '../nn/webgpu-device.ts';
import { attention, attentionBackward } from '../../core/nn/webgpu/kernels/attention.ts';
import { product, productChoices, productWorkspace, type Choice, type ProductInputs } from '../../core/nn/webgpu/kernels/product.ts';
import type { Dispatch } from '../../core/nn/webgpu/program.ts';
import { Runtime } from '../../core/nn/webgpu/runtime.ts';

const { values: options } = parseArgs({
  options: { arch: { type: 'string' }, rows: { type: 'string' }, every: { type: 'boolean' }, quick: { type: 'boolean' } },
});
const quick = options.quick ?? false;
const widths = { small: 384, base: 768, large: 1024 };
if (options.arch && !(options.arch in widths)) throw new Error(`--arch ${options.arch} is not one of ${Object.keys(widths).join(', ')}.`);
if (noAdapter) throw new Error(noAdapter);

const runtime = await Runtime.open({ profile: true });
const caps = runtime.capabilities;
const bytesOf = (element: 'f32' | 'f16'): number => (element === 'f16' ? 2 : 4);

/** Best time of a call in ms, by program: cards clock up, so the best of several rounds counts. */
async function best(dispatches: readonly Dispatch[]): Promise<Map<string, { ms: number; flops: number }>> {
  const [rounds, calls] = quick ? [2, 1] : [5, 20];
  const times = new Map<string, { ms: number; flops: number }>();
  for (let round = 0; round <= rounds; ++round) {
    for (let call = 0; call < calls; ++call) runtime.run(dispatches);
    for (const [name, time] of await runtime.profile()) {
      const ms = time.ms / time.calls;
      const known = times.get(name)?.ms ?? Infinity;
      // The first round warms up.
      if (round > 0 && ms < known) times.set(name, { ms, flops: time.flops / time.calls });
    }
  }
  return times;
}

const line = (ms: number, flops: number, name: string): string =>
  `${ms.toFixed(3).padStart(10)} ms ${(flops / ms / 1e9).toPrecision(3).padStart(9)} TFLOP/s  ${name}`;

async function measureProduct(what: string, sizes: Omit<ProductInputs, 'a' | 'b' | 'c'>): Promise<void> {
  const { m, n, k, elements } = sizes;
  const regions = {
    a: runtime.take(m * k * bytesOf(elements.a)),
    b: runtime.take(n * k * bytesOf(elements.b)),
    c: runtime.take(m * n * bytesOf(elements.c)),
  };
  const workspaceBytes = productWorkspace(caps, sizes);
  const workspace = workspaceBytes > 0 ? runtime.take(workspaceBytes) : null;
  const inputs: ProductInputs = { ...sizes, ...regions, ...(workspace ? { workspace } : {}) };
  const all = productChoices(caps, sizes).flatMap((choice): Choice[] =>
    choice.shape
      ? [choice, { ...choice, tile: { ...choice.tile, prefetch: true } }, { ...choice, tile: { ...choice.tile, depth: 16 } }]
      : [choice],
  );
  console.log(`\n${what}: ${sizes.form} ${m} x ${n} x ${k}, ${Object.values(elements).join(' ')}`);
  for (const among of options.every ? all.map((choice) => [choice]) : [undefined]) {
    const single = among ? { ...inputs, workspace: undefined } : inputs;
    const { workspace: room, ...rest } = single;
    const times = [...(await best(product(caps, room ? { ...rest, workspace: room } : rest, among)))];
    const ms = times.reduce((sum, [, time]) => sum + time.ms, 0);
    console.log(line(ms, 2 * m * n * k, times.map(([name]) => name).join(' + ')));
  }
  for (const region of [...Object.values(regions), ...(workspace ? [workspace] : [])]) runtime.give(region);
}

async function measureAttention(samples: number, tokens: number, heads: number, element: 'f32' | 'f16'): Promise<void> {
  const width = samples * tokens * heads * 64;
  const take = (count: number): ReturnType<Runtime['take']> => runtime.take(count * bytesOf(element));
  const rows = (): ReturnType<Runtime['take']> => runtime.take(samples * tokens * heads * 4);
  const forward = { qkv: take(3 * width), out: take(width), lse: rows() };
  const backward = { dOut: take(width), dQkv: take(3 * width), delta: rows() };
  const inputs = { ...forward, groups: [{ samples, tokens, tokenOffset: 0 }], heads, headDim: 64, element };
  console.log(`\nattention: ${samples} samples of ${tokens} tokens, ${heads} heads of 64, ${element}`);
  const dispatches = [...attention(caps, inputs), ...attentionBackward(caps, { ...inputs, ...backward })];
  for (const [name, { ms, flops }] of await best(dispatches)) console.log(line(ms, flops, name));
  for (const region of [...Object.values(forward), ...Object.values(backward)]) runtime.give(region);
}

console.log(`${runtime.device.description}; f16 ${caps.f16 ? 'yes' : 'no'}; matrix units ${JSON.stringify(caps.matrices)}`);
const stored: ('f32' | 'f16')[] = caps.f16 ? ['f16', 'f32'] : ['f32'];
for (const [arch, width] of Object.entries(widths)) {
  if (options.arch && arch !== options.arch) continue;
  if (quick && arch !== 'small') continue;
  const D = quick ? 64 : width;
  const rows = Number(options.rows ?? (quick ? 130 : 16_448));
  const layers = { qkv: [3 * D, D], projection: [D, D], fc1: [4 * D, D], fc2: [D, 4 * D] } as const;
  for (const element of stored) {
    for (const [layer, [outputs, inputs]] of Object.entries(layers)) {
      const elements = { a: element, b: element, c: element };
      await measureProduct(`${arch} ${layer}`, { form: 'nt', m: rows, n: outputs, k: inputs, elements });
      await measureProduct(`${arch} ${layer}, input's gradient`, { form: 'nn', m: rows, n: inputs, k: outputs, elements });
      const summed = { ...elements, c: 'f32' } as const;
      await measureProduct(`${arch} ${layer}, weight's gradient`, { form: 'tn', m: outputs, n: inputs, k: rows, elements: summed });
    }
    const [m, n] = quick ? [16, 512] : [2048, 65_536];
    await measureProduct('prototypes', { form: 'nt', m, n, k: quick ? 64 : 256, elements: { a: element, b: element, c: element } });
    if (quick) await measureAttention(1, 37, 2, element);
    else
      for (const [samples, tokens] of [
        [128, 257],
        [512, 50],
        [4, 1370],
      ] as const)
        await measureAttention(samples, tokens, D / 64, element);
  }
}
runtime.dispose();
process.exit(0);
