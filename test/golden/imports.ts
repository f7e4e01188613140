/**
 * Weight files of other programs (`import-*.pth`, `import-hf.safetensors`) against `import-expected`. The place where their
 * reader plugs in: compare `readWeights(path)` of core/dinov2/weights with the true weights (exact; float16 and bfloat16
 * to that type) and its outputs for the recorded image with `expect.cls` and `expect.patch` (1e-5).
 */
import type { Executor } from '../../core/nn/index.ts';
import type { Row } from './rows.ts';

/** @returns the comparisons, or in words why there are none */
export async function checkImport(_x: Executor, _folder: string, _name: string): Promise<Row[] | string> {
  return 'this version reads no such file';
}
