/**
 * A network as other programs take it: the official layout, a folder for Hugging Face's transformers, a training checkpoint.
 * Each with a README that says how to load it. The official trainer's folder is `handOver.ts`.
 */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { IMAGE_MEAN, IMAGE_STD, type ModelConfig } from '../config.ts';
import { writeSafetensors, type LazyTensor } from '../safetensors.ts';
import { checkpointTensors } from './keep.ts';
import { huggingFaceName } from './names.ts';
import { withPositionGrid, type OpenedWeights } from './open.ts';
import { fileStem, hubFunction, hubGrid, HUB_IMAGE_SIZE, officialConstructor } from './published.ts';
import { writeTorch } from './torchWriter.ts';

/** @returns the names of the files written into `dir`, which exists and is the caller's to rename */
export type WriteFormat = (weights: OpenedWeights, dir: string, about: string) => Promise<string[]>;

/** Python that builds the network with official code. */
export function constructorCall(model: ModelConfig, imageSize: number): string {
  const known = officialConstructor(model);
  const common = [
    `img_size=${imageSize}`,
    `patch_size=${model.patchSize}`,
    'init_values=1.0',
    `ffn_layer="${model.ffn === 'mlp' ? 'mlp' : 'swiglufused'}"`,
    'block_chunks=0',
    `num_register_tokens=${model.registers}`,
    `interpolate_antialias=${model.positionAntialias ? 'True' : 'False'}`,
    `interpolate_offset=${model.positionOffset === 0 ? '0.0' : model.positionOffset}`,
  ];
  const size = [`embed_dim=${model.embedDim}`, `depth=${model.depth}`, `num_heads=${model.heads}`, `mlp_ratio=${model.mlpRatio}`];
  return known ? `vits.${known}(${common.join(', ')})` : `vits.DinoVisionTransformer(${[...size, ...common].join(', ')})`;
}

/**
 * A flat state dict of float32 in the layout of the published files. They are read by constructors for images of 518 pixels,
 * so the position table is resized to theirs, 37 x 37: at 518 pixels that changes nothing, at other sizes the table is
 * resized twice. Nothing is lost in a training checkpoint, which keeps the table that was trained.
 */
export const writeOfficial: WriteFormat = async (weights, dir, about) => {
  const { config, backbone } = weights;
  const grid = hubGrid(config);
  const file = `${fileStem(config)}.pth`;
  await writeTorch(
    join(dir, file),
    backbone.map((tensor) => withPositionGrid(tensor, config, grid)),
    null,
  );
  const hub = hubFunction(config);
  const build = hub
    ? `model = torch.hub.load("facebookresearch/dinov2", "${hub}", pretrained=False)`
    : `from dinov2.models import vision_transformer as vits  # github.com/facebookresearch/dinov2\nmodel = ${constructorCall(config, grid * config.patchSize)}`;
  const resized =
    grid === config.positionGrid
      ? `The position table is as trained, ${grid} x ${grid} patches.`
      : `The position table was trained at ${config.positionGrid} x ${config.positionGrid} patches and is written for images of ${HUB_IMAGE_SIZE} pixels, ${grid} x ${grid} patches, which the official constructors expect. Features of other sizes differ a little from Patchwise's own, because the table is resized twice; the format "trainer-checkpoint" keeps it as trained.`;
  await writeReadme(
    dir,
    `# A DINOv2 backbone in the official layout

${about}

\`\`\`python
import torch
${build}
model.load_state_dict(torch.load("${file}", map_location="cpu", weights_only=True), strict=True)
model.eval()
\`\`\`

${resized}
${hub ? '' : '\nThe official hub has no function for this size; the lines above build it with the class that all sizes share.\n'}
Images: RGB, 0 to 1, minus (${IMAGE_MEAN.join(', ')}), divided by (${IMAGE_STD.join(', ')}); sides multiples of ${config.patchSize}.
`,
  );
  return [file, README];
};

/** What `Dinov2Model.from_pretrained(folder)` reads, or `Dinov2WithRegistersModel` for networks with registers. */
export const writeHuggingFace: WriteFormat = async (weights, dir, about) => {
  const { config, backbone } = weights;
  const withRegisters = config.registers > 0;
  const model = withRegisters ? 'Dinov2WithRegistersModel' : 'Dinov2Model';
  await writeSafetensors(join(dir, 'model.safetensors'), backbone.flatMap(huggingFaceTensors), { format: 'pt' });
  const imageSize = config.positionGrid * config.patchSize;
  // Rates of dropout and LayerScale's start value are left at their defaults; newer versions take no whole number for them.
  await writeJson(join(dir, 'config.json'), {
    architectures: [model],
    model_type: withRegisters ? 'dinov2_with_registers' : 'dinov2',
    hidden_size: config.embedDim,
    num_hidden_layers: config.depth,
    num_attention_heads: config.heads,
    mlp_ratio: config.mlpRatio,
    hidden_act: 'gelu',
    initializer_range: 0.02,
    layer_norm_eps: 1e-6,
    image_size: imageSize,
    patch_size: config.patchSize,
    num_channels: 3,
    qkv_bias: true,
    use_swiglu_ffn: config.ffn === 'swiglu',
    ...(withRegisters && { num_register_tokens: config.registers }),
  });
  await writeJson(join(dir, 'preprocessor_config.json'), {
    image_processor_type: 'BitImageProcessor',
    do_convert_rgb: true,
    do_resize: true,
    size: { shortest_edge: 256 },
    resample: 3, // bicubic
    do_center_crop: true,
    crop_size: { height: 224, width: 224 },
    do_rescale: true,
    rescale_factor: 1 / 255,
    do_normalize: true,
    image_mean: IMAGE_MEAN,
    image_std: IMAGE_STD,
  });
  const positions = withRegisters
    ? ''
    : `\nAt sizes other than ${imageSize} pixels transformers resizes the position table by another rule than DINOv2's own code (no offset of 0.1), so features differ a little from Patchwise's.\n`;
  await writeReadme(
    dir,
    `# A DINOv2 backbone for Hugging Face's transformers

${about}

\`\`\`python
from transformers import AutoImageProcessor, ${model}
model = ${model}.from_pretrained(".")  # this folder
processor = AutoImageProcessor.from_pretrained(".")
\`\`\`

The position table is as trained, ${config.positionGrid} x ${config.positionGrid} patches (image_size ${imageSize}).
${positions}
The processor resizes to 256 and crops 224 pixels, as the published ones do. For dense features give it a size of your own,
with sides that are multiples of ${config.patchSize}.
`,
  );
  return ['model.safetensors', 'config.json', 'preprocessor_config.json', README];
};

function huggingFaceTensors(tensor: LazyTensor): LazyTensor[] {
  const qkv = /^(blocks\.\d+\.attn\.)qkv(\..*)$/.exec(tensor.name);
  if (!qkv) return [{ ...tensor, name: huggingFaceName(tensor.name) }];
  const [rows = 0, ...rest] = tensor.shape;
  return ['query', 'key', 'value'].map((part, i) => ({
    name: huggingFaceName(`${qkv[1]}${part}${qkv[2]}`),
    shape: [rows / 3, ...rest],
    read: async () => {
      const values = await tensor.read();
      return values.subarray((i * values.length) / 3, ((i + 1) * values.length) / 3);
    },
  }));
}

/** teacher_checkpoint.pth as the official trainer writes it: {"teacher": {backbone.*, dino_head.*, ibot_head.*}}. */
export const writeTrainerCheckpoint: WriteFormat = async (weights, dir, about) => {
  const { config, heads } = weights;
  const file = 'teacher_checkpoint.pth';
  await writeTorch(join(dir, file), checkpointTensors(weights), 'teacher');
  const parts = ['backbone', ...(heads?.dino ? ['dino_head'] : []), ...(heads?.ibot ? ['ibot_head'] : [])];
  await writeReadme(
    dir,
    `# A teacher in the layout of the official trainer

${about}

\`\`\`python
import torch
teacher = torch.load("${file}", map_location="cpu", weights_only=True)["teacher"]
backbone = {name.removeprefix("backbone."): value for name, value in teacher.items() if name.startswith("backbone.")}

from dinov2.models import vision_transformer as vits  # github.com/facebookresearch/dinov2
model = ${constructorCall(config, config.positionGrid * config.patchSize)}
model.load_state_dict(backbone, strict=True)
model.eval()
\`\`\`

It holds: ${parts.join(', ')}. The position table is as trained, ${config.positionGrid} x ${config.positionGrid} patches; blocks are counted through
(block_chunks 0).
`,
  );
  return [file, README];
};

export const README = 'README.md';

export async function writeReadme(dir: string, text: string): Promise<void> {
  await writeFile(join(dir, README), text.replaceAll(/\n{3,}/g, '\n\n'), { flush: true });
}

async function writeJson(path: string, value: object): Promise<void> {
  await writeFile(path, `${JSON.stringify(value, null, 2)}\n`, { flush: true });
}
