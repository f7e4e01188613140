/** Figures of a review: how far, how fast, how good the proposals were. */
import type { ReviewStats } from '../../contract/index.ts';
import type { Reader } from '../project.ts';
import { cursorOf } from './history.ts';

/** A longer gap is a pause, not work (the reviewer was away); it counts as this many seconds. */
const longestActiveSeconds = 30;
const fewestForMedian = 5;

/** @param perReviewer whether the person has turned figures by person on */
export function reviewStats(reader: Reader, perReviewer: boolean): ReviewStats {
  const { remaining, rejected } = reader.get<{ remaining: number; rejected: number }>(
    `SELECT (SELECT count(*) FROM proposals WHERE state IN ('proposed', 'unsure') AND discarded = 0) AS remaining,
       (SELECT count(*) FROM proposals WHERE state = 'rejected') AS rejected`,
  )!;
  // A mask that was drawn is no decision about a proposal.
  const { annotations, acceptedAsIs } = reader.get<{ annotations: number; acceptedAsIs: number }>(
    `SELECT count(*) FILTER (WHERE state <> 'drawn') AS annotations, count(*) FILTER (WHERE state = 'accepted') AS acceptedAsIs
     FROM annotations WHERE removed = 0`,
  )!;
  // Decisions in force; a decision about n objects at once took 1/n of its time for each.
  const inForce = `FROM decisions WHERE step = 1 AND abandoned = 0 AND id <= ${cursorOf(reader)}`;
  const seconds = reader
    .all<{ s: number }>(`SELECT min(seconds, ${longestActiveSeconds}) / max(objects, 1) AS s ${inForce} ORDER BY s`)
    .map((row) => row.s);
  const by = perReviewer
    ? reader.all<{ reviewer: string; decided: number; seconds: number }>(
        `SELECT reviewer, sum(objects) AS decided, sum(min(seconds, ${longestActiveSeconds})) AS seconds ${inForce} AND reviewer <> '' GROUP BY reviewer ORDER BY reviewer`,
      )
    : null;
  return {
    decided: annotations + rejected,
    remaining,
    acceptedAsIs,
    secondsPerDecision: seconds.length < fewestForMedian ? null : median(seconds),
    perReviewer: by && by.map((row) => ({ ...row })),
  };
}

/** @param sorted ascending, not empty */
function median(sorted: readonly number[]): number {
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
