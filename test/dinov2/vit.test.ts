import assert from 'node:assert/strict';
import { test } from 'node:test';
import { modelConfig, type ModelConfig } from '../../core/dinov2/config.ts';
import { drawDropPath, patchTokens, classTokens, vitForward, vitParameters } from '../../core/dinov2/vit.ts';
import { Random } from '../../core/random.ts';
import { golden, noGolden, relativeError, weightsOf } from './golden.ts';
import { executors } from './executors.ts';

const shape = { embedDim: 128, depth: 3, heads: 2, positionGrid: 8 };
const CASES: Record<string, ModelConfig> = {
  'vit-plain': { ...modelConfig('nano'), ...shape },
  'vit-registers': { ...modelConfig('nano', { registers: 4 }), ...shape },
  'vit-swiglu': { ...modelConfig('nano', { ffn: 'swiglu' }), ...shape },
};

for (const [engine, create] of executors) {
  for (const [name, config] of Object.entries(CASES)) {
    test(`${name} gives the official outputs on ${engine}`, { skip: noGolden }, async (t) => {
      const x = await create();
      const file = await golden(name);
      const parameters = x.createParameters(weightsOf(file, 'weights.'));
      let worst = 0;
      const compare = async (what: string, actual: Float32Array): Promise<void> => {
        const error = relativeError(actual, file.tensors.get(what)!.values);
        worst = Math.max(worst, error);
        assert.ok(error < 1e-5, `${name} ${what}: relative error ${error}`);
      };
      const sizes = [...file.tensors.keys()].filter((key) => key.endsWith('.image')).map((key) => key.slice(0, -'.image'.length));
      assert.ok(sizes.length >= 4);
      if (engine === 'reference') sizes.splice(0, sizes.length, '42x42', '70x126'); // the slow twin: one square, one not
      for (const size of sizes) {
        const { shape: imageShape, values } = file.tensors.get(`${size}.image`)!;
        const mask = file.tensors.get(`${size}.mask`)!.values as Uint8Array;
        await x.scope(async () => {
          const images = x.tensor(values as Float32Array, imageShape);
          const check = async (prefix: string, options: Parameters<typeof vitForward>[4]): Promise<void> => {
            const grid = vitForward(x, parameters, config, images, options);
            const P = grid.gridHeight * grid.gridWidth;
            await compare(`${prefix}cls`, await x.read(classTokens(x, grid)));
            await compare(
              `${prefix}patch`,
              await x.read(
                patchTokens(
                  x,
                  grid,
                  Int32Array.from({ length: grid.samples * P }, (_, i) => i),
                ),
              ),
            );
            if (prefix === `${size}.` && config.registers > 0)
              await compare(`${size}.reg`, await x.read(x.sliceTokens(grid.tokens, 1, config.registers)));
          };
          await check(`${size}.`, {});
          await check(`${size}.masked.`, { mask });
          await check(`${size}.intermediate0.`, { blocks: config.depth - 1 });
        });
      }
      t.diagnostic(`largest relative error ${worst.toExponential(2)}`);
      await x.dispose();
    });
  }
}

test('parameters have the official names, shapes and number', () => {
  const registers = vitParameters(modelConfig('small', { positionGrid: 37, registers: 4 }), new Random(1));
  const count = (specs: typeof registers): number => specs.reduce((sum, { values }) => sum + values.length, 0);
  assert.equal(registers.length, 176);
  assert.equal(count(registers), 22_058_112);
  const plain = registers.filter(({ name }) => name !== 'register_tokens');
  assert.equal(plain.length, 175);
  assert.equal(count(plain), 22_056_576);
  const shapes = new Map(registers.map(({ name, shape: s }) => [name, s.join('x')]));
  assert.equal(shapes.get('blocks.11.attn.qkv.weight'), '1152x384');
  assert.equal(shapes.get('patch_embed.proj.weight'), '384x3x14x14');
  assert.equal(shapes.get('register_tokens'), '1x4x384');
  assert.equal(shapes.get('mask_token'), '1x384');
});

test('drop path keeps the published number of samples and the size of the branch', () => {
  // spec 1.6: rate, batch -> kept, scale
  for (const [dropPath, batch, kept, scale] of [
    [0.3, 128, 89, 1.4382],
    [0.3, 512, 358, 1.4302],
    [0.4, 64, 38, 1.6842],
    [0.1, 128, 115, 1.113],
  ] as const) {
    const drawn = drawDropPath(new Random(5), modelConfig('nano', { dropPath }), batch)!;
    assert.equal(drawn.length, 6);
    for (const { attention, ffn } of drawn) {
      for (const subset of [attention, ffn]) {
        assert.equal(subset.rows.length, kept);
        assert.equal(new Set(subset.rows).size, kept);
        assert.ok(Math.abs(subset.scale - scale) < 5e-5);
      }
      assert.notDeepEqual(attention.rows, ffn.rows);
    }
  }
  assert.equal(drawDropPath(new Random(5), modelConfig('nano'), 8), null);
});
