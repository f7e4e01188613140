/**
 * What the engines with a tape of their own have in common: which values want a gradient, the steps back, and what is
 * computed again for them. Memory and arithmetic are the engine's.
 */

/** G: how the engine names the place of a gradient. */
export interface TapeTensor<G> {
  readonly shape: readonly number[];
  readonly size: number;
  /** True when recorded: something it was made from wants a gradient. */
  tracked: boolean;
  /** Its gradient during the backward pass, null when none has arrived. */
  gradient: G | null;
  /** The parameters it belongs to, and its place among them; null for other values. */
  readonly set: { /** 1 where the gradient is not wanted. */ readonly frozen: Uint8Array } | null;
  readonly index: number;
}

/** Given d loss / d output. Returns true when it has taken that memory over (made it another gradient). */
export type Backward<G> = (dy: G) => boolean | void;

export interface TapeMemory<T extends TapeTensor<G>, G> {
  /** Frees the gradient of a value that is done with. */
  giveBack(gradient: G, of: T): void;
  /** A scope of its own; the tensor that the body returns lives on. */
  forwards(body: () => T): T;
  /** A scope of its own; gradients of these tensors that were made in it live on. */
  backwards(inputs: readonly T[], body: () => void): void;
}

interface Recording<T extends TapeTensor<G>, G> {
  readonly set: T['set'];
  readonly steps: { readonly output: T; readonly backward: Backward<G> }[];
  /**
   * Only follows what has a gradient; the steps are recorded when they are computed again. What may be followed: inputs and
   * what was made of them. Null: not dry.
   */
  readonly dry: Set<T> | null;
}

export class Tape<T extends TapeTensor<G>, G> {
  readonly #memory: TapeMemory<T, G>;
  #recording: Recording<T, G> | null = null;

  constructor(memory: TapeMemory<T, G>) {
    this.#memory = memory;
  }

  get recording(): boolean {
    return this.#recording !== null;
  }

  /** True when a gradient with respect to the tensor is wanted, and what that takes is worth keeping. */
  wants(tensor: T | null): boolean {
    return !this.#recording?.dry && this.#reaches(tensor);
  }

  #reaches(tensor: T | null): boolean {
    if (tensor === null || this.#recording === null) return false;
    const { set } = this.#recording;
    return tensor.tracked || (set !== null && tensor.set === set && set.frozen[tensor.index] === 0);
  }

  /** Records `backward` when one of the inputs wants a gradient. */
  record(output: T, inputs: readonly (T | null)[], backward: Backward<G>): void {
    if (!this.#recording) return;
    const reached = inputs.filter((input) => this.#reaches(input));
    if (reached.length === 0) return;
    const { steps, dry } = this.#recording;
    // The gradient of another tensor would be freed with what is computed again.
    if (dry && reached.some((input) => !input!.set && !dry.has(input!)))
      throw new Error('recompute: the body takes a tensor with a gradient that is not among its inputs.');
    output.tracked = true;
    if (dry) dry.add(output);
    else steps.push({ output, backward });
  }

  /**
   * Runs `forward` and then the tape backwards. @see Executor.gradients
   * @param begin makes the gradient that the loss starts with
   */
  differentiate(set: T['set'], forward: () => T, begin: () => G): T {
    if (this.#recording) throw new Error('gradients: calls do not nest.');
    return this.#record({ set, steps: [], dry: null }, (recording) => {
      const loss = forward();
      if (loss.size !== 1 || loss.shape.length !== 0)
        throw new Error(`gradients: the loss has shape [${loss.shape.join(',')}], [] is wanted.`);
      if (loss.tracked) loss.gradient = begin();
      this.#backwards(recording);
      return loss;
    });
  }

  /** @see Executor.recompute */
  recompute(inputs: readonly T[], body: () => T): T {
    const outer = this.#recording;
    // Inside another one it would be computed a third time, and nothing saved.
    if (outer?.dry) return body();
    if (!outer) return this.#memory.forwards(body);
    const { set } = outer;
    const output = this.#record({ set, steps: [], dry: new Set(inputs) }, () => this.#memory.forwards(body));
    if (!output.tracked) return output;
    const backward = (dy: G): true => {
      this.#memory.backwards(inputs, () => {
        this.#record({ set, steps: [], dry: null }, (again) => {
          body().gradient = dy;
          this.#backwards(again);
        });
      });
      return true;
    };
    outer.steps.push({ output, backward });
    return output;
  }

  #record<R>(recording: Recording<T, G>, body: (recording: Recording<T, G>) => R): R {
    const outer = this.#recording;
    this.#recording = recording;
    try {
      return body(recording);
    } finally {
      for (const { output } of recording.steps) {
        output.tracked = false;
        output.gradient = null;
      }
      this.#recording = outer;
    }
  }

  #backwards({ steps }: Recording<T, G>): void {
    for (let i = steps.length - 1; i >= 0; --i) {
      const { output, backward } = steps[i]!;
      const dy = output.gradient;
      // A value that the loss does not depend on.
      if (dy === null) continue;
      output.gradient = null;
      if (backward(dy) !== true) this.#memory.giveBack(dy, output);
    }
  }
}
