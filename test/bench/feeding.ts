/**
 * How fast a folder of images becomes batches, without any training: run by hand, on one core, two, and all.
 *
 *   node test/bench/feeding.ts DIR [--batch 64] [--batches 8] [--cores 1,2,16] [--global 224] [--local 98] [--locals 8]
 *   node test/bench/feeding.ts --make DIR --from PHOTOS [--count 12] [--megapixels 24] [--noise 6] [--quality 90]
 *
 * The second makes JPEGs of that size from smaller photographs, with noise, without which enlarged ones would be small
 * files that decode fast. Pictures come from the files, from their stored pixels, or from memory; crops as numbers for an
 * engine that makes them itself (with its tables and a copy of the bytes), or as arrays. Processor time is that of all
 * threads: on a busy machine it says more than images a second. Cores are limited by `taskset`, on Linux only.
 */
import { execFileSync } from 'node:child_process';
import { mkdir, mkdtemp, readdir, rm, stat } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import type { ScannedImage } from '../../core/contract/index.ts';
import { OFFICIAL_CROPS } from '../../core/dinov2/config.ts';
import { Feed } from '../../core/dinov2/feed.ts';
import { ImageCache, scanFolder } from '../../core/images/index.ts';
import { sharp } from '../../core/images/sharp.ts';
import { packCrops, pictureOffsets } from '../../core/nn/webgpu/augment.ts';
import { Random } from '../../core/random.ts';
import { tinyRun } from '../dinov2/tiny-run.ts';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    batch: { type: 'string', default: '64' },
    batches: { type: 'string', default: '8' },
    cores: { type: 'string' },
    global: { type: 'string', default: '224' },
    local: { type: 'string', default: '98' },
    locals: { type: 'string', default: '8' },
    make: { type: 'string' },
    from: { type: 'string' },
    count: { type: 'string', default: '12' },
    megapixels: { type: 'string', default: '24' },
    noise: { type: 'string', default: '6' },
    quality: { type: 'string', default: '90' },
    /** Set for the process that measures. */
    measure: { type: 'boolean', default: false },
  },
});

/** The speed of training that the last column is about. */
const wantedRate = 1200;

async function make(folder: string, photos: string): Promise<void> {
  await mkdir(folder, { recursive: true });
  const height = Math.round(Math.sqrt((Number(values.megapixels) * 1e6) / 1.5));
  const width = Math.round(height * 1.5);
  const random = new Random(1);
  const noise = Float32Array.from({ length: 1 << 20 }, () => Number(values.noise) * random.normal());
  const names = (await readdir(photos)).filter((name) => /\.jpe?g$/i.test(name)).slice(0, Number(values.count));
  let bytes = 0;
  for (const name of names) {
    const data = await sharp(path.join(photos, name)).resize(width, height, { fit: 'fill' }).removeAlpha().raw().toBuffer();
    const start = random.int(noise.length);
    for (let i = 0; i < data.length; i++) data[i] = Math.min(255, Math.max(0, data[i]! + noise[(start + i) % noise.length]!));
    const raw = { width, height, channels: 3 as const };
    const file = path.join(folder, `${path.parse(name).name}.jpg`);
    await sharp(data, { raw })
      .jpeg({ quality: Number(values.quality) })
      .toFile(file);
    bytes += (await stat(file)).size;
  }
  console.log(`${names.length} files of ${width} x ${height}, ${(bytes / names.length / 1e6).toFixed(1)} MB each`);
}

async function measure(folder: string): Promise<void> {
  const found: ScannedImage[] = [];
  for await (const event of scanFolder(folder)) if (event.type === 'images') found.push(...event.images);
  const batch = Number(values.batch);
  // Few files stand for many: no picture may come twice among those that are asked for at once.
  const images = Array.from({ length: Math.max(found.length, 4 * batch) }, (_, i) => found[i % found.length]!);
  const batches = Number(values.batches);
  const crops = {
    ...OFFICIAL_CROPS,
    globalSize: Number(values.global),
    localSize: Number(values.local),
    localCount: Number(values.locals),
  };
  const storeDir = await mkdtemp(path.join(tmpdir(), 'patchwise-feeding-'));
  const maxSide = Math.ceil(2.3 * crops.globalSize);
  const fill = new ImageCache({ root: folder, images, maxSide, maxBytes: 0, storeDir });
  let bytes = 0;
  for (const i of found.keys()) bytes += (await fill.get(i)).data.length;
  await fill.close();
  const cores = availableParallelism();
  console.log(`${cores} cores: ${found.length} images, ${(bytes / found.length / 1e3).toFixed(0)} kB of pixels each`);
  for (const [from, cache] of [
    ['files', { maxBytes: 0 }],
    ['stored', { maxBytes: 0, storeDir }],
    ['memory', { maxBytes: Infinity }],
  ] as const)
    for (const drawn of [true, false]) {
      const source = new ImageCache({ root: folder, images, maxSide, ...cache });
      if (from === 'memory') await Promise.all(images.map((_, i) => source.get(i)));
      const config = tinyRun({ batch, steps: batches + 3, crops, maxImageSide: maxSide });
      const feed = new Feed({ config, source, count: images.length, drawn });
      let buffer = new Uint8Array(0);
      const take = async (number: number): Promise<void> => {
        const made = await feed.take(number);
        if (!('drawn' in made)) return;
        // What the engine does with it on this side: tables, and the bytes into its own memory.
        const { pictures, global, local } = made.drawn;
        const offsets = pictureOffsets(pictures);
        if (buffer.length < offsets.at(-1)!) buffer = new Uint8Array(offsets.at(-1)!);
        for (const [i, { data }] of pictures.entries()) buffer.set(data, offsets[i]);
        for (const group of [global, local]) packCrops(pictures, group, offsets, 65_535);
      };
      await take(0);
      const [start, before] = [performance.now(), process.cpuUsage()];
      for (let i = 1; i <= batches; i++) await take(i);
      const { user, system } = process.cpuUsage(before);
      const each = (user + system) / 1000 / (batches * batch);
      const rate = ((batches * batch) / (performance.now() - start)) * 1000;
      await feed.close();
      const needed = (each * wantedRate) / 1000;
      console.log(
        `  ${from.padEnd(7)} ${(drawn ? 'numbers' : 'arrays').padEnd(8)} ${rate.toFixed(0).padStart(5)} images/s` +
          `  ${each.toFixed(2).padStart(6)} ms of processor an image  ${wantedRate} images/s take ${needed.toFixed(1)} cores`,
      );
    }
  await rm(storeDir, { recursive: true });
}

if (values.make !== undefined) await make(values.make, values.from ?? '.');
else if (values.measure) await measure(positionals[0]!);
else {
  const all = availableParallelism();
  const counts = values.cores?.split(',').map(Number) ?? [...new Set([1, 2, all])].filter((count) => count <= all);
  for (const count of counts) {
    const command = [process.execPath, fileURLToPath(import.meta.url), ...process.argv.slice(2), '--measure'];
    const limited = process.platform === 'linux' ? ['taskset', '-c', `0-${count - 1}`, ...command] : command;
    const env = { ...process.env, UV_THREADPOOL_SIZE: String(Math.max(4, count)) };
    execFileSync(limited[0]!, limited.slice(1), { stdio: 'inherit', env });
  }
}
