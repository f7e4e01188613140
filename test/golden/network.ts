/** The network that recorded weights belong to, told by their names and shapes alone. */
import { modelConfig, type HeadConfig, type ModelConfig } from '../../core/dinov2/config.ts';
import type { SafeTensorFile } from '../../core/dinov2/safetensors.ts';
import { tensorOf } from './rows.ts';

/** Width of an attention head in every DINOv2. */
const HEAD_WIDTH = 64;

/**
 * @param prefix what stands before the official names, e.g. `student0.backbone.`
 * @throws Error when a tensor is missing or the width cannot be cut into heads
 */
export function modelOf(recorded: SafeTensorFile, prefix: string, dropPath = 0): ModelConfig {
  const shape = (name: string): readonly number[] => tensorOf(recorded, prefix + name).shape;
  const has = (name: string): boolean => recorded.tensors.has(prefix + name);
  const D = shape('cls_token')[2]!;
  if (D % HEAD_WIDTH !== 0) throw new Error(`its tokens are ${D} wide, which is no multiple of ${HEAD_WIDTH}, the width of a head`);
  let depth = 0;
  while (has(`blocks.${depth}.norm1.weight`)) depth++;
  const swiglu = has('blocks.0.mlp.w12.weight');
  const options = {
    patchSize: shape('patch_embed.proj.weight')[2]!,
    registers: has('register_tokens') ? shape('register_tokens')[1]! : 0,
    positionGrid: Math.sqrt(shape('pos_embed')[1]! - 1),
    ffn: swiglu ? 'swiglu' : 'mlp',
    dropPath,
  } as const;
  const mlpRatio = swiglu ? 4 : shape('blocks.0.mlp.fc1.weight')[0]! / D;
  return { ...modelConfig('nano', options), embedDim: D, depth, heads: D / HEAD_WIDTH, mlpRatio };
}

/** @param prefix up to the head's name, e.g. `student0.dino_head.` @throws Error when a tensor is missing */
export function headOf(recorded: SafeTensorFile, prefix: string): HeadConfig {
  const shape = (name: string): readonly number[] => tensorOf(recorded, prefix + name).shape;
  const [prototypes, bottleneck] = shape('last_layer.weight_v') as [number, number];
  return { hidden: shape('mlp.0.weight')[0]!, bottleneck, prototypes };
}
