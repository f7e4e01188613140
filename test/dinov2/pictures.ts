/** Ten pictures that exist in memory only, for runs that need no files. */
import { AppError, type ScannedImage } from '../../core/contract/index.ts';
import type { ImageSource, PretrainOptions } from '../../core/dinov2/train.ts';
import { Random } from '../../core/random.ts';

export const COUNT = 10;
export const scanned: ScannedImage[] = Array.from({ length: COUNT }, (_, i) => ({
  path: `pictures/${i}.png`,
  page: 0,
  bytes: 1000,
  modifiedMs: 0,
  hash: String(i).padStart(64, '0'),
  width: 60,
  height: 48,
  format: 'png',
  bitDepth: 8,
  channels: 3,
  orientation: 1,
}));

/** Pictures of smooth colour waves with some noise; those in `missing` cannot be read. */
export function pictures(missing: ReadonlySet<number> = new Set()): Pick<PretrainOptions, 'openImages'> {
  return {
    openImages: (images, _config, onProblem): ImageSource => ({
      async get(index) {
        const { width, height, path } = images[index]!;
        if (missing.has(index)) {
          const error = new AppError('image-vanished', `${path} is gone.`, 'Put it back.');
          onProblem({ path, ...error.facts });
          throw error;
        }
        const random = new Random(99, index);
        const [fx, fy] = [random.uniform(0.05, 0.4), random.uniform(0.05, 0.4)];
        const data = new Uint8Array(width * height * 3);
        for (let y = 0; y < height; y++)
          for (let x = 0; x < width; x++)
            for (let c = 0; c < 3; c++)
              data[(y * width + x) * 3 + c] = 120 + 80 * Math.sin(fx * x + fy * y + c + index) + random.uniform(-20, 20);
        return { width, height, data };
      },
      prefetch() {},
    }),
  };
}
