/** Projection heads of DINO and iBOT (spec 4): an MLP to an L2-normalised bottleneck, and the prototypes after it. */
import type { Random } from '../random.ts';
import type { Executor, ParameterSet, ParameterSpec, Tensor } from '../nn/index.ts';
import type { HeadConfig, RunConfig } from './config.ts';

/** Name of a head in checkpoints. */
export type HeadName = 'dino_head' | 'ibot_head';

/** Epsilon of the L2 normalisation in float32 (spec 4). */
const EPSILON = 1e-12;

/** Names, shapes and start values (spec 1.5), official names behind `dino_head.` or `ibot_head.`. */
export function headParameters(config: HeadConfig, embedDim: number, random: Random, name: HeadName): ParameterSpec[] {
  const bound = 1 / Math.sqrt(config.bottleneck); // PyTorch's default for a linear layer
  const start = (parameter: string): number => {
    if (parameter.endsWith('.bias')) return 0;
    if (parameter.endsWith('.weight_g')) return 1;
    return parameter.endsWith('.weight_v') ? random.uniform(-bound, bound) : 0.02 * random.normal();
  };
  return headShapes(config, embedDim, name).map(({ name: parameter, shape }) => {
    const values = new Float32Array(shape.reduce((a, b) => a * b, 1));
    for (let i = 0; i < values.length; i++) values[i] = start(parameter);
    return { name: parameter, shape, values };
  });
}

/** Names and shapes alone. */
export function headShapes(
  { hidden, bottleneck, prototypes }: HeadConfig,
  embedDim: number,
  name: HeadName,
): { readonly name: string; readonly shape: readonly number[] }[] {
  const layers = [
    [0, hidden, embedDim],
    [2, hidden, hidden],
    [4, bottleneck, hidden],
  ] as const; // numbered as in the official Sequential, GELUs between
  return [
    ...layers.flatMap(([index, out, input]) => [
      { name: `${name}.mlp.${index}.weight`, shape: [out, input] },
      { name: `${name}.mlp.${index}.bias`, shape: [out] },
    ]),
    { name: `${name}.last_layer.weight_g`, shape: [prototypes, 1] },
    { name: `${name}.last_layer.weight_v`, shape: [prototypes, bottleneck] },
  ];
}

/** Rows [R,D] to unit vectors [R,bottleneck]. */
export function headForward(x: Executor, parameters: ParameterSet, name: HeadName, rows: Tensor): Tensor {
  const p = (suffix: string): Tensor => parameters.get(`${name}.${suffix}`);
  let y = x.linear(rows, p('mlp.0.weight'), p('mlp.0.bias'), 'gelu'); // [R,hidden]
  y = x.linear(y, p('mlp.2.weight'), p('mlp.2.bias'), 'gelu'); // [R,hidden]
  y = x.linear(y, p('mlp.4.weight'), p('mlp.4.bias')); // [R,bottleneck]
  return x.l2Normalize(y, EPSILON);
}

/** Directions v and lengths g of a head's prototypes. */
export function prototypesOf(parameters: ParameterSet, name: HeadName): { weightV: Tensor; weightG: Tensor } {
  return { weightV: parameters.get(`${name}.last_layer.weight_v`), weightG: parameters.get(`${name}.last_layer.weight_g`) };
}

/** The head that projects masked patches: its own, or the DINO head when they are tied. */
export function ibotHeadName(config: Pick<RunConfig, 'heads'>): HeadName {
  return config.heads.ibot ? 'ibot_head' : 'dino_head';
}
