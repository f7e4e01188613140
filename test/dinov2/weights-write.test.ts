/** Networks written for other programs: read back by us exactly, and by the programs themselves where they are. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, readlinkSync, statSync, writeFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { AppError } from '../../core/contract/index.ts';
import { loadBackbone } from '../../core/dinov2/backbone.ts';
import { modelConfig, OFFICIAL_CROPS, type ModelConfig, type RunConfig } from '../../core/dinov2/config.ts';
import { resolveConfig } from '../../core/dinov2/presets.ts';
import {
  exportNetwork,
  keepWeights,
  openWeights,
  publishedNetworks,
  readWeights,
  resizePositionTable,
  type NetworkExport,
} from '../../core/dinov2/weights/index.ts';
import { IMAGENET_ROWS, officialConfig } from '../../core/dinov2/weights/handOver.ts';
import { createExecutor, type ParameterSpec } from '../../core/nn/index.ts';
import { Random } from '../../core/random.ts';
import { temporaryFolder } from '../fixtures/files.ts';
import { askPython, missingPython } from '../fixtures/python.ts';
import { relativeError } from './golden.ts';
import { askTorch, digests, drawn, openedNetwork, pickleOfTensors, smallModel, zipFile } from './weights-fixtures.ts';

const about = 'From the Patchwise project "Test", run 1, step 2.';
const noTorch = missingPython('torch');
const noTransformers = missingPython('torch', 'transformers', 'numpy');
const kinds: Record<string, ModelConfig> = {
  plain: smallModel(),
  'with registers': smallModel({ registers: 4 }),
  SwiGLU: smallModel({ ffn: 'swiglu' }),
};

async function exported(
  t: TestContext,
  config: ModelConfig,
  format: Exclude<NetworkExport['format'], 'hand-over'>,
  heads: readonly ('dino_head' | 'ibot_head')[] = [],
) {
  const folder = temporaryFolder(t);
  const network = await openedNetwork(t, folder, config, heads);
  const dir = join(folder, format);
  mkdirSync(dir);
  const files = await exportNetwork(network.weights, dir, about, { format });
  for (const file of files) assert.ok(statSync(join(dir, file)).size > 0, file);
  assert.match(await readFile(join(dir, 'README.md'), 'utf8'), /From the Patchwise project "Test", run 1, step 2\./);
  return { ...network, dir, files };
}

/** The table as the official constructors have it, by the same rule as everywhere. */
function withTable(config: ModelConfig, specs: readonly ParameterSpec[], grid: number): ParameterSpec[] {
  return specs.map((spec) =>
    spec.name === 'pos_embed'
      ? { name: spec.name, shape: [1, 1 + grid * grid, config.embedDim], values: resizePositionTable(spec.values, config, grid) }
      : spec,
  );
}

// --- position tables --------------------------------------------------------------------------------------------------

for (const registers of [0, 4]) {
  test(`a resized position table is what the executor makes of it, with ${registers} registers`, async () => {
    const config = smallModel({ registers, positionGrid: 37 });
    const table = drawn(config).find(({ name }) => name === 'pos_embed')!;
    const x = await createExecutor({ engine: 'cpu', threads: 2 });
    for (const grid of [16, 8, 7, 46, 37]) {
      await x.scope(async () => {
        const resize = { gridHeight: grid, gridWidth: grid, offset: config.positionOffset, antialias: config.positionAntialias };
        const expected = await x.read(x.resizePositions(x.tensor(table.values, table.shape), resize));
        const actual = resizePositionTable(table.values, config, grid);
        assert.ok(relativeError(actual, expected) < 1e-6, `37 to ${grid}: ${relativeError(actual, expected)}`);
      });
    }
    await x.dispose();
  });
}

test('rows of the resized table have the recorded weights (spec 1.3)', () => {
  // One column that counts the row of the table: the result is the weighted sum of the recorded weights.
  const config = { ...smallModel({ positionGrid: 37 }), embedDim: 1 };
  const table = Float32Array.from({ length: 1 + 37 * 37 }, (_, i) => (i === 0 ? 9 : Math.floor((i - 1) / 37)));
  const row8 = 18 * -0.023901 + 19 * 0.997424 + 20 * 0.027322 + 21 * -0.000845;
  const resized = resizePositionTable(table, config, 16);
  assert.equal(resized[0], 9);
  for (let x = 0; x < 16; x++) assert.ok(Math.abs(resized[1 + 8 * 16 + x]! - row8) < 5e-5, `${resized[1 + 8 * 16 + x]} instead of ${row8}`);
});

test('the table is resized when a grid is asked for at reading', async (t) => {
  const folder = temporaryFolder(t);
  const config = smallModel({ positionGrid: 37 });
  const { backbone } = await openedNetwork(t, folder, config);
  const read = await readWeights(join(folder, 'teacher.safetensors'), { positionGrid: 16 });
  assert.deepEqual(read.config, { ...config, positionGrid: 16 });
  assert.deepEqual(read.backbone, withTable(config, backbone, 16));
});

// --- formats ----------------------------------------------------------------------------------------------------------

for (const [kind, config] of Object.entries(kinds)) {
  test(`official layout, ${kind}: read back exactly`, async (t) => {
    const { backbone, dir, files } = await exported(t, config, 'official', ['dino_head']);
    const read = await readWeights(join(dir, files[0]!));
    assert.deepEqual(read.config, { ...config, positionGrid: 37 });
    assert.deepEqual(read.backbone, withTable(config, backbone, 37));
    assert.equal(read.heads, null);
  });

  test(`official layout, ${kind}: PyTorch loads the same bytes`, { skip: noTorch }, async (t) => {
    const { backbone, dir, files } = await exported(t, config, 'official');
    assert.deepEqual(askTorch(join(dir, files[0]!), null), digests(withTable(config, backbone, 37)));
  });

  test(`training checkpoint, ${kind}: read back exactly, heads too`, async (t) => {
    const { backbone, heads, dir } = await exported(t, config, 'trainer-checkpoint', ['dino_head', 'ibot_head']);
    const read = await readWeights(join(dir, 'teacher_checkpoint.pth'));
    assert.deepEqual(read.config, config);
    assert.deepEqual(read.backbone, backbone);
    assert.deepEqual([...read.heads!.dino!.parameters, ...read.heads!.ibot!.parameters], heads);
    assert.deepEqual(read.heads!.dino!.config, { hidden: 24, bottleneck: 12, prototypes: 40 });
  });

  test(`training checkpoint, ${kind}: PyTorch loads the same bytes`, { skip: noTorch }, async (t) => {
    const { backbone, heads, dir } = await exported(t, config, 'trainer-checkpoint', ['dino_head']);
    assert.deepEqual(askTorch(join(dir, 'teacher_checkpoint.pth'), 'teacher'), { ...digests(backbone, 'backbone.'), ...digests(heads) });
  });

  test(`Hugging Face folder, ${kind}: read back exactly`, async (t) => {
    const { backbone, dir } = await exported(t, config, 'huggingface');
    const read = await readWeights(join(dir, 'model.safetensors'));
    assert.deepEqual(read.config, config);
    assert.deepEqual(read.backbone, backbone);
    assert.match(read.facts.layout, /Hugging Face names/);
  });

  test(`Hugging Face folder, ${kind}: transformers gives our outputs`, { skip: noTransformers }, async (t) => {
    const { dir } = await exported(t, config, 'huggingface');
    const random = new Random(3);
    // At the trained size, where nothing is resized.
    const side = config.positionGrid * config.patchSize;
    const image = Float32Array.from({ length: 3 * side * side }, () => random.normal());
    writeFileSync(join(dir, 'image.bin'), image);
    const script = `
import sys, json, torch, numpy
from transformers import ${config.registers > 0 ? 'Dinov2WithRegistersModel' : 'Dinov2Model'} as Model
folder, side = json.load(sys.stdin)
model, info = Model.from_pretrained(folder, output_loading_info=True)
image = torch.from_numpy(numpy.fromfile(folder + "/image.bin", dtype="<f4").reshape(1, 3, side, side))
with torch.no_grad(): out = model.eval()(pixel_values=image).last_hidden_state[0]
print(json.dumps({"missing": sorted(info["missing_keys"]), "surplus": sorted(info["unexpected_keys"]), "tokens": out.tolist()}))`;
    const answer = askPython(script, [dir, side]) as { missing: string[]; surplus: string[]; tokens: number[][] };
    assert.deepEqual([answer.missing, answer.surplus], [[], []]);

    const x = await createExecutor({ engine: 'cpu', threads: 2 });
    const kept = join(dir, 'kept.safetensors');
    const weights = await openWeights(join(dir, 'model.safetensors'));
    await keepWeights(weights, kept);
    await weights.close();
    const network = await loadBackbone({ weightsFile: kept }, x);
    const { cls, patches } = await network.features(image, 1, side, side);
    const expected = (from: number, to: number) => answer.tokens.slice(from, to).flat();
    assert.ok(relativeError(cls, expected(0, 1)) < 1e-5, `cls ${relativeError(cls, expected(0, 1))}`);
    const patchError = relativeError(patches, expected(1 + config.registers, answer.tokens.length));
    assert.ok(patchError < 1e-5, `patches ${patchError}`);
    await x.dispose();
  });
}

test('the same network gives the same bytes', async (t) => {
  const first = await exported(t, smallModel(), 'official');
  const second = await exported(t, smallModel(), 'official');
  assert.deepEqual(readFileSync(join(first.dir, first.files[0]!)), readFileSync(join(second.dir, second.files[0]!)));
});

test('a kept import is the network that was read, and a damaged one is refused', async (t) => {
  const folder = temporaryFolder(t);
  const { weights, backbone, heads } = await openedNetwork(t, folder, smallModel({ registers: 4 }), ['dino_head']);
  const path = join(folder, 'kept.safetensors');
  await keepWeights(weights, path);
  const again = await readWeights(path);
  assert.deepEqual(again.backbone, backbone);
  assert.deepEqual(again.heads!.dino!.parameters, heads);
  const x = await createExecutor({ engine: 'cpu', threads: 2 });
  assert.deepEqual((await loadBackbone({ weightsFile: path }, x)).config, weights.config);
  const bytes = readFileSync(path);
  bytes[bytes.length - 5]! ^= 1;
  writeFileSync(path, bytes);
  await assert.rejects(
    loadBackbone({ weightsFile: path }, x),
    (error: unknown) => error instanceof AppError && error.code === 'checkpoint-damaged',
  );
  await assert.rejects(
    loadBackbone({ weightsFile: `${path}.gone` }, x),
    (error: unknown) => error instanceof AppError && error.code === 'weights-not-found',
  );
  await x.dispose();
});

test('a disk that cannot be written to ends an export with its own error', async (t) => {
  const folder = temporaryFolder(t);
  const { weights } = await openedNetwork(t, folder, smallModel());
  await assert.rejects(exportNetwork(weights, join(folder, 'not-there'), about, { format: 'official' }), { code: 'ENOENT' });
});

test('archives in ZIP64, as files beyond 4 GiB are, are read', async (t) => {
  const path = join(temporaryFolder(t), 'large.pth');
  const specs = drawn(smallModel());
  const strides = (shape: readonly number[]) => shape.map((_, axis) => shape.slice(axis + 1).reduce((a, b) => a * b, 1));
  const data = pickleOfTensors(specs.map(({ name, shape, values }) => ({ name, shape, strides: strides(shape), length: values.length })));
  const storages = specs.map(({ values }, i) => ({ name: `data/${i}`, bytes: new Uint8Array(values.buffer) }));
  await zipFile(path, [{ name: 'data.pkl', bytes: data }, ...storages], true);
  assert.ok(readFileSync(path).includes(Buffer.from('PK\x06\x06', 'latin1'))); // the ZIP64 end record
  assert.deepEqual((await readWeights(path)).backbone, specs);
});

test('the published networks have the derived numbers of parameters (spec 1.1)', () => {
  const counts = Object.fromEntries(publishedNetworks().map(({ id, parameters }) => [id, parameters]));
  assert.deepEqual(counts, {
    dinov2_vits14_pretrain: 22_056_576,
    dinov2_vits14_reg4_pretrain: 22_058_112,
    dinov2_vitb14_pretrain: 86_580_480,
    dinov2_vitb14_reg4_pretrain: 86_583_552,
    dinov2_vitl14_pretrain: 304_368_640,
    dinov2_vitl14_reg4_pretrain: 304_372_736,
    dinov2_vitg14_pretrain: 1_136_480_768,
    dinov2_vitg14_reg4_pretrain: 1_136_486_912,
  });
});

// --- hand-over --------------------------------------------------------------------------------------------------------

function run(changes: Partial<RunConfig> = {}): RunConfig {
  const facts = { images: 5000, cores: 2, memoryBytes: 8e9, engine: 'cpu, 2 threads', gpu: false };
  return { ...resolveConfig('standard', facts), model: smallModel({ registers: 4 }), ...changes };
}

async function handedOver(t: TestContext, config: RunConfig, images: readonly string[]) {
  const folder = temporaryFolder(t);
  const network = await openedNetwork(t, folder, config.model, ['dino_head']);
  const dir = join(folder, 'hand-over');
  mkdirSync(dir);
  const files = await exportNetwork(network.weights, dir, about, { format: 'hand-over', run: { config, images } });
  return { ...network, dir, files };
}

test('the configuration for the official trainer says what the run says', () => {
  const config = run();
  const { official, notes } = officialConfig(config);
  const value = (section: string, key: string) => (official[section] as Record<string, number>)[key]!;
  const length = value('train', 'OFFICIAL_EPOCH_LENGTH');
  // As the trainer counts (dinov2/train/train.py): epochs times length; the rate times sqrt(batch / 1024).
  assert.equal(value('optim', 'epochs') * length, config.steps);
  assert.equal(value('optim', 'warmup_epochs') * length, config.optimizer.warmupSteps);
  assert.equal(value('optim', 'freeze_last_layer_epochs') * length, config.optimizer.freezeLastLayerSteps);
  assert.equal(value('teacher', 'warmup_teacher_temp_epochs') * length, config.teacher.temperatureWarmupSteps);
  const rate = value('optim', 'base_lr') * Math.sqrt((value('train', 'batch_size_per_gpu') * 1) / 1024);
  assert.ok(Math.abs(rate / config.optimizer.learningRate - 1) < 1e-12);
  assert.ok(length * 3 >= config.steps / 100, 'a whole state at most every hundredth of the run');
  assert.deepEqual(notes, []);
  // The crops' sizes are the run's own; so is everything that has a key.
  assert.equal(value('crops', 'global_crops_size'), config.crops.globalSize);
  assert.equal(value('ibot', 'head_n_prototypes'), config.heads.dino.prototypes);
  assert.equal((official['ibot'] as Record<string, unknown>)['separate_head'], false);
});

test('several batches a step go to as many GPUs; a distillation cannot be handed over', async (t) => {
  const facts = { images: 5000, cores: 2, memoryBytes: 8e9, engine: 'cpu, 2 threads', gpu: false };
  const config = { ...resolveConfig('standard', facts, { batch: 16, accumulate: 4 }), model: smallModel({ registers: 4 }) };
  const { official } = officialConfig(config);
  const [{ base_lr: rate }, { batch_size_per_gpu: batch }] = [official['optim'], official['train']] as [
    Record<string, number>,
    Record<string, number>,
  ];
  assert.ok(Math.abs((rate! * Math.sqrt((batch! * 4) / 1024)) / config.optimizer.learningRate - 1) < 1e-12);
  const { dir } = await handedOver(t, config, ['a.png']);
  assert.match(readFileSync(join(dir, 'README.md'), 'utf8'), /which took 4 such batches a step: 4 GPUs do the same/);
  await assert.rejects(
    handedOver(t, { ...config, distillation: { model: modelConfig('small') } }, ['a.png']),
    (error: AppError) => error.code === 'bad-input' && /no distillation/.test(error.message),
  );
});

test('numbers that the trainer cannot take are rounded, or told', () => {
  const changed = run({ steps: 1999, crops: { ...OFFICIAL_CROPS, grayscaleProbability: 0.5 }, studentTemperature: 0.2 });
  const { official, notes } = officialConfig(changed);
  const { epochs } = official['optim'] as Record<string, number>;
  const { OFFICIAL_EPOCH_LENGTH: length } = official['train'] as Record<string, number>;
  assert.ok(Number.isInteger(epochs) && Number.isInteger(length) && Math.abs(epochs! * length! - 1999) <= length!);
  assert.match(notes.join('\n'), /^1999 steps \(epochs\) became \d+: the trainer counts in epochs of \d+\.$/m);
  assert.match(notes.join('\n'), /^augmentation, grayscaleProbability: 0\.5 in this run, 0\.2 in the trainer's code/m);
  assert.match(notes.join('\n'), /^student temperature: 0\.2/m);
});

test('named networks keep their official names, others are registered', async (t) => {
  const names = (['small', 'base', 'large', 'giant'] as const).map(
    (name) => (officialConfig(run({ model: modelConfig(name) })).official['student'] as Record<string, unknown>)['arch'],
  );
  assert.deepEqual(names, ['vit_small', 'vit_base', 'vit_large', 'vit_giant2']);
  const { dir, files } = await handedOver(t, run(), ['a.png']);
  assert.ok(files.includes('train.py'));
  assert.match(readFileSync(join(dir, 'train.py'), 'utf8'), /^vision_transformer\.vit_custom = vit_custom$/m);
  assert.match(readFileSync(join(dir, 'config.yaml'), 'utf8'), /^ {2}arch: "vit_custom"$/m);
});

test('the configuration is YAML with the numbers of the run', { skip: missingPython('yaml') }, async (t) => {
  const config = run({ optimizer: { ...run().optimizer, finalLearningRate: 1e-7 } });
  const { dir } = await handedOver(t, config, ['a.png']);
  const parsed = askPython(
    'import sys, json, yaml\nprint(json.dumps(yaml.safe_load(open(json.load(sys.stdin)))))',
    join(dir, 'config.yaml'),
  );
  assert.deepEqual(parsed, JSON.parse(JSON.stringify(officialConfig(config).official)));
});

test('the backbone goes over under "model", with the position table of the global crops', { skip: noTorch }, async (t) => {
  const asTrained = await handedOver(t, run(), ['a.png']);
  assert.equal(run().crops.globalSize / run().model.patchSize, run().model.positionGrid);
  assert.deepEqual(askTorch(join(asTrained.dir, 'weights.pth'), 'model'), digests(asTrained.backbone));
  const config = run({ model: smallModel({ positionGrid: 37 }) });
  const resized = await handedOver(t, config, ['a.png']);
  assert.deepEqual(askTorch(join(resized.dir, 'weights.pth'), 'model'), digests(withTable(config.model, resized.backbone, 8)));
});

test('the list of images is what the ImageNet class reads', { skip: missingPython('numpy') }, async (t) => {
  const { dir } = await handedOver(t, run(), ['a.png', 'b/c d.jpg', "b/it's.tif"]);
  const script = `
import sys, json, numpy
folder = json.load(sys.stdin)
entries = numpy.load(folder + "/extra/entries-TRAIN.npy", mmap_mode="r")
ids, names = (numpy.load(folder + f"/extra/class-{what}-TRAIN.npy", mmap_mode="r") for what in ("ids", "names"))
numbers, counts = numpy.unique(entries["actual_index"], return_counts=True)
row = entries[4]
path = f"{row['class_id']}/{row['class_id']}_{row['actual_index']}.JPEG"
print(json.dumps([len(entries), numbers.tolist(), counts.tolist(), path, int(row["class_index"]), str(row["class_name"]), ids.tolist(), names.tolist(), int(entries["class_index"].max())]))`;
  const third = IMAGENET_ROWS / 3;
  const counts = [Math.ceil(third), Math.ceil(third), Math.floor(third)];
  assert.deepEqual(askPython(script, dir), [IMAGENET_ROWS, [1, 2, 3], counts, 'img/img_2.JPEG', 0, 'img', ['img'], ['img'], 0]);
});

test(
  'the script links every image to its name, and says what is missing',
  { skip: process.platform === 'win32' ? 'a shell script' : false },
  async (t) => {
    const { dir } = await handedOver(t, run(), ['a.png', 'b/c d.jpg', "b/it's $odd.tif"]);
    const images = join(temporaryFolder(t), 'my images');
    mkdirSync(join(images, 'b'), { recursive: true });
    for (const name of ['a.png', 'b/c d.jpg', "b/it's $odd.tif"]) writeFileSync(join(images, name), name);
    const script = join(dir, 'link-images.sh');
    const first = spawnSync('sh', [script, images], { encoding: 'utf8' });
    assert.deepEqual([first.status, first.stdout, first.stderr], [0, '3 of 3 images linked\n', '']);
    assert.equal(readlinkSync(join(dir, 'train/img/img_3.JPEG')), join(images, "b/it's $odd.tif"));
    assert.equal(readFileSync(join(dir, 'train/img/img_2.JPEG'), 'utf8'), 'b/c d.jpg');
    const elsewhere = temporaryFolder(t);
    writeFileSync(join(elsewhere, 'a.png'), '');
    const second = spawnSync('sh', [script, elsewhere], { encoding: 'utf8' });
    assert.equal(second.status, 1);
    assert.match(second.stderr, /not there: .*c d\.jpg/);
    assert.notEqual(spawnSync('sh', [script]).status, 0);
  },
);

test('what cannot be handed over is refused in words', async (t) => {
  await assert.rejects(
    handedOver(t, run(), ['a\nb.png']),
    (error: unknown) => error instanceof AppError && /line break/.test(error.message),
  );
  await assert.rejects(handedOver(t, run(), []), (error: unknown) => error instanceof AppError && error.code === 'too-few-images');
});
