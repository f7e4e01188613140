/**
 * Programs for matrix units and f16, written out for a device that has neither: f16 becomes f32, the first invocation
 * of a subgroup does its matrix work, a fragment is an array of numbers. What is proven so is everything but the hardware: addresses, edges,
 * barriers, order. Rounding to f16 does not take place.
 */
import type { Capabilities, Dispatch, MatrixShape } from '../../core/nn/webgpu/program.ts';

/** Invocations of a subgroup: its first does the matrix work of all. */
const lanes = 16;

/** Capabilities to make programs with that `emulated` can write out. */
export function emulatedCapabilities(caps: Capabilities, shape: Pick<MatrixShape, 'M' | 'N' | 'K'> | null): Capabilities {
  const matrices: MatrixShape[] = shape ? [{ ...shape, result: 'f32' }] : [];
  return { ...caps, f16: true, subgroups: { min: lanes, max: lanes }, matrices };
}

const load = /subgroupMatrixLoad<(\w+), (row_major|col_major)>\(&(\w+), /g;
const store = /subgroupMatrixStore<row_major>\(&(\w+), /g;
const alias = /alias (\w+) = subgroup_matrix_(?:left|right|result)<f\d\d, (\d+), (\d+)>;/g;
const builtins = {
  subgroup_id: `local / ${lanes}u`,
  subgroup_invocation_id: `local % ${lanes}u`,
  subgroup_size: `${lanes}u`,
} as const;

/**
 * A fragment is where its numbers begin in a private array of its type, one place for each declaration or load in the
 * text: passing the numbers themselves around takes a software device minutes to compile.
 */
class Fragments {
  readonly helpers = new Set<string>();
  readonly #types: Map<string, { columns: number; rows: number; used: number }>;

  constructor(source: string) {
    const found = [...source.matchAll(alias)];
    this.#types = new Map(found.map(([, name, columns, rows]) => [name!, { columns: Number(columns), rows: Number(rows), used: 0 }]));
  }

  #of(type: string) {
    return this.#types.get(type)!;
  }

  place(type: string): string {
    const { rows, columns } = this.#of(type);
    return `${this.#of(type).used++ * rows * columns}u`;
  }

  load(type: string, order: string, array: string): string {
    const { rows, columns } = this.#of(type);
    const name = `load_${type}_${order}_${array}`;
    this.helpers.add(`fn ${name}(m: u32, offset: u32, stride: u32) -> u32 {
  if (!first) { return m; }
  for (var r = 0u; r < ${rows}u; r++) { for (var c = 0u; c < ${columns}u; c++) {
    let at = 4u * offset + ${order === 'row_major' ? 'r * 4u * stride + c' : 'c * 4u * stride + r'};
    numbers${type}[m + r * ${columns}u + c] = f32(${array}[at / 4u][at % 4u]);
  } }
  return m;
}`);
    return `${name}(${this.place(type)}, `;
  }

  fill(type: string, value: number): string {
    const { rows, columns } = this.#of(type);
    this.helpers.add(`fn fill_${type}_${value}(m: u32) -> u32 {
  for (var n = 0u; n < ${rows * columns}u; n++) { numbers${type}[m + n] = ${value}.0; }
  return m;
}`);
    return `fill_${type}_${value}(${this.place(type)})`;
  }

  store(array: string): string {
    const { rows, columns } = this.#of('Sum');
    this.helpers.add(`fn store_${array}(offset: u32, m: u32, stride: u32) {
  if (!first) { return; }
  for (var r = 0u; r < ${rows}u; r++) { for (var c = 0u; c < ${columns}u; c++) {
    let at = 4u * (offset + r * stride) + c;
    ${array}[at / 4u][at % 4u] = numbersSum[m + r * ${columns}u + c];
  } }
}`);
    return `store_${array}(`;
  }

  declarations(): string {
    if (this.#types.size === 0) return '';
    const [{ columns: K }, { rows: M, columns: N }] = [this.#of('Left'), this.#of('Sum')];
    const arrays = [...this.#types].map(
      ([type, { rows, columns, used }]) => `var<private> numbers${type}: array<f32, ${Math.max(used, 1) * rows * columns}>;`,
    );
    return `${arrays.join('\n')}
var<private> first: bool;
fn multiplyAccumulate(a: u32, b: u32, sum: u32) -> u32 {
  if (!first) { return sum; }
  for (var r = 0u; r < ${M}u; r++) { for (var c = 0u; c < ${N}u; c++) {
    var total = numbersSum[sum + r * ${N}u + c];
    for (var k = 0u; k < ${K}u; k++) { total += numbersLeft[a + r * ${K}u + k] * numbersRight[b + k * ${N}u + c]; }
    numbersSum[sum + r * ${N}u + c] = total;
  } }
  return sum;
}
${[...this.helpers].join('\n')}`;
  }
}

/** The arrays of its regions hold f32 where they should hold f16. */
export function emulated(dispatch: Dispatch): Dispatch {
  const { program } = dispatch;
  const fragments = new Fragments(program.source);
  let source = program.source
    .replace(/^(diagnostic|enable) ?.*;$/gm, '')
    .replace(alias, '')
    .replace(/: (Sum|Left);/g, (_, type: string) => `: u32 = ${fragments.fill(type, 0)};`)
    .replace(/\b(Right)\(1\)/g, (_, type: string) => fragments.fill(type, 1))
    .replace(load, (_, type: string, order: string, array: string) => fragments.load(type, order, array))
    .replace(store, (_, array: string) => fragments.store(array))
    .replaceAll('subgroupMatrixMultiplyAccumulate(', 'multiplyAccumulate(')
    .replace(/\bf16\b/g, 'f32');
  for (const [builtin, meaning] of Object.entries(builtins)) {
    const parameter = new RegExp(`\\s*@builtin\\(${builtin}\\) (\\w+): u32,`);
    const name = parameter.exec(source)?.[1];
    if (name) source = source.replace(parameter, '').replace(/(\nfn main\([^{]*\{)/, `$1\n  let ${name} = ${meaning};`);
  }
  if (fragments.declarations()) source = source.replace(/(\nfn main\([^{]*\{)/, `$1\n  first = local % ${lanes}u == 0u;`);
  const bindings = program.bindings.map((binding) => {
    const type = binding.type?.replace(/\bf16\b/g, 'f32');
    return { ...binding, element: binding.element === 'f16' ? ('f32' as const) : binding.element, ...(type ? { type } : {}) };
  });
  const main = source.search(/@compute/);
  const whole = `${source.slice(0, main)}${fragments.declarations()}\n${source.slice(main)}`;
  return { ...dispatch, program: { ...program, name: `${program.name}, emulated`, bindings, source: whole } };
}
