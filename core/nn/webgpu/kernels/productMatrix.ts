/**
 * Products with matrix units: f16 fragments that a subgroup multiplies as one, sums in f32. Operands are staged through
 * workgroup memory as f16 (f32 ones rounded on the way), four elements to a store; sums leave through it as well, since a
 * fragment's elements cannot be reached where they are.
 */
import type { Capabilities, MatrixShape } from '../program.ts';
import { loader, operandName, type Operand, type Work } from './productTile.ts';

/** A tile of the result and the part of it that one subgroup sums. */
export interface MatrixTile {
  readonly rows: number;
  readonly columns: number;
  readonly subgroupRows: number;
  readonly subgroupColumns: number;
  /** Steps of k staged at a time. */
  readonly depth: number;
  /** Reads the next step into registers before this one is summed. */
  readonly prefetch: boolean;
  readonly worth: number;
  readonly slots: number;
}

const tile = (rows: number, columns: number, subgroupRows: number, subgroupColumns: number, worth: number, slots: number): MatrixTile => ({
  rows,
  columns,
  subgroupRows,
  subgroupColumns,
  depth: 32,
  prefetch: false,
  worth,
  slots,
});

/** The first reached 269 TFLOP/s on an H100 (4096^3); the worth of the others is a guess. */
export const matrixTiles: readonly MatrixTile[] = [
  tile(128, 128, 64, 64, 1, 256),
  tile(64, 64, 32, 32, 0.6, 512),
  tile(32, 32, 16, 16, 0.25, 1024),
  tile(16, 128, 16, 32, 0.25, 1024),
];

/** Elements between the end of a staged line and the next: 8 measured best, 16 much slower. */
const padding = 8;
/** Fragments of sums that a subgroup can hold: 32 of [16,8] are half of a thread's registers. */
const mostFragments = 32;

/** The shape to multiply with: sums in f32, the largest first. */
export function matrixShape({ matrices, f16, subgroups }: Capabilities): MatrixShape | null {
  if (!f16 || !subgroups) return null;
  const usable = matrices.filter(({ result }) => result === 'f32');
  return usable.reduce<MatrixShape | null>(
    (best, shape) => (best && best.M * best.N * best.K >= shape.M * shape.N * shape.K ? best : shape),
    null,
  );
}

const partsOf = ({ rows, columns, subgroupRows, subgroupColumns }: MatrixTile): number =>
  (rows / subgroupRows) * (columns / subgroupColumns);

/** Fragments in a row that leave together: as many as workgroup memory holds. 0 when not even one fits. */
function strip(tile: MatrixTile, { M, N }: MatrixShape, caps: Capabilities): number {
  const staged =
    2 *
    (Math.max(tile.rows * (tile.depth + padding), tile.depth * (tile.rows + padding)) +
      Math.max(tile.columns * (tile.depth + padding), tile.depth * (tile.columns + padding)));
  const across = tile.subgroupColumns / N;
  for (let count = across; count >= 1; --count) {
    const bytes = 4 * partsOf(tile) * M * (count * N + 4);
    if (across % count === 0 && staged + bytes <= caps.workgroupStorage) return count;
  }
  return 0;
}

export function matrixTileFits(tile: MatrixTile, shape: MatrixShape, caps: Capabilities): boolean {
  const [down, across] = [tile.subgroupRows / shape.M, tile.subgroupColumns / shape.N];
  return (
    Number.isInteger(down) &&
    Number.isInteger(across) &&
    down * across <= mostFragments &&
    tile.depth % shape.K === 0 &&
    partsOf(tile) * caps.subgroups!.max <= caps.workgroupInvocations &&
    strip(tile, shape, caps) > 0
  );
}

const each = <T>(count: number, code: (i: number) => T): T[] => Array.from({ length: count }, (_, i) => code(i));

/** Says all that `matrixProduct` depends on. */
export function matrixProductName(caps: Capabilities, tile: MatrixTile, shape: MatrixShape, { a, b, end, split }: Work): string {
  const { rows, columns, subgroupRows, subgroupColumns, depth, prefetch } = tile;
  const { min, max } = caps.subgroups!;
  return [
    `matrix ${shape.M}x${shape.N}x${shape.K} of ${max}${min === max ? '' : ` down to ${min}`}`,
    `${rows}x${columns}x${depth} by ${subgroupRows}x${subgroupColumns}${prefetch ? ' prefetch' : ''} out ${strip(tile, shape, caps)}`,
    operandName(a),
    operandName(b),
    split ? 'split' : 'whole',
    end.name,
  ].join(' ');
}

/** As `tileProduct`: workgroup (x, y, z) sums the tile of column x and row y over share z of k. */
export function matrixProduct(caps: Capabilities, tile: MatrixTile, shape: MatrixShape, { a, b, end, split }: Work): string {
  const { rows, columns, subgroupRows, subgroupColumns, depth, prefetch } = tile;
  const { M, N, K } = shape;
  const { min, max } = caps.subgroups!;
  const parts = partsOf(tile);
  const threads = parts * max;
  const [down, across] = [subgroupRows / M, subgroupColumns / N];
  const out = strip(tile, shape, caps);
  const outPitch = (out * N + 4) / 4;

  // A side's lines lie in workgroup memory as in the array: [tile][k] where neighbours are along k, else [k][tile].
  const side = (name: 'a' | 'b', operand: Operand, extent: number, origin: string) => {
    const [lines, length] = operand.alongK ? [extent, depth] : [depth, extent];
    const quads = length / 4;
    const pitch = (length + padding) / 4;
    const rounds = Math.ceil((lines * quads) / threads);
    const place = (round: number): string => `(local + ${round * threads}u)`;
    const guard = (round: number, code: string): string =>
      (round + 1) * threads > lines * quads ? `if (${place(round)} < ${lines * quads}u) { ${code} }` : code;
    const line = (round: number): string => `${place(round)} / ${quads}u`;
    const within = (round: number): string => `${place(round)} % ${quads}u`;
    return {
      memory: `var<workgroup> ${name}Tile: array<vec4<f16>, ${lines * pitch}>;`,
      held: each(rounds, (round) => `var ${name}${round} = vec4<f16>();`),
      fetch: each(rounds, (round) => {
        const [lineOrigin, origin0] = operand.alongK ? [origin, 'k0'] : ['k0', origin];
        return guard(
          round,
          `${name}${round} = load${name.toUpperCase()}(${lineOrigin} + ${line(round)}, ${origin0} + 4u * (${within(round)}), end);`,
        );
      }),
      put: each(rounds, (round) => guard(round, `${name}Tile[(${line(round)}) * ${pitch}u + ${within(round)}] = ${name}${round};`)),
      /** The fragment from (tile, k) on; a left one is [M,K], a right one [K,N]. */
      fragment: (type: string, at: string, k: string): string => {
        const transposed = operand.alongK === (name === 'b');
        const offset = operand.alongK ? `(${at}) * ${pitch}u + (${k}) / 4u` : `(${k}) * ${pitch}u + (${at}) / 4u`;
        return `subgroupMatrixLoad<${type}, ${transposed ? 'col_major' : 'row_major'}>(&${name}Tile, ${offset}, ${pitch}u)`;
      },
    };
  };
  const left = side('a', a, rows, 'row0');
  const right = side('b', b, columns, 'column0');
  const fetch = [...left.fetch, ...right.fetch];
  const put = [...left.put, ...right.put];
  const lines = (code: readonly string[], indent: number): string => code.join(`\n${' '.repeat(indent)}`);
  // Subgroups may be smaller than the largest; then there are more of them than parts, and the last only help staging.
  const when = (code: string): string => (min === max ? code : `if (part < ${parts}u) {\n      ${code}\n    }`);
  const sums = each(down, (i) => each(across, (j) => `sum${i}_${j}`));
  const stripQuads = (out * N) / 4;
  const leave = (i: number, j: number): string => `
  ${when(each(out, (n) => `subgroupMatrixStore<row_major>(&sumTile, part * ${M * outPitch}u + ${(n * N) / 4}u, sum${i}_${j + n}, ${outPitch}u);`).join('\n  '))}
  workgroupBarrier();
  ${when(`for (var n = lane; n < ${M * stripQuads}u; n += lanes) {
    store4(row1 + ${i * M}u + n / ${stripQuads}u, column1 + ${j * N}u + 4u * (n % ${stripQuads}u), shift, sumTile[part * ${M * outPitch}u + (n / ${stripQuads}u) * ${outPitch}u + n % ${stripQuads}u]);
  }`)}
  workgroupBarrier();`;
  return `
alias Left = subgroup_matrix_left<f16, ${K}, ${M}>;
alias Right = subgroup_matrix_right<f16, ${N}, ${K}>;
alias Sum = subgroup_matrix_result<f32, ${N}, ${M}>;
${left.memory}
${right.memory}
var<workgroup> sumTile: array<vec4<f32>, ${parts * M * outPitch}>;
${loader('a', a, 'f16')}
${loader('b', b, 'f16')}
${end.code}
@compute @workgroup_size(${threads})
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(local_invocation_index) local: u32,
  @builtin(subgroup_id) part: u32,
  @builtin(subgroup_invocation_id) lane: u32,
  @builtin(subgroup_size) lanes: u32,
) {
  let row0 = group.y * ${rows}u;
  let column0 = group.x * ${columns}u;
  // The part's first row and column in the tile.
  let row = (part / ${columns / subgroupColumns}u) * ${subgroupRows}u;
  let column = (part % ${columns / subgroupColumns}u) * ${subgroupColumns}u;
  let begin = group.z * u.share;
  let end = min(u.k, begin + u.share);
  ${lines(
    sums.flat().map((sum) => `var ${sum}: Sum;`),
    2,
  )}
  ${lines([...left.held, ...right.held], 2)}
  var k0 = begin;
  ${prefetch ? lines(fetch, 2) : ''}
  while (k0 < end) {
    ${prefetch ? '' : lines(fetch, 4)}
    ${lines(put, 4)}
    workgroupBarrier();
    k0 += ${depth}u;
    ${prefetch ? `if (k0 < end) {\n      ${lines(fetch, 6)}\n    }` : ''}
    ${when(
      `for (var k = 0u; k < ${depth}u; k += ${K}u) {
      ${lines(
        each(across, (j) => `let right${j} = ${right.fragment('Right', `column + ${j * N}u`, 'k')};`),
        6,
      )}
      ${lines(
        sums.map((row, i) =>
          [
            `let left${i} = ${left.fragment('Left', `row + ${i * M}u`, 'k')};`,
            ...row.map((sum, j) => `${sum} = subgroupMatrixMultiplyAccumulate(left${i}, right${j}, ${sum});`),
          ].join('\n      '),
        ),
        6,
      )}
    }`,
    )}
    workgroupBarrier();
  }
  let shift = ${split ? 'group.z * u.m * u.n' : '0u'};
  let row1 = row0 + row;
  let column1 = column0 + column;
  ${each(down, (i) => each(across / out, (j) => leave(i, j * out)))
    .flat()
    .join('')}
}
`;
}
