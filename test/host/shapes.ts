// Images and masks of the host's tests as plain data: no files, no server.
import type { ProposalDraft, ScannedImage } from '../../core/contract/index.ts';
import { encodeRle, rleArea, rleBox } from '../../core/labels/index.ts';

/** The size of every test image. */
export const imageSize = { width: 24, height: 16 };

/** A scanned image as the scan would tell it, without a file. */
export function scanned(path: string, more: Partial<ScannedImage> = {}): ScannedImage {
  const facts = {
    page: 0,
    bytes: 1000,
    modifiedMs: 1,
    hash: 'ab'.repeat(32),
    ...imageSize,
    format: 'png',
    bitDepth: 8,
    channels: 3,
    orientation: 1,
  };
  return { path, ...facts, ...more };
}

/** A rectangle of an image, as a proposal. */
export function rectangle(
  size: { width: number; height: number },
  x: number,
  y: number,
  w: number,
  h: number,
  more: Partial<ProposalDraft> = {},
): ProposalDraft {
  const data = new Uint8Array(size.width * size.height);
  for (let row = y; row < y + h; row++) data.fill(1, row * size.width + x, row * size.width + x + w);
  const rle = encodeRle({ ...size, data });
  return { rle, box: rleBox(rle), area: rleArea(rle), score: 0.9, margin: 0.5, cluster: null, classId: null, source: 'region', ...more };
}
