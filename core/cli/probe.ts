/** Measures a run's features against masks: the colours of patches, the untrained network, and checkpoints, all alike. */
import { rename, writeFile } from 'node:fs/promises';
import path from 'node:path';
import type { ProbeReport, ProbeScore, RunRow } from '../contract/index.ts';
import { loadBackbone, normalizeImage, readRun, untrainedBackbone, type Backbone } from '../dinov2/index.ts';
import { FeatureProbe, type ProbePatches, type Products } from '../evaluate/index.ts';
import { readRgb, resizeRgb, type LabelImage, type RgbImage } from '../images/index.ts';
import { createExecutor, type Executor } from '../nn/index.ts';
import { featureDefaults, gridPlacements, inputSize, patchColours } from '../prelabel/index.ts';
import { Stopped, type Stop } from './drive.ts';
import type { GroundTruth } from './groundTruth.ts';
import type { Split } from './split.ts';
import type { Terminal } from './terminal.ts';

export interface ProbeOptions {
  readonly run: RunRow;
  readonly runDir: string;
  /** Checkpoints to score. */
  readonly steps: readonly number[];
  readonly imageFolder: string;
  readonly truth: GroundTruth;
  readonly split: Split;
  /** Shorter side of the network's input, in pixels. */
  readonly side: number;
  readonly terminal: Terminal;
  readonly stop: Stop;
  /** As for `createExecutor`. */
  readonly gpuChecks: string;
}

/** Colours of a patch: mean and standard deviation of three channels. */
const COLOURS = 6;

/** Turns an image into patches of `dim` features. */
interface Features {
  readonly phase: string;
  readonly dim: number;
  of(image: RgbImage): Promise<ProbePatches>;
}

/**
 * Scores everything and writes runs/<id>/probe.json.
 * @throws AppError masks-mismatch, no-checkpoint, checkpoint-damaged; what decoding throws; Stopped
 */
export async function probeRun(options: ProbeOptions): Promise<ProbeReport> {
  const { runDir, steps, truth, split, side, gpuChecks } = options;
  const { config } = await readRun(runDir);
  const values = await classNumbers(options);
  const executor = await createExecutor({ gpuChecks });
  try {
    const products = productsOf(executor);
    const score = (features: Features): Promise<ProbeScore> => probe(options, features, values, products);
    const network = async (phase: string, backbone: Backbone): Promise<ProbeScore> => {
      try {
        return await score(networkFeatures(phase, backbone, side));
      } finally {
        backbone.dispose();
      }
    };
    const colour = await score(colourFeatures(config.model.patchSize, side));
    const untrained = await network('Untrained', untrainedBackbone(config.model, config.seed, executor));
    const checkpoints = [];
    for (const step of steps)
      checkpoints.push({ step, score: await network(`Step ${step}`, await loadBackbone({ runDir, step }, executor)) });
    const report: ProbeReport = {
      createdAt: new Date().toISOString(),
      classes: values.map((value) => truth.className(value)),
      trainImages: split.train.length,
      testImages: split.test.length,
      side,
      colour,
      untrained,
      checkpoints,
    };
    const file = path.join(runDir, 'probe.json');
    await writeFile(`${file}.tmp`, `${JSON.stringify(report, null, 1)}\n`, { flush: true });
    await rename(`${file}.tmp`, file);
    return report;
  } finally {
    await executor.dispose();
  }
}

/** All numbers in the masks but 255, ascending. */
async function classNumbers({ imageFolder, truth, split, stop }: ProbeOptions): Promise<number[]> {
  const seen = new Set<number>();
  for (const image of [...split.train, ...split.test]) {
    if (stop.signal.aborted) throw new Stopped();
    const { labels } = await readPair(imageFolder, truth, image);
    for (const value of new Set(labels.data)) if (value !== 255) seen.add(value);
  }
  return [...seen].sort((a, b) => a - b);
}

async function readPair(imageFolder: string, truth: GroundTruth, image: string): Promise<{ rgb: RgbImage; labels: LabelImage }> {
  const rgb = await readRgb(path.join(imageFolder, image));
  return { rgb, labels: await truth.classes(image, rgb) };
}

async function probe(
  { imageFolder, truth, split, terminal, stop }: ProbeOptions,
  features: Features,
  values: readonly number[],
  products: Products,
): Promise<ProbeScore> {
  const fitted = new FeatureProbe(features.dim, values, split.train.length, products);
  const total = split.train.length + split.test.length;
  const started = Date.now();
  for (const [i, image] of [...split.train, ...split.test].entries()) {
    if (stop.signal.aborted) throw new Stopped();
    const { rgb, labels } = await readPair(imageFolder, truth, image);
    const patches = await features.of(rgb);
    if (i < split.train.length) fitted.learn(patches, labels);
    else await fitted.score(patches, labels);
    const imagesPerSecond = (1000 * (i + 1)) / (Date.now() - started);
    terminal.progress({
      type: 'progress',
      phase: features.phase,
      done: i + 1,
      total,
      imagesPerSecond,
      secondsLeft: (total - i - 1) / imagesPerSecond,
    });
  }
  return fitted.result();
}

function networkFeatures(phase: string, backbone: Backbone, side: number): Features {
  const { embedDim, patchSize } = backbone.config;
  return {
    phase,
    dim: embedDim,
    async of(image) {
      const input = await resized(image, patchSize, side);
      return backbone.features(normalizeImage(input), 1, input.height, input.width);
    },
  };
}

function colourFeatures(patchSize: number, side: number): Features {
  return {
    phase: 'Colours',
    dim: COLOURS,
    async of(image) {
      const input = await resized(image, patchSize, side);
      const gridWidth = input.width / patchSize;
      const gridHeight = input.height / patchSize;
      return { patches: patchColours(input, gridPlacements(gridWidth, gridHeight, 1)[0]), gridWidth, gridHeight };
    },
  };
}

function resized(image: RgbImage, patchSize: number, side: number): Promise<RgbImage> {
  const { width, height } = inputSize(image.width, image.height, patchSize, { ...featureDefaults, shortSide: side, maxTokens: Infinity });
  return resizeRgb(image, width, height);
}

function productsOf(x: Executor): Products {
  return (a, b, dim) => x.scope(() => x.read(x.linear(x.tensor(a, [a.length / dim, dim]), x.tensor(b, [b.length / dim, dim]), null)));
}

/** A table in percent, one kind of features a row. */
export function probeTable({ classes, colour, untrained, checkpoints }: ProbeReport): string {
  const rows = [
    { name: 'colours', score: colour },
    { name: 'untrained network', score: untrained },
    ...checkpoints.map(({ step, score }) => ({ name: `step ${step}`, score })),
  ];
  const wide = Math.max(...rows.map(({ name }) => name.length));
  const column = Math.max(8, ...classes.map((name) => name.length));
  const line = (name: string, cells: readonly string[]): string =>
    [name.padEnd(wide), ...cells.map((cell) => cell.padStart(column))].join('  ');
  const percents = (values: readonly number[]): string[] => values.map((value) => (100 * value).toFixed(1));
  return [
    `${' '.repeat(wide)}  ${'linear, IoU in percent'.padEnd(classes.length * (column + 2))}nearest patches`,
    line('', [...classes, ...classes]),
    ...rows.map(({ name, score }) => line(name, [...percents(score.linear), ...percents(score.nearest)])),
  ].join('\n');
}
