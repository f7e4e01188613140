/** Checkpoints as another reader of the format sees them. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { createRun, listCheckpoints, writeCheckpoint } from '../../core/dinov2/checkpoint.ts';
import { vitParameters } from '../../core/dinov2/vit.ts';
import { headParameters } from '../../core/dinov2/heads.ts';
import { Random } from '../../core/random.ts';
import { ReferenceExecutor } from '../nn/reference-executor.ts';
import { tinyRun } from './tiny-run.ts';

const execute = promisify(execFile);

async function written() {
  const x = new ReferenceExecutor();
  const config = tinyRun();
  const specs = [
    ...vitParameters(config.model, new Random(4), 'backbone.'),
    ...headParameters(config.heads.dino, 16, new Random(5), 'dino_head'),
  ];
  const student = x.createParameters(specs);
  const teacher = x.createParameters(specs.map((spec) => ({ ...spec, values: spec.values.map((value) => value + 1) })));
  const adam = x.createAdamState(student);
  const ramp = (slope: number): Float32Array => Float32Array.from({ length: student.size }, (_, i) => slope * i);
  x.writeAdamState(adam, ramp(0.5), ramp(2));
  const centers = { dino: new Float32Array(24).fill(3), ibot: new Float32Array(24).fill(4) };
  const runDir = await mkdtemp(join(tmpdir(), 'patchwise-checkpoint-'));
  await createRun(runDir, config, []);
  const state = { student, teacher, adam, centers };
  for (const step of [0, 2, 4, 6]) await writeCheckpoint(x, runDir, config, state, step);
  return { runDir, config, specs, values: await x.readParameters(student), offsets: student.specs };
}

/** The format read by hand: nothing of the product's reader is used. */
async function parse(path: string) {
  const bytes = await readFile(path);
  const length = bytes.readUInt32LE(0);
  assert.equal(bytes.readUInt32LE(4), 0);
  const header = JSON.parse(bytes.toString('utf8', 8, 8 + length)) as Record<string, unknown>;
  const metadata = header['__metadata__'] as { step: string; config: string };
  delete header['__metadata__'];
  const entries = header as Record<string, { shape: number[]; data_offsets: [number, number] }>;
  const floats = (name: string): number[] => {
    const [from, to] = entries[name]!.data_offsets;
    return Array.from({ length: (to - from) / 4 }, (_, i) => bytes.readFloatLE(8 + length + from + 4 * i));
  };
  return { metadata, entries, floats, size: bytes.length, dataStart: 8 + length };
}

test('a checkpoint holds both networks, the moments and the centres under official names', async (t) => {
  const { runDir, config, specs, values, offsets } = await written();
  t.after(() => rm(runDir, { recursive: true, force: true }));
  assert.deepEqual(await listCheckpoints(runDir), [0, 2, 4, 6]);

  const teacher = await parse(join(runDir, 'checkpoints', '6', 'teacher.safetensors'));
  assert.equal(teacher.metadata.step, '6');
  assert.deepEqual(JSON.parse(teacher.metadata.config), config);
  assert.deepEqual(
    Object.keys(teacher.entries),
    specs.map(({ name }) => `teacher.${name}`),
  );
  assert.ok(Object.keys(teacher.entries).includes('teacher.backbone.blocks.1.attn.qkv.weight'));
  assert.ok(Object.keys(teacher.entries).includes('teacher.dino_head.last_layer.weight_g'));
  const training = await parse(join(runDir, 'checkpoints', '6', 'training.safetensors'));
  assert.equal(Object.keys(training.entries).length, 3 * specs.length + 2);
  for (const { name, shape, offset, size } of offsets) {
    assert.deepEqual(training.entries[`student.${name}`]!.shape, [...shape]);
    const expected = Array.from(values.subarray(offset, offset + size));
    assert.deepEqual(training.floats(`student.${name}`), expected);
    assert.deepEqual(teacher.floats(`teacher.${name}`), Array.from(Float32Array.from(expected, (value) => value + 1)));
    assert.equal(training.floats(`optim.m.${name}`)[1] ?? 0, size > 1 ? 0.5 * (offset + 1) : 0);
    assert.equal(training.floats(`optim.v.${name}`)[0], 2 * offset);
  }
  assert.deepEqual(training.floats('centers.ibot'), new Array(24).fill(4));
  const end = Math.max(...Object.values(training.entries).map(({ data_offsets }) => data_offsets[1]));
  assert.equal(training.dataStart + end, training.size);
  assert.equal(training.dataStart % 8, 0);

  // Only the newest two can be gone on from; every teacher is kept.
  for (const [step, resumable] of [
    [0, false],
    [2, false],
    [4, true],
    [6, true],
  ] as const) {
    await parse(join(runDir, 'checkpoints', String(step), 'teacher.safetensors'));
    const reading = readFile(join(runDir, 'checkpoints', String(step), 'training.safetensors'));
    if (resumable) await reading;
    else await assert.rejects(reading);
  }
});

test("Hugging Face's safetensors reads a checkpoint", async (t) => {
  const python = process.env['PATCHWISE_PYTHON'] ?? 'python3';
  const found = await execute(python, ['-c', 'import safetensors.numpy']).then(
    () => true,
    () => false,
  );
  if (!found) return t.skip(`${python} has no safetensors package (set PATCHWISE_PYTHON to one that has)`);
  const { runDir, specs, values } = await written();
  t.after(() => rm(runDir, { recursive: true, force: true }));
  const script =
    'import sys,json\nfrom safetensors.numpy import load_file\nd=load_file(sys.argv[1])\nprint(json.dumps([len(d), d["student.backbone.cls_token"].shape, float(sum(v.astype("f8").sum() for k,v in d.items() if k.startswith("student.")))]))';
  const { stdout } = await execute(python, ['-c', script, join(runDir, 'checkpoints', '6', 'training.safetensors')]);
  const [count, shape, sum] = JSON.parse(stdout);
  assert.equal(count, 3 * specs.length + 2);
  assert.deepEqual(shape, [1, 1, 16]);
  const expected = values.reduce((a, b) => a + b, 0);
  assert.ok(Math.abs(sum - expected) < 1e-6 * Math.abs(expected));
});
