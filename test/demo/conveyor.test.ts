import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CONVEYOR_CLASSES, drawConveyor } from '../../core/demo/conveyor.ts';

test('the same seed and index give the same bytes, another index gives another picture', () => {
  const a = drawConveyor(3, 5, 96, 72);
  const b = drawConveyor(3, 5, 96, 72);
  const c = drawConveyor(3, 6, 96, 72);
  assert.deepEqual(a.image.data, b.image.data);
  assert.deepEqual(a.instances, b.instances);
  assert.notDeepEqual(a.image.data, c.image.data);
});

test('masks are exact: one class per instance, and a part differs from the belt around it', () => {
  const kinds = new Set<number>();
  const areas: number[] = [];
  let overlapping = 0;
  for (let index = 0; index < 24; index++) {
    const { classes, instances, image } = drawConveyor(1, index, 160, 120);
    const classOf = new Map<number, number>();
    const area = new Map<number, number>();
    for (let i = 0; i < classes.length; i++) {
      assert.equal(classes[i]! > 0, instances[i]! > 0);
      if (!instances[i]) continue;
      const known = classOf.get(instances[i]!);
      if (known === undefined) classOf.set(instances[i]!, classes[i]!);
      else assert.equal(classes[i], known, 'an instance has one class');
      area.set(instances[i]!, (area.get(instances[i]!) ?? 0) + 1);
      const right = instances[i + 1];
      if (right && right !== instances[i] && (i + 1) % 160 !== 0) overlapping++;
    }
    for (const [instance, kind] of classOf) {
      kinds.add(kind);
      areas.push(area.get(instance)!);
    }
    assert.deepEqual(
      [...area.keys()].sort((p, q) => p - q),
      Array.from({ length: area.size }, (_, k) => k + 1),
      'numbers without gaps',
    );
    assert.equal(image.data.length, 160 * 120 * 3);
  }
  assert.equal(kinds.size, CONVEYOR_CLASSES.length - 1, 'every kind of part turns up');
  assert.ok(overlapping > 0, 'parts overlap');
  assert.ok(Math.max(...areas) > 20 * Math.min(...areas), 'sizes vary widely');
});
