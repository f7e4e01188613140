/**
 * Class prototypes from accepted masks: linear discriminant analysis whose covariance comes from the unlabelled pool, so a
 * single mask is enough. Patches and vectors only.
 */
import { Random } from '../random.ts';
import { sphericalKMeans } from './cluster.ts';
import type { SetStatistics } from './statistics.ts';
import { withoutPosition } from './statistics.ts';

/** Patches that a person has decided about, of one class; class null is background. */
export interface LabelledPatches {
  readonly classId: number | null;
  /** [n, dim] features as the network gave them. */
  readonly rows: Float32Array;
  /** [n] share of the patch that belongs to the class, times what the decision is worth. */
  readonly weights: Float32Array;
}

/** score(x) = max over sub-prototypes of weight . x + bias; linear in the features as the network gave them. */
export interface ClassPrototypes {
  /** Background is null and always first. */
  readonly classes: readonly {
    readonly classId: number | null;
    readonly planes: readonly { readonly weight: Float32Array; readonly bias: number }[];
  }[];
  readonly temperature: number;
  readonly dim: number;
}

export interface PrototypeOptions {
  /** Weight of the pool's mean in every class mean. Small: it also moves the border towards the pool, and one object has few patches. */
  readonly shrink: number;
  /** Ridge of the whitening as a share of the mean variance. */
  readonly ridge: number;
  /** Classes with more weight than this are split. */
  readonly splitWeight: number;
  readonly subPrototypes: number;
  readonly minPrior: number;
}

export const prototypeDefaults: PrototypeOptions = { shrink: 1, ridge: 0.1, splitWeight: 60, subPrototypes: 4, minPrior: 0.02 };

const splitSample = 2000;

/**
 * Whitened features: (L + eps)^(-1/2) U^T (x - m) without the directions of place.
 * @param rows [n, dim] @returns [n, k]
 */
export function whiten(rows: Float32Array, statistics: SetStatistics, ridge = prototypeDefaults.ridge): Float32Array {
  const { dim, mean, axes, variances, position } = statistics;
  const k = variances.length;
  const clean = withoutPosition(rows, dim, position);
  const scale = whiteningScale(statistics, ridge);
  const n = rows.length / dim;
  const out = new Float32Array(n * k);
  for (let i = 0; i < n; i++) {
    for (let a = 0; a < k; a++) {
      let dot = 0;
      for (let j = 0; j < dim; j++) dot += (clean[i * dim + j] - mean[j]) * axes[a * dim + j];
      out[i * k + a] = dot * scale[a];
    }
  }
  return out;
}

function whiteningScale({ dim, variances }: SetStatistics, ridge: number): Float64Array {
  let total = 0;
  for (const v of variances) total += v;
  const epsilon = (ridge * total) / dim;
  return Float64Array.from(variances, (v) => 1 / Math.sqrt(v + epsilon + 1e-12));
}

/**
 * Fits prototypes (prelabel methods 2.3, head A). Background exists without a sample: its mean is then the pool's.
 * @param labelled any number of groups per class
 */
export function fitPrototypes(
  labelled: readonly LabelledPatches[],
  statistics: SetStatistics,
  options: PrototypeOptions = prototypeDefaults,
): ClassPrototypes {
  const k = statistics.variances.length;
  const ids: (number | null)[] = [null];
  for (const { classId } of labelled) if (!ids.includes(classId)) ids.push(classId);
  const groups = ids.map((classId) => {
    const own = labelled.filter((l) => l.classId === classId);
    const white = own.map((l) => whiten(l.rows, statistics, options.ridge));
    const rows = new Float32Array(white.reduce((sum, r) => sum + r.length, 0));
    const weights = new Float32Array(rows.length / Math.max(1, k));
    let at = 0;
    own.forEach((l, i) => {
      rows.set(white[i], at * k);
      weights.set(l.weights, at);
      at += l.weights.length;
    });
    let total = 0;
    for (const w of weights) total += w;
    return { classId, rows, weights, total };
  });
  let everything = 0;
  for (const g of groups) everything += g.total;
  const scale = whiteningScale(statistics, options.ridge);
  const classes = groups.map(({ classId, rows, weights, total }) => {
    // Without reviewed background its weight says nothing of how common it is: it is taken for as common as the rest.
    const share = everything === 0 ? 1 : (classId === null ? Math.max(total, everything / 2) : total) / everything;
    const logPrior = Math.log(Math.max(options.minPrior, share));
    const centres = subCentres(rows, weights, k, total, options).map((mean) => plane(mean, logPrior, statistics, scale));
    return { classId, planes: centres };
  });
  const prototypes = { classes, temperature: 1, dim: statistics.dim };
  return { ...prototypes, temperature: fitTemperature(prototypes, labelled) };
}

/** Shrunk whitened means of a class: one, or up to four when there is enough of it. */
function subCentres(rows: Float32Array, weights: Float32Array, k: number, total: number, options: PrototypeOptions): Float64Array[] {
  const n = weights.length;
  const labels = new Int32Array(n);
  let parts = 1;
  if (total > options.splitWeight && n > options.subPrototypes) {
    const random = new Random(17, n);
    const picked = n <= splitSample ? Int32Array.from({ length: n }, (_, i) => i) : random.permutation(n).subarray(0, splitSample);
    const unit = new Float32Array(picked.length * k);
    picked.forEach((from, to) => {
      let norm = 0;
      for (let j = 0; j < k; j++) norm += rows[from * k + j] ** 2;
      const inverse = norm > 0 ? 1 / Math.sqrt(norm) : 0;
      for (let j = 0; j < k; j++) unit[to * k + j] = rows[from * k + j] * inverse;
    });
    parts = options.subPrototypes;
    const { centres } = sphericalKMeans(
      unit,
      Float32Array.from(picked, (i) => weights[i]),
      k,
      parts,
      random,
      15,
    );
    for (let i = 0; i < n; i++) {
      let most = -Infinity;
      for (let c = 0; c < parts; c++) {
        let dot = 0;
        for (let j = 0; j < k; j++) dot += rows[i * k + j] * centres[c * k + j];
        if (dot > most) {
          most = dot;
          labels[i] = c;
        }
      }
    }
  }
  const sums = Array.from({ length: parts }, () => new Float64Array(k));
  const counts = new Float64Array(parts);
  for (let i = 0; i < n; i++) {
    counts[labels[i]] += weights[i];
    const sum = sums[labels[i]];
    for (let j = 0; j < k; j++) sum[j] += weights[i] * rows[i * k + j];
  }
  // The pool's mean is 0 in whitened features: shrinking towards it only shortens.
  const centres: Float64Array[] = [];
  for (let c = 0; c < parts; c++) if (parts === 1 || counts[c] > 0) centres.push(sums[c].map((v) => v / (counts[c] + options.shrink)));
  return centres;
}

/** The plane m . phi(x) - |m|^2 / 2 + log prior, as weight . x + bias. */
function plane(
  mean: Float64Array,
  logPrior: number,
  statistics: SetStatistics,
  scale: Float64Array,
): { weight: Float32Array; bias: number } {
  const { dim, axes, position } = statistics;
  const weight = new Float32Array(dim);
  let bias = logPrior;
  for (let a = 0; a < mean.length; a++) {
    bias -= (mean[a] * mean[a]) / 2;
    const w = mean[a] * scale[a];
    for (let j = 0; j < dim; j++) weight[j] += w * axes[a * dim + j];
  }
  for (let j = 0; j < dim; j++) bias -= weight[j] * statistics.mean[j];
  // (I - B B^T) is symmetric: removing place from x or from the weight is the same, and the mean has none.
  return { weight: withoutPosition(weight, dim, position), bias };
}

/** Scores of each patch, class by class. @returns [classes][n] */
export function classScores(prototypes: ClassPrototypes, rows: Float32Array): Float32Array[] {
  const { dim } = prototypes;
  const n = rows.length / dim;
  return prototypes.classes.map(({ planes }) => {
    const out = new Float32Array(n).fill(-Infinity);
    for (const { weight, bias } of planes) {
      for (let i = 0; i < n; i++) {
        let sum = bias;
        const at = i * dim;
        for (let j = 0; j < dim; j++) sum += weight[j] * rows[at + j];
        if (sum > out[i]) out[i] = sum;
      }
    }
    return out;
  });
}

/** Softmax of the scores over classes at the fitted temperature. @returns [classes][n] */
export function classProbabilities(prototypes: ClassPrototypes, rows: Float32Array, temperature = prototypes.temperature): Float32Array[] {
  const scores = classScores(prototypes, rows);
  const n = scores[0].length;
  for (let i = 0; i < n; i++) {
    let most = -Infinity;
    for (const s of scores) most = Math.max(most, s[i]);
    let sum = 0;
    for (const s of scores) {
      s[i] = Math.exp((s[i] - most) / temperature);
      sum += s[i];
    }
    for (const s of scores) s[i] /= sum;
  }
  return scores;
}

/** The temperature under which the labelled patches are most likely, every class counting alike. */
function fitTemperature(prototypes: ClassPrototypes, labelled: readonly LabelledPatches[]): number {
  if (labelled.length === 0) return 1;
  const totals = new Map<number | null, number>();
  for (const { classId, weights } of labelled)
    totals.set(
      classId,
      weights.reduce((a, b) => a + b, totals.get(classId) ?? 0),
    );
  let best = 1;
  let most = -Infinity;
  // Not below 1/2: the same patches made the prototypes, and they would always like to be surer.
  for (const temperature of [0.5, 0.7, 1, 1.4, 2, 3, 4.5, 7]) {
    let likelihood = 0;
    for (const { classId, rows, weights } of labelled) {
      const index = prototypes.classes.findIndex((c) => c.classId === classId);
      const p = classProbabilities(prototypes, rows, temperature)[index];
      const total = Math.max(1e-9, totals.get(classId)!);
      for (let i = 0; i < p.length; i++) likelihood += (weights[i] / total) * Math.log(Math.max(1e-9, p[i]));
    }
    if (likelihood > most) {
      most = likelihood;
      best = temperature;
    }
  }
  return best;
}
