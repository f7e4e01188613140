/** The command line: scan, pretrain, resume, prelabel, eval, export on the same projects as the app. Exit codes: 0 done, 1 failed, 2 wrong call, 130 stopped. */
import { parseArgs, type ParseArgsOptionsConfig } from 'node:util';
import { AppError, errorFacts, type ExportFormat, type ExportScope } from './contract/index.ts';
import {
  GroundTruth,
  imagesOf,
  openOrCreate,
  proposalsOf,
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
      --engine E        auto | cpu | tensorflow    (auto: the GPU where TensorFlow.js can use one, else the CPU)
  patchwise resume DIR [--run ID]          go on with a stopped run, with the numbers it would have had
      --engine E        instead of the engine it was started on; rounding then differs
  patchwise prelabel DIR                   propose masks with the newest checkpoint
      --run ID   --step N   another one        (without any run: the untrained network)        --engine E
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
  pretrain: { folder: 'DIR', options: ['images', 'preset', 'steps', 'batch', 'seed', 'engine'], run: pretrain },
  resume: { folder: 'DIR', options: ['run', 'engine'], run: resume },
  prelabel: { folder: 'DIR', options: ['run', 'step', 'engine'], run: prelabel },
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
  const engine = engineOf(values);
  await openOrCreate(local, folder, values['images'] ?? null, terminal, stop);
  const offered = await local.service.trainPresets();
  const presetId = values['preset'] ?? offered.recommendedId;
  if (!offered.presets.some((preset) => preset.id === presetId)) {
    throw new UsageError(`There is no preset "${presetId}"; choose from: ${offered.presets.map((preset) => preset.id).join(', ')}.`);
  }
  // What runs, the run's first line tells; on an engine that was asked for, what `auto` would take is of no interest.
  if (!engine.engine) terminal.say(offered.engine);
  terminal.say(`Preset ${presetId}: ${offered.reason}`);
  const start = () => local.service.startTraining({ presetId, ...numbers, ...engine });
  const job = await runJob(local.service, 'pretrain', start, terminal, stop);
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
  terminal.result(`Run ${run.id}: step ${run.step} of ${run.totalSteps}${loss}, ${run.checkpoints.length} checkpoints (${run.state})`, {
    run,
    last,
  });
  if (stop.signal.aborted) process.exitCode = 130;
}

async function prelabel({ local, terminal, stop, folder, values }: Call): Promise<void> {
  const request = { runId: values['run'] ?? null, step: count(values, 'step', 0), ...engineOf(values) };
  await openOrCreate(local, folder, null, terminal, stop);
  await runJob(local.service, 'prelabel', () => local.service.startPrelabel(request), terminal, stop);
  const project = (await local.service.currentProject())!;
  const clusters = await local.service.clusters();
  terminal.result(`${project.counts.proposed} proposals on ${project.images} images, ${clusters.length} clusters to name`, {
    proposed: project.counts.proposed,
    clusters: clusters.length,
  });
  if (stop.signal.aborted) process.exitCode = 130;
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

/** --engine, where it is given. */
function engineOf(values: Call['values']): { engine?: 'auto' | 'cpu' | 'tensorflow' } {
  return values['engine'] === undefined ? {} : { engine: choice(values, 'engine', ['auto', 'cpu', 'tensorflow'], 'auto') };
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
