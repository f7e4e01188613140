/** Which network a file's tensors make: from names and shapes alone, and what is missing, surplus or of another shape. */
import { ffnHidden, modelConfig, modelName, type HeadConfig, type ModelConfig } from '../config.ts';
import { headShapes, type HeadName } from '../heads.ts';
import { FileFault } from './fault.ts';

type Shapes = ReadonlyMap<string, { readonly shape: readonly number[] }>;

const NOT_DINOV2 =
  'Choose the weights of a DINOv2 backbone: the official .pth, a training checkpoint, or model.safetensors from Hugging Face.';
const shown = (shape: readonly number[]): string => `[${shape.join(', ')}]`;
/** Beyond the largest published (1536, 40) by far; keeps a made-up shape from asking for the whole memory. */
const WIDEST = 8192;
const DEEPEST = 256;

/**
 * The configuration of a backbone. Tables are resized as in the released weights: offset 0.1 without antialias in networks
 * without registers, 0 with antialias in those with (spec 1.3).
 * @throws FileFault for a tensor that decides a size and is missing or odd
 */
export function inferModel(tensors: Shapes): ModelConfig {
  const shapeOf = (name: string, rank: number): readonly number[] => {
    const tensor = tensors.get(name);
    if (!tensor) throw new FileFault(`it has no ${name}, which every DINOv2 backbone has`, NOT_DINOV2);
    if (tensor.shape.length !== rank)
      throw new FileFault(`${name} has the shape ${shown(tensor.shape)}, where ${rank} axes are needed`, NOT_DINOV2);
    return tensor.shape;
  };
  const embedDim = shapeOf('cls_token', 3)[2]!;
  if (embedDim === 0 || embedDim % 64 !== 0 || embedDim > WIDEST)
    throw new FileFault(`its width of ${embedDim} is not a multiple of 64 up to ${WIDEST}`, NOT_DINOV2);
  const [, , patchSize, patchWidth] = shapeOf('patch_embed.proj.weight', 4) as [number, number, number, number];
  if (patchSize !== patchWidth || patchSize === 0)
    throw new FileFault(`its patches of ${patchSize} x ${patchWidth} pixels are not square`, NOT_DINOV2);
  const patches = shapeOf('pos_embed', 3)[1]! - 1;
  const positionGrid = Math.round(Math.sqrt(Math.max(0, patches)));
  if (positionGrid === 0 || positionGrid ** 2 !== patches) {
    throw new FileFault(`its position table of ${patches + 1} rows is not a square grid and a class token`, NOT_DINOV2);
  }
  const blocks = [...tensors.keys()].map((name) => Number(/^blocks\.(\d+)\./.exec(name)?.[1] ?? -1));
  const depth = blocks.reduce((a, b) => Math.max(a, b), -1) + 1;
  if (depth === 0 || depth > DEEPEST) throw new FileFault(`its blocks count ${depth}, not 1 to ${DEEPEST}`, NOT_DINOV2);
  const ffn = tensors.has('blocks.0.mlp.w12.weight') ? 'swiglu' : 'mlp';
  const hidden = shapeOf(ffn === 'swiglu' ? 'blocks.0.mlp.w3.weight' : 'blocks.0.mlp.fc2.weight', 2)[1]!;
  const registers = tensors.has('register_tokens') ? shapeOf('register_tokens', 3)[1]! : 0;
  const config: ModelConfig = {
    ...modelConfig('small', { patchSize, registers, positionGrid, ffn }),
    name: modelName({ embedDim, depth }),
    embedDim,
    depth,
    heads: embedDim / 64,
  };
  const mlpRatio = ffn === 'mlp' ? hidden / embedDim : config.mlpRatio;
  if (ffnHidden({ ...config, mlpRatio }) !== hidden) {
    throw new FileFault(`its SwiGLU layers of ${hidden} units are not the ${ffnHidden(config)} that DINOv2 has at this width`, NOT_DINOV2);
  }
  return { ...config, mlpRatio };
}

/** The head under that name, null when there is none. @throws FileFault when it is not whole, or of another shape */
export function inferHead(tensors: Shapes, embedDim: number, name: HeadName): HeadConfig | null {
  const own = new Map([...tensors].filter(([tensor]) => tensor.startsWith(`${name}.`)));
  if (own.size === 0) return null;
  const size = (tensor: string, axis: number): number => own.get(`${name}.${tensor}`)?.shape[axis] ?? 0;
  const config = { hidden: size('mlp.0.weight', 0), bottleneck: size('mlp.4.weight', 0), prototypes: size('last_layer.weight_v', 0) };
  refuseDifferences(own, headShapes(config, embedDim, name), 'it');
  return config;
}

/** @throws FileFault naming what is missing, surplus or of another shape */
export function refuseDifferences(
  tensors: Shapes,
  expected: readonly { readonly name: string; readonly shape: readonly number[] }[],
  what: string,
): void {
  const names = new Set(expected.map(({ name }) => name));
  const missing = expected.filter(({ name }) => !tensors.has(name)).map(({ name }) => name);
  const surplus = [...tensors.keys()].filter((name) => !names.has(name));
  const wrong = expected.flatMap(({ name, shape }) => {
    const found = tensors.get(name)?.shape;
    return !found || String(found) === String(shape) ? [] : [`${name} is ${shown(found)} instead of ${shown(shape)}`];
  });
  const parts = [
    ...(missing.length > 0 ? [`lacks ${listed(missing)}`] : []),
    ...(surplus.length > 0 ? [`has ${listed(surplus)}, which DINOv2 has not`] : []),
    ...(wrong.length > 0 ? [listed(wrong)] : []),
  ];
  if (parts.length > 0) throw new FileFault(`${what} ${parts.join('; ')}`, NOT_DINOV2);
}

function listed(names: readonly string[]): string {
  const more = names.length - 5;
  return more > 0 ? `${names.slice(0, 5).join(', ')} and ${more} more` : names.join(', ');
}
