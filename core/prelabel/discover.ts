/**
 * Regions and objects of one image without labels: the candidate pool on the patch grid. Scores and pixels come after,
 * in propose.ts.
 */
import { connectedComponents } from '../labels/index.ts';
import { boxOfCells } from './grid.ts';
import type { BoxMask } from './grid.ts';
import { maskCut } from './ncut.ts';
import { cutTree, groupTree, leavesOf, regionTree } from './tree.ts';
import type { RegionTree } from './tree.ts';

export interface PatchGrid {
  readonly gridWidth: number;
  readonly gridHeight: number;
  readonly dim: number;
  /** [gridHeight * gridWidth, dim], rows of length 1. */
  readonly unit: Float32Array;
}

/** One way to look at the same patches: unit features and the zero of their calibrated cosine. */
export interface FeatureView {
  readonly grid: PatchGrid;
  readonly c0: number;
  /** Unit rows of the half-patch shifted grids, where they were made (`gridShifts` of refine.ts). */
  readonly shifted: readonly Float32Array[];
}

export interface Candidate {
  /** Patches, numbers in the grid. */
  readonly cells: readonly number[];
  readonly source: 'region' | 'object';
  /** Levels of the tree (in calibrated cosine) over which the region survives, 0..1; for objects 1 - normalised cut. */
  readonly stability: number;
  readonly box: BoxMask;
}

export interface DiscoverOptions {
  /** Largest share of the grid a candidate may cover. */
  readonly maxShare: number;
  /** Regions that survive over a smaller range of calibrated cosine are not candidates. */
  readonly minStability: number;
  /** Calibrated cosines at which regions stop growing before they are grouped without connectivity. */
  readonly cuts: readonly number[];
  /** Above this calibrated cosine two patches belong together in the cut graph. */
  readonly cutThreshold: number;
  readonly maxObjects: number;
}

export const discoverDefaults: DiscoverOptions = {
  maxShare: 0.8,
  minStability: 0.02,
  cuts: [0.7, 0.55, 0.4, 0.25],
  cutThreshold: 0.15,
  maxObjects: 6,
};

/** Most nodes of the graph for normalised cuts; finer grids are averaged 2 x 2 first. */
const cutNodes = 700;
/** Most regions that are linked without connectivity: the cost grows with their square. */
const groupedRegions = 400;

/** Rows scaled to length 1; a zero row stays zero. @param origin subtracted first, [dim] */
export function unitRows(rows: Float32Array, dim: number, origin?: Float32Array | Float64Array): Float32Array {
  const out = new Float32Array(rows.length);
  for (let at = 0; at < rows.length; at += dim) {
    let norm = 0;
    for (let k = 0; k < dim; k++) {
      const v = rows[at + k] - (origin === undefined ? 0 : origin[k]);
      out[at + k] = v;
      norm += v * v;
    }
    const inverse = norm > 0 ? 1 / Math.sqrt(norm) : 0;
    for (let k = 0; k < dim; k++) out[at + k] *= inverse;
  }
  return out;
}

/**
 * Candidates of one image: every stable node of the region tree, connected parts of regions grouped without connectivity,
 * and normalised-cut objects. Duplicates (same patches) are merged, keeping the more stable.
 * @param grid unit features
 * @param c0 mean cosine between patches of different images: the zero of the calibrated cosine
 */
export function discover(grid: PatchGrid, c0: number, options: DiscoverOptions = discoverDefaults): Candidate[] {
  const { gridWidth, gridHeight, dim, unit } = grid;
  const n = gridWidth * gridHeight;
  const calibrate = (cosine: number): number => (cosine - c0) / Math.max(1e-9, 1 - c0);
  const found = new Map<string, Candidate>();
  const most = options.maxShare * n;
  const add = (cells: readonly number[], source: 'region' | 'object', stability: number): void => {
    if (cells.length > most || cells.length === 0) return;
    const key = cellsKey(cells);
    const before = found.get(key);
    if (before !== undefined && before.stability >= stability) return;
    found.set(key, { cells, source, stability, box: boxOfCells(cells, gridWidth, gridHeight) });
  };

  const tree = regionTree(unit, dim, gridWidth, gridHeight);
  addTree(tree, calibrate, options, (node, stability) => add(leavesOf(tree, node), 'region', stability));

  // Groups without connectivity gather what looks alike anywhere; their connected parts are regions the tree may have
  // merged with their surroundings first.
  for (const level of options.cuts) {
    const cut = cutTree(tree, c0 + level * (1 - c0));
    if (cut.count < 2 || cut.count > groupedRegions) continue;
    const groups = groupTree(unit, dim, cut.labels, cut.count);
    addGroups(groups, cut.labels, gridWidth, gridHeight, calibrate, options, (cells, stability) => add(cells, 'region', stability));
    break;
  }

  for (const object of cutObjects(grid, calibrate, options)) add(object.cells, 'object', 1 - object.cut);
  return [...found.values()];
}

/** A short exact-enough name of a set of patches: count, sum and hash of sorted numbers. */
function cellsKey(cells: readonly number[]): string {
  let sum = 0;
  let mix = 0;
  for (const c of cells) {
    sum += c;
    let h = Math.imul(c + 1, 0x9e3779b1);
    h = Math.imul(h ^ (h >>> 15), 0x85ebca6b);
    mix = (mix + (h ^ (h >>> 13))) | 0;
  }
  return `${cells.length}/${sum}/${mix}`;
}

/** Visits nodes of a tree that survive long enough: from the level they form to the level they dissolve in their parent. */
function addTree(
  tree: RegionTree,
  calibrate: (c: number) => number,
  options: DiscoverOptions,
  visit: (node: number, stability: number) => void,
): void {
  for (let node = 0; node < tree.parent.length; node++) {
    const up = tree.parent[node];
    if (up < 0) continue;
    const born = node < tree.leaves ? 1 : calibrate(tree.level[node - tree.leaves]);
    const stability = Math.min(1, born) - calibrate(tree.level[up - tree.leaves]);
    if (stability >= options.minStability) visit(node, Math.min(1, stability));
  }
}

function addGroups(
  tree: RegionTree,
  labels: Int32Array,
  gridWidth: number,
  gridHeight: number,
  calibrate: (c: number) => number,
  options: DiscoverOptions,
  add: (cells: readonly number[], stability: number) => void,
): void {
  const data = new Uint8Array(labels.length);
  addTree(tree, calibrate, options, (node, stability) => {
    const inside = new Uint8Array(tree.leaves);
    for (const leaf of leavesOf(tree, node)) inside[leaf] = 1;
    for (let i = 0; i < labels.length; i++) data[i] = inside[labels[i]];
    const parts = connectedComponents({ width: gridWidth, height: gridHeight, data }, 4);
    const cells: number[][] = Array.from({ length: parts.count }, () => []);
    for (let i = 0; i < labels.length; i++) if (parts.labels[i] > 0) cells[parts.labels[i] - 1].push(i);
    for (const part of cells) add(part, stability);
  });
}

function cutObjects(grid: PatchGrid, calibrate: (c: number) => number, options: DiscoverOptions): { cells: number[]; cut: number }[] {
  const step = grid.gridWidth * grid.gridHeight > cutNodes ? 2 : 1;
  const coarse = step === 1 ? grid : averaged(grid);
  const { gridWidth, gridHeight, dim, unit } = coarse;
  const n = gridWidth * gridHeight;
  const similarity = new Float32Array(n * n);
  for (let i = 0; i < n; i++) {
    for (let j = i; j < n; j++) {
      let dot = 0;
      for (let k = 0; k < dim; k++) dot += unit[i * dim + k] * unit[j * dim + k];
      similarity[i * n + j] = similarity[j * n + i] = calibrate(dot);
    }
  }
  const objects = maskCut(similarity, gridWidth, gridHeight, {
    threshold: options.cutThreshold,
    maxObjects: options.maxObjects,
    maxCut: 0.9,
    minShare: 0.01,
  });
  return objects.map(({ mask, cut }) => {
    const cells: number[] = [];
    for (let y = 0; y < grid.gridHeight; y++) {
      for (let x = 0; x < grid.gridWidth; x++) {
        const at = Math.min(gridHeight - 1, Math.floor(y / step)) * gridWidth + Math.min(gridWidth - 1, Math.floor(x / step));
        if (mask[at] === 1) cells.push(y * grid.gridWidth + x);
      }
    }
    return { cells, cut };
  });
}

/** The grid at half resolution: sums of 2 x 2 patches, scaled to length 1. */
function averaged(grid: PatchGrid): PatchGrid {
  const gridWidth = Math.max(1, grid.gridWidth >> 1);
  const gridHeight = Math.max(1, grid.gridHeight >> 1);
  const sums = new Float32Array(gridWidth * gridHeight * grid.dim);
  for (let y = 0; y < grid.gridHeight; y++) {
    for (let x = 0; x < grid.gridWidth; x++) {
      const to = (Math.min(gridHeight - 1, y >> 1) * gridWidth + Math.min(gridWidth - 1, x >> 1)) * grid.dim;
      const from = (y * grid.gridWidth + x) * grid.dim;
      for (let k = 0; k < grid.dim; k++) sums[to + k] += grid.unit[from + k];
    }
  }
  return { gridWidth, gridHeight, dim: grid.dim, unit: unitRows(sums, grid.dim) };
}
