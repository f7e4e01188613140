/** Entry of a thread of keepPool.ts: what the network gave for an image in, its file written. */
import { errorFacts, type ErrorFacts } from '../contract/index.ts';
import { serve } from '../threads.ts';
import { keepFeatures, type PatchFeatures } from './featureFile.ts';

export interface KeepItem {
  readonly file: string;
  readonly passes: readonly PatchFeatures[];
}

/** Null: done. */
export type KeepReply = ErrorFacts | null;

serve<KeepItem, KeepReply>(({ file, passes }) =>
  keepFeatures(file, passes).then(
    () => null,
    (error: unknown) => errorFacts(error),
  ),
);
