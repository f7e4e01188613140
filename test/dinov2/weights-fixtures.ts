/** Networks small enough for quick files, PyTorch files made by hand (to break them), and what PyTorch says of a file. */
import { createHash } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import type { TestContext } from 'node:test';
import { ZipFile } from 'yazl';
import { modelConfig, type HeadConfig, type ModelConfig } from '../../core/dinov2/config.ts';
import { headParameters } from '../../core/dinov2/heads.ts';
import { writeSafetensors } from '../../core/dinov2/safetensors.ts';
import { vitParameters } from '../../core/dinov2/vit.ts';
import { openWeights, type OpenedWeights } from '../../core/dinov2/weights/index.ts';
import type { ParameterSpec } from '../../core/nn/ops.ts';
import { Random } from '../../core/random.ts';
import { askPython } from '../fixtures/python.ts';

/** One head of 64, two blocks. */
export function smallModel(options: Parameters<typeof modelConfig>[1] = {}): ModelConfig {
  return { ...modelConfig('nano', { positionGrid: 8, layerScale: 1e-5, ...options }), name: 'custom', embedDim: 64, depth: 2, heads: 1 };
}

/** Every value drawn, also those that start at zero or one. */
export function drawn(config: ModelConfig, seed = 5): ParameterSpec[] {
  const random = new Random(seed);
  return vitParameters(config, random).map((spec) => ({ ...spec, values: spec.values.map(() => 0.2 * random.normal()) }));
}

export const smallHead: HeadConfig = { hidden: 24, bottleneck: 12, prototypes: 40 };

/** A network as a run's checkpoint holds it, opened; closed when the test ends. */
export async function openedNetwork(
  t: TestContext,
  folder: string,
  config: ModelConfig,
  heads: readonly ('dino_head' | 'ibot_head')[] = [],
): Promise<{ weights: OpenedWeights; backbone: ParameterSpec[]; heads: ParameterSpec[] }> {
  const backbone = drawn(config);
  const own = heads.flatMap((name, i) => headParameters(smallHead, config.embedDim, new Random(i), name));
  const path = join(folder, 'teacher.safetensors');
  const named = [
    ...backbone.map((spec) => ({ ...spec, name: `teacher.backbone.${spec.name}` })),
    ...own.map((spec) => ({ ...spec, name: `teacher.${spec.name}` })),
  ];
  await writeSafetensors(path, named, { format: 'pt' });
  const weights = await openWeights(path);
  t.after(() => weights.close());
  return { weights, backbone, heads: own };
}

// --- PyTorch files by hand --------------------------------------------------------------------------------------------

export interface ZipEntry {
  readonly name: string;
  readonly bytes: Uint8Array;
  readonly compress?: boolean;
}

/** A zip file of these entries, in the folder `made/` unless their name says another. */
export async function zipFile(path: string, entries: readonly ZipEntry[], forceZip64 = false): Promise<void> {
  await rm(path, { force: true });
  const zip = new ZipFile();
  const written = pipeline(zip.outputStream, createWriteStream(path));
  for (const { name, bytes, compress = false } of entries) {
    zip.addBuffer(Buffer.from(bytes), name.includes('/') && !name.startsWith('data/') ? name : `made/${name}`, {
      compress,
      forceZip64Format: forceZip64,
    });
  }
  zip.end({ forceZip64Format: forceZip64, comment: '' });
  await written;
}

/** Opcodes and their arguments, one after the other: numbers are bytes, text is as it is. */
export function pickle(...parts: readonly (number | string)[]): Buffer {
  return Buffer.concat(parts.map((part) => (typeof part === 'number' ? Buffer.from([part]) : Buffer.from(part, 'latin1'))));
}

export interface Described {
  readonly name?: string;
  /** Values of its storage; storages are numbered in the order of the tensors. */
  readonly length?: number;
  readonly offset?: number;
  readonly shape?: readonly number[];
  readonly strides?: readonly number[];
}

/** A pickle of tensors, as torch.save would describe them; nothing is checked. */
export function pickleOfTensors(tensors: readonly Described[]): Buffer {
  const integer = (n: number): (number | string)[] => ['J', n & 255, (n >> 8) & 255, (n >> 16) & 255, n >>> 24];
  const tuple = (items: readonly number[]) => ['(', ...items.flatMap(integer), 't'];
  const text = (characters: string) => ['X', characters.length, 0, 0, 0, characters];
  const described = tensors.flatMap(({ name = 'cls_token', length = 4, offset = 0, shape = [4], strides = [1] }, i) => [
    ...text(name),
    'ctorch._utils\n_rebuild_tensor_v2\n',
    '(',
    ...['(', ...text('storage'), 'ctorch\nFloatStorage\n', ...text(String(i)), ...text('cpu'), ...integer(length), 't', 'Q'],
    ...[...integer(offset), ...tuple(shape), ...tuple(strides), 0x89, 'ccollections\nOrderedDict\n', ')', 'R'],
    't',
    'R',
  ]);
  return pickle(0x80, 2, '}', '(', ...described, 'u', '.');
}

/** A file that torch.save might have written, with this pickle and these storages. */
export async function torchFile(
  path: string,
  data: Uint8Array,
  storages: readonly Uint8Array[] = [],
  more: readonly ZipEntry[] = [],
): Promise<void> {
  await zipFile(path, [{ name: 'data.pkl', bytes: data }, ...storages.map((bytes, i) => ({ name: `data/${i}`, bytes })), ...more]);
}

export async function writeBytes(path: string, bytes: Uint8Array): Promise<void> {
  await writeFile(path, bytes);
}

// --- what PyTorch says ------------------------------------------------------------------------------------------------

/** SHA-256 of each tensor's bytes and its shape, as torch.load(path, weights_only=True)[key] has it; key null: all of it. */
export function askTorch(path: string, key: string | null): Record<string, { shape: number[]; sha256: string }> {
  const script = `
import sys, json, hashlib, torch
asked = json.load(sys.stdin)
state = torch.load(asked["path"], map_location="cpu", weights_only=True)
if asked["key"] is not None: state = state[asked["key"]]
print(json.dumps({name: {"shape": list(value.shape), "sha256": hashlib.sha256(value.detach().contiguous().numpy().tobytes()).hexdigest()} for name, value in state.items()}))`;
  return askPython(script, { path, key }) as Record<string, { shape: number[]; sha256: string }>;
}

/** The same of our own parameters. */
export function digests(specs: readonly ParameterSpec[], prefix = ''): Record<string, { shape: number[]; sha256: string }> {
  return Object.fromEntries(
    specs.map(({ name, shape, values }) => {
      const bytes = Buffer.from(values.buffer, values.byteOffset, values.byteLength);
      return [prefix + name, { shape: [...shape], sha256: createHash('sha256').update(bytes).digest('hex') }];
    }),
  );
}
