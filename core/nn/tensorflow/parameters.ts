/** Parameter sets and Adam moments as TensorFlow.js holds them: a variable for each parameter, all else flat in their order. */
import type { Tensor as TfTensor, Variable } from '@tensorflow/tfjs-core';
import type { AdamState, ParameterSet, ParameterSpec } from '../ops.ts';
import type { Tf } from './backend.ts';

export class TfParameterSet implements ParameterSet {
  readonly specs: ParameterSet['specs'];
  readonly size: number;
  readonly variables: readonly Variable[];
  /** [size], or null where they are zero. */
  gradients: TfTensor | null = null;
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

  /** All values in one row, [size]. */
  flat(): TfTensor {
    const tf = this.#tf;
    return tf.tidy(() => tf.concat(this.variables.map((variable, i) => tf.reshape(variable, [this.specs[i]!.size]))));
  }

  /** Takes all values from one row, [size]. */
  assign(flat: TfTensor): void {
    const tf = this.#tf;
    tf.tidy(() => {
      const sizes = this.specs.map(({ size }) => size);
      const parts = sizes.length > 1 ? tf.split(flat, sizes) : [flat];
      this.variables.forEach((variable, i) => variable.assign(tf.reshape(parts[i]!, variable.shape)));
    });
  }

  /** @param gradients [size], owned by the set from now on; null: zero */
  replaceGradients(gradients: TfTensor | null): void {
    this.gradients?.dispose();
    this.gradients = gradients && this.#tf.keep(gradients);
  }

  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.replaceGradients(null);
    for (const variable of this.variables) variable.dispose();
  }
}

export class TfAdamState implements AdamState {
  readonly size: number;
  /** First and second moments, [size] each. */
  readonly m: Variable;
  readonly v: Variable;

  constructor(tf: Tf, size: number) {
    this.size = size;
    const zeros = tf.zeros([size]);
    this.m = tf.variable(zeros);
    this.v = tf.variable(zeros);
    zeros.dispose();
  }

  dispose(): void {
    this.m.dispose();
    this.v.dispose();
  }
}
