/**
 * When a continued run ends before its last step: the dense score has not become better for so many checkpoints in a row.
 * More training of good weights often makes them worse (spec 11.4). Reads the run's monitors; measures nothing.
 */
import type { RunConfig } from './config.ts';

/** Of a line of monitors.jsonl, what is looked at. */
export interface DenseScore {
  readonly step: number;
  readonly denseCorrespondence: number;
}

/**
 * Counted are checkpoints on the run's own schedule, so that a stop in between decides nothing, and after the heads have learned
 * alone: until then the features are those of the start. The start itself is the score to beat.
 * @param scores of the run so far, ascending
 * @returns why it ends now, in words; null: it goes on
 */
export function outOfPatience(config: Pick<RunConfig, 'checkpointEvery' | 'continuation'>, scores: readonly DenseScore[]): string | null {
  const { patience, headsOnlySteps = 0 } = config.continuation ?? {};
  if (patience === undefined || patience === null) return null;
  const counted = scores.filter(({ step }) => step === 0 || (step > headsOnlySteps && step % config.checkpointEvery === 0));
  if (counted.length === 0) return null;
  const best = counted.reduce((top, line) => (line.denseCorrespondence > top.denseCorrespondence ? line : top));
  const since = counted.length - 1 - counted.indexOf(best);
  if (since < patience) return null;
  const share = `${(100 * best.denseCorrespondence).toFixed(0)} %`;
  const where = best.step === 0 ? 'the weights it started from' : `step ${best.step.toLocaleString('en-US')}`;
  return `no better dense correspondence at ${since} checkpoints in a row than the ${share} of ${where}`;
}
