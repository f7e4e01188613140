/** How far a project's proposals have come. A mask that a person drew is none of them. */
import type { ProjectSummary } from '../../../core/contract/index.ts';

type Counts = ProjectSummary['counts'];

/** Proposals that wait for a person. */
export const waiting = ({ proposed, unsure }: Counts): number => proposed + unsure;

/** All that a machine has proposed, decided or not. */
export const everProposed = (counts: Counts): number => waiting(counts) + counts.accepted + counts.edited + counts.rejected;
