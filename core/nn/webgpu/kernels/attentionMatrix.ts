/**
 * Attention with matrix units, for f16. As attentionTile.ts, but each subgroup of a workgroup has one row of fragments:
 * scores leave the fragments through workgroup memory in f32, become weights, and come back as f16. Held rows stay in
 * fragments throughout.
 */
import type { Capabilities, MatrixShape } from '../program.ts';
import { addressing, start, type Shape } from './attentionShape.ts';
import type { Kernel } from './attentionTile.ts';

/** Subgroups of a workgroup; each holds M rows. */
const parts = 4;
/** Rows of a step. */
const step = 32;
/** Elements between the end of a row of f16 and the next. */
const padding = 8;
/** Largest head: beyond it fragments of held rows and sums take most registers. */
const largestHead = 64;
/** A row's reference for exp moves when a score passes it by so much: e^8 is far below the largest f16. */
const slack = 8;

/** vec4 in a row: of f16 with values of the head, of f16 with weights, of f32 with scores, of f32 with sums. */
const pitches = (headDim: number) => ({
  row: (headDim + padding) / 4,
  weights: (step + padding) / 4,
  scores: (step + 4) / 4,
  sums: (headDim + 4) / 4,
});

function memory(kernel: Kernel, headDim: number, { M }: MatrixShape): Record<string, { type: 'f16' | 'f32'; size: number }> {
  const { row, weights, scores, sums } = pitches(headDim);
  const [f16, f32] = ['f16', 'f32'] as const;
  const held = parts * M;
  const common = { x: { type: f16, size: step * row }, y: { type: f16, size: step * row }, weights: { type: f16, size: held * weights } };
  switch (kernel) {
    case 'forward':
      return { ...common, scores: { type: f32, size: held * scores }, sums: { type: f32, size: held * sums } };
    case 'queries':
      return { ...common, scores: { type: f32, size: held * Math.max(2 * scores, sums) } };
    case 'keys':
      return { ...common, slopes: { type: f16, size: held * weights }, scores: { type: f32, size: held * Math.max(2 * scores, sums) } };
  }
}

/** The shape to do it with, or null where the tiles of attentionTile.ts serve better or alone. */
export function attentionUnits(
  kernel: Kernel,
  { headDim, element }: Pick<Shape, 'headDim' | 'element'>,
  caps: Capabilities,
  shape: MatrixShape | null,
): MatrixShape | null {
  if (!shape || element !== 'f16' || !caps.subgroups || caps.subgroups.min !== caps.subgroups.max) return null;
  const { M, N, K } = shape;
  if (headDim > largestHead || headDim % N !== 0 || headDim % K !== 0 || step % N !== 0 || step % K !== 0) return null;
  if ((parts * M) % step !== 0 || step % M !== 0) return null;
  const bytes = Object.values(memory(kernel, headDim, shape)).reduce(
    (sum, { type, size }) => sum + size * (type === 'f16' ? 8 : 16),
    16 * parts * M,
  );
  return bytes <= caps.workgroupStorage && parts * caps.subgroups.max <= caps.workgroupInvocations ? shape : null;
}

export const heldRows = ({ M }: MatrixShape): number => parts * M;

const each = (count: number, code: (i: number) => string): string => Array.from({ length: count }, (_, i) => code(i)).join('\n    ');

/** The pieces of the three kernels. Part p has rows p M to p M + M of the block. */
class Pieces {
  readonly #shape: MatrixShape;
  readonly #headDim: number;
  readonly pitch: ReturnType<typeof pitches>;
  readonly threads: number;
  /** Fragments across the head. */
  readonly across: number;

  constructor(headDim: number, shape: MatrixShape, caps: Capabilities) {
    this.#shape = shape;
    this.#headDim = headDim;
    this.pitch = pitches(headDim);
    this.threads = parts * caps.subgroups!.max;
    this.across = headDim / shape.N;
  }

  /** Rows from `first` on to a tile, zeros past the last token. */
  stage(tile: string, first: string, array: string, from: (token: string) => string): string {
    const quads = this.#headDim / 4;
    return `
    for (var n = local; n < ${step * quads}u; n += ${this.threads}u) {
      let token = ${first} + n / ${quads}u;
      var value = vec4<f16>();
      if (token < place.tokens) { value = ${array}[${from('token')} + n % ${quads}u]; }
      ${tile}Tile[(n / ${quads}u) * ${this.pitch.row}u + n % ${quads}u] = value;
    }`;
  }

  /** Declares and fills `${name}0`, ...: the part's held rows as fragments along the head; `tile` is used on the way. */
  hold(name: string, tile: string, array: string, from: (token: string) => string): string {
    const { M, K } = this.#shape;
    const count = this.#headDim / K;
    const rounds = (parts * M) / step;
    const perRound = step / M;
    return `
  ${each(count, (k) => `var ${name}${k}: Left;`)}
  ${each(
    rounds,
    (round) => `${this.stage(tile, `held0 + ${round * step}u`, array, from)}
  workgroupBarrier();
  if (part / ${perRound}u == ${round}u) {
    ${each(count, (k) => `${name}${k} = subgroupMatrixLoad<Left, row_major>(&${tile}Tile, (part % ${perRound}u) * ${M * this.pitch.row}u + ${(k * K) / 4}u, ${this.pitch.row}u);`)}
  }
  workgroupBarrier();`,
  )}`;
  }

  /**
   * Products of held fragments with the rows of a tile, to `scoresTile` from `base` on, [M][step] a part. Sums are said to
   * be 0: a fragment that is only declared in a loop keeps what it had one turn before on some drivers.
   */
  dots(name: string, held: string, tile: string, base: string): string {
    const { M, N, K } = this.#shape;
    const load = (j: number, k: number): string =>
      `subgroupMatrixLoad<Right, col_major>(&${tile}Tile, ${j * N * this.pitch.row + (k * K) / 4}u, ${this.pitch.row}u)`;
    return each(
      step / N,
      (j) => `var ${name}${j} = Sum();
    ${each(this.#headDim / K, (k) => `${name}${j} = subgroupMatrixMultiplyAccumulate(${held}${k}, ${load(j, k)}, ${name}${j});`)}
    subgroupMatrixStore<row_major>(&scoresTile, ${base} + part * ${M * this.pitch.scores}u + ${(j * N) / 4}u, ${name}${j}, ${this.pitch.scores}u);`,
    );
  }

  declare(name: string): string {
    return each(this.across, (j) => `var ${name}${j}: Sum;`);
  }

  /** Adds weights [held][step] times a tile [step][headDim] to the fragments of `declare(into)`. */
  multiply(into: string, weights: string, tile: string): string {
    const { M, N, K } = this.#shape;
    return each(
      step / K,
      (
        k,
      ) => `let ${into}Weights${k} = subgroupMatrixLoad<Left, row_major>(&${weights}Tile, part * ${M * this.pitch.weights}u + ${(k * K) / 4}u, ${this.pitch.weights}u);
    ${each(this.across, (j) => `${into}${j} = subgroupMatrixMultiplyAccumulate(${into}Weights${k}, subgroupMatrixLoad<Right, row_major>(&${tile}Tile, ${k * K * this.pitch.row + (j * N) / 4}u, ${this.pitch.row}u), ${into}${j});`)}`,
    );
  }

  /** Fragments of `declare` to a tile of f32, [M][headDim] a part. */
  leave(name: string, tile: string): string {
    const { M, N } = this.#shape;
    return each(
      this.across,
      (j) =>
        `subgroupMatrixStore<row_major>(&${tile}Tile, part * ${M * this.pitch.sums}u + ${(j * N) / 4}u, ${name}${j}, ${this.pitch.sums}u);`,
    );
  }

  /** Code for each vec4 of the part's scores: `row` in the part, `quad` of the step, `own` place among scores. */
  eachScore(code: string): string {
    const { M } = this.#shape;
    return `
    for (var n = lane; n < ${(M * step) / 4}u; n += lanes) {
      let row = n / ${step / 4}u;
      let quad = n % ${step / 4}u;
      let own = (part * ${M}u + row) * ${this.pitch.scores}u + quad;
      let weight = (part * ${M}u + row) * ${this.pitch.weights}u + quad;
      ${code}
    }`;
  }

  /** Code for each vec4 of sums that `leave` put: `row`, `quad` of the head, `token`, `own` place among sums. */
  eachSum(code: string): string {
    const { M } = this.#shape;
    return `
  for (var n = lane; n < ${(M * this.#headDim) / 4}u; n += lanes) {
    let row = n / ${this.#headDim / 4}u;
    let quad = n % ${this.#headDim / 4}u;
    let token = held0 + part * ${M}u + row;
    let own = (part * ${M}u + row) * ${this.pitch.sums}u + quad;
    if (token < place.tokens) { ${code} }
  }`;
  }
}

function frame(kernel: Kernel, shape: Shape, units: MatrixShape, threads: number, body: string): string {
  const { M, N, K } = units;
  const arrays = Object.entries(memory(kernel, shape.headDim, units));
  return `
alias Left = subgroup_matrix_left<f16, ${K}, ${M}>;
alias Right = subgroup_matrix_right<f16, ${N}, ${K}>;
alias Sum = subgroup_matrix_result<f32, ${N}, ${M}>;
${addressing(shape)}
${arrays.map(([name, { type, size }]) => `var<workgroup> ${name}Tile: array<vec4<${type}>, ${size}>;`).join('\n')}
${kernel === 'forward' ? `var<workgroup> tops: array<f32, ${parts * M}>;\nvar<workgroup> shrinks: array<f32, ${parts * M}>;\nvar<workgroup> raised: atomic<u32>;` : ''}
${start(shape, threads, parts * M, true)}
${body}
}
`;
}

const qkv = (part: number) => (token: string) => `at(place, ${token}, ${part}u)`;
const plain = (token: string): string => `outAt(place, ${token})`;

/**
 * As in attentionTile.ts, but the rows' references move seldom: fragments cannot be scaled row by row where they are, so
 * sums pass through workgroup memory when a score passes its reference by `slack`. Totals are one more column of sums.
 */
export function forward(shape: Shape, units: MatrixShape, caps: Capabilities): string {
  const pieces = new Pieces(shape.headDim, units, caps);
  const { M, N, K } = units;
  const { scores, sums } = pieces.pitch;
  const load = (j: number): string => `subgroupMatrixLoad<Sum, row_major>(&sumsTile, part * ${M * sums}u + ${(j * N) / 4}u, ${sums}u)`;
  const rescale = `${pieces.eachSum(`sumsTile[own] *= shrinks[part * ${M}u + row];`)}`;
  return frame(
    'forward',
    shape,
    units,
    pieces.threads,
    `
  ${pieces.hold('q', 'x', 'qkv', qkv(0))}
  ${pieces.declare('sum')}
  var total: Sum;
  for (var row = local; row < ${parts * M}u; row += ${pieces.threads}u) { tops[row] = -1e30; }
  for (var step0 = 0u; step0 < place.tokens; step0 += ${step}u) {
    ${pieces.stage('x', 'step0', 'qkv', qkv(1))}
    ${pieces.stage('y', 'step0', 'qkv', qkv(2))}
    if (local == 0u) { atomicStore(&raised, 0u); }
    workgroupBarrier();
    ${pieces.dots('score', 'q', 'x', '0u')}
    workgroupBarrier();
    for (var row = local; row < ${parts * M}u; row += ${pieces.threads}u) {
      var top = -1e30;
      for (var quad = 0u; quad < ${step / 4}u; quad++) {
        let known = step0 + 4u * quad + vec4<u32>(0, 1, 2, 3) < vec4<u32>(place.tokens);
        top = max(top, highest(select(vec4<f32>(-1e30), scoresTile[row * ${scores}u + quad] * scale, known)));
      }
      shrinks[row] = 1.0;
      if (top > tops[row] + ${slack}.0) {
        shrinks[row] = exp(tops[row] - top);
        tops[row] = top;
        atomicStore(&raised, 1u);
      }
    }
    // Waits for all, and tells the compiler that all go the same way.
    let anyRaised = workgroupUniformLoad(&raised);
    if (step0 > 0u && anyRaised == 1u) {
      ${pieces.leave('sum', 'sums')}
      workgroupBarrier();
      ${rescale}
      workgroupBarrier();
      ${each(pieces.across, (j) => `sum${j} = ${load(j)};`)}
      workgroupBarrier();
      subgroupMatrixStore<row_major>(&sumsTile, part * ${M * sums}u, total, ${sums}u);
      workgroupBarrier();
      ${rescale}
      workgroupBarrier();
      total = ${load(0)};
    }
    ${pieces.eachScore(`let known = step0 + 4u * quad + vec4<u32>(0, 1, 2, 3) < vec4<u32>(place.tokens);
      let raw = exp(scoresTile[own] * scale - tops[part * ${M}u + row]);
      weightsTile[weight] = vec4<f16>(select(vec4<f32>(), raw, known));`)}
    workgroupBarrier();
    ${pieces.multiply('sum', 'weights', 'y')}
    ${each(step / K, (k) => `total = subgroupMatrixMultiplyAccumulate(sumWeights${k}, Right(1), total);`)}
    workgroupBarrier();
  }
  subgroupMatrixStore<row_major>(&scoresTile, part * ${M * scores}u, total, ${scores}u);
  ${pieces.leave('sum', 'sums')}
  workgroupBarrier();
  ${pieces.eachSum(`let all = scoresTile[(part * ${M}u + row) * ${scores}u].x;
    out[${plain('token')} + quad] = vec4<f16>(sumsTile[own] / all);
    if (quad == 0u) { lse[place.row + token] = tops[part * ${M}u + row] + log(all); }`)}`,
  );
}

/** dQ, as in attentionTile.ts. */
export function queries(shape: Shape, units: MatrixShape, caps: Capabilities): string {
  const pieces = new Pieces(shape.headDim, units, caps);
  const { M } = units;
  const second = parts * M * pieces.pitch.scores;
  return frame(
    'queries',
    shape,
    units,
    pieces.threads,
    `
  ${pieces.hold('q', 'x', 'qkv', qkv(0))}
  ${pieces.hold('g', 'x', 'dOut', plain)}
  ${pieces.declare('dQ')}
  for (var step0 = 0u; step0 < place.tokens; step0 += ${step}u) {
    ${pieces.stage('x', 'step0', 'qkv', qkv(1))}
    ${pieces.stage('y', 'step0', 'qkv', qkv(2))}
    workgroupBarrier();
    ${pieces.dots('score', 'q', 'x', '0u')}
    ${pieces.dots('slope', 'g', 'y', `${second}u`)}
    workgroupBarrier();
    ${pieces.eachScore(`let held = place.row + min(held0 + part * ${M}u + row, place.tokens - 1u);
      let known = step0 + 4u * quad + vec4<u32>(0, 1, 2, 3) < vec4<u32>(place.tokens);
      let raw = exp(scoresTile[own] * scale - lse[held]) * (scoresTile[own + ${second}u] - delta[held]) * scale;
      weightsTile[weight] = vec4<f16>(select(vec4<f32>(), raw, known));`)}
    workgroupBarrier();
    ${pieces.multiply('dQ', 'weights', 'x')}
    workgroupBarrier();
  }
  ${pieces.leave('dQ', 'scores')}
  workgroupBarrier();
  ${pieces.eachSum(`dQkv[${qkv(0)('token')} + quad] = vec4<f16>(scoresTile[own]);`)}`,
  );
}

/** dK and dV, as in attentionTile.ts. */
export function keys(shape: Shape, units: MatrixShape, caps: Capabilities): string {
  const pieces = new Pieces(shape.headDim, units, caps);
  const second = parts * units.M * pieces.pitch.scores;
  return frame(
    'keys',
    shape,
    units,
    pieces.threads,
    `
  ${pieces.hold('k', 'x', 'qkv', qkv(1))}
  ${pieces.hold('v', 'x', 'qkv', qkv(2))}
  ${pieces.declare('dK')}
  ${pieces.declare('dV')}
  for (var step0 = 0u; step0 < place.tokens; step0 += ${step}u) {
    ${pieces.stage('x', 'step0', 'qkv', qkv(0))}
    ${pieces.stage('y', 'step0', 'dOut', plain)}
    workgroupBarrier();
    ${pieces.dots('score', 'k', 'x', '0u')}
    ${pieces.dots('slope', 'v', 'y', `${second}u`)}
    workgroupBarrier();
    ${pieces.eachScore(`let query = step0 + 4u * quad + vec4<u32>(0, 1, 2, 3);
      let at4 = place.row + min(query, vec4<u32>(place.tokens - 1u));
      let shifts = vec4<f32>(lse[at4.x], lse[at4.y], lse[at4.z], lse[at4.w]);
      let deltas = vec4<f32>(delta[at4.x], delta[at4.y], delta[at4.z], delta[at4.w]);
      let raw = select(vec4<f32>(), exp(scoresTile[own] * scale - shifts), query < vec4<u32>(place.tokens));
      weightsTile[weight] = vec4<f16>(raw);
      slopesTile[weight] = vec4<f16>(raw * (scoresTile[own + ${second}u] - deltas) * scale);`)}
    workgroupBarrier();
    ${pieces.multiply('dV', 'weights', 'y')}
    ${pieces.multiply('dK', 'slopes', 'x')}
    workgroupBarrier();
  }
  ${pieces.leave('dK', 'scores')}
  workgroupBarrier();
  ${pieces.eachSum(`dQkv[${qkv(1)('token')} + quad] = vec4<f16>(scoresTile[own]);`)}
  workgroupBarrier();
  ${pieces.leave('dV', 'scores')}
  workgroupBarrier();
  ${pieces.eachSum(`dQkv[${qkv(2)('token')} + quad] = vec4<f16>(scoresTile[own]);`)}`,
  );
}
