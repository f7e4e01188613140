/** Split-half cluster stability: do two halves of the images fall into the same groups of patches? Needs no label. */
import { sphericalKMeans } from '../prelabel/index.ts';
import type { Random } from '../random.ts';
import { bestAssignment } from './assignment.ts';
import { unitVectors } from './similarity.ts';

/** k-means settles in fewer passes on a sample of this size; the rest would be spent on single rows. */
const PASSES = 12;

/**
 * k-means of either half by itself, all rows then grouped by both sets of centres; the share of rows on which the two
 * groupings agree under the best one-to-one naming (Hungarian), less what their sizes alone would give (Cohen's kappa):
 * a collapsed network puts everything into one group, which is no agreement. Features are centred on their mean first and
 * compared by cosine, so a direction that all share counts nowhere.
 * @param first [n1, dim] and @param second [n2, dim]: patches of different images
 * @param clusters at most min(n1, n2)
 * @returns at most 1; 0 by chance
 */
export function clusterStability(first: Float32Array, second: Float32Array, dim: number, clusters: number, random: Random): number {
  const rows = new Float32Array(first.length + second.length);
  rows.set(first);
  rows.set(second, first.length);
  const n = rows.length / dim;
  const mean = new Float64Array(dim);
  for (let i = 0; i < rows.length; i++) mean[i % dim] += rows[i] / n;
  for (let i = 0; i < rows.length; i++) rows[i] -= mean[i % dim];
  const unit = unitVectors(rows, dim);
  const centres = [unit.subarray(0, first.length), unit.subarray(first.length)].map(
    (half) => sphericalKMeans(half, new Float32Array(half.length / dim).fill(1), dim, clusters, random, PASSES).centres,
  );
  const shared = new Float64Array(clusters * clusters);
  for (let i = 0; i < n; i++) shared[nearest(unit, i, centres[0], dim) * clusters + nearest(unit, i, centres[1], dim)]++;
  const partner = bestAssignment(shared, clusters);
  let agreed = 0;
  let chance = 0;
  for (let c = 0; c < clusters; c++) {
    agreed += shared[c * clusters + partner[c]] / n;
    let inFirst = 0;
    let inSecond = 0;
    for (let other = 0; other < clusters; other++) {
      inFirst += shared[c * clusters + other] / n;
      inSecond += shared[other * clusters + partner[c]] / n;
    }
    chance += inFirst * inSecond;
  }
  return chance > 1 - 1e-9 ? 0 : (agreed - chance) / (1 - chance);
}

function nearest(unit: Float32Array, row: number, centres: Float32Array, dim: number): number {
  let best = 0;
  let most = -Infinity;
  for (let at = 0; at < centres.length; at += dim) {
    let cosine = 0;
    for (let k = 0; k < dim; k++) cosine += unit[row * dim + k] * centres[at + k];
    if (cosine > most) {
      most = cosine;
      best = at / dim;
    }
  }
  return best;
}
