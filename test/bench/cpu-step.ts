/**
 * One DINOv2 training step written directly on the operations, as bench/torch_dinov2_step.py of the reference has it:
 * teacher on two global crops, student on masked global and on local crops, two heads, Sinkhorn-Knopp, KoLeo, gradients,
 * clipping, AdamW, moving average. Synthetic crops; for timing the engine, not for training.
 */
import { Random } from '../nn/draw.ts';
import type { AdamState, Executor, ParameterSet, ParameterSpec, PrototypeTargets, Tensor } from '../../core/nn/index.ts';

export interface StepSettings {
  readonly arch: string;
  readonly batch: number;
  readonly gsize: number;
  readonly lsize: number;
  readonly locals: number;
  readonly protos: number;
}

const architectures: Record<string, readonly [dim: number, depth: number, heads: number]> = {
  nano: [128, 6, 2],
  tiny: [192, 12, 3],
  small: [384, 12, 6],
  base: [768, 12, 12],
  large: [1024, 24, 16],
};
const patch = 14;
const hidden = 2048;
const bottleneck = 256;

function parameterSpecs({ arch, gsize, protos }: StepSettings, random: Random): ParameterSpec[] {
  const [dim, depth] = architectures[arch]!;
  const specs: ParameterSpec[] = [];
  const add = (name: string, shape: number[], scale: number, center = 0): void => {
    const size = shape.reduce((a, b) => a * b, 1);
    specs.push({ name, shape, values: Float32Array.from({ length: size }, () => center + (scale ? scale * random.normal() : 0)) });
  };
  const linear = (name: string, out: number, inputs: number): void => {
    add(`${name}.weight`, [out, inputs], 0.6 / Math.sqrt(inputs));
    add(`${name}.bias`, [out], 0);
  };
  const norm = (name: string): void => {
    add(`${name}.weight`, [dim], 0, 1);
    add(`${name}.bias`, [dim], 0);
  };
  add('cls_token', [1, 1, dim], 1e-6);
  add('mask_token', [1, dim], 0);
  add('pos_embed', [1, 1 + (gsize / patch) ** 2, dim], 0.02);
  add('patch_embed.weight', [dim, 3, patch, patch], 0.02);
  add('patch_embed.bias', [dim], 0);
  for (let i = 0; i < depth; ++i) {
    norm(`blocks.${i}.norm1`);
    linear(`blocks.${i}.qkv`, 3 * dim, dim);
    linear(`blocks.${i}.proj`, dim, dim);
    add(`blocks.${i}.ls1`, [dim], 0, 1e-5);
    norm(`blocks.${i}.norm2`);
    linear(`blocks.${i}.fc1`, 4 * dim, dim);
    linear(`blocks.${i}.fc2`, dim, 4 * dim);
    add(`blocks.${i}.ls2`, [dim], 0, 1e-5);
  }
  norm('norm');
  for (const head of ['dino', 'ibot']) {
    linear(`${head}.0`, hidden, dim);
    linear(`${head}.2`, hidden, hidden);
    linear(`${head}.4`, bottleneck, hidden);
    add(`${head}.v`, [protos, bottleneck], 0.02);
    add(`${head}.g`, [protos, 1], 0, 1);
  }
  return specs;
}

/** A model's parameters, its data and everything drawn once; `run` does one step. */
export class BenchStep {
  readonly parameterCount: number;
  readonly #e: Executor;
  readonly #settings: StepSettings;
  readonly #student: ParameterSet;
  readonly #teacher: ParameterSet;
  readonly #state: AdamState;
  readonly #globals: Float32Array;
  readonly #locals: Float32Array;
  readonly #mask: Uint8Array;
  readonly #masked: Int32Array;
  readonly #maskedWeights: Float32Array;
  #updates = 0;

  constructor(executor: Executor, settings: StepSettings) {
    const random = new Random(1);
    this.#e = executor;
    this.#settings = settings;
    const specs = parameterSpecs(settings, random);
    this.#student = executor.createParameters(specs);
    this.#teacher = executor.createParameters(specs);
    this.#state = executor.createAdamState(this.#student);
    this.parameterCount = this.#student.size;
    const { batch: B, gsize, lsize, locals } = settings;
    this.#globals = random.normals(2 * B * 3 * gsize * gsize);
    this.#locals = random.normals(locals * B * 3 * lsize * lsize);
    // The first B global crops are masked, from 10 % to 50 % of their patches.
    const n = (gsize / patch) ** 2;
    this.#mask = new Uint8Array(2 * B * n);
    const masked: number[] = [];
    const weights: number[] = [];
    for (let i = 0; i < B; ++i) {
      const count = Math.max(1, Math.floor(n * (0.1 + (0.4 * i) / B)));
      const chosen = new Set<number>();
      while (chosen.size < count) chosen.add(Math.floor(random.uniform() * n));
      for (const p of [...chosen].sort((a, b) => a - b)) {
        this.#mask[i * n + p] = 1;
        masked.push(i * n + p);
        weights.push(1 / count / (2 * B));
      }
    }
    this.#masked = Int32Array.from(masked);
    this.#maskedWeights = Float32Array.from(weights);
  }

  /** Class tokens [N,dim] and patch tokens [N,P,dim] after the last norm. */
  #vit(set: ParameterSet, images: Tensor, mask: Uint8Array | null): { cls: Tensor; patches: Tensor } {
    const e = this.#e;
    const p = (name: string): Tensor => set.get(name);
    const [, depth, heads] = architectures[this.#settings.arch]!;
    const grid = images.shape[2]! / patch;
    let x = e.patchEmbed(images, p('patch_embed.weight'), p('patch_embed.bias'));
    if (mask) x = e.maskPatches(x, mask, p('mask_token'));
    const positions = e.resizePositions(p('pos_embed'), { gridHeight: grid, gridWidth: grid, offset: 0.1, antialias: false });
    x = e.assembleTokens(x, p('cls_token'), positions, null);
    const norm = (t: Tensor, name: string): Tensor => e.layerNorm(t, p(`${name}.weight`), p(`${name}.bias`), 1e-6);
    const linear = (t: Tensor, name: string, activation: 'none' | 'gelu' = 'none'): Tensor =>
      e.linear(t, p(`${name}.weight`), p(`${name}.bias`), activation);
    for (let i = 0; i < depth; ++i) {
      const b = `blocks.${i}`;
      const attended = e.attention(linear(norm(x, `${b}.norm1`), `${b}.qkv`), heads);
      x = e.addResidual(x, linear(attended, `${b}.proj`), p(`${b}.ls1`));
      x = e.addResidual(x, linear(linear(norm(x, `${b}.norm2`), `${b}.fc1`, 'gelu'), `${b}.fc2`), p(`${b}.ls2`));
    }
    x = norm(x, 'norm');
    const [N = 0, T = 0] = x.shape;
    const first = Int32Array.from({ length: N }, (_, s) => s * T);
    return { cls: e.gatherRows(x, first), patches: e.sliceTokens(x, 1, T - 1) };
  }

  #head(set: ParameterSet, rows: Tensor, name: string): Tensor {
    const p = (part: string): Tensor => set.get(`${name}.${part}`);
    const e = this.#e;
    let x = e.linear(rows, p('0.weight'), p('0.bias'), 'gelu');
    x = e.linear(x, p('2.weight'), p('2.bias'), 'gelu');
    return e.l2Normalize(e.linear(x, p('4.weight'), p('4.bias')), 1e-6);
  }

  /** @returns the loss */
  run(): Promise<number> {
    const e = this.#e;
    const { batch: B, gsize, lsize, locals } = this.#settings;
    const student = this.#student;
    const teacher = this.#teacher;
    const v = (set: ParameterSet, name: string): Tensor => set.get(`${name}.v`);
    const g = (set: ParameterSet, name: string): Tensor => set.get(`${name}.g`);
    return e.scope(async () => {
      const globals = e.tensor(this.#globals, [2 * B, 3, gsize, gsize]);
      const local = e.tensor(this.#locals, [locals * B, 3, lsize, lsize]);
      const seen = this.#vit(teacher, globals, null);
      const how = { kind: 'sinkhorn', temperature: 0.04, iterations: 3 } as const;
      const target = (rows: Tensor, name: string): PrototypeTargets =>
        e.prototypeTargets(this.#head(teacher, rows, name), v(teacher, name), g(teacher, name), how);
      const clsTargets = target(seen.cls, 'dino');
      const patchTargets = target(e.gatherRows(seen.patches, this.#masked), 'ibot');

      e.zeroGradients(student);
      const terms = 2 + 2 * locals;
      const { loss } = e.gradients(student, () => {
        const wide = this.#vit(student, globals, this.#mask);
        const near = this.#vit(student, local, null);
        const rows = this.#head(student, e.concatRows([wide.cls, near.cls]), 'dino');
        // Global crops against the other crop's targets (the second place repeats it with half the weight); local ones against both.
        const targetRows = new Int32Array((2 + locals) * B * 2);
        const rowWeights = new Float32Array((2 + locals) * B);
        for (let r = 0; r < rowWeights.length; ++r) {
          const sample = r % B;
          const global = r < 2 * B;
          targetRows[r * 2] = global ? (r + B) % (2 * B) : sample;
          targetRows[r * 2 + 1] = global ? (r + B) % (2 * B) : B + sample;
          rowWeights[r] = (global ? 0.5 : 1) / B / terms;
        }
        const options = { temperature: 0.1 };
        const dino = e.prototypeLoss({
          rows,
          weightV: v(student, 'dino'),
          weightG: g(student, 'dino'),
          targets: clsTargets,
          targetRows,
          rowWeights,
          ...options,
        });
        const patches = this.#head(student, e.gatherRows(wide.patches, this.#masked), 'ibot');
        const ibot = e.prototypeLoss({
          rows: patches,
          weightV: v(student, 'ibot'),
          weightG: g(student, 'ibot'),
          targets: patchTargets,
          targetRows: Int32Array.from(this.#masked, (_, i) => i),
          rowWeights: this.#maskedWeights,
          ...options,
        });
        const half = (from: number): Tensor =>
          e.koleo(
            e.gatherRows(
              wide.cls,
              Int32Array.from({ length: B }, (_, i) => from + i),
            ),
          );
        return e.weightedSum([dino, ibot, half(0), half(B)], [1, 1, 0.1, 0.1]);
      });
      e.clipGradients(student, new Int32Array(student.specs.length), 3);
      const learningRates = new Float32Array(student.specs.length).fill(1e-4);
      const weightDecays = new Float32Array(student.specs.length).fill(0.04);
      e.adamW(student, this.#state, {
        learningRates,
        weightDecays,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        updateNumber: ++this.#updates,
      });
      e.emaUpdate(teacher, student, 0.996);
      return (await e.read(loss))[0]!;
    });
  }
}
