/** Finds the weights in what torch.save wrote: a state dict itself, or one inside a checkpoint. */
import { FileFault } from './fault.ts';
import { refuseRepetition, TorchTensor } from './torch.ts';

/** Where checkpoints keep a state dict, the first that is there; names of a teacher keep saying so. */
const PLACES = [
  { key: 'teacher', prefix: 'teacher.' },
  { key: 'model', prefix: '' },
  { key: 'state_dict', prefix: '' },
] as const;

/** @throws FileFault telling what is in the file instead */
export function stateDict(root: unknown): Map<string, TorchTensor> {
  if (!(root instanceof Map)) throw new FileFault(`it holds ${described(root)}, not a state dict`, "Save the network's state_dict().");
  const direct = tensorsOf(root, '');
  if (direct.size > 0) return direct;
  for (const { key, prefix } of PLACES) {
    const inner: unknown = root.get(key);
    if (!(inner instanceof Map)) continue;
    const found = tensorsOf(inner, prefix);
    if (found.size > 0) return found;
  }
  const keys = [...root.keys()].slice(0, 8).map(String).join(', ');
  throw new FileFault(
    `it holds no tensors under its own names nor under teacher, model or state_dict${keys === '' ? '' : `, but: ${keys}`}`,
    "Save the network's state_dict().",
  );
}

function tensorsOf(map: ReadonlyMap<unknown, unknown>, prefix: string): Map<string, TorchTensor> {
  const found = new Map<string, TorchTensor>();
  for (const [name, value] of map) if (typeof name === 'string' && value instanceof TorchTensor) found.set(prefix + name, value);
  refuseRepetition(found.values());
  return found;
}

function described(value: unknown): string {
  if (value instanceof TorchTensor) return 'a single tensor';
  if (Array.isArray(value)) return 'a list';
  return value === null ? 'nothing' : `a ${typeof value}`;
}
