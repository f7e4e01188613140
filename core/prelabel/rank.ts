/** Orders for review, from the columns that are stored with proposals. Pure: no features, no database. */

export interface RankedProposal {
  readonly score: number;
  readonly margin: number;
  /** Pixels. */
  readonly area: number;
  /** Group in review: class, else cluster. Null groups together, last. */
  readonly classId: number | null;
  readonly clusterId: number | null;
  readonly imageId: number;
}

export interface LearnFacts extends RankedProposal {
  /** Proposals of the same cluster, itself included. */
  readonly clusterSize: number;
  /** Annotations already given in that cluster. */
  readonly clusterDecided: number;
  /** Calibrated cosine to the cluster's centre, 0..1; null when unknown. */
  readonly typicality: number | null;
}

/**
 * Review order: group by group (class first, then cluster; the group with the highest mean score first), inside a group by
 * score, descending. Fast accepts come in a row and look alike.
 * @returns indices
 */
export function reviewOrder(proposals: readonly RankedProposal[]): number[] {
  const key = (p: RankedProposal): string => (p.classId !== null ? `c${p.classId}` : p.clusterId !== null ? `k${p.clusterId}` : '');
  const groups = new Map<string, { sum: number; count: number; classed: number }>();
  for (const p of proposals) {
    const group = groups.get(key(p)) ?? { sum: 0, count: 0, classed: p.classId !== null ? 2 : p.clusterId !== null ? 1 : 0 };
    group.sum += p.score;
    group.count++;
    groups.set(key(p), group);
  }
  const order = [...groups].sort(
    (a, b) => b[1].classed - a[1].classed || b[1].sum / b[1].count - a[1].sum / a[1].count || a[0].localeCompare(b[0]),
  );
  const place = new Map(order.map(([k], i) => [k, i]));
  return proposals
    .map((_, i) => i)
    .sort((a, b) => place.get(key(proposals[a]))! - place.get(key(proposals[b]))! || proposals[b].score - proposals[a].score || a - b);
}

/**
 * What a decision on this proposal would teach, above 0. Typical members of large clusters nobody has decided about come
 * first (typical beats uncertain while there are few labels: Hacohen et al., TypiClust, 2022); as a cluster gets decisions,
 * uncertain ones take over. Tiny masks count less: they teach few patches.
 */
export function learnValue(p: LearnFacts): number {
  const seen = p.clusterDecided / (p.clusterDecided + 3);
  const typical = (p.typicality ?? p.score) * Math.sqrt(p.clusterSize);
  const uncertain = (1 - Math.min(1, Math.max(0, p.margin))) * Math.sqrt(p.clusterSize);
  const novelty = 1 / (1 + p.clusterDecided);
  return ((1 - seen) * typical + seen * uncertain) * (0.25 + 0.75 * novelty) * Math.min(1, Math.sqrt(p.area / 256));
}

/**
 * Learn order: greedy by learnValue; every pick makes further picks of the same cluster and of the same image worth less, so
 * the first ones span the set.
 * @returns indices
 */
export function learnOrder(proposals: readonly LearnFacts[]): number[] {
  const remaining = proposals.map((p, i) => ({ p, i, value: learnValue(p) })).sort((a, b) => b.value - a.value || a.i - b.i);
  // Within one cluster and image the order is fixed, so only the head of each such list competes.
  const lists = new Map<string, { p: LearnFacts; i: number; value: number }[]>();
  for (const item of remaining) {
    const key = `${item.p.clusterId}/${item.p.imageId}`;
    const list = lists.get(key);
    if (list === undefined) lists.set(key, [item]);
    else list.push(item);
  }
  const heads = [...lists.values()].map((list) => ({ list, at: 0 }));
  const clusters = new Map<number | null, number>();
  const images = new Map<number, number>();
  const current = (head: { list: { p: LearnFacts; value: number }[]; at: number }): number => {
    const { p, value } = head.list[head.at];
    return value / ((1 + (clusters.get(p.clusterId) ?? 0)) * (1 + 0.5 * (images.get(p.imageId) ?? 0)));
  };
  // Values only fall, so a stale maximum that is still the largest after refreshing is the true one (lazy greedy).
  const heap = heads.map((head) => ({ head, value: current(head) })).sort((a, b) => a.value - b.value);
  const insert = (entry: { head: (typeof heads)[number]; value: number }): void => {
    let low = 0;
    let high = heap.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (heap[middle].value <= entry.value) low = middle + 1;
      else high = middle;
    }
    heap.splice(low, 0, entry);
  };
  const order: number[] = [];
  while (heap.length > 0) {
    const top = heap.pop()!;
    const value = current(top.head);
    if (heap.length > 0 && value < heap[heap.length - 1].value) {
      insert({ head: top.head, value });
      continue;
    }
    const { p, i } = top.head.list[top.head.at];
    order.push(i);
    clusters.set(p.clusterId, (clusters.get(p.clusterId) ?? 0) + 1);
    images.set(p.imageId, (images.get(p.imageId) ?? 0) + 1);
    if (++top.head.at < top.head.list.length) insert({ head: top.head, value: current(top.head) });
  }
  return order;
}

/** Review and learn interleaved 3 to 1, each proposal once. @returns indices */
export function mixedOrder(proposals: readonly LearnFacts[]): number[] {
  const review = reviewOrder(proposals);
  const learn = learnOrder(proposals);
  const taken = new Uint8Array(proposals.length);
  const out: number[] = [];
  let r = 0;
  let l = 0;
  while (out.length < proposals.length) {
    const list = out.length % 4 === 3 ? learn : review;
    let at = list === learn ? l : r;
    while (at < list.length && taken[list[at]] === 1) at++;
    if (at < list.length) {
      taken[list[at]] = 1;
      out.push(list[at]);
    }
    if (list === learn) l = at + 1;
    else r = at + 1;
  }
  return out;
}
