/** The demo's steps after the images are there: train, propose untrained and trained, review by simulation, export, report. */
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { imagesOf, proposalsOf, runJob, type GroundTruth, type LocalService, type Stop, type Terminal } from '../cli/index.ts';
import type { ExportRow, HostService, ImageRow, PcaStep, ReviewObject, Rle, RunRow, TrainMetrics } from '../contract/index.ts';
import { colourPositionBaseline, scoreProposals, scoreTable, type ImageObjects } from '../evaluate/index.ts';
import { readRgb, resizeRgb, writePng, type RgbImage } from '../images/index.ts';
import { decodeRle, type Mask } from '../labels/index.ts';
import { drawOverlay, maskColour, writeReport, type Report, type ScoreRow } from './report.ts';
import { reviewBySimulation, type SimulatedReview } from './simulate.ts';

export interface DemoOptions {
  readonly local: LocalService;
  readonly terminal: Terminal;
  readonly stop: Stop;
  readonly name: string;
  readonly imageFolder: string;
  readonly projectDir: string;
  readonly resultsDir: string;
  /** null: nothing can be measured or reviewed. */
  readonly truth: GroundTruth | null;
  /** At most so many proposals an image are measured, for every method. */
  readonly proposals: number;
  readonly steps: number | null;
  /** Four passes an image, see `startPrelabel`. */
  readonly fine: boolean;
  readonly seed: number;
}

/** At most so many images are measured, evenly spread: the colour baseline is slow on large pictures. */
const MEASURED_IMAGES = 60;
/** Images the simulated reviewer works through. */
const REVIEWED_IMAGES = 12;
/** Images shown in the report. */
const SHOWN_IMAGES = 6;

interface Measured {
  readonly image: ImageRow;
  readonly objects: ImageObjects;
}

export async function runDemo(options: DemoOptions): Promise<void> {
  const { local, terminal, stop, truth, resultsDir, projectDir } = options;
  const { service } = local;
  await mkdir(resultsDir, { recursive: true });

  const images = await Array.fromAsync(imagesOf(service));
  const measured = truth ? await measuredImages(images, truth) : [];
  const shown = spread(measured.length ? measured.map((m) => m.image) : images, SHOWN_IMAGES);

  // Train.
  const offered = await service.trainPresets();
  terminal.say(offered.engine);
  const request = { presetId: 'quick', steps: options.steps, batch: null, seed: options.seed };
  const job = await runJob(service, 'pretrain', () => service.startTraining(request), terminal, stop);
  const runId = job.runId!;
  const run = (await service.runs()).find((one) => one.id === runId)!;
  const metrics = await service.trainMetrics({ runId, afterStep: -1 });
  if (stop.signal.aborted) {
    terminal.say(`Stopped at step ${run.step}. Go on with: npx patchwise resume ${projectDir}`);
    process.exitCode = 130;
    return;
  }

  // Propose with the network before and after training: step 0 is the same network with its random start.
  const rows: ScoreRow[] = [];
  const before = await proposeAt(options, run, 0);
  if (measured.length)
    rows.push({ method: 'untrained network', score: score(measured, await proposalMasks(service, measured), options.proposals) });
  const overlaysBefore = await drawProposals(options, shown, 'untrained');
  const chosen = run.chosen!;
  terminal.say(`Step ${chosen.step} of ${run.step} is chosen. ${chosen.reason}`);
  const after = await proposeAt(options, run, chosen.step);
  // Kept from before the review: learning starts by itself while decisions are made.
  const unreviewed = await proposalMasks(service, measured);
  if (measured.length) rows.push({ method: 'trained network', score: score(measured, unreviewed, options.proposals) });
  const overlaysAfter = await drawProposals(options, shown, 'trained');

  if (measured.length) {
    rows.push({ method: 'k-means, colour and position', score: await baselineScore(options, measured) });
  }

  // Review by simulation, then measure on the images nobody reviewed.
  let review: SimulatedReview | null = null;
  const reviewRows: ScoreRow[] = [];
  let overlaysReviewed: Picture[] = [];
  if (truth && measured.length >= 4) {
    review = await reviewBySimulation({
      ...options,
      truth,
      candidates: measured.map((m) => m.image),
      count: Math.min(REVIEWED_IMAGES, measured.length >> 1),
    });
    const unseen = measured.filter((m) => !review!.imageIds.has(m.image.id));
    reviewRows.push({ method: 'before the review', score: score(unseen, unreviewed, options.proposals) });
    await review.learn();
    reviewRows.push({
      method: `after ${review.imageIds.size} reviewed images`,
      score: score(unseen, await proposalMasks(service, unseen), options.proposals),
    });
    overlaysReviewed = await drawProposals(
      options,
      spread(
        unseen.map((m) => m.image),
        SHOWN_IMAGES,
      ),
      'reviewed',
    );
  }

  const scope = review ? 'reviewed' : 'everything';
  const exported = await service.runExport({ format: 'coco-rle', scope });
  const pca = await pcaPictures(options, await service.pcaSteps({ runId }), images);
  const openCommand = `npm start -- ${shellPath(projectDir)}`;
  const report = buildReport({
    options,
    run,
    metrics,
    rows,
    reviewRows,
    measured,
    review,
    exported,
    pca,
    overlays: { before: overlaysBefore, after: overlaysAfter, reviewed: overlaysReviewed },
    openCommand,
  });
  const page = await writeReport(resultsDir, report);

  terminal.say('');
  if (rows.length) terminal.result(scoreTable([...rows, ...reviewRows]), { rows, reviewRows, proposals: { before, after } });
  else terminal.result(`${after} proposals. Without masks nothing was measured.`, { proposals: { before, after } });
  terminal.say(`\nPictures, curves and this table: ${page}`);
  terminal.say(`COCO file (${exported.objects} objects, ${scope}): ${exported.location}`);
  terminal.say(`Open this project in the app: ${openCommand}`);
}

/** @returns number of proposals in the project */
async function proposeAt(options: DemoOptions, run: RunRow, step: number): Promise<number> {
  const { local, terminal, stop } = options;
  terminal.say(step === 0 ? 'Proposing with the untrained network.' : `Proposing with the network of step ${step}.`);
  await runJob(
    local.service,
    'prelabel',
    () => local.service.startPrelabel({ runId: run.id, step, passes: options.fine ? 4 : 1 }),
    terminal,
    stop,
  );
  return (await local.service.currentProject())!.counts.proposed;
}

/** Evenly spread over the list, at most `count`. */
function spread<T>(items: readonly T[], count: number): T[] {
  if (items.length <= count) return [...items];
  return Array.from({ length: count }, (_, i) => items[Math.floor((i * items.length) / count)]);
}

async function measuredImages(images: readonly ImageRow[], truth: GroundTruth): Promise<Measured[]> {
  const withMasks = spread(
    images.filter((image) => image.page === 0 && truth.has(image.path)),
    MEASURED_IMAGES,
  );
  const measured: Measured[] = [];
  for (const image of withMasks) measured.push({ image, objects: await truth.objects(image.path, image) });
  return measured;
}

/** Open proposals of each image, best first. */
async function proposalMasks(service: HostService, measured: readonly Measured[]): Promise<Map<Measured, readonly Rle[]>> {
  const masks = new Map<Measured, readonly Rle[]>();
  for (const one of measured)
    masks.set(
      one,
      (await proposalsOf(service, one.image.id)).map((proposal) => proposal.rle),
    );
  return masks;
}

function score(measured: readonly Measured[], masks: ReadonlyMap<Measured, readonly Rle[]>, most: number) {
  return scoreProposals(
    measured.map((m) => m.objects),
    measured.map((m) => masks.get(m)!),
    most,
  );
}

async function baselineScore({ terminal, imageFolder, proposals: most }: DemoOptions, measured: readonly Measured[]) {
  const proposals: Mask[][] = [];
  const started = Date.now();
  for (const [i, { image }] of measured.entries()) {
    proposals.push(colourPositionBaseline(await readRgb(path.join(imageFolder, image.path)), most));
    const imagesPerSecond = (1000 * (i + 1)) / (Date.now() - started);
    terminal.progress({
      type: 'progress',
      phase: 'Colour baseline',
      done: i + 1,
      total: measured.length,
      imagesPerSecond,
      secondsLeft: (measured.length - i - 1) / imagesPerSecond,
    });
  }
  return scoreProposals(
    measured.map((m) => m.objects),
    proposals,
    most,
  );
}

interface Picture {
  readonly file: string;
  readonly caption: string;
}

/** The first ten proposals of each image, drawn over it; one colour a proposal, or a class where it has one. */
async function drawProposals(
  { local, imageFolder, resultsDir }: DemoOptions,
  images: readonly ImageRow[],
  folder: string,
): Promise<Picture[]> {
  await mkdir(path.join(resultsDir, folder), { recursive: true });
  const pictures: Picture[] = [];
  for (const [i, image] of images.entries()) {
    const proposals = (await proposalsOf(local.service, image.id)).slice(0, 10);
    const rgb = await readRgb(path.join(imageFolder, image.path));
    const overlay = drawOverlay(rgb, proposals.map(overlayMask));
    const file = `${folder}/${i}.png`;
    await writePng(path.join(resultsDir, file), await reduce(overlay, 640));
    pictures.push({ file, caption: `${image.path}: ${proposals.length} best of ${image.proposed} proposals` });
  }
  return pictures;
}

function overlayMask(proposal: ReviewObject, index: number) {
  return { mask: decodeRle(proposal.rle), colour: maskColour(proposal.classId === null ? index : proposal.classId) };
}

async function reduce(image: RgbImage, longest: number): Promise<RgbImage> {
  const scale = longest / Math.max(image.width, image.height);
  return scale >= 1 ? image : resizeRgb(image, Math.round(image.width * scale), Math.round(image.height * scale));
}

/** The run's six pictures at its first and last checkpoint, enlarged so that each patch shows. */
async function pcaPictures(
  { projectDir, resultsDir }: DemoOptions,
  steps: readonly PcaStep[],
  images: readonly ImageRow[],
): Promise<Picture[]> {
  const pictures: Picture[] = [];
  const wanted = [steps[0], steps.at(-1)].filter((step) => step !== undefined);
  await mkdir(path.join(resultsDir, 'pca'), { recursive: true });
  for (const { step, pictures: drawn } of new Set(wanted)) {
    for (const [index, { imageId, url }] of drawn.entries()) {
      const source = path.join(
        projectDir,
        'runs',
        ...url
          .replace(/^\/files\/pca\//, '')
          .split('/')
          .slice(0, 1),
        'pca',
        String(step),
        `${index}.png`,
      );
      const picture = await readRgb(source);
      const file = `pca/${step}-${index}.png`;
      await writePng(path.join(resultsDir, file), enlarge(picture, Math.max(1, Math.round(512 / Math.max(picture.width, picture.height)))));
      pictures.push({
        file,
        caption: `${images.find((image) => image.id === imageId)?.path ?? ''}, ${step === 0 ? 'before training' : `step ${step}`}`,
      });
    }
  }
  return pictures;
}

function enlarge(image: RgbImage, factor: number): RgbImage {
  const width = image.width * factor;
  const height = image.height * factor;
  const data = new Uint8Array(width * height * 3);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const from = (Math.floor(y / factor) * image.width + Math.floor(x / factor)) * 3;
      for (let c = 0; c < 3; c++) data[(y * width + x) * 3 + c] = image.data[from + c];
    }
  }
  return { width, height, data };
}

function shellPath(dir: string): string {
  const relative = path.relative(process.cwd(), dir);
  const shown = relative.startsWith('..') ? dir : relative;
  return /^[\w./-]+$/.test(shown) ? shown : `"${shown}"`;
}

interface ReportFacts {
  readonly options: DemoOptions;
  readonly run: RunRow;
  readonly metrics: readonly TrainMetrics[];
  readonly rows: readonly ScoreRow[];
  readonly reviewRows: readonly ScoreRow[];
  readonly measured: readonly Measured[];
  readonly review: SimulatedReview | null;
  readonly exported: ExportRow;
  readonly pca: readonly Picture[];
  readonly overlays: { readonly before: readonly Picture[]; readonly after: readonly Picture[]; readonly reviewed: readonly Picture[] };
  readonly openCommand: string;
}

function buildReport({
  options,
  run,
  metrics,
  rows,
  reviewRows,
  measured,
  review,
  exported,
  pca,
  overlays,
  openCommand,
}: ReportFacts): Report {
  const { name, proposals, truth } = options;
  const objects = rows[0]?.score.objects ?? 0;
  return {
    title: `${name}: from unlabeled images to proposals`,
    summary: `${run.presetTitle}, ${run.model}, ${run.step} steps, proposals with step ${run.chosen?.step}. ${exported.objects} objects exported (${exported.scope}) to ${exported.files.map((f) => f.name).join(', ')}.`,
    scores: rows.length
      ? {
          caption: `${objects} objects on ${measured.length} images, at most ${proposals} proposals an image for every method, measured in this run.`,
          rows,
        }
      : null,
    reviewScores: reviewRows.length
      ? {
          caption: `The ${measured.length - review!.imageIds.size} measured images that were not reviewed. ${review!.summary}`,
          rows: reviewRows,
        }
      : null,
    metrics,
    sections: [
      {
        title: 'What the network sees',
        text: 'Principal components of the patch features as colours, the same six images and the same colour axes before and after training: parts that look alike to the network get the same colour.',
        pictures: pca,
      },
      { title: 'Proposals, untrained network', text: 'The ten best-scored proposals of each image.', pictures: overlays.before },
      { title: 'Proposals, trained network', text: 'The same images after training; no label was used.', pictures: overlays.after },
      ...(review
        ? [
            {
              title: 'Proposals after the simulated review',
              text: 'Images that were not reviewed; one colour a class.',
              pictures: overlays.reviewed,
            },
          ]
        : []),
    ],
    notes: [
      'Best overlap: for each object the largest intersection over union with any proposal of its image, averaged over objects.',
      'An object is an instance where instances are given, else a connected component of one class with more than 16 pixels.',
      truth
        ? 'The review was simulated from the masks, not done by a person: times are not meaningful and none are reported.'
        : 'Without masks nothing was reviewed: every exported object is a machine proposal with its score.',
      'Training from scratch on few images for a few minutes gives modest features; more images, steps and a larger model are chosen in the app.',
    ],
    openCommand,
  };
}
