/**
 * Which checkpoint to go on with. The last is often not the best for masks: patch features of self-supervised networks get
 * worse late in training while the loss still falls (dense degradation). Without labels the choice is by two measures of
 * patches; whoever has masks can measure with them (core/evaluate/probe.ts), and anyone can choose another.
 */
import type { CheckpointChoice, MonitorLine } from '../contract/index.ts';

/**
 * Differences that the measures make by chance, twice the deviation: neighbouring checkpoints of one run had a cluster stability
 * of .48, .56 and .46, and a dense correspondence within about .01. What is closer is equal, or noise would choose the first steps of a
 * run that hardly moves: on leaves it took step 20 of 200, whose proposals were worse than the last one's (30.9 and 33.8).
 */
const NOISE = { dense: 0.02, stable: 0.1 } as const;

/**
 * The best mean of the ranks in dense correspondence and in cluster stability, ties to the later checkpoint. An untrained
 * network takes no part: its patches match by plain colour, which says nothing of what was learned. Weights from elsewhere do,
 * and of equals they are taken: training has to make something better of them.
 * @param checkpoints steps on disk, ascending
 * @param lines the run's monitors, ascending
 * @param fromWeights the run started from weights, not from random values
 * @returns null without checkpoints; the newest when none of them was measured
 */
export function chosenCheckpoint(
  checkpoints: readonly number[],
  lines: readonly MonitorLine[],
  fromWeights = false,
): CheckpointChoice | null {
  const newest = checkpoints.at(-1);
  if (newest === undefined) return null;
  const measured = lines.filter(({ step }) => (step > 0 || fromWeights) && checkpoints.includes(step));
  if (measured.length === 0)
    return {
      step: newest,
      reason:
        newest > 0
          ? 'The newest: the features of this run were not measured.'
          : fromWeights
            ? 'The weights it started from are all there is.'
            : 'The untrained network is all there is.',
    };
  const dense = ranks(
    measured.map((line) => line.denseCorrespondence),
    NOISE.dense,
  );
  const stable = ranks(
    measured.map((line) => line.clusterStability),
    NOISE.stable,
  );
  let best = 0;
  measured.forEach((_, i) => {
    if (dense[i] + stable[i] <= dense[best] + stable[best]) best = i;
  });
  const count = measured.length;
  if (count === 1) {
    const only =
      measured[0].step === 0 ? 'The weights it started from are all that was measured.' : 'The only trained checkpoint that was measured.';
    return { step: measured[0].step, reason: only };
  }
  const start = measured[0].step === 0 ? dense[0] + stable[0] : Infinity;
  if (start <= dense[best] + stable[best]) best = 0;
  const line = measured[best];
  const last = measured[count - 1];
  const placed = (ranked: readonly number[], of: (one: MonitorLine) => number): string =>
    `${percent(of(line))}, ${standing(ranked[best], of(line), measured.map(of))}`;
  const denseFacts = placed(dense, (one) => one.denseCorrespondence);
  const stableFacts = placed(stable, (one) => one.clusterStability);
  const facts = `patches match across views (dense correspondence ${denseFacts}) and cluster alike (cluster stability ${stableFacts})`;
  const lastFacts = `step ${last.step.toLocaleString('en-US')}, has ${percent(last.denseCorrespondence)} and ${percent(last.clusterStability)}.`;
  if (line.step === 0) {
    return { step: 0, reason: `Training has not made the weights it started from better: their ${facts}. The newest, ${lastFacts}` };
  }
  const equal = measured.filter((_, i) => dense[i] + stable[i] === dense[best] + stable[best]).length;
  const lead = `Best of ${count} checkpoints${equal === 1 ? '' : `, the latest of ${equal} that are equally good`}`;
  const compared = best === count - 1 ? 'It is also the newest.' : `No later one is as good: the newest, ${lastFacts}`;
  return { step: line.step, reason: `${lead}: its ${facts}. ${compared}` };
}

/** In words, how a value compares with all: "the highest", "the highest within noise", "2 are higher". */
function standing(rank: number, value: number, values: readonly number[]): string {
  if (value === Math.max(...values)) return 'the highest';
  if (rank === 1) return 'the highest within noise';
  return rank === 2 ? '1 is higher' : `${rank - 1} are higher`;
}

/** Rank of each value: 1 and how many are larger by more than `noise`. */
function ranks(values: readonly number[], noise: number): number[] {
  return values.map((value) => 1 + values.filter((other) => other > value + noise).length);
}

function percent(share: number): string {
  return `${(100 * share).toFixed(0)} %`;
}
