/** Outputs of a recorded backbone: class token, patches and registers, whole, masked, and one block early. */
import type { Executor } from '../../core/nn/index.ts';
import type { SafeTensorFile } from '../../core/dinov2/safetensors.ts';
import { classTokens, patchTokens, vitForward } from '../../core/dinov2/vit.ts';
import { relativeError, weightsOf } from '../dinov2/golden.ts';
import { modelOf } from './network.ts';
import { tensorOf, TOLERANCE, valuesOf, type Precision, type Row } from './rows.ts';

export interface VitOptions {
  readonly precision?: Precision;
  /** At most so many image sizes, those with the fewest patches; all by default. */
  readonly sizes?: number;
}

/**
 * @param recorded `weights.*`; for each size `HxW`: image, mask, cls, patch, masked.*, intermediate0.*, reg
 * @throws Error naming what the file lacks
 */
export async function checkVit(x: Executor, file: string, recorded: SafeTensorFile, options: VitOptions = {}): Promise<Row[]> {
  const tolerance = TOLERANCE[options.precision ?? 'f32'].outputs;
  const model = modelOf(recorded, 'weights.');
  const sizes = [...recorded.tensors]
    .filter(([name]) => name.endsWith('.image'))
    .sort(([, a], [, b]) => a.values.length - b.values.length)
    .map(([name]) => name.slice(0, -'.image'.length))
    .slice(0, options.sizes);
  if (sizes.length === 0) throw new Error('it has no image');

  const rows: Row[] = [];
  const parameters = x.createParameters(weightsOf(recorded, 'weights.'));
  try {
    for (const size of sizes) {
      const image = tensorOf(recorded, `${size}.image`);
      await x.scope(async () => {
        const images = x.tensor(image.values as Float32Array, image.shape);
        const compare = async (prefix: string, forward: Parameters<typeof vitForward>[4]): Promise<void> => {
          const grid = vitForward(x, parameters, model, images, forward);
          const P = grid.gridHeight * grid.gridWidth;
          const every = Int32Array.from({ length: grid.samples * P }, (_, i) => i);
          const outputs = { cls: classTokens(x, grid), patch: patchTokens(x, grid, every) };
          if (prefix === '' && model.registers > 0) Object.assign(outputs, { reg: x.sliceTokens(grid.tokens, 1, model.registers) });
          for (const [name, output] of Object.entries(outputs)) {
            const error = relativeError(await x.read(output), valuesOf(recorded, `${size}.${prefix}${name}`));
            rows.push({ file, what: prefix + name, which: size, error, tolerance });
          }
        };
        await compare('', {});
        await compare('masked.', { mask: valuesOf<Uint8Array>(recorded, `${size}.mask`) });
        await compare('intermediate0.', { blocks: model.depth - 1 });
      });
    }
    return rows;
  } finally {
    parameters.dispose();
  }
}
