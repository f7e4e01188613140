import assert from 'node:assert/strict';
import { test } from 'node:test';
import { drawCrop } from '../../core/dinov2/augment.ts';
import { OFFICIAL_CROPS } from '../../core/dinov2/config.ts';
import {
  adjustBrightness,
  adjustContrast,
  adjustHue,
  adjustSaturation,
  gaussianBlur,
  resizeCrop,
  solarize,
  toGrayscale,
  type PixelImage,
} from '../../core/dinov2/pixels.ts';
import { Random } from '../../core/random.ts';
import { golden, goldenJson, noGolden, type RecordedCrop } from './golden.ts';

/** Mean absolute difference, and share of pixels within 3 grey levels in all channels. */
function compare(actual: Uint8Array, expected: Uint8Array): { mean: number; within3: number } {
  assert.equal(actual.length, expected.length);
  let sum = 0;
  let within = 0;
  for (let i = 0; i < actual.length; i += 3) {
    let worst = 0;
    for (let c = 0; c < 3; c++) {
      const difference = Math.abs(actual[i + c]! - expected[i + c]!);
      sum += difference;
      worst = Math.max(worst, difference);
    }
    if (worst <= 3) within++;
  }
  return { mean: sum / actual.length, within3: within / (actual.length / 3) };
}

test('crops and single operations are those of Pillow and torchvision', { skip: noGolden }, async (t) => {
  const file = await golden('augment');
  const pixels = (name: string): PixelImage => {
    const { shape, values } = file.tensors.get(name)!;
    return { height: shape[0]!, width: shape[1]!, data: values as Uint8Array };
  };
  let checked = 0;
  let worst = { mean: 0, within3: 1 };
  const check = (name: string, actual: Uint8Array, least = 0.999): void => {
    const result = compare(actual, pixels(name).data);
    assert.ok(result.mean < 1 && result.within3 >= least, `${name}: mean ${result.mean}, within 3: ${result.within3}`);
    worst = { mean: Math.max(worst.mean, result.mean), within3: Math.min(worst.within3, result.within3) };
    checked++;
  };

  for (const { name, size, ...box } of await goldenJson<RecordedCrop[]>('augment')) {
    const out = new Uint8Array(size * size * 3);
    resizeCrop(pixels(`${name.split('.')[0]}.image`), box, size, false, out);
    check(name, out);
  }
  for (const image of [0, 1, 2]) {
    const base = pixels(`${image}.base`);
    const after = (operation: (data: Uint8Array) => void): Uint8Array => {
      const data = base.data.slice();
      operation(data);
      return data;
    };
    for (const factor of [0.7, 1.35])
      check(
        `${image}.base.brightness${factor}`,
        after((data) => adjustBrightness(data, factor)),
      );
    for (const factor of [0.65, 1.3])
      check(
        `${image}.base.contrast${factor}`,
        after((data) => adjustContrast(data, factor)),
      );
    for (const factor of [0.8, 1.2])
      check(
        `${image}.base.saturation${factor}`,
        after((data) => adjustSaturation(data, factor)),
      );
    for (const shift of [-0.08, 0.1])
      check(
        `${image}.base.hue${shift}`,
        after((data) => adjustHue(data, shift)),
        0.99,
      );
    for (const sigma of [0.3, 1.7])
      check(
        `${image}.base.blur${sigma}`,
        after((data) => gaussianBlur(data, base.width, base.height, sigma)),
      );
    check(`${image}.base.grayscale`, after(toGrayscale));
    check(`${image}.base.solarize128`, after(solarize));
    const mirrored = new Uint8Array(base.data.length);
    resizeCrop(base, { top: 0, left: 0, width: base.width, height: base.height }, base.width, true, mirrored);
    check(`${image}.base.hflip`, mirrored);
  }
  assert.equal(checked, 12 + 3 * 13);
  t.diagnostic(`largest mean difference ${worst.mean.toFixed(4)}, fewest pixels within 3: ${worst.within3.toFixed(5)}`);
});

test('10,000 crops have the official shares, sizes and positions', () => {
  const count = 10_000;
  const width = 400;
  const height = 300;
  for (const [kind, low, high, blur] of [
    ['global1', 0.32, 1, 0],
    ['global2', 0.32, 1, 0.9],
    ['local', 0.05, 0.32, 0.5],
  ] as const) {
    const seen = { flip: 0, jitter: 0, grayscale: 0, blur: 0, solarize: 0, area: 0, sigma: 0, first: new Int32Array(4) };
    for (let i = 0; i < count; i++) {
      const draw = drawCrop(new Random(3, i), OFFICIAL_CROPS, kind, width, height);
      const { box, jitter } = draw;
      assert.ok(box.top >= 0 && box.left >= 0 && box.top + box.height <= height && box.left + box.width <= width);
      const area = (box.width * box.height) / (width * height);
      assert.ok(area > low * 0.98 && area < Math.min(high * 1.02, 1.0001), `${kind} area ${area}`);
      const aspect = box.width / box.height;
      assert.ok(aspect > 0.72 && aspect < 1.38, `${kind} aspect ${aspect}`);
      seen.area += area / count;
      if (draw.flip) seen.flip++;
      if (draw.grayscale) seen.grayscale++;
      if (draw.solarize) seen.solarize++;
      if (draw.blurSigma > 0) {
        assert.ok(draw.blurSigma >= 0.1 && draw.blurSigma <= 2);
        seen.blur++;
        seen.sigma += draw.blurSigma;
      }
      if (jitter) {
        seen.jitter++;
        seen.first[jitter.order[0]!]!++;
        assert.ok(Math.abs(jitter.brightness - 1) <= 0.4 && Math.abs(jitter.contrast - 1) <= 0.4);
        assert.ok(Math.abs(jitter.saturation - 1) <= 0.2 && Math.abs(jitter.hue) <= 0.1);
      }
    }
    const near = (actual: number, expected: number, what: string): void =>
      assert.ok(Math.abs(actual - expected) < 0.02, `${kind} ${what}: ${actual}, not ${expected}`);
    near(seen.flip / count, 0.5, 'flips');
    near(seen.jitter / count, 0.8, 'jitters');
    near(seen.grayscale / count, 0.2, 'grays');
    near(seen.blur / count, blur, 'blurs');
    near(seen.solarize / count, kind === 'global2' ? 0.2 : 0, 'solarisations');
    if (kind === 'local') near(seen.area, (low + high) / 2, 'mean area');
    if (blur > 0) near(seen.sigma / seen.blur, 1.05, 'mean sigma');
    for (const first of seen.first) near(first / seen.jitter, 0.25, 'first operation');
  }
});

test('a very long image falls back to a centred box of an allowed aspect', () => {
  const draw = drawCrop(new Random(1), OFFICIAL_CROPS, 'global1', 3000, 30);
  assert.deepEqual(draw.box, { top: 0, left: 1480, width: 40, height: 30 });
});
