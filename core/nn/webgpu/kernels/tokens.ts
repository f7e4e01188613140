/** From images to tokens: patches as rows, the mask token, resized position tables, the assembled sequence, and gathers. */
import { spread, type Capabilities, type Dispatch, type Region } from '../program.ts';
import { elementWidth, kernel, type Operand, type Target } from './kernel.ts';

const element = `  let i = group * ${elementWidth}u + lane;
  if (i >= u.count) { return; }`;

function workgroups(caps: Capabilities, count: number): [number, number, number] {
  return spread(Math.ceil(count / elementWidth), caps);
}

const patchesText = kernel({
  name: 'patches',
  reads: ['images'],
  writes: ['y'],
  uniforms: { count: 'u32', height: 'u32', breadth: 'u32', side: 'u32' },
  width: elementWidth,
  body: `${element}
  let n = 3u * u.side * u.side;
  let r = i / n;
  let e = i - r * n;
  let down = u.height / u.side;
  let across = u.breadth / u.side;
  let s = r / (down * across);
  let channel = e / (u.side * u.side);
  let row = (r / across) % down * u.side + e / u.side % u.side;
  let column = r % across * u.side + e % u.side;
  y_put(i, images_at(((s * 3u + channel) * u.height + row) * u.breadth + column));`,
});

/** images [N,3,height,width] -> y [N (height/side) (width/side), 3 side side], one row a patch. */
export function patches(
  caps: Capabilities,
  images: Operand,
  y: Operand,
  { N, height, width, side }: { N: number; height: number; width: number; side: number },
): Dispatch[] {
  const count = N * 3 * height * width;
  return [patchesText({ images, y }, { count, height, breadth: width, side }, workgroups(caps, count), { bytes: count * 8 })];
}

const masked = '((mask[r / 4u] >> (8u * (r % 4u))) & 255u) != 0u';

const maskText = kernel({
  name: 'maskPatches',
  reads: ['x', 'token'],
  writes: ['y'],
  lists: ['mask'],
  uniforms: { count: 'u32', n: 'u32' },
  width: elementWidth,
  body: `${element}
  let r = i / u.n;
  if (${masked}) { y_put(i, token_at(i - r * u.n)); } else { y_put(i, x_at(i)); }`,
});

/** x [rows, n] with the token [n] in place of the rows whose mask byte is not 0. */
export function maskPatches(caps: Capabilities, x: Operand, token: Operand, mask: Region, y: Operand, rows: number, n: number): Dispatch[] {
  return [maskText({ x, token, mask, y }, { count: rows * n, n }, workgroups(caps, rows * n), { bytes: rows * n * 8 })];
}

const maskBackwardText = kernel({
  name: 'maskPatchesBackward',
  reads: ['dy'],
  writes: ['dx'],
  lists: ['mask'],
  uniforms: { count: 'u32', n: 'u32', add_dx: 'u32' },
  width: elementWidth,
  body: `${element}
  let r = i / u.n;
  if (${masked}) { dx_add(i, 0.0); } else { dx_add(i, dy_at(i)); }`,
});

export function maskPatchesBackward(caps: Capabilities, dy: Operand, mask: Region, dx: Target, rows: number, n: number): Dispatch[] {
  const uniforms = { count: rows * n, n, add_dx: Number(dx.accumulate) };
  return [maskBackwardText({ dy, mask, dx }, uniforms, workgroups(caps, rows * n), { bytes: rows * n * 8 })];
}

const positionsText = kernel({
  name: 'resizePositions',
  reads: ['x', 'rows', 'columns'],
  writes: ['y'],
  uniforms: { count: 'u32', n: 'u32', to_width: 'u32', x_height: 'u32', x_width: 'u32', add_y: 'u32' },
  width: elementWidth,
  body: `${element}
  if (i < u.n) { y_add(i, x_at(i)); return; }
  let cell = i / u.n - 1u;
  let e = i % u.n;
  let row = cell / u.to_width * u.x_height;
  let column = cell % u.to_width * u.x_width;
  var sum = 0.0;
  for (var a = 0u; a < u.x_height; a++) {
    let down = rows_at(row + a);
    // Four taps, or a few more when shrinking: most weights are 0.
    if (down == 0.0) { continue; }
    for (var b = 0u; b < u.x_width; b++) {
      let across = columns_at(column + b);
      if (across != 0.0) { sum += down * across * x_at((1u + a * u.x_width + b) * u.n + e); }
    }
  }
  y_add(i, sum);`,
});

export interface ResizeShape {
  readonly from: readonly [height: number, width: number];
  readonly to: readonly [height: number, width: number];
  readonly n: number;
}

/**
 * Tables [1 + h w, n]: row 0 is copied; y[a,b] (+)= sum over i, j of rows[a,i] columns[b,j] x[i,j]. The gradient is the same
 * with transposed weights. rows [to h, from h], columns [to w, from w].
 */
export function resizePositions(
  caps: Capabilities,
  arrays: { x: Operand; rows: Operand; columns: Operand; y: Target },
  { from, to, n }: ResizeShape,
): Dispatch[] {
  const count = (1 + to[0] * to[1]) * n;
  const uniforms = { count, n, to_width: to[1], x_height: from[0], x_width: from[1], add_y: Number(arrays.y.accumulate) };
  return [positionsText({ ...arrays }, uniforms, workgroups(caps, count))];
}

const assembleText = kernel({
  name: 'assembleTokens',
  reads: ['patches', 'cls', 'positions', 'registers'],
  writes: ['y'],
  uniforms: { count: 'u32', n: 'u32', patch_count: 'u32', register_count: 'u32' },
  width: elementWidth,
  body: `${element}
  let tokens = 1u + u.register_count + u.patch_count;
  let r = i / u.n;
  let e = i - r * u.n;
  let s = r / tokens;
  let t = r - s * tokens;
  if (t == 0u) { y_put(i, cls_at(e) + positions_at(e)); return; }
  if (t <= u.register_count) { y_put(i, registers_at((t - 1u) * u.n + e)); return; }
  let p = t - 1u - u.register_count;
  y_put(i, patches_at((s * u.patch_count + p) * u.n + e) + positions_at((1u + p) * u.n + e));`,
});

/** patches [N,P,n], cls [n], positions [1+P,n], registers [R,n] -> y [N,1+R+P,n]. */
export function assembleTokens(
  caps: Capabilities,
  arrays: { patches: Operand; cls: Operand; positions: Operand; registers: Operand | null; y: Operand },
  { N, P, R, n }: { N: number; P: number; R: number; n: number },
): Dispatch[] {
  const count = N * (1 + R + P) * n;
  // Something is bound in any case; without registers it is not read.
  const registers = arrays.registers ?? arrays.cls;
  const uniforms = { count, n, patch_count: P, register_count: R };
  return [assembleText({ ...arrays, registers }, uniforms, workgroups(caps, count), { bytes: count * 8 })];
}

const gatherText = kernel({
  name: 'gather',
  reads: ['x'],
  writes: ['y'],
  lists: ['rows'],
  uniforms: { count: 'u32', n: 'u32', start_x: 'u32', start_y: 'u32', factor: 'f32' },
  width: elementWidth,
  body: `${element}
  let r = i / u.n;
  y_put(u.start_y + i, u.factor * x_at(u.start_x + rows[r] * u.n + i - r * u.n));`,
});

/** First elements of what is picked from and of what is picked. */
interface Starts {
  readonly startX?: number;
  readonly startY?: number;
}

/** y row r = factor times x row rows[r]; `count` rows of n. */
export function gather(
  caps: Capabilities,
  x: Operand,
  rows: Region,
  y: Operand,
  count: number,
  n: number,
  { startX = 0, startY = 0, factor = 1 }: Starts & { readonly factor?: number } = {},
): Dispatch[] {
  const uniforms = { count: count * n, n, start_x: startX, start_y: startY, factor };
  return [gatherText({ x, rows, y }, uniforms, workgroups(caps, count * n), { bytes: count * n * 8 })];
}

const scatterText = kernel({
  name: 'scatter',
  reads: ['dy'],
  writes: ['dx'],
  lists: ['starts', 'sources'],
  uniforms: { count: 'u32', n: 'u32', start_x: 'u32', start_y: 'u32', add_dx: 'u32' },
  width: elementWidth,
  body: `${element}
  let r = i / u.n;
  let e = i - r * u.n;
  let first = starts[r];
  let last = starts[r + 1u];
  if (first == last && u.add_dx != 0u) { return; }
  var sum = 0.0;
  for (var s = first; s < last; s++) { sum += dy_at(u.start_y + sources[s] * u.n + e); }
  dx_add(u.start_x + i, sum);`,
});

/** The inverse of a gather as sums: dx row r (+)= the dy rows sources[starts[r] .. starts[r+1]-1]; `count` rows of n. */
export function scatter(
  caps: Capabilities,
  arrays: { dy: Operand; starts: Region; sources: Region; dx: Target },
  count: number,
  n: number,
  { startX = 0, startY = 0 }: Starts = {},
): Dispatch[] {
  const uniforms = { count: count * n, n, start_x: startX, start_y: startY, add_dx: Number(arrays.dx.accumulate) };
  return [scatterText({ ...arrays }, uniforms, workgroups(caps, count * n), { bytes: count * n * 8 })];
}
