/**
 * Time and memory of the parts of curation that compare all images with all, on made descriptors, hashes and keypoints:
 *
 *   node test/bench/curate.ts [images]     default 12500; the time of hash and descriptors grows with the square
 */
import { clusterCount, clusterImages } from '../../core/curate/balance.ts';
import { hashCandidates, keypointCandidates, PairSet } from '../../core/curate/copies.ts';
import { descriptorDim, mostKeypoints } from '../../core/curate/keypoints.ts';
import { appearanceDim, type Look } from '../../core/curate/look.ts';
import { nearestOfAll } from '../../core/curate/neighbours.ts';
import { Random } from '../../core/random.ts';

const n = Number(process.argv[2] ?? 12_500);
const random = new Random(1, n);
const noBreath = async (): Promise<void> => {};

async function timed(what: string, work: () => Promise<unknown> | unknown): Promise<void> {
  const before = process.cpuUsage();
  await work();
  const { user, system } = process.cpuUsage(before);
  const megabytes = Math.round(process.memoryUsage().rss / 2 ** 20);
  console.log(`${what.padEnd(34)} ${((user + system) / 1e6).toFixed(1)} s of processor time, ${megabytes} MB held`);
}

const rows = Float32Array.from({ length: n * appearanceDim }, () => random.uniform(-1, 1));
for (let at = 0; at < rows.length; at += appearanceDim) {
  let norm = 0;
  for (let k = 0; k < appearanceDim; k++) norm += rows[at + k]! ** 2;
  for (let k = 0; k < appearanceDim; k++) rows[at + k]! /= Math.sqrt(norm);
}
const looks: Look[] = Array.from({ length: n }, () => ({
  hash: [random.uint32(), random.uint32()],
  sharpness: 1,
  small: new Uint8Array(4096),
  appearance: new Float32Array(appearanceDim),
  keypoints: {
    count: mostKeypoints,
    places: new Float32Array(2 * mostKeypoints),
    descriptors: Uint8Array.from({ length: mostKeypoints * descriptorDim }, () => random.uint32() & 127),
  },
}));
console.log(`${n} images, ${mostKeypoints} keypoints each, descriptors of ${appearanceDim}`);
const pairs = new PairSet(n);
await timed('hashes, all with all', () => hashCandidates(looks, pairs, noBreath));
await timed('keypoints', () => keypointCandidates(looks, pairs, noBreath));
await timed('nearest 10 of all', () => nearestOfAll(rows, appearanceDim, 10));
await timed(`${clusterCount(n)} clusters`, () => clusterImages(rows, appearanceDim, clusterCount(n)));
console.log(`${pairs.count} candidates`);
