/** The command line: scan, curate, pretrain, resume, prelabel, probe, eval, export, weights in and out, on the same projects as the app, and doctor. Exit codes: 0 done, 1 failed, 2 wrong call, 130 stopped. */
import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { parseArgs, type ParseArgsOptionsConfig } from 'node:util';
import {
  AppError,
  errorFacts,
  type ExportFormat,
  type ExportScope,
  type NetworkFormat,
  type RunRow,
  type TrainingListOptions,
} from './contract/index.ts';
import {
  checkpoint,
  choice,
  count,
  diagnose,
  diagnosisInWords,
  drawSplit,
  engineOf,
  GroundTruth,
  imagesOf,
  openOrCreate,
  probeRun,
  probeTable,
  proposalsOf,
  readSplit,
  runJob,
  sourcesOf,
  Stopped,
  Terminal,
  UsageError,
  withService,
  type Call,
  type LocalService,
  type Stop,
} from './cli/index.ts';
import { scoreProposals, scoreTable } from './evaluate/index.ts';

const HELP = `Patchwise: self-supervised training on your own images, and masks to review before anyone has drawn one.

  patchwise scan IMAGES --project DIR      make a project for a folder of images, or look for what is new
  patchwise pretrain DIR                   train on the project's images (Ctrl-C stops after a checkpoint)
      --images IMAGES   make the project first     --preset ID   see below     --steps N   --batch N   --seed N
      --accumulate N    batches a step, their gradients averaged: large batches in little memory
      --recompute       activations again in the backward pass: much less memory, a third more work
      --from-weights ID   --from-run ID   --step N   go on from imported weights, or from a checkpoint (its chosen one)
      --preset high-resolution   --size PX   with --from-run: a short phase at larger global crops, a multiple of the patch
      --distill-from-weights ID | --distill-from-run ID   --step N   learn from a frozen, larger network that has heads
      --no-dedupe   train on copies and crops of one photo too    --balance   no look gives more than its share
      --keep N or N%   with --balance: images in all               --exclude FILE   a path, stem or glob a line to leave out
      --engine E        auto | cpu | tensorflow | webgpu    (auto: the GPU where there is one that can be used, else the CPU)
      --precision P     f16 | f32, of what the GPU computes on the way (f16 where it can; weights are kept in f32)
  patchwise curate DIR                     copies and crops of one photo, clusters, and what a run would leave out
      --run ID   --step N   by a network's features, not plain appearance     --network   by the latest run's, or the untrained one
      --balance   --keep N or N%   --no-dedupe   as for pretrain
  patchwise resume DIR [--run ID]          go on with a stopped run, with the numbers it would have had
      --engine E   --precision P   instead of those it was started with; rounding then differs
  patchwise prelabel DIR                   propose masks with the checkpoint whose features are best
      --run ID   --step N   another one        (without any run: the untrained network)        --engine E   --precision P
      --weights ID          imported weights
      --fine                finer outlines: every image is looked at four times, half a patch apart
  patchwise probe DIR --masks MASKS        measure features against masks you have: colours, untrained, trained
      --images IMAGES   of the masks, when not the project's     --split FILE   CSV: which for learning, which for the test
      --run ID   --steps all | start,middle,end   or numbers      --seed N      without --split: half and half
      --side PX         shorter side of an image as the network sees it (448)
  patchwise eval DIR --masks MASKS         measure the open proposals against masks you have
      --instances DIR   16-bit PNG, one number an object        --max N   proposals an image (20)
  patchwise export DIR                     write a COCO file
      --format coco-rle | coco-polygons        --scope accepted | reviewed | everything   (reviewed)
  patchwise import-weights FILE DIR        take DINOv2 weights into the project: official .pth, training checkpoints,
                                           Hugging Face's model.safetensors, or a teacher.safetensors of Patchwise
      --sha256 HEX   refuse the file unless this is its SHA-256
  patchwise export-weights DIR             write a network for other programs: the chosen checkpoint of the latest run, or
      --run ID   --step N   --weights ID       another one
      --format official            a flat .pth with the official names, for torch.load and the official constructors
               huggingface         a folder that transformers' from_pretrained reads
               trainer-checkpoint  teacher_checkpoint.pth as the official trainer writes it, with the heads
               hand-over           all that the official trainer needs to go on with a run on several GPUs
      --out FOLDER   a new folder (in the project's exports)
  patchwise presets DIR                    the presets for this project and this machine, with their reasons
      --from-weights ID   --from-run ID   --step N   those of a run that goes on from weights
      --distill-from-weights ID   --distill-from-run ID   --step N   those of one that learns from a network
  patchwise doctor                         what this machine can train with: GPUs, drivers, measured speeds, the engine taken
      --check   check the results of a program that acts as a GPU too, which takes minutes

  --json   events and results as JSON lines on stdout
  --help   this text

A project is a folder of its own; the image folder is never written to. Open it in the app with: npm start -- DIR`;

interface Command {
  /** Word for a file that comes before the folder. */
  readonly file?: string;
  /** null: no folder. */
  readonly folder: string | null;
  /** Options that take a value. */
  readonly options: readonly string[];
  /** Options that take none. */
  readonly flags?: readonly string[];
  run(call: Call): Promise<void>;
}

const COMMANDS: Readonly<Record<string, Command>> = {
  scan: { folder: 'IMAGES', options: ['project'], run: scan },
  curate: { folder: 'DIR', options: ['run', 'step', 'keep'], flags: ['network', 'balance', 'dedupe', 'no-dedupe'], run: curate },
  pretrain: {
    folder: 'DIR',
    options: [
      ...['images', 'preset', 'steps', 'batch', 'seed', 'keep', 'exclude', 'engine', 'precision', 'accumulate', 'size'],
      ...['from-weights', 'from-run', 'distill-from-weights', 'distill-from-run', 'step'],
    ],
    flags: ['balance', 'dedupe', 'no-dedupe', 'recompute'],
    run: pretrain,
  },
  resume: { folder: 'DIR', options: ['run', 'engine', 'precision'], run: resume },
  prelabel: { folder: 'DIR', options: ['run', 'step', 'weights', 'engine', 'precision'], flags: ['fine'], run: prelabel },
  probe: { folder: 'DIR', options: ['masks', 'images', 'split', 'run', 'steps', 'side', 'seed'], run: probe },
  eval: { folder: 'DIR', options: ['masks', 'instances', 'max'], run: evaluate },
  export: { folder: 'DIR', options: ['format', 'scope'], run: exportProject },
  'import-weights': { file: 'FILE', folder: 'DIR', options: ['sha256'], run: importWeights },
  'export-weights': { folder: 'DIR', options: ['run', 'step', 'weights', 'format', 'out'], run: exportWeights },
  presets: { folder: 'DIR', options: ['from-weights', 'from-run', 'distill-from-weights', 'distill-from-run', 'step'], run: presets },
  doctor: { folder: null, options: [], flags: ['check'], run: doctor },
};

async function scan({ local, terminal, stop, folder, values }: Call): Promise<void> {
  if (values['project'] === undefined) throw new UsageError('scan needs --project DIR: where the project is, or shall be.');
  await openOrCreate(local, values['project'], folder, terminal, stop);
  // A project that was there already has not been scanned by opening it.
  if ((await local.service.jobs()).every((job) => job.kind !== 'scan'))
    await runJob(local.service, 'scan', () => local.service.rescan(), terminal, stop);
  if (stop.signal.aborted) throw new Stopped();
  const project = (await local.service.currentProject())!;
  const problems = await local.service.problems();
  for (const problem of problems) terminal.say(`${problem.path}: ${problem.message} ${problem.action}`);
  terminal.result(`${project.images} images, ${problems.length} problems, in ${values['project']}`, { images: project.images, problems });
}

async function curate({ local, terminal, stop, folder, values, flags }: Call): Promise<void> {
  const { run, step } = { run: values['run'] ?? null, step: count(values, 'step', 0) };
  const from = run !== null || step !== null || flags.has('network') ? 'network' : 'pictures';
  const wished = listOptions(values, flags);
  await openOrCreate(local, folder, null, terminal, stop);
  const { service } = local;
  const job = await runJob(service, 'curate', () => service.startCuration({ from, runId: run, step }), terminal, stop);
  if (job.state === 'stopped') throw new Stopped();
  const summary = await service.curation();
  if (summary === null)
    throw new AppError('no-curation', 'No image could be read.', 'The list of problems says why: patchwise scan IMAGES --project DIR');
  const options = wished(summary.images);
  const groups = (await everything((page) => service.duplicateGroups(page))).map(({ images }) => images);
  const preview = await service.trainingList(options);
  const leftOut = await everything((page) => service.leftOut({ ...options, ...page }));
  const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;
  const lines = [
    `${summary.copies} copies in ${summary.groups} groups (${summary.exact} with the same pixels), ${summary.clusters} clusters`,
    ...groups.map(([first, ...rest]) =>
      [
        `  ${first.path} (kept)`,
        ...rest.map((image) => `    ${image.path}  ${image.exact ? 'same pixels' : percent(image.similarity)}`),
      ].join('\n'),
    ),
    ...preview.clusters.map(({ id, images, kept }) => `  cluster ${id + 1}: ${images} images, ${kept} to train on`),
    `A run would train on ${preview.kept} of ${preview.images} images; left out: ${preview.copies} copies, ${preview.overShare} of frequent looks`,
    ...leftOut.map(({ path, ofPath, reason }) =>
      reason.kind === 'duplicate'
        ? `  ${path}: copy of ${ofPath} (${reason.exact ? 'same pixels' : percent(reason.similarity)})`
        : reason.kind === 'over-share'
          ? `  ${path}: cluster ${reason.cluster + 1} has ${reason.size} images, its share is ${reason.share}`
          : `  ${path}: named by "${reason.line}"`,
    ),
  ];
  terminal.result(lines.join('\n'), { summary, groups, clusters: preview.clusters, list: { ...preview, clusters: undefined }, leftOut });
}

/** All rows of a call that gives them page by page. */
async function everything<T>(call: (page: { offset: number; limit: number }) => Promise<{ rows: T[] }>): Promise<T[]> {
  const limit = 500;
  const all: T[] = [];
  for (let offset = 0; ; offset += limit) {
    const { rows } = await call({ offset, limit });
    all.push(...rows);
    if (rows.length < limit) return all;
  }
}

/** What the run's list shall be, once the number of images is known: --keep may be a share of it. */
function listOptions(values: Call['values'], flags: Call['flags']): (images: number) => TrainingListOptions {
  const balance = flags.has('balance');
  if (flags.has('dedupe') && flags.has('no-dedupe')) throw new UsageError('--dedupe and --no-dedupe are opposites.');
  const text = values['keep'];
  if (text !== undefined && !balance) throw new UsageError('--keep says how many images to balance down to; it needs --balance.');
  const share = text?.endsWith('%') ? Number(text.slice(0, -1)) : null;
  if (share !== null && !(share > 0 && share <= 100)) throw new UsageError(`--keep takes a number or a share like 60%, not "${text}".`);
  const number = share === null ? count(values, 'keep', 1) : null;
  return (images) => ({
    dedupe: !flags.has('no-dedupe'),
    balance,
    keep: share === null ? number : Math.max(1, Math.round((images * share) / 100)),
  });
}

/** @throws AppError bad-input */
async function excludeLines(file: string | undefined): Promise<string[] | undefined> {
  if (file === undefined) return undefined;
  try {
    return (await readFile(file, 'utf8')).split(/\r?\n/);
  } catch (error) {
    throw new AppError(
      'bad-input',
      `${file} cannot be read: ${(error as Error).message}.`,
      'Check --exclude: a text file, a path, stem or glob a line.',
    );
  }
}

async function pretrain({ local, terminal, stop, folder, values, flags }: Call): Promise<void> {
  const numbers = {
    ...{ steps: count(values, 'steps', 1), batch: count(values, 'batch', 2), seed: count(values, 'seed', 0) },
    ...{ accumulate: count(values, 'accumulate', 1), globalSize: count(values, 'size', 1) },
    ...(flags.has('recompute') && { recompute: true }),
  };
  const sources = sourcesOf(values);
  const wished = listOptions(values, flags);
  const exclude = await excludeLines(values['exclude']);
  const engine = engineOf(values);
  await openOrCreate(local, folder, values['images'] ?? null, terminal, stop);
  const offered = await local.service.trainPresets(sources);
  const presetId = values['preset'] ?? offered.recommendedId;
  if (!offered.presets.some((preset) => preset.id === presetId)) {
    throw new UsageError(`There is no preset "${presetId}"; choose from: ${offered.presets.map((preset) => preset.id).join(', ')}.`);
  }
  if (values['size'] !== undefined && presetId !== 'high-resolution')
    throw new UsageError('--size is for a phase at larger crops: --preset high-resolution --from-run ID.');
  // What runs, the run's first line tells; on an engine that was asked for, what `auto` would take is of no interest.
  if (!engine.engine) terminal.say(offered.engine);
  terminal.say(`Preset ${presetId}: ${offered.reason}`);
  if (offered.warning) terminal.say(`Note: ${offered.warning}`);
  const list = wished((await local.service.currentProject())!.images);
  const request = { ...sources, presetId, ...numbers, list, ...(exclude && { exclude }), ...engine };
  const job = await runJob(local.service, 'pretrain', () => local.service.startTraining(request), terminal, stop);
  await endOfRun(local, terminal, stop, job.runId!);
}

async function resume({ local, terminal, stop, folder, values }: Call): Promise<void> {
  const engine = engineOf(values);
  await openOrCreate(local, folder, null, terminal, stop);
  const run = values['run'] ?? (await local.service.runs())[0]?.id;
  if (run === undefined) throw new AppError('run-not-found', 'This project has no training run.', 'Start one with: patchwise pretrain DIR');
  const job = await runJob(local.service, 'pretrain', () => local.service.resumeTraining({ runId: run, ...engine }), terminal, stop);
  await endOfRun(local, terminal, stop, job.runId!);
}

async function endOfRun(local: LocalService, terminal: Terminal, stop: Stop, runId: string): Promise<void> {
  const run = (await local.service.runs()).find((one) => one.id === runId)!;
  const last = (await local.service.trainMetrics({ runId, afterStep: -1 })).at(-1);
  const loss = last ? `, loss ${last.total.toFixed(3)}` : '';
  const { alarms } = await local.service.trainMonitors({ runId });
  for (const { message, action } of alarms) terminal.say(`Note: ${message} ${action}`);
  if (run.chosen) terminal.say(`Step ${run.chosen.step} will be used for proposals. ${run.chosen.reason}`);
  terminal.result(`Run ${run.id}: step ${run.step} of ${run.totalSteps}${loss}, ${run.checkpoints.length} checkpoints (${run.state})`, {
    run,
    last,
    alarms,
  });
  if (stop.signal.aborted) process.exitCode = 130;
}

async function prelabel({ local, terminal, stop, folder, values, flags }: Call): Promise<void> {
  const passes = flags.has('fine') ? (4 as const) : (1 as const);
  const request = { ...checkpoint(values), weightsId: values['weights'] ?? null, passes, ...engineOf(values) };
  await openOrCreate(local, folder, null, terminal, stop);
  const runs = await local.service.runs();
  const chosen = (request.runId === null ? runs[0] : runs.find(({ id }) => id === request.runId))?.chosen;
  if (request.weightsId === null && request.step === null && chosen) terminal.say(`Step ${chosen.step}. ${chosen.reason}`);
  await runJob(local.service, 'prelabel', () => local.service.startPrelabel(request), terminal, stop);
  const project = (await local.service.currentProject())!;
  const clusters = await local.service.clusters();
  terminal.result(`${project.counts.proposed} proposals on ${project.images} images, ${clusters.length} clusters to name`, {
    proposed: project.counts.proposed,
    clusters: clusters.length,
  });
  if (stop.signal.aborted) process.exitCode = 130;
}

async function probe({ local, terminal, stop, folder, values }: Call): Promise<void> {
  if (values['masks'] === undefined) throw new UsageError('probe needs --masks MASKS.');
  const side = count(values, 'side', 28) ?? 448;
  const truth = new GroundTruth({ masks: values['masks'], instances: null });
  await openOrCreate(local, folder, null, terminal, stop);
  const runs = await local.service.runs();
  const run = values['run'] === undefined ? runs[0] : runs.find(({ id }) => id === values['run']);
  if (!run)
    throw new AppError('run-not-found', `There is no training run ${values['run'] ?? ''} here.`, 'patchwise pretrain DIR makes one.');
  const imageFolder = values['images'] ?? (await local.service.currentProject())!.imageFolder;
  const files = values['images'] === undefined ? await projectImages(local) : await filesIn(values['images']);
  const images = files.filter((file) => truth.has(file));
  if (images.length === 0) {
    const what = `No image in ${imageFolder} has a mask in ${values['masks']}.`;
    throw new AppError('bad-input', what, 'Masks carry the name of their image, with .png.');
  }
  const split = values['split'] === undefined ? drawSplit(images, count(values, 'seed', 0) ?? 0) : readSplit(values['split'], images);
  const runDir = path.join(path.resolve(folder), 'runs', run.id);
  const { gpuChecks } = local;
  const steps = probeSteps(run, values['steps']);
  const report = await probeRun({ run, runDir, steps, imageFolder, truth, split, side, terminal, stop, gpuChecks });
  terminal.result(probeTable(report), report);
}

/** all · start,middle,end: the first trained, the middle, the last · numbers. The chosen checkpoint always. */
function probeSteps({ checkpoints, chosen }: RunRow, wanted = 'start,middle,end'): number[] {
  const trained = checkpoints.filter((step) => step > 0);
  const named: Readonly<Record<string, readonly number[]>> = {
    all: trained,
    start: trained.slice(0, 1),
    middle: trained.slice(trained.length >> 1, (trained.length >> 1) + 1),
    end: trained.slice(-1),
  };
  const steps = wanted.split(',').flatMap((word) => {
    const found = named[word] ?? (checkpoints.includes(Number(word)) ? [Number(word)] : null);
    if (found === null) throw new UsageError(`--steps takes all, start, middle, end or steps that have a checkpoint, not "${word}".`);
    return found;
  });
  if (chosen && chosen.step > 0) steps.push(chosen.step);
  return [...new Set(steps)].sort((a, b) => a - b);
}

async function projectImages(local: LocalService): Promise<string[]> {
  const images = await Array.fromAsync(imagesOf(local.service));
  return images.filter(({ page }) => page === 0).map((image) => image.path);
}

/** All files below a folder, with forward slashes. @throws AppError bad-input */
async function filesIn(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true }).catch((error: Error) => {
    throw new AppError('bad-input', `${folder} cannot be read: ${error.message}.`, 'Check --images.', { cause: error });
  });
  return entries
    .filter((entry) => entry.isFile())
    .map((entry) => path.relative(folder, path.join(entry.parentPath, entry.name)).replaceAll(path.sep, '/'))
    .sort();
}

async function evaluate({ local, terminal, stop, folder, values }: Call): Promise<void> {
  if (values['masks'] === undefined) throw new UsageError('eval needs --masks MASKS.');
  const max = count(values, 'max', 1) ?? 20;
  const truth = new GroundTruth({ masks: values['masks'], instances: values['instances'] ?? null });
  await openOrCreate(local, folder, null, terminal, stop);
  const objects = [];
  const proposals = [];
  for await (const image of imagesOf(local.service)) {
    if (!truth.has(image.path)) continue;
    objects.push(await truth.objects(image.path, image));
    proposals.push((await proposalsOf(local.service, image.id)).map((proposal) => proposal.rle));
  }
  if (objects.length === 0)
    throw new AppError(
      'bad-input',
      `No image of the project has a mask in ${values['masks']}.`,
      'Masks carry the name of their image, with .png.',
    );
  const score = scoreProposals(objects, proposals, max);
  terminal.result(scoreTable([{ method: `proposals (at most ${max})`, score }]), { max, images: objects.length, ...score });
}

async function exportProject({ local, terminal, stop, folder, values }: Call): Promise<void> {
  const format = choice(values, 'format', ['coco-rle', 'coco-polygons'] satisfies ExportFormat[], 'coco-rle');
  const scope = choice(values, 'scope', ['accepted', 'reviewed', 'everything'] satisfies ExportScope[], 'reviewed');
  await openOrCreate(local, folder, null, terminal, stop);
  const preflight = await local.service.exportPreflight({ format, scope });
  for (const warning of preflight.warnings) terminal.say(`Note: ${warning}`);
  const row = await local.service.runExport({ format, scope });
  terminal.result(`${row.objects} objects on ${row.images} images: ${row.location}`, row);
}

async function importWeights({ local, terminal, stop, file, folder, values }: Call): Promise<void> {
  const sha256 = values['sha256']?.trim().toLowerCase() ?? null;
  if (sha256 !== null && !/^[0-9a-f]{64}$/.test(sha256)) throw new UsageError('--sha256 takes 64 hexadecimal digits.');
  await openOrCreate(local, folder, null, terminal, stop);
  const { id: fileId } = await local.folders.chosenFile(path.resolve(file));
  const row = await local.service.importWeights({ fileId, sha256 });
  const { network } = row;
  const lines = [
    `${row.fileName}: ViT ${network.name}, ${network.embedDim} wide, ${network.depth} blocks, patches of ${network.patchSize} px, ${network.registers} registers`,
    `  ${row.layout}, ${row.type}, ${row.bytes.toLocaleString('en-US')} bytes, position table ${network.positionGrid} x ${network.positionGrid}`,
    `  heads: ${row.heads.length > 0 ? row.heads.join(', ') : 'none'}`,
    `  SHA-256 ${row.sha256}${row.checked ? ', as given' : ''}`,
    ...row.notes.map((note) => `  ${note}`),
    `Kept as ${row.id}. Propose masks with it: patchwise prelabel ${folder} --weights ${row.id}`,
  ];
  terminal.result(lines.join('\n'), row);
}

async function exportWeights({ local, terminal, stop, folder, values }: Call): Promise<void> {
  const formats = ['official', 'huggingface', 'trainer-checkpoint', 'hand-over'] satisfies NetworkFormat[];
  if (values['format'] === undefined) throw new UsageError(`export-weights needs --format: ${formats.join(', ')}.`);
  const format = choice(values, 'format', formats, 'official');
  const { runId, step } = checkpoint(values);
  const out = values['out'] === undefined ? null : path.resolve(values['out']);
  await openOrCreate(local, folder, null, terminal, stop);
  const weightsId = values['weights'];
  const run = runId ?? (await local.service.runs())[0]?.id;
  if (weightsId === undefined && run === undefined) {
    throw new AppError(
      'run-not-found',
      'This project has no training run.',
      'Start one with: patchwise pretrain DIR, or name imported weights with --weights ID.',
    );
  }
  const network = weightsId === undefined ? { runId: run!, step } : { weightsId };
  const row = await local.service.exportNetworkTo({ network, format }, out);
  terminal.result(
    `${row.source} as ${row.format}, ${row.bytes.toLocaleString('en-US')} bytes: ${row.location}\n  ${row.files.join('\n  ')}`,
    row,
  );
}

async function presets({ local, terminal, stop, folder, values }: Call): Promise<void> {
  const sources = sourcesOf(values);
  await openOrCreate(local, folder, null, terminal, stop);
  const offered = await local.service.trainPresets(sources);
  const lines = offered.presets.flatMap((preset) => [
    `${preset.id === offered.recommendedId ? '*' : ' '} ${preset.id}: ${preset.title}. ${preset.summary}`,
    ...preset.numbers.map(({ name, value, reason }) => `      ${name.padEnd(24)} ${value.padEnd(14)} ${reason}`),
  ]);
  const warning = offered.warning === null ? [] : [`Note: ${offered.warning}`];
  terminal.result([offered.engine, offered.reason, ...warning, ...lines].join('\n'), offered);
}

async function doctor({ terminal, flags, local }: Call): Promise<void> {
  terminal.say('Measuring; a few seconds.');
  const diagnosis = await diagnose(flags.has('check'), local.gpuChecks);
  terminal.result(diagnosisInWords(diagnosis), diagnosis);
}

/** @returns null when help was asked for */
function readCall(
  args: readonly string[],
): (Pick<Call, 'file' | 'folder' | 'values' | 'flags'> & { command: Command; json: boolean }) | null {
  if (args.length === 0 || args.includes('--help') || args.includes('-h')) return null;
  const command = COMMANDS[args[0]];
  if (!command) throw new UsageError(`There is no command "${args[0]}".`);
  const options: ParseArgsOptionsConfig = {};
  for (const name of command.options) options[name] = { type: 'string' };
  for (const name of ['json', ...(command.flags ?? [])]) options[name] = { type: 'boolean' };
  let parsed;
  try {
    parsed = parseArgs({ args: args.slice(1), options, allowPositionals: true, strict: true });
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
  const words = [command.file ?? null, command.folder].filter((word) => word !== null);
  if (parsed.positionals.length !== words.length) {
    const what = ['no file and no folder', 'one folder', 'a file and a folder'][words.length];
    throw new UsageError(`${args[0]} takes ${what}: ${['patchwise', args[0], ...words].join(' ')}`);
  }
  const given = Object.entries(parsed.values);
  const values = Object.fromEntries(given.filter((entry): entry is [string, string] => typeof entry[1] === 'string'));
  const flags = new Set(given.filter(([, value]) => value === true).map(([name]) => name));
  const [file = '', folder = file] = parsed.positionals;
  return { command, file, folder, values, flags, json: flags.has('json') };
}

async function main(args: readonly string[]): Promise<void> {
  let terminal = new Terminal(args.includes('--json'));
  try {
    const call = readCall(args);
    if (!call) {
      process.stdout.write(`${HELP}\n`);
      return;
    }
    terminal = new Terminal(call.json);
    const stopping = new AbortController();
    process.once('SIGINT', () => stopping.abort());
    process.once('SIGTERM', () => stopping.abort());
    await withService((local) => call.command.run({ local, terminal, stop: stopping, ...call }));
  } catch (error) {
    if (error instanceof Stopped) {
      terminal.say('Stopped.');
      process.exitCode = 130;
    } else if (error instanceof UsageError) {
      terminal.error({ code: 'bad-input', message: error.message, action: 'patchwise --help tells how to call it.' });
      process.exitCode = 2;
    } else {
      terminal.error(errorFacts(error));
      process.exitCode = 1;
    }
  }
}

await main(process.argv.slice(2));
