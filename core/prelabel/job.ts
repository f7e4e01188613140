/** What the two jobs of this room share: progress, the picture that guides the edges, drafts of proposals. */
import path from 'node:path';
import { AppError, errorFacts } from '../contract/index.ts';
import type { ErrorFacts, JobEvent, JobProgress, ProposalDraft, Rle } from '../contract/index.ts';
import { readRgb } from '../images/index.ts';
import type { RgbImage } from '../images/index.ts';
import type { PrelabelImage } from './features.ts';
import { decodeRle, rleBox } from '../labels/index.ts';
import { boxRle, trimBox } from './grid.ts';
import type { BoxMask } from './grid.ts';
import { enlargeMask } from './enlarge.ts';

/** Counts one phase of a job. */
export class Phase {
  readonly #name: string;
  readonly #total: number;
  readonly #start = performance.now();
  #done = 0;
  /** Images that cost time, so that images from the cache do not promise a speed. */
  #worked = 0;

  constructor(name: string, total: number) {
    this.#name = name;
    this.#total = total;
  }

  /** @param worked false when the image cost nothing */
  step(worked = true): JobProgress {
    this.#done++;
    if (worked) this.#worked++;
    const seconds = (performance.now() - this.#start) / 1000;
    const rate = this.#worked > 0 && seconds > 0 ? this.#worked / seconds : null;
    const left = this.#total - this.#done;
    return {
      type: 'progress',
      phase: this.#name,
      done: this.#done,
      total: this.#total,
      imagesPerSecond: rate,
      secondsLeft: rate === null ? (left === 0 ? 0 : null) : left / rate,
    };
  }
}

export function problemEvent(image: PrelabelImage, error: unknown): JobEvent {
  return { type: 'problem', problem: { path: image.path, ...errorFacts(error) } };
}

/** Not one image's trouble: no network, broken network, full disk, an engine that is gone. */
const fatal: readonly string[] = ['no-checkpoint', 'not-finite', 'disk-full', 'engine-died', 'engine-out-of-memory'];

/** @throws AppError when the trouble is not one image's */
export function refuseFatal({ code, message, action }: ErrorFacts): void {
  if (fatal.includes(code)) throw new AppError(code, message, action);
}

/** The picture at working resolution: the whole picture, at most `maxPixels`. */
export async function readGuide(imageRoot: string, image: PrelabelImage, maxPixels: number): Promise<RgbImage> {
  const scale = Math.min(1, Math.sqrt(maxPixels / (image.width * image.height)));
  const size = { width: Math.max(1, Math.round(image.width * scale)), height: Math.max(1, Math.round(image.height * scale)) };
  const file = path.join(imageRoot, image.path);
  return scale === 1 ? readRgb(file, { page: image.page }) : readRgb(file, { page: image.page, size });
}

/** A mask of the full image as the guide's pixels see it (the nearest of its own); null when it has none of them. */
export function guideMask(rle: Rle, guide: { readonly width: number; readonly height: number }): BoxMask | null {
  const [height, width] = rle.size;
  const [left, top, across, down] = rleBox(rle);
  const { data } = decodeRle(rle, [left, top, across, down]);
  const first = (from: number, guided: number, full: number): number => Math.max(0, Math.floor((from * guided) / full) - 1);
  const x0 = first(left, guide.width, width);
  const y0 = first(top, guide.height, height);
  const boxWidth = Math.min(guide.width, Math.ceil(((left + across) * guide.width) / width) + 1) - x0;
  const boxHeight = Math.min(guide.height, Math.ceil(((top + down) * guide.height) / height) + 1) - y0;
  const out = new Uint8Array(boxWidth * boxHeight);
  for (let y = 0; y < boxHeight; y++) {
    const row = Math.floor(((y0 + y + 0.5) * height) / guide.height) - top;
    if (row < 0 || row >= down) continue;
    for (let x = 0; x < boxWidth; x++) {
      const column = Math.floor(((x0 + x + 0.5) * width) / guide.width) - left;
      if (column >= 0 && column < across) out[y * boxWidth + x] = data[row * across + column];
    }
  }
  return trimBox({ x: x0, y: y0, width: boxWidth, height: boxHeight, data: out, area: 0 });
}

/** A mask of the guide as a draft in full resolution; null when the full image has no pixel of it. */
export function draftOf(
  mask: BoxMask,
  guide: { readonly width: number; readonly height: number },
  image: PrelabelImage,
  facts: Pick<ProposalDraft, 'score' | 'margin' | 'classId' | 'source'>,
): ProposalDraft | null {
  const full = enlargeMask(mask, guide.width, guide.height, image.width, image.height);
  if (full.area === 0) return null;
  let x0 = full.width;
  let x1 = -1;
  let y0 = full.height;
  let y1 = -1;
  for (let y = 0; y < full.height; y++) {
    for (let x = 0; x < full.width; x++) {
      if (full.data[y * full.width + x] === 0) continue;
      x0 = Math.min(x0, x);
      x1 = Math.max(x1, x);
      y0 = Math.min(y0, y);
      y1 = Math.max(y1, y);
    }
  }
  return {
    rle: boxRle(full, image.width, image.height),
    box: [full.x + x0, full.y + y0, x1 - x0 + 1, y1 - y0 + 1],
    area: full.area,
    cluster: null,
    ...facts,
  };
}
