import assert from 'node:assert/strict';
import { test } from 'node:test';
import { modelConfig } from '../../core/dinov2/config.ts';
import { drawDropPath, vitParameters } from '../../core/dinov2/vit.ts';
import { Random } from '../../core/random.ts';
import { assertWithin } from '../golden/rows.ts';
import { checkVit } from '../golden/vit.ts';
import { executors } from './executors.ts';
import { golden, goldenNames, noGolden } from './golden.ts';

for (const [engine, create] of executors) {
  for (const name of goldenNames('vit-')) {
    test(`${name} gives the official outputs on ${engine}`, { skip: noGolden }, async (t) => {
      const x = await create();
      // The slow twin takes the two smallest images: one square, one not.
      const rows = await checkVit(x, name, await golden(name), engine === 'reference' ? { sizes: 2 } : {});
      t.diagnostic(assertWithin(rows));
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
