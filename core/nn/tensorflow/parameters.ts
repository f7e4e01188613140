/**
 * Parameter sets and Adam moments as TensorFlow.js holds them: a variable for each parameter, in one row only outside. One
 * row inside would be cut after each update, and WebAssembly copies the whole row for every piece it cuts.
 */
import type { Tensor as TfTensor, Variable } from '@tensorflow/tfjs-core';
import type { AdamState, ParameterSet, ParameterSpec } from '../ops.ts';
import type { Tf } from './backend.ts';

export class TfParameterSet implements ParameterSet {
  readonly specs: ParameterSet['specs'];
  readonly size: number;
  readonly variables: readonly Variable[];
  /** One for each parameter, of its shape; null where it is zero. */
  readonly gradients: (TfTensor | null)[];
  /** Positions of the parameters whose gradient is wanted. */
  readonly learning: readonly number[];
  readonly #tf: Tf;
  readonly #byName = new Map<string, Variable>();
  #disposed = false;

  constructor(tf: Tf, specs: readonly ParameterSpec[]) {
    this.#tf = tf;
    let offset = 0;
    const names = new Set<string>();
    this.specs = specs.map(({ name, shape, values }) => {
      const size = shape.reduce((product, n) => product * n, 1);
      if (values.length !== size)
        throw new Error(`createParameters: ${name} has ${values.length} values, its shape [${shape.join(',')}] wants ${size}.`);
      if (names.has(name)) throw new Error(`createParameters: the name ${name} is given twice.`);
      names.add(name);
      const spec = { name, shape: [...shape], offset, size };
      offset += size;
      return spec;
    });
    this.size = offset;
    this.gradients = specs.map(() => null);
    this.learning = specs.flatMap(({ frozen = false }, i) => (frozen ? [] : [i]));
    this.variables = specs.map(({ name, shape, values }) => {
      const start = tf.tensor(values.slice(), [...shape], 'float32');
      const variable = tf.variable(start);
      start.dispose();
      this.#byName.set(name, variable);
      return variable;
    });
  }

  get(name: string): TfTensor {
    const variable = this.#byName.get(name);
    if (!variable) throw new Error(`There is no parameter ${name}.`);
    if (this.#disposed) throw new Error(`The parameters with ${name} are disposed.`);
    return variable;
  }

  has(name: string): boolean {
    return this.#byName.has(name);
  }

  /** @param values length size */
  write(values: Float32Array): void {
    writeAll(this.#tf, this.variables, values);
  }

  /** @param gradient owned by the set from now on; null: zero */
  replaceGradient(i: number, gradient: TfTensor | null): void {
    this.gradients[i]?.dispose();
    this.gradients[i] = gradient && this.#tf.keep(gradient);
  }

  zeroGradients(): void {
    this.gradients.forEach((_, i) => this.replaceGradient(i, null));
  }

  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.zeroGradients();
    for (const variable of this.variables) variable.dispose();
  }
}

export class TfAdamState implements AdamState {
  readonly size: number;
  /** First and second moments, one for each parameter, of its shape. */
  readonly m: readonly Variable[];
  readonly v: readonly Variable[];
  readonly #tf: Tf;

  constructor(tf: Tf, set: TfParameterSet) {
    this.#tf = tf;
    this.size = set.size;
    const zeros = (): Variable[] => tf.tidy(() => set.specs.map(({ shape }) => tf.variable(tf.zeros([...shape]))));
    this.m = zeros();
    this.v = zeros();
  }

  /** @param m length size @param v length size */
  write(m: Float32Array, v: Float32Array): void {
    writeAll(this.#tf, this.m, m);
    writeAll(this.#tf, this.v, v);
  }

  dispose(): void {
    for (const variable of [...this.m, ...this.v]) variable.dispose();
  }
}

/** Takes the values of all variables from one row. */
function writeAll(tf: Tf, variables: readonly Variable[], values: Float32Array): void {
  let offset = 0;
  for (const variable of variables) {
    const own = values.slice(offset, offset + variable.size);
    tf.tidy(() => variable.assign(tf.tensor(own, variable.shape, 'float32')));
    offset += variable.size;
  }
}

/** Values of all tensors in one row, as they are now; null: zeros. @param size of all together */
export async function readAll(tensors: readonly (TfTensor | null)[], sizes: readonly number[]): Promise<Float32Array> {
  const size = sizes.reduce((sum, one) => sum + one, 0);
  const values = new Float32Array(size);
  // Asked for at once: what is changed while one is awaited must not show in the next.
  const parts = await Promise.all(tensors.map(async (tensor) => (tensor ? tensor.data<'float32'>() : null)));
  let offset = 0;
  parts.forEach((part, i) => {
    if (part) values.set(part, offset);
    offset += sizes[i]!;
  });
  return values;
}
