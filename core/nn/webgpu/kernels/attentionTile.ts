/**
 * Attention without matrix units. A workgroup holds a block of rows of one (sample, head) and walks over the others in
 * steps, so scores exist only as a tile in workgroup memory (the order of FlashAttention, Dao et al. 2022). A thread
 * makes 4 x 4 scores, and in products with them four rows of sums: 64 multiplications for 8 reads of a vec4.
 */
import type { Capabilities } from '../program.ts';
import { addressing, start, type Shape } from './attentionShape.ts';

/** Rows that a workgroup holds, and rows of a step of its walk. Multiples of 8. */
export interface Blocks {
  readonly held: number;
  readonly step: number;
}

/** forward and queries hold queries and walk over keys; keys holds keys and walks over queries. */
export type Kernel = 'forward' | 'queries' | 'keys';

const choices: readonly Blocks[] = [
  { held: 64, step: 32 },
  { held: 32, step: 32 },
  { held: 32, step: 16 },
  { held: 16, step: 16 },
  { held: 8, step: 8 },
];

/** vec4 from one row of a tile to the next: odd, so that rows of neighbouring threads start in different banks. */
const pitch = (values: number): number => (values / 4) | 1;

/** Arrays of vec4 in workgroup memory: what is staged has the element of the arrays, what is made of it is f32. */
function memory(kernel: Kernel, headDim: number, { held, step }: Blocks): { staged: Record<string, number>; made: Record<string, number> } {
  const row = pitch(headDim);
  const scores = held * pitch(step);
  switch (kernel) {
    case 'forward':
      return { staged: { q: held * row, kv: step * row }, made: { weights: scores, reduced: (held * step) / 16 } };
    case 'queries':
      return { staged: { q: held * row, dOut: held * row, k: step * row, v: step * row }, made: { slopes: scores } };
    case 'keys':
      return { staged: { k: held * row, v: held * row, q: step * row, dOut: step * row }, made: { weights: scores, slopes: scores } };
  }
}

export const threadsOf = ({ held, step }: Blocks): number => (held * step) / 16;

/** The largest blocks that fit. @throws Error when none does */
export function blocksFor(kernel: Kernel, { headDim, element }: Shape, caps: Capabilities): Blocks {
  const sum = (sizes: Record<string, number>): number => Object.values(sizes).reduce((a, b) => a + b, 0);
  const fits = choices.find((blocks) => {
    const { staged, made } = memory(kernel, headDim, blocks);
    const bytes = (element === 'f16' ? 8 : 16) * sum(staged) + 16 * sum(made);
    return bytes <= caps.workgroupStorage && threadsOf(blocks) <= caps.workgroupInvocations;
  });
  if (!fits) throw new Error(`attention: heads of ${headDim} do not fit ${caps.workgroupStorage} bytes of workgroup memory.`);
  return fits;
}

const each = (count: number, code: (i: number) => string): string => Array.from({ length: count }, (_, i) => code(i)).join('\n    ');
const four = (code: (i: number) => string): string => each(4, code);

/** The pieces that the three kernels are made of. Thread (tx, ty) has rows 4 ty + i of the block and 4 tx + j of the step. */
class Pieces {
  readonly #element: Shape['element'];
  readonly #quads: number;
  readonly #row: number;
  readonly #blocks: Blocks;
  readonly #threads: number;
  /** Threads along a step. */
  readonly lanes: number;
  /** vec4 of each of its four rows that a thread sums. */
  readonly columns: number;

  constructor({ headDim, element }: Shape, blocks: Blocks) {
    this.#element = element;
    this.#quads = headDim / 4;
    this.#row = pitch(headDim);
    this.#blocks = blocks;
    this.#threads = threadsOf(blocks);
    this.lanes = blocks.step / 4;
    this.columns = Math.ceil(this.#quads / this.lanes);
  }

  /** Rows from `first` on of an array to `${tile}Tile`, zeros past the last token. `from`: WGSL of a row's first vec4. */
  stage(tile: string, size: 'held' | 'step', first: string, array: string, from: (token: string) => string): string {
    const rows = this.#blocks[size];
    return `
    for (var n = local; n < ${rows * this.#quads}u; n += ${this.#threads}u) {
      let row = n / ${this.#quads}u;
      let token = ${first} + row;
      var value = vec4<${this.#element}>();
      if (token < place.tokens) { value = ${array}[${from('token')} + n % ${this.#quads}u]; }
      // Rows 4 r + i lie at i * ${rows / 4} + r: threads that each read every fourth row meet no bank twice.
      ${tile}Tile[((row & 3u) * ${rows / 4}u + (row >> 2u)) * ${this.#row}u + n % ${this.#quads}u] = value;
    }`;
  }

  /** Declares `${into}0` to 3: products of the block's rows with four rows of the step, summed over the head's dimension. */
  dots(into: string, held: string, step: string): string {
    const at = (tile: string, rows: number, t: string, i: number): string =>
      `vec4<f32>(${tile}Tile[(${t} + ${(i * rows) / 4}u) * ${this.#row}u + quad])`;
    return `
    ${four((i) => `var ${into}${i} = vec4<f32>();`)}
    for (var quad = 0u; quad < ${this.#quads}u; quad++) {
      let across = mat4x4<f32>(${[0, 1, 2, 3].map((j) => at(step, this.#blocks.step, 'tx', j)).join(', ')});
      ${four((i) => `${into}${i} += ${at(held, this.#blocks.held, 'ty', i)} * across;`)}
    }`;
  }

  /** Puts what a thread made of its scores into `${tile}Tile`, [held][step]. */
  put(tile: string, name: string): string {
    return four((i) => `${tile}Tile[(4u * ty + ${i}u) * ${pitch(this.#blocks.step)}u + tx] = ${name}${i};`);
  }

  declare(name: string): string {
    return four((i) => each(this.columns, (c) => `var ${name}${i}_${c} = vec4<f32>();`));
  }

  /** Adds [held][step] times [step][headDim] to the sums of `declare(into)`: quads tx, tx + lanes, ... of four rows. */
  multiply(into: string, scores: string, values: string): string {
    const value = (c: number, j: number): string =>
      `vec4<f32>(${values}Tile[(n + ${j * this.lanes}u) * ${this.#row}u + min(tx + ${c * this.lanes}u, ${this.#quads - 1}u)])`;
    return `
    for (var n = 0u; n < ${this.lanes}u; n++) {
      ${four((i) => `let row${i} = ${scores}Tile[(4u * ty + ${i}u) * ${pitch(this.#blocks.step)}u + n];`)}
      ${each(this.columns, (c) => `let values${c} = mat4x4<f32>(${[0, 1, 2, 3].map((j) => value(c, j)).join(', ')});`)}
      ${four((i) => each(this.columns, (c) => `${into}${i}_${c} += values${c} * row${i};`))}
    }`;
  }

  /** `write(i, quad, sum)` for each sum of `declare`, where its row is a token. */
  each(name: string, write: (i: number, token: string, quad: string, sum: string) => string): string {
    return four(
      (i) => `if (held0 + 4u * ty + ${i}u < place.tokens) {
      ${each(this.columns, (c) => {
        const quad = `(tx + ${c * this.lanes}u)`;
        const code = write(i, `(held0 + 4u * ty + ${i}u)`, quad, `${name}${i}_${c}`);
        return (c + 1) * this.lanes > this.#quads ? `if (${quad} < ${this.#quads}u) { ${code} }` : code;
      })}
    }`,
    );
  }
}

function frame(kernel: Kernel, shape: Shape, blocks: Blocks, body: string): string {
  const { staged, made } = memory(kernel, shape.headDim, blocks);
  const declared = (sizes: Record<string, number>, element: string): string =>
    Object.entries(sizes)
      .map(([name, size]) => `var<workgroup> ${name}Tile: array<vec4<${element}>, ${size}>;`)
      .join('\n');
  return `
${addressing(shape)}
${declared(staged, shape.element)}
${declared(made, 'f32')}
${start(shape, threadsOf(blocks), blocks.held)}
  let tx = local % ${blocks.step / 4}u;
  let ty = local / ${blocks.step / 4}u;
  ${body}
}
`;
}

const qkv = (part: number) => (token: string) => `at(place, ${token}, ${part}u)`;
const plain = (token: string): string => `outAt(place, ${token})`;

/** out = softmax(q k^T scale) v and the log of each row's sum, by an online softmax: sums shrink when a step raises the top. */
export function forward(shape: Shape, blocks: Blocks): string {
  const pieces = new Pieces(shape, blocks);
  const { lanes, columns } = pieces;
  return frame(
    'forward',
    shape,
    blocks,
    `
  ${pieces.stage('q', 'held', 'held0', 'qkv', qkv(0))}
  ${pieces.declare('sum')}
  var top = vec4<f32>(-1e30);
  var total = vec4<f32>();
  for (var step0 = 0u; step0 < place.tokens; step0 += ${blocks.step}u) {
    ${pieces.stage('kv', 'step', 'step0', 'qkv', qkv(1))}
    workgroupBarrier();
    ${pieces.dots('score', 'q', 'kv')}
    let known = step0 + 4u * tx + vec4<u32>(0, 1, 2, 3) < vec4<u32>(place.tokens);
    ${four((i) => `score${i} = select(vec4<f32>(-1e30), score${i} * scale, known);`)}
    reducedTile[local] = vec4<f32>(${[0, 1, 2, 3].map((i) => `highest(score${i})`).join(', ')});
    workgroupBarrier();
    ${pieces.stage('kv', 'step', 'step0', 'qkv', qkv(2))}
    let before = top;
    for (var n = 0u; n < ${lanes}u; n++) { top = max(top, reducedTile[ty * ${lanes}u + n]); }
    let shrink = exp(before - top);
    ${four((i) => `let weight${i} = exp(score${i} - top[${i}]);`)}
    total = total * shrink + vec4<f32>(${[0, 1, 2, 3].map((i) => `dot(weight${i}, vec4<f32>(1))`).join(', ')});
    ${four((i) => each(columns, (c) => `sum${i}_${c} *= shrink[${i}];`))}
    ${pieces.put('weights', 'weight')}
    workgroupBarrier();
    ${pieces.multiply('sum', 'weights', 'kv')}
    workgroupBarrier();
  }
  reducedTile[local] = total;
  workgroupBarrier();
  total = vec4<f32>();
  for (var n = 0u; n < ${lanes}u; n++) { total += reducedTile[ty * ${lanes}u + n]; }
  ${pieces.each('sum', (i, token, quad, sum) => `out[${plain(token)} + ${quad}] = vec4<${shape.element}>(${sum} / total[${i}]);`)}
  if (tx == 0u) {
    let logs = top + log(total);
    ${four((i) => `if (held0 + 4u * ty + ${i}u < place.tokens) { lse[place.row + held0 + 4u * ty + ${i}u] = logs[${i}]; }`)}
  }`,
  );
}

/** delta = rowsum(dOut * out): what the softmax takes off every slope of a row. One thread a row. */
export function delta(shape: Shape): string {
  return `
${addressing(shape)}
${start(shape, 64, 64)}
  let token = held0 + local;
  if (token >= place.tokens) { return; }
  var sum = 0.0;
  for (var quad = 0u; quad < ${shape.headDim / 4}u; quad++) {
    sum += dot(vec4<f32>(out[${plain('token')} + quad]), vec4<f32>(dOut[${plain('token')} + quad]));
  }
  delta[place.row + token] = sum;
}
`;
}

/** dQ = dS k of a block of queries, with P = exp(scores - lse) and dS = P * (dOut v^T - delta) scale. */
export function queries(shape: Shape, blocks: Blocks): string {
  const pieces = new Pieces(shape, blocks);
  return frame(
    'queries',
    shape,
    blocks,
    `
  ${pieces.stage('q', 'held', 'held0', 'qkv', qkv(0))}
  ${pieces.stage('dOut', 'held', 'held0', 'dOut', plain)}
  ${pieces.declare('dQ')}
  ${four((i) => `let row${i} = place.row + min(held0 + 4u * ty + ${i}u, place.tokens - 1u);`)}
  let shifts = vec4<f32>(${[0, 1, 2, 3].map((i) => `lse[row${i}]`).join(', ')});
  let deltas = vec4<f32>(${[0, 1, 2, 3].map((i) => `delta[row${i}]`).join(', ')});
  for (var step0 = 0u; step0 < place.tokens; step0 += ${blocks.step}u) {
    ${pieces.stage('k', 'step', 'step0', 'qkv', qkv(1))}
    ${pieces.stage('v', 'step', 'step0', 'qkv', qkv(2))}
    workgroupBarrier();
    ${pieces.dots('score', 'q', 'k')}
    ${pieces.dots('slope', 'dOut', 'v')}
    let known = step0 + 4u * tx + vec4<u32>(0, 1, 2, 3) < vec4<u32>(place.tokens);
    ${four((i) => `slope${i} = select(vec4<f32>(), exp(score${i} * scale - shifts[${i}]) * (slope${i} - deltas[${i}]) * scale, known);`)}
    ${pieces.put('slopes', 'slope')}
    workgroupBarrier();
    ${pieces.multiply('dQ', 'slopes', 'k')}
    workgroupBarrier();
  }
  ${pieces.each('dQ', (_, token, quad, sum) => `dQkv[${qkv(0)(token)} + ${quad}] = vec4<${shape.element}>(${sum});`)}`,
  );
}

/** dV = P^T dOut and dK = dS^T q of a block of keys. */
export function keys(shape: Shape, blocks: Blocks): string {
  const pieces = new Pieces(shape, blocks);
  return frame(
    'keys',
    shape,
    blocks,
    `
  ${pieces.stage('k', 'held', 'held0', 'qkv', qkv(1))}
  ${pieces.stage('v', 'held', 'held0', 'qkv', qkv(2))}
  ${pieces.declare('dK')}
  ${pieces.declare('dV')}
  for (var step0 = 0u; step0 < place.tokens; step0 += ${blocks.step}u) {
    ${pieces.stage('q', 'step', 'step0', 'qkv', qkv(0))}
    ${pieces.stage('dOut', 'step', 'step0', 'dOut', plain)}
    workgroupBarrier();
    ${pieces.dots('weight', 'k', 'q')}
    ${pieces.dots('slope', 'v', 'dOut')}
    let query = step0 + 4u * tx + vec4<u32>(0, 1, 2, 3);
    let known = query < vec4<u32>(place.tokens);
    let row = place.row + min(query, vec4<u32>(place.tokens - 1u));
    let shifts = vec4<f32>(lse[row.x], lse[row.y], lse[row.z], lse[row.w]);
    let deltas = vec4<f32>(delta[row.x], delta[row.y], delta[row.z], delta[row.w]);
    ${four(
      (i) => `weight${i} = select(vec4<f32>(), exp(weight${i} * scale - shifts), known);
    slope${i} = weight${i} * (slope${i} - deltas) * scale;`,
    )}
    ${pieces.put('weights', 'weight')}
    ${pieces.put('slopes', 'slope')}
    workgroupBarrier();
    ${pieces.multiply('dV', 'weights', 'dOut')}
    ${pieces.multiply('dK', 'slopes', 'q')}
    workgroupBarrier();
  }
  ${pieces.each('dK', (_, token, quad, sum) => `dQkv[${qkv(1)(token)} + ${quad}] = vec4<${shape.element}>(${sum});`)}
  ${pieces.each('dV', (_, token, quad, sum) => `dQkv[${qkv(2)(token)} + ${quad}] = vec4<${shape.element}>(${sum});`)}`,
  );
}
