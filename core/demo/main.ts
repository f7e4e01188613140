/**
 * The main job with one command: images in (made here, or a folder), trained, proposed, reviewed as far as masks allow it
 * to be simulated, exported, measured. Drives the same service on the same kind of project as the app.
 */
import { existsSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { parseArgs } from 'node:util';
import sharp from 'sharp';
import { GroundTruth, openOrCreate, Stopped, Terminal, withService, type LocalService } from '../cli/index.ts';
import { AppError, errorFacts } from '../contract/index.ts';
import { encodeJpeg } from '../images/index.ts';
import { CONVEYOR_CLASSES, drawConveyor } from './conveyor.ts';
import { runDemo } from './run.ts';

const HELP = `npm run demo                                   draws its own pictures of parts on a conveyor, with exact masks
npm run demo -- --images DIR                   takes your folder; nothing can be measured without masks
npm run demo -- --images DIR --masks DIR [--instances DIR]
    masks: indexed or gray PNG of class numbers, the image's file name, 255 ignored, classes.json beside the folder names them
    instances: 16-bit PNG, 0 background, one number an object
  --out DIR       where project and results go (default: demo/NAME)
  --fine          look at every image four times, half a patch apart: finer outlines, more time
  --steps N       training steps (default: sized for a few minutes on two cores)
  --proposals N   proposals an image that are measured, the same for every method (20)
  --pictures N    pictures to draw when no folder is given (200)
  --seed N        of pictures and training (0)`;

const OPTIONS = {
  images: { type: 'string' },
  masks: { type: 'string' },
  instances: { type: 'string' },
  out: { type: 'string' },
  steps: { type: 'string' },
  fine: { type: 'boolean', default: false },
  proposals: { type: 'string', default: '20' },
  pictures: { type: 'string', default: '200' },
  seed: { type: 'string', default: '0' },
  help: { type: 'boolean', short: 'h' },
} as const;

/** Draws the series into folder/images, masks, instances, and classes.json; a folder that has it already is left alone. */
async function drawPictures(folder: string, count: number, seed: number, terminal: Terminal): Promise<void> {
  for (const name of ['images', 'masks', 'instances']) await mkdir(path.join(folder, name), { recursive: true });
  const started = Date.now();
  for (let index = 0; index < count; index++) {
    const { image, classes, instances } = drawConveyor(seed, index);
    const { width, height } = image;
    const name = `part-${String(index).padStart(4, '0')}`;
    await writeFile(path.join(folder, 'images', `${name}.jpg`), await encodeJpeg(image, 88));
    const raw = { width, height, channels: 1 as const };
    await sharp(classes, { raw })
      .toColourspace('b-w')
      .png()
      .toFile(path.join(folder, 'masks', `${name}.png`));
    await sharp(instances, { raw })
      .toColourspace('grey16')
      .png()
      .toFile(path.join(folder, 'instances', `${name}.png`));
    const imagesPerSecond = (1000 * (index + 1)) / (Date.now() - started);
    terminal.progress({
      type: 'progress',
      phase: 'Drawing',
      done: index + 1,
      total: count,
      imagesPerSecond,
      secondsLeft: (count - index - 1) / imagesPerSecond,
    });
  }
  await writeFile(
    path.join(folder, 'classes.json'),
    `${JSON.stringify(Object.fromEntries(CONVEYOR_CLASSES.map((name, i) => [i, name])), null, 1)}\n`,
  );
}

/** demo/NAME, or demo/NAME-2, ...: nothing that is there is touched. */
function freshFolder(base: string): string {
  for (let n = 1; ; n++) {
    const folder = n === 1 ? base : `${base}-${n}`;
    if (!existsSync(folder)) return folder;
  }
}

function wholeNumber(text: string, name: string): number {
  if (!/^\d+$/.test(text))
    throw new AppError('bad-input', `--${name} takes a whole number, not "${text}".`, 'npm run demo -- --help tells how to call it.');
  return Number(text);
}

async function main(): Promise<void> {
  const { values } = parseArgs({ options: OPTIONS });
  if (values.help) {
    process.stdout.write(`${HELP}\n`);
    return;
  }
  const terminal = new Terminal();
  const stop = new AbortController();
  process.once('SIGINT', () => stop.abort());
  const seed = wholeNumber(values.seed, 'seed');
  const given = values.images !== undefined;
  const name = given
    ? path.basename(path.resolve(values.images!)).replace(/^images$/, path.basename(path.dirname(path.resolve(values.images!))))
    : 'conveyor';
  const out = path.resolve(values.out ?? freshFolder(path.join('demo', name)));
  await mkdir(out, { recursive: true });

  let imageFolder = values.images;
  let truth = values.masks === undefined ? null : new GroundTruth({ masks: values.masks, instances: values.instances ?? null });
  if (imageFolder === undefined) {
    const pictures = path.join(out, 'pictures');
    terminal.say('No folder given: drawing pictures of parts on a conveyor, with exact masks.');
    await drawPictures(pictures, wholeNumber(values.pictures, 'pictures'), seed, terminal);
    imageFolder = path.join(pictures, 'images');
    truth = new GroundTruth({ masks: path.join(pictures, 'masks'), instances: path.join(pictures, 'instances') });
  }

  await withService(async (local: LocalService) => {
    await openOrCreate(local, path.join(out, 'project'), imageFolder, terminal, stop);
    const scanned = (await local.service.currentProject())!;
    terminal.say(`${scanned.images} images, ${scanned.problems} problems.`);
    for (const problem of await local.service.problems()) terminal.say(`  ${problem.path}: ${problem.message} ${problem.action}`);
    await runDemo({
      local,
      terminal,
      stop,
      name,
      imageFolder: path.resolve(imageFolder),
      projectDir: path.join(out, 'project'),
      resultsDir: path.join(out, 'results'),
      truth,
      proposals: wholeNumber(values.proposals, 'proposals'),
      steps: values.steps === undefined ? null : wholeNumber(values.steps, 'steps'),
      fine: values.fine,
      seed,
    });
  });
}

try {
  await main();
} catch (error) {
  if (error instanceof Stopped) process.exitCode = 130;
  else {
    new Terminal().error(errorFacts(error));
    process.exitCode = 1;
  }
}
