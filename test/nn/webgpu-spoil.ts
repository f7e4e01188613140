/**
 * Fills workgroup memory at the beginning of a program: nothing else does (`disable_workgroup_init`), so a kernel that reads
 * what it did not write finds zeros on one driver and anything on the next.
 */

const declaration = /var<workgroup> (\w+): (?:array<([\w<>]+), (\d+)>|atomic<u32>);/g;
const head = /@compute @workgroup_size\(([\d, ]+)\)\nfn main\([^{]*@builtin\(local_invocation_index\) (\w+): u32[^{]*\{/;

/** WGSL of what an element is filled with; the bits of a number that is none. */
function value(type: string, source: string): string {
  if (type === 'u32') return 'spoilBits';
  if (type === 'f32') return 'spoil';
  if (/^vec\d(<f32>|f)$/.test(type)) return `${type}(spoil)`;
  if (type === 'vec4<f16>') return 'vec4<f16>(vec4<f32>(spoil))';
  const fields = new RegExp(`struct ${type} \\{([^}]*)\\}`).exec(source)?.[1];
  if (!fields) throw new Error(`spoiled: workgroup memory of ${type}.`);
  return `${type}(${fields.split(',').map((field) => value(field.split(':')[1]!.trim(), source))})`;
}

/** The program with workgroup memory full of what is no number. @throws Error where its text is not understood */
export function spoiled(source: string): string {
  const arrays = [...source.matchAll(declaration)];
  if (arrays.length !== source.split('var<workgroup>').length - 1) throw new Error('spoiled: workgroup memory that is not understood.');
  if (arrays.length === 0) return source;
  const main = head.exec(source);
  if (!main) throw new Error('spoiled: a main that is not understood.');
  const [text, size, local] = main;
  const threads = size!.split(',').reduce((product, extent) => product * Number(extent), 1);
  const fills = arrays.map(([, name, type, length]) =>
    type
      ? `for (var n = ${local}; n < ${length}u; n += ${threads}u) { ${name}[n] = ${value(type, source)}; }`
      : `if (${local} == 0u) { atomicStore(&${name}, spoilBits); }`,
  );
  const [before, after] = [source.slice(0, main.index), source.slice(main.index + text.length)];
  // Numbers that are none cannot be written down in WGSL.
  return `${before}var<private> spoilBits = 0x7fc00000u;
${text}
  let spoil = bitcast<f32>(spoilBits);
  ${fills.join('\n  ')}
  workgroupBarrier();${after}`;
}
