/**
 * Weight files of other programs (`import-*`) against `import-expected`: the weights exactly, float16 and bfloat16 to that
 * type, and the outputs for its image.
 */
import path from 'node:path';
import { readSafetensors } from '../../core/dinov2/safetensors.ts';
import { classTokens, patchTokens, vitForward } from '../../core/dinov2/vit.ts';
import { readWeights } from '../../core/dinov2/weights/index.ts';
import type { Executor } from '../../core/nn/index.ts';
import { relativeError } from '../dinov2/golden.ts';
import { tensorOf, TOLERANCE, valuesOf, type Precision, type Row } from './rows.ts';

/** Nearest values of the type a file keeps its weights in; bfloat16 is the upper half of a float32, halves to even. */
const ROUND: Readonly<Record<string, (value: number) => number>> = {
  F32: (value) => value,
  F16: (value) => Math.f16round(value),
  BF16: (value) => {
    const bits = new DataView(new ArrayBuffer(4));
    bits.setFloat32(0, value);
    const whole = bits.getUint32(0);
    bits.setUint32(0, (whole + 0x7fff + ((whole >>> 16) & 1)) & 0xffff0000);
    return bits.getFloat32(0);
  },
};

/**
 * @param name of a file in the folder; of `import-expected` itself there is nothing to compare
 * @throws Error naming what is wrong, as `readWeights` says it
 */
export async function checkImport(x: Executor, folder: string, name: string, precision: Precision = 'f32'): Promise<Row[]> {
  const file = path.parse(name).name;
  if (file === 'import-expected') return [];
  const expected = await readSafetensors(path.join(folder, 'import-expected.safetensors'));
  const { config, backbone, facts } = await readWeights(path.join(folder, name));
  const round = ROUND[facts.type];
  if (!round) throw new Error(`its weights are of the type ${facts.type}, which is not compared here`);
  const given = new Set(backbone.map((parameter) => parameter.name));
  for (const parameter of expected.tensors.keys()) {
    if (!parameter.startsWith('expect.') && !given.has(parameter)) throw new Error(`${parameter} was not found in it`);
  }

  const rows = backbone.map(({ name: which, values }): Row => {
    const truth = valuesOf<Float32Array>(expected, which).map(round);
    return { file, what: `weights as ${facts.type}`, which, error: relativeError(values, truth), tolerance: 0 };
  });
  if (facts.type !== 'F32') return rows; // other weights give other outputs
  const parameters = x.createParameters(backbone);
  try {
    await x.scope(async () => {
      const image = tensorOf(expected, 'expect.image');
      const grid = vitForward(x, parameters, config, x.tensor(image.values as Float32Array, image.shape));
      const every = Int32Array.from({ length: grid.samples * grid.gridHeight * grid.gridWidth }, (_, i) => i);
      for (const [which, output] of [
        ['cls', classTokens(x, grid)],
        ['patch', patchTokens(x, grid, every)],
      ] as const) {
        const error = relativeError(await x.read(output), valuesOf(expected, `expect.${which}`));
        rows.push({ file, what: 'outputs', which, error, tolerance: TOLERANCE[precision].outputs });
      }
    });
  } finally {
    parameters.dispose();
  }
  return rows;
}
