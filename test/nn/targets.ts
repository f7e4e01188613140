/** Targets in tests: of given logits, and as numbers. */
import type { Executor, PrototypeTargets, TargetKind, Tensor } from '../../core/nn/index.ts';

/** Targets of logits [n,K]: the prototypes are the axes, so that a row is its own logits. */
export function targetsOf(e: Executor, logits: Float32Array, [n, K]: readonly [number, number], how: TargetKind): PrototypeTargets {
  return e.prototypeTargets(e.tensor(logits, [n, K]), ...axes(e, K), how);
}

/** Directions and lengths of K prototypes that are the axes. */
export function axes(e: Executor, K: number): [weightV: Tensor, weightG: Tensor] {
  const directions = new Float32Array(K * K);
  for (let k = 0; k < K; k++) directions[k * K + k] = 1;
  return [e.tensor(directions, [K, K]), e.tensor(new Float32Array(K).fill(1), [K, 1])];
}

/** All of the targets, [rows, prototypes]. */
export function wholeTargets(e: Executor, targets: PrototypeTargets): Tensor {
  return e.gatherTargets(
    targets,
    Int32Array.from({ length: targets.rows }, (_, r) => r),
  );
}
