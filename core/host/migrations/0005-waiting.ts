/** Schema 5: undecided proposals by image, with all that the queue asks of them. */
export const sql = `
CREATE INDEX proposals_waiting ON proposals (image_id, class_id, cluster_id, score, state)
  WHERE state IN ('proposed', 'unsure') AND discarded = 0;
`;
