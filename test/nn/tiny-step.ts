/** A whole training step on a network of a few hundred values: to run hundreds of times. */
import type { Executor, ParameterSet, Tensor } from '../../core/nn/index.ts';
import { Random } from './draw.ts';

export class TinyStep {
  readonly #e: Executor;
  readonly #student: ParameterSet;
  readonly #teacher: ParameterSet;
  readonly #state: ReturnType<Executor['createAdamState']>;
  readonly #random = new Random(12);
  #updates = 0;

  constructor(e: Executor) {
    this.#e = e;
    const shapes = {
      w: [8, 3, 2, 2],
      b: [8],
      cls: [1, 1, 8],
      positions: [1, 10, 8],
      token: [1, 8],
      qkv: [24, 8],
      up: [16, 8],
      down: [8, 16],
    };
    const specs = Object.entries({ ...shapes, gamma: [8], beta: [8], v: [12, 8], g: [12, 1] }).map(([name, shape]) => ({
      name,
      shape,
      values: this.#random.normals(shape.reduce((a, b) => a * b, 1)).map((value) => value * 0.3),
    }));
    this.#student = e.createParameters(specs);
    this.#teacher = e.createParameters(specs);
    this.#state = e.createAdamState(this.#student);
  }

  #forward(set: ParameterSet, images: Tensor, mask: Uint8Array): Tensor {
    const e = this.#e;
    const p = (name: string): Tensor => set.get(name);
    let x = e.maskPatches(e.patchEmbed(images, p('w'), p('b')), mask, p('token'));
    const positions = e.resizePositions(p('positions'), { gridHeight: 2, gridWidth: 2, offset: 0.1, antialias: false });
    x = e.assembleTokens(x, p('cls'), positions, null);
    const subset = [{ samples: 3, tokens: 5, rows: Int32Array.of(2, 0), scale: 1.5 }];
    const normal = e.layerNorm(e.gatherSamples(x, subset), p('gamma'), p('beta'), 1e-6);
    x = e.addResidual(x, e.attention(e.linear(normal, p('qkv'), null), 2), p('gamma'), subset);
    x = e.addResidual(x, e.linear(e.linear(x, p('up'), null, 'gelu'), p('down'), null), p('gamma'));
    return e.l2Normalize(e.gatherRows(x, Int32Array.of(0, 5, 10)), 1e-12);
  }

  /** @returns the loss */
  run(): Promise<number> {
    const e = this.#e;
    return e.scope(async () => {
      const images = e.tensor(this.#random.normals(3 * 3 * 16), [3, 3, 4, 4]);
      const mask = Uint8Array.from({ length: 12 }, (_, i) => (i % 5 === 0 ? 1 : 0));
      const seen = this.#forward(this.#teacher, images, new Uint8Array(12));
      const targets = e.prototypeTargets(seen, this.#teacher.get('v'), this.#teacher.get('g'), {
        kind: 'sinkhorn',
        temperature: 0.1,
        iterations: 3,
      });
      e.zeroGradients(this.#student);
      const { loss } = e.gradients(this.#student, () => {
        const rows = this.#forward(this.#student, images, mask);
        const prototypes = e.prototypeLoss({
          rows,
          weightV: this.#student.get('v'),
          weightG: this.#student.get('g'),
          targets,
          targetRows: Int32Array.of(0, 1, 2),
          rowWeights: new Float32Array(3).fill(1 / 3),
          temperature: 0.1,
        });
        return e.weightedSum([prototypes, e.koleo(rows)], [1, 0.1]);
      });
      const count = this.#student.specs.length;
      e.clipGradients(this.#student, new Int32Array(count), 3);
      const rates = { learningRates: new Float32Array(count).fill(1e-3), weightDecays: new Float32Array(count).fill(0.04) };
      e.adamW(this.#student, this.#state, { ...rates, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, updateNumber: ++this.#updates });
      e.emaUpdate(this.#teacher, this.#student, 0.99);
      return (await e.read(loss))[0]!;
    });
  }
}
