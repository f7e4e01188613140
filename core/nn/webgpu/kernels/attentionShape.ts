/** Where the rows of attention lie: groups of samples of one length each, one after the other in the same arrays. */
import { spread, type Capabilities, type UniformSpec } from '../program.ts';

/** Samples of equal length. */
export interface Group {
  readonly samples: number;
  readonly tokens: number;
  /** Tokens of the arrays before the group's first. */
  readonly tokenOffset: number;
}

export interface Shape {
  readonly headDim: number;
  readonly element: 'f32' | 'f16';
  /** How many groups the program serves. */
  readonly groups: number;
}

export function shapeUniforms(groups: number): UniformSpec[] {
  const own = Array.from({ length: groups }, (_, g) => [`tokens${g}`, `offset${g}`, `blocks${g}`]).flat();
  return ['heads', ...own].map((name) => ({ name, type: 'u32' }));
}

/** Uniforms and workgroups for a kernel that holds `held` tokens a workgroup; y: heads. */
export function shapeDispatch(
  caps: Capabilities,
  groups: readonly Group[],
  heads: number,
  held: number,
): { uniforms: Record<string, number>; workgroups: [number, number, number] } {
  const uniforms: Record<string, number> = { heads };
  let total = 0;
  groups.forEach(({ samples, tokens, tokenOffset }, g) => {
    const blocks = samples * Math.ceil(tokens / held);
    Object.assign(uniforms, { [`tokens${g}`]: tokens, [`offset${g}`]: tokenOffset, [`blocks${g}`]: blocks });
    total += blocks;
  });
  const [x, z] = spread(total, caps);
  return { uniforms, workgroups: [x, heads, z] };
}

/**
 * Declares `at(place, token, part)`, the first vec4 of q, k or v of a token in qkv [tokens,3,heads,headDim],
 * `outAt(place, token)` in [tokens,heads,headDim], and `scale`. `place.row` is the row of the sample's first token in
 * lse: group by group [samples,heads,tokens].
 */
export function addressing({ headDim }: Shape): string {
  const quads = headDim / 4;
  return `
const scale = ${1 / Math.sqrt(headDim)};
struct Place { tokens: u32, first: u32, head: u32, block: u32, row: u32 }
fn at(place: Place, token: u32, part: u32) -> u32 {
  return (((place.first + token) * 3u + part) * u.heads + place.head) * ${quads}u;
}
fn outAt(place: Place, token: u32) -> u32 { return ((place.first + token) * u.heads + place.head) * ${quads}u; }
fn highest(v: vec4<f32>) -> f32 { return max(max(v.x, v.y), max(v.z, v.w)); }
fn locate(number: u32, head: u32, tokens: u32, offset: u32, held: u32) -> Place {
  let blocks = (tokens + held - 1u) / held;
  let sample = number / blocks;
  return Place(tokens, offset + sample * tokens, head, number % blocks, offset * u.heads + (sample * u.heads + head) * tokens);
}`;
}

/** The head of `main`: finds `place` and the block's first token, `held0`. */
export function start({ groups }: Shape, threads: number, held: number): string {
  const numbers = Array.from({ length: groups }, (_, g) => g);
  const cases = numbers.map((g) => {
    const before = numbers.slice(0, g).map((other) => ` - u.blocks${other}`);
    const place = `place = locate(number${before.join('')}, group.y, u.tokens${g}, u.offset${g}, ${held}u);`;
    const upTo = numbers.slice(0, g + 1).map((other) => `u.blocks${other}`);
    return g === groups - 1 ? `{ ${place} }` : `if (number < ${upTo.join(' + ')}) { ${place} }`;
  });
  return `
@compute @workgroup_size(${threads})
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) local: u32,
) {
  let number = group.x + group.z * groups.x;
  if (number >= ${numbers.map((g) => `u.blocks${g}`).join(' + ')}) { return; }
  var place: Place;
  ${cases.join(' else ')}
  let held0 = place.block * ${held}u;`;
}
