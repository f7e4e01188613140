// What decisions teach about the worth of proposals: held against known relations, not against the code's own weights.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fitOverlap, predictOverlap, type JudgedProposal, type ProposalCues } from '../../core/prelabel/overlap.ts';
import { Random } from '../../core/random.ts';

const draw = (random: Random): ProposalCues => ({
  prototype: random.chance(0.5),
  plain: random.chance(0.3),
  score: random.uniform(),
  purity: random.uniform(),
  background: random.uniform(),
  size: random.uniform(0, 2),
  area: random.uniform(0.001, 0.3),
  patch: {
    stability: random.uniform(0, 0.5),
    homogeneity: random.uniform(),
    contrast: random.uniform(),
    weakest: random.uniform(),
    share: random.uniform(0.001, 0.3),
    border: random.uniform(0, 0.5),
    fill: random.uniform(0.3, 1),
    object: Number(random.chance(0.2)),
    separation: random.uniform(),
  },
  pixel: { edge: random.uniform(0, 3), agreement: random.uniform(), roundness: random.uniform(0.05, 0.8), colour: random.uniform() },
});

function fitted(judged: readonly JudgedProposal[], images: number): (cues: ProposalCues) => number {
  const model = fitOverlap(judged, images);
  return (cues) => predictOverlap(model, cues);
}

test('without decisions a proposal is worth what it says: more score, more worth; background less', () => {
  const random = new Random(1);
  const predict = fitted([], 0);
  for (let i = 0; i < 50; i++) {
    const cues = { ...draw(random), score: random.uniform(0.3, 0.8) };
    assert.ok(predict({ ...cues, score: cues.score + 0.1 }) > predict(cues));
    assert.ok(predict({ ...cues, background: 1 }) < predict({ ...cues, background: 0 }));
  }
});

/** What a person's objects could be: round things of one colour, found where the class is likely; not a straight line. */
const truth = ({ prototype, purity, pixel, patch }: ProposalCues): number =>
  (prototype ? 0.1 : 0.05) + 0.6 * pixel.roundness * pixel.colour + 0.2 * purity * patch.separation;

test('many decisions are believed: a relation between cues comes back for proposals nobody has seen', () => {
  const random = new Random(2);
  const judged: JudgedProposal[] = Array.from({ length: 4000 }, () => draw(random)).map((cues) => ({
    cues,
    overlap: truth(cues) + 0.05 * random.normal(),
  }));
  const predict = fitted(judged, 12);
  const errors = Array.from({ length: 500 }, () => draw(random)).map((cues) => Math.abs(predict(cues) - truth(cues)));
  // The noise of 4,000 judgements on 210 weights leaves about 0.05 sqrt(210 / 4000) = 0.011.
  const mean = errors.reduce((sum, e) => sum + e, 0) / errors.length;
  assert.ok(mean < 0.02 && Math.max(...errors) < 0.1, `mean error ${mean}, largest ${Math.max(...errors)}`);
});

test('the more images agree, the further the scores move', () => {
  const random = new Random(3);
  const image = Array.from({ length: 30 }, () => draw(random)).map((cues) => ({ cues, overlap: truth(cues) }));
  const error = (images: number): number => {
    const predict = fitted(image, images);
    return image.reduce((sum, { cues, overlap }) => sum + Math.abs(predict(cues) - overlap), 0);
  };
  assert.ok(error(1) > error(4) && error(4) > error(10));
});

test('one decision moves the scores a little, and in its direction', () => {
  const random = new Random(4);
  for (let i = 0; i < 20; i++) {
    const cues = { ...draw(random), score: 0.9, background: 0 };
    const before = fitted([], 0)(cues);
    const after = fitted([{ cues, overlap: 0 }], 1)(cues);
    assert.ok(after < before && after > 0.25 * before, `${before} became ${after}`);
  }
});
