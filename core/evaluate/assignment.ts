/** The best one-to-one assignment of rows to columns: which cluster of one clustering is which of another. */

/**
 * Assigns every row its own column so that the sum of gains is largest: the Hungarian algorithm by shortest augmenting
 * paths with potentials, n^3 (Kuhn 1955; Jonker and Volgenant 1987).
 * @param gains [n, n] row-major, finite
 * @returns [n] column of each row
 */
export function bestAssignment(gains: Float64Array, n: number): Int32Array {
  // Row 0 and column 0 are the start of each path; real rows and columns count from 1.
  const rowPotential = new Float64Array(n + 1);
  const columnPotential = new Float64Array(n + 1);
  const rowOf = new Int32Array(n + 1); // of each column; 0: free
  const before = new Int32Array(n + 1); // column before this one on the path
  const shortest = new Float64Array(n + 1);
  const reached = new Uint8Array(n + 1);
  for (let row = 1; row <= n; row++) {
    rowOf[0] = row;
    shortest.fill(Infinity);
    reached.fill(0);
    let column = 0;
    do {
      reached[column] = 1;
      const from = rowOf[column];
      let least = Infinity;
      let next = 0;
      for (let c = 1; c <= n; c++) {
        if (reached[c] === 1) continue;
        const slack = -gains[(from - 1) * n + c - 1] - rowPotential[from] - columnPotential[c];
        if (slack < shortest[c]) {
          shortest[c] = slack;
          before[c] = column;
        }
        if (shortest[c] < least) {
          least = shortest[c];
          next = c;
        }
      }
      for (let c = 0; c <= n; c++) {
        if (reached[c] === 1) {
          rowPotential[rowOf[c]] += least;
          columnPotential[c] -= least;
        } else shortest[c] -= least;
      }
      column = next;
    } while (rowOf[column] !== 0);
    for (; column !== 0; column = before[column]) rowOf[column] = rowOf[before[column]];
  }
  const columnOf = new Int32Array(n);
  for (let c = 1; c <= n; c++) columnOf[rowOf[c] - 1] = c - 1;
  return columnOf;
}
