/**
 * When a run's monitors are alarming, and what to do. One sign alone never raises an alarm: each has innocent causes (a
 * set of very similar images, a network at its start). Every threshold is a named number with its reason; those without a
 * source are engineering defaults.
 */
import type { MonitorLine, TrainAlarm } from '../contract/index.ts';

/** Before this share of the run nothing is judged: an untrained network looks collapsed by several signs. */
const GRACE = 0.1;
/** Nor before so many steps: the memory of a teacher's average at momentum 0.99. */
const FIRST_STEPS = 100;

/** A target that is uniform to within 2 % of log K asks the student for nothing. */
const UNIFORM_ENTROPY = 0.98;
/** Such a target on its way down moves by more than this from one checkpoint to the next. */
const FLAT = 0.005;
/** A student that is right about nothing has log K; one that learns is below 90 % of it after a tenth of a usual run. */
const GUESSING = 0.99;
/** Class tokens of different images within 26 degrees of each other (cosine 0.9), on average over all pairs. */
const SAME_COSINE = 0.9;
/** All images together use K^0.2 prototypes or fewer: 4 of 1,024. */
const FEW_PROTOTYPES = 0.2;
/** Fewer directions than a tenth of the width leave nine tenths of the network unused. */
const LEAST_RANK = 0.1;
/** Or a loss of three tenths of the directions within a tenth of the run: features are falling into each other. */
const RANK_FALL = 0.3;
const RANK_WINDOW = 0.1;

/**
 * Dense correspondence this far below its best, at each of three checkpoints in a row: on the fewest images that are
 * looked at, some 4,000 patches ask, which makes one standard error of the share 0.008.
 */
const DENSE_FALL = 0.05;
const DENSE_CHECKPOINTS = 3;

interface Sign {
  readonly uniform: boolean;
  readonly text: string;
}

/**
 * The alarms that hold at the newest line.
 * @param lines of one run, ascending
 * @param over the run is not going on: there is nothing to stop
 */
export function alarmsOf(lines: readonly MonitorLine[], over = false): TrainAlarm[] {
  return [collapse(lines, over), degradation(lines, over)].filter((alarm) => alarm !== null);
}

/** The earliest line from which on a condition holds without a gap to the end; null when it does not hold now. */
function since(lines: readonly MonitorLine[], holds: (at: number) => boolean): MonitorLine | null {
  let first: MonitorLine | null = null;
  for (let at = lines.length - 1; at >= 0 && judged(lines[at]) && holds(at); at--) first = lines[at];
  return first;
}

const judged = ({ step, totalSteps }: MonitorLine): boolean => step >= Math.max(GRACE * totalSteps, FIRST_STEPS);
const percent = (share: number): string => `${(100 * share).toFixed(0)} %`;

// --- collapse ---------------------------------------------------------------------------------------------------------

/** What a run that has collapsed is still good for. */
const USED = 'The run is over. Masks are proposed from the checkpoint measured best, named below, and from plain colours.';

function collapse(lines: readonly MonitorLine[], over: boolean): TrainAlarm | null {
  const first = since(lines, (at) => collapseSigns(lines, at).length >= 2);
  if (!first) return null;
  const signs = collapseSigns(lines, lines.length - 1);
  const uniform = signs.some((sign) => sign.uniform);
  return {
    kind: uniform ? 'uniform-collapse' : 'collapse',
    step: first.step,
    message: `The features ${over ? 'collapsed' : 'are collapsing'}: ${signs.map(({ text }) => text).join('; ')}.`,
    action: over
      ? `${USED} For better features take more steps, a larger batch or more images${uniform ? '' : ', and look for many copies of the same picture'}.`
      : uniform
        ? 'Stop the run unless it has only begun: such a teacher has nothing to say. Start again with a lower learning rate, fewer prototypes or a larger batch.'
        : 'Stop the run: images look more and more alike to it. Start again with a lower learning rate or a larger batch, and look through the folder for many copies of the same picture.',
  };
}

function collapseSigns(lines: readonly MonitorLine[], at: number): Sign[] {
  const { sampleEntropy, marginalEntropy, dinoLoss, classCosine, classRank, patchRank, width, step, totalSteps } = lines[at];
  const before = at > 0 ? lines[at - 1].sampleEntropy : null;
  const signs: Sign[] = [];
  const add = (holds: boolean, text: string, uniform = false): void => {
    if (holds) signs.push({ uniform, text });
  };
  const flat = sampleEntropy !== null && before !== null && Math.abs(sampleEntropy - before) < FLAT;
  add(
    flat && sampleEntropy > UNIFORM_ENTROPY,
    `the teacher's targets are uniform (${percent(sampleEntropy ?? 0)} of the largest entropy) and stay so`,
    true,
  );
  add(dinoLoss !== null && dinoLoss > GUESSING, `the student guesses (DINO loss ${percent(dinoLoss ?? 0)} of log K)`, true);
  add(classCosine > SAME_COSINE, `different images look the same (mean cosine ${classCosine.toFixed(2)})`);
  add(
    marginalEntropy !== null && marginalEntropy < FEW_PROTOTYPES,
    `all images share a few prototypes (${percent(marginalEntropy ?? 0)} of the largest entropy)`,
  );
  for (const [name, rank, of] of [
    ['class tokens', classRank, (line: MonitorLine) => line.classRank],
    ['patches', patchRank, (line: MonitorLine) => line.patchRank],
  ] as const) {
    const earlier = lines.slice(0, at).filter((line) => judged(line) && line.step >= step - RANK_WINDOW * totalSteps);
    const most = Math.max(0, ...earlier.map(of));
    // A small network may begin with fewer: then only going below that is a sign.
    const atFirst = lines[0].step === 0 ? of(lines[0]) : Infinity;
    const low = rank < LEAST_RANK * width && rank < atFirst;
    add(
      low || rank < (1 - RANK_FALL) * most,
      `the ${name} use ${rank.toFixed(0)} of ${width} directions${low ? '' : `, ${most.toFixed(0)} a little before`}`,
    );
  }
  return signs;
}

// --- dense degradation ------------------------------------------------------------------------------------------------

/** The two signs: patches know their place less than they did, and the loss falls all the same. */
function degradation(lines: readonly MonitorLine[], over: boolean): TrainAlarm | null {
  const best = (at: number): MonitorLine =>
    lines
      .slice(0, at)
      .reduce((top, line) => (line.step > 0 && line.denseCorrespondence >= top.denseCorrespondence ? line : top), lines[at]);
  const fallen = (at: number): boolean => {
    const top = best(at);
    const { denseCorrespondence, loss } = lines[at];
    return denseCorrespondence < top.denseCorrespondence - DENSE_FALL && loss !== null && top.loss !== null && loss < top.loss;
  };
  const inARow = (at: number): boolean =>
    at + 1 >= DENSE_CHECKPOINTS && Array.from({ length: DENSE_CHECKPOINTS }, (_, i) => at - i).every(fallen);
  const first = since(lines, inARow);
  if (!first) return null;
  const now = lines[lines.length - 1];
  const top = best(lines.length - 1);
  return {
    kind: 'dense-degradation',
    step: first.step,
    message: `The patch features get worse while the loss falls: dense correspondence is ${percent(now.denseCorrespondence)}, it was ${percent(top.denseCorrespondence)} at step ${top.step}.`,
    action: `${over ? '' : 'Stop the run if you want masks: more steps will hardly help. '}An earlier checkpoint is proposed with; next time about ${top.step} steps are enough.`,
  };
}
