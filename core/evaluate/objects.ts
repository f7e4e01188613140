/** Ground-truth objects of one image, from class masks or instance numbers. An object is an instance where instances are known, else a connected component. */

/** What `readLabels` of the images room gives: one number a pixel, row-major. */
export interface LabelMap {
  readonly width: number;
  readonly height: number;
  readonly data: Uint16Array | Uint8Array;
}

export interface ImageObjects {
  readonly width: number;
  readonly height: number;
  /** Object of each pixel: 0 none, 1..count, -1 ignored. */
  readonly labels: Int32Array;
  /** Pixels of object k at areas[k - 1]. */
  readonly areas: Int32Array;
}

export interface ObjectOptions {
  /** Components of at most this many pixels are not objects. Default 16. */
  readonly minPixels?: number;
  /** Label that is neither object nor background. Default 255. */
  readonly ignore?: number;
}

/**
 * Objects of a class mask: 8-connected components of one class with more than 16 pixels. Class 0 is background.
 * Ignored pixels count neither for nor against a proposal; components too small to be objects count as background.
 */
export function objectsFromClasses(classes: LabelMap, options: ObjectOptions = {}): ImageObjects {
  const { width, height, data } = classes;
  const ignore = options.ignore ?? 255;
  const least = options.minPixels ?? 16;
  const labels = new Int32Array(width * height);
  const areas: number[] = [];
  const stack = new Int32Array(width * height);
  const seen = new Uint8Array(width * height);
  const members = new Int32Array(width * height);
  for (let start = 0; start < data.length; start++) {
    const value = data[start];
    if (value === ignore) {
      labels[start] = -1;
      continue;
    }
    if (value === 0 || seen[start] === 1) continue;
    let top = 0;
    let size = 0;
    stack[top++] = start;
    seen[start] = 1;
    while (top > 0) {
      const at = stack[--top];
      members[size++] = at;
      const y = (at / width) | 0;
      const x = at - y * width;
      for (let dy = y > 0 ? -1 : 0; dy <= (y + 1 < height ? 1 : 0); dy++) {
        for (let dx = x > 0 ? -1 : 0; dx <= (x + 1 < width ? 1 : 0); dx++) {
          const near = at + dy * width + dx;
          if (seen[near] === 0 && data[near] === value) {
            seen[near] = 1;
            stack[top++] = near;
          }
        }
      }
    }
    if (size <= least) continue;
    areas.push(size);
    for (let i = 0; i < size; i++) labels[members[i]] = areas.length;
  }
  return { width, height, labels, areas: Int32Array.from(areas) };
}

/** Objects of an instance map: 0 background, every other number one object, connected or not. */
export function objectsFromInstances(instances: LabelMap): ImageObjects {
  const { width, height, data } = instances;
  const numbers = new Map<number, number>();
  const labels = new Int32Array(width * height);
  const areas: number[] = [];
  for (let i = 0; i < data.length; i++) {
    const value = data[i];
    if (value === 0) continue;
    let label = numbers.get(value);
    if (label === undefined) {
      areas.push(0);
      label = areas.length;
      numbers.set(value, label);
    }
    labels[i] = label;
    areas[label - 1]++;
  }
  return { width, height, labels, areas: Int32Array.from(areas) };
}
