/** Colours of masks: a class has its own; clusters without one take turns through a fixed set. */
import type { ClassRow } from '../../../core/contract/index.ts';

/** Twelve hues that stay apart on photographs, for clusters that have no class yet. */
// prettier-ignore
export const clusterColors: readonly string[] = [
  '#4cc9f0', '#f9a03f', '#b388ff', '#5ad19a', '#ff6b8b', '#e6d94c', '#5b8def', '#ff8f5c', '#3ad6c2', '#d57bea', '#9ccc4f', '#f06fb0',
];

/** For what has neither class nor cluster. */
export const plainColor = '#9fb3c8';

export function colorOf(
  object: { readonly classId: number | null; readonly clusterId: number | null },
  classes: ReadonlyMap<number, ClassRow>,
): string {
  const own = object.classId === null ? undefined : classes.get(object.classId);
  if (own) return own.color;
  return object.clusterId === null ? plainColor : clusterColors[object.clusterId % clusterColors.length]!;
}

/** [r, g, b] of #rrggbb. */
export function rgb(hex: string): [number, number, number] {
  const value = Number.parseInt(hex.slice(1), 16);
  return [value >> 16, (value >> 8) & 255, value & 255];
}
