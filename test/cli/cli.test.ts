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
import type { AppEvent, ErrorFacts, ExportRow, ImageProblem, RunRow, TrainPresets } from '../../core/contract/index.ts';
import { drawConveyor } from '../../core/demo/conveyor.ts';
import { encodeJpeg } from '../../core/images/index.ts';
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
      ['scan', images],
    ].map((args) => patchwise(args)),
  );
  assert.deepEqual([help!.code, help!.stderr], [0, '']);
  for (const command of ['scan', 'pretrain', 'resume', 'prelabel', 'eval', 'export', 'presets'])
    assert.match(help!.stdout, new RegExp(`^ +patchwise ${command} `, 'm'));
  const words = [
    /"tarin"/,
    /--speed/,
    /--steps.*"many"/,
    /--steps.*from 1 on.*"0"/,
    /--scope.*accepted or.*"all"/,
    /--engine.*auto or cpu or tensorflow.*"abacus"/,
    /--masks/,
    /--project/,
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
    '3',
    '--batch',
    '2',
    '--seed',
    '7',
    '--engine',
    'tensorflow',
  ]);
  assert.equal(trained.code, 0, trained.stderr);
  assert.match(trained.stdout, /^Run \S+: step 3 of 3, loss \d+\.\d+, \d+ checkpoints \(finished\)\n$/);
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
