/** The command line: scan, pretrain, resume, prelabel, probe, eval, export on the same projects as the app. Exit codes: 0 done, 1 failed, 2 wrong call, 130 stopped. */
import { parseArgs, type ParseArgsOptionsConfig } from 'node:util';
import { readdir } from 'node:fs/promises';
import path from 'node:path';
import { AppError, errorFacts, type ExportFormat, type ExportScope, type RunRow } from './contract/index.ts';
import {
  drawSplit,
  GroundTruth,
  imagesOf,
  openOrCreate,
  probeRun,
  probeTable,
  proposalsOf,
  readSplit,
  runJob,
  Stopped,
  Terminal,
  withService,
  type LocalService,
  type Stop,
} from './cli/index.ts';
import { scoreProposals, scoreTable } from './evaluate/index.ts';

const HELP = `Patchwise: self-supervised training on your own images, and masks to review before anyone has drawn one.

  patchwise scan IMAGES --project DIR      make a project for a folder of images, or look for what is new
  patchwise pretrain DIR                   train on the project's images (Ctrl-C stops after a checkpoint)
      --images IMAGES   make the project first     --preset ID   see below     --steps N   --batch N   --seed N
  patchwise resume DIR [--run ID]          go on with a stopped run, with the numbers it would have had
  patchwise prelabel DIR                   propose masks with the checkpoint whose features are best
      --run ID   --step N   another one        (without any run: the untrained network)
  patchwise probe DIR --masks MASKS        measure features against masks you have: colours, untrained, trained
      --images IMAGES   of the masks, when not the project's     --split FILE   CSV: which for learning, which for the test
      --run ID   --steps all | start,middle,end   or numbers      --seed N      without --split: half and half
      --side PX         shorter side of an image as the network sees it (448)
  patchwise eval DIR --masks MASKS         measure the open proposals against masks you have
      --instances DIR   16-bit PNG, one number an object        --max N   proposals an image (20)
  patchwise export DIR                     write a COCO file
      --format coco-rle | coco-polygons        --scope accepted | reviewed | everything   (reviewed)
  patchwise presets DIR                    the presets for this project and this machine, with their reasons

  --json   events and results as JSON lines on stdout
  --help   this text

A project is a folder of its own; the image folder is never written to. Open it in the app with: npm start -- DIR`;

/** A call that cannot be understood: exit code 2. */
class UsageError extends Error {}

interface Call {
  readonly local: LocalService;
  readonly terminal: Terminal;
  readonly stop: Stop;
  /** The folder after the command's name. */
  readonly folder: string;
  readonly values: Readonly<Record<string, string | undefined>>;
}

interface Command {
  readonly folder: string;
  readonly options: readonly string[];
  run(call: Call): Promise<void>;
}

const COMMANDS: Readonly<Record<string, Command>> = {
  scan: { folder: 'IMAGES', options: ['project'], run: scan },
  pretrain: { folder: 'DIR', options: ['images', 'preset', 'steps', 'batch', 'seed'], run: pretrain },
  resume: { folder: 'DIR', options: ['run'], run: resume },
  prelabel: { folder: 'DIR', options: ['run', 'step'], run: prelabel },
  probe: { folder: 'DIR', options: ['masks', 'images', 'split', 'run', 'steps', 'side', 'seed'], run: probe },
  eval: { folder: 'DIR', options: ['masks', 'instances', 'max'], run: evaluate },
  export: { folder: 'DIR', options: ['format', 'scope'], run: exportProject },
  presets: { folder: 'DIR', options: [], run: presets },
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

async function pretrain({ local, terminal, stop, folder, values }: Call): Promise<void> {
  const numbers = { steps: count(values, 'steps', 1), batch: count(values, 'batch', 2), seed: count(values, 'seed', 0) };
  await openOrCreate(local, folder, values['images'] ?? null, terminal, stop);
  const offered = await local.service.trainPresets();
  const presetId = values['preset'] ?? offered.recommendedId;
  if (!offered.presets.some((preset) => preset.id === presetId)) {
    throw new UsageError(`There is no preset "${presetId}"; choose from: ${offered.presets.map((preset) => preset.id).join(', ')}.`);
  }
  terminal.say(`${offered.engine}\nPreset ${presetId}: ${offered.reason}`);
  const job = await runJob(local.service, 'pretrain', () => local.service.startTraining({ presetId, ...numbers }), terminal, stop);
  await endOfRun(local, terminal, stop, job.runId!);
}

async function resume({ local, terminal, stop, folder, values }: Call): Promise<void> {
  await openOrCreate(local, folder, null, terminal, stop);
  const run = values['run'] ?? (await local.service.runs())[0]?.id;
  if (run === undefined) throw new AppError('run-not-found', 'This project has no training run.', 'Start one with: patchwise pretrain DIR');
  const job = await runJob(local.service, 'pretrain', () => local.service.resumeTraining({ runId: run }), terminal, stop);
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

async function prelabel({ local, terminal, stop, folder, values }: Call): Promise<void> {
  const request = { runId: values['run'] ?? null, step: count(values, 'step', 0) };
  await openOrCreate(local, folder, null, terminal, stop);
  const runs = await local.service.runs();
  const chosen = (request.runId === null ? runs[0] : runs.find(({ id }) => id === request.runId))?.chosen;
  if (request.step === null && chosen) terminal.say(`Step ${chosen.step}. ${chosen.reason}`);
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
  const report = await probeRun({ run, runDir, steps: probeSteps(run, values['steps']), imageFolder, truth, split, side, terminal, stop });
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

async function presets({ local, terminal, stop, folder }: Call): Promise<void> {
  await openOrCreate(local, folder, null, terminal, stop);
  const offered = await local.service.trainPresets();
  const lines = offered.presets.flatMap((preset) => [
    `${preset.id === offered.recommendedId ? '*' : ' '} ${preset.id}: ${preset.title}. ${preset.summary}`,
    ...preset.numbers.map(({ name, value, reason }) => `      ${name.padEnd(24)} ${value.padEnd(14)} ${reason}`),
  ]);
  terminal.result([offered.engine, offered.reason, ...lines].join('\n'), offered);
}

function count(values: Call['values'], name: string, least: number): number | null {
  const text = values[name];
  if (text === undefined) return null;
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < least || !Number.isSafeInteger(value))
    throw new UsageError(`--${name} takes a whole number from ${least} on, not "${text}".`);
  return value;
}

function choice<T extends string>(values: Call['values'], name: string, allowed: readonly T[], otherwise: T): T {
  const text = values[name] ?? otherwise;
  if (!(allowed as readonly string[]).includes(text)) throw new UsageError(`--${name} takes ${allowed.join(' or ')}, not "${text}".`);
  return text as T;
}

/** @returns null when help was asked for */
function readCall(
  args: readonly string[],
): { command: Command; folder: string; values: Record<string, string | undefined>; json: boolean } | null {
  if (args.length === 0 || args.includes('--help') || args.includes('-h')) return null;
  const command = COMMANDS[args[0]];
  if (!command) throw new UsageError(`There is no command "${args[0]}".`);
  const options: ParseArgsOptionsConfig = { json: { type: 'boolean' } };
  for (const name of command.options) options[name] = { type: 'string' };
  let parsed;
  try {
    parsed = parseArgs({ args: args.slice(1), options, allowPositionals: true, strict: true });
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
  if (parsed.positionals.length !== 1) throw new UsageError(`${args[0]} takes one folder: patchwise ${args[0]} ${command.folder}`);
  const { json, ...values } = parsed.values;
  return { command, folder: parsed.positionals[0], values: values as Record<string, string | undefined>, json: json === true };
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
    await withService((local) => call.command.run({ local, terminal, stop: stopping, folder: call.folder, values: call.values }));
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
