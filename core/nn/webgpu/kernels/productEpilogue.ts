/** What happens to sums on their way from registers to memory: the same code ends every product and its reduction pass. */
import type { Binding, Element, Region } from '../program.ts';

/**
 * Bias, scale and gamma are f32, one a column. Matrices beside c are dense [m,n], of c's element.
 * - bias: sum + bias.
 * - bias-gelu: gelu(sum + bias), exact erf GELU; `slope` receives its derivative there. The slope and not the value before
 *   GELU: both are one matrix written and one read, but backward is then a single multiplication (`times`), and f16 holds
 *   a number in [-0.13, 1.13] to 5e-4 whatever the size of the value.
 * - column-scale: sum * scale.
 * - times: sum * scale [1] * factor, element by element: the gradient through GELU, with the slope as factor.
 * - residual: residual + gamma * (sum + bias), the LayerScale residual.
 */
export type Epilogue =
  | { readonly kind: 'none' }
  | { readonly kind: 'bias'; readonly bias: Region }
  | { readonly kind: 'bias-gelu'; readonly bias: Region; readonly slope?: Region }
  | { readonly kind: 'column-scale'; readonly scale: Region }
  | { readonly kind: 'times'; readonly factor?: Region; readonly scale?: Region }
  | { readonly kind: 'residual'; readonly bias: Region; readonly gamma: Region; readonly residual: Region };

export interface Ending {
  /** Says all that the code depends on. */
  readonly name: string;
  readonly bindings: readonly Binding[];
  readonly regions: readonly Region[];
  /**
   * Declares `store4(row, column, shift, sums)` for four neighbouring columns from a multiple of 4 on; rows and columns
   * outside the result are left out. `shift` elements are added to the place in c. Reads u.m, u.n, u.startC, u.strideC.
   */
  readonly code: string;
}

/**
 * @param c where the result goes; bound as `c`
 * @param wide columns, row stride and start of c are multiples of 4: memory is reached four elements at a time
 */
export function ending(
  epilogue: Epilogue,
  options: { readonly c: Region; readonly element: Element; readonly wide: boolean; readonly accumulate: boolean },
): Ending {
  const { c, element, wide, accumulate } = options;
  const many = (scalar: string): string => (wide ? `vec4<${scalar}>` : scalar);
  const bindings: Binding[] = [];
  const regions: Region[] = [];
  const bind = (name: string, region: Region, of: Element, access: Binding['access']): void => {
    bindings.push(wide ? { name, element: of, access, type: `array<vec4<${of}>>` } : { name, element: of, access });
    regions.push(region);
  };
  const lines: string[] = [];
  const words: string[] = [epilogue.kind];
  bind('c', c, element, 'read_write');
  const column = wide ? 'column / 4u' : 'column';
  switch (epilogue.kind) {
    case 'none':
      break;
    case 'bias':
      bind('bias', epilogue.bias, 'f32', 'read');
      lines.push(`v += bias[${column}];`);
      break;
    case 'bias-gelu':
      bind('bias', epilogue.bias, 'f32', 'read');
      lines.push(`let x = v + bias[${column}];`, 'let below = normal(x);');
      lines.push('v = x * below;');
      if (epilogue.slope) {
        words.push('slope');
        bind('slope', epilogue.slope, element, 'read_write');
        lines.push(`slope[dense] = ${many(element)}(below + x * 0.3989422804014327 * exp(-0.5 * x * x));`);
      }
      break;
    case 'column-scale':
      bind('columnScale', epilogue.scale, 'f32', 'read');
      lines.push(`v *= columnScale[${column}];`);
      break;
    case 'times':
      if (epilogue.scale) {
        words.push('scale');
        bindings.push({ name: 'scale', element: 'f32', access: 'read' });
        regions.push(epilogue.scale);
        lines.push('v *= scale[0];');
      }
      if (epilogue.factor) {
        words.push('factor');
        bind('factor', epilogue.factor, element, 'read');
        lines.push(`v *= ${many('f32')}(factor[dense]);`);
      }
      break;
    case 'residual':
      bind('bias', epilogue.bias, 'f32', 'read');
      bind('gamma', epilogue.gamma, 'f32', 'read');
      bind('residual', epilogue.residual, element, 'read');
      lines.push(`v = ${many('f32')}(residual[dense]) + gamma[${column}] * (v + bias[${column}]);`);
      break;
  }
  if (accumulate) {
    words.push('accumulate');
    lines.push(`v += ${many('f32')}(c[at]);`);
  }
  const by = wide ? ' / 4u' : '';
  const code = `
${epilogue.kind === 'bias-gelu' ? normal(many('f32')) : ''}
fn finish(row: u32, column: u32, shift: u32, sum: ${many('f32')}) {
  let at = (u.startC + row * u.strideC + column + shift)${by};
  ${lines.some((line) => line.includes('dense')) ? `let dense = (row * u.n + column)${by};` : ''}
  var v = sum;
  ${lines.join('\n  ')}
  c[at] = ${many(element)}(v);
}
fn store4(row: u32, column: u32, shift: u32, sums: vec4<f32>) {
  if (row >= u.m) { return; }
  ${
    wide
      ? 'if (column < u.n) { finish(row, column, shift, sums); }'
      : 'for (var i = 0u; i < 4u; i++) { if (column + i < u.n) { finish(row, column + i, shift, sums[i]); } }'
  }
}
`;
  return { name: [element, wide ? 'wide' : 'narrow', ...words].join(' '), bindings, regions, code };
}

/**
 * The standard normal distribution function. erfc(z) e^(z^2) as a polynomial of degree 8 in 1 / (1 + 0.43 z), fitted for
 * the least relative error on [0, 9]: 9e-8 (the numbers of ../../cpu/kernels/simd.ts).
 */
function normal(type: string): string {
  const numbers = [
    0.0737055316567421, -0.31036296486854553, 0.38368645310401917, -0.08570615947246552, 0.24683262407779694, 0.2049553096294403,
    0.24437463283538818, 0.24251466989517212,
  ];
  const [first, ...rest] = numbers;
  return `
fn normal(x: ${type}) -> ${type} {
  let t = 1 / (1 + 0.43 * 0.70710678118654752 * abs(x));
  var q = ${type}(${first});
  ${rest.map((number) => `q = q * t + ${number};`).join(' ')}
  let half = 0.5 * q * t * exp(-0.5 * x * x);
  return select(1 - half, half, x < ${type}(0));
}`;
}
