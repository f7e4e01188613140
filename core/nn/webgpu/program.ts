/**
 * What a kernel is to the rest of the room: a WGSL program, and a dispatch of it on regions of buffers. Kernels choose
 * and describe; `runtime.ts` compiles, binds and encodes. Nothing here touches a device.
 */

/** How an array lies in a buffer. Sums are always formed in f32. */
export type Element = 'f32' | 'f16' | 'u32' | 'i32';

export interface Binding {
  /** Its name in WGSL: a runtime-sized array of `element`. */
  readonly name: string;
  readonly element: Element;
  readonly access: 'read' | 'read_write';
  /** The array's type where it is not array<element>, e.g. `array<vec4<f32>>` or `array<atomic<u32>>`. */
  readonly type?: string;
}

export interface UniformSpec {
  /** Read in WGSL as `u.name`. */
  readonly name: string;
  readonly type: 'u32' | 'i32' | 'f32';
}

/** A compute shader with entry point `main`. Bindings are numbered in their order in group 0; the uniforms come last. */
export interface Program {
  /** Says all that the source depends on: pipelines are kept by it, profiles and logs print it. */
  readonly name: string;
  readonly source: string;
  readonly bindings: readonly Binding[];
  readonly uniforms: readonly UniformSpec[];
}

/** Bytes of a buffer, from a multiple of 256 on (the largest alignment a device may ask of a bound offset). */
export interface Region {
  readonly buffer: GPUBuffer;
  readonly offset: number;
  readonly bytes: number;
}

/** Bound offsets and sizes of all regions are multiples of this. */
export const alignment = 256;

export function alignedBytes(bytes: number): number {
  return Math.max(alignment, Math.ceil(bytes / alignment) * alignment);
}

/** The part of a region from byte `offset` on, a multiple of the alignment. */
export function part({ buffer, offset: start, bytes: all }: Region, offset: number, bytes = all - offset): Region {
  return { buffer, offset: start + offset, bytes: Math.min(alignedBytes(bytes), all - offset) };
}

/** One run of a program. `regions` and `uniforms` as the program lists them. */
export interface Dispatch {
  readonly program: Program;
  readonly regions: readonly Region[];
  readonly uniforms: Readonly<Record<string, number>>;
  readonly workgroups: readonly [number, number, number];
  /** Floating-point operations and bytes that it must move at least: for profiles only. */
  readonly flops?: number;
  readonly bytes?: number;
}

/** A subgroup-matrix shape: [M,K] times [K,N], f16 operands, sums in `result`. */
export interface MatrixShape {
  readonly M: number;
  readonly N: number;
  readonly K: number;
  readonly result: 'f32' | 'f16';
}

/** What kernels may use on a device; read once at start (`device.ts`). */
export interface Capabilities {
  readonly f16: boolean;
  /** Smallest and largest subgroup; null without subgroup operations. */
  readonly subgroups: { readonly min: number; readonly max: number } | null;
  /** Empty where the device has no matrix units that WebGPU can reach. */
  readonly matrices: readonly MatrixShape[];
  /** Bytes of workgroup memory. */
  readonly workgroupStorage: number;
  readonly workgroupInvocations: number;
  readonly workgroupsPerDimension: number;
  /** Most bytes of one binding. */
  readonly bindingBytes: number;
}

/**
 * Assembles a program: extensions that the bindings and `features` need, declarations, then the body.
 * @param body WGSL with `@compute @workgroup_size(...) fn main(...)`; may use the binding names and `u`
 */
export function program(parts: {
  readonly name: string;
  readonly bindings: readonly Binding[];
  readonly uniforms: readonly UniformSpec[];
  readonly features?: readonly ('subgroups' | 'chromium_experimental_subgroup_matrix' | 'f16')[];
  readonly body: string;
}): Program {
  const { name, bindings, uniforms, body } = parts;
  const features = new Set<string>(parts.features ?? []);
  if (bindings.some(({ element }) => element === 'f16')) features.add('f16');
  const lines: string[] = [];
  if (features.has('chromium_experimental_subgroup_matrix')) lines.push('diagnostic(off, chromium.subgroup_matrix_uniformity);');
  for (const feature of features) lines.push(`enable ${feature};`);
  bindings.forEach(({ name: binding, element, access, type }, i) => {
    lines.push(`@group(0) @binding(${i}) var<storage, ${access}> ${binding}: ${type ?? `array<${element}>`};`);
  });
  if (uniforms.length > 0) {
    lines.push(`struct Uniforms { ${uniforms.map((uniform) => `${uniform.name}: ${uniform.type}`).join(', ')} }`);
    lines.push(`@group(0) @binding(${bindings.length}) var<uniform> u: Uniforms;`);
  }
  return { name, bindings, uniforms, source: `${lines.join('\n')}\n${body}` };
}

const known = new WeakMap<Capabilities, Map<string, Program>>();

/** The program of that name for the device, made when it is first asked for: writing the text takes longer than a dispatch. */
export function once(caps: Capabilities, name: string, make: () => Program): Program {
  let programs = known.get(caps);
  if (!programs) known.set(caps, (programs = new Map()));
  let made = programs.get(name);
  if (!made) programs.set(name, (made = make()));
  return made;
}

/**
 * Workgroups for `count` invocations or rows beyond what one dimension takes: [x, y, 1] with x * y >= count. The kernel
 * finds its number as `group.x + group.y * count_x` and must skip those past the end.
 */
export function spread(count: number, { workgroupsPerDimension }: Capabilities): [number, number, number] {
  if (count <= workgroupsPerDimension) return [Math.max(1, count), 1, 1];
  const y = Math.ceil(count / workgroupsPerDimension);
  return [Math.ceil(count / y), y, 1];
}
