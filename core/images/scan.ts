// A folder of files to a list of images and a list of problems. Reads every file once (hash, sizes, wholeness), decodes
// none, writes nothing.
import { createHash, hash } from 'node:crypto';
import { availableParallelism } from 'node:os';
import path from 'node:path';
import type { Stats } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import { AppError, type JobEvent, type ScannedImage } from '../contract/index.ts';
import { bufferSource, handleSource, readFully, type ByteSource } from './bytes.ts';
import { checkPixels, count, emptyFile, notAnImage, readError, sniff, type ImageFormat, type StoredPage } from './formats.ts';
import { OPEN, sharp } from './sharp.ts';
import { checkStructure } from './structure.ts';
import { realFs, walk, type ReadFs } from './walk.ts';

export interface ScanOptions {
  /** Images of the last scan by path: a file of the same size and time of change is not read again. */
  readonly known?: ReadonlyMap<string, readonly ScannedImage[]>;
  /** Ends the scan early, without `done`. */
  readonly signal?: AbortSignal;
  readonly fs?: ReadFs;
}

/** Files up to this size are read into one reused buffer; larger ones piece by piece. */
const WHOLE_BYTES = 16 * 2 ** 20;
/** First read: decides whether the rest is wanted. */
const FIRST_BYTES = 64 * 2 ** 10;
const BATCH = 200;
const EVENT_MS = 250;

/**
 * Lists a folder and all below it, then reads the files, several at a time.
 *
 * Gives `progress` (phases "Finding files", "Reading images"), `images` in batches, in the order of the walk, one entry a
 * page; `problem` for every file that is not such an image, or is cut short, and for links in circles and folders that
 * cannot be listed; at last `done`. Hidden files, the systems' leavings (Thumbs.db) and folders that are projects of ours
 * are passed over. What `known` has and the scan does not give again is gone from the folder.
 *
 * @param root the folder; paths in events are inside it, with forward slashes
 * @throws AppError folder-unreadable (missing, no permission, a file) and, after all problems, folder-empty when there is no image
 */
export async function* scanFolder(root: string, options: ScanOptions = {}): AsyncGenerator<JobEvent> {
  const { known, signal, fs = realFs } = options;
  const stopped = (): boolean => signal?.aborted === true;

  const files: string[] = [];
  let problems = 0;
  let lastEvent = 0;
  const due = (): boolean => {
    if (performance.now() - lastEvent < EVENT_MS) return false;
    lastEvent = performance.now();
    return true;
  };
  for await (const found of walk(root, fs)) {
    if (stopped()) return;
    if (found.type === 'problem') {
      problems++;
      yield found;
    } else {
      files.push(found.path);
    }
    if (due())
      yield { type: 'progress', phase: 'Finding files', done: files.length, total: files.length, imagesPerSecond: null, secondsLeft: null };
  }

  const started = performance.now();
  const reader = new Reader(root, fs, known ?? new Map());
  // A window of files in work, answered in the order of the list so that two scans of one folder give the same order.
  const window: Promise<Outcome>[] = [];
  const inWork = Math.max(4, Math.min(16, 2 * availableParallelism()));
  let batch: ScannedImage[] = [];
  let images = 0;
  let next = 0;
  const progress = (done: number): JobEvent => {
    const seconds = (performance.now() - started) / 1000;
    const rate = done > 0 && seconds > 0 ? done / seconds : null;
    return {
      type: 'progress',
      phase: 'Reading images',
      done,
      total: files.length,
      imagesPerSecond: rate,
      secondsLeft: rate === null ? null : (files.length - done) / rate,
    };
  };
  for (let done = 0; done < files.length;) {
    while (next < files.length && window.length < inWork) window.push(reader.read(files[next++]!));
    const outcome = await window.shift()!;
    done++;
    if (stopped()) break;
    if (outcome instanceof AppError) {
      problems++;
      yield { type: 'problem', problem: { ...outcome.facts, path: files[done - 1]! } };
    } else {
      batch.push(...outcome);
      images += outcome.length;
    }
    const last = done === files.length;
    if (due() || batch.length >= BATCH || last) {
      if (batch.length > 0) yield { type: 'images', images: batch };
      batch = [];
      yield progress(done);
    }
  }
  if (stopped()) {
    await Promise.all(window);
    if (batch.length > 0) yield { type: 'images', images: batch };
    return;
  }
  if (images === 0) {
    const why =
      problems === 0 ? 'It is empty.' : `${count(problems)} ${problems === 1 ? 'entry is' : 'entries are'} in the list of problems.`;
    throw new AppError(
      'folder-empty',
      `There is no image in ${root} that Patchwise can read. ${why}`,
      'Choose a folder with jpg, png, webp, tiff, bmp or gif files.',
    );
  }
  yield {
    type: 'done',
    summary: `${count(images)} ${images === 1 ? 'image' : 'images'}, ${count(problems)} ${problems === 1 ? 'problem' : 'problems'}`,
  };
}

type Outcome = readonly ScannedImage[] | AppError;

/** Reads files one by one for the scan; holds the buffers that it reuses, so memory stays flat. */
class Reader {
  readonly #root: string;
  readonly #fs: ReadFs;
  readonly #known: ReadonlyMap<string, readonly ScannedImage[]>;
  readonly #free: Buffer[] = [];

  constructor(root: string, fs: ReadFs, known: ReadonlyMap<string, readonly ScannedImage[]>) {
    this.#root = root;
    this.#fs = fs;
    this.#known = known;
  }

  /** Never rejects: what is wrong with a file is an outcome. */
  async read(file: string): Promise<Outcome> {
    try {
      const known = this.#known.get(file);
      if (known !== undefined && known.length > 0) {
        const { size, mtimeMs } = await this.#fs.stat(path.join(this.#root, file));
        if (known[0]!.bytes === size && known[0]!.modifiedMs === mtimeMs) return known;
      }
      const handle = await this.#fs.open(path.join(this.#root, file), 'r');
      try {
        return await this.#inspect(file, handle);
      } finally {
        await handle.close();
      }
    } catch (error) {
      return readError(file, error);
    }
  }

  async #inspect(file: string, handle: FileHandle): Promise<Outcome> {
    const stats = await handle.stat();
    if (stats.size === 0) throw emptyFile(file);

    let buffer = this.#free.pop() ?? Buffer.allocUnsafeSlow(FIRST_BYTES);
    try {
      const first = buffer.subarray(0, Math.min(stats.size, FIRST_BYTES));
      const head = first.subarray(0, await readFully(handle, first, 0));
      const format = sniff(head);
      if (format === null) throw notAnImage(file, head);
      if (stats.size > WHOLE_BYTES) {
        const facts = await readFacts(file, format, handleSource(handle, stats.size), path.join(this.#root, file));
        return withIdentity(facts, file, stats, await hashPieces(handle, buffer));
      }
      if (buffer.length < stats.size) {
        // Doubling keeps a growing run of sizes from allocating at each file.
        const larger = Buffer.allocUnsafeSlow(Math.min(WHOLE_BYTES, 2 ** Math.ceil(Math.log2(stats.size))));
        head.copy(larger);
        buffer = larger;
      }
      const rest = buffer.subarray(head.length, stats.size);
      const all = buffer.subarray(0, head.length + (head.length < FIRST_BYTES ? 0 : await readFully(handle, rest, head.length)));
      const facts = await readFacts(file, format, bufferSource(all), all);
      return withIdentity(facts, file, stats, hash('sha256', all));
    } finally {
      this.#free.push(buffer);
    }
  }
}

function withIdentity(pages: readonly PageFacts[], file: string, stats: Stats, digest: string): ScannedImage[] {
  return pages.map((page) => ({ path: file, bytes: stats.size, modifiedMs: stats.mtimeMs, hash: digest, ...page }));
}

type PageFacts = Omit<ScannedImage, 'path' | 'bytes' | 'modifiedMs' | 'hash'>;

/** @param input what sharp opens: the same bytes, or the path of a big file */
async function readFacts(file: string, format: ImageFormat, source: ByteSource, input: Buffer | string): Promise<PageFacts[]> {
  const { bitDepth, pages } = await checkStructure(file, format, source);
  const upright = ({ width, height, ...rest }: StoredPage): PageFacts => {
    checkPixels(file, width, height);
    return rest.orientation >= 5 ? { ...rest, width: height, height: width, format } : { ...rest, width, height, format };
  };
  if (format === 'bmp') return pages!.map(upright);
  // The decoder must know the file's kind of compression too. Our own limit of pixels has the better words.
  const { width, height, channels, orientation } = await sharp(input, { ...OPEN, limitInputPixels: false }).metadata();
  return (pages ?? [{ page: 0, width, height, bitDepth, channels, orientation: orientation ?? 1 }]).map(upright);
}

async function hashPieces(handle: FileHandle, buffer: Buffer): Promise<string> {
  const digest = createHash('sha256');
  for (let position = 0; ;) {
    const filled = await readFully(handle, buffer, position);
    digest.update(buffer.subarray(0, filled));
    position += filled;
    if (filled < buffer.length) return digest.digest('hex');
  }
}
