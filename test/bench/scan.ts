// Files a second and memory of a scan and a rescan of N small files in a temporary folder.
// Run: node test/bench/scan.ts [N, default 20000]   ·   node test/bench/scan.ts DIR scans that folder instead
import { mkdtemp, mkdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { ScannedImage } from '../../core/contract/index.ts';
import { scanFolder } from '../../core/images/index.ts';
import { encoder, photo } from '../fixtures/pictures.ts';

const argument = process.argv[2] ?? '20000';
const count = /^\d+$/.test(argument) ? Number(argument) : null;
const megabytes = (bytes: number): string => `${Math.round(bytes / 2 ** 20)} MB`;

async function timed(name: string, folder: string, known?: ReadonlyMap<string, ScannedImage[]>): Promise<Map<string, ScannedImage[]>> {
  const start = performance.now();
  const found = new Map<string, ScannedImage[]>();
  let peak = 0;
  let problems = 0;
  const atHalf = { rss: 0 };
  for await (const event of scanFolder(folder, known === undefined ? {} : { known })) {
    if (event.type === 'problem') problems++;
    if (event.type === 'images') for (const image of event.images) found.set(image.path, [...(found.get(image.path) ?? []), image]);
    if (event.type === 'progress') {
      peak = Math.max(peak, process.memoryUsage.rss());
      if (event.phase === 'Reading images' && event.done <= event.total / 2) atHalf.rss = process.memoryUsage.rss();
    }
  }
  const seconds = (performance.now() - start) / 1000;
  console.log(
    `${name}: ${found.size} files in ${seconds.toFixed(1)} s, ${Math.round(found.size / seconds)} files/s, ${problems} problems, ` +
      `memory ${megabytes(atHalf.rss)} at half, ${megabytes(process.memoryUsage.rss())} at the end, peak ${megabytes(peak)}`,
  );
  return found;
}

const folder = count === null ? argument : await mkdtemp(path.join(tmpdir(), 'patchwise-bench-'));
try {
  if (count !== null) {
    const bytes = await Promise.all(
      Array.from({ length: 8 }, (_, i) =>
        encoder(photo(i, 96, 72))
          .jpeg()
          .toBuffer(),
      ),
    );
    for (let i = 0; i < count; i++) {
      const at = path.join(folder, `batch ${Math.floor(i / 1000)}`);
      if (i % 1000 === 0) await mkdir(at);
      // one byte behind the end of the JPEG makes each file a content of its own
      await writeFile(path.join(at, `${i}.jpg`), Buffer.concat([bytes[i % 8]!, Buffer.from(String(i))]));
    }
  }
  const known = await timed('scan', folder);
  await timed('rescan', folder, known);
} finally {
  if (count !== null) await rm(folder, { recursive: true });
}
