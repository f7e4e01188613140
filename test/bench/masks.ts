// Milliseconds of mask work on one 2-megapixel mask: a few big shapes, and noise as the worst case.
// Run: node test/bench/masks.ts
import {
  connectedComponents,
  decodeRle,
  encodeRle,
  fillHoles,
  outlinePixelEdges,
  rleArea,
  rleBox,
  rleIou,
} from '../../core/labels/index.ts';
import { randomMask, type MaskKind } from '../fixtures/masks.ts';

function median(work: () => unknown): string {
  const times = Array.from({ length: 9 }, () => {
    const start = performance.now();
    work();
    return performance.now() - start;
  }).sort((a, b) => a - b);
  return times[4]!.toFixed(1).padStart(8);
}

for (const kind of ['disks', 'noise'] satisfies MaskKind[]) {
  const mask = randomMask(3, 1600, 1250, kind);
  const rle = encodeRle(mask);
  console.log(`${kind}, ${mask.width} x ${mask.height}, string of ${rle.counts.length.toLocaleString('en-US')} characters`);
  console.log(
    `  encode ${median(() => encodeRle(mask))}  decode ${median(() => decodeRle(rle))}  outline ${median(() => outlinePixelEdges(mask))} ms`,
  );
  console.log(`  parts  ${median(() => connectedComponents(mask, 8))}  holes  ${median(() => fillHoles(mask))} ms`);
  console.log(`  area   ${median(() => rleArea(rle))}  box    ${median(() => rleBox(rle))}  overlap ${median(() => rleIou(rle, rle))} ms`);
}
