/**
 * Every way of naming a DINOv2 network's tensors to one: the official names, blocks counted through, behind nothing
 * (backbone), `dino_head.` or `ibot_head.`. Values are untouched, but that Hugging Face's query, key and value are joined.
 */
import { FileFault } from './fault.ts';
import type { StoredTensor } from './tensorFile.ts';

export interface NamedTensors {
  /** In words: whose names they were. */
  readonly naming: string;
  readonly backbone: ReadonlyMap<string, StoredTensor>;
  readonly heads: ReadonlyMap<string, StoredTensor>;
  /** Names in the file that belong to no network of interest: the student's, the optimizer's, a classifier's. */
  readonly leftOut: readonly string[];
}

/** Put in front by wrappers of the module (DataParallel, torch.compile). */
const WRAPPERS = /^(?:module\.|_orig_mod\.|_fsdp_wrapped_module\.)+/;
/** Beside the backbone in a training checkpoint, in one of Patchwise, and in models with something on top. */
const BESIDE = /^(?:student\.|optim\.|centers\.|dino_loss\.|ibot_patch_loss\.|classifier\.|linear_head\.|pooler\.)/;
const HEADS = /^(?:dino_head|ibot_head)\./;
const HUGGING_FACE = /^(?:dinov2\.|dinov2_with_registers\.)?(?=embeddings\.|encoder\.layer\.|layernorm\.)/;

/** @throws FileFault when only a student is there, or two tensors come to the same name */
export function officialNames(tensors: ReadonlyMap<string, StoredTensor>): NamedTensors {
  const names = [...tensors.keys()].map((name) => ({ name, plain: name.replace(WRAPPERS, '') }));
  const ofTeacher = names.some(({ plain }) => plain.startsWith('teacher.'));
  if (!ofTeacher && names.some(({ plain }) => plain.startsWith('student.'))) {
    throw new FileFault(
      'it holds the state of a training run without its teacher',
      'Choose teacher.safetensors beside it, or an official run’s teacher_checkpoint.pth.',
    );
  }
  if (names.some(({ plain }) => plain.includes('_flat_param'))) {
    throw new FileFault(
      'it is one part of a network that FSDP has divided',
      'Choose eval/training_<iteration>/teacher_checkpoint.pth of that run.',
    );
  }
  const backbone = new Map<string, StoredTensor>();
  const heads = new Map<string, StoredTensor>();
  const leftOut: string[] = [];
  let huggingFace = false;
  for (const { name, plain } of names) {
    if (BESIDE.test(plain) || (ofTeacher && !plain.startsWith('teacher.'))) {
      leftOut.push(name);
      continue;
    }
    const inner = plain
      .replace(/^teacher\./, '')
      .replace(WRAPPERS, '')
      .replace(/^backbone\./, '')
      .replace(WRAPPERS, '');
    huggingFace ||= HUGGING_FACE.test(inner);
    const target = HEADS.test(inner) ? heads : backbone;
    const official = HUGGING_FACE.test(inner)
      ? fromHuggingFace(inner.replace(HUGGING_FACE, ''))
      : inner.replace(/^blocks\.\d+\.(?=\d+\.)/, 'blocks.');
    if (target.has(official)) throw new FileFault(`it has ${official} twice, once as ${name}`);
    target.set(official, tensors.get(name)!);
  }
  if (huggingFace) joinQueryKeyValue(backbone);
  return {
    naming: huggingFace ? 'Hugging Face names' : ofTeacher ? 'teacher of a training checkpoint' : 'official names',
    backbone,
    heads,
    leftOut,
  };
}

/** Of transformers' Dinov2Model and Dinov2WithRegistersModel, as (pattern, official). */
const RENAMED: readonly (readonly [RegExp, string])[] = [
  [/^embeddings\.(cls_token|mask_token|register_tokens)$/, '$1'],
  [/^embeddings\.position_embeddings$/, 'pos_embed'],
  [/^embeddings\.patch_embeddings\.projection\./, 'patch_embed.proj.'],
  [/^layernorm\./, 'norm.'],
  [/^encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\./, 'blocks.$1.attn.$2.'],
  [/^encoder\.layer\.(\d+)\.attention\.output\.dense\./, 'blocks.$1.attn.proj.'],
  [/^encoder\.layer\.(\d+)\.layer_scale([12])\.lambda1$/, 'blocks.$1.ls$2.gamma'],
  [/^encoder\.layer\.(\d+)\.mlp\.weights_in\./, 'blocks.$1.mlp.w12.'],
  [/^encoder\.layer\.(\d+)\.mlp\.weights_out\./, 'blocks.$1.mlp.w3.'],
  [/^encoder\.layer\.(\d+)\./, 'blocks.$1.'],
];

function fromHuggingFace(name: string): string {
  const [pattern, official] = RENAMED.find(([candidate]) => candidate.test(name)) ?? [/^/, ''];
  return name.replace(pattern, official);
}

/** blocks.i.attn.query, .key and .value become rows [q; k; v] of blocks.i.attn.qkv. */
function joinQueryKeyValue(tensors: Map<string, StoredTensor>): void {
  for (const name of [...tensors.keys()]) {
    const match = /^(blocks\.\d+\.attn\.)query(\.(?:weight|bias))$/.exec(name);
    if (!match) continue;
    const parts = ['query', 'key', 'value'].map((part) => tensors.get(`${match[1]}${part}${match[2]}`));
    const [query] = parts;
    if (!parts.every((part) => part !== undefined) || parts.some((part) => String(part.shape) !== String(query!.shape))) continue; // told as missing and surplus
    for (const part of ['query', 'key', 'value']) tensors.delete(`${match[1]}${part}${match[2]}`);
    const [rows = 0, ...rest] = query!.shape;
    tensors.set(`${match[1]}qkv${match[2]}`, {
      shape: [3 * rows, ...rest],
      type: query!.type,
      async read() {
        const joined = new Float32Array(3 * [rows, ...rest].reduce((a, b) => a * b, 1));
        for (const [i, part] of parts.entries()) joined.set(await part.read(), (i * joined.length) / 3);
        return joined;
      },
    });
  }
}

/** The name in transformers' models; `qkv` tensors are three of theirs and have none. */
export function huggingFaceName(official: string): string {
  const block = /^blocks\.(\d+)\.(.*)$/.exec(official);
  if (!block) {
    return official
      .replace(/^(cls_token|mask_token|register_tokens)$/, 'embeddings.$1')
      .replace(/^pos_embed$/, 'embeddings.position_embeddings')
      .replace(/^patch_embed\.proj\./, 'embeddings.patch_embeddings.projection.')
      .replace(/^norm\./, 'layernorm.');
  }
  const inner = block[2]!
    .replace(/^attn\.(query|key|value)\./, 'attention.attention.$1.')
    .replace(/^attn\.proj\./, 'attention.output.dense.')
    .replace(/^ls([12])\.gamma$/, 'layer_scale$1.lambda1')
    .replace(/^mlp\.w12\./, 'mlp.weights_in.')
    .replace(/^mlp\.w3\./, 'mlp.weights_out.');
  return `encoder.layer.${block[1]}.${inner}`;
}
