/**
 * A folder for the official trainer (github.com/facebookresearch/dinov2), for those who outgrow one GPU: its configuration
 * with every number of a run, the backbone, and the list of images in the form that its ImageNet class reads.
 *
 *   config.yaml · weights.pth · images.txt · link-images.sh · extra/*.npy · README.md · train.py where no official
 *   constructor builds the network
 */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { AppError } from '../../contract/index.ts';
import { batchesOfStep, OFFICIAL_CROPS, type CropConfig, type RunConfig } from '../config.ts';
import { README, writeReadme } from './formats.ts';
import { fixedText, writeNpy } from './npy.ts';
import { withPositionGrid, type OpenedWeights } from './open.ts';
import { officialConstructor } from './published.ts';
import { writeTorch } from './torchWriter.ts';

/** Rows that the official ImageNet class insists on for its training split. */
export const IMAGENET_ROWS = 1_281_167;
/** The one class that all images are in; also the folder of the links, train/img/img_<number>.JPEG. */
const CLASS = 'img';

export interface HandOverRun {
  readonly config: RunConfig;
  /** Paths inside the image folder, forward slashes, one for each image file. */
  readonly images: readonly string[];
}

/** @returns the names of the files written into `dir`, which exists and is the caller's to rename */
export async function writeHandOver(
  weights: OpenedWeights,
  dir: string,
  about: string,
  { config, images }: HandOverRun,
): Promise<string[]> {
  const odd = images.find((path) => /[\n\r]/.test(path));
  if (odd !== undefined) {
    throw new AppError(
      'bad-input',
      `The name of ${JSON.stringify(odd)} has a line break.`,
      'Rename it: the list of images has one name a line.',
    );
  }
  if (images.length === 0) throw new AppError('too-few-images', 'The run has no images.', 'Choose another run.');
  if (config.distillation) {
    throw new AppError(
      'bad-input',
      'The run learns from another network, and the official code has no distillation.',
      'Export the student as trainer-checkpoint, or choose another run.',
    );
  }
  const { official, notes } = officialConfig(config);
  await writeFile(join(dir, 'config.yaml'), yaml(official), { flush: true });
  // The trainer builds its table for the global crops and takes no other.
  const grid = config.crops.globalSize / config.model.patchSize;
  const backbone = weights.backbone.map((tensor) => withPositionGrid(tensor, weights.config, grid));
  await writeTorch(join(dir, 'weights.pth'), backbone, 'model');
  await writeFile(join(dir, 'images.txt'), images.map((path) => `${path}\n`).join(''), { flush: true });
  await writeFile(join(dir, 'link-images.sh'), LINK_IMAGES, { flush: true, mode: 0o755 });
  await mkdir(join(dir, 'extra'));
  await writeEntries(join(dir, 'extra'), images.length);
  const files = [
    'config.yaml',
    'weights.pth',
    'images.txt',
    'link-images.sh',
    'extra/entries-TRAIN.npy',
    'extra/class-ids-TRAIN.npy',
    'extra/class-names-TRAIN.npy',
  ];
  const registered = officialConstructor(config.model) === null;
  if (registered) {
    await writeFile(join(dir, 'train.py'), trainScript(config), { flush: true });
    files.push('train.py');
  }
  await writeReadme(dir, readme(about, config, images.length, notes, registered));
  return [...files, README];
}

// --- configuration ----------------------------------------------------------------------------------------------------

type Yaml = string | number | boolean | readonly (string | number)[] | { readonly [key: string]: Yaml };

/**
 * The official configuration of a run: keys of dinov2/configs/ssl_default_config.yaml. Schedules are counted there in epochs
 * of OFFICIAL_EPOCH_LENGTH iterations; the length is chosen so that all counts come out whole, else they are rounded and said.
 */
export function officialConfig(config: RunConfig): { official: Record<string, Yaml>; notes: string[] } {
  const { model, heads, crops, masking, optimizer, teacher, lossWeights } = config;
  const {
    length,
    epochs,
    notes: rounded,
  } = epochsOf({
    epochs: config.steps,
    warmup: optimizer.warmupSteps,
    freeze: optimizer.freezeLastLayerSteps,
    temperature: teacher.temperatureWarmupSteps,
  });
  const ibot = heads.ibot ?? heads.dino;
  const official = {
    dino: {
      loss_weight: lossWeights.dino,
      head_n_prototypes: heads.dino.prototypes,
      head_bottleneck_dim: heads.dino.bottleneck,
      head_nlayers: 3,
      head_hidden_dim: heads.dino.hidden,
      koleo_loss_weight: lossWeights.koleo,
    },
    ibot: {
      loss_weight: lossWeights.ibot,
      mask_sample_probability: masking.probability,
      mask_ratio_min_max: [...masking.ratio],
      separate_head: heads.ibot !== null,
      head_n_prototypes: ibot.prototypes,
      head_bottleneck_dim: ibot.bottleneck,
      head_nlayers: 3,
      head_hidden_dim: ibot.hidden,
    },
    train: {
      batch_size_per_gpu: config.batch,
      dataset_path: 'ImageNet:split=TRAIN:root=.:extra=extra',
      output_dir: 'output',
      seed: config.seed,
      OFFICIAL_EPOCH_LENGTH: length,
      centering: teacher.centering === 'sinkhorn' ? 'sinkhorn_knopp' : 'centering',
    },
    student: {
      arch: archName(config),
      patch_size: model.patchSize,
      drop_path_rate: model.dropPath,
      layerscale: model.layerScale,
      drop_path_uniform: true,
      pretrained_weights: 'weights.pth',
      ffn_layer: model.ffn === 'mlp' ? 'mlp' : 'swiglufused',
      block_chunks: 0,
      num_register_tokens: model.registers,
      interpolate_antialias: model.positionAntialias,
      interpolate_offset: model.positionOffset,
    },
    teacher: {
      momentum_teacher: teacher.momentum[0],
      final_momentum_teacher: teacher.momentum[1],
      warmup_teacher_temp: teacher.temperature[0],
      teacher_temp: teacher.temperature[1],
      warmup_teacher_temp_epochs: epochs.temperature,
    },
    optim: {
      epochs: epochs.epochs,
      weight_decay: optimizer.weightDecay[0],
      weight_decay_end: optimizer.weightDecay[1],
      // The trainer multiplies by sqrt(images a step / 1024), all GPUs together.
      base_lr: optimizer.learningRate / Math.sqrt((config.batch * batchesOfStep(config)) / 1024),
      scaling_rule: 'sqrt_wrt_1024',
      warmup_epochs: epochs.warmup,
      min_lr: optimizer.finalLearningRate,
      clip_grad: optimizer.clipNorm,
      freeze_last_layer_epochs: epochs.freeze,
      patch_embed_lr_mult: optimizer.patchEmbedMultiplier,
      layerwise_decay: optimizer.layerDecay,
      adamw_beta1: optimizer.beta1,
      adamw_beta2: optimizer.beta2,
    },
    crops: {
      global_crops_scale: [...crops.globalScale],
      local_crops_number: crops.localCount,
      local_crops_scale: [...crops.localScale],
      global_crops_size: crops.globalSize,
      local_crops_size: crops.localSize,
    },
    evaluation: { eval_period_iterations: config.checkpointEvery },
  };
  return { official, notes: [...rounded, ...fixedInCode(config), ...continuedIn(config)] };
}

/** Where the schedules change, in epochs, and how many iterations an epoch has. */
function epochsOf<K extends string>(steps: Record<K, number>): { length: number; epochs: Record<K, number>; notes: string[] } {
  const counts = Object.values<number>(steps);
  const common = counts.reduce(greatestCommonDivisor);
  // The trainer saves its whole state every three epochs; much shorter ones would make it do little else.
  const hundredth = Math.max(1, Math.round(Math.max(...counts) / 100));
  const length = 3 * common >= hundredth ? common : hundredth;
  const epochs = Object.fromEntries(Object.entries<number>(steps).map(([key, n]) => [key, Math.round(n / length)])) as Record<K, number>;
  const changed = Object.entries<number>(steps).filter(([key, n]) => epochs[key as K] * length !== n);
  const notes = changed.map(
    ([key, n]) => `${n} steps (${key}) became ${epochs[key as K] * length}: the trainer counts in epochs of ${length}.`,
  );
  return { length, epochs, notes };
}

function greatestCommonDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestCommonDivisor(b, a % b);
}

/** Numbers of the run that the official code has no key for, where they differ from what is written in it. */
function fixedInCode({ crops, optimizer, teacher, studentTemperature }: RunConfig): string[] {
  const written: readonly (readonly [string, unknown, unknown])[] = [
    ['AdamW epsilon', optimizer.epsilon, 1e-8],
    ['student temperature', studentTemperature, 0.1],
    ['Sinkhorn-Knopp iterations', teacher.sinkhornIterations, 3],
    ['momentum of the centre', teacher.centerMomentum, 0.9],
    ...(
      [
        'aspect',
        'flipProbability',
        'jitter',
        'grayscaleProbability',
        'blurProbability',
        'blurSigma',
        'solarizeProbability',
      ] satisfies (keyof CropConfig)[]
    ).map((key) => [`augmentation, ${key}`, crops[key], OFFICIAL_CROPS[key]] as const),
  ];
  return written
    .filter(([, ours, theirs]) => JSON.stringify(ours) !== JSON.stringify(theirs))
    .map(
      ([name, ours, theirs]) =>
        `${name}: ${JSON.stringify(ours)} in this run, ${JSON.stringify(theirs)} in the trainer's code, which has no key for it.`,
    );
}

/** What a continued run kept from learning; the trainer has no key for any of it. */
function continuedIn({ continuation, model, optimizer }: RunConfig): string[] {
  if (!continuation) return [];
  const { headsOnlySteps, backboneRate, trainableBlocks, lora } = continuation;
  const learned =
    trainableBlocks === null ? 'all of the backbone' : `the last ${trainableBlocks} of ${model.depth} blocks and the final norm`;
  const updates =
    lora && trainableBlocks !== model.depth ? ', low-rank updates of the attention before them (merged into weights.pth)' : '';
  const rate = (backboneRate * optimizer.learningRate).toExponential(1);
  return [
    `In this run ${learned} learned${updates}, at a rate of ${rate}, after ${headsOnlySteps} steps of the heads alone. The trainer trains everything at the rate of the heads: lower optim.base_lr before you go on.`,
  ];
}

/** The official constructor, or the name that train.py registers one under. */
function archName({ model }: RunConfig): string {
  return officialConstructor(model) ?? `vit_${model.name}`;
}

function yaml(value: { readonly [key: string]: Yaml }, indent = ''): string {
  return Object.entries(value)
    .map(([key, item]) => {
      if (Array.isArray(item)) return `${indent}${key}: [${(item as readonly (string | number)[]).map(scalar).join(', ')}]\n`;
      if (typeof item === 'object') return `${indent}${key}:\n${yaml(item as { readonly [key: string]: Yaml }, `${indent}  `)}`;
      return `${indent}${key}: ${scalar(item)}\n`;
    })
    .join('');
}

/** YAML 1.1 takes 1e-8 for text; a number with an exponent needs a point. */
function scalar(value: string | number | boolean): string {
  if (typeof value === 'string') return JSON.stringify(value);
  const text = String(value);
  return text.includes('e') && typeof value === 'number' && !text.includes('.') ? text.replace('e', '.0e') : text;
}

// --- images -----------------------------------------------------------------------------------------------------------

/**
 * entries-TRAIN.npy and the lists of classes. The class refuses a list that is not as long as ImageNet, so the images are
 * listed over and over until it is: in one order of drawing each comes equally often, to within one.
 */
async function writeEntries(dir: string, images: number): Promise<void> {
  const rows = Math.max(IMAGENET_ROWS, images);
  const width = 8 + 4 * CLASS.length * 2;
  const text = Buffer.concat([fixedText(CLASS, CLASS.length), fixedText(CLASS, CLASS.length)]);
  const chunk = 65_536;
  const pieces = function* (): Generator<Buffer> {
    for (let from = 0; from < rows; from += chunk) {
      const count = Math.min(chunk, rows - from);
      const piece = Buffer.alloc(count * width);
      for (let i = 0; i < count; i++) {
        piece.writeUInt32LE(1 + ((from + i) % images), i * width); // the number in the link's name; class 0
        text.copy(piece, i * width + 8);
      }
      yield piece;
    }
  };
  const characters = `'<U${CLASS.length}'`;
  const descr = `[('actual_index', '<u4'), ('class_index', '<u4'), ('class_id', ${characters}), ('class_name', ${characters})]`;
  await writeNpy(join(dir, 'entries-TRAIN.npy'), descr, rows, pieces());
  for (const list of ['class-ids', 'class-names'])
    await writeNpy(join(dir, `${list}-TRAIN.npy`), characters, 1, [fixedText(CLASS, CLASS.length)]);
}

const LINK_IMAGES = `#!/bin/sh
# Makes train/${CLASS}/${CLASS}_<number>.JPEG, a link for each line of images.txt, which the trainer's ImageNet class reads.
# The images themselves are not copied or changed. Usage: sh link-images.sh FOLDER_OF_IMAGES
set -eu
cd "$(dirname "$0")"
images=$(cd "\${1:?Usage: sh link-images.sh FOLDER_OF_IMAGES}" && pwd)
mkdir -p train/${CLASS}
number=0
missing=0
while IFS= read -r path; do
  number=$((number + 1))
  if [ -f "$images/$path" ]; then
    ln -sf "$images/$path" "train/${CLASS}/${CLASS}_$number.JPEG"
  else
    missing=$((missing + 1))
    echo "not there: $images/$path" >&2
  fi
done < images.txt
echo "$((number - missing)) of $number images linked"
[ "$missing" -eq 0 ]
`;

// --- words ------------------------------------------------------------------------------------------------------------

/** Registers a size that the official code does not name, then runs its trainer. */
function trainScript(config: RunConfig): string {
  const { model } = config;
  const arch = archName(config);
  return `"""Runs the official DINOv2 trainer with ${arch}, a size that it has no name for."""
from functools import partial

from dinov2.layers import MemEffAttention, NestedTensorBlock
from dinov2.models import vision_transformer
from dinov2.train.train import get_args_parser, main


def ${arch}(patch_size=${model.patchSize}, num_register_tokens=0, **options):
    return vision_transformer.DinoVisionTransformer(
        patch_size=patch_size,
        num_register_tokens=num_register_tokens,
        embed_dim=${model.embedDim},
        depth=${model.depth},
        num_heads=${model.heads},
        mlp_ratio=${model.mlpRatio},
        block_fn=partial(NestedTensorBlock, attn_class=MemEffAttention),
        **options,
    )


vision_transformer.${arch} = ${arch}

if __name__ == "__main__":
    main(get_args_parser(add_help=True).parse_args())
`;
}

function readme(about: string, config: RunConfig, images: number, notes: readonly string[], registered: boolean): string {
  const script = registered ? 'train.py' : '"$DINOV2/dinov2/train/train.py"';
  const { model } = config;
  const batches = batchesOfStep(config);
  const more = images > IMAGENET_ROWS;
  return `# Going on with the official DINOv2 trainer

${about}

The trainer (github.com/facebookresearch/dinov2, written for Linux and CUDA) spreads a network over several GPUs with FSDP,
also over several machines. This folder holds what it needs to go on from this run's teacher.

## Once

1. Get the trainer and what it asks for (its README, "Installation"), and say where it is:

       git clone https://github.com/facebookresearch/dinov2
       export DINOV2=$PWD/dinov2

2. Bring this folder and the images to that machine, then link the images to the names that its ImageNet class reads:

       sh link-images.sh /path/to/the/images

## Training

In this folder (its configuration names everything in it by relative paths), with the number of GPUs of the machine:

    PYTHONPATH="$DINOV2" ${more ? 'PYTHONOPTIMIZE=1 ' : ''}torchrun --nproc_per_node=8 ${script} --config-file config.yaml --output-dir output

On several machines, the same on each, with --nnodes, --node_rank and --master_addr as torchrun has them. One GPU: the same
with --nproc_per_node=1.

- Each GPU takes ${config.batch} images a step, as the run did${batches > 1 ? `, which took ${batches} such batches a step: ${batches} GPUs do the same` : ''} (train.batch_size_per_gpu);
  the learning rate grows with the square root of all images of a step, as it did here.
- A killed run goes on from its last state when started again with the same command.
- Keep student.block_chunks at 0: the trainer loads weights.pth without being strict, and with another value it would
  silently load no block.
- The heads start anew: the trainer takes only a backbone. The steps in which the prototypes stand still
  (optim.freeze_last_layer_epochs) help there.
- The list of images has one entry for each file (the first page of files with several), ${
    more
      ? `and is longer than ImageNet; PYTHONOPTIMIZE=1 keeps the class from insisting on ImageNet's ${IMAGENET_ROWS.toLocaleString('en-US')}.`
      : `repeated up to ${IMAGENET_ROWS.toLocaleString('en-US')}, because the class insists on as many as ImageNet has. Each image comes equally often.`
  }
- Images are read by Pillow: convert 16-bit ones to 8 bits first, and turn those upright that rely on EXIF.
${registered ? `- The trainer has no name for this network (${model.embedDim} wide, ${model.depth} blocks, ${model.heads} heads); train.py gives it one and starts the trainer.\n` : ''}- A larger network: set student.arch to vit_small, vit_base, vit_large or vit_giant2 and student.pretrained_weights to '',
  for weights.pth fits this network alone.

## Coming back

Every ${config.checkpointEvery} iterations the trainer writes output/eval/training_<iteration>/teacher_checkpoint.pth. Import it:

    patchwise import-weights output/eval/training_<iteration>/teacher_checkpoint.pth PROJECT

or on the Train page, "Start from published weights". Proposals then come from its features. The files model_*.rank_*.pth are
the parts of a sharded state and are not for that.
${notes.length > 0 ? `\n## What differs\n\n${notes.map((note) => `- ${note}`).join('\n')}\n` : ''}`;
}
