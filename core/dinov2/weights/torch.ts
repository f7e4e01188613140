/**
 * What PyTorch's two file formats have in common: a pickle that describes tensors over storages, of which only a closed
 * list of names is known, and the tensors as views of the storages. Where storages lie is `torchZip.ts`'s and
 * `torchLegacy.ts`'s.
 */
import { FLOAT_BYTES, isFloatType, toFloat32 } from '../floats.ts';
import { FileFault } from './fault.ts';
import { Global, Tuple, type PickleCalls } from './pickle.ts';

/** A run of numbers in the file that tensors are views of. */
export interface Storage {
  readonly key: string;
  /** As in safetensors: F32, I64, ... */
  readonly type: string;
  /** Number of values. */
  readonly length: number;
}

export class TorchTensor {
  readonly storage: Storage;
  /** In values. */
  readonly offset: number;
  readonly shape: readonly number[];
  readonly strides: readonly number[];

  constructor(storage: Storage, offset: number, shape: readonly number[], strides: readonly number[]) {
    this.storage = storage;
    this.offset = offset;
    this.shape = shape;
    this.strides = strides;
  }
}

const STORAGE_TYPES: Readonly<Record<string, string>> = {
  'torch.FloatStorage': 'F32',
  'torch.HalfStorage': 'F16',
  'torch.BFloat16Storage': 'BF16',
  'torch.DoubleStorage': 'F64',
  'torch.LongStorage': 'I64',
  'torch.IntStorage': 'I32',
  'torch.ShortStorage': 'I16',
  'torch.CharStorage': 'I8',
  'torch.ByteStorage': 'U8',
  'torch.BoolStorage': 'BOOL',
};

export const STORAGE_BYTES: Readonly<Record<string, number>> = {
  F32: 4,
  F16: 2,
  BF16: 2,
  F64: 8,
  I64: 8,
  I32: 4,
  I16: 2,
  I8: 1,
  U8: 1,
  BOOL: 1,
};

/** Beyond these, the names that a state dict needs. */
const CALLABLES: Readonly<Record<string, (args: readonly unknown[]) => unknown>> = {
  'collections.OrderedDict': orderedDict,
  'torch.Size': ([sizes]) => sizes,
  'torch._utils._rebuild_tensor_v2': rebuildTensor,
  /** A torch.nn.Parameter: its tensor. */
  'torch._utils._rebuild_parameter': ([tensor]) => tensor,
};

/** The names that a file of weights may use. Every other is refused, by name. */
export class TorchNames implements PickleCalls {
  /** Every storage that was named, by its key. */
  readonly storages = new Map<string, Storage>();

  global(name: string): unknown {
    if (Object.hasOwn(STORAGE_TYPES, name) || Object.hasOwn(CALLABLES, name)) return new Global(name);
    throw new FileFault(
      `it asks Python for ${name}, which weights do not need; nothing of it was run`,
      'If you do not know why it would, do not open it with any program. If you trust it, save its weights alone in Python: torch.save(model.state_dict(), "weights.pth").',
    );
  }

  call(callable: unknown, args: readonly unknown[]): unknown {
    const rebuild = callable instanceof Global && Object.hasOwn(CALLABLES, callable.name) ? CALLABLES[callable.name] : undefined;
    if (!rebuild) throw new FileFault('its list of tensors calls something that cannot be called');
    return rebuild(args);
  }

  /** ('storage', type, key, device, length[, view]) */
  persistent(id: unknown): Storage {
    const [kind, type, key, , length, view = null] = id instanceof Tuple ? id.items : [];
    const name = type instanceof Global ? STORAGE_TYPES[type.name] : undefined;
    if (kind !== 'storage' || name === undefined || typeof key !== 'string' || !isNatural(length)) {
      throw new FileFault('its list of tensors names a storage that is malformed');
    }
    if (view !== null)
      throw new FileFault(
        `storage ${key} is a part of another, as only very old PyTorch wrote`,
        'Load and save it again with a newer PyTorch.',
      );
    const known = this.storages.get(key);
    if (known && (known.type !== name || known.length !== length)) throw new FileFault(`it describes storage ${key} in two ways`);
    const storage = known ?? { key, type: name, length };
    this.storages.set(key, storage);
    return storage;
  }
}

/** OrderedDict(), or OrderedDict([(key, value), ...]). */
function orderedDict([pairs = []]: readonly unknown[]): Map<unknown, unknown> {
  if (!Array.isArray(pairs)) throw new FileFault('its list of tensors has a dictionary that is malformed');
  return new Map(
    (pairs as unknown[]).map((pair): [unknown, unknown] => {
      const items = pair instanceof Tuple ? pair.items : pair;
      if (!Array.isArray(items) || items.length !== 2) throw new FileFault('its list of tensors has a dictionary that is malformed');
      return [items[0], items[1]];
    }),
  );
}

/** (storage, offset, size, stride, requires_grad, hooks, ...) */
function rebuildTensor([storage, offset, size, stride]: readonly unknown[]): TorchTensor {
  const naturals = (value: unknown): readonly number[] => {
    if (!(value instanceof Tuple) || value.items.length > 8 || !value.items.every(isNatural)) {
      throw new FileFault('one of its tensors has a shape or strides that are malformed');
    }
    return value.items as readonly number[];
  };
  const shape = naturals(size);
  const strides = naturals(stride);
  const { key, length } = (storage ?? {}) as Partial<Storage>;
  if (key === undefined || length === undefined || !isNatural(offset) || strides.length !== shape.length) {
    throw new FileFault('one of its tensors is malformed');
  }
  const last = shape.reduce((end, n, axis) => end + (n - 1) * strides[axis]!, offset);
  const values = shape.reduce((a, b) => a * b, 1);
  // A repeated value (stride 0) would make more of them than the file holds.
  if (values > 0 && (last >= length || values > length)) {
    throw new FileFault(`a tensor of shape [${shape.join(', ')}] reaches beyond the ${length} values of its storage ${key}`);
  }
  return new TorchTensor(storage as Storage, offset, shape, strides);
}

/** Weights may share values (tied layers name them twice), but not so that a small file asks for a large memory. */
const MOST_SHARING = 4;

/** @throws FileFault when tensors name the values of their storages over and over */
export function refuseRepetition(tensors: Iterable<TorchTensor>): void {
  const storages = new Set<Storage>();
  let values = 0;
  for (const { storage, shape } of tensors) {
    storages.add(storage);
    values += shape.reduce((a, b) => a * b, 1);
  }
  const held = [...storages].reduce((sum, { length }) => sum + length, 0);
  if (values > MOST_SHARING * held) throw new FileFault(`its tensors count ${values} values, of which the file holds ${held}`);
}

function isNatural(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}

/**
 * The values of a tensor, row-major.
 * @param read bytes of the tensor's storage
 * @throws FileFault when they are not floating-point numbers of 16 or 32 bits
 */
export async function readTensor(
  { storage, offset, shape, strides }: TorchTensor,
  read: (storage: Storage, from: number, to: number) => Promise<Uint8Array<ArrayBuffer>>,
): Promise<Float32Array> {
  const { type } = storage;
  if (!isFloatType(type))
    throw new FileFault(`one of its tensors has values of the type ${type}, not 16- or 32-bit floating-point numbers`);
  const count = shape.reduce((a, b) => a * b, 1);
  if (count === 0) return new Float32Array(0);
  const size = FLOAT_BYTES[type];
  const extent = shape.reduce((end, n, axis) => end + (n - 1) * strides[axis]!, 1);
  const values = toFloat32(await read(storage, offset * size, (offset + extent) * size), type);
  return isRowMajor(shape, strides) ? values : gather(values, shape, strides);
}

function isRowMajor(shape: readonly number[], strides: readonly number[]): boolean {
  let step = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    if (shape[axis] !== 1 && strides[axis] !== step) return false;
    step *= shape[axis]!;
  }
  return true;
}

/** A view (transposed, sliced) in row-major order. */
function gather(values: Float32Array, shape: readonly number[], strides: readonly number[]): Float32Array {
  const out = new Float32Array(shape.reduce((a, b) => a * b, 1));
  const index = new Array<number>(shape.length).fill(0);
  let from = 0;
  for (let i = 0; i < out.length; i++) {
    out[i] = values[from]!;
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      from += strides[axis]!;
      if (++index[axis]! < shape[axis]!) break;
      from -= strides[axis]! * shape[axis]!;
      index[axis] = 0;
    }
  }
  return out;
}
