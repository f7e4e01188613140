/** Matrix products of tensors: the room that a product wants beside its operands, and where it is given back. */
import type { Engine } from './engine.ts';
import type { Operand, Target } from './kernels/kernel.ts';
import { product, productChoices, productWorkspace, type Epilogue, type Form } from './kernels/product.ts';

type FloatElement = 'f32' | 'f16';

/** c (+)= a b in the given form (`product.ts`), then the epilogue. Shapes are row-major and whole. */
export function multiply(
  engine: Engine,
  form: Form,
  { m, n, k }: { m: number; n: number; k: number },
  a: Operand,
  b: Operand,
  c: Target | Operand,
  epilogue: Epilogue = { kind: 'none' },
): void {
  const elements = { a: a.element as FloatElement, b: b.element as FloatElement, c: c.element as FloatElement };
  const among = engine.asLarge ? productChoices(engine.caps, { elements }).slice(0, 1) : undefined;
  const bytes = productWorkspace(engine.caps, { m, n, k, elements }, among);
  const workspace = bytes > 0 ? engine.room(bytes / 4) : null;
  const accumulate = 'accumulate' in c && c.accumulate;
  const regions = { a: a.region, b: b.region, c: c.region, ...(workspace ? { workspace: workspace.region } : {}) };
  engine.run(product(engine.caps, { form, m, n, k, elements, accumulate, epilogue, ...regions }, among));
  if (workspace) engine.giveBack(workspace);
}
