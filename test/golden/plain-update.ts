/** What follows the gradients in a training step, a second time and in float64 (spec 6): multipliers, clipping, AdamW, EMA. */

/** A parameter with what an update needs; arrays are changed in place. */
export interface PlainParameter {
  readonly name: string;
  readonly student: Float64Array;
  readonly teacher: Float64Array;
  readonly gradient: Float64Array;
  readonly m: Float64Array;
  readonly v: Float64Array;
}

export interface PlainRates {
  readonly layerDecay: number;
  readonly patchEmbedMultiplier: number;
}

/** Number of blocks below the output, by name: those of embeddings are all of them and one more. */
function distance(name: string, depth: number): number {
  if (!name.startsWith('backbone.') || name.startsWith('backbone.norm')) return 0;
  const block = name.match(/\.blocks\.(\d+)\./);
  return block ? depth - Number(block[1]) : depth + 1;
}

/** Multipliers of a parameter as they are recorded. */
export function plainMultipliers(
  name: string,
  depth: number,
  { layerDecay, patchEmbedMultiplier }: PlainRates,
): { lr: number; wd: number; last: boolean } {
  const exempt = name.endsWith('.bias') || name.includes('norm') || name.includes('gamma');
  const lr = layerDecay ** distance(name, depth) * (name.includes('patch_embed') ? patchEmbedMultiplier : 1);
  return { lr, wd: exempt ? 0 : 1, last: name.includes('last_layer') };
}

export interface PlainUpdate {
  readonly lr: number;
  readonly lastLayerLr: number;
  readonly wd: number;
  readonly momentum: number;
  readonly clip: number;
  readonly betas: readonly [number, number];
  readonly multipliers: (name: string) => { readonly lr: number; readonly wd: number; readonly last: boolean };
  /** Counted from 1. */
  readonly number: number;
}

/** @returns the gradient norm of each part before clipping */
export function plainUpdate(parameters: readonly PlainParameter[], update: PlainUpdate): Record<string, number> {
  const partOf = (name: string): string => name.slice(0, name.indexOf('.'));
  const norms: Record<string, number> = {};
  for (const { name, gradient } of parameters) for (const g of gradient) norms[partOf(name)] = (norms[partOf(name)] ?? 0) + g * g;
  for (const part of Object.keys(norms)) norms[part] = Math.sqrt(norms[part]!);

  const [beta1, beta2] = update.betas;
  for (const { name, student, teacher, gradient, m, v } of parameters) {
    const { lr, wd, last } = update.multipliers(name);
    const rate = lr * (last ? update.lastLayerLr : update.lr);
    const shrink = Math.min(1, update.clip / (norms[partOf(name)]! + 1e-6));
    for (let i = 0; i < student.length; i++) {
      const g = gradient[i]! * shrink;
      m[i] = beta1 * m[i]! + (1 - beta1) * g;
      v[i] = beta2 * v[i]! + (1 - beta2) * g * g;
      const step = m[i]! / (1 - beta1 ** update.number) / (Math.sqrt(v[i]! / (1 - beta2 ** update.number)) + 1e-8);
      student[i] = student[i]! * (1 - rate * wd * update.wd) - rate * step;
      teacher[i] = update.momentum * teacher[i]! + (1 - update.momentum) * student[i]!;
    }
  }
  return norms;
}
