/**
 * The gradients that the drawn golden set holds are those of the float64 reference's tape. Here they are proven: against
 * central differences of the plain forward, whole step, every parameter, in each of the set's shapes; also summed over calls,
 * and for a distillation.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { HeadConfig, RunConfig } from '../../core/dinov2/config.ts';
import { parameterGroups } from '../../core/dinov2/optimizer.ts';
import { applyUpdate, computeGradients, studentLoss, uploadCrops, type TrainState } from '../../core/dinov2/step.ts';
import { createExecutor, type Executor, type ParameterSet } from '../../core/nn/index.ts';
import { Random } from '../../core/random.ts';
import { relativeError } from '../dinov2/golden.ts';
import * as plain from '../nn/plain.ts';
import { ReferenceExecutor } from '../nn/reference-executor.ts';
import { wholeTargets } from '../nn/targets.ts';
import { drawBatch, runOf, specsOf, targetsOf, TRAININGS, type Training } from './make.ts';
import { plainLosses, plainTargets, type PlainNetwork, type PlainTargets } from './plain-step.ts';

const TEMPERATURE = 0.05;
const HEAD = { hidden: 12, bottleneck: 6, prototypes: 10 };

/** The same shape of a run, narrow enough for thousands of forward passes. */
function narrow(training: Training): Training {
  const ibot = training.ibot && { hidden: 10, bottleneck: 5, prototypes: 9 };
  return { ...training, embedDim: 12, heads: 2, positionGrid: 3, globalSide: 2, localSide: 1, dino: HEAD, ibot };
}

type DrawnBatch = ReturnType<typeof drawBatch> & { readonly targets: PlainTargets };

/** Student, and batches with what a teacher says of them. */
function draw(training: Training, seed: number, batches: number) {
  const random = new Random(seed);
  const config = runOf(training);
  const specs = specsOf(config, random);
  const network = (list: typeof specs): PlainNetwork => ({
    weights: new Map(list.map(({ name, shape, values }) => [name, plain.value(shape, values)])),
    heads: training.heads,
  });
  const teacher = network(specsOf(config, random));
  const normals = (length: number): Float64Array => Float64Array.from({ length }, () => 0.3 * random.normal());
  const K = (training.ibot ?? training.dino).prototypes;
  const centers = training.facts.centering === 'centering' ? { dino: normals(training.dino.prototypes), ibot: normals(K) } : null;
  const drawn = Array.from({ length: batches }, (): DrawnBatch => {
    const batch = drawBatch(training, random);
    return { ...batch, targets: plainTargets(teacher, batch.plainBatch, centers, TEMPERATURE) };
  });
  return { random, config, specs, student: network(specs), drawn };
}

/** Adds the gradient of one batch, times `share`, to what is there. @returns the loss, float64 on the reference */
function addGradients(x: Executor, set: ParameterSet, config: ReturnType<typeof runOf>, drawn: DrawnBatch, share: number) {
  const targets = targetsOf(x, drawn.targets, drawn.batch.masks);
  return x.gradients(set, () => studentLoss(x, config, set, uploadCrops(x, config, drawn.batch), drawn.batch, targets).total, share).loss;
}

/** Slopes of a loss along one random direction and two single elements of every parameter, beside the gradient's. */
function assertSlopes(
  student: PlainNetwork,
  set: ParameterSet,
  gradients: Float32Array,
  random: Random,
  loss: () => number,
): { worst: number; checked: number } {
  const h = 1e-5; // gradients are read as float32, which is the larger error
  let worst = 0;
  let checked = 0;
  for (const { name, offset, size } of set.specs) {
    const { data } = student.weights.get(name)!;
    const gradient = gradients.subarray(offset, offset + size);
    const norm = Math.hypot(...gradient);
    const unit = (index: number): Float64Array => Float64Array.from({ length: size }, (_, i) => Number(i === index));
    const across = Float64Array.from({ length: size }, () => random.normal());
    for (const direction of [across, unit(random.int(size)), unit(random.int(size))]) {
      const start = data.slice();
      const at = (distance: number): number => {
        for (let i = 0; i < size; i++) data[i] = start[i]! + distance * direction[i]!;
        return loss();
      };
      const slope = (at(h) - at(-h)) / (2 * h);
      data.set(start);
      const expected = direction.reduce((sum, u, i) => sum + u * gradient[i]!, 0);
      const error = Math.abs(slope - expected) / Math.max(norm, 1e-3);
      assert.ok(error < 2e-6, `${name}: slope ${slope}, by the gradient ${expected}`);
      worst = Math.max(worst, error);
      checked++;
    }
  }
  return { worst, checked };
}

for (const [name, training] of Object.entries(TRAININGS)) {
  test(`${name}: losses are those of the plain forward, gradients its slopes`, async (t) => {
    const { random, config, specs, student, drawn } = draw(narrow(training), 31, 1);
    const [{ plainBatch, targets }] = drawn as [DrawnBatch];
    const { student_temp: temperature, koleo_weight: koleoWeight } = training.facts;
    const loss = (): number => plainLosses(student, plainBatch, targets, { temperature, koleoWeight }).total;

    const x = new ReferenceExecutor();
    const set = x.createParameters(specs);
    const total = addGradients(x, set, config, drawn[0]!, 1) as unknown as { data: Float64Array };
    assert.ok(Math.abs(total.data[0]! / loss() - 1) < 1e-7, `${total.data[0]} by the tape, ${loss()} plainly`); // targets are float32 on the tape
    const { worst, checked } = assertSlopes(student, set, await x.readGradients(set), random, loss);
    t.diagnostic(`${checked} slopes, largest error ${worst.toExponential(1)} of the gradient's norm`);
  });
}

test('gradients of several batches add up: accumulated in shares they are the slopes of the mean loss', async (t) => {
  const training = TRAININGS['train-sinkhorn-separate-patch16-droppath']!;
  const { random, config, specs, student, drawn } = draw(narrow(training), 32, 3);
  const { student_temp: temperature, koleo_weight: koleoWeight } = training.facts;
  const share = 1 / drawn.length;
  const accumulate = async (x: Executor): Promise<{ set: ParameterSet; gradients: Float32Array }> => {
    const set = x.createParameters(specs);
    x.zeroGradients(set);
    for (const batch of drawn) await x.scope(() => addGradients(x, set, config, batch, share));
    return { set, gradients: await x.readGradients(set) };
  };

  const { set, gradients } = await accumulate(new ReferenceExecutor());
  const mean = (): number =>
    drawn.reduce(
      (sum, { plainBatch, targets }) => sum + share * plainLosses(student, plainBatch, targets, { temperature, koleoWeight }).total,
      0,
    );
  const { worst, checked } = assertSlopes(student, set, gradients, random, mean);
  t.diagnostic(`${checked} slopes, largest error ${worst.toExponential(1)} of the gradient's norm`);

  const cpu = await createExecutor({ engine: 'cpu', threads: 2 });
  const fast = await accumulate(cpu);
  for (const { name, offset, size } of set.specs) {
    const [ours, theirs] = [fast.gradients, gradients].map((all) => all.subarray(offset, offset + size)) as [Float32Array, Float32Array];
    if (name.endsWith('qkv.bias')) for (const all of [ours, theirs]) all.fill(0, size / 3, (2 * size) / 3); // exactly 0, but for noise
    const error = relativeError(ours, theirs);
    assert.ok(error < 1e-4, `${name} on cpu: ${error}`);
  }
  await cpu.dispose();
});

for (const name of ['train-centering-separate', 'train-sinkhorn-tied-registers-wide-patch16']) {
  test(`distillation, ${name}: targets are those of the frozen network, gradients the slopes of the plain loss`, async (t) => {
    const training = narrow(TRAININGS[name]!);
    // Twice as wide, one block deeper, another feed-forward layer and table; its heads have the student's prototypes.
    const wider = (head: HeadConfig): HeadConfig => ({ hidden: 20, bottleneck: 8, prototypes: head.prototypes });
    const large: Training = {
      ...training,
      embedDim: 24,
      depth: 3,
      heads: 3,
      positionGrid: 4,
      ffn: 'swiglu',
      registers: 1,
      dino: wider(training.dino),
      ibot: training.ibot && wider(training.ibot),
    };
    const { random, config, specs, student, drawn } = draw(training, 33, 1);
    const distilling: RunConfig = {
      ...config,
      teacher: { ...config.teacher, centering: training.facts.centering === 'centering' ? 'softmax' : 'sinkhorn' },
      distillation: { model: runOf(large).model },
    };
    const frozenSpecs = specsOf(runOf(large), random);
    const frozen = { weights: new Map(frozenSpecs.map((spec) => [spec.name, plain.value(spec.shape, spec.values)])), heads: large.heads };
    const K = { dino: training.dino.prototypes, ibot: (training.ibot ?? training.dino).prototypes };
    const centers = {
      dino: Float32Array.from({ length: K.dino }, () => 0.3 * random.normal()),
      ibot: Float32Array.from({ length: K.ibot }, () => 0.3 * random.normal()),
    };
    const [{ plainBatch, batch }] = drawn as [DrawnBatch];
    const exact = { dino: Float64Array.from(centers.dino), ibot: Float64Array.from(centers.ibot) };
    const plainly = plainTargets(frozen, plainBatch, training.facts.centering === 'centering' ? exact : null, TEMPERATURE);
    const { student_temp: temperature, koleo_weight: koleoWeight } = training.facts;
    const loss = (): number => plainLosses(student, plainBatch, plainly, { temperature, koleoWeight, distilled: true }).total;
    const rates = { learningRate: 1e-3, backboneLearningRate: 1e-3, lastLayerLearningRate: 1e-3, weightDecay: 0.1 };
    const values = { ...rates, teacherMomentum: 0.9, teacherTemperature: TEMPERATURE };

    let reference: Float32Array | null = null;
    for (const x of [new ReferenceExecutor(), await createExecutor({ engine: 'cpu', threads: 2 })]) {
      const set = x.createParameters(specs);
      // What follows the student is no one's teacher: any values do.
      const follower = x.createParameters(specs.map((spec) => ({ ...spec, values: spec.values.map(() => random.normal()) })));
      const frozenTeacher = x.createParameters(frozenSpecs);
      const state: TrainState = { student: set, teacher: follower, frozenTeacher, adam: x.createAdamState(set), centers };
      const { total, dino, ibot } = await x.scope(async () => {
        const { terms, targets } = computeGradients(x, distilling, state, batch, values);
        return {
          total: (await x.read(terms.total))[0]!,
          dino: await x.read(wholeTargets(x, targets.dino)),
          ibot: await x.read(wholeTargets(x, targets.ibot!)),
        };
      });
      assert.ok(relativeError(dino, plainly.dino.data) < 1e-5 && relativeError(ibot, plainly.ibot.data) < 1e-5);
      assert.ok(Math.abs(total / loss() - 1) < 1e-5, `${total} by the step, ${loss()} plainly`);
      const gradients = await x.readGradients(set);
      if (reference === null) {
        const { worst, checked } = assertSlopes(student, set, gradients, random, loss);
        t.diagnostic(`${checked} slopes, largest error ${worst.toExponential(1)} of the gradient's norm`);
        reference = gradients;
        const masked = set.specs.find(({ name }) => name.endsWith('mask_token'))!;
        assert.ok(gradients.subarray(masked.offset, masked.offset + masked.size).every((value) => value === 0));
      } else assert.ok(relativeError(gradients, reference) < 1e-4);

      const [before, start] = [await x.readParameters(follower), await x.readParameters(set)];
      applyUpdate(x, distilling, state, parameterGroups(distilling, set), values, 0);
      const [after, moved] = [await x.readParameters(follower), await x.readParameters(set)];
      assert.ok(relativeError(moved, start) > 1e-4);
      assert.ok(
        relativeError(
          after,
          before.map((value, i) => 0.9 * value + 0.1 * moved[i]!),
        ) < 1e-6,
      );
      const still = await x.readParameters(frozenTeacher);
      assert.deepEqual(still, Float32Array.from(frozenSpecs.flatMap((spec) => [...spec.values])));
      await x.dispose();
    }
  });
}
