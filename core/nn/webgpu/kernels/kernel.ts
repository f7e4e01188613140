/**
 * How the kernels of this folder are written: WGSL whose float arrays are read and written through functions, so that one
 * text serves every element type. `x_at(i)` gives element i of x as f32; `y_put(i, v)` stores it rounded; `y_add(i, v)`
 * stores or adds as the uniform `add_y` says. Arithmetic is f32 throughout.
 */
import { program, type Binding, type Dispatch, type Element, type Program, type Region, type UniformSpec } from '../program.ts';

/** A float array on the device. */
export interface Operand {
  readonly region: Region;
  readonly element: Element;
}

/** Where a gradient goes: stored there, or added to what is there. */
export interface Target extends Operand {
  readonly accumulate: boolean;
}

/** A result that replaces what is there. */
export function stored({ region, element }: Operand): Target {
  return { region, element, accumulate: false };
}

export interface KernelText {
  /** Names all that the text depends on besides the element types. */
  readonly name: string;
  /** Float arrays that are read; then those that are written (and may be read). */
  readonly reads?: readonly string[];
  readonly writes: readonly string[];
  /** Arrays of u32 that are read. */
  readonly lists?: readonly string[];
  readonly uniforms: Readonly<Record<string, UniformSpec['type']>>;
  /** Invocations of a workgroup. */
  readonly width: number;
  /** Declarations beside `main`. */
  readonly outside?: string;
  /** Body of `main`. It knows `group` (number of the workgroup), `group_id`, `lane` and the uniforms `u`. */
  readonly body: string;
}

export type Launch = (
  arrays: Readonly<Record<string, Operand | Region>>,
  uniforms: Readonly<Record<string, number>>,
  workgroups: readonly [number, number, number],
  cost?: { readonly flops?: number; readonly bytes?: number },
) => Dispatch;

/** Makes the launcher of a kernel; its programs are assembled once for each combination of element types. */
export function kernel(text: KernelText): Launch {
  const { name, reads = [], writes, lists = [], uniforms } = text;
  const floats = [...reads, ...writes];
  const specs = Object.entries(uniforms).map(([uniform, type]) => ({ name: uniform, type }));
  const made = new Map<string, Program>();
  return (arrays, values, workgroups, cost = {}) => {
    const operands = floats.map((array) => arrays[array] as Operand);
    const elements = operands.map(({ element }) => element);
    const variant = `${name} ${elements.join(' ')}`;
    let known = made.get(variant);
    if (!known) made.set(variant, (known = assemble(text, variant, elements, specs)));
    const regions = [...operands.map(({ region }) => region), ...lists.map((list) => arrays[list] as Region)];
    return { program: known, regions, uniforms: values, workgroups, ...cost };
  };
}

function assemble(text: KernelText, name: string, elements: readonly Element[], uniforms: readonly UniformSpec[]): Program {
  const { reads = [], writes, lists = [], width, outside = '', body } = text;
  const floats = [...reads, ...writes];
  const bindings: Binding[] = [
    ...floats.map((array, i) => ({
      name: array,
      element: elements[i]!,
      access: i < reads.length ? ('read' as const) : ('read_write' as const),
    })),
    ...lists.map((list) => ({ name: list, element: 'u32' as const, access: 'read' as const })),
  ];
  const functions = floats.map((array, i) => {
    const element = elements[i]!;
    const lines = [`fn ${array}_at(index: u32) -> f32 { return f32(${array}[index]); }`];
    if (i >= reads.length) {
      lines.push(`fn ${array}_put(index: u32, value: f32) { ${array}[index] = ${element}(value); }`);
      if (uniforms.some(({ name: uniform }) => uniform === `add_${array}`))
        lines.push(
          `fn ${array}_add(index: u32, value: f32) { if (u.add_${array} != 0u) { ${array}_put(index, ${array}_at(index) + value); } else { ${array}_put(index, value); } }`,
        );
    }
    return lines.join('\n');
  });
  const main = `@compute @workgroup_size(${width})
fn main(@builtin(workgroup_id) group_id: vec3u, @builtin(num_workgroups) group_counts: vec3u, @builtin(local_invocation_index) lane: u32) {
  let group = group_id.x + group_id.y * group_counts.x;
${body}
}`;
  return program({ name, bindings, uniforms, body: [...functions, outside, main].join('\n') });
}

/** Invocations that share a row of n values: enough to fill, few enough that none is idle. */
export function rowWidth(n: number): 32 | 64 | 128 | 256 {
  if (n <= 64) return 32;
  if (n <= 256) return 64;
  return n <= 1024 ? 128 : 256;
}

/** One launcher for each width of a row kernel. */
export function byWidth(make: (width: number) => Launch): (n: number) => Launch {
  const made = new Map<number, Launch>();
  return (n) => {
    const width = rowWidth(n);
    let known = made.get(width);
    if (!known) made.set(width, (known = make(width)));
    return known;
  };
}

/**
 * WGSL of `name(v, lane)`: the combination of all lanes' values, for all lanes; by a tree in workgroup memory, so that it
 * depends neither on the size of subgroups nor on the order in which they run.
 */
export function reduction(name: string, width: number, type: 'f32' | 'vec2f' | 'vec4f' = 'f32', combine = '$a + $b'): string {
  const pair = combine.replaceAll('$a', `${name}_room[lane]`).replaceAll('$b', `${name}_room[lane + step]`);
  return `var<workgroup> ${name}_room: array<${type}, ${width}>;
fn ${name}(v: ${type}, lane: u32) -> ${type} {
  workgroupBarrier();
  ${name}_room[lane] = v;
  workgroupBarrier();
  for (var step = ${width / 2}u; step > 0u; step >>= 1u) {
    if (lane < step) { ${name}_room[lane] = ${pair}; }
    workgroupBarrier();
  }
  return ${name}_room[0];
}`;
}

/**
 * WGSL of `logarithm(x)`: the built-in may be off by 5e-7 near 1, which a loss of many rows shows. x = m 2^e with m near 1,
 * log m = 2 artanh((m - 1) / (m + 1)) by its series. What is not a positive number comes back as it is: it must show.
 */
export const logarithm = `fn logarithm(x: f32) -> f32 {
  if (!(x > 0.0 && x <= 3.4e38)) { return x; }
  let split = frexp(x);
  let small = split.fract < 0.70710678;
  let m = select(split.fract, 2.0 * split.fract, small);
  let e = f32(split.exp - select(0, 1, small));
  let s = (m - 1.0) / (m + 1.0);
  let z = s * s;
  let series = z * (1.0 / 3.0 + z * (0.2 + z * (1.0 / 7.0 + z * (1.0 / 9.0 + z / 11.0))));
  // log 2 in two parts, of which the first times e is exact.
  return e * 0.693145751953125 + (e * 1.42860682030941723e-6 + 2.0 * s * series) + 2.0 * s;
}`;

/** Smaller than any finite value: where a maximum starts. */
export const lowest = '-3.4028234e38';

/** Workgroups of 256 for that many independent elements. */
export const elementWidth = 256;
