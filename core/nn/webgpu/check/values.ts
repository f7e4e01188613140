/** What the checks are made of: drawn values and parameters, and results with all their gradients. */
import type { Random } from '../../../random.ts';
import type { Executor, ParameterSet, Tensor } from '../../ops.ts';
import { sizeOf } from '../../shapes.ts';
import { own } from '../engine.ts';
import { WebgpuExecutor } from '../executor.ts';
import { copyRows } from '../kernels/elementwise.ts';
import { stored } from '../kernels/kernel.ts';

/** A parameter by its name. */
export type Get = (name: string) => Tensor;

export const normals = (random: Random, count: number): Float32Array => Float32Array.from({ length: count }, () => random.normal());
export const upTo = (count: number): Int32Array => Int32Array.from({ length: count }, (_, i) => i);

/** Rows [count,n] of probabilities. */
export function probabilities(random: Random, count: number, n: number): Float32Array {
  const values = Float32Array.from({ length: count * n }, () => random.uniform(0.1, 1));
  for (let row = 0; row < count; row++) {
    const sum = values.subarray(row * n, (row + 1) * n).reduce((a, b) => a + b, 0);
    for (let i = 0; i < n; i++) values[row * n + i]! /= sum;
  }
  return values;
}

/** Some scalar of y [...,n] that depends on all of it unevenly. */
export function scalarOf(e: Executor, y: Tensor, random: Random): Tensor {
  const n = y.shape.at(-1)!;
  const rows = sizeOf(y.shape) / n;
  const [prototypes, targets] = [8, 3];
  return e.prototypeLoss({
    rows: e.gatherRows(y, upTo(rows)),
    weightV: e.tensor(normals(random, prototypes * n), [prototypes, n]),
    weightG: e.tensor(new Float32Array(prototypes).fill(1), [prototypes, 1]),
    targets: e.tensor(probabilities(random, targets, prototypes), [targets, prototypes]),
    targetRows: upTo(rows).map((row) => row % targets),
    rowWeights: Float32Array.from({ length: rows }, () => random.uniform(0.5, 1)),
    temperature: 1,
  });
}

/** Inputs of these names are tokens, or made of tokens: a step has them in the executor's precision. */
const activations = ['x', 'y', 'qkv'];

/** The values as a step has them. */
export function asActivation(e: Executor, tensor: Tensor): Tensor {
  if (!(e instanceof WebgpuExecutor) || e.precision === 'f32') return tensor;
  const { engine } = e;
  const x = own('check', tensor);
  const whole = { rows: 1, n: x.size };
  const y = engine.make(x.shape, engine.precision);
  engine.run(copyRows(engine.caps, x, stored(y), whole));
  engine.record(y, [x], (dy) => engine.run(copyRows(engine.caps, dy, engine.gradient(x)!, whole)));
  return y;
}

/** Result, and gradient of each parameter, of a result that is made of parameters with these shapes. */
export async function differentiated(
  e: Executor,
  random: Random,
  shapes: Readonly<Record<string, readonly number[]>>,
  forward: (p: Get) => Tensor,
  size?: (shape: readonly number[]) => number,
): Promise<Float32Array[]> {
  const set = createSet(e, random, shapes, size);
  try {
    return await e.scope(async () => {
      let result: Tensor | null = null;
      e.gradients(set, () => {
        result = forward((name) => (activations.includes(name) ? asActivation(e, set.get(name)) : set.get(name)));
        return result.shape.length === 0 ? result : scalarOf(e, result, random);
      });
      const gradients = await e.readGradients(set);
      return [await e.read(result!), ...set.specs.map(({ offset, size }) => gradients.subarray(offset, offset + size))];
    });
  } finally {
    set.dispose();
  }
}

/** @param size of the values of a parameter */
export function createSet(
  e: Executor,
  random: Random,
  shapes: Readonly<Record<string, readonly number[]>>,
  size: (shape: readonly number[]) => number = () => 1,
): ParameterSet {
  return e.createParameters(
    Object.entries(shapes).map(([name, shape]) => ({
      name,
      shape,
      values: normals(random, sizeOf(shape)).map((value) => size(shape) * value),
    })),
  );
}
