/** An imported network as a project keeps it: one safetensors file of float32 values, named like a run's teacher. */
import { writeSafetensors, type LazyTensor } from '../safetensors.ts';
import type { OpenedWeights } from './open.ts';

/** Names in a training checkpoint: `backbone.*`, and heads under their own. */
export function checkpointTensors({ backbone, heads }: OpenedWeights, prefix = ''): LazyTensor[] {
  const renamed = (tensors: readonly LazyTensor[], before: string): LazyTensor[] =>
    tensors.map(({ name, shape, read }) => ({ name: before + name, shape, read }));
  return [
    ...renamed(backbone, `${prefix}backbone.`),
    ...renamed(heads?.dino?.parameters ?? [], prefix),
    ...renamed(heads?.ibot?.parameters ?? [], prefix),
  ];
}

/**
 * Writes and flushes the file, tensor by tensor; `loadBackbone` and `readWeights` read it. The caller writes to a temporary
 * place and renames.
 * @throws AppError weights-unreadable when a tensor turns out to be damaged
 */
export async function keepWeights(weights: OpenedWeights, path: string): Promise<void> {
  await writeSafetensors(path, checkpointTensors(weights, 'teacher.'), {
    format: 'pt',
    model: JSON.stringify(weights.config),
    source: JSON.stringify(weights.facts),
  });
}
