/** The queue of review: every image that has something left to decide, how much, and which comes next. */
import type { Inputs, QueueImage } from '../../contract/index.ts';
import { learnOrder } from '../../prelabel/index.ts';
import type { Reader } from '../project.ts';

/**
 * Images with undecided proposals that pass the filter, the next one first. 'review': class by class, surest first; those
 * without a class after them. 'learn': those first whose proposals would teach most (prelabel's order), then the others.
 * Images with nothing but unsure ones come last. Images that are done are left out.
 */
export function queue(reader: Reader, filter: Inputs['queue']): QueueImage[] {
  const images = waitingImages(reader, filter);
  if (filter.order === 'review') return images;
  const byId = new Map(images.map((image) => [image.imageId, image]));
  const early = new Set(teachingImages(reader, filter).map((imageId) => byId.get(imageId)!));
  return [...early, ...images.filter((image) => !early.has(image))];
}

/** Counted and put in order from an index alone: a million proposals without reading one. */
function waitingImages(reader: Reader, { classId, clusterId }: Inputs['queue']): QueueImage[] {
  const { where, values } = conditions(classId, clusterId);
  return reader
    .all<QueueImage>(
      `SELECT w.imageId, w.left FROM (
         SELECT image_id AS imageId, count(*) AS left, min(${place}) AS place FROM proposals p INDEXED BY proposals_waiting
         WHERE ${where} GROUP BY image_id
       ) w JOIN images i ON i.id = w.imageId WHERE i.present = 1 AND i.done = 0 ORDER BY w.place, w.imageId`,
      ...values,
    )
    .map(({ imageId, left }) => ({ imageId, left }));
}

/** Class by class, surest first, unsure ones last, as one number: scores are 0..1, and no project has a billion classes. */
const place = "coalesce(p.class_id, 1e9) - 0.5 * p.score + (CASE p.state WHEN 'unsure' THEN 2e9 ELSE 0 END)";

/** Candidates that compete for the learn order: enough to span a set, few enough to rank between two decisions. */
const learnCandidates = 4000;

/** Images of the proposals that would teach most, in the order of these. */
function teachingImages(reader: Reader, { classId, clusterId }: Inputs['queue']): number[] {
  const { where, values } = conditions(classId, clusterId);
  const { n } = reader.get<{ n: number }>(`SELECT count(*) AS n FROM proposals p INDEXED BY proposals_waiting WHERE ${where}`, ...values)!;
  // Of a large set every k-th competes; others get their turn as the number falls.
  const every = Math.max(1, Math.ceil(n / learnCandidates));
  const candidates = reader.all<Candidate>(
    `SELECT p.image_id AS imageId, p.class_id AS classId, p.cluster_id AS clusterId, p.score, p.margin, p.area
     FROM proposals p JOIN images i ON i.id = p.image_id
     WHERE ${where} AND p.state = 'proposed' AND p.id % ${every} = 0 AND i.present = 1 AND i.done = 0 ORDER BY p.id LIMIT ${learnCandidates}`,
    ...values,
  );
  const facts = clusterFacts(reader);
  const ranked = learnOrder(
    candidates.map((candidate) => ({
      ...candidate,
      typicality: null,
      ...(facts.get(candidate.clusterId) ?? { clusterSize: 1, clusterDecided: 0 }),
    })),
  );
  return ranked.map((index) => candidates[index].imageId);
}

interface Candidate {
  imageId: number;
  classId: number | null;
  clusterId: number | null;
  score: number;
  margin: number;
  area: number;
}

/** What waits and passes the filter, in the words of the index proposals_waiting. */
function conditions(classId: number | null, clusterId: number | null): { where: string; values: number[] } {
  const all = ["p.state IN ('proposed', 'unsure')", 'p.discarded = 0'];
  if (classId !== null) all.push('p.class_id = ?');
  if (clusterId !== null) all.push('p.cluster_id = ?');
  return { where: all.join(' AND '), values: [classId, clusterId].filter((value) => value !== null) };
}

/** Size of each cluster, and how many of it have become annotations. */
function clusterFacts(reader: Reader): Map<number | null, { clusterSize: number; clusterDecided: number }> {
  const rows = reader.all<{ id: number; clusterSize: number; clusterDecided: number }>(
    `SELECT cluster_id AS id, count(*) AS clusterSize, count(*) FILTER (WHERE state IN ('accepted', 'edited')) AS clusterDecided
     FROM proposals INDEXED BY proposals_of_cluster WHERE cluster_id > 0 GROUP BY cluster_id`,
  );
  return new Map(rows.map(({ id, clusterSize, clusterDecided }) => [id, { clusterSize, clusterDecided }]));
}
