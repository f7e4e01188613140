/**
 * The slow twin: every operation of `core/nn/ops.ts` in plain Float64 loops with a tape of its own, written from the
 * formulas and from nothing else. It is what the fast executors are compared with; the product never loads it.
 * Parameters and Adam moments are kept in float32, so that a checkpoint holds the whole state.
 */
import type {
  Activation,
  AdamState,
  AdamWOptions,
  GroupSubset,
  Executor,
  Gradients,
  ParameterSet,
  ParameterSpec,
  PositionResize,
  PrototypeLossInputs,
  PrototypeTargets,
  SampleGroup,
  TargetKind,
  Tensor,
} from '../../core/nn/ops.ts';

type Values = Float64Array | Float32Array;

interface Node extends Tensor {
  readonly data: Values;
  /** Made on first use during the backward pass. */
  grad: Float64Array | null;
  /** Whether a gradient has to reach this value. */
  tracked: boolean;
}

/** Whole, in float64. */
class ReferenceTargets implements PrototypeTargets {
  readonly rows: number;
  readonly prototypes: number;
  readonly data: Float64Array;

  constructor(rows: number, prototypes: number, data: Float64Array) {
    this.rows = rows;
    this.prototypes = prototypes;
    this.data = data;
  }
}

/** @throws Error when they are of another executor */
function whole(operation: string, targets: PrototypeTargets): ReferenceTargets {
  if (!(targets instanceof ReferenceTargets)) throw new Error(`${operation}: the targets are not of this executor.`);
  return targets;
}

const product = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);
const last = (shape: readonly number[]): number => shape[shape.length - 1]!;
const of = (tensor: Tensor): Node => tensor as Node;
const leaf = (data: Values, shape: readonly number[]): Node => ({ data, shape, grad: null, tracked: false });

/** Gradient buffer of a value, or null when none is wanted. */
function gradOf(node: Node): Float64Array | null {
  if (!node.tracked) return null;
  return (node.grad ??= new Float64Array(node.data.length));
}

function must(ok: boolean, operation: string, ...shapes: (readonly number[])[]): void {
  if (!ok) throw new Error(`${operation}: shapes do not fit: ${shapes.map((s) => `[${s.join(', ')}]`).join(' ')}`);
}

/** erf to about 1e-16: Maclaurin series with positive terms below 3, continued fraction of erfc above. */
export function erf(x: number): number {
  const a = Math.abs(x);
  if (a > 6) return Math.sign(x);
  if (a < 3) {
    let term = a;
    let sum = a;
    for (let n = 1; term > 1e-18 * sum; n++) {
      term *= (2 * a * a) / (2 * n + 1);
      sum += term;
    }
    return (Math.sign(x) * 2 * Math.exp(-a * a) * sum) / Math.sqrt(Math.PI);
  }
  let f = 0;
  for (let n = 60; n > 0; n--) f = n / 2 / (a + f);
  return Math.sign(x) * (1 - Math.exp(-a * a) / (Math.sqrt(Math.PI) * (a + f)));
}

const gelu = (x: number): number => 0.5 * x * (1 + erf(x / Math.SQRT2));
const geluSlope = (x: number): number => 0.5 * (1 + erf(x / Math.SQRT2)) + (x * Math.exp(-0.5 * x * x)) / Math.sqrt(2 * Math.PI);

/** Rows of the linear map that resizes M positions to `out` (spec 1.3): [out][M]. */
export function positionWeights(M: number, out: number, offset: number, antialias: boolean): number[][] {
  const rows: number[][] = [];
  for (let i = 0; i < out; i++) {
    const row = new Array<number>(M).fill(0);
    if (antialias) {
      // Pillow's antialiased cubic, a = -0.5
      const scale = M / out;
      const stretch = Math.max(1, scale);
      const center = scale * (i + 0.5);
      const from = Math.max(0, Math.trunc(center - 2 * stretch + 0.5));
      const to = Math.min(M, Math.trunc(center + 2 * stretch + 0.5));
      let sum = 0;
      for (let j = from; j < to; j++) {
        row[j] = cubic((j - center + 0.5) / stretch, -0.5);
        sum += row[j]!;
      }
      for (let j = from; j < to; j++) row[j]! /= sum;
    } else {
      const source = ((i + 0.5) * M) / (out + offset) - 0.5;
      const base = Math.floor(source);
      for (let t = -1; t <= 2; t++) {
        const j = Math.min(M - 1, Math.max(0, base + t));
        row[j]! += cubic(source - base - t, -0.75);
      }
    }
    rows.push(row);
  }
  return rows;
}

function cubic(x: number, a: number): number {
  const t = Math.abs(x);
  if (t < 1) return (a + 2) * t ** 3 - (a + 3) * t ** 2 + 1;
  if (t < 2) return a * t ** 3 - 5 * a * t ** 2 + 8 * a * t - 4 * a;
  return 0;
}

class ReferenceParameters implements ParameterSet {
  readonly specs: readonly { name: string; shape: readonly number[]; offset: number; size: number }[];
  readonly size: number;
  readonly values: Float32Array;
  readonly gradients: Float64Array;
  readonly #nodes = new Map<string, Node>();
  readonly #learning: Node[] = [];

  constructor(specs: readonly ParameterSpec[]) {
    let offset = 0;
    this.specs = specs.map(({ name, shape, values }) => {
      must(values.length === product(shape), `parameter ${name}`, shape, [values.length]);
      const spec = { name, shape, offset, size: values.length };
      offset += values.length;
      return spec;
    });
    this.size = offset;
    this.values = new Float32Array(offset);
    this.gradients = new Float64Array(offset);
    for (const [i, spec] of this.specs.entries()) {
      this.values.set(specs[i]!.values, spec.offset);
      const node = leaf(this.values.subarray(spec.offset, spec.offset + spec.size), spec.shape);
      node.grad = this.gradients.subarray(spec.offset, spec.offset + spec.size);
      this.#nodes.set(spec.name, node);
      if (!specs[i]!.frozen) this.#learning.push(node);
    }
  }

  get(name: string): Node {
    const node = this.#nodes.get(name);
    if (!node) throw new Error(`No parameter named ${name}`);
    return node;
  }

  has(name: string): boolean {
    return this.#nodes.has(name);
  }

  track(on: boolean): void {
    for (const node of this.#learning) node.tracked = on;
  }

  dispose(): void {
    this.#nodes.clear();
  }
}

class ReferenceAdam implements AdamState {
  readonly size: number;
  readonly m: Float32Array;
  readonly v: Float32Array;

  constructor(size: number) {
    this.size = size;
    this.m = new Float32Array(size);
    this.v = new Float32Array(size);
  }

  dispose(): void {}
}

export class ReferenceExecutor implements Executor {
  readonly name = 'reference';
  readonly description = 'plain Float64 loops, one thread';
  readonly precision = 'f32';
  readonly stepsAhead = 0;
  #tape: (() => void)[] | null = null;
  #bytes = 0;

  // --- memory -------------------------------------------------------------------------------------------------------

  tensor(values: Float32Array, shape: readonly number[]): Tensor {
    must(values.length === product(shape), 'tensor', shape, [values.length]);
    return leaf(Float64Array.from(values), shape);
  }

  async read(tensor: Tensor): Promise<Float32Array> {
    return Float32Array.from(of(tensor).data);
  }

  /** Values are garbage collected; a scope only has to run its body. */
  async scope<T>(body: () => T | Promise<T>): Promise<T> {
    return await body();
  }

  within<T>(body: () => T): T {
    return body();
  }

  memoryBytes(): number {
    return this.#bytes;
  }

  async dispose(): Promise<void> {}

  // --- parameters ---------------------------------------------------------------------------------------------------

  createParameters(specs: readonly ParameterSpec[]): ParameterSet {
    const set = new ReferenceParameters(specs);
    this.#bytes += set.size * 4;
    return set;
  }

  async readParameters(set: ParameterSet): Promise<Float32Array> {
    return (set as ReferenceParameters).values.slice();
  }

  writeParameters(set: ParameterSet, values: Float32Array): void {
    (set as ReferenceParameters).values.set(values);
  }

  async readGradients(set: ParameterSet): Promise<Float32Array> {
    return Float32Array.from((set as ReferenceParameters).gradients);
  }

  zeroGradients(set: ParameterSet): void {
    (set as ReferenceParameters).gradients.fill(0);
  }

  createAdamState(set: ParameterSet): AdamState {
    return new ReferenceAdam(set.size);
  }

  async readAdamState(state: AdamState): Promise<{ m: Float32Array; v: Float32Array }> {
    const { m, v } = state as ReferenceAdam;
    return { m: m.slice(), v: v.slice() };
  }

  writeAdamState(state: AdamState, m: Float32Array, v: Float32Array): void {
    (state as ReferenceAdam).m.set(m);
    (state as ReferenceAdam).v.set(v);
  }

  // --- differentiation ----------------------------------------------------------------------------------------------

  gradients(set: ParameterSet, forward: () => Tensor, lossScale = 1): Gradients {
    const parameters = set as ReferenceParameters;
    const tape: (() => void)[] = [];
    this.#tape = tape;
    parameters.track(true);
    try {
      const loss = of(forward());
      must(loss.shape.length === 0, 'gradients of a loss', loss.shape);
      const grad = gradOf(loss);
      if (grad) grad[0] = lossScale;
      for (let i = tape.length - 1; i >= 0; i--) tape[i]!();
      return { loss };
    } finally {
      parameters.track(false);
      this.#tape = null;
    }
  }

  /** A new value; `backward` receives its gradient and adds to those of the inputs. */
  #result(data: Float64Array, shape: readonly number[], inputs: readonly Tensor[], backward: (dy: Float64Array) => void): Node {
    const node = leaf(data, shape);
    if (this.#tape && inputs.some((input) => of(input).tracked)) {
      node.tracked = true;
      this.#tape.push(() => {
        if (node.grad) backward(node.grad);
      });
    }
    return node;
  }

  recompute(_inputs: readonly Tensor[], body: () => Tensor): Tensor {
    return body();
  }

  // --- differentiable operations ------------------------------------------------------------------------------------

  patchEmbed(images: Tensor, weight: Tensor, bias: Tensor): Tensor {
    const [N, C, H, W] = images.shape as [number, number, number, number];
    const [D, , p] = weight.shape as [number, number, number];
    must(H % p === 0 && W % p === 0, 'patchEmbed', images.shape, weight.shape);
    const gh = H / p;
    const gw = W / p;
    const rows = new Float64Array(N * gh * gw * C * p * p); // im2col, columns in the weight's order (c, y, x)
    const x = of(images).data;
    let at = 0;
    for (let n = 0; n < N; n++)
      for (let gy = 0; gy < gh; gy++)
        for (let gx = 0; gx < gw; gx++)
          for (let c = 0; c < C; c++)
            for (let y = 0; y < p; y++) for (let i = 0; i < p; i++) rows[at++] = x[((n * C + c) * H + gy * p + y) * W + gx * p + i]!;
    const flat = leaf(rows, [N, gh * gw, C * p * p]);
    // the same storage seen as [D, C*p*p]; its gradient buffer is shared too
    const node = of(weight);
    const flatWeight: Node = { data: node.data, shape: [D, C * p * p], grad: gradOf(node), tracked: node.tracked };
    return this.linear(flat, flatWeight, bias);
  }

  maskPatches(x: Tensor, mask: Uint8Array, maskToken: Tensor): Tensor {
    const D = last(x.shape);
    must(mask.length * D === of(x).data.length, 'maskPatches', x.shape, [mask.length]);
    const out = Float64Array.from(of(x).data);
    const token = of(maskToken).data;
    for (let r = 0; r < mask.length; r++) if (mask[r]) for (let d = 0; d < D; d++) out[r * D + d] = token[d]!;
    return this.#result(out, x.shape, [x, maskToken], (dy) => {
      const dx = gradOf(of(x));
      const dt = gradOf(of(maskToken));
      for (let r = 0; r < mask.length; r++) {
        const target = mask[r] ? dt : dx;
        const base = mask[r] ? 0 : r * D;
        if (target) for (let d = 0; d < D; d++) target[base + d]! += dy[r * D + d]!;
      }
    });
  }

  resizePositions(table: Tensor, { gridHeight: h, gridWidth: w, offset, antialias }: PositionResize): Tensor {
    const [, count, D] = table.shape as [number, number, number];
    const M = Math.round(Math.sqrt(count - 1));
    must(M * M === count - 1, 'resizePositions', table.shape);
    const same = h === M && w === M;
    const identity = (n: number): number[][] => Array.from({ length: n }, (_, i) => Array.from({ length: n }, (_, j) => (i === j ? 1 : 0)));
    const wy = same ? identity(M) : positionWeights(M, h, offset, antialias);
    const wx = same ? identity(M) : positionWeights(M, w, offset, antialias);
    const t = of(table).data;
    const out = new Float64Array((1 + h * w) * D);
    for (let d = 0; d < D; d++) out[d] = t[d]!;
    const eachTerm = (visit: (target: number, source: number, weight: number) => void): void => {
      for (let y = 0; y < h; y++)
        for (let x = 0; x < w; x++)
          for (let j = 0; j < M; j++) {
            if (wy[y]![j] === 0) continue;
            for (let i = 0; i < M; i++) if (wx[x]![i] !== 0) visit((1 + y * w + x) * D, (1 + j * M + i) * D, wy[y]![j]! * wx[x]![i]!);
          }
    };
    eachTerm((target, source, weight) => {
      for (let d = 0; d < D; d++) out[target + d]! += weight * t[source + d]!;
    });
    return this.#result(out, [1 + h * w, D], [table], (dy) => {
      const dt = gradOf(of(table));
      if (!dt) return;
      for (let d = 0; d < D; d++) dt[d]! += dy[d]!;
      eachTerm((target, source, weight) => {
        for (let d = 0; d < D; d++) dt[source + d]! += weight * dy[target + d]!;
      });
    });
  }

  assembleTokens(patches: Tensor, cls: Tensor, positions: Tensor, registers: Tensor | null): Tensor {
    const [N, P, D] = patches.shape as [number, number, number];
    const R = registers ? registers.shape[1]! : 0;
    const T = 1 + R + P;
    must(positions.shape[0] === 1 + P && positions.shape[1] === D, 'assembleTokens', patches.shape, positions.shape);
    const out = new Float64Array(N * T * D);
    /** Each output element is a sum of one token source and at most one position. */
    const each = (visit: (out: number, source: Tensor, index: number, position: number) => void): void => {
      for (let n = 0; n < N; n++)
        for (let t = 0; t < T; t++)
          for (let d = 0; d < D; d++) {
            const o = (n * T + t) * D + d;
            if (t === 0) visit(o, cls, d, d);
            else if (t <= R) visit(o, registers!, (t - 1) * D + d, -1);
            else visit(o, patches, (n * P + t - 1 - R) * D + d, (t - R) * D + d);
          }
    };
    const pos = of(positions).data;
    each((o, source, index, position) => {
      out[o] = of(source).data[index]! + (position < 0 ? 0 : pos[position]!);
    });
    const inputs = registers ? [patches, cls, positions, registers] : [patches, cls, positions];
    return this.#result(out, [N, T, D], inputs, (dy) => {
      const dPos = gradOf(of(positions));
      each((o, source, index, position) => {
        const g = gradOf(of(source));
        if (g) g[index]! += dy[o]!;
        if (dPos && position >= 0) dPos[position]! += dy[o]!;
      });
    });
  }

  layerNorm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: number): Tensor {
    const D = last(x.shape);
    must(of(weight).data.length === D && of(bias).data.length === D, 'layerNorm', x.shape, weight.shape, bias.shape);
    const xs = of(x).data;
    const R = xs.length / D;
    const w = of(weight).data;
    const b = of(bias).data;
    const hat = new Float64Array(xs.length);
    const inverse = new Float64Array(R);
    const out = new Float64Array(xs.length);
    for (let r = 0; r < R; r++) {
      let mean = 0;
      for (let d = 0; d < D; d++) mean += xs[r * D + d]!;
      mean /= D;
      let variance = 0;
      for (let d = 0; d < D; d++) variance += (xs[r * D + d]! - mean) ** 2;
      inverse[r] = 1 / Math.sqrt(variance / D + epsilon);
      for (let d = 0; d < D; d++) {
        hat[r * D + d] = (xs[r * D + d]! - mean) * inverse[r]!;
        out[r * D + d] = hat[r * D + d]! * w[d]! + b[d]!;
      }
    }
    return this.#result(out, x.shape, [x, weight, bias], (dy) => {
      const dx = gradOf(of(x));
      const dw = gradOf(of(weight));
      const db = gradOf(of(bias));
      for (let r = 0; r < R; r++) {
        let sum = 0;
        let dot = 0;
        for (let d = 0; d < D; d++) {
          const i = r * D + d;
          if (dw) dw[d]! += dy[i]! * hat[i]!;
          if (db) db[d]! += dy[i]!;
          sum += dy[i]! * w[d]!;
          dot += dy[i]! * w[d]! * hat[i]!;
        }
        if (dx)
          for (let d = 0; d < D; d++) dx[r * D + d]! += inverse[r]! * (dy[r * D + d]! * w[d]! - sum / D - (hat[r * D + d]! * dot) / D);
      }
    });
  }

  linear(x: Tensor, weight: Tensor, bias: Tensor | null, activation: Activation = 'none'): Tensor {
    const [O, I] = weight.shape as [number, number];
    must(last(x.shape) === I && (!bias || of(bias).data.length === O), 'linear', x.shape, weight.shape);
    const xs = of(x).data;
    const w = of(weight).data;
    const R = xs.length / I;
    const before = new Float64Array(R * O);
    for (let r = 0; r < R; r++)
      for (let o = 0; o < O; o++) {
        let sum = bias ? of(bias).data[o]! : 0;
        for (let i = 0; i < I; i++) sum += xs[r * I + i]! * w[o * I + i]!;
        before[r * O + o] = sum;
      }
    const out = activation === 'gelu' ? before.map(gelu) : before;
    return this.#result(out, [...x.shape.slice(0, -1), O], bias ? [x, weight, bias] : [x, weight], (dy) => {
      const dx = gradOf(of(x));
      const dw = gradOf(of(weight));
      const db = bias && gradOf(of(bias));
      for (let r = 0; r < R; r++)
        for (let o = 0; o < O; o++) {
          const g = activation === 'gelu' ? dy[r * O + o]! * geluSlope(before[r * O + o]!) : dy[r * O + o]!;
          if (g === 0) continue;
          if (db) db[o]! += g;
          if (dx) for (let i = 0; i < I; i++) dx[r * I + i]! += g * w[o * I + i]!;
          if (dw) for (let i = 0; i < I; i++) dw[o * I + i]! += g * xs[r * I + i]!;
        }
    });
  }

  /** Of groups: each by itself. */
  attention(qkv: Tensor, heads: number, groups?: readonly SampleGroup[]): Tensor {
    if (!groups) return this.#attention(qkv, heads);
    let start = 0;
    const parts = groups.map(({ samples, tokens }) => {
      const count = samples * tokens;
      const rows = this.gatherRows(
        qkv,
        Int32Array.from({ length: count }, (_, i) => start + i),
      );
      start += count;
      return this.#attention(rows, heads, [samples, tokens, last(qkv.shape)]);
    });
    return this.concatRows(parts);
  }

  #attention(qkv: Tensor, heads: number, shape = qkv.shape): Tensor {
    const [N, T, D3] = shape as [number, number, number];
    const D = D3 / 3;
    const d = D / heads;
    must(Number.isInteger(d), 'attention', qkv.shape, [heads]);
    const x = of(qkv).data;
    const scale = 1 / Math.sqrt(d);
    const probabilities = new Float64Array(N * heads * T * T);
    const out = new Float64Array(N * T * D);
    for (let n = 0; n < N; n++)
      for (let h = 0; h < heads; h++)
        for (let t = 0; t < T; t++) {
          const q = (n * T + t) * D3 + h * d;
          const row = probabilities.subarray(((n * heads + h) * T + t) * T, ((n * heads + h) * T + t + 1) * T);
          let highest = -Infinity;
          for (let s = 0; s < T; s++) {
            const k = (n * T + s) * D3 + D + h * d;
            let dot = 0;
            for (let i = 0; i < d; i++) dot += x[q + i]! * x[k + i]!;
            row[s] = dot * scale;
            highest = Math.max(highest, row[s]!);
          }
          let sum = 0;
          for (let s = 0; s < T; s++) sum += row[s] = Math.exp(row[s]! - highest);
          for (let s = 0; s < T; s++) {
            row[s]! /= sum;
            const v = (n * T + s) * D3 + 2 * D + h * d;
            for (let i = 0; i < d; i++) out[(n * T + t) * D + h * d + i]! += row[s]! * x[v + i]!;
          }
        }
    return this.#result(out, [N, T, D], [qkv], (dy) => {
      const dx = gradOf(of(qkv))!;
      const dp = new Float64Array(T);
      for (let n = 0; n < N; n++)
        for (let h = 0; h < heads; h++)
          for (let t = 0; t < T; t++) {
            const q = (n * T + t) * D3 + h * d;
            const o = (n * T + t) * D + h * d;
            const row = ((n * heads + h) * T + t) * T;
            let mean = 0;
            for (let s = 0; s < T; s++) {
              const v = (n * T + s) * D3 + 2 * D + h * d;
              const p = probabilities[row + s]!;
              let dot = 0;
              for (let i = 0; i < d; i++) {
                dot += dy[o + i]! * x[v + i]!;
                dx[v + i]! += p * dy[o + i]!;
              }
              dp[s] = dot;
              mean += p * dot;
            }
            for (let s = 0; s < T; s++) {
              const k = (n * T + s) * D3 + D + h * d;
              const g = probabilities[row + s]! * (dp[s]! - mean) * scale;
              for (let i = 0; i < d; i++) {
                dx[q + i]! += g * x[k + i]!;
                dx[k + i]! += g * x[q + i]!;
              }
            }
          }
    });
  }

  swiglu(x: Tensor): Tensor {
    const H = last(x.shape) / 2;
    const xs = of(x).data;
    const R = xs.length / (2 * H);
    const out = new Float64Array(R * H);
    const sigmoid = (v: number): number => 1 / (1 + Math.exp(-v));
    for (let r = 0; r < R; r++)
      for (let i = 0; i < H; i++) {
        const gate = xs[r * 2 * H + i]!;
        out[r * H + i] = gate * sigmoid(gate) * xs[r * 2 * H + H + i]!;
      }
    return this.#result(out, [...x.shape.slice(0, -1), H], [x], (dy) => {
      const dx = gradOf(of(x))!;
      for (let r = 0; r < R; r++)
        for (let i = 0; i < H; i++) {
          const gate = xs[r * 2 * H + i]!;
          const s = sigmoid(gate);
          const g = dy[r * H + i]!;
          dx[r * 2 * H + i]! += g * xs[r * 2 * H + H + i]! * s * (1 + gate * (1 - s));
          dx[r * 2 * H + H + i]! += g * gate * s;
        }
    });
  }

  addResidual(x: Tensor, branch: Tensor, gamma: Tensor, subset?: readonly GroupSubset[]): Tensor {
    const D = last(x.shape);
    const rows = subset ? rowsOfSubset(subset) : Array.from({ length: product(x.shape) / D }, (_, row) => ({ row, scale: 1 }));
    must(product(branch.shape) === rows.length * D && product(gamma.shape) === D, 'addResidual', x.shape, branch.shape);
    const b = of(branch).data;
    const g = of(gamma).data;
    const out = Float64Array.from(of(x).data);
    rows.forEach(({ row, scale }, r) => {
      for (let i = 0; i < D; i++) out[row * D + i]! += scale * g[i]! * b[r * D + i]!;
    });
    return this.#result(out, x.shape, [x, branch, gamma], (dy) => {
      const dx = gradOf(of(x));
      const db = gradOf(of(branch));
      const dg = gradOf(of(gamma));
      if (dx) for (let i = 0; i < dx.length; i++) dx[i]! += dy[i]!;
      rows.forEach(({ row, scale }, r) => {
        for (let i = 0; i < D; i++) {
          const e = dy[row * D + i]! * scale;
          if (db) db[r * D + i]! += e * g[i]!;
          if (dg) dg[i]! += e * b[r * D + i]!;
        }
      });
    });
  }

  linearResidual(x: Tensor, input: Tensor, weight: Tensor, bias: Tensor, gamma: Tensor, subset?: readonly GroupSubset[]): Tensor {
    return this.addResidual(x, this.linear(input, weight, bias), gamma, subset);
  }

  gatherSamples(x: Tensor, subset: readonly GroupSubset[]): Tensor {
    const rows = Int32Array.from(rowsOfSubset(subset), ({ row }) => row);
    const single = x.shape.length === 3;
    const shape = single ? [subset[0]!.rows.length, x.shape[1]!, last(x.shape)] : [rows.length, last(x.shape)];
    return this.#gather('gatherSamples', x, rows, last(x.shape), shape);
  }

  gatherRows(x: Tensor, rows: Int32Array): Tensor {
    return this.#gather('gatherRows', x, rows, last(x.shape), [rows.length, last(x.shape)]);
  }

  sliceTokens(x: Tensor, start: number, count: number): Tensor {
    const [N, T, D] = x.shape as [number, number, number];
    must(start >= 0 && start + count <= T, 'sliceTokens', x.shape, [start, count]);
    const rows = Int32Array.from({ length: N * count }, (_, i) => Math.floor(i / count) * T + start + (i % count));
    return this.#gather('sliceTokens', x, rows, D, [N, count, D]);
  }

  #gather(operation: string, x: Tensor, rows: Int32Array, width: number, shape: readonly number[]): Tensor {
    const xs = of(x).data;
    const out = new Float64Array(rows.length * width);
    for (let r = 0; r < rows.length; r++) {
      must(rows[r]! >= 0 && (rows[r]! + 1) * width <= xs.length, operation, x.shape, [rows[r]!]);
      for (let i = 0; i < width; i++) out[r * width + i] = xs[rows[r]! * width + i]!;
    }
    return this.#result(out, shape, [x], (dy) => {
      const dx = gradOf(of(x))!;
      for (let r = 0; r < rows.length; r++) for (let i = 0; i < width; i++) dx[rows[r]! * width + i]! += dy[r * width + i]!;
    });
  }

  concatRows(parts: readonly Tensor[]): Tensor {
    const D = last(parts[0]!.shape);
    must(
      parts.every((part) => part.shape.length > 1 && last(part.shape) === D),
      'concatRows',
      ...parts.map((part) => part.shape),
    );
    const R = parts.reduce((sum, part) => sum + of(part).data.length, 0) / D;
    const out = new Float64Array(R * D);
    let at = 0;
    for (const part of parts) {
      out.set(of(part).data, at);
      at += of(part).data.length;
    }
    return this.#result(out, [R, D], parts, (dy) => {
      let from = 0;
      for (const part of parts) {
        const dx = gradOf(of(part));
        const length = of(part).data.length;
        if (dx) for (let i = 0; i < length; i++) dx[i]! += dy[from + i]!;
        from += length;
      }
    });
  }

  l2Normalize(x: Tensor, epsilon: number): Tensor {
    const D = last(x.shape);
    const xs = of(x).data;
    const R = xs.length / D;
    const out = new Float64Array(xs.length);
    const norms = rowNorms(xs, D);
    for (let r = 0; r < R; r++) for (let d = 0; d < D; d++) out[r * D + d] = xs[r * D + d]! / Math.max(norms[r]!, epsilon);
    return this.#result(out, x.shape, [x], (dy) => normalizeBackward(gradOf(of(x))!, dy, out, norms, D, epsilon));
  }

  prototypeLoss({ rows, weightV, weightG, targets, targetRows, rowWeights, temperature }: PrototypeLossInputs): Tensor {
    const [R, D] = rows.shape as [number, number];
    const K = weightV.shape[0]!;
    const m = targetRows.length / R;
    const shape = 'shape' in targets ? targets.shape : [targets.rows, targets.prototypes];
    must(shape[1] === K && Number.isInteger(m) && rowWeights.length === R, 'prototypeLoss', rows.shape, weightV.shape, shape);
    const { logits, cosine, direction, norms } = this.#prototypes(rows, weightV, weightG);
    const q = 'shape' in targets ? of(targets).data : whole('prototypeLoss', targets).data;
    const g = of(weightG).data;
    const x = of(rows).data;
    const dLogits = new Float64Array(R * K); // d loss / d (cosine times g)
    let loss = 0;
    for (let r = 0; r < R; r++) {
      const row = logits.subarray(r * K, (r + 1) * K);
      let highest = -Infinity;
      for (let k = 0; k < K; k++) highest = Math.max(highest, row[k]! / temperature);
      let sum = 0;
      for (let k = 0; k < K; k++) sum += Math.exp(row[k]! / temperature - highest);
      const logSum = highest + Math.log(sum);
      for (let j = 0; j < m; j++) {
        const target = targetRows[r * m + j]! * K;
        for (let k = 0; k < K; k++) {
          const logProbability = row[k]! / temperature - logSum;
          loss -= rowWeights[r]! * q[target + k]! * logProbability;
          dLogits[r * K + k]! += (rowWeights[r]! * (Math.exp(logProbability) - q[target + k]!)) / temperature;
        }
      }
    }
    return this.#result(Float64Array.of(loss), [], [rows, weightV, weightG], (dy) => {
      const dx = gradOf(of(rows));
      const dg = gradOf(of(weightG));
      const dv = gradOf(of(weightV));
      const dDirection = new Float64Array(K * D);
      for (let r = 0; r < R; r++)
        for (let k = 0; k < K; k++) {
          const e = dLogits[r * K + k]! * dy[0]!;
          if (dg) dg[k]! += e * cosine[r * K + k]!;
          for (let d = 0; d < D; d++) {
            if (dx) dx[r * D + d]! += e * g[k]! * direction[k * D + d]!;
            dDirection[k * D + d]! += e * g[k]! * x[r * D + d]!;
          }
        }
      if (dv) normalizeBackward(dv, dDirection, direction, norms, D, 0);
    });
  }

  koleo(x: Tensor): Tensor {
    const [B, D] = x.shape as [number, number];
    must(B >= 2, 'koleo', x.shape);
    const xs = of(x).data;
    const norms = rowNorms(xs, D);
    const hat = new Float64Array(B * D);
    for (let i = 0; i < B * D; i++) hat[i] = xs[i]! / Math.max(norms[Math.floor(i / D)]!, 1e-8);
    const nearest = new Int32Array(B);
    const distance = new Float64Array(B);
    let loss = 0;
    for (let i = 0; i < B; i++) {
      let best = -Infinity;
      for (let j = 0; j < B; j++) {
        if (j === i) continue;
        let dot = 0;
        for (let d = 0; d < D; d++) dot += hat[i * D + d]! * hat[j * D + d]!;
        if (dot > best) {
          best = dot;
          nearest[i] = j;
        }
      }
      let square = 0;
      for (let d = 0; d < D; d++) square += (hat[i * D + d]! - hat[nearest[i]! * D + d]! + 1e-8) ** 2;
      distance[i] = Math.sqrt(square);
      loss -= Math.log(distance[i]! + 1e-8) / B;
    }
    return this.#result(Float64Array.of(loss), [], [x], (dy) => {
      const dHat = new Float64Array(B * D);
      for (let i = 0; i < B; i++) {
        const slope = -dy[0]! / B / (distance[i]! + 1e-8) / distance[i]!;
        for (let d = 0; d < D; d++) {
          const e = slope * (hat[i * D + d]! - hat[nearest[i]! * D + d]! + 1e-8);
          dHat[i * D + d]! += e;
          dHat[nearest[i]! * D + d]! -= e;
        }
      }
      normalizeBackward(gradOf(of(x))!, dHat, hat, norms, D, 1e-8);
    });
  }

  weightedSum(terms: readonly Tensor[], weights: readonly number[]): Tensor {
    must(
      terms.length === weights.length && terms.every((term) => term.shape.length === 0),
      'weightedSum',
      ...terms.map((term) => term.shape),
    );
    let sum = 0;
    for (let i = 0; i < terms.length; i++) sum += weights[i]! * of(terms[i]!).data[0]!;
    return this.#result(Float64Array.of(sum), [], terms, (dy) => {
      for (let i = 0; i < terms.length; i++) {
        const g = gradOf(of(terms[i]!));
        if (g) g[0]! += weights[i]! * dy[0]!;
      }
    });
  }

  // --- operations without gradient ----------------------------------------------------------------------------------

  /** Logits and cosines [R,K], unit directions [K,D] and their lengths before. */
  #prototypes(rows: Tensor, weightV: Tensor, weightG: Tensor): Record<'logits' | 'cosine' | 'direction' | 'norms', Float64Array> {
    const [R, D] = rows.shape as [number, number];
    const K = weightV.shape[0]!;
    must(weightV.shape[1] === D && of(weightG).data.length === K, 'prototypes', rows.shape, weightV.shape, weightG.shape);
    const v = of(weightV).data;
    const norms = rowNorms(v, D);
    const direction = new Float64Array(K * D);
    for (let i = 0; i < K * D; i++) direction[i] = v[i]! / norms[Math.floor(i / D)]!;
    const x = of(rows).data;
    const cosine = new Float64Array(R * K);
    for (let r = 0; r < R; r++)
      for (let k = 0; k < K; k++) {
        let dot = 0;
        for (let d = 0; d < D; d++) dot += x[r * D + d]! * direction[k * D + d]!;
        cosine[r * K + k] = dot;
      }
    const g = of(weightG).data;
    const logits = cosine.map((value, i) => value * g[i % K]!);
    return { logits, cosine, direction, norms };
  }

  prototypeLogits(rows: Tensor, weightV: Tensor, weightG: Tensor): Tensor {
    return leaf(this.#prototypes(rows, weightV, weightG).logits, [rows.shape[0]!, weightV.shape[0]!]);
  }

  prototypeTargets(rows: Tensor, weightV: Tensor, weightG: Tensor, how: TargetKind): PrototypeTargets {
    const [n, K] = [rows.shape[0]!, weightV.shape[0]!];
    const { logits } = this.#prototypes(rows, weightV, weightG);
    const targets = how.kind === 'sinkhorn' ? sinkhornKnopp(logits, n, K, how) : centeredSoftmax(logits, n, K, how);
    return new ReferenceTargets(n, K, targets);
  }

  gatherTargets(targets: PrototypeTargets, rows: Int32Array): Tensor {
    const { data, prototypes: K } = whole('gatherTargets', targets);
    const out = new Float64Array(rows.length * K);
    rows.forEach((row, i) => out.set(data.subarray(row * K, (row + 1) * K), i * K));
    return leaf(out, [rows.length, K]);
  }

  meanRows(x: Tensor): Tensor {
    const [n, K] = x.shape as [number, number];
    const out = new Float64Array(K);
    const xs = of(x).data;
    for (let i = 0; i < xs.length; i++) out[i % K]! += xs[i]! / n;
    return leaf(out, [1, K]);
  }

  // --- updates ------------------------------------------------------------------------------------------------------

  clipGradients(set: ParameterSet, parts: Int32Array, maxNorm: number, gradientScale = 1): Tensor {
    const { specs, gradients } = set as ReferenceParameters;
    const norms = new Float64Array(1 + Math.max(...parts));
    for (const [i, { offset, size }] of specs.entries()) {
      for (let j = offset; j < offset + size; j++) {
        gradients[j]! *= gradientScale;
        norms[parts[i]!]! += gradients[j]! ** 2;
      }
    }
    for (let p = 0; p < norms.length; p++) norms[p] = Math.sqrt(norms[p]!);
    for (const [i, { offset, size }] of specs.entries()) {
      const factor = maxNorm > 0 ? Math.min(1, maxNorm / (norms[parts[i]!]! + 1e-6)) : 1;
      for (let j = offset; j < offset + size; j++) gradients[j]! *= factor;
    }
    return leaf(norms, [norms.length]);
  }

  adamW(set: ParameterSet, state: AdamState, options: AdamWOptions): void {
    if (options.guard && !(options.guard as Node).data.every(Number.isFinite)) return;
    const { specs, values, gradients } = set as ReferenceParameters;
    const { m, v } = state as ReferenceAdam;
    const { beta1, beta2, epsilon, updateNumber, learningRates, weightDecays } = options;
    const correction1 = 1 - beta1 ** updateNumber;
    const correction2 = 1 - beta2 ** updateNumber;
    for (const [i, { offset, size }] of specs.entries()) {
      const lr = learningRates[i]!;
      const decay = 1 - lr * weightDecays[i]!;
      for (let j = offset; j < offset + size; j++) {
        const g = gradients[j]!;
        m[j] = beta1 * m[j]! + (1 - beta1) * g;
        v[j] = beta2 * v[j]! + (1 - beta2) * g * g;
        values[j] = values[j]! * decay - (lr * (m[j]! / correction1)) / (Math.sqrt(v[j]! / correction2) + epsilon);
      }
    }
  }

  emaUpdate(teacher: ParameterSet, student: ParameterSet, momentum: number, guard?: Tensor): void {
    if (guard && !(guard as Node).data.every(Number.isFinite)) return;
    const t = (teacher as ReferenceParameters).values;
    const s = (student as ReferenceParameters).values;
    must(t.length === s.length, 'emaUpdate', [t.length], [s.length]);
    for (let i = 0; i < t.length; i++) t[i] = t[i]! + (1 - momentum) * (s[i]! - t[i]!);
  }
}

/** For each row of a branch its row among all, and how much it counts there. */
function rowsOfSubset(subset: readonly GroupSubset[]): { row: number; scale: number }[] {
  const starts = subset.map((_, g) => subset.slice(0, g).reduce((sum, { samples, tokens }) => sum + samples * tokens, 0));
  return subset.flatMap(({ rows, tokens, scale }, g) =>
    Array.from({ length: rows.length * tokens }, (_, i) => ({
      row: starts[g]! + rows[Math.floor(i / tokens)]! * tokens + (i % tokens),
      scale,
    })),
  );
}

function rowNorms(x: Values, D: number): Float64Array {
  const norms = new Float64Array(x.length / D);
  for (let i = 0; i < x.length; i++) norms[Math.floor(i / D)]! += x[i]! ** 2;
  return norms.map(Math.sqrt);
}

/** Adds to dx the gradient through y = x / max(||x||, epsilon); below epsilon the divisor is a constant. */
function normalizeBackward(dx: Float64Array, dy: Float64Array, y: Float64Array, norms: Float64Array, D: number, epsilon: number): void {
  for (let r = 0; r < norms.length; r++) {
    let dot = 0;
    if (norms[r]! > epsilon) for (let d = 0; d < D; d++) dot += dy[r * D + d]! * y[r * D + d]!;
    const length = Math.max(norms[r]!, epsilon);
    for (let d = 0; d < D; d++) dx[r * D + d]! += (dy[r * D + d]! - y[r * D + d]! * dot) / length;
  }
}

/** Q (here transposed, [n,K]) as the paper has it: alternately normalised by prototype and by sample. */
function sinkhornKnopp(t: Float64Array, n: number, K: number, how: TargetKind & { kind: 'sinkhorn' }): Float64Array {
  let highest = -Infinity;
  for (const value of t) highest = Math.max(highest, value);
  const q = Float64Array.from(t, (value) => Math.exp((value - highest) / how.temperature)); // [n,K]
  let total = 0;
  for (const value of q) total += value;
  for (let i = 0; i < q.length; i++) q[i]! /= total;
  for (let it = 0; it < how.iterations; it++) {
    for (let k = 0; k < K; k++) {
      let sum = 0;
      for (let i = 0; i < n; i++) sum += q[i * K + k]!;
      for (let i = 0; i < n; i++) q[i * K + k]! /= sum * K;
    }
    for (let i = 0; i < n; i++) {
      let sum = 0;
      for (let k = 0; k < K; k++) sum += q[i * K + k]!;
      for (let k = 0; k < K; k++) q[i * K + k]! /= sum * n;
    }
  }
  return q.map((value) => value * n);
}

function centeredSoftmax(t: Float64Array, n: number, K: number, { temperature, center }: TargetKind & { kind: 'softmax' }): Float64Array {
  const c = center && of(center).data;
  must(!c || c.length === K, 'prototypeTargets', [n, K], center?.shape ?? []);
  const out = t.map((value, i) => (value - (c?.[i % K] ?? 0)) / temperature);
  for (let r = 0; r < n; r++) {
    const row = out.subarray(r * K, (r + 1) * K);
    let highest = -Infinity;
    for (const value of row) highest = Math.max(highest, value);
    let sum = 0;
    for (let k = 0; k < K; k++) sum += row[k] = Math.exp(row[k]! - highest);
    for (let k = 0; k < K; k++) row[k]! /= sum;
  }
  return out;
}
