/**
 * Proposals and their clusters: how a machine's masks enter the project, and how they are named. The one rule that everything
 * here keeps: what a person decided on, or named, is never replaced or covered by a machine.
 */
import { AppError, type Box, type ClusterCard, type ProposalDraft, type Rle } from '../../contract/index.ts';
import { rleIou } from '../../labels/index.ts';
import type { Reader, Writer } from '../project.ts';
import { classRow } from './classes.ts';

/** A new mask that overlaps a kept one by this much is the same object (labelme's rule for its own detections). */
const sameObject = 0.5;
/** A rejected mask may have been rejected for its edge; only what is nearly the same stays away. */
const sameRejected = 0.8;
const maxExamples = 8;

interface Kept {
  readonly state: string;
  readonly rle: Rle;
  readonly box: Box;
}

/** A proposal whose cluster a new mask of the same object inherits, and with it the name that a person gave the cluster. */
interface Ancestor {
  readonly clusterId: number;
  readonly classId: number | null;
  readonly rle: Rle;
  readonly box: Box;
}

interface MaskColumns {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
  readonly rle_width: number;
  readonly rle_height: number;
  readonly rle_counts: string;
}

export const maskColumns = 'x, y, width, height, rle_width, rle_height, rle_counts';
export const boxOf = (row: MaskColumns): Box => [row.x, row.y, row.width, row.height];
export const rleOf = (row: MaskColumns): Rle => ({ size: [row.rle_height, row.rle_width], counts: row.rle_counts });

/**
 * Replaces the undecided proposals of an image by a machine's new ones. Kept: accepted, edited, rejected and unsure ones,
 * and those whose class a person set. Dropped: drafts that repeat something kept. A draft that repeats a proposal of a named
 * or discarded cluster inherits cluster and name, so a naming outlives the masks it was given to, and wins over the class
 * that a machine takes the draft for.
 * @param inheritAll also inherit unnamed clusters: for 'learn', which does not cluster anew
 * @returns the new row id of each draft, null where dropped
 */
export function replaceProposals(
  writer: Writer,
  imageId: number,
  drafts: readonly ProposalDraft[],
  modelKey: string,
  inheritAll: boolean,
): (number | null)[] {
  const kept: Kept[] = [
    ...writer.all<MaskColumns & { state: string }>(
      `SELECT state, ${maskColumns} FROM annotations WHERE image_id = ? AND removed = 0`,
      imageId,
    ),
    ...writer.all<MaskColumns & { state: string }>(
      `SELECT state, ${maskColumns} FROM proposals WHERE image_id = ? AND (state IN ('rejected', 'unsure') OR (state = 'proposed' AND class_set = 1))`,
      imageId,
    ),
  ].map((row) => ({ state: row.state, rle: rleOf(row), box: boxOf(row) }));
  const ancestors: Ancestor[] = writer
    .all<MaskColumns & { cluster_id: number; class_id: number | null }>(
      `SELECT p.cluster_id, c.class_id, p.x, p.y, p.width, p.height, p.rle_width, p.rle_height, p.rle_counts
       FROM proposals p JOIN clusters c ON c.id = p.cluster_id
       WHERE p.image_id = ? AND p.state IN ('proposed', 'rejected') AND p.class_set = 0 AND (? OR c.class_id IS NOT NULL OR c.discarded)`,
      imageId,
      Number(inheritAll),
    )
    .map((row) => ({ clusterId: row.cluster_id, classId: row.class_id, rle: rleOf(row), box: boxOf(row) }));
  writer.run("DELETE FROM proposals WHERE image_id = ? AND state = 'proposed' AND class_set = 0", imageId);

  return drafts.map((draft) => {
    const repeats = kept.some((k) => overlap(draft, k) >= (k.state === 'rejected' ? sameRejected : sameObject));
    if (repeats) return null;
    const ancestor = bestMatch(draft, ancestors);
    return writer.run(
      `INSERT INTO proposals (image_id, class_id, cluster_id, discarded, score, margin, source, ${maskColumns}, area, model_key)
       VALUES (?, (SELECT id FROM classes WHERE id = ? AND removed = 0), ?, (SELECT discarded FROM clusters WHERE id = ? UNION ALL SELECT 0 LIMIT 1), ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
      imageId,
      ancestor?.classId ?? draft.classId,
      ancestor?.clusterId ?? null,
      ancestor?.clusterId ?? null,
      draft.score,
      draft.margin,
      draft.source,
      ...draft.box,
      draft.rle.size[1],
      draft.rle.size[0],
      draft.rle.counts,
      draft.area,
      modelKey,
    ).id;
  });
}

function bestMatch(draft: ProposalDraft, candidates: readonly Ancestor[]): Ancestor | null {
  let best: Ancestor | null = null;
  let bestOverlap = sameObject;
  for (const candidate of candidates) {
    const value = overlap(draft, candidate);
    if (value >= bestOverlap) [best, bestOverlap] = [candidate, value];
  }
  return best;
}

/** IoU of two masks of one image; 0 without decoding when the boxes do not meet or the image's size has changed. */
function overlap(a: { rle: Rle; box: Box }, b: { rle: Rle; box: Box }): number {
  if (a.rle.size[0] !== b.rle.size[0] || a.rle.size[1] !== b.rle.size[1]) return 0;
  const apart =
    a.box[0] >= b.box[0] + b.box[2] ||
    b.box[0] >= a.box[0] + a.box[2] ||
    a.box[1] >= b.box[1] + b.box[3] ||
    b.box[1] >= a.box[1] + a.box[3];
  return apart ? 0 : rleIou(a.rle, b.rle);
}

// --- clusters ---------------------------------------------------------------------------------------------------------

export interface NewCluster {
  readonly compactness: number;
  /** Proposal ids, most typical first. */
  readonly examples: readonly number[];
  /** Proposal ids. */
  readonly members: readonly number[];
}

/** Replaces all clusters that are neither named nor discarded; proposals that inherited a kept one stay in it. */
export function replaceClusters(writer: Writer, clusters: readonly NewCluster[]): void {
  writer.run('DELETE FROM clusters WHERE class_id IS NULL AND discarded = 0');
  // One update in the order of rows is several times faster than one by one, cluster after cluster.
  writer.run('CREATE TEMP TABLE IF NOT EXISTS members (proposal_id INTEGER PRIMARY KEY, cluster_id INTEGER NOT NULL) STRICT');
  for (const { compactness, examples, members } of clusters) {
    const { id } = writer.run('INSERT INTO clusters (compactness) VALUES (?)', compactness);
    for (const proposalId of members) writer.run('INSERT INTO temp.members (proposal_id, cluster_id) VALUES (?, ?)', proposalId, id);
    examples.forEach((proposalId, position) =>
      writer.run(
        'INSERT INTO cluster_examples (cluster_id, position, proposal_id) SELECT ?, ?, id FROM proposals WHERE id = ?',
        id,
        position,
        proposalId,
      ),
    );
  }
  writer.run(
    'UPDATE proposals SET cluster_id = m.cluster_id FROM temp.members m WHERE m.proposal_id = proposals.id AND proposals.cluster_id IS NULL',
  );
  writer.run('DELETE FROM temp.members');
}

interface ClusterRow {
  id: number;
  compactness: number;
  classId: number | null;
  discarded: number;
  proposals: number | null;
  images: number | null;
}

/** Clusters with undecided proposals, or named, or discarded; largest first. */
export function clusterCards(reader: Reader): ClusterCard[] {
  return reader
    .all<ClusterRow>(
      `SELECT c.id, c.compactness, c.class_id AS classId, c.discarded, n.proposals, n.images FROM clusters c LEFT JOIN (
         SELECT cluster_id, sum(proposals) AS proposals, count(*) AS images FROM (
           SELECT cluster_id, count(*) AS proposals FROM proposals INDEXED BY proposals_of_cluster WHERE cluster_id > 0 AND state IN ('proposed', 'unsure') GROUP BY cluster_id, image_id
         ) GROUP BY cluster_id
       ) n ON n.cluster_id = c.id
       WHERE n.proposals > 0 OR c.class_id IS NOT NULL OR c.discarded ORDER BY c.discarded, n.proposals DESC, c.id`,
    )
    .map((row) => card(reader, row));
}

export function clusterCard(reader: Reader, clusterId: number): ClusterCard {
  const row = reader.get<ClusterRow>(
    `SELECT c.id, c.compactness, c.class_id AS classId, c.discarded, count(p.id) AS proposals, count(DISTINCT p.image_id) AS images
     FROM clusters c LEFT JOIN proposals p ON p.cluster_id = c.id AND p.state IN ('proposed', 'unsure') WHERE c.id = ? GROUP BY c.id`,
    clusterId,
  );
  if (!row) throw new AppError('bad-input', `There is no cluster ${clusterId}.`, 'Reload the page; new clusters may have taken its place.');
  return card(reader, row);
}

/** The chosen examples come first; where proposals were decided on or replaced, the surest of the cluster fill up. */
function card(reader: Reader, row: ClusterRow): ClusterCard {
  type Example = MaskColumns & { proposalId: number; imageId: number };
  const columns = `p.id AS proposalId, p.image_id AS imageId, ${maskColumns.replace(/\w+/g, 'p.$&')}`;
  const undecided = "p.cluster_id = ? AND p.state IN ('proposed', 'unsure')";
  const examples = reader.all<Example>(
    `SELECT ${columns} FROM cluster_examples e JOIN proposals p ON p.id = e.proposal_id WHERE e.cluster_id = ? AND ${undecided} ORDER BY e.position LIMIT ${maxExamples}`,
    row.id,
    row.id,
  );
  if (examples.length < maxExamples) {
    const surest = reader.all<Example>(
      `SELECT ${columns} FROM proposals p WHERE ${undecided} ORDER BY p.score DESC, p.id LIMIT ${maxExamples}`,
      row.id,
    );
    const chosen = new Set(examples.map((example) => example.proposalId));
    examples.push(...surest.filter((example) => !chosen.has(example.proposalId)).slice(0, maxExamples - examples.length));
  }
  return {
    ...row,
    discarded: row.discarded === 1,
    proposals: row.proposals ?? 0,
    images: row.images ?? 0,
    examples: examples.map((e) => ({ proposalId: e.proposalId, imageId: e.imageId, box: boxOf(e), rle: rleOf(e) })),
  };
}

/** Names a cluster (null: takes the name back); its undecided proposals follow, save those whose class a person set. */
export function nameCluster(writer: Writer, clusterId: number, classId: number | null): void {
  clusterCard(writer, clusterId);
  if (classId !== null) classRow(writer, classId);
  writer.run('UPDATE clusters SET class_id = ? WHERE id = ?', classId, clusterId);
  writer.run(
    "UPDATE proposals SET class_id = ? WHERE cluster_id = ? AND state IN ('proposed', 'unsure') AND class_set = 0",
    classId,
    clusterId,
  );
}

/** A proposal that waits again after an undo takes the name that its cluster was given meanwhile. */
export function followCluster(writer: Writer, proposalId: number): void {
  writer.run(
    `UPDATE proposals SET class_id = coalesce((SELECT class_id FROM clusters WHERE id = cluster_id), class_id) WHERE id = ?`,
    proposalId,
  );
}

export function discardCluster(writer: Writer, clusterId: number, discarded: boolean): void {
  clusterCard(writer, clusterId);
  writer.run('UPDATE clusters SET discarded = ? WHERE id = ?', Number(discarded), clusterId);
  writer.run('UPDATE proposals SET discarded = ? WHERE cluster_id = ?', Number(discarded), clusterId);
}
