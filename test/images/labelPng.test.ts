import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { readFile, readdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test, type TestContext } from 'node:test';
import { Random } from '../../core/random.ts';
import { readLabels } from '../../core/images/index.ts';
import { temporaryFolder } from '../fixtures/files.ts';
import { chunk, makePng, type PngParts } from '../fixtures/png.ts';
import { askPython, missingPython } from '../fixtures/python.ts';

async function fileOf(t: TestContext, bytes: Uint8Array, name = 'labels.png'): Promise<string> {
  const file = path.join(temporaryFolder(t), name);
  await writeFile(file, bytes);
  return file;
}

const PALETTE = Array.from({ length: 768 }, (_, i) => (i * 89) % 256);

test('gray of 1 to 16 bits and indices of 1 to 8 bits, every row filter, widths that do not fill a byte', async (t) => {
  for (const colourType of [0, 3] as const) {
    for (const bits of [1, 2, 4, 8, 16] as const) {
      if (colourType === 3 && bits === 16) continue;
      const random = new Random(bits, colourType);
      const [width, height] = [13, 11];
      const samples = Uint16Array.from({ length: width * height }, () => random.int(2 ** bits));
      const palette = colourType === 3 ? PALETTE.slice(0, 3 * 2 ** bits) : undefined;
      const file = await fileOf(
        t,
        makePng({ width, height, bits, colourType, samples, filter: (y) => y % 5, ...(palette && { palette }) }),
      );
      assert.deepEqual(await readLabels(file), { width, height, data: samples }, `${bits} bits, colour type ${colourType}`);
    }
  }
});

// Written by Pillow 12.3.0 (mode P with palettes of 2, 4, 16 and 200 colours, mode L, mode I;16), values (7 x + 3 y) mod n.
const PILLOW: Readonly<Record<string, { n: number; png: string }>> = {
  '2 colours': {
    n: 2,
    png: 'iVBORw0KGgoAAAANSUhEUgAAABMAAAAKAQMAAABsR/fcAAAABlBMVEUAJUpvlLm89GnJAAAAE0lEQVR4nGMMZXjNEsrwjZEADQD5+wzRdrmLCgAAAABJRU5ErkJggg==',
  },
  '4 colours': {
    n: 4,
    png: 'iVBORw0KGgoAAAANSUhEUgAAABMAAAAKAgMAAAAr540MAAAADFBMVEUAJUpvlLneAyhNcpfXdf45AAAAJUlEQVR4nGO0ZGBg+M/4hIGBgYFlPQMDw1+W3QwMDP9YXhMWBwCuRw6fKdbx2wAAAABJRU5ErkJggg==',
  },
  '16 colours': {
    n: 16,
    png: 'iVBORw0KGgoAAAANSUhEUgAAABMAAAAKBAMAAACkp3isAAAAMFBMVEUAJUpvlLneAyhNcpe84QYrUHWav+QJLlN4ncLnDDFWe6DF6g80WX6jyO0SN1yBpst2OunoAAAASklEQVR4nDXMsQnDQAAEQR4f+kigrUENGK7/OoySLUE1ONArH2ZM9Va90ooD+KZUEbacQMXxSQWqHOkj654l6S9lFTNlFck53uIPTl0iMmV6edoAAAAASUVORK5CYII=',
  },
  '200 colours': {
    n: 200,
    png: 'iVBORw0KGgoAAAANSUhEUgAAABMAAAAKCAMAAABhV5WtAAADAFBMVEUAJUpvlLneAyhNcpe84QYrUHWav+QJLlN4ncLnDDFWe6DF6g80WX6jyO0SN1yBpsvwFTpfhKnO8xg9Yoes0fYbQGWKr9T5HkNojbLX/CFGa5C12v8kSW6TuN0CJ0xxlrvgBSpPdJm+4wgtUnecweYLMFV6n8TpDjNYfaLH7BE2W4Clyu8UOV6DqM3yFzxhhqvQ9Ro/ZImu0/gdQmeMsdb7IEVqj7TZ/iNIbZK33AEmS3CVut8EKU5zmL3iByxRdpvA5QovVHmew+gNMld8ocbrEDVaf6TJ7hM4XYKnzPEWO2CFqs/0GT5jiK3S9xxBZouw1fofRGmOs9j9IkdskbbbACVKb5S53gMoTXKXvOEGK1B1mr/kCS5TeJ3C5wwxVnugxeoPNFl+o8jtEjdcgabL8BU6X4SpzvMYPWKHrNH2G0Bliq/U+R5DaI2y1/whRmuQtdr/JEluk7jdAidMcZa74AUqT3SZvuMILVJ3nMHmCzBVep/E6Q4zWH2ix+wRNluApcrvFDleg6jN8hc8YYar0PUaP2SJrtP4HUJnjLHW+yBFao+02f4jSG2St9wBJktwlbrfBClOc5i94gcsUXabwOUKL1R5nsPoDTJXfKHG6xA1Wn+kye4TOF2Cp8zxFjtgharP9Bk+Y4it0vccQWaLsNX6H0RpjrPY/SJHbJG22wAlSm+Uud4DKE1yl7zhBitQdZq/5AkuU3idwucMMVZ7oMXqDzRZfqPI7RI3XIGmy/AVOl+Eqc7zGD1ih6zR9htAZYqv1PkeQ2iNstf8IUZrkLXa/yRJbpMAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAABUWePQAAAAp0lEQVR4nGNgYOcTlVHWMrSwd/MNiU7KLCivY2DmEpSQV9M1sXbyDAiPS80prmpkYOMVkVbSNDC3c/UJjkrMyC+rbWHgFBCXU9UxtnL08A+LTckuqmxoZ+ARllLU0DezdfEOikxIzyutae5i4BeTVdE2snRw9wuNSc4qrKhv62UQklRQ1zO1cfYKjIhPyy2pbuqcwIDukNaeyQzoDunon8aA7pDuSTMBJHI4yHn64G0AAAAASUVORK5CYII=',
  },
  '8-bit gray': {
    n: 256,
    png: 'iVBORw0KGgoAAAANSUhEUgAAABMAAAAKCAAAAABz4jpDAAAAE0lEQVR4nGNkYMcATMyYYLCLAQAaRgKT2DIfXgAAAABJRU5ErkJggg==',
  },
  '16-bit gray': {
    n: 60000,
    png: 'iVBORw0KGgoAAAANSUhEUgAAABMAAAAKEAAAAAAjcuYAAAAAGElEQVR4nGNkYGBgJwyZGJiJgaPKyFMGACUtApO0CmfiAAAAAElFTkSuQmCC',
  },
};

for (const [name, { n, png }] of Object.entries(PILLOW)) {
  test(`a file of Pillow: ${name}`, async (t) => {
    const labels = await readLabels(await fileOf(t, Buffer.from(png, 'base64')));
    assert.deepEqual([labels.width, labels.height], [19, 10]);
    assert.deepEqual(
      labels.data,
      Uint16Array.from({ length: 190 }, (_, i) => (7 * (i % 19) + 3 * Math.floor(i / 19)) % n),
    );
  });
}

test('what is no label picture is refused in words', async (t) => {
  const base: PngParts = { width: 4, height: 2, bits: 8, colourType: 0, samples: [1, 2, 3, 4, 5, 6, 7, 8] };
  const rgb = makePng({ ...base, colourType: 2, samples: Array<number>(24).fill(9) });
  await assert.rejects(readLabels(await fileOf(t, rgb)), {
    code: 'image-unsupported',
    message: 'labels.png cannot hold labels: it has colours.',
  });
  const alpha = makePng({ ...base, colourType: 4, samples: Array<number>(16).fill(9) });
  await assert.rejects(readLabels(await fileOf(t, alpha)), { code: 'image-unsupported', message: /alpha channel/ });
  await assert.rejects(readLabels(await fileOf(t, makePng({ ...base, interlace: 1 }))), {
    code: 'image-unsupported',
    message: /interlaced/,
  });
  await assert.rejects(readLabels(await fileOf(t, new Uint8Array())), { code: 'image-empty-file' });
  await assert.rejects(readLabels(await fileOf(t, Buffer.from('GIF89a...'))), { code: 'image-unsupported', message: /it is a gif file/ });
  await assert.rejects(readLabels(await fileOf(t, Buffer.from('not a picture'))), { code: 'image-not-an-image' });
  await assert.rejects(readLabels(path.join(temporaryFolder(t), 'gone.png')), { code: 'image-vanished' });

  const whole = makePng(base);
  for (const length of [20, 40, 50, whole.length - 1]) {
    await assert.rejects(readLabels(await fileOf(t, whole.subarray(0, length))), { code: 'image-truncated' }, `cut at ${length}`);
  }
  const flipped = Buffer.from(whole);
  flipped[whole.indexOf('IDAT') + 6]! ^= 1;
  await assert.rejects(readLabels(await fileOf(t, flipped)), { code: 'image-unreadable', message: /check sum of its IDAT part/ });

  // says 5 rows, holds 2; and the other way round
  const header = (height: number): Buffer => {
    const body = Buffer.from([0, 0, 0, 4, 0, 0, 0, height, 8, 0, 0, 0, 0]);
    return Buffer.concat([whole.subarray(0, 8), chunk('IHDR', body), whole.subarray(33)]);
  };
  await assert.rejects(readLabels(await fileOf(t, header(5))), { code: 'image-truncated' });
  await assert.rejects(readLabels(await fileOf(t, header(1))), { code: 'image-unreadable', message: /more pixels than its size/ });
});

const SHARED = path.join(import.meta.dirname, '../../../shared/data');
const noShared = existsSync(SHARED) ? false : 'no ../shared/data';
const script = `
import json, sys, numpy as np
from PIL import Image
out = []
for f in json.load(sys.stdin):
    a = np.array(Image.open(f)).astype(np.int64)
    out.append([a.shape[1], a.shape[0], int(a.sum()), int(a.max()), int((a * (np.arange(a.size).reshape(a.shape) % 1009)).sum())])
json.dump(out, sys.stdout)`;

test('label pictures of real sets are read as Pillow reads them', { skip: noShared || missingPython('PIL', 'numpy') }, async () => {
  for (const folder of ['nuclei/masks', 'nuclei/instances', 'coffee_leaf/masks']) {
    const files = (await readdir(path.join(SHARED, folder))).slice(0, 8).map((name) => path.join(SHARED, folder, name));
    const ours = [];
    for (const file of files) {
      const { width, height, data } = await readLabels(file);
      let [sum, max, weighted] = [0, 0, 0];
      data.forEach((value, i) => {
        sum += value;
        max = Math.max(max, value);
        weighted += value * (i % 1009);
      });
      ours.push([width, height, sum, max, weighted]);
    }
    assert.deepEqual(ours, askPython(script, files));
  }
});

test('class numbers of real sets are those that their classes.json lists', { skip: noShared }, async () => {
  for (const set of ['nuclei', 'coffee_leaf']) {
    const classes = new Set(Object.keys(JSON.parse(await readFile(path.join(SHARED, set, 'classes.json'), 'utf8'))).map(Number));
    const folder = path.join(SHARED, set, 'masks');
    for (const name of (await readdir(folder)).slice(0, 5)) {
      for (const value of new Set((await readLabels(path.join(folder, name))).data))
        assert.ok(classes.has(value), `${set}/${name}: ${value}`);
    }
  }
});
