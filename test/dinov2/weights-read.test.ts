/** Weights as PyTorch and Hugging Face write them: read exactly, and every other file refused in words. */
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { readFile, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { AppError } from '../../core/contract/index.ts';
import { modelConfig } from '../../core/dinov2/config.ts';
import { readSafetensors, writeSafetensors } from '../../core/dinov2/safetensors.ts';
import { classTokens, vitForward, vitShapes } from '../../core/dinov2/vit.ts';
import { openWeights, readWeights } from '../../core/dinov2/weights/index.ts';
import { createExecutor } from '../../core/nn/index.ts';
import { Random } from '../../core/random.ts';
import { temporaryFolder } from '../fixtures/files.ts';
import { askPython, missingPython } from '../fixtures/python.ts';
import { golden, goldenPath, noGolden, relativeError } from './golden.ts';
import { drawn, pickle, pickleOfTensors, smallModel, torchFile, writeBytes, zipFile, type Described } from './weights-fixtures.ts';

const recorded = noGolden ? [] : readdirSync(goldenPath('')).filter((name) => /^import-(?!expected).*\.(pth|safetensors)$/.test(name));

// --- recorded files ---------------------------------------------------------------------------------------------------

const halfTypes = { 'import-official-fp16.pth': 'F16', 'import-official-bf16.pth': 'BF16' } as Record<string, string>;

/** The nearest number of that type, by rounding half to even on the bits of the float32. */
function rounded(value: number, type: string): number {
  if (type === 'F16') return Math.f16round(value);
  const bits = new Uint32Array(Float32Array.of(value).buffer);
  const kept = bits[0]! >>> 16;
  const rest = bits[0]! & 0xffff;
  const up = rest > 0x8000 || (rest === 0x8000 && (kept & 1) === 1);
  return new Float32Array(Uint32Array.of((kept + Number(up)) << 16).buffer)[0]!;
}

test('there are recorded files of every kind', { skip: noGolden }, () => {
  const kinds = [
    'official',
    'official-legacy',
    'official-fp16',
    'official-bf16',
    'official-metadata',
    'parameters',
    'views-one-storage',
    'teacher-checkpoint',
    'chunked-blocks',
    'hf',
  ];
  for (const kind of kinds)
    assert.ok(
      recorded.some((name) => name.startsWith(`import-${kind}.`)),
      kind,
    );
});

for (const name of recorded) {
  test(`${name} holds the recorded weights and gives the recorded outputs`, { skip: noGolden }, async () => {
    const expected = await golden('import-expected');
    const { config, backbone, facts } = await readWeights(goldenPath(name));
    const type = halfTypes[name] ?? 'F32';
    assert.equal(facts.type, type);
    assert.deepEqual(
      {
        embedDim: config.embedDim,
        depth: config.depth,
        heads: config.heads,
        patch: config.patchSize,
        ffn: config.ffn,
        registers: config.registers,
      },
      { embedDim: 64, depth: 2, heads: 1, patch: 14, ffn: 'mlp', registers: 0 },
    );
    assert.equal(config.positionGrid, 37);
    assert.equal(config.positionOffset, 0.1);
    assert.equal(config.positionAntialias, false);
    assert.equal(backbone.length, [...expected.tensors.keys()].filter((key) => !key.startsWith('expect.')).length);
    for (const { name: tensor, shape, values } of backbone) {
      const truth = expected.tensors.get(tensor)!;
      assert.deepEqual(shape, truth.shape, tensor);
      assert.deepEqual(values, type === 'F32' ? truth.values : (truth.values as Float32Array).map((value) => rounded(value, type)), tensor);
    }
    if (type !== 'F32') return; // other weights, other outputs
    const x = await createExecutor({ engine: 'cpu', threads: 2 });
    await x.scope(async () => {
      const image = expected.tensors.get('expect.image')!;
      const grid = vitForward(x, x.createParameters(backbone), config, x.tensor(image.values as Float32Array, image.shape));
      const outputs = { cls: await x.read(classTokens(x, grid)), patch: await x.read(x.sliceTokens(grid.tokens, 1, 35)) };
      for (const [key, actual] of Object.entries(outputs)) {
        const error = relativeError(actual, expected.tensors.get(`expect.${key}`)!.values);
        assert.ok(error < 1e-5, `${key}: relative error ${error}`);
      }
    });
    await x.dispose();
  });
}

test('a recorded file that is cut off anywhere is refused in words', { skip: noGolden }, async (t) => {
  const folder = temporaryFolder(t);
  const path = join(folder, 'cut.bin');
  for (const name of ['import-official.pth', 'import-official-legacy.pth', 'import-hf.safetensors']) {
    const whole = await readFile(goldenPath(name));
    for (const share of [0, 1e-6, 1e-5, 1e-4, 0.001, 0.003, 0.1, 0.5, 0.99, 0.99999]) {
      await writeBytes(path, whole.subarray(0, Math.floor(share * whole.length)));
      await assert.rejects(readWeights(path), refused(/^cut\.bin: /), `${name} at ${share}`);
    }
  }
});

test('bytes changed at random are refused in words, or change numbers that nothing guards', { skip: noGolden }, async (t) => {
  const folder = temporaryFolder(t);
  const path = join(folder, 'changed.bin');
  const random = new Random(11);
  let refusals = 0;
  for (const name of ['import-official.pth', 'import-official-legacy.pth', 'import-hf.safetensors', 'import-teacher-checkpoint.pth']) {
    const whole = await readFile(goldenPath(name));
    const pickled = Math.min(whole.length, 5000); // descriptions come first in all of them
    for (let i = 0; i < 60; i++) {
      const changed = Buffer.from(whole);
      for (let k = 0; k < 3; k++) changed[Math.floor(random.uniform(0, pickled))] = Math.floor(random.uniform(0, 256));
      await writeBytes(path, changed);
      try {
        await readWeights(path);
      } catch (error) {
        refused(/^changed\.bin: /)(error);
        refusals++;
      }
    }
  }
  t.diagnostic(`${refusals} of 240 refused`);
  assert.ok(refusals > 120);
});

/** True for the error of a file that cannot be read, with these words. */
function refused(words: RegExp): (error: unknown) => true {
  return (error) => {
    assert.ok(error instanceof AppError, String((error as Error).stack));
    assert.equal(error.code, 'weights-unreadable');
    assert.match(error.message, words);
    assert.ok(error.action.length > 10);
    return true;
  };
}

test('a changed number in a PyTorch file is seen by its checksum', { skip: noGolden }, async (t) => {
  const path = join(temporaryFolder(t), 'changed.pth');
  const whole = await readFile(goldenPath('import-official.pth'));
  whole[Math.floor(whole.length / 2)]! ^= 1;
  await writeBytes(path, whole);
  await assert.rejects(readWeights(path), refused(/checksum differs/));
});

// --- files made by hand -----------------------------------------------------------------------------------------------

test('a pickle that asks for anything else is refused by its name, and nothing is run', async (t) => {
  const folder = temporaryFolder(t);
  const path = join(folder, 'evil.pth');
  const traces: [string, Buffer][] = [
    ['posix.system', pickle(0x80, 2, 'cposix\nsystem\n', 'X', 9, 0, 0, 0, 'touch pwn', 0x85, 'R', '.')],
    ['builtins.eval', pickle(0x80, 4, 0x8c, 8, 'builtins', 0x8c, 4, 'eval', 0x93, 0x8c, 3, '1+1', 0x85, 'R', '.')],
    ['torch.storage._load_from_bytes', pickle(0x80, 2, 'ctorch.storage\n_load_from_bytes\n', ')', 'R', '.')],
    ['argparse.Namespace', pickle(0x80, 2, '}', 'X', 4, 0, 0, 0, 'args', 'cargparse\nNamespace\n', ')', 'R', 's', '.')],
  ];
  for (const [name, data] of traces) {
    await torchFile(path, data);
    await assert.rejects(
      openWeights(path),
      refused(new RegExp(`^evil\\.pth: it asks Python for ${name.replaceAll('.', '\\.')}, .*nothing of it was run`)),
    );
  }
  // The same in the format of before 1.6, where the pickle follows a magic number.
  const legacy = pickle(0x80, 2, 0x8a, 10, '\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.', 0x80, 2, 'M\xe9\x03.', 0x80, 2, '}.');
  await writeBytes(path, Buffer.concat([legacy, pickle(0x80, 2, 'cposix\nsystem\n)R.')]));
  await assert.rejects(openWeights(path), refused(/posix\.system/));
  assert.deepEqual(readdirSync(folder), ['evil.pth']);
});

const badPickles: Record<string, [Buffer, RegExp]> = {
  'an unknown opcode': [pickle(0x80, 2, 'i', 'x\n', '.'), /opcode 0x69/],
  'an extension code': [pickle(0x80, 2, 0x82, 1, '.'), /opcode 0x82/],
  'a new object': [pickle(0x80, 2, 'ccollections\nOrderedDict\n', ')', 0x81, '.'), /opcode 0x81/],
  'an unknown protocol': [pickle(0x80, 9, '}', '.'), /protocol 9/],
  'an empty stack': [pickle(0x80, 2, 'R', '.'), /takes more than it has laid down/],
  'a mark that is not there': [pickle(0x80, 2, 't', '.'), /never began/],
  'a memo that is not there': [pickle(0x80, 2, 'h', 7, '.'), /recalls entry 7/],
  'text past the end': [pickle(0x80, 2, 'X', 255, 255, 255, 127, 'a'), /breaks off/],
  'no end': [pickle(0x80, 2, '}'), /breaks off/],
  'a number instead of a dictionary': [pickle(0x80, 2, 'K', 1, '.'), /a number, not a state dict/],
  'a call of no function': [pickle(0x80, 2, 'K', 1, ')', 'R', '.'), /cannot be called/],
  'attributes of a list': [pickle(0x80, 2, ']', '}', 'b', '.'), /attributes/],
  'an empty dictionary': [pickle(0x80, 2, '}', '.'), /no tensors/],
  'a dictionary of other things': [pickle(0x80, 2, '}', 'X', 5, 0, 0, 0, 'epoch', 'K', 3, 's', '.'), /but: epoch/],
  'a storage that is none': [pickle(0x80, 2, 'K', 1, 'Q', '.'), /storage that is malformed/],
};

for (const [what, [data, words]] of Object.entries(badPickles)) {
  test(`a pickle with ${what} is refused in words`, async (t) => {
    const path = join(temporaryFolder(t), 'bad.pth');
    await torchFile(path, data);
    await assert.rejects(openWeights(path), refused(words));
  });
}

const badTensors: Record<string, [Described, RegExp]> = {
  'reaches past its storage': [{ shape: [5] }, /reaches beyond the 4 values/],
  'starts past its storage': [{ offset: 200 }, /reaches beyond/],
  'strides past its storage': [{ shape: [2, 2], strides: [3, 1] }, /reaches beyond/],
  'repeats one value': [{ shape: [255, 255], strides: [0, 0] }, /reaches beyond/],
  'has as many axes as strides not': [{ shape: [4], strides: [1, 1] }, /malformed/],
  'has nine axes': [{ shape: [1, 1, 1, 1, 1, 1, 1, 1, 1], strides: [1, 1, 1, 1, 1, 1, 1, 1, 1] }, /malformed/],
};

for (const [what, [tensor, words]] of Object.entries(badTensors)) {
  test(`a tensor that ${what} is refused in words`, async (t) => {
    const path = join(temporaryFolder(t), 'bad.pth');
    await torchFile(path, pickleOfTensors([tensor]), [new Uint8Array(16)]);
    await assert.rejects(readWeights(path), refused(words));
  });
}

test('zip files that torch.save did not write are refused in words', async (t) => {
  const folder = temporaryFolder(t);
  const path = join(folder, 'odd.pth');
  const good = { name: 'data.pkl', bytes: pickleOfTensors([{}]) };
  const storage = { name: 'data/0', bytes: new Uint8Array(16) };
  const cases: [Parameters<typeof zipFile>[1], RegExp][] = [
    [[{ name: 'made/photos/a.jpg', bytes: new Uint8Array(8) }], /not one that torch\.save wrote/],
    [[{ ...good, compress: true }, storage], /compressed/],
    [[{ name: 'data.pkl', bytes: new Uint8Array(70_000_000), compress: true }], /compressed/], // a bomb: 70 kB of file
    [[good, storage, { name: 'data.pkl', bytes: new Uint8Array(1) }], /twice/],
    [[good, storage, { name: 'constants.pkl', bytes: new Uint8Array(1) }], /TorchScript/],
    [[good, storage, { name: 'byteorder', bytes: Buffer.from('big') }], /big-endian/],
    [[good, storage, { name: 'byteorder', bytes: new Uint8Array(1e6) }], /is no word/],
  ];
  for (const [entries, words] of cases) {
    await zipFile(path, entries);
    await assert.rejects(readWeights(path), refused(words), String(words));
  }
  // Encrypted: the flag in both headers is enough.
  await zipFile(path, [good, storage]);
  const bytes = await readFile(path);
  for (let at = bytes.indexOf('PK\x01\x02', 0, 'latin1'); at >= 0; at = bytes.indexOf('PK\x01\x02', at + 1, 'latin1')) bytes[at + 8]! |= 1;
  await writeBytes(path, bytes);
  await assert.rejects(readWeights(path), refused(/encrypted|size mismatch/));
});

test('files of other kinds are recognised', async (t) => {
  const folder = temporaryFolder(t);
  const path = join(folder, 'file.pth');
  const cases: [string, RegExp][] = [
    ['', /empty/],
    ['PK', /cut off/],
    ['<!DOCTYPE html><html>404</html>', /web page/],
    ['version https://git-lfs.github.com/spec/v1\noid sha256:0', /Git LFS/],
    ['\x1f\x8b\x08\x00', /gzip/],
    ['\x89HDF\r\n\x1a\n', /HDF5/],
    ['\x80\x04K\x01.', /Python pickle, but not one that torch\.save wrote/],
    ['a text about nothing in particular', /neither a PyTorch file nor/],
    ['\x08\x00\x00\x00\x00\x00\x00\x00{"a":1}}', /not JSON/],
    ['\x09\x00\x00\x00\x00\x00\x00\x00{"a":{}} ', /malformed/],
    ['\xff\xff\xff\x00\x00\x00\x00\x00{"a":1}', /header should have/],
  ];
  for (const [content, words] of cases) {
    await writeBytes(path, Buffer.from(content, 'latin1'));
    await assert.rejects(openWeights(path), refused(words), content.slice(0, 20));
  }
  await assert.rejects(openWeights(join(folder, 'gone.pth')), refused(/^gone\.pth: it is not there/));
  await mkdir(join(folder, 'model'));
  await assert.rejects(openWeights(join(folder, 'model')), refused(/folder/));
});

test('storages that are missing, of another size or named over and over are refused in words', async (t) => {
  const path = join(temporaryFolder(t), 'lying.pth');
  const specs = drawn(smallModel());
  const strides = (shape: readonly number[]) => shape.map((_, axis) => shape.slice(axis + 1).reduce((a, b) => a * b, 1));
  const described = specs.map(({ name, shape, values }) => ({ name, shape, strides: strides(shape), length: values.length }));
  const storages = specs.map(({ values }) => new Uint8Array(values.buffer));
  await torchFile(path, pickleOfTensors(described), storages);
  assert.deepEqual((await readWeights(path)).backbone, specs);

  await torchFile(path, pickleOfTensors(described), storages.slice(0, -1));
  await assert.rejects(readWeights(path), refused(/lacks data\/\d+/));
  await torchFile(path, pickleOfTensors(described.map((one, i) => (i === 3 ? { ...one, length: one.length + 1 } : one))), storages);
  await assert.rejects(readWeights(path), refused(/bytes where \d+ are described/));
  // A giant's shapes over the values of one of its matrices: little to read, much to hold.
  const giant = vitShapes(modelConfig('giant')).map(({ name, shape }) => ({ name, shape, length: 2 ** 24, strides: strides(shape) }));
  const one = pickleOfTensors(giant)
    .toString('latin1')
    .replaceAll(/X.\0\0\0\d+(?=X\x03\0\0\0cpu)/g, 'X\x01\0\0\x000');
  await torchFile(path, Buffer.from(one, 'latin1'), [new Uint8Array(0)]);
  await assert.rejects(readWeights(path), refused(/tensors count \d+ values, of which the file holds 16777216/));
});

// --- what kind of network ---------------------------------------------------------------------------------------------

test('sizes, feed-forward layers, registers and heads follow from names and shapes', async (t) => {
  const path = join(temporaryFolder(t), 'weights.safetensors');
  const cases = [
    smallModel(),
    smallModel({ registers: 4, positionGrid: 5 }),
    smallModel({ ffn: 'swiglu', patchSize: 16 }),
    { ...smallModel(), mlpRatio: 3 },
    modelConfig('nano', { positionGrid: 8 }),
  ];
  for (const config of cases) {
    await writeSafetensors(path, drawn(config), {});
    const read = await readWeights(path);
    assert.deepEqual(read.config, config);
    assert.deepEqual(read.backbone, drawn(config));
    assert.equal(read.heads, null);
    assert.equal(
      read.facts.parameters,
      drawn(config).reduce((sum, { values }) => sum + values.length, 0),
    );
  }
});

test('what is missing, surplus or of another shape is named', async (t) => {
  const path = join(temporaryFolder(t), 'weights.safetensors');
  const whole = drawn(smallModel());
  const zeros = (name: string, shape: number[]) => ({ name, shape, values: new Float32Array(shape.reduce((a, b) => a * b, 1)) });
  const without = (pattern: RegExp) => whole.filter(({ name }) => !pattern.test(name));
  const cases: [Parameters<typeof writeSafetensors>[1], RegExp][] = [
    [without(/^blocks\.1\.ls1/), /lacks blocks\.1\.ls1\.gamma$|lacks blocks\.1\.ls1\.gamma\./],
    [[...whole, zeros('blocks.1.attn.extra', [2])], /has blocks\.1\.attn\.extra, which DINOv2 has not/],
    [[...without(/^norm\.bias/), zeros('norm.bias', [32])], /norm\.bias is \[32\] instead of \[64\]/],
    [without(/^cls_token/), /no cls_token/],
    [[...without(/^pos_embed/), zeros('pos_embed', [1, 12, 64])], /12 rows is not a square grid/],
    [[...without(/^cls_token/), zeros('cls_token', [1, 1, 100])], /width of 100 is not a multiple of 64/],
    [[...without(/^patch_embed\.proj\.weight/), zeros('patch_embed.proj.weight', [64, 3, 14, 16])], /14 x 16 pixels are not square/],
    [without(/^blocks/), /blocks count 0/],
    [whole.map((spec) => ({ ...spec, name: `student.backbone.${spec.name}` })), /without its teacher/],
  ];
  for (const [tensors, words] of cases) {
    await writeSafetensors(path, tensors, {});
    await assert.rejects(readWeights(path), refused(words), String(words));
  }
  // The one tensor that features never need.
  await writeSafetensors(path, without(/^mask_token/), {});
  const { backbone, facts } = await readWeights(path);
  assert.deepEqual(backbone.find(({ name }) => name === 'mask_token')!.values, new Float32Array(64));
  assert.match(facts.notes.join(), /mask_token is not in it/);
});

test('a value that is no number is refused by its name', async (t) => {
  const path = join(temporaryFolder(t), 'weights.safetensors');
  const specs = drawn(smallModel());
  specs.find(({ name }) => name === 'blocks.1.norm2.weight')!.values[3] = NaN;
  await writeSafetensors(path, specs, {});
  await assert.rejects(readWeights(path), refused(/blocks\.1\.norm2\.weight holds NaN/));
});

test('safetensors of 16-bit numbers are read exactly', async (t) => {
  const path = join(temporaryFolder(t), 'half.safetensors');
  const values = [0, -0, 1, -2.5, 65504, 2 ** -24, 1 / 3, 1e-3];
  const halves = new Uint8Array(Float16Array.from(values).buffer);
  const brains = new Uint8Array(Uint16Array.from(values, (value) => new Uint32Array(Float32Array.of(value).buffer)[0]! >>> 16).buffer);
  const header = JSON.stringify({
    f16: { dtype: 'F16', shape: [8], data_offsets: [0, 16] },
    bf16: { dtype: 'BF16', shape: [2, 4], data_offsets: [16, 32] },
  });
  const length = Buffer.alloc(8);
  length.writeUInt32LE(header.length);
  await writeBytes(path, Buffer.concat([length, Buffer.from(header), halves, brains]));
  const { tensors } = await readSafetensors(path);
  assert.deepEqual(tensors.get('f16')!.values, Float32Array.from(values, Math.f16round));
  assert.deepEqual(
    tensors.get('bf16')!.values,
    Float32Array.from(
      values,
      (value) => new Float32Array(Uint32Array.of(new Uint32Array(Float32Array.of(value).buffer)[0]! & 0xffff0000).buffer)[0]!,
    ),
  );
});

// --- files that PyTorch writes here -----------------------------------------------------------------------------------

test('files that PyTorch writes in its many ways hold the same weights', { skip: missingPython('torch', 'safetensors') }, async (t) => {
  const folder = temporaryFolder(t);
  const config = smallModel({ registers: 4 });
  const specs = drawn(config);
  const source = join(folder, 'source.safetensors');
  await writeSafetensors(source, specs, {});
  const script = `
import sys, json, torch
from safetensors.torch import load_file
folder = json.load(sys.stdin)
state = load_file(folder + "/source.safetensors")
class Net(torch.nn.Module): pass
net = Net()
net.backbone = Net()
save = torch.save
save(state, folder + "/protocol4.pth", pickle_protocol=4)
save(state, folder + "/protocol5.pth", pickle_protocol=5)
save({"teacher": {"module.backbone." + k: v for k, v in state.items()}, "epoch": 3, "lr": 1e-4, "names": ("a", ["b"])}, folder + "/nested.pth")
save({"state_dict": {"_orig_mod." + k: v for k, v in state.items()}}, folder + "/compiled.pth")
flat = torch.cat([v.flatten() for v in state.values()])
views, at = {}, 0
for k, v in state.items():
    views[k] = flat[at:at + v.numel()].view(v.shape); at += v.numel()
save(views, folder + "/views.pth", _use_new_zipfile_serialization=False)
# Strided: every tensor is a transposed, sliced view of a larger one.
strided = {}
for k, v in state.items():
    big = torch.zeros([n + 1 for n in v.shape[::-1]])
    inner = big.permute(*range(v.dim() - 1, -1, -1))
    for axis in range(v.dim()): inner = inner.narrow(axis, 1, v.shape[axis])
    inner.copy_(v)
    strided[k] = inner
save(strided, folder + "/strided.pth")
save({k: torch.nn.Parameter(v) for k, v in state.items()}, folder + "/parameters.pth", _use_new_zipfile_serialization=False)
print(json.dumps(True))`;
  askPython(script, folder);
  for (const name of ['protocol4', 'protocol5', 'nested', 'compiled', 'views', 'strided', 'parameters']) {
    const read = await readWeights(join(folder, `${name}.pth`));
    assert.deepEqual(read.config, config, name);
    assert.deepEqual(read.backbone, specs, name);
  }
});
