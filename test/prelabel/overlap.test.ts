// What decisions teach about the worth of proposals: held against known relations, not against the code's own weights.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fitOverlap, type JudgedProposal, type ProposalCues } from '../../core/prelabel/overlap.ts';
import { Random } from '../../core/random.ts';

const draw = (random: Random): ProposalCues => ({
  prototype: random.chance(0.5),
  score: random.uniform(),
  purity: random.uniform(),
  background: random.uniform(),
  size: random.uniform(0, 3),
});

test('without decisions a proposal is worth what it says: more score, more worth; background less', () => {
  const random = new Random(1);
  const predict = fitOverlap([]);
  for (let i = 0; i < 50; i++) {
    const cues = { ...draw(random), score: random.uniform(0.3, 0.8) };
    assert.ok(predict({ ...cues, score: cues.score + 0.1 }) > predict(cues));
    assert.ok(predict({ ...cues, background: 1 }) < predict({ ...cues, background: 0 }));
  }
});

test('many decisions are believed: the true relation of each kind comes back', () => {
  const random = new Random(2);
  const truth = (c: ProposalCues): number =>
    c.prototype ? 0.1 + 0.3 * c.score + 0.2 * c.purity : 0.5 - 0.2 * c.score + 0.1 * c.background - 0.05 * Math.min(2, c.size);
  const judged: JudgedProposal[] = Array.from({ length: 4000 }, () => {
    const cues = draw(random);
    return { cues: cues.prototype ? { ...cues, size: 0 } : cues, overlap: 0 };
  }).map(({ cues }) => ({ cues, overlap: truth(cues) + 0.05 * random.normal() }));
  const predict = fitOverlap(judged);
  for (let i = 0; i < 200; i++) {
    const cues = draw(random);
    const fair = cues.prototype ? { ...cues, size: 0 } : cues;
    assert.ok(Math.abs(predict(fair) - Math.max(0.001, truth(fair))) < 0.02, `${predict(fair)} for ${truth(fair)}`);
  }
});

test('one decision moves the scores a little, and in its direction', () => {
  const cues: ProposalCues = { prototype: true, score: 0.9, purity: 0.9, background: 0, size: 0 };
  const before = fitOverlap([])(cues);
  const after = fitOverlap([{ cues, overlap: 0 }])(cues);
  assert.ok(after < before && after > 0.25 * before, `${before} became ${after}`);
});
