/**
 * A reviewer played from known masks: accepts what is right, corrects what is close, rejects the rest, draws what was
 * missed. Decides through the same calls as a person in the app. Not a claim about people: it makes no mistakes.
 */
import { proposalsOf, type GroundTruth, type LocalService, type Stop, type Terminal } from '../cli/index.ts';
import type { HostService, ImageRow, ReviewObject } from '../contract/index.ts';
import { decodeRle, encodeRle, type Mask } from '../labels/index.ts';

/** From this overlap on a proposal is accepted as it is. */
const ACCEPT_IOU = 0.8;
/** From this overlap on it is corrected instead of drawn anew. */
const EDIT_IOU = 0.5;

export interface SimulatedReview {
  readonly imageIds: ReadonlySet<number>;
  /** In words: how many were accepted, corrected, rejected, drawn. */
  readonly summary: string;
  /** Waits until the decisions have been learned and the rest has been proposed again. */
  learn(): Promise<void>;
}

interface Options {
  readonly local: LocalService;
  readonly terminal: Terminal;
  readonly stop: Stop;
  readonly truth: GroundTruth;
  readonly candidates: readonly ImageRow[];
  readonly count: number;
}

interface TrueObject {
  readonly mask: Mask;
  readonly area: number;
  readonly classNumber: number;
}

export async function reviewBySimulation({ local, terminal, stop, truth, candidates, count }: Options): Promise<SimulatedReview> {
  const { service } = local;
  const classIds = new Map<number, number>();
  const tally = { accepted: 0, edited: 0, rejected: 0, drawn: 0 };
  const reviewed = candidates
    .filter((_, i) => Math.floor((i * count) / candidates.length) !== Math.floor(((i - 1) * count) / candidates.length))
    .slice(0, count);
  for (const [i, image] of reviewed.entries()) {
    if (stop.signal.aborted) break;
    const objects = await trueObjects(truth, image);
    for (const { classNumber } of objects) {
      if (!classIds.has(classNumber)) classIds.set(classNumber, await classFor(service, truth.className(classNumber)));
    }
    await reviewImage(service, image, objects, classIds, tally);
    terminal.progress({
      type: 'progress',
      phase: 'Simulated review',
      done: i + 1,
      total: reviewed.length,
      imagesPerSecond: null,
      secondsLeft: null,
    });
  }
  return {
    imageIds: new Set(reviewed.map((image) => image.id)),
    summary: `Simulated review of ${reviewed.length} images from their masks: ${tally.accepted} proposals accepted as they were (IoU of ${ACCEPT_IOU} or more), ${tally.edited} corrected, ${tally.rejected} rejected, ${tally.drawn} objects drawn.`,
    learn: () => local.learned(),
  };
}

async function reviewImage(
  service: HostService,
  image: ImageRow,
  objects: readonly TrueObject[],
  classIds: ReadonlyMap<number, number>,
  tally: Record<'accepted' | 'edited' | 'rejected' | 'drawn', number>,
): Promise<void> {
  const proposals = await proposalsOf(service, image.id);
  const pairs = proposals
    .flatMap((proposal) => {
      const mask = decodeRle(proposal.rle);
      return objects.map((object) => ({ proposal, object, overlap: iou(mask, proposal.area, object) }));
    })
    .filter((pair) => pair.overlap >= EDIT_IOU)
    .sort((a, b) => b.overlap - a.overlap);
  // Each object takes its best proposal, each proposal its best object.
  const taken = new Map<ReviewObject, (typeof pairs)[number]>();
  const found = new Set<TrueObject>();
  for (const pair of pairs) {
    if (taken.has(pair.proposal) || found.has(pair.object)) continue;
    taken.set(pair.proposal, pair);
    found.add(pair.object);
  }
  for (const proposal of proposals) {
    const pair = taken.get(proposal);
    if (!pair) {
      await service.decide({ action: 'reject', proposalId: proposal.id, seconds: 0 });
      tally.rejected++;
      continue;
    }
    const classId = classIds.get(pair.object.classNumber)!;
    if (pair.overlap >= ACCEPT_IOU) {
      await service.decide({ action: 'accept', proposalId: proposal.id, classId, seconds: 0 });
      tally.accepted++;
    } else {
      await service.decide({ action: 'edit', proposalId: proposal.id, classId, rle: encodeRle(pair.object.mask), seconds: 0 });
      tally.edited++;
    }
  }
  for (const object of objects) {
    if (found.has(object)) continue;
    await service.decide({
      action: 'draw',
      imageId: image.id,
      classId: classIds.get(object.classNumber)!,
      rle: encodeRle(object.mask),
      seconds: 0,
    });
    tally.drawn++;
  }
  await service.setImageDone({ imageId: image.id, done: true });
}

/** Objects with the class that most of their pixels carry. */
async function trueObjects(truth: GroundTruth, image: ImageRow): Promise<TrueObject[]> {
  const { labels, areas } = await truth.objects(image.path, image);
  const classes = (await truth.classes(image.path, image)).data;
  const masks = Array.from(areas, () => new Uint8Array(labels.length));
  const votes = Array.from(areas, () => new Map<number, number>());
  for (let i = 0; i < labels.length; i++) {
    const k = labels[i] - 1;
    if (k < 0) continue;
    masks[k][i] = 1;
    votes[k].set(classes[i], (votes[k].get(classes[i]) ?? 0) + 1);
  }
  return masks.map((data, k) => ({
    mask: { width: image.width, height: image.height, data },
    area: areas[k],
    classNumber: [...votes[k]].reduce((best, vote) => (vote[1] > best[1] ? vote : best))[0],
  }));
}

function iou(mask: Mask, area: number, object: TrueObject): number {
  let both = 0;
  for (let i = 0; i < mask.data.length; i++) both += mask.data[i] & object.mask.data[i];
  return both / (area + object.area - both);
}

async function classFor(service: HostService, name: string): Promise<number> {
  const known = (await service.classes()).find((one) => one.name === name);
  return (known ?? (await service.createClass({ name, color: null }))).id;
}
