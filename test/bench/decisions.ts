// What decisions teach: proposals of images nobody finished, before and after learning from 1, 4 and all finished images of
// a demo's project. Reads the project and its cache only; the app must not have it open.
// Run: node test/bench/decisions.ts demo/conveyor/project demo/conveyor/pictures/masks [demo/conveyor/pictures/instances]
import path from 'node:path';
import { GroundTruth } from '../../core/cli/groundTruth.ts';
import { scoreProposals, scoreTable } from '../../core/evaluate/index.ts';
import { Project } from '../../core/host/project.ts';
import { imageFiles } from '../../core/host/store/images.ts';
import { learningExamples, presentModel } from '../../core/host/store/overview.ts';
import { FeatureStore, type PrelabelImage } from '../../core/prelabel/features.ts';
import { learn } from '../../core/prelabel/learn.ts';
import { guidePixelsDefault } from '../../core/prelabel/prelabel.ts';
import { proposeDefaults } from '../../core/prelabel/propose.ts';
import { regionFinder } from '../../core/prelabel/regions.ts';
import { setStatistics } from '../../core/prelabel/statistics.ts';
import type { Rle } from '../../core/contract/index.ts';

const [dir, masks, instances] = process.argv.slice(2);
if (!dir || !masks) throw new Error('node test/bench/decisions.ts PROJECT MASKS [INSTANCES]');
/** At most so many images nobody finished are scored, evenly spread. */
const scored = 48;

const project = Project.open(path.resolve(dir));
const images = imageFiles(project);
const examples = learningExamples(project);
const { modelKey } = presentModel(project)!;
const imageRoot = project.facts.image_folder;
project.close();

const cacheDir = path.join(path.resolve(dir), 'cache', 'features');
const truth = new GroundTruth({ masks, instances: instances ?? null });
const finished = new Set(examples.reviewed);
const open = images.filter((image) => !finished.has(image.id) && truth.has(image.path));
const unseen = open.filter((_, i) => Math.floor((i * scored) / open.length) !== Math.floor(((i - 1) * scored) / open.length));
const objects = await Promise.all(unseen.map((image) => truth.objects(image.path, image)));
const score = (proposals: ReadonlyMap<number, readonly Rle[]>, most: number) =>
  scoreProposals(
    objects,
    unseen.map((image) => proposals.get(image.id) ?? []),
    most,
  );

const statistics = await setStatistics(new FeatureStore({ backbone: null, modelKey, cacheDir, imageRoot }), images);
const settings = {
  modelKey,
  cacheDir,
  imageRoot,
  features: undefined,
  patchSize: 14,
  statistics,
  propose: proposeDefaults,
  guidePixels: guidePixelsDefault,
};
const find = regionFinder(settings, null);
const before = new Map<number, Rle[]>();
for (const image of images.filter((one) => finished.has(one.id) || unseen.includes(one)))
  before.set(
    image.id,
    (await find(image)).drafts.map(({ rle }) => rle),
  );
const rows = [{ method: 'before any decision, 20 at most', score: score(before, 20) }];

for (const count of [1, 4, finished.size].filter((n, i, all) => n <= finished.size && all.indexOf(n) === i)) {
  const reviewed = examples.reviewed.slice(0, count);
  const from = <T extends { readonly imageId: number }>(decided: readonly T[]): T[] =>
    decided.filter((one) => reviewed.includes(one.imageId));
  const wanted: PrelabelImage[] = images.filter((image) => reviewed.includes(image.id) || unseen.includes(image));
  const accepted = from(examples.accepted);
  if (accepted.length === 0) continue;
  const after = new Map<number, Rle[]>();
  for await (const event of learn({
    modelKey,
    cacheDir,
    imageRoot,
    images: wanted,
    accepted,
    rejected: from(examples.rejected),
    reviewed,
  })) {
    if (event.type === 'proposals')
      after.set(
        event.imageId,
        event.proposals.map(({ rle }) => rle),
      );
  }
  for (const most of [20, 300]) rows.push({ method: `${count} finished, ${most} at most`, score: score(after, most) });
}
console.log(scoreTable(rows));
