/** How alike images are to the network: cosines between images, and whether two views of one image find each other. */

/** Rows scaled to length 1; a row of zeros stays. @param rows [n, dim] @returns [n, dim] */
export function unitVectors(rows: Float32Array, dim: number): Float32Array {
  const out = new Float32Array(rows.length);
  for (let at = 0; at < rows.length; at += dim) {
    let square = 0;
    for (let k = 0; k < dim; k++) square += rows[at + k] ** 2;
    const scale = square > 0 ? 1 / Math.sqrt(square) : 0;
    for (let k = 0; k < dim; k++) out[at + k] = rows[at + k] * scale;
  }
  return out;
}

/**
 * Mean cosine over all pairs of rows that belong to different images, exactly: (|sum of all|^2 - sum over images
 * |sum of its own|^2) / number of such pairs. Near 1, everything looks the same to the network.
 * @param unit [images * perImage, dim], length 1 each, images one after the other
 * @param images at least 2
 */
export function meanCosineBetween(unit: Float32Array, images: number, dim: number): number {
  const perImage = unit.length / dim / images;
  const total = new Float64Array(dim);
  const own = new Float64Array(dim);
  let within = 0;
  for (let image = 0; image < images; image++) {
    own.fill(0);
    for (let at = image * perImage * dim; at < (image + 1) * perImage * dim; at += dim)
      for (let k = 0; k < dim; k++) own[k] += unit[at + k];
    for (let k = 0; k < dim; k++) {
      within += own[k] ** 2;
      total[k] += own[k];
    }
  }
  return (total.reduce((sum, value) => sum + value ** 2, 0) - within) / ((images * perImage) ** 2 - images * perImage ** 2);
}

/**
 * View retrieval: share of rows of `a` whose nearest row of `b` by cosine is the one in the same place, that is the other
 * view of the same image. Rows that are all equal find nothing: of equally near rows the first is taken.
 * @param a [n, dim], length 1 each: one view of each image
 * @param b [n, dim], length 1 each: the other
 * @returns 0..1; 1 / n by chance
 */
export function viewRetrieval(a: Float32Array, b: Float32Array, dim: number): number {
  const n = a.length / dim;
  let found = 0;
  for (let i = 0; i < n; i++) {
    let best = -1;
    let most = -Infinity;
    for (let j = 0; j < n; j++) {
      let cosine = 0;
      for (let k = 0; k < dim; k++) cosine += a[i * dim + k] * b[j * dim + k];
      if (cosine > most) {
        most = cosine;
        best = j;
      }
    }
    if (best === i) found++;
  }
  return n === 0 ? 0 : found / n;
}

/**
 * Register check: share of tokens whose norm lies above median + 6 MAD. A network without registers, trained long, keeps
 * global facts in a few patches of huge norm, which are then lost as patches (Darcet et al. 2024).
 * @param norms of the patch tokens before the final norm, which would hide them
 */
export function outlierShare(norms: Float32Array): number {
  if (norms.length === 0) return 0;
  const median = middle(norms);
  const limit = median + 6 * middle(norms.map((norm) => Math.abs(norm - median)));
  let above = 0;
  // Equal norms differ by rounding only, and then the MAD is zero.
  for (const norm of norms) if (norm > limit && norm > median * (1 + 1e-4)) above++;
  return above / norms.length;
}

function middle(values: Float32Array): number {
  const sorted = values.slice().sort();
  const half = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}
