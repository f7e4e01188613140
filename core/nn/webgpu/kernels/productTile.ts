/**
 * Products without matrix units: a tile of the result in the registers of a workgroup, both operands staged through
 * workgroup memory in f32. f16 operands are read as they are and multiplied as f32.
 */
import type { Binding, Capabilities, Element, Region } from '../program.ts';
import type { Ending } from './productEpilogue.ts';

export type Form = 'nt' | 'nn' | 'tn';

/** A tile of the result, by how many vec4 of it a thread holds: 4 rows x 4 columns are one. */
export interface Tile {
  readonly rows: number;
  readonly columns: number;
  readonly rowQuads: number;
  readonly columnQuads: number;
  /** Share of a full device's arithmetic that it reaches, roughly: for choosing among tiles only. */
  readonly worth: number;
  /** Workgroups that fill a large device. */
  readonly slots: number;
}

/** One factor as it lies in memory. */
export interface Operand {
  readonly region: Region;
  readonly element: Element;
  /** Neighbours in memory are neighbours along k: a of nt and nn, b of nt. */
  readonly alongK: boolean;
  /** Extent, row stride and start allow reading four elements at once. */
  readonly wide: boolean;
}

export const tiles: readonly Tile[] = [
  { rows: 128, columns: 128, rowQuads: 2, columnQuads: 2, worth: 1, slots: 256 },
  { rows: 64, columns: 64, rowQuads: 1, columnQuads: 1, worth: 0.6, slots: 512 },
  { rows: 32, columns: 32, rowQuads: 1, columnQuads: 1, worth: 0.35, slots: 1024 },
  { rows: 16, columns: 64, rowQuads: 1, columnQuads: 1, worth: 0.35, slots: 1024 },
  { rows: 64, columns: 16, rowQuads: 1, columnQuads: 1, worth: 0.35, slots: 1024 },
];

export const tileThreads = (tile: Tile): number => (tile.rows / (4 * tile.rowQuads)) * (tile.columns / (4 * tile.columnQuads));

/** Steps of k staged at a time: all threads have a 4 x 4 block to fetch then. */
function depth(tile: Tile, caps: Capabilities): number {
  const bytes = (k: number): number => 4 * k * (tile.rows + tile.columns + 8);
  const wanted = tile.rows === 128 ? 16 : 32;
  return bytes(wanted) <= caps.workgroupStorage ? wanted : 8;
}

export const tileFits = (tile: Tile, caps: Capabilities): boolean =>
  tileThreads(tile) <= caps.workgroupInvocations && 4 * 8 * (tile.rows + tile.columns + 8) <= caps.workgroupStorage;

/** All that the code for an operand depends on. */
export const operandName = ({ element, alongK, wide }: Operand): string => `${element} ${alongK ? 'along' : 'across'}${wide ? ' x4' : ''}`;

/** Declares `loadA(line, place, end)`: four elements of a line as `to`, zeros past the end of lines or of a line. */
export function loader(name: 'a' | 'b', operand: Operand, to: 'f32' | 'f16'): string {
  const upper = name.toUpperCase();
  // Lines lie along k where neighbours do not.
  const [lines, length] = operand.alongK ? [name === 'a' ? 'u.m' : 'u.n', 'end'] : ['end', name === 'a' ? 'u.m' : 'u.n'];
  const at = `u.start${upper} + line * u.stride${upper} + place`;
  const body = operand.wide
    ? `if (line < ${lines} && place < ${length}) { return vec4<${to}>(${name}[(${at}) / 4u]); }
  return vec4<${to}>();`
    : `var v = vec4<${to}>();
  if (line < ${lines}) {
    for (var i = 0u; i < 4u; i++) { if (place + i < ${length}) { v[i] = ${to}(${name}[${at} + i]); } }
  }
  return v;`;
  return `fn load${upper}(line: u32, place: u32, end: u32) -> vec4<${to}> {\n  ${body}\n}`;
}

export function operandBinding(name: string, { element, wide }: Operand): Binding {
  return wide ? { name, element, access: 'read', type: `array<vec4<${element}>>` } : { name, element, access: 'read' };
}

/** What a product is done with: operands, ending, and whether k is split over workgroups. */
export interface Work {
  readonly a: Operand;
  readonly b: Operand;
  readonly end: Ending;
  /** Sums go to slice z of c, [z][m][n]. */
  readonly split: boolean;
}

/** Says all that `tileProduct` depends on. */
export function tileProductName(caps: Capabilities, tile: Tile, { a, b, end, split }: Work): string {
  const size = `${tile.rows}x${tile.columns}x${depth(tile, caps)}`;
  return ['tile', size, operandName(a), operandName(b), split ? 'split' : 'whole', end.name].join(' ');
}

/** Workgroup (x, y, z) sums the tile of column x and row y over k from z * u.share on, u.share steps at most. */
export function tileProduct(caps: Capabilities, tile: Tile, { a, b, split, end }: Work): string {
  const threads = tileThreads(tile);
  const k = depth(tile, caps);
  const acrossColumns = tile.columns / (4 * tile.columnQuads);
  const acrossRows = tile.rows / (4 * tile.rowQuads);
  const sides = [
    { name: 'a', operand: a, extent: tile.rows, origin: 'row0' },
    { name: 'b', operand: b, extent: tile.columns, origin: 'column0' },
  ];
  const blocksOf = (extent: number): number => (extent / 4) * (k / 4);
  const blocks = blocksOf(tile.rows) + blocksOf(tile.columns);
  const rounds = Math.ceil(blocks / threads);
  const quads = k / 4;
  // Padded by one vec4, so that the transposed stores of neighbouring threads fall into different banks.
  const pitch = (extent: number): number => extent / 4 + 1;

  // A thread fetches blocks of 4 lines x 4 places: four reads, and four stores whichever way the operand lies.
  const place = ({ operand, extent }: (typeof sides)[number], n: string): { quad: string; step: string } =>
    operand.alongK
      ? {
          // Two neighbours along k and four along the tile in eight threads: whole sectors read, no bank met twice.
          step: `((${n} & 1u) | (((${n} >> 3u) & ${quads / 2 - 1}u) << 1u))`,
          quad: `(((${n} >> 1u) & 3u) + 4u * (${n} / ${4 * quads}u))`,
        }
      : { step: `(${n} / ${extent / 4}u)`, quad: `(${n} % ${extent / 4}u)` };
  const visit = (round: number, code: (side: (typeof sides)[number], n: string) => string): string => {
    const first = blocksOf(tile.rows);
    const [begin, end] = [round * threads, (round + 1) * threads];
    const n = `(local + ${begin}u)`;
    const ofA = code(sides[0]!, n);
    const ofB = code(sides[1]!, begin >= first ? `(local + ${begin - first}u)` : `(${n} - ${first}u)`);
    // Which side a round is for is known here where it is one side's alone: a compiler would keep the code of both.
    if (end <= first) return ofA;
    const guard = end > blocks ? `if (${n} < ${blocks}u) ` : '';
    if (begin >= first) return guard ? `${guard}{ ${ofB} }` : ofB;
    return `if (${n} < ${first}u) { ${ofA} } else ${guard}{ ${ofB} }`;
  };
  const fetch = (round: number): string =>
    visit(round, (side, n) => {
      const { step, quad } = place(side, n);
      const alongTile = `${side.origin} + 4u * ${quad}`;
      const steps = `k0 + 4u * ${step}`;
      const [line, at] = side.operand.alongK ? [alongTile, steps] : [steps, alongTile];
      return [0, 1, 2, 3].map((i) => `held${round}_${i} = load${side.name.toUpperCase()}(${line} + ${i}u, ${at}, end);`).join(' ');
    });
  const put = (round: number): string =>
    visit(round, (side, n) => {
      const { step, quad } = place(side, n);
      const rows = [0, 1, 2, 3].map((i) => `held${round}_${i}`);
      return [0, 1, 2, 3]
        .map((i) => {
          const value = side.operand.alongK ? `vec4<f32>(${rows.map((row) => `${row}[${i}]`).join(', ')})` : rows[i]!;
          return `${side.name}Tile[(4u * ${step} + ${i}u) * ${pitch(side.extent)}u + ${quad}] = ${value};`;
        })
        .join(' ');
    });
  const each = <T>(count: number, code: (i: number) => T): T[] => Array.from({ length: count }, (_, i) => code(i));
  const sums = each(tile.rowQuads * 4, (i) => each(tile.columnQuads, (j) => `sum${i}_${j}`));
  const lines = (parts: readonly string[], indent: number): string => parts.join(`\n${' '.repeat(indent)}`);
  const step = [
    ...each(tile.rowQuads, (i) => `let left${i} = aTile[k * ${pitch(tile.rows)}u + ty + ${i * acrossRows}u];`),
    ...each(tile.columnQuads, (j) => `let right${j} = bTile[k * ${pitch(tile.columns)}u + tx + ${j * acrossColumns}u];`),
    ...sums.flatMap((row, i) => row.map((sum, j) => `${sum} = fma(vec4<f32>(left${i >> 2}[${i & 3}]), right${j}, ${sum});`)),
  ];
  return `
var<workgroup> aTile: array<vec4<f32>, ${k * pitch(tile.rows)}>;
var<workgroup> bTile: array<vec4<f32>, ${k * pitch(tile.columns)}>;
${loader('a', a, 'f32')}
${loader('b', b, 'f32')}
${end.code}
@compute @workgroup_size(${threads})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let row0 = group.y * ${tile.rows}u;
  let column0 = group.x * ${tile.columns}u;
  let tx = local % ${acrossColumns}u;
  let ty = local / ${acrossColumns}u;
  let begin = group.z * u.share;
  let end = min(u.k, begin + u.share);
  ${lines(
    sums.flat().map((sum) => `var ${sum} = vec4<f32>();`),
    2,
  )}
  ${lines(
    each(rounds * 4, (i) => `var held${i >> 2}_${i & 3} = vec4<f32>();`),
    2,
  )}
  var k0 = begin;
  ${lines(each(rounds, fetch), 2)}
  while (k0 < end) {
    ${lines(each(rounds, put), 4)}
    workgroupBarrier();
    k0 += ${k}u;
    // The next step's reads are under way while this one is summed.
    if (k0 < end) {
      ${lines(each(rounds, fetch), 6)}
    }
    for (var k = 0u; k < ${k}u; k++) {
      ${lines(step, 6)}
    }
    workgroupBarrier();
  }
  let shift = ${split ? 'group.z * u.m * u.n' : '0u'};
  ${lines(
    sums.flatMap((row, i) =>
      row.map(
        (sum, j) =>
          `store4(row0 + 4u * (ty + ${(i >> 2) * acrossRows}u) + ${i & 3}u, column0 + 4u * (tx + ${j * acrossColumns}u), shift, ${sum});`,
      ),
    ),
    2,
  )}
}
`;
}
