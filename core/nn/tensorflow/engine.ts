/**
 * Scopes, ownership and the tape: what every operation of the TensorFlow.js executor works with. TensorFlow.js frees by
 * `tidy`, which cannot wait for a promise; so the result of an operation is kept out of its tidy and freed by the scope.
 * No operation is defined here.
 */
import type { GradSaveFunc, Tensor as TfTensor } from '@tensorflow/tfjs-core';
import type { Backend, Tf } from './backend.ts';
import type { TfAdamState, TfParameterSet } from './parameters.ts';
import { survivors } from '../shapes.ts';

export type { TfTensor };

/** How much of logits [rows, prototypes] may exist at once, in values. */
export interface PrototypeLimits {
  /** Most targets that are kept for the step. */
  readonly kept: number;
  /** Beyond, and for a student's logits always: made again tile by tile. */
  readonly tile: number;
}

/** 256 MiB and 64 MiB. */
export const prototypeLimits: PrototypeLimits = { kept: 64 * 2 ** 20, tile: 16 * 2 ** 20 };

export class Engine {
  readonly tf: Tf;
  readonly backend: Backend;
  readonly limits: PrototypeLimits;
  readonly #persistent = new Set<TfParameterSet | TfAdamState>();
  /** Tensors of each open scope; the first is that of the executor itself. */
  readonly #scopes: TfTensor[][] = [[]];
  #recording = false;

  constructor(backend: Backend, limits: PrototypeLimits = prototypeLimits) {
    this.limits = limits;
    this.tf = backend.tf;
    this.backend = backend;
  }

  // --- memory ---

  /** Runs `work`; its result, a tensor made in it, lives until the enclosing scope ends, all others are freed at once. */
  make(work: () => TfTensor): TfTensor {
    const result = this.tf.keep(this.tf.tidy(work));
    this.#scopes.at(-1)!.push(result);
    return result;
  }

  /** @see Executor.scope */
  async scope<T>(body: () => T | Promise<T>): Promise<T> {
    const made: TfTensor[] = [];
    this.#scopes.push(made);
    let kept: TfTensor[] = [];
    try {
      const result = await body();
      kept = survivors(result, this.#isTensor);
      return result;
    } finally {
      this.#endScope(made, kept);
    }
  }

  /** @see Executor.within */
  within<T>(body: () => T): T {
    const made: TfTensor[] = [];
    this.#scopes.push(made);
    let kept: TfTensor[] = [];
    try {
      const result = body();
      kept = survivors(result, this.#isTensor);
      return result;
    } finally {
      this.#endScope(made, kept);
    }
  }

  #endScope(made: readonly TfTensor[], kept: readonly TfTensor[]): void {
    if (this.#scopes.at(-1) !== made)
      throw new Error('scope: scopes must end in the order they began in; await each before the next begins.');
    this.#scopes.pop();
    const survives = new Set(kept);
    for (const tensor of made) {
      if (survives.has(tensor)) this.#scopes.at(-1)!.push(tensor);
      else tensor.dispose();
    }
  }

  readonly #isTensor = (value: unknown): value is TfTensor => value instanceof this.tf.Tensor;

  /** Remembers what `dispose` frees when its owner has not. */
  adopt<T extends TfParameterSet | TfAdamState>(item: T): T {
    this.#persistent.add(item);
    return item;
  }

  dispose(): void {
    for (const item of this.#persistent) item.dispose();
    for (const tensor of this.#scopes.flat()) tensor.dispose();
    this.#scopes.splice(0, this.#scopes.length, []);
  }

  /** @throws Error when it is not a tensor of this executor, or was freed */
  own(operation: string, tensor: unknown): TfTensor {
    if (!(tensor instanceof this.tf.Tensor)) throw new Error(`${operation}: the tensor is not one of this executor.`);
    if (tensor.isDisposed) throw new Error(`${operation}: the tensor [${tensor.shape.join(',')}] was freed when its scope ended.`);
    return tensor;
  }

  // --- tape ---

  /** Runs `forward` and then TensorFlow.js's tape backwards, and adds to the gradients of the set. @see Executor.gradients */
  differentiate(set: TfParameterSet, forward: () => TfTensor, seed: number): TfTensor {
    const { tf } = this;
    if (this.#recording) throw new Error('gradients: calls do not nest.');
    this.#recording = true;
    try {
      let loss: TfTensor | null = null;
      tf.tidy(() => {
        const { grads } = tf.engine().gradients(
          () => {
            loss = forward();
            if (loss.shape.length !== 0) throw new Error(`gradients: the loss has shape [${loss.shape.join(',')}], [] is wanted.`);
            return loss;
          },
          set.learning.map((i) => set.variables[i]!),
          tf.scalar(seed),
          true, // a parameter that the loss does not reach has none
        );
        (grads as (TfTensor | undefined)[]).forEach((gradient, at) => {
          if (!gradient) return;
          const i = set.learning[at]!;
          const before = set.gradients[i];
          set.replaceGradient(i, before ? tf.add(before, gradient) : tf.clone(gradient));
        });
      });
      return loss!;
    } catch (error) {
      this.#forgetTape();
      throw error;
    } finally {
      this.#recording = false;
    }
  }

  /** After an error the tape's saved tensors would stay for ever. */
  #forgetTape(): void {
    const { state } = this.tf.engine();
    for (const node of state.activeTape ?? []) for (const tensor of node.saved ?? []) tensor.dispose();
    (state as { activeTape: unknown }).activeTape = null;
  }

  /**
   * An operation with its own gradient. `backward` may read the inputs, which live at least as long as the tape, and what
   * `forward` gave to `save`; it gives one gradient for each input, a tensor of its own.
   */
  custom(
    inputs: readonly TfTensor[],
    forward: (save: (tensors: TfTensor[]) => void) => TfTensor,
    backward: (dy: TfTensor, saved: TfTensor[]) => TfTensor[],
  ): TfTensor {
    return this.tf.customGrad((...args) => ({
      value: forward(args.at(-1) as GradSaveFunc),
      gradFunc: (dy: TfTensor, saved: TfTensor[]) => {
        const gradients = this.tf.tidy(() => backward(dy, saved));
        // The tape would hold them until its end; each is read here only.
        for (const tensor of [dy, ...saved]) tensor.dispose();
        return gradients;
      },
    }))(...inputs);
  }

  // --- products and sums ---

  /**
   * Product of two matrices, each transposed first where told. WebAssembly multiplies transposed operands with plain loops,
   * at a tenth of the speed: there what is smaller is transposed before, a large weight matrix never.
   */
  product(a: TfTensor, b: TfTensor, transposeA = false, transposeB = false): TfTensor {
    const { tf } = this;
    if (this.backend.name !== 'wasm') return tf.matMul(a, b, transposeA, transposeB);
    const left = transposeA ? tf.transpose(a) : a; // [rows, inputs]
    if (!transposeB) return tf.matMul(left, b);
    const [rows, inputs] = left.shape as [number, number];
    const outputs = b.shape[0]!;
    // (b left^T)^T moves rows * (inputs + outputs) values, b^T inputs * outputs.
    if (rows * (inputs + outputs) < inputs * outputs) return tf.transpose(tf.matMul(b, tf.transpose(left)));
    return tf.matMul(left, tf.transpose(b));
  }

  /** Sums of the columns of x [rows, n] -> [n]. */
  sumRows(x: TfTensor): TfTensor {
    const { tf } = this;
    const [rows, n] = x.shape as [number, number];
    // As a product, which is WebAssembly's fastest kernel.
    return this.backend.name === 'wasm' ? tf.reshape(tf.matMul(tf.ones([1, rows]), x), [n]) : tf.sum(x, 0);
  }
}
