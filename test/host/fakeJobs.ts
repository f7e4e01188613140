// A jobs module for the worker: scans for real; trains and proposes without a network, but with the same files, events
// and failures. The seed of a run chooses how it goes wrong.
import { appendFileSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { AppError, type JobEvent } from '../../core/contract/index.ts';
import type { JobRequest, LearnRequest, PrelabelRequest, PretrainRequest } from '../../core/worker/index.ts';
import { makePng } from '../fixtures/png.ts';
import { healthy } from '../monitor/lines.ts';
import { rectangle } from './shapes.ts';

export const seeds = { exits: 901, throws: 902, runsOutOfMemory: 903, hearsNoStop: 904, slow: 905 } as const;
export const checkpointEvery = 5;
/** Features are best at this step. */
export const bestStep = 15;
/** File beside the feature cache: a line of JSON for each learn request. */
export const learnRequests = 'learn-requests.jsonl';

export async function* runJob(request: JobRequest, signal: AbortSignal): AsyncGenerator<JobEvent> {
  switch (request.kind) {
    case 'scan': {
      const { scanFolder } = await import('../../core/images/index.ts');
      yield* scanFolder(request.imageRoot, { known: Map.groupBy(request.known, (image) => image.path), signal });
      return;
    }
    case 'curate': {
      const { curate } = await import('../../core/curate/index.ts');
      yield* curate({ ...request, network: null, signal });
      return;
    }
    case 'pretrain':
      yield* train(request, signal);
      return;
    default:
      yield* propose(request, signal);
  }
}

async function* train({ runDir, start }: PretrainRequest, signal: AbortSignal): AsyncGenerator<JobEvent> {
  const file = join(runDir, 'config.json');
  if (start) {
    writeFileSync(
      file,
      JSON.stringify({
        steps: start.config.steps,
        seed: start.config.seed,
        start: start.config.start,
        startedFrom: start.config.startedFrom,
        distillation: start.config.distillation,
        accumulate: start.config.accumulate,
        model: start.config.model,
        startFile: start.startFile,
        paths: start.images.map((image) => image.path),
        list: start.list,
        exclude: start.exclude,
        curationOf: start.curation?.images.length ?? null,
      }),
    );
  }
  const { steps, seed, paths } = JSON.parse(readFileSync(file, 'utf8')) as { steps: number; seed: number; paths: string[] };
  const checkpoints = join(runDir, 'checkpoints');
  mkdirSync(checkpoints, { recursive: true });
  const saved = Math.max(0, ...readdirSync(checkpoints).map(Number).filter(Number.isInteger));
  if (saved > 0) yield { type: 'log', level: 'info', text: `resumed from ${saved}` };
  for (let step = saved + 1; step <= steps && (seed === seeds.hearsNoStop || !signal.aborted); step++) {
    await sleep(seed === seeds.slow ? 20 : 2);
    // A reader in the middle of a run sees exactly what the real one would: a line of the metrics file, then the event.
    const metrics = {
      step,
      totalSteps: steps,
      total: 1 / step,
      dinoGlobal: 0,
      dinoLocal: 0,
      ibot: 0,
      koleo: 0,
      learningRate: 1e-3,
      weightDecay: 0.04,
      sampleEntropy: 0.4,
      marginalEntropy: 0.9,
    };
    const rest = { teacherMomentum: 0.99, teacherTemperature: 0.04, gradNorm: { backbone: 1 }, imagesPerSecond: 100, secondsLeft: 1 };
    appendFileSync(join(runDir, 'metrics.jsonl'), `${JSON.stringify({ ...metrics, ...rest })}\n`);
    yield { type: 'metrics', metrics: { ...metrics, ...rest } };
    yield { type: 'progress', phase: 'Training', done: step, total: steps, imagesPerSecond: 100, secondsLeft: 1 };
    if (step % checkpointEvery === 0 || step === steps) {
      const dir = join(checkpoints, String(step));
      if (!existsSync(dir)) {
        mkdirSync(`${dir}.tmp`, { recursive: true });
        writeFileSync(join(`${dir}.tmp`, 'teacher.safetensors'), String(step));
        renameSync(`${dir}.tmp`, dir);
      }
      yield { type: 'checkpoint', step, totalSteps: steps };
      const line = { ...healthy()[1]!, step, totalSteps: steps, denseCorrespondence: 0.6 - Math.abs(step - bestStep) / 200 };
      appendFileSync(join(runDir, 'monitors.jsonl'), `${JSON.stringify(line)}\n`);
      yield { type: 'monitors', line };
      const pictures = join(runDir, 'pca', String(step));
      mkdirSync(pictures, { recursive: true });
      writeFileSync(join(pictures, '0.png'), makePng({ width: 2, height: 1, bits: 8, colourType: 2, samples: [step, 0, 0, 0, step, 0] }));
      yield { type: 'pca', step, imagePaths: [paths[0]!], explained: 0.5 };
    }
    if (step === 8) {
      if (seed === seeds.exits) process.exit(7);
      if (seed === seeds.throws) throw new AppError('not-finite', 'The loss is not a number at step 8.', 'Lower the learning rate.');
      if (seed === seeds.runsOutOfMemory) for (const held: number[][] = []; ;) held.push(Array.from({ length: 1e6 }, () => Math.random()));
    }
  }
  yield { type: 'done', summary: 'trained' };
}

async function* propose(request: PrelabelRequest | LearnRequest, signal: AbortSignal): AsyncGenerator<JobEvent> {
  if (request.kind === 'learn') {
    const asked = { accepted: request.accepted.map(({ imageId }) => imageId), reviewed: request.reviewed, first: request.first };
    mkdirSync(dirname(request.cacheDir), { recursive: true });
    appendFileSync(join(dirname(request.cacheDir), learnRequests), `${JSON.stringify(asked)}\n`);
  }
  if (request.kind === 'prelabel') yield { type: 'log', level: 'info', text: JSON.stringify(request.source) };
  for (const [done, image] of request.images.entries()) {
    if (signal.aborted) return;
    yield { type: 'progress', phase: 'Regions', done, total: request.images.length, imagesPerSecond: null, secondsLeft: null };
    if (request.kind === 'prelabel') {
      const proposals = [
        rectangle(image, 1, 1, 4, 4, { cluster: 0, score: 0.8, margin: 0.6 }),
        rectangle(image, 8, 1, 4, 4, { cluster: 1, score: 0.7, margin: 0.1 }),
        rectangle(image, 1, 8, 6, 4, { cluster: 0, score: 0.6, margin: 0.3 }),
      ];
      yield { type: 'proposals', imageId: image.id, proposals };
    } else {
      const classId = request.accepted[0]!.classId;
      // The first and second objects again, one pixel larger, with the class that was learnt.
      const proposals = [
        rectangle(image, 1, 1, 5, 4, { classId, source: 'prototype' }),
        rectangle(image, 8, 1, 5, 4, { classId, source: 'prototype' }),
      ];
      yield { type: 'proposals', imageId: image.id, proposals };
    }
  }
  if (request.kind === 'prelabel') {
    const ids = request.images.map((image) => image.id);
    yield {
      type: 'clusters',
      clusters: [
        { compactness: 0.9, examples: ids.slice(0, 8).map((imageId) => ({ imageId, index: 0 })) },
        { compactness: 0.5, examples: ids.slice(0, 8).map((imageId) => ({ imageId, index: 1 })) },
      ],
      assignment: ids.map((imageId) => ({ imageId, clusters: [0, 1, 0] })),
    };
  }
  yield { type: 'done', summary: 'proposed' };
}
