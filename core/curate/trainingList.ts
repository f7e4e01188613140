/** Which images a run trains on, and for each image left out the reason. Knows ids and numbers only. */
import type { CurationResult, LeftOut, LeftOutReason, TrainingListOptions } from '../contract/index.ts';
import { Random } from '../random.ts';
import { shares } from './balance.ts';

export interface TrainingList {
  /** Ids in the order given. */
  readonly kept: readonly number[];
  /** In the order given. */
  readonly leftOut: readonly LeftOut[];
}

/** Names this use among the streams of one seed. */
const stream = 0xba1a;

/**
 * In this order: what was asked to be left out, copies, what is over its cluster's share. Of a group of copies the first
 * member that is there is kept. When one of a group was asked to be left out the whole group goes, so that nothing of a
 * test set is trained on (DINOv2, section 3, removes whole components with an image of a test set).
 * Images that curation could not read stay in: training names them.
 * @param ids all images, in the run's order
 * @param excluded images to be left out, by id, with the line that says so
 * @param curation null: neither copies nor clusters are known, only `excluded` counts
 */
export function trainingList(
  ids: readonly number[],
  curation: CurationResult | null,
  { dedupe, balance, keep }: TrainingListOptions,
  seed: number,
  excluded: ReadonlyMap<number, string> = new Map(),
): TrainingList {
  const reasons = new Map<number, LeftOutReason>();
  const there = new Set(ids);
  for (const [id, line] of excluded) if (there.has(id)) reasons.set(id, { kind: 'excluded', line });

  if (dedupe && curation) {
    for (const { members } of curation.groups) {
      const present = members.filter(({ imageId }) => there.has(imageId));
      const out = present.find(({ imageId }) => reasons.has(imageId));
      const of = out ?? present[0];
      if (!of) continue;
      for (const { imageId, similarity, exact } of present) {
        if (imageId === of.imageId || reasons.has(imageId)) continue;
        reasons.set(imageId, { kind: 'duplicate', of: of.imageId, similarity, exact, ofExcluded: out !== undefined });
      }
    }
  }

  if (balance && curation) {
    const members: number[][] = curation.clusters.map(() => []);
    for (const { imageId, cluster } of curation.images) if (there.has(imageId) && !reasons.has(imageId)) members[cluster].push(imageId);
    const known = members.reduce((sum, own) => sum + own.length, 0);
    // Images that no cluster holds stay, and count for the number asked for.
    const others = ids.length - reasons.size - known;
    const allowed = shares(
      members.map((own) => own.length),
      keep === null ? null : Math.max(0, keep - others),
    );
    members.forEach((own, cluster) => {
      const share = allowed[cluster];
      if (own.length <= share) return;
      const drawn = own.toSorted((a, b) => a - b);
      new Random(seed, stream, cluster).shuffle(drawn);
      for (const id of drawn.slice(share)) reasons.set(id, { kind: 'over-share', cluster, size: own.length, share });
    });
  }

  return {
    kept: ids.filter((id) => !reasons.has(id)),
    leftOut: ids.filter((id) => reasons.has(id)).map((imageId) => ({ imageId, reason: reasons.get(imageId)! })),
  };
}
