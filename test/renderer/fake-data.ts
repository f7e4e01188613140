/** Made-up rows that the fake host hands out: problems, presets, folders, the curves, monitors and probe of a run. */
import type {
  FileEntry,
  FolderEntry,
  ImageProblem,
  MonitorLine,
  ProbeReport,
  PublishedWeights,
  RunRow,
  TrainMetrics,
  TrainPresets,
  WeightsRow,
} from '../../core/contract/index.ts';
import { DISTILL, modelConfig, phasePresets, trainPresets } from '../../core/dinov2/index.ts';
import { random } from './fake-pictures.ts';

export const problems: ImageProblem[] = [
  {
    code: 'image-truncated',
    path: 'line-a/cam-02/part_000777.jpg',
    message: 'part_000777.jpg ends after 81,920 of 402,113 bytes.',
    action: 'Copy the file again from its source.',
  },
  {
    code: 'image-empty-file',
    path: 'line-a/cam-05/part_001204.jpg',
    message: 'part_001204.jpg is empty (0 bytes).',
    action: 'Copy the file again from its source, or remove it.',
  },
  {
    code: 'image-not-an-image',
    path: 'line-a/notes.png',
    message: 'notes.png is not an image: it starts like a PDF.',
    action: 'Remove it, or give it its true ending.',
  },
  {
    code: 'image-unsupported',
    path: 'line-a/cam-01/raw/IMG_0001.cr3',
    message: 'IMG_0001.cr3 is a camera raw file.',
    action: 'Convert it to TIFF or PNG.',
  },
];

export const presets: TrainPresets = {
  fewestImages: 8,
  recommendedId: 'small-cpu',
  reason: '3,200 images and no GPU',
  warning: null,
  engine: 'cpu: 2 threads, relaxed SIMD (no GPU executor installed)',
  presets: [
    {
      id: 'quick',
      title: 'Quick look',
      summary: 'See within minutes whether features separate your parts.',
      model: 'nano',
      steps: 400,
      batch: 16,
      accumulate: 1,
      estimatedSeconds: 300,
      numbers: numbersOf('nano: 6 blocks, width 192', 400, 16, 'Enough to see the pictures change; expect coarse masks.'),
    },
    {
      id: 'small-cpu',
      title: 'Small set, no GPU',
      summary: 'The best that two cores can do in about an hour.',
      model: 'tiny',
      steps: 2000,
      batch: 24,
      accumulate: 1,
      estimatedSeconds: 3900,
      numbers: numbersOf('tiny: 12 blocks, width 192', 2000, 24, 'Under 20,000 images the scores stop rising near this length.'),
    },
    {
      id: 'full',
      title: 'Full length',
      summary: 'For a machine left alone overnight.',
      model: 'small',
      steps: 12000,
      batch: 32,
      accumulate: 1,
      estimatedSeconds: 61000,
      numbers: numbersOf('small: 12 blocks, width 384', 12000, 32, 'Four passes more than the short preset; watch the newest checkpoint.'),
    },
  ],
};

/** The real presets of a run that starts from an imported ViT small. */
export function continuing(images: number): TrainPresets {
  const model = modelConfig('small', { registers: 4, positionGrid: 37 });
  const facts = { images, cores: 2, memoryBytes: 16e9, engine: presets.engine, gpu: false };
  return trainPresets(facts, { model, heads: null, run: null, name: 'imported dinov2_vits14_reg4_pretrain.pth' });
}

/** The real presets of a run that learns from a checkpoint of one of a small network. */
export function distilling(images: number): TrainPresets {
  const model = modelConfig('small');
  const facts = { images, cores: 2, memoryBytes: 16e9, engine: presets.engine, gpu: false };
  const heads = { dino: { hidden: 2048, bottleneck: 256, prototypes: 4096 }, ibot: null };
  return phasePresets(DISTILL, { model, heads, run: null, name: 'run run-2, step 600' }, facts);
}

/** A run that ended early: what it started from was better. */
export const continuedRun: RunRow = {
  id: 'run-9',
  presetTitle: 'Continue',
  model: 'small',
  startedAt: '2026-11-23T10:40:00Z',
  state: 'finished',
  step: 300,
  totalSteps: 500,
  checkpoints: [0, 50, 100, 150, 200, 250, 300],
  chosen: null,
  startedFrom: 'imported dinov2_vits14_reg4_pretrain.pth',
  taughtBy: null,
  error: null,
};

function numbersOf(model: string, steps: number, batch: number, why: string): { name: string; value: string; reason: string }[] {
  return [
    { name: 'Model', value: model, reason: 'Larger models need more images than a folder this size has.' },
    { name: 'Steps', value: steps.toLocaleString('en'), reason: why },
    { name: 'Batch', value: String(batch), reason: 'Fits into 4 GB of memory with two global and four local crops.' },
    { name: 'Crops', value: '2 × 112 + 4 × 56', reason: 'Parts are about a tenth of the image; smaller crops see half a part.' },
    { name: 'Learning rate', value: '6.1e-4', reason: '4e-3 × √(batch / 1024), the rule for training from scratch.' },
    { name: 'Prototypes', value: '2,048', reason: 'Two for every three images; more stay empty.' },
  ];
}

export function folder(id: string, imageFiles: number, hasFolders: boolean, isProject = false): FolderEntry {
  return { id, name: id.slice(id.lastIndexOf('/') + 1), label: `/${id}`, hasFolders, imageFiles, isProject };
}

/** Files of weights in every folder of the fake host. */
export const files: FileEntry[] = [
  { id: 'file-reg', name: 'dinov2_vits14_reg4_pretrain.pth', bytes: 88_283_115 },
  { id: 'file-broken', name: 'model.safetensors', bytes: 1_204 },
];

const sizes = [
  { name: 'small', short: 'vits', embedDim: 384, depth: 12, parameters: 22_056_576 },
  { name: 'base', short: 'vitb', embedDim: 768, depth: 12, parameters: 86_580_480 },
  { name: 'large', short: 'vitl', embedDim: 1024, depth: 24, parameters: 304_368_640 },
  { name: 'giant', short: 'vitg', embedDim: 1536, depth: 40, parameters: 1_136_480_768 },
];

export const published: PublishedWeights[] = sizes.flatMap(({ short, ...size }) =>
  [0, 4].map((registers) => {
    const id = `dinov2_${short}14${registers ? '_reg4' : ''}_pretrain`;
    const network = { ...size, patchSize: 14, registers, positionGrid: 37 };
    return { id, network, url: `https://dl.fbaipublicfiles.com/dinov2/dinov2_${short}14/${id}.pth`, derivedBytes: 4 * size.parameters };
  }),
);

export const sha256OfFile = '3f2c8b6a9d417e05c1f7a2b4d8e6905132746f8a0b9c1d2e3f405162738495a6';

export function importedWeights(file: FileEntry, checked: boolean): WeightsRow {
  return {
    id: sha256OfFile.slice(0, 16),
    fileName: file.name,
    bytes: file.bytes,
    sha256: sha256OfFile,
    checked,
    importedAt: new Date().toISOString(),
    layout: 'PyTorch file, official names',
    type: 'F32',
    network: { ...published[1]!.network },
    heads: [],
    notes: [],
  };
}

export function metricsAt(step: number, totalSteps: number): TrainMetrics {
  const next = random(step + 1);
  const fall = (from: number, to: number, speed: number): number =>
    to + (from - to) * Math.exp((-step / totalSteps) * speed) + (next() - 0.5) * 0.22;
  const dinoGlobal = fall(1.52, 0.92, 4);
  const dinoLocal = fall(6.1, 4.1, 4);
  const ibot = fall(7.6, 4.9, 3);
  const koleo = 0.1 * fall(1.4, 0.6, 5);
  const warm = Math.min(1, step / (0.08 * totalSteps));
  return {
    step,
    totalSteps,
    total: dinoGlobal + dinoLocal + ibot + koleo,
    dinoGlobal,
    dinoLocal,
    ibot,
    koleo,
    learningRate: 6.1e-4 * warm * (0.5 + 0.5 * Math.cos((Math.PI * step) / totalSteps)) + 1e-6,
    weightDecay: 0.04 + (0.16 * step) / totalSteps,
    teacherMomentum: 0.992,
    teacherTemperature: 0.05,
    sampleEntropy: 0.4,
    marginalEntropy: 0.9,
    gradNorm: { backbone: 1.2, dino_head: 0.8 },
    imagesPerSecond: 11.8 + next(),
    secondsLeft: ((totalSteps - step) * 24) / 12,
  };
}

/** Features that are best at 60 % of the run; `collapsing`: images look alike from the middle on. */
export function monitorsAt(step: number, totalSteps: number, collapsing: boolean): MonitorLine {
  const share = step / totalSteps;
  const rise = 1 - Math.exp(-5 * share);
  const late = Math.max(0, share - 0.6);
  const bad = collapsing && share >= 0.5;
  return {
    step,
    totalSteps,
    images: 83,
    width: 128,
    denseCorrespondence: 0.59 + 0.2 * rise - 0.3 * late,
    clusterStability: 0.55 + 0.18 * rise - 0.3 * late,
    viewRetrieval: 0.13 + 0.6 * rise,
    classRank: bad ? 7 : 16 + 50 * rise,
    patchRank: 43 + 35 * rise,
    classCosine: bad ? 0.96 : 0.7 - 0.55 * rise,
    patchCosine: 0.07,
    outlierShare: 0.001,
    loss: step === 0 ? null : metricsAt(step, totalSteps).total,
    dinoLoss: step === 0 ? null : 0.99 - 0.3 * rise,
    sampleEntropy: step === 0 ? null : 0.72 - 0.3 * rise,
    marginalEntropy: step === 0 ? null : 0.93 - 0.04 * rise,
    seconds: 1.2,
  };
}

export function probeOf(checkpoints: readonly number[], totalSteps: number): ProbeReport {
  const at = (step: number): ProbeReport['untrained'] => {
    const rise = 1 - Math.exp((-5 * step) / totalSteps);
    const late = Math.max(0, step / totalSteps - 0.6);
    return {
      linear: [0.98 + 0.01 * rise, 0.86 + 0.06 * rise, 0.43 + 0.12 * rise - 0.09 * late],
      nearest: [0.97 + 0.015 * rise, 0.84 + 0.06 * rise, 0.4 + 0.13 * rise - 0.08 * late],
    };
  };
  return {
    createdAt: '2026-11-22T18:02:00Z',
    classes: ['belt', 'part', 'scratch'],
    trainImages: 150,
    testImages: 50,
    side: 518,
    colour: { linear: [0.975, 0.84, 0.41], nearest: [0.97, 0.82, 0.38] },
    untrained: at(0),
    checkpoints: checkpoints.filter((step) => step > 0).map((step) => ({ step, score: at(step) })),
  };
}
