/** Softmax attention and its gradient: which kernel runs, on which workgroups. */
import { once, program, type Binding, type Capabilities, type Dispatch, type Program, type Region } from '../program.ts';
import { shapeDispatch, shapeUniforms, type Group, type Shape } from './attentionShape.ts';
import * as matrix from './attentionMatrix.ts';
import { matrixShape } from './productMatrix.ts';
import { blocksFor, delta as rowSums, forward, keys, queries, type Kernel } from './attentionTile.ts';

export type { Group } from './attentionShape.ts';

export interface AttentionInputs {
  /** Of samples packed one after the other (global and local crops). */
  readonly groups: readonly Group[];
  /** [all tokens,3,heads,headDim]. */
  readonly qkv: Region;
  /** [all tokens,heads,headDim]. */
  readonly out: Region;
  /** f32, for each group a block [samples,heads,tokens] at tokenOffset * heads: the log of each row's sum, for the gradient. */
  readonly lse: Region;
  readonly heads: number;
  /** A multiple of 4, at most 128. */
  readonly headDim: number;
  /** Of qkv and out. */
  readonly element: 'f32' | 'f16';
}

export interface GradientRegions {
  readonly dOut: Region;
  /** Shaped as qkv; replaced. */
  readonly dQkv: Region;
  /** Scratch, shaped as lse. */
  readonly delta: Region;
}

export type AttentionGradientInputs = AttentionInputs & GradientRegions;

interface Checked {
  readonly shape: Shape;
  readonly groups: readonly Group[];
  readonly heads: number;
  /** Multiplications and additions of one product of [T,headDim] with [headDim,T], over all samples and heads. */
  readonly flops: number;
  readonly tokens: number;
}

function checkBytes(regions: Record<string, Region | undefined>, bytes: number): void {
  for (const [name, region] of Object.entries(regions)) {
    if (region && region.bytes < bytes) throw new Error(`attention: ${name} needs ${bytes} bytes, its region has ${region.bytes}.`);
  }
}

function checked(caps: Capabilities, inputs: AttentionInputs & Partial<GradientRegions>): Checked {
  const { heads, headDim, element, qkv, out, lse, dOut, dQkv, delta } = inputs;
  if (!Number.isInteger(headDim / 4) || headDim < 4 || headDim > 128) {
    throw new Error(`attention: heads of ${headDim} are not a multiple of 4 up to 128.`);
  }
  if (!Number.isInteger(heads) || heads < 1) throw new Error(`attention: ${heads} heads.`);
  if (element === 'f16' && !caps.f16) throw new Error('attention: this device has no f16.');
  for (const { samples, tokens, tokenOffset } of inputs.groups) {
    if (![samples, tokens, tokenOffset].every((count) => Number.isInteger(count) && count >= 0)) {
      throw new Error(`attention: ${samples} samples of ${tokens} tokens from token ${tokenOffset} on.`);
    }
  }
  const groups = inputs.groups.filter(({ samples, tokens }) => samples * tokens > 0);
  const end = groups.reduce((most, { samples, tokens, tokenOffset }) => Math.max(most, tokenOffset + samples * tokens), 0);
  const width = end * heads * headDim * (element === 'f16' ? 2 : 4);
  checkBytes({ qkv, dQkv }, 3 * width);
  checkBytes({ out, dOut }, width);
  checkBytes({ lse, delta }, end * heads * 4);
  const scores = groups.reduce((sum, { samples, tokens }) => sum + samples * tokens * tokens, 0);
  return { shape: { headDim, element, groups: groups.length }, groups, heads, flops: 2 * scores * heads * headDim, tokens: end };
}

/** The kernel for the device: what it is called, how many rows a workgroup holds, its code. */
function choose(caps: Capabilities, kernel: Kernel, shape: Shape): { name: string; held: number; code: () => string; units: boolean } {
  const units = matrix.attentionUnits(kernel, shape, caps, matrixShape(caps));
  if (units) {
    const { M, N, K } = units;
    const name = `${kernel} by ${M}x${N}x${K} of ${caps.subgroups!.max}`;
    return { name, held: matrix.heldRows(units), code: () => matrix[kernel](shape, units, caps), units: true };
  }
  const blocks = blocksFor(kernel, shape, caps);
  const code = (): string => ({ forward, queries, keys })[kernel](shape, blocks);
  return { name: `${kernel} ${blocks.held}x${blocks.step}`, held: blocks.held, code, units: false };
}

function programOf(
  caps: Capabilities,
  kernelName: string,
  shape: Shape,
  bindings: readonly Binding[],
  body: () => string,
  units = false,
): Program {
  const { headDim, element, groups } = shape;
  const name = `attention ${kernelName} ${element} heads of ${headDim}, groups ${groups}`;
  return once(caps, name, () =>
    program({
      name,
      bindings,
      uniforms: shapeUniforms(groups),
      features: units ? ['f16', 'subgroups', 'chromium_experimental_subgroup_matrix'] : [],
      body: body(),
    }),
  );
}

/** out = softmax(q k^T / sqrt(headDim)) v for every sample and head, and lse. */
export function attention(caps: Capabilities, inputs: AttentionInputs): Dispatch[] {
  const { shape, groups, heads, flops, tokens } = checked(caps, inputs);
  if (groups.length === 0) return [];
  const { element, headDim } = shape;
  const type = `array<vec4<${element}>>`;
  const { name, held, code, units } = choose(caps, 'forward', shape);
  return [
    {
      program: programOf(
        caps,
        name,
        shape,
        [
          { name: 'qkv', element, access: 'read', type },
          { name: 'out', element, access: 'read_write', type },
          { name: 'lse', element: 'f32', access: 'read_write' },
        ],
        code,
        units,
      ),
      regions: [inputs.qkv, inputs.out, inputs.lse],
      ...shapeDispatch(caps, groups, heads, held),
      flops: 2 * flops,
      bytes: 4 * tokens * heads * headDim * (element === 'f16' ? 2 : 4),
    },
  ];
}

/**
 * dQkv from dOut. Probabilities are made again from qkv and lse, in one kernel that holds queries (dQ) and one that holds
 * keys (dK, dV): two more products than a single kernel would need, but no sums shared between workgroups.
 */
export function attentionBackward(caps: Capabilities, inputs: AttentionGradientInputs): Dispatch[] {
  const { shape, groups, heads, flops, tokens } = checked(caps, inputs);
  const { qkv, out, lse, dOut, dQkv } = inputs;
  if (groups.length === 0) return [];
  const { element, headDim } = shape;
  const type = `array<vec4<${element}>>`;
  const read = (name: string): Binding => ({ name, element, access: 'read', type });
  const rows = (name: string, access: Binding['access'] = 'read'): Binding => ({ name, element: 'f32', access });
  const bindings: Binding[] = [read('qkv'), read('dOut'), rows('lse'), rows('delta'), { ...read('dQkv'), access: 'read_write' }];
  const regions = [qkv, dOut, lse, inputs.delta, dQkv];
  const [forQueries, forKeys] = [choose(caps, 'queries', shape), choose(caps, 'keys', shape)];
  const width = tokens * heads * headDim * (element === 'f16' ? 2 : 4);
  return [
    {
      program: programOf(caps, 'delta', shape, [read('out'), read('dOut'), rows('delta', 'read_write')], () => rowSums(shape)),
      regions: [out, dOut, inputs.delta],
      ...shapeDispatch(caps, groups, heads, 64),
      bytes: 2 * width,
    },
    {
      program: programOf(caps, forQueries.name, shape, bindings, forQueries.code, forQueries.units),
      regions,
      ...shapeDispatch(caps, groups, heads, forQueries.held),
      flops: 3 * flops,
      bytes: 5 * width,
    },
    {
      program: programOf(caps, forKeys.name, shape, bindings, forKeys.code, forKeys.units),
      regions,
      ...shapeDispatch(caps, groups, heads, forKeys.held),
      flops: 4 * flops,
      bytes: 6 * width,
    },
  ];
}
