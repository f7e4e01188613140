/**
 * The command line as a person calls it: processes of their own, real training and real proposals on a few small
 * generated pictures, from a scan to a COCO file.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { AppEvent, ErrorFacts, ExportRow, ImageProblem, ProbeReport, RunRow, TrainPresets } from '../../core/contract/index.ts';
import { drawConveyor } from '../../core/demo/conveyor.ts';
import { encodeJpeg, encodePng, resizeRgb } from '../../core/images/index.ts';
import { independentDecode } from '../e2e/browser.ts';
import { makePng } from '../fixtures/png.ts';

const cli = fileURLToPath(new URL('../../core/cli.ts', import.meta.url));
const width = 160;
const height = 120;
const count = 10;

type Line = AppEvent | { readonly type: 'result'; readonly result: unknown } | { readonly type: 'error'; readonly error: ErrorFacts };

interface Ended {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
  /** stdout as JSON lines. */
  lines(): Line[];
  result<T>(): T;
}

let place: string;
let images: string;
let masks: string;
let instances: string;
let project: string;
/** What a reader of the masks must count: numbers in `instances`; 8-connected patches of a class over 16 pixels in `masks`. */
const expected = { instances: 0, components: 0 };

before(async () => {
  place = await mkdtemp(path.join(tmpdir(), 'patchwise-cli-'));
  images = path.join(place, 'pictures');
  masks = path.join(place, 'masks');
  instances = path.join(place, 'instances');
  project = path.join(place, 'project');
  for (const folder of [images, masks, instances]) await mkdir(folder);
  for (let i = 0; i < count; i++) {
    const drawn = drawConveyor(3, i, width, height);
    await writeFile(path.join(images, `part-${i}.jpg`), await encodeJpeg(drawn.image, 90));
    const gray = { width, height, colourType: 0 } as const;
    await writeFile(path.join(masks, `part-${i}.png`), makePng({ ...gray, bits: 8, samples: drawn.classes }));
    await writeFile(path.join(instances, `part-${i}.png`), makePng({ ...gray, bits: 16, samples: drawn.instances }));
    expected.instances += new Set(drawn.instances).size - 1; // without 0, the belt
    expected.components += countComponents(drawn.classes);
  }
});

after(() => rm(place, { recursive: true, force: true }));

/** Calls the command line and waits for its end. @param onLine sees each line of stdout as it comes */
async function patchwise(args: readonly string[], onLine: (line: string, group: number) => void = () => {}): Promise<Ended> {
  const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', cli, ...args], {
    env: { ...process.env, PATCHWISE_CONFIG_DIR: path.join(place, 'config') },
    stdio: ['ignore', 'pipe', 'pipe'],
    cwd: place,
    detached: true, // a process group of its own, as in a terminal
  });
  let stdout = '';
  let stderr = '';
  let rest = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
    const lines = (rest + text).split('\n');
    rest = lines.pop()!;
    for (const line of lines) onLine(line, child.pid!);
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
  const code = await new Promise<number | null>((resolve, reject) => child.once('error', reject).once('close', resolve));
  const lines = () =>
    stdout
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as Line);
  return {
    code,
    stdout,
    stderr,
    lines,
    result<T>() {
      const last = lines().at(-1)!;
      assert.equal(last.type, 'result', stdout + stderr);
      return (last as { result: T }).result;
    },
  };
}

/** By label propagation until nothing changes: shares no idea with the product's flood fill. */
function countComponents(classes: Uint8Array): number {
  const label = Int32Array.from(classes, (value, i) => (value === 0 ? -1 : i));
  for (let changed = true; changed;) {
    changed = false;
    for (let i = 0; i < label.length; i++) {
      if (label[i] === -1) continue;
      for (const dy of [-1, 0, 1]) {
        for (const dx of [-1, 0, 1]) {
          const [x, y] = [(i % width) + dx, Math.floor(i / width) + dy];
          if (x < 0 || x >= width || y < 0 || y >= height) continue;
          const near = y * width + x;
          if (classes[near] !== classes[i] || label[near]! >= label[i]!) continue;
          label[i] = label[near]!;
          changed = true;
        }
      }
    }
  }
  const sizes = Map.groupBy(
    label.filter((value) => value !== -1),
    (value) => value,
  );
  return [...sizes.values()].filter((members) => members.length > 16).length;
}

test('help, and calls that cannot be understood', async () => {
  const [help, ...wrong] = await Promise.all(
    [
      ['--help'],
      ['tarin', project],
      ['pretrain', project, '--speed', '9'],
      ['pretrain', project, '--steps', 'many'],
      ['pretrain', project, '--steps', '0'],
      ['export', project, '--scope', 'all'],
      ['pretrain', project, '--engine', 'abacus'],
      ['eval', project],
      ['probe', project],
      ['scan', images],
      ['curate', project, '--keep', '4'],
      ['pretrain', project, '--balance', '--keep', '120%'],
      ['pretrain', project, '--dedupe', '--no-dedupe'],
    ].map((args) => patchwise(args)),
  );
  assert.deepEqual([help!.code, help!.stderr], [0, '']);
  for (const command of ['scan', 'curate', 'pretrain', 'resume', 'prelabel', 'probe', 'eval', 'export', 'presets'])
    assert.match(help!.stdout, new RegExp(`^ +patchwise ${command} `, 'm'));
  const words = [
    /"tarin"/,
    /--speed/,
    /--steps.*"many"/,
    /--steps.*from 1 on.*"0"/,
    /--scope.*accepted or.*"all"/,
    /--engine.*auto or cpu or tensorflow or webgpu.*"abacus"/,
    /--masks/,
    /--masks/,
    /--project/,
    /--keep.*--balance/,
    /--keep.*"120%"/,
    /opposites/,
  ];
  wrong.forEach(({ code, stdout, stderr }, i) => {
    assert.deepEqual([code, stdout], [2, ''], stderr);
    assert.match(stderr, words[i]!);
    assert.match(stderr, /^[^\n]+\n[^\n]*--help[^\n]*\.\n$/); // a sentence, and what to do
  });
  assert.ok(!existsSync(project), 'nothing was begun');
});

test('a project that is not there: what is missing, and what to do', async () => {
  for (const args of [['presets'], ['pretrain'], ['prelabel']]) {
    const { code, stdout, stderr } = await patchwise([...args, project]);
    assert.deepEqual([code, stdout], [1, '']);
    assert.equal(stderr, `${project} has no project.sqlite.\nChoose the folder that holds it, or create a new project.\n`);
  }
  const { code, stdout } = await patchwise(['eval', project, '--masks', path.join(place, 'nowhere'), '--json']);
  assert.equal(code, 1);
  const { type, error } = JSON.parse(stdout) as { type: string; error: ErrorFacts };
  assert.deepEqual([type, error.code, error.message], ['error', 'bad-input', `There is no folder ${path.join(place, 'nowhere')}.`]);
});

test('from a scan to a COCO file, with a Ctrl-C in between', async (t) => {
  const scan = await patchwise(['scan', images, '--project', project, '--json']);
  assert.deepEqual([scan.code, scan.stderr], [0, '']);
  assert.deepEqual(scan.result<{ images: number; problems: ImageProblem[] }>(), { images: count, problems: [] });
  const again = await patchwise(['scan', masks, '--project', project]);
  assert.equal(again.code, 1);
  assert.ok(again.stderr.includes(`is a project of ${images}, not of ${masks}`), again.stderr);

  const presets = await patchwise(['presets', project, '--json']);
  const offered = presets.result<TrainPresets>();
  assert.match(offered.engine, /^cpu, \d+ threads? \(/);
  assert.ok(offered.presets.some(({ id }) => id === offered.recommendedId));

  // People see one line for a phase that is through, and the answer alone on stdout.
  const trained = await patchwise([
    'pretrain',
    project,
    '--preset',
    'quick',
    '--steps',
    '1',
    '--batch',
    '2',
    '--seed',
    '7',
    '--engine',
    'tensorflow',
  ]);
  assert.equal(trained.code, 0, trained.stderr);
  assert.match(trained.stdout, /^Run \S+: step 1 of 1, loss \d+\.\d+, \d+ checkpoints \(finished\)\n$/);
  const complete = trained.stderr.split('\n').filter((line) => /^Training .*100 %/.test(line));
  assert.equal(complete.length, 1, trained.stderr);

  // Ctrl-C reaches every process of the group.
  const windows = process.platform === 'win32';
  if (windows) t.diagnostic('not stopped in the middle: Windows has no SIGINT to send to a process');
  else {
    let asked = false;
    const stopped = await patchwise(
      ['pretrain', project, '--preset', 'quick', '--steps', '16', '--batch', '2', '--seed', '8', '--json'],
      (line, group) => {
        const event = JSON.parse(line) as AppEvent;
        const step = event.type === 'jobEvent' && event.event.type === 'metrics' ? event.event.metrics.step : 0;
        if (asked || step < 4) return;
        asked = true;
        process.kill(-group, 'SIGINT');
      },
    );
    assert.equal(stopped.code, 130, stopped.stdout + stopped.stderr);
    const { run } = stopped.result<{ run: RunRow }>();
    assert.equal(run.state, 'stopped');
    assert.ok(run.step >= 4 && run.step < 16 && run.checkpoints.at(-1) === run.step, JSON.stringify(run));

    const resumed = await patchwise(['resume', project, '--json']);
    assert.equal(resumed.code, 0, resumed.stderr);
    const finished = resumed.result<{ run: RunRow }>().run;
    assert.deepEqual([finished.id, finished.state, finished.step, finished.checkpoints.at(-1)], [run.id, 'finished', 16, 16]);
    const steps = resumed
      .lines()
      .flatMap((line) => (line.type === 'jobEvent' && line.event.type === 'metrics' ? [line.event.metrics.step] : []));
    assert.deepEqual(
      steps,
      Array.from({ length: 16 - run.step }, (_, i) => run.step + 1 + i),
      'each step once, from the checkpoint on',
    );
  }

  const proposed = await patchwise(['prelabel', project, '--json']);
  assert.equal(proposed.code, 0, proposed.stderr);
  const { proposed: proposals } = proposed.result<{ proposed: number }>();
  assert.ok(proposals > 0);

  // Features against masks: six pictures to learn from, four for the test, one left out by the file.
  const split = path.join(place, 'split.csv');
  const sides = Array.from({ length: count }, (_, i) => `part-${i},${i < 6 ? 'train' : i < 9 ? 'test' : 'val'}`);
  await writeFile(split, `stem,split\n${sides.join('\n')}\n`);
  const probing = ['probe', project, '--masks', masks, '--side', '112', '--steps'];
  const [named, wrongSteps] = [
    await patchwise([...probing, 'start,end', '--split', split, '--json']),
    await patchwise([...probing, 'best']),
  ];
  assert.deepEqual([wrongSteps.code, wrongSteps.stdout], [2, '']);
  assert.match(wrongSteps.stderr, /--steps takes .*"best"/);
  assert.equal(named.code, 0, named.stderr);
  const report = named.result<ProbeReport>();
  const newest = windows ? '1' : '2';
  assert.deepEqual(JSON.parse(await readFile(path.join(project, 'runs', newest, 'probe.json'), 'utf8')), report);
  assert.deepEqual([report.trainImages, report.testImages, report.side], [6, 3, 112]);
  assert.deepEqual(report.classes, ['class 0', 'class 1', 'class 2', 'class 3', 'class 4', 'class 5'].slice(0, report.classes.length));
  assert.ok(report.checkpoints.length >= 2 && report.checkpoints.at(-1)!.step === (windows ? 1 : 16));
  for (const { linear, nearest } of [report.colour, report.untrained, ...report.checkpoints.map(({ score }) => score)]) {
    for (const values of [linear, nearest]) {
      assert.equal(values.length, report.classes.length);
      assert.ok(values.every((iou) => iou >= 0 && iou <= 1));
      assert.ok(values[0]! > 0.5, 'the belt is most of the picture');
    }
  }
  await writeFile(split, 'id,fold\n1,train\n');
  const columns = await patchwise([...probing, 'end', '--split', split]);
  assert.equal(columns.code, 1);
  assert.match(columns.stderr, /has the columns id, fold; needed are a column "split" and one of path, file, image, name, stem/);

  type Score = { max: number; images: number; bestOverlap: number; recall50: number; objects: number; proposalsPerImage: number };
  const components = (await patchwise(['eval', project, '--masks', masks, '--json'])).result<Score>();
  const withInstances = ['eval', project, '--masks', masks, '--instances', instances, '--max', '5', '--json'];
  const numbered = (await patchwise(withInstances)).result<Score>();
  assert.deepEqual([components.objects, components.images, components.max], [expected.components, count, 20]);
  assert.deepEqual([numbered.objects, numbered.images, numbered.max], [expected.instances, count, 5]);
  for (const { bestOverlap, recall50, proposalsPerImage, max } of [components, numbered]) {
    assert.ok(bestOverlap > 0 && bestOverlap < 1 && recall50 >= 0 && recall50 <= 1, JSON.stringify({ bestOverlap, recall50 }));
    assert.ok(proposalsPerImage > 0 && proposalsPerImage <= max);
  }

  const written = await patchwise(['export', project, '--scope', 'everything', '--json']);
  assert.equal(written.code, 0, written.stderr);
  const row = written.result<ExportRow>();
  assert.deepEqual([row.images, row.objects], [count, proposals]);
  const file = row.files.find(({ name }) => name.endsWith('.json'))!;
  const coco = JSON.parse(await readFile(path.join(row.location, file.name), 'utf8')) as {
    images: { id: number; file_name: string; width: number; height: number }[];
    annotations: { image_id: number; area: number; bbox: number[]; segmentation: { size: number[]; counts: string } }[];
  };
  assert.deepEqual(
    coco.images.map((image) => [image.file_name, image.width, image.height]).sort(),
    Array.from({ length: count }, (_, i) => [`part-${i}.jpg`, width, height]),
  );
  assert.equal(coco.annotations.length, proposals);
  for (const { area, bbox, segmentation, image_id: imageId } of coco.annotations) {
    assert.ok(coco.images.some(({ id }) => id === imageId));
    assert.deepEqual(segmentation.size, [height, width]);
    const pixels = independentDecode(segmentation);
    const inside = [...pixels.keys()].filter((i) => pixels[i] === 1);
    const xs = inside.map((i) => i % width);
    const ys = inside.map((i) => Math.floor(i / width));
    const box = [Math.min(...xs), Math.min(...ys), Math.max(...xs) - Math.min(...xs) + 1, Math.max(...ys) - Math.min(...ys) + 1];
    assert.deepEqual([area, bbox], [inside.length, box]);
  }
});

test('copies: told by curate, left out of a run with their reasons, with a list of images to keep out', async () => {
  const folder = path.join(place, 'copies');
  const own = path.join(place, 'project-of-copies');
  await mkdir(folder);
  const scene = (i: number) => drawConveyor(5, i, width, height).image;
  for (let i = 0; i < 11; i++) await writeFile(path.join(folder, `scene-${i}.png`), await encodePng(scene(i)));
  await writeFile(path.join(folder, 'same-0.png'), await readFile(path.join(folder, 'scene-0.png')));
  await writeFile(path.join(folder, 'small-1.jpg'), await encodeJpeg(await resizeRgb(scene(1), 120, 90), 80));
  assert.equal((await patchwise(['scan', folder, '--project', own])).code, 0);

  type Curated = {
    summary: { copies: number; exact: number; images: number };
    groups: { path: string; exact: boolean }[][];
    list: { kept: number; copies: number; overShare: number };
    leftOut: { path: string; ofPath: string | null; reason: { kind: string; similarity?: number } }[];
  };
  const curated = await patchwise(['curate', own, '--balance', '--keep', '50%', '--json']);
  assert.equal(curated.code, 0, curated.stderr);
  const found = curated.result<Curated>();
  assert.deepEqual([found.summary.images, found.summary.copies, found.summary.exact], [13, 2, 1]);
  assert.deepEqual(
    found.groups.map((group) => group.map((image) => image.path)),
    [
      ['same-0.png', 'scene-0.png'],
      ['scene-1.png', 'small-1.jpg'],
    ],
  );
  // Half of 13 images, rounded.
  assert.deepEqual([found.list.kept, found.list.copies, found.list.overShare, found.leftOut.length], [7, 2, 4, 6]);
  const told = await patchwise(['curate', own]);
  assert.match(told.stdout, /^2 copies in 2 groups \(1 with the same pixels\), \d+ clusters$/m);
  assert.match(told.stdout, /^ {2}small-1\.jpg: copy of scene-1\.png \(9\d\.\d %\)$/m);
  assert.match(told.stdout, /^A run would train on 11 of 13 images; left out: 2 copies, 0 of frequent looks$/m);

  const held = path.join(place, 'held-out.txt');
  await writeFile(held, '# the test set\nscene-1\nscene-[23].png\nnobody.png\n');
  const run = ['pretrain', own, '--preset', 'quick', '--steps', '1', '--batch', '2', '--seed', '3', '--exclude', held];
  const trained = await patchwise(run);
  assert.equal(trained.code, 0, trained.stderr);
  assert.match(trained.stderr, /^Note: No image is named by 1 of the lines to leave out: nobody\.png$/m);
  assert.match(trained.stderr, /^Training on 8 of 13 images; left out: 3 named to be left out, 2 copies\.$/m);
  const lines = async (name: string): Promise<{ path: string; kind?: string; of?: string; ofExcluded?: boolean; line?: string }[]> =>
    (await readFile(path.join(own, 'runs', '1', name), 'utf8'))
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as { path: string });
  assert.deepEqual(
    (await lines('images.jsonl')).map((image) => image.path),
    ['same-0.png', 'scene-10.png', ...[4, 5, 6, 7, 8, 9].map((i) => `scene-${i}.png`)],
  );
  assert.deepEqual(
    (await lines('left-out.jsonl')).map(({ path: file, kind, of, ofExcluded, line }) => [file, kind, of ?? line, ofExcluded ?? false]),
    [
      ['scene-0.png', 'duplicate', 'same-0.png', false],
      ['scene-1.png', 'excluded', 'scene-1', false],
      ['scene-2.png', 'excluded', 'scene-[23].png', false],
      ['scene-3.png', 'excluded', 'scene-[23].png', false],
      // Nothing of a test set is trained on, in any size.
      ['small-1.jpg', 'duplicate', 'scene-1.png', true],
    ],
  );
  // After training, by the teacher's features; the copies stay those of the pictures.
  const byTeacher = await patchwise(['curate', own, '--network', '--json']);
  assert.equal(byTeacher.code, 0, byTeacher.stderr);
  const again = byTeacher.result<Curated & { summary: { features: string } }>();
  assert.deepEqual([again.summary.features, again.groups], ['run-1-step-1', found.groups]);

  const everything = await patchwise([...run.slice(0, -2), '--no-dedupe', '--json']);
  assert.equal(everything.code, 0, everything.stderr);
  assert.equal((await readFile(path.join(own, 'runs', '2', 'images.jsonl'), 'utf8')).trimEnd().split('\n').length, 13);
  const missing = await patchwise([...run.slice(0, -1), path.join(place, 'no-list.txt')]);
  assert.deepEqual([missing.code, /no-list\.txt cannot be read/.test(missing.stderr)], [1, true]);
});
