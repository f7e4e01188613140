// Decisions and their history on a real database, without a server.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import type { Decision, ReviewChange, ReviewObject } from '../../core/contract/index.ts';
import { rleArea } from '../../core/labels/index.ts';
import { Random } from '../../core/random.ts';
import { Project } from '../../core/host/project.ts';
import { classRows, createClass, removeClass } from '../../core/host/store/classes.ts';
import { saveImage } from '../../core/host/store/images.ts';
import { learningExamples, projectSummary, setImageDone } from '../../core/host/store/overview.ts';
import { discardCluster, nameCluster, replaceClusters, replaceProposals } from '../../core/host/store/proposals.ts';
import { queue } from '../../core/host/store/queue.ts';
import { reviewStats } from '../../core/host/store/figures.ts';
import { redo, undo } from '../../core/host/store/history.ts';
import { reviewImage } from '../../core/host/store/objects.ts';
import { decide } from '../../core/host/store/review.ts';
import { temporaryFolder } from '../fixtures/files.ts';
import { imageSize, rectangle, scanned } from './shapes.ts';

interface Review {
  project: Project;
  decide(decision: Decision, reviewer?: string): ReviewChange;
  undo(): ReviewChange;
  redo(): ReviewChange;
  objects(imageId?: number): readonly ReviewObject[];
  reopen(): void;
}

/** Two images with three proposals each (ids 1-3 and 4-6), classes "leaf" (1) and "stem" (2). */
function review(t: TestContext): Review {
  const dir = join(temporaryFolder(t), 'p');
  const self: Review = {
    project: Project.create(dir, 'Test', '/images'),
    decide: (decision, reviewer = '') => self.project.write((w) => decide(w, decision, reviewer)),
    undo: () => self.project.write((w) => undo(w, '')),
    redo: () => self.project.write((w) => redo(w, '')),
    objects: (imageId = 1) => reviewImage(self.project, imageId).objects,
    reopen() {
      self.project.close();
      self.project = Project.open(dir);
    },
  };
  t.after(() => self.project.close());
  self.project.write((w) => {
    createClass(w, 'leaf', null);
    createClass(w, 'stem', null);
    for (const path of ['a.png', 'b.png']) {
      const imageId = saveImage(w, scanned(path));
      const drafts = [
        rectangle(imageSize, 0, 0, 4, 4, { classId: 1, score: 0.9, margin: 0.5 }),
        rectangle(imageSize, 8, 0, 4, 4, { score: 0.8, margin: 0.1 }),
        rectangle(imageSize, 0, 8, 4, 4, { classId: 2, score: 0.7, margin: 0.9 }),
      ];
      replaceProposals(w, imageId, drafts, 'm', false);
    }
  });
  return self;
}

const brief = (objects: readonly ReviewObject[]) => objects.map(({ kind, id, state, classId, area }) => [kind, id, state, classId, area]);

test('each action does what it says, and tells what changed', (t) => {
  const r = review(t);
  const wider = rectangle(imageSize, 8, 0, 5, 4).rle;
  assert.equal(r.decide({ action: 'accept', proposalId: 1, classId: null, seconds: 1 }).label, 'Accepted as leaf');
  const edited = r.decide({ action: 'edit', proposalId: 2, classId: 2, rle: wider, seconds: 1 });
  assert.equal(edited.label, 'Accepted with changes as stem');
  r.decide({ action: 'unsure', proposalId: 3, seconds: 1 });
  assert.deepEqual(brief(r.objects()), [
    ['annotation', 1, 'accepted', 1, 16],
    ['annotation', 2, 'edited', 2, 20],
    ['proposal', 3, 'unsure', 2, 16],
  ]);
  assert.deepEqual(
    edited.objects,
    r.objects().map((object) => (object.id === 3 ? { ...object, state: 'proposed' } : object)),
  );

  r.decide({ action: 'editAnnotation', annotationId: 1, classId: 2, rle: null, seconds: 1 });
  assert.equal(r.objects()[0]!.state, 'accepted', 'another class is not another pixel');
  r.decide({ action: 'editAnnotation', annotationId: 1, classId: null, rle: rectangle(imageSize, 0, 0, 4, 3).rle, seconds: 1 });
  assert.deepEqual(brief(r.objects()).slice(0, 1), [['annotation', 1, 'edited', 2, 12]]);
  r.decide({ action: 'removeAnnotation', annotationId: 2, seconds: 1 });
  assert.deepEqual(brief(r.objects()).slice(1), [
    ['proposal', 2, 'rejected', null, 16],
    ['proposal', 3, 'unsure', 2, 16],
  ]);
  r.decide({ action: 'setClass', proposalId: 3, classId: 1, seconds: 1 });
  r.decide({ action: 'draw', imageId: 1, classId: 1, rle: rectangle(imageSize, 20, 10, 2, 3).rle, seconds: 1 });
  const all = r.decide({ action: 'acceptAll', imageId: 2, seconds: 1 });
  assert.deepEqual([all.label, all.objects.map((object) => object.state)], ['Accepted 3 proposals', ['accepted', 'accepted', 'accepted']]);

  const rows = r.project
    .all('SELECT action, image_id, objects, pixels_changed FROM decisions ORDER BY id')
    .map((row) => Object.values(row as object));
  assert.deepEqual(rows, [
    ['accept', 1, 1, 0],
    ['edit', 1, 1, 4],
    ['unsure', 1, 1, 0],
    ['editAnnotation', 1, 1, 0],
    ['editAnnotation', 1, 1, 4],
    ['removeAnnotation', 1, 1, 20],
    ['setClass', 1, 1, 0],
    ['draw', 1, 1, 6],
    ['acceptAll', 2, 3, 0],
  ]);
  assert.deepEqual(projectSummary(r.project).counts, { proposed: 0, accepted: 3, edited: 1, rejected: 1, unsure: 1, drawn: 1 });
  assert.deepEqual(
    learningExamples(r.project).accepted.map(({ imageId, classId, drawn, rle }) => [imageId, classId, drawn, rleArea(rle)]),
    [
      [1, 2, false, 12],
      [1, 1, true, 6],
      [2, 1, false, 16],
      [2, null, false, 16],
      [2, 2, false, 16],
    ],
  );
});

test('what cannot be is refused, and nothing has changed', (t) => {
  const r = review(t);
  r.decide({ action: 'accept', proposalId: 1, classId: null, seconds: 1 });
  const before = r.objects();
  const good = rectangle(imageSize, 0, 0, 2, 2).rle;
  const cases: [code: string, words: RegExp, decision: Decision][] = [
    ['bad-input', /already accepted/, { action: 'accept', proposalId: 1, classId: null, seconds: 1 }],
    ['bad-input', /already accepted/, { action: 'reject', proposalId: 1, seconds: 1 }],
    ['object-gone', /no proposal 99/, { action: 'accept', proposalId: 99, classId: null, seconds: 1 }],
    ['object-gone', /no annotation 99/, { action: 'removeAnnotation', annotationId: 99, seconds: 1 }],
    ['bad-input', /no class 9/, { action: 'accept', proposalId: 2, classId: 9, seconds: 1 }],
    ['bad-input', /no image 9/, { action: 'draw', imageId: 9, classId: null, rle: good, seconds: 1 }],
    [
      'masks-mismatch',
      /16 x 24 pixels, a\.png is 24 x 16/,
      { action: 'draw', imageId: 1, classId: null, rle: { size: [24, 16], counts: good.counts }, seconds: 1 },
    ],
    ['mask-invalid', /no pixels/, { action: 'edit', proposalId: 2, classId: null, rle: rectangle(imageSize, 0, 0, 0, 0).rle, seconds: 1 }],
    ['mask-invalid', /./, { action: 'edit', proposalId: 2, classId: null, rle: { size: good.size, counts: '~~~' }, seconds: 1 }],
    [
      'mask-invalid',
      /./,
      { action: 'draw', imageId: 1, classId: null, rle: { size: good.size, counts: good.counts + good.counts }, seconds: 1 },
    ],
  ];
  for (const [code, words, decision] of cases) {
    assert.throws(
      () => r.decide(decision),
      (error: { code: string; message: string }) => error.code === code && words.test(error.message),
      JSON.stringify(decision),
    );
  }
  assert.deepEqual(r.objects(), before);
  assert.equal(r.project.get<{ n: number }>('SELECT count(*) AS n FROM decisions')!.n, 1);
});

test('undo and redo give back every state exactly, across images and restarts, whatever was decided', (t) => {
  const r = review(t);
  const random = new Random(3);
  const pick = (n: number) => Math.floor(random.uniform() * n);
  const state = () => JSON.stringify([r.objects(1), r.objects(2), projectSummary(r.project).counts]);
  // What stands after each decision of the timeline, from none on.
  let states = [state()];
  let at = 0;
  const tried = { decisions: 0, undo: 0, redo: 0 };
  for (let n = 0; n < 250; n++) {
    const what = pick(10);
    if (n % 60 === 59) r.reopen();
    if (what < 3 && at > 0) {
      const change = r.undo();
      at--;
      tried.undo++;
      assert.deepEqual([change.canUndo, change.canRedo], [at > 0, true]);
    } else if (what < 6 && at < states.length - 1) {
      const change = r.redo();
      at++;
      tried.redo++;
      assert.deepEqual([change.canUndo, change.canRedo], [true, at < states.length - 1]);
    } else {
      try {
        r.decide(randomDecision(r, pick));
      } catch {
        continue; // not possible now; the previous test has those
      }
      at++;
      tried.decisions++;
      states = [...states.slice(0, at), state()];
    }
    assert.equal(state(), states[at], `after ${n} steps`);
  }
  assert.ok(Math.min(...Object.values(tried)) > 15, JSON.stringify(tried));
  const standing = at;
  for (; at > 0; at--) r.undo();
  assert.equal(state(), states[0]);
  assert.throws(() => r.undo(), { code: 'nothing-to-undo' });
  for (; at < states.length - 1; at++) r.redo();
  assert.equal(state(), states.at(-1));
  assert.throws(() => r.redo(), { code: 'nothing-to-undo' });
  const { n } = r.project.get<{ n: number }>('SELECT count(*) AS n FROM decisions')!;
  assert.equal(n, tried.decisions + tried.undo + tried.redo + standing + (states.length - 1), 'nothing is ever taken out of the history');
});

function randomDecision(r: Review, pick: (n: number) => number): Decision {
  const imageId = 1 + pick(2);
  const objects = r.objects(imageId);
  const object = objects[pick(objects.length)]!;
  const classId = [null, 1, 2][pick(3)]!;
  const { rle } = rectangle(imageSize, pick(20), pick(12), 1 + pick(4), 1 + pick(4));
  if (object.kind === 'annotation') {
    return pick(2)
      ? { action: 'editAnnotation', annotationId: object.id, classId, rle: pick(2) ? rle : null, seconds: 1 }
      : { action: 'removeAnnotation', annotationId: object.id, seconds: 1 };
  }
  const proposalId = object.id;
  const all: Decision[] = [
    { action: 'accept', proposalId, classId, seconds: 1 },
    { action: 'reject', proposalId, seconds: 1 },
    { action: 'unsure', proposalId, seconds: 1 },
    { action: 'setClass', proposalId, classId, seconds: 1 },
    { action: 'edit', proposalId, classId, rle, seconds: 1 },
    { action: 'draw', imageId, classId, rle, seconds: 1 },
    { action: 'acceptAll', imageId, seconds: 1 },
    { action: 'rejectAll', imageId, seconds: 1 },
  ];
  return all[pick(all.length)]!;
}

test('the rest of an image is decided at once, what is unsure stays, one step back brings all back', (t) => {
  for (const [action, state] of [
    ['acceptAll', 'accepted'],
    ['rejectAll', 'rejected'],
  ] as const) {
    const r = review(t);
    const [first, ...others] = r.objects(2).map(({ id }) => id);
    r.decide({ action: 'unsure', proposalId: first!, seconds: 1 });
    const before = brief(r.objects(2));
    const { label } = r.decide({ action, imageId: 2, seconds: 1 });
    assert.equal(label, `${state === 'accepted' ? 'Accepted' : 'Rejected'} ${others.length} proposals`);
    const after = r.objects(2);
    assert.deepEqual(after.map((object) => object.state).sort(), [...others.map(() => state), 'unsure'].sort());
    assert.equal(
      (r.project.all('SELECT objects FROM decisions ORDER BY id DESC LIMIT 1')[0] as { objects: number }).objects,
      others.length,
    );
    assert.throws(() => r.decide({ action, imageId: 2, seconds: 1 }), /left to decide at once/);
    r.undo();
    assert.deepEqual(brief(r.objects(2)), before);
  }
});

test('a machine replaces only what nobody decided on, and repeats nothing that somebody did', (t) => {
  const r = review(t);
  r.decide({ action: 'accept', proposalId: 1, classId: null, seconds: 1 });
  r.decide({ action: 'reject', proposalId: 2, seconds: 1 });
  r.decide({ action: 'setClass', proposalId: 4, classId: 2, seconds: 1 });
  r.decide({ action: 'unsure', proposalId: 5, seconds: 1 });
  r.decide({ action: 'accept', proposalId: 6, classId: null, seconds: 1 });
  r.undo();
  const drafts = [
    rectangle(imageSize, 0, 0, 5, 4), // repeats the accepted one (IoU 0.8)
    rectangle(imageSize, 8, 0, 4, 4), // repeats the rejected one
    rectangle(imageSize, 8, 0, 6, 4), // overlaps the rejected one by 0.67: a better mask is welcome
    rectangle(imageSize, 16, 8, 4, 4), // new
  ];
  assert.deepEqual(
    r.project.write((w) => replaceProposals(w, 1, drafts, 'n', false)).map((id) => id !== null),
    [false, false, true, true],
  );
  r.project.write((w) => replaceProposals(w, 2, drafts, 'n', false));
  assert.deepEqual(
    brief(r.objects(1)).map((row) => row.slice(2)),
    [
      ['accepted', 1, 16],
      ['proposed', null, 24],
      ['proposed', null, 16],
      ['rejected', null, 16],
    ],
  );
  assert.deepEqual(brief(r.objects(2)), [
    ['proposal', 4, 'proposed', 2, 16],
    ['proposal', 9, 'proposed', null, 16],
    ['proposal', 5, 'unsure', null, 16],
  ]);
  // The undone one was replaced; redo brings its annotation back all the same, with its pixels.
  assert.deepEqual(brief(r.redo().objects)[0], ['annotation', 2, 'accepted', 2, 16]);
  // A drawn mask too is nothing to propose again.
  r.decide({ action: 'draw', imageId: 1, classId: 1, rle: rectangle(imageSize, 16, 8, 4, 4).rle, seconds: 1 });
  assert.equal(r.project.write((w) => replaceProposals(w, 1, drafts.slice(3), 'n', false))[0], null);
});

test('the queue: images and what is left in each, classes together and surest first, or what teaches most', (t) => {
  const r = review(t);
  r.project.write((w) => {
    replaceProposals(w, saveImage(w, scanned('c.png')), [rectangle(imageSize, 0, 0, 4, 4, { classId: 2, score: 0.95 })], 'm', false);
    replaceProposals(w, saveImage(w, scanned('d.png')), [rectangle(imageSize, 0, 0, 4, 4, { score: 0.99 })], 'm', false);
  });
  const images = (order: 'review' | 'learn', more: object = {}) =>
    queue(r.project, { order, classId: null, clusterId: null, ...more }).map(({ imageId, left }) => `${imageId}: ${left}`);
  assert.deepEqual(images('review'), ['1: 3', '2: 3', '3: 1', '4: 1']);
  assert.deepEqual(images('learn'), ['4: 1', '3: 1', '2: 3', '1: 3'], 'typical first');
  assert.deepEqual(images('review', { classId: 2 }), ['3: 1', '1: 1', '2: 1']);
  // An unsure one counts, but its image comes for what else it holds; with nothing else, last.
  r.decide({ action: 'unsure', proposalId: 1, seconds: 1 });
  assert.deepEqual(images('review'), ['2: 3', '3: 1', '1: 3', '4: 1']);
  r.decide({ action: 'unsure', proposalId: 7, seconds: 1 });
  assert.deepEqual(images('review'), ['2: 3', '1: 3', '4: 1', '3: 1']);
  assert.deepEqual(images('learn'), ['4: 1', '2: 3', '1: 3', '3: 1']);

  // Decided and discarded ones do not count, nor does an image that is done.
  r.decide({ action: 'reject', proposalId: 3, seconds: 1 });
  r.project.write((w) => {
    replaceClusters(w, [{ compactness: 0.5, examples: [2, 5], members: [2, 5] }]);
    setImageDone(w, 2, true);
  });
  assert.deepEqual(images('review'), ['4: 1', '1: 2', '3: 1']);
  assert.deepEqual(images('review', { clusterId: 1 }), ['1: 1']);
  r.project.write((w) => discardCluster(w, 1, true));
  assert.deepEqual(images('review'), ['4: 1', '1: 1', '3: 1']);
  assert.deepEqual(
    r.objects().map((object) => [object.id, object.state]),
    [
      [1, 'unsure'],
      [3, 'rejected'],
    ],
  );
});

test('the queue counts every proposal of every image, however many there are', (t) => {
  const r = review(t);
  const drafts = Array.from({ length: 20 }, (_, i) => rectangle(imageSize, i, 3, 1, 1, { score: 0.5 + i / 100 }));
  r.project.write((w) => {
    for (let i = 0; i < 30; i++) replaceProposals(w, saveImage(w, scanned(`more-${i}.png`)), drafts, 'm', false);
  });
  for (const order of ['review', 'learn'] as const) {
    const images = queue(r.project, { order, classId: null, clusterId: null });
    assert.equal(images.length, 32);
    assert.ok(images.every(({ imageId, left }) => left === (imageId <= 2 ? 3 : 20)));
  }
});

test('a name given to a cluster wins over the class that a machine takes its masks for, and is followed', (t) => {
  const r = review(t);
  const row = (id: number) =>
    r.project.get<{ class_id: number | null; cluster_id: number | null }>('SELECT * FROM proposals WHERE id = ?', id)!;
  // Both images' second proposals are one cluster, named stem; learning takes their objects for leaves.
  r.project.write((w) => {
    replaceClusters(w, [{ compactness: 0.5, examples: [2, 5], members: [2, 5] }]);
    nameCluster(w, 1, 2);
  });
  const leaf = [rectangle(imageSize, 8, 0, 5, 4, { classId: 1 }), rectangle(imageSize, 16, 8, 4, 4, { classId: 1 })];
  const learned = () => r.project.write((w) => replaceProposals(w, 1, leaf, 'm', true))[0]!;
  let id = learned();
  assert.deepEqual([row(id).class_id, row(id).cluster_id], [2, 1]);
  assert.equal(row(id + 1).class_id, 1, 'without a name what the machine takes it for');
  // Another name, none, and learning again.
  r.project.write((w) => nameCluster(w, 1, 1));
  assert.equal(row(id).class_id, 1);
  r.project.write((w) => nameCluster(w, 1, null));
  assert.equal(row(id).class_id, null);
  id = learned();
  assert.deepEqual([row(id).class_id, row(id).cluster_id], [1, 1]);

  // The class that a person gave a single mask stays through both.
  r.decide({ action: 'setClass', proposalId: id, classId: 1, seconds: 1 });
  r.project.write((w) => nameCluster(w, 1, 2));
  assert.deepEqual(
    r.project.write((w) => replaceProposals(w, 1, leaf.slice(0, 1), 'm', true)),
    [null],
  );
  assert.equal(row(id).class_id, 1);
  // When that is taken back, it follows its cluster again; so does one whose acceptance is.
  r.undo();
  assert.equal(row(id).class_id, 2);
  r.decide({ action: 'accept', proposalId: id, classId: null, seconds: 1 });
  r.project.write((w) => nameCluster(w, 1, 1));
  r.undo();
  assert.equal(row(id).class_id, 1);
});

test('what learning replaces passes its cluster on, whatever else lies there', (t) => {
  const r = review(t);
  const clusterOf = (id: number | null) =>
    r.project.get<{ cluster_id: number | null }>('SELECT cluster_id FROM proposals WHERE id = ?', id!)!.cluster_id;
  const learned = (...drafts: ReturnType<typeof rectangle>[]) => r.project.write((w) => replaceProposals(w, 1, drafts, 'm', true));
  r.project.write((w) => replaceClusters(w, [{ compactness: 0.5, examples: [2], members: [2, 3] }]));
  // A second mask of the object came without a cluster, and the next one is more like that.
  const small = rectangle(imageSize, 8, 0, 4, 4);
  const large = rectangle(imageSize, 8, 0, 8, 4);
  const [first, second] = learned(small, large);
  r.project.write((w) => w.run('UPDATE proposals SET cluster_id = NULL WHERE id = ?', second!));
  assert.equal(clusterOf(first!), 1);
  assert.deepEqual(learned(rectangle(imageSize, 8, 0, 7, 4)).map(clusterOf), [1]);
  // A better mask of what was rejected for its edge is of that cluster too.
  const [only] = learned(small);
  r.decide({ action: 'reject', proposalId: only!, seconds: 1 });
  assert.deepEqual(learned(rectangle(imageSize, 8, 0, 6, 4)).map(clusterOf), [1]);
});

test('figures: the median of active seconds, pauses cut, undone ones left out, people only when wanted', (t) => {
  const r = review(t);
  for (const [proposalId, seconds] of [
    [1, 2],
    [2, 4],
    [3, 600],
    [4, 6],
  ] as const)
    r.decide({ action: 'accept', proposalId, classId: null, seconds }, proposalId < 3 ? 'Ada' : '');
  assert.equal(reviewStats(r.project, false).secondsPerDecision, null, 'too few');
  r.decide({ action: 'reject', proposalId: 5, seconds: 8 }, 'Ada');
  assert.deepEqual(reviewStats(r.project, false), { decided: 5, remaining: 1, acceptedAsIs: 4, secondsPerDecision: 6, perReviewer: null });
  r.decide({ action: 'reject', proposalId: 6, seconds: 10 }, 'Ada');
  assert.equal(reviewStats(r.project, false).secondsPerDecision, 7);
  r.undo();
  const { decided, remaining, secondsPerDecision, perReviewer } = reviewStats(r.project, true);
  assert.deepEqual([decided, remaining, secondsPerDecision, perReviewer], [5, 1, 6, [{ reviewer: 'Ada', decided: 3, seconds: 14 }]]);
  r.decide({ action: 'draw', imageId: 1, classId: 1, rle: rectangle(imageSize, 16, 8, 4, 4).rle, seconds: 1 });
  assert.equal(reviewStats(r.project, false).decided, 5, 'a drawn mask is no decision about a proposal');
});

test('classes: names once, removal refused while in use, back for an undone decision', (t) => {
  const r = review(t);
  assert.throws(() => r.project.write((w) => createClass(w, 'LEAF', null)), { code: 'class-name-taken' });
  r.decide({ action: 'accept', proposalId: 1, classId: null, seconds: 1 });
  assert.throws(() => r.project.write((w) => removeClass(w, 1)), { code: 'class-in-use' });
  r.undo();
  r.project.write((w) => {
    removeClass(w, 1);
    createClass(w, 'leaf', null);
  });
  assert.deepEqual(
    classRows(r.project).map(({ id, name, key }) => [id, name, key]),
    [
      [2, 'stem', 1],
      [3, 'leaf', 2],
    ],
  );
  const again = r.redo();
  assert.equal(again.objects[0]!.classId, 1);
  assert.deepEqual(
    classRows(r.project).map(({ id, name, annotations }) => [id, name, annotations]),
    [
      [1, 'leaf 2', 1],
      [2, 'stem', 0],
      [3, 'leaf', 0],
    ],
  );
});

test('an image that was replaced by another content loses what nobody decided on, and only that', (t) => {
  const r = review(t);
  r.decide({ action: 'accept', proposalId: 1, classId: null, seconds: 1 });
  r.decide({ action: 'reject', proposalId: 2, seconds: 1 });
  r.project.write((w) => saveImage(w, scanned('a.png', { hash: 'cd'.repeat(32), width: 30 })));
  assert.deepEqual(brief(r.objects()), [
    ['annotation', 1, 'accepted', 1, 16],
    ['proposal', 2, 'rejected', null, 16],
  ]);
  r.project.write((w) => saveImage(w, scanned('b.png', { modifiedMs: 5 })));
  assert.equal(r.objects(2).length, 3);
});
