/** Lines that name images to be left out of training: paths, stems, or globs. Reading the file is the caller's. */
import path from 'node:path';

/**
 * Which images a list names. A line is a path inside the image folder ("sub/a.jpg"), a stem ("a", any folder and ending), or
 * a glob with *, ? or [] over the path or, without a slash in it, over the file's name. Empty lines and lines that start with # say
 * nothing.
 * @returns for each image named the line that names it first, and the lines that name none
 */
export function excludedBy<T extends { readonly path: string }>(
  lines: readonly string[],
  images: readonly T[],
): { excluded: Map<T, string>; unused: string[] } {
  const byPath = Map.groupBy(images, (image) => image.path);
  const byStem = Map.groupBy(images, (image) => path.posix.parse(image.path).name);
  const excluded = new Map<T, string>();
  const unused: string[] = [];
  for (const raw of lines) {
    const line = raw.trim();
    if (line === '' || line.startsWith('#')) continue;
    const named = /[*?[]/.test(line)
      ? images.filter((image) => path.posix.matchesGlob(line.includes('/') ? image.path : path.posix.basename(image.path), line))
      : (byPath.get(line) ?? byStem.get(line) ?? []);
    if (named.length === 0) unused.push(line);
    for (const image of named) if (!excluded.has(image)) excluded.set(image, line);
  }
  return { excluded, unused };
}
