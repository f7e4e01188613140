/** A small step with every kind of work in it, to be repeated and compared bit for bit. */
import type { Executor, Tensor } from '../../core/nn/index.ts';
import { Random } from './draw.ts';
import { targetsOf } from './targets.ts';

export interface StepSizes {
  readonly samples: number;
  readonly tokens: number;
  readonly width: number;
  readonly heads: number;
  readonly prototypes: number;
}

/** Loss, gradients, norms, and parameters after the update. */
export async function smallStep(
  executor: Executor,
  { samples: N, tokens: T, width: D, heads, prototypes: K }: StepSizes,
): Promise<Float32Array[]> {
  const random = new Random(11);
  const shapes = { qkv: [3 * D, D], bias: [3 * D], norm: [D], gamma: [D], up: [4 * D, D], down: [D, 4 * D], v: [K, D], g: [K, 1] };
  const specs = Object.entries(shapes).map(([name, shape]) => ({
    name,
    shape,
    values: random.normals(shape.reduce((a, b) => a * b, 1)).map((w) => (name === 'g' ? 1 : w * 0.2)),
  }));
  const set = executor.createParameters(specs);
  const state = executor.createAdamState(set);
  const x = random.normals(N * T * D);
  const logits = random.normals(N * K);
  const result = await executor.scope(async () => {
    executor.zeroGradients(set);
    const targets = targetsOf(executor, logits, [N, K], { kind: 'sinkhorn', temperature: 0.3, iterations: 3 });
    const { loss } = executor.gradients(set, () => {
      const input = executor.tensor(x, [N, T, D]);
      const p = (name: keyof typeof shapes): Tensor => set.get(name);
      const normal = executor.layerNorm(input, p('norm'), p('gamma'), 1e-6);
      let y = executor.addResidual(input, executor.attention(executor.linear(normal, p('qkv'), p('bias')), heads), p('gamma'));
      y = executor.addResidual(y, executor.linear(executor.linear(y, p('up'), null, 'gelu'), p('down'), null), p('norm'));
      const spread = Int32Array.from({ length: 6 }, (_, i) => Math.floor((i * N * T) / 6));
      const rows = executor.l2Normalize(executor.gatherRows(y, spread), 1e-12);
      const prototypes = executor.prototypeLoss({
        rows,
        weightV: p('v'),
        weightG: p('g'),
        targets,
        targetRows: Int32Array.from(spread, (_, i) => i % N),
        rowWeights: new Float32Array(6).fill(1 / 6),
        temperature: 0.1,
      });
      return executor.weightedSum([prototypes, executor.koleo(rows)], [1, 0.1]);
    });
    const gradients = await executor.readGradients(set);
    const parts = Int32Array.from(specs, (_, i) => i % 2);
    const norms = await executor.read(executor.clipGradients(set, parts, 0.5));
    const learningRates = new Float32Array(specs.length).fill(1e-3);
    const weightDecays = new Float32Array(specs.length).fill(0.04);
    executor.adamW(set, state, { learningRates, weightDecays, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, updateNumber: 1 });
    return [await executor.read(loss), gradients, norms, await executor.readParameters(set)];
  });
  state.dispose();
  set.dispose();
  return result;
}
