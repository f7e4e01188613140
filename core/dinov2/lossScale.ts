/**
 * What the loss is multiplied by where gradients of activations are f16, so that small ones do not become 0: as PyTorch's
 * GradScaler, as large as goes without overflow. A step that overflows changes nothing (`AdamWOptions.guard`) and halves it.
 *
 * The device runs ahead of this thread, so the outcome of a step is known only after the next one was given. It counts
 * from the step after that on, also where it was known earlier: a resumed run takes the same scales as one never stopped.
 */
import type { Precision } from '../nn/index.ts';

export const FIRST_SCALE = 65_536;
/** Steps without overflow after which the scale is doubled. */
const GROWTH_STEPS = 2000;
/** What the scale is divided by until a step has gone well for the first time: small networks overflow at first, and each try costs two steps. */
const SEARCH_FACTOR = 16;
/** Steps from one to the first that its outcome counts for. */
const DELAY = 2;

/** How a step ended that does not count yet. */
interface Outcome {
  /** Counted from 0. */
  readonly step: number;
  readonly scale: number;
  readonly overflowed: boolean;
}

/** What a checkpoint holds of it. */
export interface LossScaleState {
  readonly scale: number;
  /** Steps in a row that went well at this scale. */
  readonly good: number;
  /** Steps that changed nothing. */
  readonly skipped: number;
  readonly waiting: readonly Outcome[];
}

export class LossScale {
  readonly #scaled: boolean;
  #state: LossScaleState;

  /** @param saved of the checkpoint that a run goes on from */
  constructor(precision: Precision, saved: LossScaleState | null = null) {
    this.#scaled = precision === 'f16';
    this.#state = saved ?? { scale: FIRST_SCALE, good: 0, skipped: 0, waiting: [] };
  }

  /**
   * To be called once before each step is given.
   * @param step counted from 0
   * @returns the step's scale, 1 in f32; and the updates made before it, for Adam's bias correction, as far as they count
   */
  begin(step: number): { scale: number; updates: number } {
    const counts = ({ step: other }: Outcome): boolean => other + DELAY <= step;
    let state = this.#state;
    for (const outcome of state.waiting.filter(counts)) state = after(state, outcome);
    this.#state = { ...state, waiting: state.waiting.filter((outcome) => !counts(outcome)) };
    return { scale: this.#scaled ? state.scale : 1, updates: step - state.skipped };
  }

  /** Steps are told in order. */
  end(outcome: Outcome): void {
    if (this.#scaled) this.#state = { ...this.#state, waiting: [...this.#state.waiting, outcome] };
  }

  /** null where nothing was ever scaled. */
  get state(): LossScaleState | null {
    return this.#scaled || this.#state.skipped > 0 ? this.#state : null;
  }
}

/** What a step at an older scale says of it is no news: the step after an overflow was given before that was known. */
function after(state: LossScaleState, { step, scale, overflowed }: Outcome): LossScaleState {
  const news = scale === state.scale;
  if (overflowed) {
    const skipped = state.skipped + 1;
    const factor = state.skipped === step ? SEARCH_FACTOR : 2;
    return news ? { ...state, scale: Math.max(1, scale / factor), good: 0, skipped } : { ...state, skipped };
  }
  if (!news) return state;
  const good = state.good + 1;
  return good < GROWTH_STEPS ? { ...state, good } : { ...state, scale: scale * 2, good: 0 };
}
