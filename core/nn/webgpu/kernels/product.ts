/**
 * Matrix products: which kernel, how large a tile, over how many workgroups k is split. Sizes and capabilities decide,
 * so the same product always sums in the same order.
 */
import {
  once,
  program,
  type Capabilities,
  type Dispatch,
  type Element,
  type MatrixShape,
  type Region,
  type UniformSpec,
} from '../program.ts';
import { ending, type Epilogue } from './productEpilogue.ts';
import { matrixProduct, matrixProductName, matrixShape, matrixTileFits, matrixTiles, type MatrixTile } from './productMatrix.ts';
import {
  tileFits,
  tileProduct,
  tileProductName,
  tiles,
  operandBinding,
  type Form,
  type Operand,
  type Tile,
  type Work,
} from './productTile.ts';

export type { Epilogue } from './productEpilogue.ts';
export type { Form } from './productTile.ts';

interface PerMatrix<T> {
  readonly a: T;
  readonly b: T;
  readonly c: T;
}

export interface ProductInputs {
  /** nt: a [m,k] b [n,k]^T; nn: a [m,k] b [k,n]; tn: a [k,m]^T b [k,n]. */
  readonly form: Form;
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly a: Region;
  readonly b: Region;
  /** [m,n]. May overlap nothing that is read. */
  readonly c: Region;
  readonly elements: PerMatrix<'f32' | 'f16'>;
  /** Elements from one row to the next, where that is not the row's length. */
  readonly strides?: Partial<PerMatrix<number>>;
  /** Elements before the first, e.g. of a slice of columns. */
  readonly starts?: Partial<PerMatrix<number>>;
  /** Adds to c (after the epilogue) instead of replacing it. */
  readonly accumulate?: boolean;
  readonly epilogue?: Epilogue;
  /**
   * Operands in f32 may be rounded to f16 for matrix units. Otherwise they are only where the other operand is f16
   * already.
   */
  readonly mayRound?: boolean;
  /**
   * Room for partial sums, `productWorkspace` bytes. With it, k is split over workgroups where the result alone would
   * leave the device idle; without it, never.
   */
  readonly workspace?: Region;
}

type Sizes = Pick<ProductInputs, 'm' | 'n' | 'k' | 'elements' | 'mayRound'>;

/** Steps of k that every share of a split is a multiple of. */
const shareStep = 64;
/** Fewest steps worth a workgroup of their own. */
const leastShare = 256;

/** How a product is done. */
interface Plan {
  readonly choice: Choice;
  readonly splits: number;
  /** Steps of k in each share. */
  readonly share: number;
}

/** A tile, and the matrix units to do it with, if any. */
export type Choice = { readonly tile: Tile; readonly shape: null } | { readonly tile: MatrixTile; readonly shape: MatrixShape };

/** All tiles that the device can do the product with. Matrix units take over wherever f16 is among the operands. */
export function productChoices(caps: Capabilities, { elements, mayRound }: Pick<ProductInputs, 'elements' | 'mayRound'>): Choice[] {
  const shape = (mayRound ?? (elements.a === 'f16' || elements.b === 'f16')) ? matrixShape(caps) : null;
  if (shape) {
    const fitting = matrixTiles.filter((tile) => matrixTileFits(tile, shape, caps));
    if (fitting.length > 0) return fitting.map((tile) => ({ tile, shape }));
  }
  return tiles.filter((tile) => tileFits(tile, caps)).map((tile) => ({ tile, shape: null }));
}

/** The choice and split with the least estimated time: rounds over the device's slots, times the work of a slot. */
function plan(caps: Capabilities, sizes: Sizes, maySplit: boolean, among: readonly Choice[] = productChoices(caps, sizes)): Plan {
  const { m, n, k } = sizes;
  let best: Plan | null = null;
  let least = Infinity;
  for (const choice of among) {
    const { tile, shape } = choice;
    // Multiplications in the time of moving one partial sum to memory and back.
    const partialCost = shape ? 800 : 80;
    const count = Math.ceil(m / tile.rows) * Math.ceil(n / tile.columns);
    for (let splits = 1; splits === 1 || (maySplit && k / splits >= leastShare && splits <= 256); splits *= 2) {
      const share = splits === 1 ? k : Math.ceil(k / splits / shareStep) * shareStep;
      const used = Math.max(1, Math.ceil(k / Math.max(share, 1)));
      const time = (Math.ceil((count * used) / tile.slots) * tile.rows * tile.columns * share * tile.slots) / tile.worth;
      const cost = time + (used > 1 ? used * m * n * partialCost : 0);
      if (cost < least) {
        least = cost;
        best = { choice, splits: used, share };
      }
    }
  }
  if (!best) throw new Error(`product: no tile fits ${caps.workgroupStorage} bytes of workgroup memory.`);
  return best;
}

/**
 * Bytes of workspace with which a product runs best; 0 where it needs none.
 * @param among as in `product`
 */
export function productWorkspace(caps: Capabilities, sizes: Sizes, among?: readonly Choice[]): number {
  const { splits } = plan(caps, sizes, true, among);
  return splits > 1 ? splits * sizes.m * sizes.n * 4 : 0;
}

const bytesOf = (element: Element): number => (element === 'f16' ? 2 : 4);

const uniforms: readonly UniformSpec[] = [
  ...(['m', 'n', 'k', 'strideA', 'strideB', 'strideC', 'startA', 'startB', 'startC', 'share'] as const).map(
    (name) => ({ name, type: 'u32' }) as const,
  ),
];

const reductionUniforms: readonly UniformSpec[] = [
  ...(['m', 'n', 'strideC', 'startC', 'splits'] as const).map((name) => ({ name, type: 'u32' }) as const),
];

/**
 * c (+)= epilogue(a b) in the given form; sums in f32, in an order that sizes and capabilities alone decide. Any sizes.
 * @param among choices to take the plan from, for measuring and checking them; all by default
 * @throws Error when a size is not a whole number, a region is too small, or f16 is asked of a device without it
 */
export function product(caps: Capabilities, inputs: ProductInputs, among?: readonly Choice[]): Dispatch[] {
  const { form, m, n, k, elements, accumulate = false, epilogue = { kind: 'none' }, workspace } = inputs;
  for (const size of [m, n, k]) {
    if (!Number.isInteger(size) || size < 0) throw new Error(`product: sizes ${m} x ${n} x ${k} are not whole numbers.`);
  }
  if (!caps.f16 && Object.values(elements).includes('f16')) throw new Error('product: this device has no f16.');
  if (m === 0 || n === 0) return [];
  const extents: PerMatrix<{ rows: number; columns: number }> = {
    a: form === 'tn' ? { rows: k, columns: m } : { rows: m, columns: k },
    b: form === 'nt' ? { rows: n, columns: k } : { rows: k, columns: n },
    c: { rows: m, columns: n },
  };
  const layout = (which: 'a' | 'b' | 'c'): { stride: number; start: number; wide: boolean } => {
    const { rows, columns } = extents[which];
    const stride = inputs.strides?.[which] ?? columns;
    const start = inputs.starts?.[which] ?? 0;
    if (stride < columns || start < 0) throw new Error(`product: row stride ${stride} and start ${start} do not fit ${which}.`);
    const needed = rows * columns === 0 ? 0 : (start + (rows - 1) * stride + columns) * bytesOf(elements[which]);
    if (inputs[which].bytes < needed) {
      throw new Error(`product: ${which} [${rows},${columns}] needs ${needed} bytes, its region has ${inputs[which].bytes}.`);
    }
    return { stride, start, wide: columns % 4 === 0 && stride % 4 === 0 && start % 4 === 0 };
  };
  const at = { a: layout('a'), b: layout('b'), c: layout('c') };
  const { choice, splits, share } = choose(caps, inputs, among);
  const { tile, shape } = choice;
  const split = splits > 1;
  const side = (which: 'a' | 'b'): Operand => ({
    region: inputs[which],
    element: elements[which],
    alongK: which === 'a' ? form !== 'tn' : form === 'nt',
    wide: at[which].wide,
  });
  const [a, b] = [side('a'), side('b')];
  const end = split
    ? ending({ kind: 'none' }, { c: workspace!, element: 'f32', wide: n % 4 === 0, accumulate: false })
    : ending(epilogue, { c: inputs.c, element: elements.c, wide: at.c.wide, accumulate });
  const work: Work = { a, b, end, split };
  const name = `product ${choice.shape ? matrixProductName(caps, choice.tile, choice.shape, work) : tileProductName(caps, choice.tile, work)}`;
  const main: Dispatch = {
    program: once(caps, name, () =>
      program({
        name,
        bindings: [operandBinding('a', a), operandBinding('b', b), ...end.bindings],
        uniforms,
        features: shape ? ['f16', 'subgroups', 'chromium_experimental_subgroup_matrix'] : [],
        body: choice.shape ? matrixProduct(caps, choice.tile, choice.shape, work) : tileProduct(caps, choice.tile, work),
      }),
    ),
    regions: [inputs.a, inputs.b, ...end.regions],
    uniforms: {
      m,
      n,
      k,
      strideA: at.a.stride,
      strideB: at.b.stride,
      strideC: split ? n : at.c.stride,
      startA: at.a.start,
      startB: at.b.start,
      startC: split ? 0 : at.c.start,
      share,
    },
    workgroups: [Math.ceil(n / tile.columns), Math.ceil(m / tile.rows), splits],
    flops: 2 * m * n * k,
    bytes: k * (m * bytesOf(elements.a) + n * bytesOf(elements.b)) + m * n * bytesOf(split ? 'f32' : elements.c) * splits,
  };
  if (main.workgroups.some((count) => count > caps.workgroupsPerDimension)) {
    throw new Error(`product: ${m} x ${n} x ${k} takes more workgroups than this device runs at once.`);
  }
  return split ? [main, reduction(caps, inputs, epilogue, workspace!, splits, at.c)] : [main];
}

/** The plan that the workspace allows. */
function choose(caps: Capabilities, inputs: ProductInputs, among?: readonly Choice[]): Plan {
  if (!inputs.workspace) return plan(caps, inputs, false, among);
  const wanted = plan(caps, inputs, true, among);
  const needed = wanted.splits > 1 ? wanted.splits * inputs.m * inputs.n * 4 : 0;
  if (inputs.workspace.bytes < needed) {
    throw new Error(`product: the workspace has ${inputs.workspace.bytes} of ${needed} bytes.`);
  }
  return wanted;
}

/** Sums the slices of the workspace, [splits][m][n], in order; then the epilogue. */
function reduction(
  caps: Capabilities,
  { m, n, c, elements, accumulate = false }: ProductInputs,
  epilogue: Epilogue,
  workspace: Region,
  splits: number,
  at: { stride: number; start: number; wide: boolean },
): Dispatch {
  const wide = n % 4 === 0;
  const end = ending(epilogue, { c, element: elements.c, wide: at.wide, accumulate });
  const name = `product reduction ${wide ? 'f32x4' : 'f32'} ${end.name}`;
  return {
    program: once(caps, name, () =>
      program({
        name,
        bindings: [{ name: 'partials', element: 'f32', access: 'read', type: wide ? 'array<vec4<f32>>' : 'array<f32>' }, ...end.bindings],
        uniforms: reductionUniforms,
        body: reductionBody(wide, end.code),
      }),
    ),
    regions: [workspace, ...end.regions],
    uniforms: { m, n, strideC: at.stride, startC: at.start, splits },
    workgroups: [Math.ceil(n / 256), Math.ceil(m / 4), 1],
    bytes: m * n * (4 * splits + bytesOf(elements.c)),
  };
}

/** Four neighbouring columns an invocation. */
function reductionBody(wide: boolean, ending: string): string {
  const partial = wide
    ? 'sums += partials[(slice * u.m * u.n + row * u.n + column) / 4u];'
    : `for (var i = 0u; i < 4u; i++) {
        if (column + i < u.n) { sums[i] += partials[slice * u.m * u.n + row * u.n + column + i]; }
      }`;
  return `
${ending}
@compute @workgroup_size(64, 4)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let row = id.y;
  let column = id.x * 4u;
  if (row >= u.m || column >= u.n) { return; }
  var sums = vec4<f32>();
  for (var slice = 0u; slice < u.splits; slice++) {
      ${partial}
  }
  store4(row, column, 0u, sums);
}
`;
}
