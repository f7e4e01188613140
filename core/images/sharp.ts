// sharp (libvips) as this product uses it; import it from here so that its process-wide settings are always the same.
import sharp from 'sharp';
import { MAX_PIXELS } from './formats.ts';

// No cache of operations or open files: every file is read once, and a replaced file must not be answered from memory.
sharp.cache(false);
// One thread an image: callers work on several images at a time, and results must not depend on the machine's cores.
sharp.concurrency(1);

/**
 * `failOn: 'error'` refuses truncated and broken streams but not the harmless warnings that cameras cause.
 * `unlimited` lifts libpng's and libxml's own limits, which are lower than ours; pixels stay limited.
 */
export const OPEN = { limitInputPixels: MAX_PIXELS, failOn: 'error', unlimited: true } as const;

export { sharp };
export type { Sharp } from 'sharp';
