/** Viewport, keys, history, active time, review decisions and numbers as words. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { ReviewObject } from '../../core/contract/index.ts';
import { ActiveClock } from '../../renderer/src/logic/activity.ts';
import { bytes, duration, figure, roughly } from '../../renderer/src/logic/format.ts';
import { History } from '../../renderer/src/logic/history.ts';
import { actionOf, type KeyStroke } from '../../renderer/src/logic/keymap.ts';
import { everProposed, waiting } from '../../renderer/src/logic/progress.ts';
import { applyDecision, classForNew, findAgain, keyOf, listOrder, neighbour, nextUndecided } from '../../renderer/src/logic/review.ts';
import { smooth, thin, ticks } from '../../renderer/src/logic/scale.ts';
import { fitImage, fitObject, imageSideFor, panBy, showsWell, toImage, toScreen, zoomAt } from '../../renderer/src/logic/viewport.ts';

const close = (a: number, b: number): void => assert.ok(Math.abs(a - b) < 1e-9, `${a} is not ${b}`);

test('zooming keeps the image point under the pointer, within its limits', () => {
  const image = { width: 4000, height: 3000 };
  let view = fitImage(image, { width: 900, height: 700 });
  const pointer = { x: 123, y: 456 };
  const held = toImage(view, pointer);
  for (const factor of [1.3, 2, 0.4, 7, 100, 1e-6, 3]) {
    view = zoomAt(view, pointer, factor, image);
    const now = toImage(view, pointer);
    close(now.x, held.x);
    close(now.y, held.y);
    assert.ok(view.scale <= 40 && view.scale * 4000 >= 40 - 1e-9);
  }
  const there = toScreen(view, toImage(view, { x: 5, y: 9 }));
  close(there.x, 5);
  close(there.y, 9);
});

test('fitting centres the image and shows all of it; small images at most four times', () => {
  const view = fitImage({ width: 2000, height: 500 }, { width: 800, height: 600 });
  close(view.scale, (800 - 48) / 2000);
  close(toScreen(view, { x: 1000, y: 250 }).x, 400);
  close(toScreen(view, { x: 1000, y: 250 }).y, 300);
  assert.equal(fitImage({ width: 32, height: 32 }, { width: 800, height: 600 }).scale, 4);
});

test('an object zoomed to is fully shown; a far pan keeps a strip of the image', () => {
  const screen = { width: 800, height: 600 };
  const view = fitObject([1500, 40, 60, 20], screen);
  assert.ok(showsWell(view, [1500, 40, 60, 20], screen));
  const far = panBy(view, -1e6, 1e6, { width: 2000, height: 500 }, screen);
  close(far.x + 2000 * far.scale, 48);
  close(far.y, 600 - 48);
});

test('the side asked of the host is a power of two, at least the screen, at most the image', () => {
  const image = { width: 6000, height: 4000 };
  assert.equal(imageSideFor(image, { scale: 0.15, x: 0, y: 0 }, 1), 1024);
  assert.equal(imageSideFor(image, { scale: 0.15, x: 0, y: 0 }, 2), 2048);
  assert.equal(imageSideFor(image, { scale: 3, x: 0, y: 0 }, 2), 6000);
  assert.equal(imageSideFor({ width: 30000, height: 200 }, { scale: 1, x: 0, y: 0 }, 1), 8192);
});

const stroke = (code: string, more: Partial<KeyStroke> = {}): KeyStroke => ({
  code,
  key: '',
  ctrlKey: false,
  metaKey: false,
  shiftKey: false,
  altKey: false,
  ...more,
});

test('keys bind by place, modifiers change their meaning, Alt binds nothing', () => {
  assert.deepEqual(actionOf(stroke('Enter')), { name: 'accept' });
  assert.deepEqual(actionOf(stroke('Enter', { shiftKey: true })), { name: 'acceptAll' });
  assert.deepEqual(actionOf(stroke('KeyA', { key: 'q' })), { name: 'previousImage' });
  assert.deepEqual(actionOf(stroke('Digit3', { key: '"' })), { name: 'class', digit: 3, only: false });
  assert.deepEqual(actionOf(stroke('Digit3', { key: '3', shiftKey: true })), { name: 'class', digit: 3, only: true });
  assert.equal(actionOf(stroke('Digit0')), null);
  assert.deepEqual(actionOf(stroke('KeyZ', { ctrlKey: true })), { name: 'undo' });
  assert.deepEqual(actionOf(stroke('KeyZ', { metaKey: true, shiftKey: true })), { name: 'redo' });
  assert.deepEqual(actionOf(stroke('KeyY', { ctrlKey: true })), { name: 'redo' });
  assert.deepEqual(actionOf(stroke('KeyZ')), { name: 'zoomToObject' });
  assert.deepEqual(actionOf(stroke('Backspace', { shiftKey: true })), { name: 'rejectAll' });
  assert.equal(actionOf(stroke('KeyA', { ctrlKey: true })), null);
  assert.equal(actionOf(stroke('KeyE', { shiftKey: true })), null);
  assert.deepEqual(actionOf(stroke('Minus', { key: '?', shiftKey: true })), { name: 'help' });
  assert.deepEqual(actionOf(stroke('F1')), { name: 'help' });
  assert.deepEqual(actionOf(stroke('Tab', { shiftKey: true })), { name: 'previousObject' });
  assert.deepEqual(actionOf(stroke('KeyB', { altKey: true })), { name: 'brush' });
});

test('history: redo is lost by a new step, the oldest by the limit', () => {
  const history = new History<string>(3);
  for (const step of ['a', 'b', 'c', 'd']) history.push(step);
  assert.equal(history.undo(), 'd');
  assert.equal(history.undo(), 'c');
  assert.equal(history.redo(), 'c');
  history.push('e');
  assert.equal(history.canRedo, false);
  assert.deepEqual([history.undo(), history.undo(), history.undo(), history.undo()], ['e', 'c', 'b', null]);
});

test('active time cuts gaps over thirty seconds', () => {
  const clock = new ActiveClock(1000);
  clock.touch(3000); // 2 s
  clock.touch(3000 + 29_000); // 29 s
  clock.touch(32_000 + 3_600_000); // an hour away: 30 s
  assert.equal(clock.take(3_632_000 + 1500), 62.5);
  assert.equal(clock.take(3_633_500 + 400), 0.4);
});

const object = (id: number, more: Partial<ReviewObject> = {}): ReviewObject => ({
  kind: 'proposal',
  id,
  imageId: 1,
  classId: null,
  clusterId: 2,
  score: 0.5,
  state: 'proposed',
  box: [0, 0, 2, 2],
  area: 4,
  rle: { size: [2, 2], counts: '04' },
  ...more,
});

test('with Ctrl letters bind by what the layout says, by their place where it has no Latin ones', () => {
  const withCtrl = (code: string, key: string, shiftKey = false): string | undefined =>
    actionOf(stroke(code, { key, ctrlKey: true, shiftKey }))?.name;
  assert.deepEqual([withCtrl('KeyY', 'z'), withCtrl('KeyZ', 'y'), withCtrl('KeyY', 'Z', true)], ['undo', 'redo', 'redo'], 'German');
  assert.deepEqual([withCtrl('KeyW', 'z'), withCtrl('KeyZ', 'w')], ['undo', undefined], 'French');
  assert.deepEqual([withCtrl('KeyZ', 'я'), withCtrl('KeyY', 'н')], ['undo', 'redo'], 'Russian');
});

test('decisions change the objects as the host will', () => {
  const objects = [object(1, { classId: 5 }), object(2), object(3, { kind: 'annotation', state: 'drawn', score: null })];
  const rle = { size: [4, 5] as [number, number], counts: '531N00014' };
  const acceptedOne = applyDecision(objects, { action: 'accept', proposalId: 1, classId: null, seconds: 1 }, 1)[0]!;
  assert.deepEqual([acceptedOne.kind, acceptedOne.state, acceptedOne.classId, acceptedOne.id], ['annotation', 'accepted', 5, -1]);
  assert.equal(applyDecision(objects, { action: 'accept', proposalId: 1, classId: 7, seconds: 1 }, 1)[0]!.classId, 7);
  assert.deepEqual(
    applyDecision(objects, { action: 'reject', proposalId: 2, seconds: 1 }, 1).map((o) => o.id),
    [1, 3],
  );
  const edited = applyDecision(objects, { action: 'edit', proposalId: 2, classId: 4, rle, seconds: 1 }, 1)[1]!;
  assert.deepEqual([edited.state, edited.classId, edited.area, edited.box], ['edited', 4, 7, [1, 1, 3, 3]]);
  const drawn = applyDecision(objects, { action: 'draw', imageId: 1, classId: null, rle, seconds: 1 }, 1);
  assert.deepEqual([drawn.length, drawn[3]!.state, drawn[3]!.area], [4, 'drawn', 7]);
  assert.deepEqual(
    applyDecision(objects, { action: 'acceptAll', imageId: 1, seconds: 1 }, 1).map((o) => o.kind),
    ['annotation', 'annotation', 'annotation'],
  );
  const rest = [object(1), object(2, { state: 'unsure' }), object(3, { kind: 'annotation', state: 'drawn', score: null })];
  const states = (action: 'acceptAll' | 'rejectAll'): string[] =>
    applyDecision(rest, { action, imageId: 1, seconds: 1 }, 1).map((o) => o.state);
  assert.deepEqual(states('acceptAll'), ['accepted', 'unsure', 'drawn']);
  assert.deepEqual(states('rejectAll'), ['unsure', 'drawn']);
  // Only the annotation 3 goes, not a proposal of that number.
  assert.equal(applyDecision([object(3), ...objects], { action: 'removeAnnotation', annotationId: 3, seconds: 1 }, 1).length, 3);
});

test('the list shows undecided ones surest first, unsure ones behind, rejected ones not; next goes round', () => {
  const objects = [
    object(1, { score: 0.2 }),
    object(2, { state: 'unsure', score: 0.9 }),
    object(3, { kind: 'annotation', state: 'accepted' }),
    object(4, { score: 0.8 }),
    object(5, { state: 'rejected' }),
  ];
  const list = listOrder(objects);
  assert.deepEqual(
    list.map((o) => o.id),
    [4, 1, 2, 3],
  );
  assert.equal(neighbour(list, null, 1)!.id, 4);
  assert.equal(neighbour(list, keyOf(list[0]!), -1)!.id, 3);
  assert.equal(nextUndecided(list, 'proposal:4', () => true)!.id, 1);
  assert.equal(nextUndecided(list, 'proposal:1', () => true)!.id, 4);
  assert.equal(nextUndecided(list, 'proposal:4', (o) => o.id !== 1)!.id, 2);
  assert.equal(
    nextUndecided([list[3]!], 'annotation:3', () => true),
    null,
  );
});

test('a new object has the class last used, else the commonest; without classes none', () => {
  const [leaf, stem] = [3, 8].map((id) => ({ id, name: String(id), color: '#000000', key: null, annotations: id }));
  assert.equal(classForNew(3, [leaf!, stem!]), 3);
  assert.equal(classForNew(null, [leaf!, stem!]), 8);
  assert.equal(classForNew(5, [leaf!, stem!]), 8, 'class 5 was removed');
  assert.equal(
    classForNew(null, [
      { ...leaf!, annotations: 0 },
      { ...stem!, annotations: 0 },
    ]),
    3,
  );
  assert.equal(classForNew(3, []), null);
});

test('an annotation just made is found again by its pixels', () => {
  const pending = object(-1, { kind: 'annotation', state: 'accepted' });
  const answer = [object(9, { rle: { size: [2, 2], counts: '13' } }), object(40, { kind: 'annotation', state: 'accepted' })];
  assert.equal(findAgain(answer, pending)!.id, 40);
  assert.equal(findAgain([answer[0]!], pending), null);
});

test('ticks are round numbers inside the range', () => {
  assert.deepEqual(ticks(0, 10, 5), [0, 2, 4, 6, 8, 10]);
  assert.deepEqual(ticks(7.3, 12.1, 4), [8, 10, 12]);
  assert.deepEqual(ticks(0, 0.0034, 4), [0, 0.001, 0.002, 0.003]);
});

test('thinning keeps the lowest and highest of every bucket; smoothing has no start-up bias', () => {
  const values = Array.from({ length: 1000 }, (_, i) => (i === 437 ? 99 : i === 811 ? -99 : Math.sin(i)));
  const kept = thin(values, 50, (v) => v);
  assert.ok(kept.length <= 100 && kept.includes(99) && kept.includes(-99));
  for (const value of smooth([4, 4, 4, 4], 0.9)) close(value, 4);
});

test('numbers as words', () => {
  assert.deepEqual([bytes(999), bytes(1500), bytes(34_000_000)], ['999 B', '1.5 kB', '34 MB']);
  assert.deepEqual(
    [duration(41), duration(200), duration(7800), duration(7200), duration(61_000)],
    ['41 s', '3 min', '2 h 10 min', '2 h', '17 h'],
  );
  assert.deepEqual([figure(0.00042), figure(12.3456), figure(1e-6), figure(NaN)], ['4.2e-4', '12.3', '1.0e-6', '–']);
  assert.deepEqual([roughly(40), roughly(71), roughly(1200), roughly(9000)], ['a minute or two', '1 to 2 min', '14 to 40 min', '2 to 5 h']);
});

test('a drawn mask is nothing that was proposed', () => {
  const none = { proposed: 0, accepted: 0, edited: 0, rejected: 0, unsure: 0, drawn: 0 };
  assert.deepEqual([everProposed({ ...none, drawn: 3 }), waiting({ ...none, drawn: 3 })], [0, 0]);
  assert.equal(everProposed({ proposed: 1, accepted: 10, edited: 100, rejected: 1000, unsure: 10_000, drawn: 5 }), 11_111);
});
